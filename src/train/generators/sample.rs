//! Asks a generator for defects on goods.
//!
//! For each picture: a good, a mask, a window around the mask, conditions; the generator draws the crop; its pixels
//! are pasted where they differ from the good by more than [`VISIBLE`] grey values inside the mask, and everything else
//! stays as it is to the bit. The *label* is where that is: what the generator left alone is no defect.
//!
//! Masks ([`super::place`]): of a class of real defects those of the pictures whose captions and parameters are
//! nearest to what is asked for; where all is asked as the real ones are ([`Order::as_real`]), each one's own; of a
//! procedural family those of a procedural defect. Classes of too few real defects are pasted from their pictures
//! ([`transplant`]); no generator is asked.
//!
//! All chance of picture k follows from the seed and k.
//!
//! Never here: files; whether the defects look real.

use std::collections::BTreeMap;
use std::ops::ControlFlow;

use clap::ValueEnum as _;
use inspect_core::card::Input;
use rand::{RngExt as _, SeedableRng as _};
use tch::{Kind, Tensor};

use super::Generator;
use super::conditions::{ConditionError, Wish};
use super::crops::lit;
use super::known::Known;
use crate::batches::Symmetry;
use crate::data::Goods;
use crate::defects::{Ground, Random, Transplant, VISIBLE, transplant};
use crate::pose::{Pose, Window};

/// Most pictures of one call.
pub const MAX_COUNT: usize = 100_000;
/// Crops that are drawn together.
const CHUNK: usize = 8;
/// Attempts at a defect that can be seen.
pub(super) const ATTEMPTS: u64 = 6;
/// Picture k of seed s has the seed s + k, its n-th attempt 2 to the power of this, n times, more.
const ATTEMPT_BIT: u32 = 40;
/// Fewest pixels of a label.
pub(super) const MIN_SEEN_PX: usize = 2;
/// Sets the chance of places and masks apart from that of the network's noise.
const FOR_PLACES: u64 = 0x706c_6163_6573_0000;

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// What was asked for.
    #[error(transparent)]
    Condition(#[from] ConditionError),
    /// Too few real ones were learnt from, and there are none to paste.
    #[error(
        "class `{class}`: there were only {count} real defects of it, too few to learn from, and --data holds none with a mask that could be pasted; give the folder that the generator was fitted on"
    )]
    NothingToPaste {
        /// The class.
        class: String,
        /// How many there were.
        count: usize,
    },
    /// As real ones that are not there.
    #[error(
        "--as-real: there are no real defects with masks of {}; give their folder by --real",
        if classes.is_empty() { "any class that this generator has learnt".into() } else { format!("class {classes}") }
    )]
    LikeNone {
        /// Those that were asked for.
        classes: String,
    },
    /// Text or parameters for a class that is pasted.
    #[error(
        "class `{class}` is pasted from real defects, since there were only {count} of it; text and parameters mean nothing to it"
    )]
    PastedAsIs {
        /// The class.
        class: String,
        /// How many there were.
        count: usize,
    },
    /// Nothing can be seen.
    #[error(
        "none of the {tried} pictures shows a defect: the generator changes nothing by more than {VISIBLE} grey values; fit it for longer, or ask for another class"
    )]
    Invisible {
        /// Pictures.
        tried: usize,
    },
    /// Another kind.
    #[error(
        "--between needs a generator of kind vae, and this one is {kind}: only a vae has a latent to go along"
    )]
    NoLatent {
        /// What it is.
        kind: String,
    },
    /// A picture or a set cannot be written.
    #[error(transparent)]
    Write(#[from] super::write::WriteError),
}

/// What is asked for.
#[derive(Debug, Clone, Default)]
pub struct Order {
    /// Pictures.
    pub count: usize,
    /// Class, text and parameters of all of them; a missing class: all classes in turn.
    pub wish: Wish,
    /// Text, parameters and mask of the real defects of each class in turn, in place of those of `wish`.
    pub as_real: bool,
    /// Whether parameters beyond the range that was learnt from are allowed.
    pub extrapolate: bool,
    /// Seed of everything random.
    pub seed: u64,
}

/// One made picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Sampled {
    /// Class.
    pub class: String,
    /// What it was made to show; class, text and parameters as they were told.
    pub wish: Wish,
    /// The whole picture. Shape: `[S, S, C]`.
    pub picture: Vec<u8>,
    /// 255 where the picture can be seen to differ from its good, else 0. Shape: `[S, S]`.
    pub mask: Vec<u8>,
    /// Which good it was made on.
    pub good: usize,
    /// Seed of this picture alone.
    pub seed: u64,
}

/// Pictures that were drawn together.
pub struct Drawn {
    /// How many of the order have been drawn by now, those of which nothing can be seen among them.
    pub done: usize,
    /// In order.
    pub pictures: Vec<Sampled>,
}

/// Asks for the pictures from number `from` on ([`gone_on_from`] says where an earlier run left off); `take` gets them
/// in order and says whether to go on.
///
/// Errors: [`SampleError`], and those of `take`.
pub fn sample(
    generator: &Generator,
    goods: &Goods,
    known: &[Known],
    order: &Order,
    from: usize,
    take: &mut dyn FnMut(Drawn) -> Result<ControlFlow<()>, SampleError>,
) -> Result<(), SampleError> {
    let maker = Maker::new(generator, goods, known, order)?;
    let numbers: Vec<u64> = (from as u64..order.count.min(MAX_COUNT) as u64).collect();
    for chunk in numbers.chunks(CHUNK) {
        let plans: Vec<Plan> = chunk.iter().map(|&k| maker.plan(k, 0)).collect();
        let mut pictures = Vec::with_capacity(CHUNK);
        for (&k, first) in chunk.iter().zip(maker.draw(&plans)?) {
            let mut found = first;
            for attempt in 1..ATTEMPTS {
                if found.is_some() {
                    break;
                }
                found = maker.draw(&[maker.plan(k, attempt)])?.pop().flatten();
            }
            pictures.extend(found);
        }
        let done = chunk.last().map_or(0, |k| *k as usize + 1);
        if take(Drawn { done, pictures })?.is_break() {
            break;
        }
    }
    Ok(())
}

/// Number of the picture with that seed.
pub fn number_of(seed: u64, order: &Order) -> usize {
    (seed.wrapping_sub(order.seed) & ((1 << ATTEMPT_BIT) - 1)) as usize
}

/// Where to go on after picture number `last`: pictures that were drawn together are drawn together again, since a
/// network's last bits depend on what is drawn beside.
pub fn gone_on_from(last: usize) -> usize {
    last / CHUNK * CHUNK
}

/// What one picture is made of.
#[derive(Clone)]
pub(super) struct Plan {
    pub(super) class: String,
    pub(super) wish: Wish,
    pub(super) seed: u64,
    pub(super) good: usize,
    pub(super) window: Window,
    /// Where the defect may be. Shape: `[s, s]` of the window.
    pub(super) mask: Vec<f32>,
    /// Already made: pasted.
    pub(super) pasted: Option<Vec<f32>>,
}

/// Plans pictures and has the generator draw their crops.
pub(super) struct Maker<'a> {
    pub(super) generator: &'a Generator,
    pub(super) goods: &'a Goods,
    /// Class → its real defects.
    known: BTreeMap<&'a str, Vec<&'a Known>>,
    pub(super) order: &'a Order,
    classes: Vec<String>,
    pub(super) turns: Vec<u8>,
    pub(super) fixed: bool,
}

impl<'a> Maker<'a> {
    pub(super) fn new(
        generator: &'a Generator,
        goods: &'a Goods,
        known: &'a [Known],
        order: &'a Order,
    ) -> Result<Self, SampleError> {
        let header = &generator.header;
        let symmetry = Symmetry::from_str(&header.symmetry, true).unwrap_or(Symmetry::None);
        let turns = symmetry.turns(goods.mask.as_deref(), goods.input.width as usize);
        let mut by_class = BTreeMap::<&str, Vec<&Known>>::new();
        known.iter().for_each(|k| by_class.entry(&k.class).or_default().push(k));
        let told = order.wish.text.is_some() || !order.wish.process.is_empty();
        let classes = match &order.wish.class {
            Some(class) => {
                if let Some(&count) = header.pasted.get(class) {
                    let class = class.clone();
                    if told {
                        return Err(SampleError::PastedAsIs { class, count });
                    } else if !by_class.contains_key(class.as_str()) {
                        return Err(SampleError::NothingToPaste { class, count });
                    }
                }
                vec![class.clone()]
            }
            None if order.as_real => {
                let there = header.learnt.keys().filter(|c| by_class.contains_key(c.as_str()));
                there.cloned().collect()
            }
            None => {
                let pasted = header.pasted.keys().filter(|c| !told && by_class.contains_key(c.as_str()));
                let real: Vec<String> = header.learnt.keys().chain(pasted).cloned().collect();
                if real.is_empty() { header.catalogue.classes.clone() } else { real }
            }
        };
        let like_none = |class: &String| order.as_real && !by_class.contains_key(class.as_str());
        if order.as_real && (classes.is_empty() || classes.iter().any(like_none)) {
            return Err(SampleError::LikeNone { classes: classes.join(", ") });
        }
        let maker = Self {
            generator,
            goods,
            known: by_class,
            order,
            classes,
            turns,
            fixed: symmetry == Symmetry::None,
        };
        for class in maker.classes.iter().filter(|c| !header.pasted.contains_key(*c)) {
            let wishes = match maker.real(class).filter(|_| order.as_real) {
                Some(real) => real.iter().map(|k| k.wish.clone()).collect(),
                None => vec![maker.wish(class)],
            };
            header.catalogue.encode(&wishes, order.extrapolate)?;
        }
        Ok(maker)
    }

    fn wish(&self, class: &str) -> Wish {
        Wish { class: Some(class.to_owned()), ..self.order.wish.clone() }
    }

    /// The real defects of a class that was learnt.
    fn real(&self, class: &str) -> Option<&[&Known]> {
        let learnt = self.generator.header.learnt.contains_key(class);
        self.known.get(class).filter(|_| learnt).map(Vec::as_slice)
    }

    pub(super) fn crop(&self) -> usize {
        self.generator.header.crop.side as usize
    }

    pub(super) fn whole(&self) -> usize {
        self.goods.input.width as usize
    }

    /// Picture number `k`, the `attempt`-th time.
    pub(super) fn plan(&self, k: u64, attempt: u64) -> Plan {
        let seed = self.order.seed.wrapping_add(k).wrapping_add(attempt << ATTEMPT_BIT);
        let mut r = Random::seed_from_u64(seed ^ FOR_PLACES);
        let class = self.classes[k as usize % self.classes.len()].clone();
        let good = r.random_range(0..self.goods.pixels.len());
        let header = &self.generator.header;
        if header.pasted.contains_key(&class) {
            return self.pasted(&mut r, class, good, seed);
        }
        let mut wish = self.wish(&class);
        let (window, mask) = match self.real(&class) {
            Some(real) if self.order.as_real => {
                let like = real[k as usize / self.classes.len() % real.len()];
                wish = like.wish.clone();
                self.mask_of(&mut r, like, good)
            }
            Some(real) => self.real_mask(&mut r, real, good),
            None => self.procedural_mask(&mut r, &class, good),
        };
        let mask = self.where_it_matters(mask, window);
        Plan { wish, class, seed, good, window, mask, pasted: None }
    }

    /// A real defect on another good.
    fn pasted(&self, r: &mut Random, class: String, good: usize, seed: u64) -> Plan {
        let whole = self.whole();
        let window = Window { at: [0; 2], side: whole };
        let real = &self.known[class.as_str()];
        let chosen = real[r.random_range(0..real.len())];
        let input = self.goods.input;
        let [own, other] =
            [&self.goods.pixels[good], &chosen.pixels].map(|p| lit(p, input, &Pose::PLAIN, window));
        let matters = self.goods.mask.as_deref();
        let channels = usize::from(input.channels);
        let ground = Ground { good: &own, other: &other, side: whole, channels, matters };
        let join = if r.random_bool(0.5) { Transplant::Hard } else { Transplant::Seamless };
        let (picture, mask) = transplant(r, &ground, &chosen.mask, join)
            .unwrap_or_else(|| (own.clone(), vec![0.0; whole * whole]));
        let wish = Wish { class: Some(class.clone()), ..chosen.wish.clone() };
        Plan { class, wish, seed, good, window, mask, pasted: Some(picture) }
    }

    /// What the generator draws for the plans that are not pasted. Shape: each `[C, s, s]` of the window, 0 to 255.
    pub(super) fn crops(&self, plans: &[Plan]) -> Result<Vec<Vec<f32>>, SampleError> {
        let asked: Vec<&Plan> = plans.iter().filter(|p| p.pasted.is_none()).collect();
        let mut drawn = Vec::new();
        // Picture k of one call gets the noise of `seed + k`: only neighbours can go together.
        for run in asked.chunk_by(|a, b| a.seed.wrapping_add(1) == b.seed) {
            let wishes: Vec<Wish> = run.iter().map(|p| p.wish.clone()).collect();
            let conditions = self.generator.header.catalogue.encode(&wishes, self.order.extrapolate)?;
            let good = |p: &&Plan| lit(&self.goods.pixels[p.good], self.goods.input, &Pose::PLAIN, p.window);
            let goods: Vec<f32> = run.iter().flat_map(good).collect();
            let masks: Vec<f32> = run.iter().flat_map(|p| p.mask.iter().copied()).collect();
            let (n, side) = (run.len() as i64, self.crop() as i64);
            let good = Tensor::from_slice(&goods).view([n, -1, side, side]) / 255.0;
            let mask = Tensor::from_slice(&masks).view([n, 1, side, side]);
            let made = self.generator.network.sample(&good, &mask, &conditions, run[0].seed);
            drawn.extend(to_planes(&made));
        }
        Ok(drawn)
    }

    /// The plans' pictures; `None` where nothing can be seen.
    fn draw(&self, plans: &[Plan]) -> Result<Vec<Option<Sampled>>, SampleError> {
        let mut drawn = self.crops(plans)?.into_iter();
        let picture = |plan: &Plan| match &plan.pasted {
            Some(picture) => self.finished(plan, picture),
            None => drawn.next().and_then(|made| self.finished(plan, &made)),
        };
        Ok(plans.iter().map(picture).collect())
    }

    /// Pastes what was drawn and labels it; where nothing can be seen, the good stays as it is. Shape: `made`
    /// `[C, s, s]` of the window, 0 to 255.
    fn finished(&self, plan: &Plan, made: &[f32]) -> Option<Sampled> {
        let good = &self.goods.pixels[plan.good];
        let (mut picture, mask) = paste(good, self.goods.input, plan.window, &plan.mask, made);
        let channels = usize::from(self.goods.input.channels);
        let pixels = picture.chunks_exact_mut(channels).zip(good.chunks_exact(channels));
        for ((new, old), _) in pixels.zip(&mask).filter(|(_, m)| **m == 0) {
            new.copy_from_slice(old);
        }
        let seen = mask.iter().filter(|m| **m > 0).count();
        (seen >= MIN_SEEN_PX).then(|| Sampled {
            class: plan.class.clone(),
            wish: plan.wish.clone(),
            picture,
            mask,
            good: plan.good,
            seed: plan.seed,
        })
    }
}

/// Puts what was made in place of the good where the mask is, and labels what can be seen to have changed.
///
/// Shapes: `good` `[S, S, C]`, `mask` `[s, s]` and `made` `[C, s, s]` (0 to 255) of the window → picture
/// `[S, S, C]`, label `[S, S]` of 0 and 255.
pub fn paste(good: &[u8], input: Input, window: Window, mask: &[f32], made: &[f32]) -> (Vec<u8>, Vec<u8>) {
    let (whole, channels) = (input.width as usize, usize::from(input.channels));
    let (mut picture, mut label) = (good.to_vec(), vec![0; whole * whole]);
    let area = window.side * window.side;
    for (i, _) in mask.iter().enumerate().filter(|(_, m)| **m > 0.5) {
        let place = (window.at[1] + i / window.side) * whole + window.at[0] + i % window.side;
        let mut change = 0;
        for c in 0..channels {
            let own = &mut picture[place * channels + c];
            let new = made[c * area + i].round().clamp(0.0, 255.0) as u8; // NaN becomes 0
            change = change.max(own.abs_diff(new));
            *own = new;
        }
        label[place] = if f32::from(change) > VISIBLE { u8::MAX } else { 0 };
    }
    (picture, label)
}

/// Shape: `[N, C, S, S]`, 0..1 → N times `[C, S, S]`, 0 to 255.
pub(super) fn to_planes(made: &Tensor) -> Vec<Vec<f32>> {
    let made = (made.to_device(tch::Device::Cpu).to_kind(Kind::Float) * 255.0).contiguous();
    let each = |i: i64| Vec::try_from(made.get(i).reshape([-1])).unwrap_or_default();
    (0..made.size()[0]).map(each).collect()
}
