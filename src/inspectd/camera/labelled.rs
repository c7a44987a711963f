//! Simulated parts with everything that is known of them: class, mask, caption, process.
//!
//! Terms. The *twin* of a part with a defect is the same part without it: same pose, texture, light, noise, and
//! process where that acts on the whole part. The *mask* is white where the two pictures differ, by however
//! little. The *room* of a defect is the mask that it has at the feed at which a burr stands highest: the place
//! that it can take, which does not give the feed away.
//!
//! Good parts and parts with a defect are two series, each numbered from 0: part i of a series is the same
//! however many are taken. Classes take turns, and so do the words within each (see [`super::worded`]).
//!
//! Never here: files.

use inspect_core::image::{Image, ImageError};
use serde::{Deserialize, Serialize};

use super::defect::{Defect, Kind};
use super::part::{Made, Scene};
use super::process::{ActsOn, PARAMETERS, Process};
use super::simulated::{GOOD, SimulatedConfig};
use super::worded::Worded;

/// Shortest side on which words and laws can still be seen, pixels: on fewer, thin scratches fall between pixels.
pub const MIN_LABELLED_SIDE_PX: u32 = 96;

/// What a mask marks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Masks {
    /// Where the picture differs from that of the same part without its defect.
    #[default]
    Exact,
    /// The same with a burr as tall as the largest feed makes it: the place in which the feed can be chosen.
    Room,
}

/// Which labelled parts there are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LabelledConfig {
    /// What the masks mark.
    pub masks: Masks,
    /// Kinds of defects, at least one.
    pub classes: Vec<Kind>,
    /// The camera. How often a part has a defect is not asked of it.
    pub camera: SimulatedConfig,
}

/// What is known of a part but for the place of its defect.
#[derive(Debug, Clone, PartialEq)]
pub struct Label {
    /// "good" or the name of its defect.
    pub class: &'static str,
    /// What can be said of its defect; empty for a good part.
    pub caption: String,
    /// The process that can be seen in it, in the order of [`PARAMETERS`].
    pub process: Option<[f32; PARAMETERS.len()]>,
}

/// One part and what is known of it.
#[derive(Debug, Clone, PartialEq)]
pub struct LabelledPart {
    /// Class, caption, process.
    pub label: Label,
    /// Its picture.
    pub image: Image,
    /// White on black, of the picture's size; none of a good part.
    pub mask: Option<Image>,
    /// The twin's picture; none of a good part.
    pub twin: Option<Image>,
}

/// Renders labelled parts.
pub struct LabelledParts {
    config: LabelledConfig,
    scene: Scene,
}

impl LabelledParts {
    /// The parts of a configuration.
    ///
    /// Errors: every setting that cannot work, in words.
    pub fn new(config: &LabelledConfig) -> Result<Self, Vec<String>> {
        let camera = &config.camera;
        let mut errors = camera.check();
        if camera.width.min(camera.height) < MIN_LABELLED_SIDE_PX {
            errors.push(format!(
                "{}x{} pixels: expected sides of at least {MIN_LABELLED_SIDE_PX}, words and laws cannot be seen on fewer",
                camera.width, camera.height
            ));
        }
        if config.classes.is_empty() {
            errors.push("no class: expected at least one kind of defect".into());
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self { config: config.clone(), scene: Scene::new(camera.seed, camera.width, camera.height) })
    }

    /// Number of the part, which is all that its looks hang on.
    pub fn number(good: bool, index: u64) -> u64 {
        2 * index + u64::from(!good)
    }

    /// Class, caption and process of part `index` of the good ones or of those with a defect.
    pub fn label(&self, good: bool, index: u64) -> Label {
        self.made(good, index).label
    }

    /// Part `index` of the good ones or of those with a defect.
    ///
    /// Errors: [`ImageError`] if the sides are no image's.
    pub fn part(&self, good: bool, index: u64) -> Result<LabelledPart, ImageError> {
        let number = Self::number(good, index);
        let MadePart { label, defect, process } = self.made(good, index);
        let render = |defect, process| self.scene.render(number, Made { defect, process });
        let Some((plain, made)) = defect else {
            return Ok(LabelledPart {
                label,
                image: render(None, process.as_ref())?,
                mask: None,
                twin: None,
            });
        };
        let process = process.as_ref();
        let image = render(Some(&made), process)?;
        let twin = render(None, process.filter(|process| process.acts_on() == ActsOn::Part))?;
        let mut mask = differences(&image, &twin)?;
        if let (Masks::Room, Some(process)) = (self.config.masks, process) {
            let widest = plain.made_by(&process.at_full_feed());
            let room = differences(&render(Some(&widest), Some(process))?, &twin)?;
            mask.data_mut().iter_mut().zip(room.data()).for_each(|(mask, room)| *mask |= room);
        }
        Ok(LabelledPart { label, image, mask: Some(mask), twin: Some(twin) })
    }

    fn made(&self, good: bool, index: u64) -> MadePart {
        let (camera, number) = (&self.config.camera, Self::number(good, index));
        let process = camera.process(number);
        let seen = process.as_ref().filter(|process| !good || process.acts_on() == ActsOn::Part);
        let values = seen.map(Process::values);
        if good {
            let label = Label { class: GOOD, caption: String::new(), process: values };
            return MadePart { label, defect: None, process };
        }
        let Worded { defect, caption } = Worded::new(&self.config.classes, index, camera.seed, number);
        let label = Label { class: defect.kind().name(), caption, process: values };
        let made = process.iter().fold(defect.clone(), Defect::made_by);
        MadePart { label, defect: Some((defect, made)), process }
    }
}

/// What a part is rendered from.
struct MadePart {
    label: Label,
    /// As it was drawn, and as the process made it.
    defect: Option<(Defect, Defect)>,
    process: Option<Process>,
}

/// White where two pictures of the same size differ.
fn differences(a: &Image, b: &Image) -> Result<Image, ImageError> {
    let differ = |(a, b): (&u8, &u8)| if a == b { 0 } else { u8::MAX };
    Image::new(a.width(), a.height(), 1, a.data().iter().zip(b.data()).map(differ).collect())
}

#[cfg(test)]
#[path = "labelled_tests.rs"]
mod tests;
