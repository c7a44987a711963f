//! A folder of made pictures from start to end: drawn, stopped, gone on with.
//!
//! A run that was stopped, by Ctrl-C or by a power cut, goes on to the same pictures as one that was not: chance follows
//! from each picture's number, and what is left of the run is gone on with only by one that asks for the same.
//!
//! Never here: how a picture is made ([`super::sample`]); how it lies in the folder ([`super::write`]).

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use inspect_core::image::Roi;

use super::known::Found;
use super::sample::{MAX_COUNT, Order, SampleError, sample};
use super::write::{Set, check_out, count_whole};
use super::{Generator, Wish};
use crate::checkpoint::Identity;
use crate::data::Goods;
use crate::fit::seen;

/// What `OUT/order.json` calls the part of each picture that the generator sees, where that is not all of it.
pub const ORDER_ROI: &str = "--roi of the generator";

/// How this run began, how it is stopped, and who is told of it.
pub struct Run<'a> {
    /// Whether to go on with what an earlier run left.
    pub resume: bool,
    /// Set to end early with what there is.
    pub stop: &'a AtomicBool,
    /// Told how many of how many have been drawn, those of an earlier run among them.
    pub report: &'a mut dyn FnMut(usize, usize),
}

/// What a run has reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Filled {
    /// Pictures that are there.
    pub pictures: usize,
    /// How many have been drawn, those of which nothing can be seen among them.
    pub drawn: usize,
    /// Whether that is all; else the folder has the name of a part ([`crate::file::part_of`]).
    pub is_whole: bool,
}

/// Draws what is ordered into the folder `out`.
///
/// Errors: [`SampleError`]; then pictures that were drawn stay to be gone on with.
pub fn fill(
    generator: &Generator,
    goods: &Goods,
    found: &Found,
    order: &Order,
    out: &Path,
    run: Run,
) -> Result<Filled, SampleError> {
    check_out(out, run.resume)?;
    let order = &Order { count: order.count.min(MAX_COUNT), ..order.clone() };
    let asked = asked(generator, goods, found, order);
    if let Some(pictures) = count_whole(out, &asked)? {
        return Ok(Filled { pictures, drawn: order.count, is_whole: true });
    }
    let mut set = Set::open(generator, goods, order, out, &asked)?;
    let from = set.from();
    let mut drawn = from;
    (run.report)(drawn, order.count);
    sample(generator, goods, &found.defects, order, from, &mut |together| {
        set.add(&together.pictures)?;
        drawn = together.done;
        (run.report)(drawn, order.count);
        let is_stopped = run.stop.load(Ordering::Relaxed) && drawn < order.count;
        Ok(if is_stopped { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })?;
    if drawn < order.count {
        return Ok(Filled { pictures: set.stop(), drawn, is_whole: false });
    }
    match set.count() {
        0 => Err(SampleError::Invisible { tried: order.count }),
        _ => Ok(Filled { pictures: set.finish()?, drawn, is_whole: true }),
    }
}

/// All that the pictures follow from.
fn asked(generator: &Generator, goods: &Goods, found: &Found, order: &Order) -> Identity {
    // Taken apart, so that nothing new is forgotten here.
    let Order { count, wish: Wish { class, text, process }, as_real, extrapolate, seed } = order;
    let process: Vec<String> = process.iter().map(|(name, v)| format!("{name}={v}")).collect();
    let mut all = vec![
        ("--generator (SHA-256)", generator.sha256.clone()),
        ("goods as seen: order, lots, mask (SHA-256)", seen(goods)),
        ("real defects (SHA-256)", found.sha256.clone()),
        ("--count", count.to_string()),
        ("--seed", seed.to_string()),
        ("--class", class.clone().unwrap_or_default()),
        ("--text", text.clone().unwrap_or_default()),
        ("--set", process.join(",")),
        ("--as-real", as_real.to_string()),
        ("--extrapolate", extrapolate.to_string()),
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
    ];
    if let Some(Roi { x, y, width, height }) = generator.header.roi {
        all.push((ORDER_ROI, format!("{x},{y},{width},{height}")));
    }
    if let Some(how) = generator.network.how() {
        all.push(("--guidance", how.guidance.to_string()));
        all.push(("--draw-steps", how.steps.to_string()));
        all.push(("--strength", how.strength.to_string()));
    }
    all.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}
