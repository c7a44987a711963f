//! Everything that a judgement reads, before it computes anything.
//!
//! Never here: figures.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::PathBuf;

use inspect_core::card::Input;
use inspect_core::resize::Resizer;
use rand::SeedableRng;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;

use super::fits::Tests;
use super::sets::{self, Listed, Set};
use super::sizes::{Size, common};
use super::{JudgeError, Settings};
use crate::data::load::read;
use crate::data::{Goods, Look, MIN_GOODS, Picture, check_size, find_some, load as load_goods};
use crate::made::{self, MadeSet};
use crate::truth::{self, TestPicture, read_mask};

/// Every so manieth group of goods judges where test/good is missing.
const SPARED: usize = 4;

/// What was read.
pub struct Loaded {
    /// Size that pictures were brought to before crops were cut out of them.
    pub size: Size,
    /// Real defects.
    pub real: Set,
    /// What the generators were fitted on.
    pub trained: Option<Set>,
    /// Procedural ones, then the made sets.
    pub sets: Vec<Set>,
    /// What fits need; `None` without fits.
    pub material: Option<Material>,
    /// Things that the user should know.
    pub notes: Vec<String>,
}

/// What fits need.
pub struct Material {
    /// To learn from.
    pub goods: Goods,
    /// To be judged on.
    pub tests: Tests,
    /// The made sets at the model's size.
    pub sets: Vec<MadeSet>,
}

/// Reads all folders.
///
/// Errors: [`JudgeError`].
pub fn load(settings: &Settings) -> Result<Loaded, JudgeError> {
    check_size(settings.size)?;
    let real = sets::real(&settings.data)?;
    let trained = settings.trained_on.as_deref().map(sets::trained_on).transpose()?;
    let listed = settings.made.iter().map(sets::made).collect::<Result<Vec<_>, _>>()?;
    let fits = settings.seeds > 0;
    let goods = find_some(&settings.data, if fits { MIN_GOODS } else { 1 })?;
    let paths: Vec<(String, PathBuf)> = goods.iter().map(|p| (p.name.clone(), p.path.clone())).collect();
    let mut pictures = vec![paths.iter().map(|(_, path)| path.as_path()).collect::<Vec<_>>()];
    pictures.extend(std::iter::once(&real).chain(&trained).chain(&listed).map(Listed::pictures));
    let size = common(&pictures)?;
    let real = real.cut(size)?;
    let trained = trained.map(|set| set.cut(size)).transpose()?;
    if let Some(trained) = &trained {
        check_apart(trained, &real)?;
    }
    let made = listed.into_iter().map(|set| set.cut(size)).collect::<Result<Vec<_>, _>>()?;
    let count = made.iter().map(|set| set.crops.len()).max().unwrap_or(0).max(real.crops.len());
    let mut sets = vec![sets::procedural(&paths, count, size, settings.seed)?];
    sets.extend(made);
    let mut notes: Vec<String> = std::iter::once(&real)
        .chain(&trained)
        .chain(&sets)
        .flat_map(|set| set.notes.iter().cloned())
        .collect();
    let material = if fits { Some(material(settings, goods, &mut notes)?) } else { None };
    Ok(Loaded { size, real, trained, sets, material, notes })
}

/// The same crop on both sides would flatter every figure.
fn check_apart(trained: &Set, real: &Set) -> Result<(), JudgeError> {
    let known: HashMap<&[u8], &str> =
        trained.crops.iter().map(|c| (c.pixels.as_slice(), c.name.as_str())).collect();
    match real.crops.iter().find_map(|c| Some((known.get(c.pixels.as_slice())?, c))) {
        Some((trained, judged)) => {
            Err(JudgeError::Leak { trained: (*trained).to_owned(), judged: judged.name.clone() })
        }
        None => Ok(()),
    }
}

fn material(
    settings: &Settings,
    mut goods: Vec<Picture>,
    notes: &mut Vec<String>,
) -> Result<Material, JudgeError> {
    let truth = truth::find_some(&settings.data)?;
    notes.extend(truth.notes);
    let mut pictures = truth.pictures;
    let mut spared = Vec::new();
    if !pictures.iter().any(|p| p.labelled.good) {
        spared = spare(settings, &mut goods)?;
        notes.push(format!(
            "There is no test/good: {} of the goods in train/good were kept from the fits to judge by, whole groups.",
            spared.len()
        ));
    }
    let goods = load_goods(&goods, &Look::at(settings.size), &mut |_, _| {})?;
    notes.extend(goods.notes.iter().cloned());
    let mut tests = Tests { pixels: Vec::new(), classes: Vec::new(), groups: Vec::new(), masks: Vec::new() };
    let mut resizer = Resizer::default();
    let apart: HashSet<String> = spared.iter().map(|p| p.name.clone()).collect();
    for picture in spared {
        tests.add(&picture.path, None, picture.group, None, goods.input, &mut resizer)?;
    }
    for TestPicture { labelled, group, mask, .. } in pictures.drain(..) {
        let class = (!labelled.good).then_some(labelled.class);
        tests.add(&labelled.path, class, group, mask, goods.input, &mut resizer)?;
    }
    let mut sets = Vec::with_capacity(settings.made.len());
    for set in &settings.made {
        let (loaded, said) = made::load(set, goods.input, None, &apart)?;
        let lacking: BTreeSet<&str> =
            tests.names().into_iter().filter(|c| !loaded.defects.iter().any(|d| d.class == *c)).collect();
        if !lacking.is_empty() {
            let names: Vec<&str> = lacking.into_iter().collect();
            notes.push(format!("`{}` has no defects of the real class(es) {}.", set.name, names.join(", ")));
        }
        notes.extend(said);
        sets.push(loaded);
    }
    Ok(Material { goods, tests, sets })
}

/// Takes whole groups of goods away from the fits.
fn spare(settings: &Settings, goods: &mut Vec<Picture>) -> Result<Vec<Picture>, JudgeError> {
    let mut groups: Vec<String> =
        goods.iter().map(|p| p.group.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let (all, count) = (goods.len(), groups.len());
    groups.shuffle(&mut StdRng::seed_from_u64(settings.seed));
    groups.truncate(count / SPARED);
    let (spared, kept): (Vec<Picture>, Vec<Picture>) =
        goods.drain(..).partition(|p| groups.contains(&p.group));
    if spared.is_empty() || kept.len() < MIN_GOODS {
        return Err(JudgeError::NoGoods { path: settings.data.clone(), goods: all, groups: count });
    }
    *goods = kept;
    Ok(spared)
}

impl Tests {
    fn add(
        &mut self,
        path: &std::path::Path,
        class: Option<String>,
        group: String,
        mask: Option<PathBuf>,
        input: Input,
        resizer: &mut Resizer,
    ) -> Result<(), JudgeError> {
        let (image, _) = read(path).map_err(|reason| JudgeError::Picture { reason })?;
        let mut pixels = vec![0; input.bytes()];
        let named = |e| JudgeError::Picture { reason: format!("{}: {e}", path.display()) };
        resizer.run(&image, None, input, &mut pixels).map_err(named)?;
        let size = (image.width(), image.height());
        let mask = match mask {
            Some(mask) => Some(read_mask(&mask, path, size, None, input, resizer)?),
            None if class.is_none() => Some(Vec::new()),
            None => None,
        };
        self.pixels.push(pixels);
        self.classes.push(class);
        self.groups.push(group);
        self.masks.push(mask);
        Ok(())
    }
}
