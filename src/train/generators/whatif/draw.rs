//! Draws the tiles of a sweep.
//!
//! Never here: which values; files.

use super::super::known::Known;
use super::super::sample::{ATTEMPTS, MIN_SEEN_PX, Maker, Order, Plan, paste};
use super::super::{Generator, Wish};
use super::{Question, Sweep, WhatIfError};
use crate::data::Goods;
use crate::pose::Window;

/// One tile.
#[derive(Debug, Clone, PartialEq)]
pub struct Drawn {
    /// Which row, from 0.
    pub row: usize,
    /// Which of the sweep's steps.
    pub step: usize,
    /// The whole picture: outside of the mask the good to the bit. Shape: `[S, S, C]`.
    pub picture: Vec<u8>,
    /// 255 where the generator may paint, else 0; the same along a row. Shape: `[S, S]`.
    pub mask: Vec<u8>,
    /// 255 where the picture can be seen to differ from its good, else 0. Shape: `[S, S]`.
    pub changed: Vec<u8>,
    /// Which good it is drawn on.
    pub good: usize,
    /// The window that the generator drew.
    pub window: Window,
    /// Seed of the row.
    pub seed: u64,
}

/// Draws row by row, in a row by value; the tiles go to `take` in that order.
///
/// The masks are of defects that are near in text and in the fixed parameters, not in the swept one: one end of the
/// sweep would be favoured.
///
/// Errors: [`WhatIfError`], and those of `take`.
pub fn draw<E: From<WhatIfError>>(
    generator: &Generator,
    goods: &Goods,
    known: &[Known],
    (question, sweep): (&Question, &Sweep),
    take: &mut dyn FnMut(&Drawn) -> Result<(), E>,
) -> Result<(), E> {
    let process = sweep.fixed.clone();
    let wish = Wish { class: Some(sweep.class.clone()), text: sweep.text.clone(), process };
    let Question { rows: count, extrapolate, seed, .. } = *question;
    let order = Order { count, wish, extrapolate, seed, as_real: false };
    let maker = Maker::new(generator, goods, known, &order).map_err(WhatIfError::from)?;
    for row in 0..question.rows {
        let base = place(&maker, row, sweep)?;
        let plans: Vec<Plan> =
            sweep.steps.iter().map(|s| Plan { wish: sweep.wish(s.value), ..base.clone() }).collect();
        let whole = goods.input.width as usize;
        let mut mask = vec![0; whole * whole];
        for (i, _) in base.mask.iter().enumerate().filter(|(_, m)| **m > 0.5) {
            let Window { at, side } = base.window;
            mask[(at[1] + i / side) * whole + at[0] + i % side] = u8::MAX;
        }
        let crops = maker.crops(&plans).map_err(WhatIfError::from)?;
        for (step, crop) in crops.iter().enumerate() {
            let good = &goods.pixels[base.good];
            let (picture, changed) = paste(good, goods.input, base.window, &base.mask, crop);
            let Plan { good, window, seed, .. } = base;
            take(&Drawn { row, step, picture, mask: mask.clone(), changed, good, window, seed })?;
        }
    }
    Ok(())
}

/// Good, window, mask and seed of a row.
fn place(maker: &Maker, row: usize, sweep: &Sweep) -> Result<Plan, WhatIfError> {
    let plans = (0..ATTEMPTS).map(|attempt| maker.plan(row as u64, attempt));
    let has_room = |plan: &Plan| plan.mask.iter().filter(|m| **m > 0.5).count() >= MIN_SEEN_PX;
    let none = || WhatIfError::NoPlace { row: row + 1, class: sweep.class.clone() };
    plans.into_iter().find(has_room).ok_or_else(none)
}
