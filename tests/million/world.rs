//! What lies before the cameras: parts whose numbers stand in their pictures, what happens to each, and what its
//! verdict must be.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use inspect_core::image::Image;
use inspect_core::scorer::{Scorer, ScorerError};
use inspectd::camera::{Camera, CameraError, Frame, Life};
use inspectd::daemon::Seams;
use inspectd::plc::map::holding;
use inspectd::scoring::ScoringError;

use crate::{DEADLINE, stub};

/// What happens to a part; follows from its number alone.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Fate {
    Judged,
    /// Its score comes after the deadline.
    ScorerLate,
    ScorerFails,
    ScorerNan,
    /// Its frame comes after the deadline.
    CameraLate,
    NoFrame,
    Incomplete,
    Gap,
    /// The camera shows the part before, exposed before the trigger.
    Stale,
    /// The camera is gone, and is opened anew.
    Away,
}

/// SplitMix64's output function. Source: Steele, Lea and Flood 2014.
pub fn mixed(number: u64) -> u64 {
    let z = number.wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ z >> 31
}

/// A part: the `count`-th of its station. Its number stands in its picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Part {
    /// From 0.
    pub station: u64,
    /// From 1.
    pub count: u64,
}

impl Part {
    pub fn number(self) -> u64 {
        self.station << 48 | self.count
    }

    pub fn of(number: u64) -> Self {
        Self { station: number >> 48, count: number & ((1 << 48) - 1) }
    }

    pub fn fate(self) -> Fate {
        if self.count % 40_000 == 1_000 {
            return Fate::Away;
        }
        match mixed(self.number()) % 10_000 {
            0..=6 => Fate::ScorerLate,
            7..=9 => Fate::CameraLate,
            10..=39 => Fate::NoFrame,
            40..=59 => Fate::Incomplete,
            60..=69 => Fate::Gap,
            70..=89 => Fate::Stale,
            90..=99 => Fate::ScorerFails,
            100..=109 => Fate::ScorerNan,
            _ => Fate::Judged,
        }
    }

    /// A delay that harms nothing, of one part in 50.
    fn jitter(self) {
        if mixed(self.number() ^ 1).is_multiple_of(50) {
            std::thread::sleep(Duration::from_micros(mixed(self.number()) % 300));
        }
    }

    /// What the model says of it, and with it the verdict: a third of the parts each.
    pub fn score(self) -> f32 {
        let bits = mixed(self.number() ^ 2);
        let fraction = (bits >> 40) as f32 / (1u64 << 24) as f32; // 24 bits, less than 1
        (bits % 3) as f32 + 0.05 + 0.9 * fraction
    }

    pub fn verdict(self) -> u16 {
        self.score().ceil() as u16
    }

    pub fn id(self) -> u16 {
        (self.count % 65_535 + 1) as u16
    }

    pub fn serial(self) -> String {
        format!("station {} part {}", self.station, self.count)
    }

    pub fn encoder(self) -> u32 {
        mixed(self.number() ^ 3) as u32
    }

    /// One request that holds the part's identity and its trigger.
    pub fn request(self) -> Vec<u16> {
        let mut words = vec![0; usize::from(holding::SIZE)];
        words[usize::from(holding::TRIGGER_ID)] = self.id();
        words[usize::from(holding::PRODUCT)] = self.station as u16 + 1;
        let encoder = self.encoder();
        words[usize::from(holding::ENCODER)] = (encoder >> 16) as u16;
        words[usize::from(holding::ENCODER) + 1] = encoder as u16;
        for (word, pair) in
            words[usize::from(holding::SERIAL)..].iter_mut().zip(self.serial().as_bytes().chunks(2))
        {
            *word = u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]);
        }
        words
    }
}

/// What is true before one station's camera.
#[derive(Default)]
pub struct World {
    /// Number of the part that lies there.
    pub part: AtomicU64,
    /// Of the last part whose frame was asked for.
    pub asked: AtomicU64,
}

struct NumberCamera {
    world: Arc<World>,
    frames: u64,
}

impl Camera for NumberCamera {
    fn grab(&mut self, timeout: Duration) -> Result<Frame, CameraError> {
        let part = Part::of(self.world.part.load(Ordering::SeqCst));
        self.world.asked.store(part.number(), Ordering::SeqCst);
        let camera = || "number".to_owned();
        let mut exposed = Instant::now();
        let mut shown = part.number();
        part.jitter();
        self.frames += 1;
        match part.fate() {
            Fate::Away => {
                return Err(CameraError::Away { camera: camera(), reason: "unplugged by the test".into() });
            }
            Fate::NoFrame => return Err(CameraError::NoFrame { camera: camera(), timeout_ms: 0 }),
            Fate::Incomplete => {
                return Err(CameraError::Incomplete {
                    camera: camera(),
                    number: self.frames,
                    status: "by the test",
                });
            }
            Fate::Gap => {
                return Err(CameraError::Gap {
                    camera: camera(),
                    number: self.frames,
                    last: self.frames - 1,
                });
            }
            Fate::CameraLate => std::thread::sleep(timeout + Duration::from_millis(5)),
            Fate::Stale => {
                exposed -= DEADLINE * 100;
                shown -= 1;
            }
            _ => {}
        }
        let mut pixels = vec![0; 16];
        pixels[..8].copy_from_slice(&shown.to_le_bytes());
        let image = Image::new(4, 4, 1, pixels).unwrap();
        Ok(Frame { image, number: self.frames, exposed, path: None, truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}

/// Knows nothing but the pixels.
struct NumberScorer;

impl Scorer for NumberScorer {
    fn run(&mut self, input: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        maps.clear();
        maps.resize(4, 0.0);
        scores.clear();
        if input == [stub::GOLDEN_PIXEL; 16] {
            scores.push(stub::GOLDEN_SCORE);
            return Ok(());
        }
        let part = Part::of(u64::from_le_bytes(input[..8].try_into().unwrap()));
        part.jitter();
        match part.fate() {
            Fate::ScorerFails => return Err(ScorerError::Run("failed by the test".into())),
            Fate::ScorerLate => std::thread::sleep(DEADLINE * 3 / 2),
            _ => {}
        }
        scores.push(if part.fate() == Fate::ScorerNan { f32::NAN } else { part.score() });
        Ok(())
    }
}

pub fn seams(worlds: &[Arc<World>]) -> Seams {
    let worlds: BTreeMap<String, Arc<World>> =
        worlds.iter().enumerate().map(|(station, world)| (name(station as u64), Arc::clone(world))).collect();
    Seams {
        camera: Box::new(move |view| {
            let world = Arc::clone(&worlds[&view.name]);
            Box::new(move || {
                Ok(Box::new(NumberCamera { world: Arc::clone(&world), frames: 0 }) as Box<dyn Camera>)
            })
        }),
        scorer: Box::new(|_| Box::new(|| Ok::<_, ScoringError>(stub::loaded(Box::new(NumberScorer))))),
    }
}

pub fn name(station: u64) -> String {
    format!("s{station}")
}
