//! A camera that renders machined parts, some with a defect, and knows which.
//!
//! Frame `i` of a seed is always the same picture with the same truth. The picture may be ready before its
//! trigger; it counts as exposed at its grab, as the part of a real line lies there before it is looked at.
//!
//! Never here: how a part looks (see `part`), a frame for a part that was not asked for.

use std::time::{Duration, Instant};

use inspect_core::image::{Image, MAX_SIDE_PX};
use serde::{Deserialize, Serialize};

use super::defect::Defect;
use super::pace::{check_rate, no_frame};
use super::part::Scene;
use super::random::Random;
use super::{Camera, CameraError, Frame, Life, Pace};

/// Truth of a part without defect.
pub const GOOD: &str = "good";
/// Shortest side on which the part's defects can still be told from its texture, pixels.
const MIN_SIDE_PX: u32 = 32;
/// Longest side, pixels: rendering takes time with the square of it.
const MAX_RENDER_SIDE_PX: u32 = 4096;
/// Purpose of the random stream that says which parts have a defect.
const FOR_TRUTH: u64 = 6;

/// Settings of a simulated camera.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SimulatedConfig {
    /// Which parts come: part i of a seed is always the same.
    pub seed: u64,
    /// Width of the picture, pixels.
    pub width: u32,
    /// Height of the picture, pixels.
    pub height: u32,
    /// Share of parts with a defect, 0 to 1.
    pub defect_rate: f64,
    /// Frames a second by itself; absent: one for each trigger.
    pub rate_hz: Option<f64>,
    /// Fault injection: each n-th frame is lost on the way. For commissioning.
    pub lose_every: Option<u64>,
}

impl Default for SimulatedConfig {
    fn default() -> Self {
        Self { seed: 1, width: 256, height: 256, defect_rate: 0.1, rate_hz: None, lose_every: None }
    }
}

impl SimulatedConfig {
    /// Every setting that cannot work.
    pub(super) fn check(&self) -> Vec<String> {
        const { assert!(MAX_RENDER_SIDE_PX <= MAX_SIDE_PX) };
        let mut errors = Vec::new();
        let sides = MIN_SIDE_PX..=MAX_RENDER_SIDE_PX;
        for (name, side) in [("width", self.width), ("height", self.height)] {
            if !sides.contains(&side) {
                errors.push(format!("{name} = {side}: expected {MIN_SIDE_PX} to {MAX_RENDER_SIDE_PX} pixels"));
            }
        }
        if !(0.0..=1.0).contains(&self.defect_rate) {
            errors.push(format!("defect_rate = {}: expected a share of 0 to 1", self.defect_rate));
        }
        if self.lose_every == Some(0) {
            errors.push("lose_every = 0: expected 1 or more, or none to lose no frame".into());
        }
        errors.extend(check_rate(self.rate_hz));
        errors
    }

    /// The defect that part `number` has, if it has one.
    fn defect(&self, number: u64) -> Option<Defect> {
        let drawn = f64::from(Random::new(self.seed, number, FOR_TRUTH).unit());
        (drawn < self.defect_rate).then(|| Defect::of_part(self.seed, number))
    }
}

/// A camera that renders its parts.
pub struct SimulatedCamera {
    name: String,
    config: SimulatedConfig,
    scene: Scene,
    pace: Pace,
    /// Number of the next part.
    next: u64,
    /// The next part's picture and truth, if rendered ahead.
    ready: Option<(Image, &'static str)>,
}

impl SimulatedCamera {
    /// A camera whose first frame is part 0.
    ///
    /// Errors: [`CameraError::Away`] if its settings cannot work.
    pub fn open(name: &str, config: &SimulatedConfig) -> Result<Self, CameraError> {
        let errors = config.check();
        if !errors.is_empty() {
            return Err(CameraError::Away { camera: name.into(), reason: errors.join("; ") });
        }
        Ok(Self {
            name: name.into(),
            config: config.clone(),
            scene: Scene::new(config.seed, config.width, config.height),
            pace: Pace::new(config.rate_hz),
            next: 0,
            ready: None,
        })
    }

    /// The same camera with part `number` as its next.
    pub fn starting_at(mut self, number: u64) -> Self {
        self.next = number;
        self.ready = None;
        self
    }

    fn render(&self) -> Result<(Image, &'static str), CameraError> {
        let defect = self.config.defect(self.next);
        let truth = defect.as_ref().map_or(GOOD, |d| d.kind().name());
        let image = self
            .scene
            .render(self.next, defect.as_ref())
            .map_err(|source| CameraError::Image { camera: self.name.clone(), source })?;
        Ok((image, truth))
    }
}

impl Camera for SimulatedCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let started = Instant::now();
        let exposed = self.pace.wait(&self.name, timeout)?;
        let ready = self.ready.take();
        let (image, truth) = ready.map_or_else(|| self.render(), Ok)?;
        let number = self.next;
        self.next += 1;
        if self.config.lose_every.is_some_and(|every| self.next.is_multiple_of(every)) {
            std::thread::sleep(timeout.saturating_sub(started.elapsed()));
            return Err(no_frame(&self.name, timeout));
        }
        Ok(Frame { image, number, exposed, path: None, truth: Some(truth.into()) })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn prepare(&mut self) {
        if self.ready.is_none() {
            // An error comes again, and is told, at the next grab.
            self.ready = self.render().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[ignore = "writes contact sheets to look at, into SHEETS"]
    fn sheets() {
        use super::super::defect::Kind;
        let out = std::path::PathBuf::from(std::env::var("SHEETS").unwrap());
        let scene = Scene::new(1, 256, 256);
        let mut sheet = vec![0u8; 256 * 4 * 256 * 4];
        for k in 0..7u64 {
            for i in 0..16usize {
                let n = k * 100 + i as u64;
                let d = Kind::ALL.get(k as usize).map(|kind| Defect::new(*kind, 1, n));
                let image = scene.render(n, d.as_ref()).unwrap();
                for y in 0..256 {
                    let at = ((i / 4) * 256 + y) * 1024 + (i % 4) * 256;
                    sheet[at..at + 256].copy_from_slice(&image.data()[y * 256..(y + 1) * 256]);
                }
            }
            let name = Kind::ALL.get(k as usize).map_or("good", |k| k.name());
            Image::new(1024, 1024, 1, sheet.clone()).unwrap().write_png(&out.join(format!("{name}.png"))).unwrap();
        }
        let t = Instant::now();
        for n in 0..200 {
            let d = Defect::of_part(1, n);
            std::hint::black_box(scene.render(n, Some(&d)).unwrap());
        }
        println!("{:?} a part", t.elapsed() / 200);
    }
}
