//! What changed inside of the mask from step to step, in figures, and whether there is a trend.
//!
//! The *trend* of a measure is its rank correlation with the swept parameter (Spearman 1904), in each row by itself,
//! so that what differs between goods does not count. Steps beyond what was learnt from are left out. It says that
//! the generator's pictures follow the parameter, not by how much (see the first and last value), and not that
//! parts would; what real pictures of the class show stands beside, where there are some.
//!
//! Never here: which measure matters for a part.

use inspect_core::card::Input;
use inspect_core::image::{Image, ImageError};
use inspect_core::measure::{discolouration, roughness};
use serde::Serialize;

use super::super::crops::good_under;
use super::super::known::Known;
use super::super::near::NEAR;
use super::draw::Drawn;
use super::{Basis, Sweep};
use crate::data::Goods;
use crate::defects::VISIBLE;
use crate::metrics::ranks::spearman;

/// Names of the measures, in the order of [`Measures`].
///
/// `brightness`: mean grey level. `roughness`: [`inspect_core::measure::roughness`], grey levels. `discolouration`:
/// share by which it is darker than the good. `brighter`: share of the mask that can be seen to be brighter than the
/// good. `changed`: share of it that can be seen to differ from the good at all.
pub const NAMES: [&str; 5] = ["brightness", "roughness", "discolouration", "brighter", "changed"];
/// One value for each of [`NAMES`]; `None` where the mask is too small to measure it.
pub type Measures = [Option<f64>; NAMES.len()];
/// Beyond so many standard deviations a rank correlation is more than a shuffled order would show in 95 of 100.
const SURE: f64 = 1.96;

/// Measures a tile inside of its mask.
///
/// Errors: [`ImageError`] if the picture is not of the goods' shape.
pub fn measure(drawn: &Drawn, goods: &Goods) -> Result<Measures, ImageError> {
    measured(goods.input, &drawn.picture, &goods.pixels[drawn.good], &drawn.mask)
}

/// Shape: picture and good `[S, S, C]`, mask `[S, S]`, 0 outside.
fn measured(input: Input, picture: &[u8], good: &[u8], mask: &[u8]) -> Result<Measures, ImageError> {
    let image = |pixels: &[u8], channels| Image::new(input.width, input.height, channels, pixels.to_vec());
    let [shown, own] = [picture, good].map(|pixels| image(pixels, input.channels));
    let (shown, own, marked) = (shown?, own?, image(mask, 1)?);
    let share = |is: &dyn Fn(usize) -> bool| {
        let inside = || (0..mask.len()).filter(|i| mask[*i] > 0);
        let of = inside().count();
        (of > 0).then(|| inside().filter(|i| is(*i)).count() as f64 / of as f64)
    };
    let [grey, under] = [shown.with_channels(1)?, own.with_channels(1)?];
    let rise = |i: usize| f32::from(grey.data()[i]) - f32::from(under.data()[i]);
    let channels = usize::from(input.channels);
    let differs = |i: usize| {
        let of = |pixels: &[u8], c: usize| f32::from(pixels[i * channels + c]);
        (0..channels).any(|c| (of(picture, c) - of(good, c)).abs() > VISIBLE)
    };
    Ok([
        brightness(&shown, &marked)?,
        roughness(&shown, &marked),
        discolouration(&shown, &own, &marked),
        share(&|i| rise(i) > VISIBLE),
        share(&differs),
    ])
}

/// Mean grey level in the mask; `None` if it is empty.
fn brightness(picture: &Image, mask: &Image) -> Result<Option<f64>, ImageError> {
    let grey = picture.with_channels(1)?;
    let marked = grey.data().iter().zip(mask.data()).filter(|(_, m)| **m > 0);
    let levels: Vec<f64> = marked.map(|(level, _)| f64::from(*level)).collect();
    Ok(mean(&levels))
}

/// Mean; `None` of nothing.
pub fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

/// Which way a measure goes as the parameter grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// In every row, and more than chance would show.
    Rises,
    /// The same downwards.
    Falls,
    /// Neither, or too few tiles to say.
    Unclear,
}

impl std::fmt::Display for Direction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Direction::Rises => "rises",
            Direction::Falls => "falls",
            Direction::Unclear => "unclear",
        })
    }
}

impl Trend {
    /// Whether the generator shows a trend that real pictures were measured for and do not show: a network is
    /// smooth, and small changes that mean nothing have a high rank correlation too.
    pub fn is_alone(&self) -> bool {
        let told = self.direction != Direction::Unclear && self.real_rho.is_some();
        told && self.direction != self.real_direction
    }
}

/// A measure over the swept parameter.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Trend {
    /// One of [`NAMES`].
    pub measure: &'static str,
    /// Whether a trend is seen.
    pub direction: Direction,
    /// Mean of the rows' rank correlations, -1 to 1; `null` if none could be computed.
    pub rho: Option<f64>,
    /// The lowest of them.
    pub lowest: Option<f64>,
    /// The highest.
    pub highest: Option<f64>,
    /// Rows that have one: the others' tiles could not be measured, or do not differ.
    pub rows: usize,
    /// Tiles of a row, without those beyond what was learnt from. They are drawn on one good, so they are no parts.
    pub tiles: usize,
    /// Mean over the rows at the lowest value of them.
    pub from: Option<f64>,
    /// At the highest.
    pub to: Option<f64>,
    /// The rank correlation in real pictures of the class, in which all else differs too.
    pub real_rho: Option<f64>,
    /// Whether they show a trend.
    pub real_direction: Direction,
    /// Their mean near the lowest value, as [`NEAR`] has it.
    pub real_from: Option<f64>,
    /// Near the highest.
    pub real_to: Option<f64>,
    /// How many there are.
    pub real_pictures: usize,
}

/// The trends of tiles that were measured: `measured` holds a row's tiles one after the other, row by row.
pub fn trends(sweep: &Sweep, measured: &[Measures], known: &[Known], goods: &Goods) -> Vec<Trend> {
    let inside: Vec<usize> =
        (0..sweep.steps.len()).filter(|k| sweep.steps[*k].basis != Basis::Beyond).collect();
    let rows: Vec<&[Measures]> = measured.chunks(sweep.steps.len().max(1)).collect();
    let real = in_real(sweep, known, goods);
    NAMES
        .iter()
        .enumerate()
        .map(|(n, name)| {
            let of_row = |row: &&[Measures]| {
                let all = inside.iter().filter_map(|k| Some((sweep.steps[*k].value, row.get(*k)?[n]?)));
                let (x, y): (Vec<f64>, Vec<f64>) = all.unzip();
                spearman(&x, &y)
            };
            let rho: Vec<f64> = rows.iter().filter_map(of_row).collect();
            let at =
                |k: Option<&usize>| mean(&rows.iter().filter_map(|r| r.get(*k?)?[n]).collect::<Vec<_>>());
            let all = real.iter().filter_map(|(value, of)| Some((*value, of[n]?)));
            let (x, y): (Vec<f64>, Vec<f64>) = all.unzip();
            let near = |k: Option<&usize>| {
                let (value, reach) = (sweep.steps[*k?].value, NEAR * sweep.deviation);
                let close = x.iter().zip(&y).filter(|(x, _)| (**x - value).abs() <= reach);
                mean(&close.map(|(_, y)| *y).collect::<Vec<_>>())
            };
            let real_rho = spearman(&x, &y);
            Trend {
                measure: name,
                direction: direction(&rho, inside.len()),
                rho: mean(&rho),
                lowest: rho.iter().copied().min_by(f64::total_cmp),
                highest: rho.iter().copied().max_by(f64::total_cmp),
                rows: rho.len(),
                tiles: inside.len(),
                from: at(inside.first()),
                to: at(inside.last()),
                real_rho,
                real_direction: direction(real_rho.as_slice(), x.len()),
                real_from: near(inside.first()),
                real_to: near(inside.last()),
                real_pictures: x.len(),
            }
        })
        .collect()
}

/// Of a shuffled order the rank correlation has the variance 1 / (n - 1), and the rows are drawn independently.
fn direction(rho: &[f64], tiles: usize) -> Direction {
    let Some(mean) = mean(rho) else { return Direction::Unclear };
    let deviations = mean.abs() * (rho.len() as f64 * tiles.saturating_sub(1) as f64).sqrt();
    if deviations < SURE {
        Direction::Unclear
    } else if rho.iter().all(|r| *r > 0.0) {
        Direction::Rises
    } else if rho.iter().all(|r| *r < 0.0) {
        Direction::Falls
    } else {
        Direction::Unclear
    }
}

/// Value of the parameter and measures of each real picture of the class, against the good that lies under it as far
/// as can be told ([`good_under`]): nobody photographed these parts without their defects.
fn in_real(sweep: &Sweep, known: &[Known], goods: &Goods) -> Vec<(f64, Measures)> {
    let of_class = known.iter().filter(|k| k.class == sweep.class);
    let one = |real: &Known| {
        let value = *real.wish.process.get(&sweep.parameter)?;
        let mask: Vec<u8> = real.mask.iter().map(|m| if *m > 0.5 { u8::MAX } else { 0 }).collect();
        let of = measured(goods.input, &real.pixels, &good_under(goods, real), &mask).ok()?;
        Some((value, of))
    };
    of_class.filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trend_is_told_only_where_all_rows_agree_and_there_are_enough_tiles() {
        assert_eq!(direction(&[0.9, 0.8, 1.0], 7), Direction::Rises);
        assert_eq!(direction(&[-0.9, -0.8, -1.0], 7), Direction::Falls);
        assert_eq!(direction(&[1.0, 1.0, -0.1], 7), Direction::Unclear, "one row disagrees");
        assert_eq!(direction(&[0.3, 0.4, 0.5], 7), Direction::Unclear, "chance would do");
        assert_eq!(direction(&[1.0], 4), Direction::Unclear, "four tiles of one good");
        assert_eq!(direction(&[], 7), Direction::Unclear);
    }
}
