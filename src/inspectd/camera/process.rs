//! The process that made a simulated part: three parameters, each with one law that can be measured in pictures.
//!
//! | parameter       | range                   | law                                                            |
//! | --------------- | ----------------------- | -------------------------------------------------------------- |
//! | `wear`          | 0 to 1, of the tool     | roughness: grain of standard deviation 24 · `wear` grey levels |
//! | `feed_mm`       | 0.1 to 0.4 mm a turn    | height of burrs: `feed_mm` / 0.4 of what was drawn             |
//! | `temperature_c` | 20 to 220 °C            | discolouration: metal keeps 1 - 0.35 · (`temperature_c` - 20) / 200 of its shade |
//!
//! At wear 0, feed 0.4 and 20 °C the picture is the one without a process, bit by bit.
//!
//! Roughness and discolouration act on the turned surfaces of the whole part, or only where a defect is
//! ([`ActsOn`]). Why the second: what fills a hole in a picture can read the process off the metal around the
//! hole; whether it obeys the process that it was *told* shows only where the surroundings do not say it.
//!
//! A bright scratch is tinted as the metal under it is, so that it stays brighter than that at any temperature.
//!
//! [`inspect_core::measure`] measures them: over 100 pictures of 128 x 128 pixels each law comes out as stated. Of
//! one picture alone, in which all else varies, wear is known to 0.16 of its range and temperature to 0.1, both in
//! stains, and feed to 0.22 in the room of a burr (root mean square; see `labelled_tests.rs` for the calibration).
//!
//! Never here: random numbers that a part without process draws.

use serde::{Deserialize, Serialize};

use super::part::Point;
use super::random::{Random, mix, noise4};

/// Names of the parameters, in the order of [`Process::values`].
pub const PARAMETERS: [&str; 3] = ["wear", "feed_mm", "temperature_c"];
/// Lowest and highest value of each, in the same order.
pub const RANGES: [[f64; 2]; 3] = [[0.0, 1.0], [0.1, FEED_FULL_MM as f64], [COLD_C as f64, HOT_C as f64]];

/// Standard deviation of the grain that a worn-out tool leaves, grey levels before lighting.
pub(super) const GRAIN_FULL: f32 = 24.0;
/// Feed at which a burr stands as high as it was drawn, millimetres a turn.
const FEED_FULL_MM: f32 = 0.4;
/// Share of its shade that metal loses at the highest temperature.
pub(super) const TINT_FULL: f32 = 0.35;
/// Temperatures of no and of full discolouration, °C.
const COLD_C: f32 = 20.0;
const HOT_C: f32 = 220.0;
/// Least side of a grain, part units; a pixel that is larger has one grain.
const GRAIN_UNITS: f32 = 1.0;

/// Purposes of random streams.
const FOR_PROCESS: u64 = 32;
const FOR_GRAIN: u64 = 33;

/// Where roughness and discolouration are seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum ActsOn {
    /// On the turned surfaces of the whole part.
    #[default]
    Part,
    /// Where the defect is, and nowhere else.
    Defect,
}

/// Settings of the process: a parameter that is not fixed is drawn for each part, evenly over its range.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProcessConfig {
    /// Wear of the tool, 0 (new) to 1 (worn out).
    pub wear: Option<f64>,
    /// Feed, millimetres a turn.
    pub feed_mm: Option<f64>,
    /// Temperature of the cut, °C.
    pub temperature_c: Option<f64>,
    /// Where roughness and discolouration are seen.
    pub acts_on: ActsOn,
}

impl ProcessConfig {
    /// The fixed values, in the order of [`PARAMETERS`].
    fn fixed(&self) -> [Option<f64>; 3] {
        [self.wear, self.feed_mm, self.temperature_c]
    }

    /// Fixes the parameter `name`.
    ///
    /// Errors: what is wrong with the name, in words. The value is judged with all other settings.
    pub fn set(&mut self, name: &str, value: f64) -> Result<(), String> {
        let parameter = match name {
            "wear" => &mut self.wear,
            "feed_mm" => &mut self.feed_mm,
            "temperature_c" => &mut self.temperature_c,
            _ => return Err(format!("no parameter {name:?}: expected one of {}", PARAMETERS.join(", "))),
        };
        *parameter = Some(value);
        Ok(())
    }

    /// Every setting that cannot work.
    pub(super) fn check(&self) -> Vec<String> {
        let wrong = |((name, [low, high]), value): ((&str, [f64; 2]), Option<f64>)| {
            let value = value.filter(|value| !(low..=high).contains(value))?;
            Some(format!("process.{name} = {value}: expected {low:.3} to {high:.3}"))
        };
        PARAMETERS.into_iter().zip(RANGES).zip(self.fixed()).filter_map(wrong).collect()
    }
}

/// The process of one part.
#[derive(Debug, Clone, PartialEq)]
pub struct Process {
    /// In the order of [`PARAMETERS`].
    values: [f32; 3],
    acts_on: ActsOn,
    grain_seed: u64,
}

impl Process {
    /// The process of part `number` of a seed. A value is the same whether or not others are fixed.
    pub(super) fn of_part(config: &ProcessConfig, seed: u64, number: u64) -> Self {
        let mut random = Random::new(seed, number, FOR_PROCESS);
        let mut values = RANGES.map(|[low, high]| random.range(low as f32, high as f32));
        for (value, fixed) in values.iter_mut().zip(config.fixed()) {
            *value = fixed.map_or(*value, |fixed| fixed as f32);
        }
        Self { values, acts_on: config.acts_on, grain_seed: mix(seed ^ mix(number ^ mix(FOR_GRAIN))) }
    }

    /// The value of each parameter, in the order of [`PARAMETERS`].
    pub fn values(&self) -> [f32; 3] {
        self.values
    }

    /// The same part at the feed at which its burr stands highest.
    pub(super) fn at_full_feed(&self) -> Self {
        let [wear, _, temperature_c] = self.values;
        Self { values: [wear, FEED_FULL_MM, temperature_c], ..self.clone() }
    }

    pub(super) fn acts_on(&self) -> ActsOn {
        self.acts_on
    }

    /// Standard deviation of the grain, grey levels before lighting.
    fn grain(&self) -> f32 {
        GRAIN_FULL * self.values[0]
    }

    /// Height of a burr as a share of what was drawn.
    pub(super) fn burr_share(&self) -> f32 {
        self.values[1] / FEED_FULL_MM
    }

    /// Share of its shade that metal loses.
    fn tint(&self) -> f32 {
        TINT_FULL * (self.values[2] - COLD_C) / (HOT_C - COLD_C)
    }

    /// Shade of metal after the process. `tinted` is the shade of which the tint takes its share, `weight` how
    /// much of the process is seen here, 0 to 1.
    pub(super) fn finish(&self, p: &Point, shade: f32, tinted: f32, weight: f32, unit: f32) -> f32 {
        let cell = |at: f32| (at / unit.max(GRAIN_UNITS)).floor() as i64 as u64;
        let [grain, ..] = noise4(mix(cell(p.u) ^ mix(cell(p.v) ^ self.grain_seed)));
        shade + weight * (self.grain() * grain - self.tint() * tinted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_fill_their_ranges_and_a_fixed_one_changes_no_other() {
        let (free, mut fixed) = (ProcessConfig::default(), ProcessConfig::default());
        fixed.set("feed_mm", 0.25).unwrap();
        let (mut least, mut most) = ([f32::MAX; 3], [f32::MIN; 3]);
        for number in 0..500 {
            let [wear, feed, temperature] = Process::of_part(&free, 3, number).values();
            let drawn = Process::of_part(&fixed, 3, number).values();
            assert_eq!(drawn, [wear, 0.25, temperature]);
            for (i, value) in [wear, feed, temperature].into_iter().enumerate() {
                (least[i], most[i]) = (least[i].min(value), most[i].max(value));
            }
        }
        for (i, [low, high]) in RANGES.into_iter().enumerate() {
            let (low, high, room) = (low as f32, high as f32, 0.02 * (high - low) as f32);
            assert!((low..low + room).contains(&least[i]), "{}: {}", PARAMETERS[i], least[i]);
            assert!((high - room..=high).contains(&most[i]), "{}: {}", PARAMETERS[i], most[i]);
        }
    }

    #[test]
    fn a_value_out_of_range_or_no_number_or_an_unknown_name_is_told() {
        let mut config = ProcessConfig::default();
        assert!(config.check().is_empty());
        for (name, value) in [("wear", 1.5), ("feed_mm", f64::NAN), ("temperature_c", -3.0)] {
            config.set(name, value).unwrap();
        }
        let errors = config.check();
        assert_eq!(errors.len(), 3, "{errors:?}");
        assert!(
            errors[0].contains("process.wear = 1.5") && errors[0].contains("0.000 to 1.000"),
            "{errors:?}"
        );
        assert!(config.set("speed", 1.0).unwrap_err().contains("feed_mm"));
    }
}
