//! What a model was calibrated on, for whoever watches whether parts still are like that: the held-out goods' scores,
//! and what their pictures measure.
//!
//! Terms. The *reference* is of the held-out goods, in the model's input. *Brightness*: mean level, 0 to 255.
//! *Sharpness*: mean difference of neighbouring pixels as a share of the brightness, so that less light alone does not
//! change it. *Clipped*: share of the values at either end of the scale, which an exposure that is too long or too short
//! brings.
//!
//! Never here: what is still alike (the daemon's drift), thresholds.

use serde::{Deserialize, Serialize};

use crate::card::Input;

/// Most scores of a reference; of more goods it holds as many quantiles.
pub const MAX_REFERENCE_SCORES: usize = 200;
/// Most rows of a picture that are measured; of a higher one as many, evenly spread.
const MAX_ROWS: usize = 128;
/// Levels up to this, and from 255 less this on, count as clipped: a resized pixel is a mean.
const CLIPPED_LEVELS: u8 = 1;

/// What one picture measures, in the model's input.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PictureMeasures {
    /// Mean level, 0 to 255.
    pub brightness: f64,
    /// Mean difference of neighbouring pixels, as a share of the brightness.
    pub sharpness: f64,
    /// Share of values that are black or white, 0 to 1.
    pub clipped: f64,
}

impl PictureMeasures {
    /// Measures an input. Shape: `u8 [H, W, C]`. `None` if it is not as long as `input` says.
    pub fn of(pixels: &[u8], input: Input) -> Option<Self> {
        let channels = usize::from(input.channels);
        let row_bytes = input.width as usize * channels;
        if pixels.is_empty() || pixels.len() != input.bytes() {
            return None;
        }
        let (mut sum, mut clipped, mut values) = (0_u64, 0_u64, 0_u64);
        let (mut differences, mut pairs) = (0_u64, 0_u64);
        let apart = |a: &[u8], b: &[u8]| -> u32 {
            a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum() // a row has at most 12,288 values
        };
        let step = (input.height as usize).div_ceil(MAX_ROWS);
        let row_at = |n: usize| pixels.get(n * row_bytes..(n + 1) * row_bytes);
        for n in (0..input.height as usize).step_by(step) {
            let Some(row) = row_at(n) else { break };
            sum += u64::from(row.iter().map(|level| u32::from(*level)).sum::<u32>());
            let at_an_end = |level: &&u8| **level <= CLIPPED_LEVELS || **level >= u8::MAX - CLIPPED_LEVELS;
            clipped += row.iter().filter(at_an_end).count() as u64;
            values += row.len() as u64;
            differences += u64::from(apart(&row[channels..], row));
            pairs += (row.len() - channels) as u64;
            if let Some(below) = row_at(n + 1) {
                differences += u64::from(apart(below, row));
                pairs += below.len() as u64;
            }
        }
        let share = |part: u64, of: u64| part as f64 / of.max(1) as f64;
        let brightness = share(sum, values);
        Some(Self {
            brightness,
            sharpness: share(differences, pairs) / brightness.max(1.0),
            clipped: share(clipped, values),
        })
    }
}

/// Mean and standard deviation over pictures.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Standard deviation (n - 1); 0 of one picture.
    pub deviation: f64,
}

impl Spread {
    /// Of these values; what is not finite does not count. `None` of no values.
    pub fn of(values: impl Iterator<Item = f64> + Clone) -> Option<Self> {
        let finite = values.filter(|v| v.is_finite());
        let count = finite.clone().count();
        let mean = (count > 0).then(|| finite.clone().sum::<f64>() / count as f64)?;
        let squares = finite.map(|v| (v - mean).powi(2)).sum::<f64>();
        Some(Self { mean, deviation: (squares / count.saturating_sub(1).max(1) as f64).sqrt() })
    }

    fn is_sound(&self) -> bool {
        self.mean.is_finite() && self.deviation.is_finite() && self.deviation >= 0.0
    }
}

/// The held-out goods that the thresholds come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Reference {
    /// How many.
    pub goods: usize,
    /// Their scores in rising order; of more than [`MAX_REFERENCE_SCORES`] that many quantiles.
    pub scores: Vec<f32>,
    /// See [`PictureMeasures`].
    pub brightness: Spread,
    /// See [`PictureMeasures`].
    pub sharpness: Spread,
    /// See [`PictureMeasures`].
    pub clipped: Spread,
}

impl Reference {
    /// Of goods, each with its score and its pixels `u8 [H, W, C]`. `None` without goods whose score is finite.
    pub fn of<'a>(goods: impl IntoIterator<Item = (f32, &'a [u8])>, input: Input) -> Option<Self> {
        let (scores, measures): (Vec<f32>, Vec<PictureMeasures>) = goods
            .into_iter()
            .filter(|(score, _)| score.is_finite())
            .filter_map(|(score, pixels)| Some((score, PictureMeasures::of(pixels, input)?)))
            .unzip();
        Some(Self {
            goods: scores.len(),
            brightness: Spread::of(measures.iter().map(|m| m.brightness))?,
            sharpness: Spread::of(measures.iter().map(|m| m.sharpness))?,
            clipped: Spread::of(measures.iter().map(|m| m.clipped))?,
            scores: quantiles(scores),
        })
    }

    /// What is wrong with it, if anything: the field, what was expected.
    pub(crate) fn wrong(&self) -> Option<(&'static str, String)> {
        let Self { goods, scores, brightness, sharpness, clipped } = self;
        let rising = scores.windows(2).all(|pair| pair[0] <= pair[1]);
        if scores.is_empty()
            || scores.len() > MAX_REFERENCE_SCORES
            || scores.len() > *goods
            || !rising
            || scores.iter().any(|s| !s.is_finite())
        {
            let expected = format!("1 to {MAX_REFERENCE_SCORES} finite numbers that rise, of as many goods");
            return Some(("reference.scores", expected));
        }
        let spreads = [
            ("reference.brightness", brightness),
            ("reference.sharpness", sharpness),
            ("reference.clipped", clipped),
        ];
        let (field, _) = spreads.into_iter().find(|(_, spread)| !spread.is_sound())?;
        Some((field, "a finite mean, a finite deviation of at least 0".into()))
    }
}

/// The scores in rising order, or where they are more than [`MAX_REFERENCE_SCORES`] that many of them, evenly spread.
pub fn quantiles(mut scores: Vec<f32>) -> Vec<f32> {
    scores.sort_by(f32::total_cmp);
    let (count, most) = (scores.len(), MAX_REFERENCE_SCORES);
    if count <= most {
        return scores;
    }
    (0..most).map(|i| scores[(2 * i + 1) * count / (2 * most)]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: Input = Input { width: 64, height: 32, channels: 1 };

    fn picture(input: Input, level: impl Fn(usize, usize) -> f64) -> Vec<u8> {
        let (w, c) = (input.width as usize, usize::from(input.channels));
        (0..input.bytes()).map(|i| level(i / c % w, i / c / w).clamp(0.0, 255.0) as u8).collect()
    }

    #[test]
    fn measures_are_those_worked_out_by_hand() {
        // [10 20] beside: |20-10| = 10; [30 40]: 10; below: 20, 20. Mean 25.
        let small = Input { width: 2, height: 2, channels: 1 };
        let measured = PictureMeasures::of(&[10, 20, 30, 40], small).unwrap();
        assert_eq!(measured, PictureMeasures { brightness: 25.0, sharpness: 15.0 / 25.0, clipped: 0.0 });
        let ends = PictureMeasures::of(&[0, 255, 1, 128], small).unwrap();
        assert_eq!(ends.clipped, 0.75);
        let colour = Input { width: 2, height: 1, channels: 3 };
        let measured = PictureMeasures::of(&[10, 20, 30, 13, 20, 36], colour).unwrap();
        assert!((measured.sharpness - 3.0 / 21.5).abs() < 1e-12, "like channels are compared: {measured:?}");
        assert_eq!(PictureMeasures::of(&[0; 5], small), None);
    }

    #[test]
    fn less_light_changes_brightness_alone_and_a_blur_sharpness_alone() {
        for input in [INPUT, Input { width: 64, height: 700, channels: 3 }] {
            let lit =
                |share: f64| picture(input, |x, y| share * if x / 4 % 2 == y / 4 % 2 { 80.0 } else { 160.0 });
            let [usual, dark] = [1.0, 0.9].map(|share| PictureMeasures::of(&lit(share), input).unwrap());
            assert!((dark.brightness / usual.brightness - 0.9).abs() < 0.01, "{dark:?}");
            assert!((dark.sharpness / usual.sharpness - 1.0).abs() < 0.01, "{dark:?}");
            let wave = |at: usize| (at as f64 * std::f64::consts::FRAC_PI_4).sin();
            let soft = picture(input, |x, y| 120.0 + 20.0 * wave(x) * wave(y));
            let soft = PictureMeasures::of(&soft, input).unwrap();
            assert!((soft.brightness / usual.brightness - 1.0).abs() < 0.02, "{soft:?}");
            assert!(soft.sharpness < 0.8 * usual.sharpness, "{soft:?} {usual:?}");
        }
    }

    #[test]
    #[ignore = "prints what a picture's measures cost: cargo test --release -p inspect-core cost -- --ignored --nocapture"]
    fn cost_of_measuring() {
        for side in [256, 512, 1024] {
            let input = Input { width: side, height: side, channels: 1 };
            let pixels = picture(input, |x, y| ((x * 7 + y * 13) % 256) as f64);
            let start = std::time::Instant::now();
            let sum: f64 = (0..200)
                .filter_map(|_| PictureMeasures::of(std::hint::black_box(&pixels), input))
                .map(|m| m.brightness)
                .sum();
            println!("{side} x {side}: {} us ({sum})", start.elapsed().as_micros() / 200);
        }
    }

    #[test]
    fn a_reference_keeps_the_shape_of_many_scores_and_drops_what_is_no_number() {
        let pixels = picture(INPUT, |x, _| x as f64);
        let goods = (0..1000).map(|i| (999.0 - i as f32, pixels.as_slice()));
        let reference = Reference::of(goods.chain([(f32::NAN, pixels.as_slice())]), INPUT).unwrap();
        assert_eq!((reference.goods, reference.scores.len()), (1000, MAX_REFERENCE_SCORES));
        assert_eq!((reference.scores[0], reference.scores[100]), (2.0, 502.0));
        assert!(reference.brightness.deviation.abs() < 1e-9 && reference.wrong().is_none());
        assert_eq!(Reference::of([(f32::NAN, pixels.as_slice())], INPUT), None);
        let bad = Reference { scores: vec![2.0, 1.0], ..reference.clone() };
        assert!(bad.wrong().is_some());
        let bad = Reference { clipped: Spread { mean: f64::NAN, deviation: 0.0 }, ..reference };
        assert!(bad.wrong().is_some());
    }
}
