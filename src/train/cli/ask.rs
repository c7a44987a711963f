//! What every question to a generator needs: its file, goods, real defects for their masks, class, text, seed, and
//! how it draws.
//!
//! Never here: what is asked of it.

use std::path::PathBuf;

use clap::Args;
use inspect_train::data::{self, Colour, Goods, Look};
use inspect_train::generators::diffusion::{How, MAX_DRAW_STEPS};
use inspect_train::generators::known::{self, Found};
use inspect_train::generators::{Generator, Kind, file};

use super::fit::{DeviceKind, device};
use super::pictures::progress;

/// Fewest goods that defects are made on.
const MIN_GOODS: usize = 1;

#[derive(Args)]
pub struct AskArgs {
    /// The generator file
    #[arg(long, value_name = "FILE")]
    generator: PathBuf,
    /// Folder with the goods (train/good) and, for their masks, the real defects that it learnt from
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder of the real defects, as for `defects fit`; default: --data
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,
    /// Class; default: of `sample` all classes in turn, of `whatif` that of which most pictures had the parameters
    #[arg(long, value_name = "C")]
    pub class: Option<String>,
    /// What they should show, in words of the captions
    #[arg(long, value_name = "TEXT")]
    pub text: Option<String>,
    /// Allow parameters beyond the range that was learnt from: what comes out is a guess
    #[arg(long)]
    pub extrapolate: bool,
    /// Another seed makes other pictures
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Ignore what is black in this picture, as for `fit`: nothing is made there
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Kind diffusion: how much plainer than the pictures it learnt from it shows what is asked; 1: as they are;
    /// more goes too far with what is a number, such as wear [default: 2.5, of `whatif` 1]
    #[arg(long, value_name = "F", value_parser = in_range::<0, 10>)]
    guidance: Option<f64>,
    /// Kind diffusion: steps of a picture, 1 to 250; 25 to 50 are usual [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=MAX_DRAW_STEPS))]
    draw_steps: Option<i64>,
    /// Kind diffusion: how much of the good under the mask is forgotten; 1: all; 0.3 to 0.9: its structure shows
    /// through [default: 1]
    #[arg(long, value_name = "F", value_parser = in_range::<0, 1>)]
    strength: Option<f64>,
    /// Where it is asked
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
}

/// A number from LOW to HIGH.
fn in_range<const LOW: u8, const HIGH: u8>(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.trim().parse().ok();
    let is_in = |v: &f64| (f64::from(LOW)..=f64::from(HIGH)).contains(v);
    value.filter(is_in).ok_or_else(|| format!("expected a number from {LOW} to {HIGH}"))
}

impl AskArgs {
    /// The generator, told how to draw; `usual`: where nothing else is said. Errors: another kind was told how.
    pub fn generator(&self, usual: How) -> anyhow::Result<Generator> {
        let mut generator = file::read(&self.generator, device(self.device)?)?;
        let how = How {
            steps: self.draw_steps.unwrap_or(usual.steps),
            guidance: self.guidance.unwrap_or(usual.guidance),
            strength: self.strength.unwrap_or(usual.strength),
        };
        let told = self.draw_steps.is_some() || self.guidance.is_some() || self.strength.is_some();
        anyhow::ensure!(
            generator.network.draw_by(how) || !told,
            "--guidance, --draw-steps and --strength are for generators of kind diffusion; this one is of kind {}",
            generator.header.kind
        );
        Ok(generator)
    }

    /// The goods as the generator saw them, and the real defects.
    pub fn pictures(&self, generator: &Generator) -> anyhow::Result<(Goods, Found)> {
        let header = &generator.header;
        let pictures = data::find_some(&self.data, MIN_GOODS)?;
        let colour = if header.crop.channels == 1 { Colour::Grey } else { Colour::Rgb };
        let look = Look { size: header.size_px, roi: header.roi, colour, mask: self.mask.clone() };
        let goods = data::load(&pictures, &look, &mut progress("reading pictures"))?;
        for note in &goods.notes {
            eprintln!("note: {note}");
        }
        let real = self.real.as_ref().unwrap_or(&self.data);
        let has_real = self.real.is_some() || self.data.join("test").is_dir();
        let mut found =
            if has_real { known::find(real, goods.input, goods.roi, false)? } else { Found::default() };
        let learnt_from = header.settings.get("real defects (SHA-256)").is_some_and(|s| *s == found.sha256);
        if !learnt_from && !found.defects.is_empty() {
            eprintln!(
                "note: the real defects in {} are not those that this generator learnt from (--real gives their folder): \
                 only their masks are used. Never judge a set by defects whose masks it has",
                real.display()
            );
            found.defects.retain(|d| !header.pasted.contains_key(&d.class));
        }
        Ok((goods, found))
    }

    /// What the user should know before looking at the pictures.
    pub fn say_what_is_known(&self, generator: &Generator, found: &Found) {
        if self.text.is_some() && generator.header.kind == Kind::Gan {
            eprintln!("note: a generator of kind gan has no ear for --text: it only chooses the masks");
        }
        say_what_is_known(generator, found);
    }
}

/// What the user should know of a generator that is about to be asked.
pub fn say_what_is_known(generator: &Generator, found: &Found) {
    let header = &generator.header;
    if header.of != Some(header.steps) {
        eprintln!("note: this generator's fit was stopped early, after {} steps", header.steps);
    }
    if !header.learnt.is_empty() && found.defects.is_empty() {
        eprintln!(
            "note: no real defects there, so their masks cannot be used: procedural shapes are used instead"
        );
    }
}
