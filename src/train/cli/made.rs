//! `fit --defects`: made defects to mix in, out of folders and of generators.
//!
//! Never here: what they are worth; how they are mixed in.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use inspect_train::data::Goods;
use inspect_train::fit::{Settings, fitting_goods};
use inspect_train::generators::known::{Found, KnownError};
use inspect_train::generators::{Generator, Wish, file, folder, known};
use inspect_train::made::{self, MadeSet, Named};
use inspect_train::threads::Threads;

use super::ask::say_what_is_known;
use super::generators::{say_of_wish, say_unseen};
use super::pictures::progress;
use super::stop::{STOPPED, Stop};

/// Where made defects come from and go to.
pub struct Sources<'a> {
    /// Folders and generators.
    pub sets: &'a [Named],
    /// Defects that each generator draws.
    pub count: usize,
    /// Folder of real defects: masks for generators, and what is pasted.
    pub real: Option<&'a Path>,
    /// The model file; what is drawn lies beside it until the fit is done.
    pub model: &'a Path,
}

/// Loads the sets of generators, lets generators draw theirs, and says what the user should know of them.
pub fn made_defects(
    sources: &Sources,
    goods: &Goods,
    settings: &Settings,
    stop: &Stop,
) -> anyhow::Result<Vec<MadeSet>> {
    // All that can be wrong is told before the first of them draws.
    let mut generators = Vec::with_capacity(sources.sets.len());
    for set in sources.sets {
        let generator = set.path.is_file().then(|| file::read(&set.path, settings.device)).transpose()?;
        if let Some(generator) = &generator {
            made::check(set, generator, goods, settings.symmetry)?;
        }
        generators.push(generator);
    }
    let found = match sources.real {
        Some(dir) if generators.iter().any(Option::is_some) => real(dir, goods)?,
        _ => Found::default(),
    };
    let mut all = Vec::with_capacity(sources.sets.len());
    let mut apart: HashSet<String> = goods.names.iter().cloned().collect();
    if !sources.sets.is_empty() {
        fitting_goods(goods, settings)?.names.iter().for_each(|name| _ = apart.remove(name));
    }
    for (set, generator) in sources.sets.iter().zip(&generators) {
        let drawn = match generator {
            Some(generator) => Some(draw(sources, set, generator, &found, goods, settings, stop)?),
            None => None,
        };
        let folder = Named { path: drawn.unwrap_or_else(|| set.path.clone()), ..set.clone() };
        let (loaded, notes) = made::load(&folder, goods.input, goods.roi, &apart)?;
        eprintln!("{} made defects of `{}` from {}", loaded.defects.len(), set.name, set.path.display());
        for note in notes {
            eprintln!("note: {note}");
        }
        all.push(loaded);
    }
    Ok(all)
}

/// Removes what generators have drawn for a fit that is done.
pub fn remove_drawn(sets: &[Named], model: &Path) -> anyhow::Result<()> {
    for path in sets.iter().filter(|set| set.path.is_file()).map(|set| made::path_of(model, &set.name)) {
        std::fs::remove_dir_all(&path).with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

/// Real defects with masks; those without are of no use to a generator.
fn real(dir: &Path, goods: &Goods) -> anyhow::Result<Found> {
    match known::find(dir, goods.input, goods.roi, false) {
        Err(KnownError::NoMasks { .. }) => Ok(Found::default()),
        found => {
            let found = found?;
            found.notes.iter().for_each(|note| eprintln!("note: --defects: {note}"));
            Ok(found)
        }
    }
}

/// Lets a generator draw on the goods that are fitted on. Returns the folder.
fn draw(
    sources: &Sources,
    set: &Named,
    generator: &Generator,
    found: &Found,
    goods: &Goods,
    settings: &Settings,
    stop: &Stop,
) -> anyhow::Result<PathBuf> {
    let (name, start) = (&set.name, Instant::now());
    eprintln!("`{name}` ({}) draws {} defects", set.path.display(), sources.count);
    say_what_is_known(generator, found);
    say_of_wish(generator, found, &Wish::default());
    if generator.header.settings.get("goods (SHA-256)") == Some(&goods.sha256) {
        eprintln!(
            "note: `{name}` was fitted on all of these goods, those that set the limit among them; it draws on the \
             others alone"
        );
    }
    let _ = Threads::new(settings.threads); // sets libtorch's, on which the last bits of a picture depend
    let order = made::order(generator, settings.seed, sources.count);
    let out = made::path_of(sources.model, name);
    let mut told = progress("drawing defects");
    let run = folder::Run { resume: true, stop: &stop.asked, report: &mut told };
    let filled = folder::fill(generator, &fitting_goods(goods, settings)?, found, &order, &out, run)
        .with_context(|| format!("made defects `{name}`"))?;
    if !filled.is_whole {
        eprintln!(
            "stopped: {} of {} defects of `{name}` are drawn; the same command goes on",
            filled.drawn, sources.count
        );
        std::process::exit(STOPPED);
    }
    say_unseen(&filled);
    eprintln!("`{name}` has drawn {} defects, {:.0} s", filled.pictures, start.elapsed().as_secs_f64());
    Ok(out)
}
