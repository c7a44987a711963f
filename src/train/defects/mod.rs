//! Made defects: what the network learns to see where no real defects are at hand.
//!
//! A *family* is a kind of defect; [`make`] puts one of a family on a good. Places, sizes (small ones more
//! often), contrast and opacity are random, faint ones among them. The *mask* is exact: a pixel is marked
//! where, and only where, it differs from the good by more than [`VISIBLE`].
//!
//! Why so many families: how real a made defect looks hardly matters, that they vary does (Zavrtanik et al.
//! 2021, table 3); missing and moved parts are what texture alone does not teach.
//!
//! [`canvas`] keeps the work inside a box, [`place`] finds places on the part, [`shape`] gives outlines,
//! [`texture`] fillings, [`poisson`] seamless joins; the families are in [`surface`], [`lines`], [`relief`]
//! and [`pieces`]. [`transplant`] puts a real defect on another good.
//!
//! Never here: the test split; which goods, how they lie and how they are lit ([`crate::batches`]).

mod canvas;
mod lines;
mod noise;
mod pieces;
mod place;
mod poisson;
mod relief;
mod shape;
mod surface;
mod texture;
mod transplant;

#[cfg(test)]
mod tests;

use rand::RngExt;

pub use noise::Random;
pub use transplant::{Transplant, heal, transplant};

use canvas::Canvas;
use noise::pick;
use place::Survey;

/// A pixel that changed by no more than this in every channel looks as before, grey values of 255.
pub const VISIBLE: f32 = 5.0;
/// Attempts at a defect that can be seen.
const ATTEMPTS: usize = 12;
/// Most channels of a picture.
const MAX_CHANNELS: usize = 3;
/// Smallest defect on a picture of 128 pixels, pixels; it grows with the root of the side.
const LEAST_PX: f32 = 1.5;

/// A kind of made defect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Family {
    /// An uneven patch: liquid, oil, burn, discolouring
    Stain,
    /// A thin line, or a few side by side
    Scratch,
    /// A jagged line that branches
    Crack,
    /// Pits with light and dark walls: blowholes, pores
    Pit,
    /// A dent or bump, wide and smooth
    Dent,
    /// Specks, drops, fibres
    Spot,
    /// A wiped place
    Smear,
    /// A region that shows the background or its surroundings
    Missing,
    /// A piece of a good where none belongs
    Extra,
    /// A region moved by some pixels
    Misplaced,
    /// A rectangle or scar cut out of a good, with hard edges
    Paste,
    /// A piece from elsewhere without a seam
    Blend,
}

impl Family {
    /// Every family.
    pub const ALL: [Family; 12] = [
        Family::Stain,
        Family::Scratch,
        Family::Crack,
        Family::Pit,
        Family::Dent,
        Family::Spot,
        Family::Smear,
        Family::Missing,
        Family::Extra,
        Family::Misplaced,
        Family::Paste,
        Family::Blend,
    ];
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Family::Stain => "stain",
            Family::Scratch => "scratch",
            Family::Crack => "crack",
            Family::Pit => "pit",
            Family::Dent => "dent",
            Family::Spot => "spot",
            Family::Smear => "smear",
            Family::Missing => "missing",
            Family::Extra => "extra",
            Family::Misplaced => "misplaced",
            Family::Paste => "paste",
            Family::Blend => "blend",
        })
    }
}

/// What a defect is made from.
#[derive(Clone, Copy)]
pub struct Ground<'a> {
    /// The good that becomes damaged. Shape: `[C, S, S]`, 0 to 255.
    pub good: &'a [f32],
    /// Another good (or the same), for textures and pieces. Shape: `[C, S, S]`.
    pub other: &'a [f32],
    /// S.
    pub side: usize,
    /// C: 1 or 3.
    pub channels: usize,
    /// Where the part matters: nothing is damaged where this is under 0.5. Shape: `[S, S]`.
    pub matters: Option<&'a [f32]>,
}

/// A damaged good.
pub struct Defect {
    /// Shape: `[C, S, S]`, 0 to 255.
    pub picture: Vec<f32>,
    /// 1 where the picture can be seen to differ from the good, else 0. Shape: `[S, S]`.
    pub mask: Vec<f32>,
    /// What it is.
    pub family: Family,
}

/// Makes one defect of one of the families (all of them where `families` is empty).
///
/// What cannot be seen is tried again, up to 12 times, each time with a family drawn anew. After that the
/// good comes back as it was, with an empty mask: a blank picture has nothing that could be misplaced.
pub fn make(r: &mut Random, ground: &Ground, families: &[Family]) -> Defect {
    let families = if families.is_empty() { &Family::ALL[..] } else { families };
    let survey = Survey::new(r, ground);
    let mut canvas = Canvas::new(*ground);
    let mut mask = vec![0.0; ground.side * ground.side];
    let mut family = families[0];
    for _ in 0..ATTEMPTS {
        family = pick(r, families);
        let damage = match family {
            Family::Stain => surface::stain,
            Family::Scratch => lines::scratch,
            Family::Crack => lines::crack,
            Family::Pit => relief::pit,
            Family::Dent => relief::dent,
            Family::Spot => surface::spot,
            Family::Smear => surface::smear,
            Family::Missing => pieces::missing,
            Family::Extra => pieces::extra,
            Family::Misplaced => pieces::misplaced,
            Family::Paste => pieces::paste,
            Family::Blend => pieces::blend,
        };
        damage(r, &mut canvas, &survey);
        if canvas.label(&mut mask).stands_out(survey.roughness) {
            return Defect { picture: canvas.picture, mask, family };
        }
        mask.fill(0.0);
        canvas.restore();
    }
    Defect { picture: canvas.picture, mask, family }
}

/// Full three times in ten, else anything from faint on: random opacity does more than augmented textures in
/// DRAEM's ablation (Zavrtanik et al. 2021, table 3).
fn opacity(r: &mut Random) -> f32 {
    if r.random_bool(0.3) { 1.0 } else { r.random_range(0.15..1.0) }
}

/// Diameter of the smallest defects, pixels.
fn least_px(side: usize) -> f32 {
    (LEAST_PX * (side as f32 / 128.0).sqrt()).max(1.2)
}
