//! `inspect-train defects fit` and `defects sample`: generators of defects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use inspect_core::card::Input;
use inspect_train::batches::Symmetry;
use inspect_train::data::{self, Colour, Goods, Look};
use inspect_train::defects::Family;
use inspect_train::file::part_of;
use inspect_train::generators::diffusion::{How, MAX_DRAW_STEPS};
use inspect_train::generators::fit::Settings;
use inspect_train::generators::known::{Found, Known, LEAST_TO_LEARN};
use inspect_train::generators::sample::{MAX_COUNT, Order};
use inspect_train::generators::write::check_out;
use inspect_train::generators::{
    Generator, Kind, Stage, Wish, between, file, fit as generator_fit, folder, known,
};
use inspect_train::learn::{Budget, MAX_STEPS, Progress, Run};
use inspect_train::sheet::{Row, Tile, draw, resized};
use inspect_train::{checkpoint, export};

use super::fit::{DeviceKind, NOTHING_WRITTEN, Show, check_checkpoint, device};
use super::pictures::{PictureArgs, check_png, progress, write_png};
use super::stop::{STOPPED, Words, on_ctrl_c};

/// Fewest goods that a sample is made on.
const MIN_SAMPLE_GOODS: usize = 1;
/// Side of a picture of a strip, pixels.
const STRIP_PX: u32 = 128;
/// Most pictures of a strip.
const MAX_STRIP: usize = 24;

/// Fit a generator: a network that makes defects on crops of good pictures
///
/// It learns from procedural defects first (those of `defects preview`), then from real ones with masks, of which
/// there must be 5 of a class; fewer are pasted by `defects sample` instead, and nothing is learnt from them. Captions
/// and process parameters come from DIR/manifest.csv: column `caption`, and every further column of numbers.
/// Never fit on pictures that the result is judged by: `inspect-train split --real N` sets real defects apart.
#[derive(Args)]
pub struct GeneratorArgs {
    #[command(flatten)]
    pictures: PictureArgs,
    /// How the generator is built
    #[arg(long, value_enum)]
    kind: Kind,
    /// The generator file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Folder of the real defects: test/CLASS or CLASS below it, masks in ground_truth/CLASS; default: --data
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,
    /// Learn from procedural defects alone
    #[arg(long, conflicts_with = "real")]
    no_real: bool,
    /// Stop after so many minutes in all (default 10)
    #[arg(long, conflicts_with = "steps", value_name = "N")]
    minutes: Option<f64>,
    /// Stop after so many steps instead; same steps, seed and --threads: same generator
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_STEPS))]
    steps: Option<u64>,
    /// Side of the crops, pixels of the picture at --size: a multiple of 16
    #[arg(long, default_value_t = 64, value_name = "PX")]
    side: u32,
    /// Channels at the finest level, a multiple of 8; default: that of the kind
    #[arg(long, value_name = "N")]
    width: Option<i64>,
    /// Crops a step; default: that of the kind
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    batch: Option<u16>,
    /// Seed of everything random
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How the part may lie in front of the camera, as for `fit`
    #[arg(long, value_enum, default_value_t = Symmetry::None)]
    symmetry: Symmetry,
    /// Only these families of procedural defects; default: all
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAMILY")]
    family: Vec<Family>,
    /// Go on with the stopped fit of the same --out, to the same generator as if it had not been stopped
    #[arg(long)]
    resume: bool,
    /// Seconds between checkpoints
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    checkpoint_s: u64,
    /// Where it learns; cuda needs an inspect-train that was built against libtorch for CUDA
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
    /// Threads; default: all cores, or one while that is faster because others use them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Make defects on good pictures with a generator, in the MVTec AD layout
///
/// Outside of the mask each picture is its good to the bit, at the size that the generator was fitted at; the
/// mask marks what can be seen to have changed. OUT/manifest.csv names seed, generator and good of each, OUT/sheet.png
/// shows some. What a generator is worth is not known before it is judged.
#[derive(Args)]
pub struct SampleArgs {
    /// The generator file
    #[arg(long, value_name = "FILE")]
    generator: PathBuf,
    /// Folder with the goods (train/good) and, for their masks, the real defects that it learnt from
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Folder of the real defects, as for `defects fit`; default: --data
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,
    /// The folder to write, new or empty; with --between the PNG file
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Pictures
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT as i64))]
    count: u32,
    /// Class; default: all classes in turn
    #[arg(long, value_name = "C")]
    class: Option<String>,
    /// What they should show, in words of the captions
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
    /// A process parameter, such as wear=0.7; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    set: Vec<(String, f64)>,
    /// Allow parameters beyond the range that was learnt from: what comes out is a guess
    #[arg(long)]
    extrapolate: bool,
    /// Another seed makes other pictures
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Go on with the stopped run of the same --out (it is in OUT.part), to the same pictures as if it had not been
    /// stopped
    #[arg(long, conflicts_with = "between")]
    resume: bool,
    /// Ignore what is black in this picture, as for `fit`: nothing is made there
    #[arg(long, value_name = "FILE")]
    mask: Option<PathBuf>,
    /// Kind diffusion: how much plainer than the pictures it learnt from it shows what is asked; 1: as they are;
    /// more goes too far with what is a number, such as wear [default: 1.5]
    #[arg(long, value_name = "F", value_parser = in_range::<0, 10>)]
    guidance: Option<f64>,
    /// Kind diffusion: steps of a picture, 1 to 250; 25 to 50 are usual [default: 30]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=MAX_DRAW_STEPS))]
    draw_steps: Option<i64>,
    /// Kind diffusion: how much of the good under the mask is forgotten; 1: all; 0.3 to 0.9: its structure shows
    /// through [default: 1]
    #[arg(long, value_name = "F", value_parser = in_range::<0, 1>)]
    strength: Option<f64>,
    /// A strip from one real defect to another: two names below --real or --data (kind vae)
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["class", "text", "set"])]
    between: Vec<String>,
    /// Where it is asked
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
}

/// "wear=0.7"
fn parameter(text: &str) -> Result<(String, f64), String> {
    let expected = || "expected NAME=VALUE with a finite number, such as wear=0.7".to_owned();
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let value: f64 = value.trim().parse().map_err(|_| expected())?;
    if name.trim().is_empty() || !value.is_finite() {
        Err(expected())
    } else {
        Ok((name.trim().into(), value))
    }
}

/// A number from LOW to HIGH.
fn in_range<const LOW: u8, const HIGH: u8>(text: &str) -> Result<f64, String> {
    let value: Option<f64> = text.trim().parse().ok();
    let is_in = |v: &f64| (f64::from(LOW)..=f64::from(HIGH)).contains(v);
    value.filter(is_in).ok_or_else(|| format!("expected a number from {LOW} to {HIGH}"))
}

/// Tells a diffusion model how to draw. Errors: another kind was told.
fn draw_by(args: &SampleArgs, generator: &mut Generator) -> anyhow::Result<()> {
    let usual = How::default();
    let how = How {
        steps: args.draw_steps.unwrap_or(usual.steps),
        guidance: args.guidance.unwrap_or(usual.guidance),
        strength: args.strength.unwrap_or(usual.strength),
    };
    let told = args.draw_steps.is_some() || args.guidance.is_some() || args.strength.is_some();
    anyhow::ensure!(
        generator.network.draw_by(how) || !told,
        "--guidance, --draw-steps and --strength are for generators of kind diffusion; this one is of kind {}",
        generator.header.kind
    );
    Ok(())
}

/// Runs `defects fit`.
pub fn fit(args: &GeneratorArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let settings = settings(args)?;
    export::check_writable(&args.out)?;
    let checkpoint = checkpoint::path_of(&args.out);
    check_checkpoint(&checkpoint, args.resume)?;
    let goods = args.pictures.load()?;
    let found = if args.no_real { Found::default() } else { real(args, &goods)? };
    let stop = on_ctrl_c(Words { first: "writing what there is", second: NOTHING_WRITTEN })?;
    let mut show = Show::new();
    let mut report = |p: &Progress<generator_fit::Step>| {
        show.tell(p, |(stage, losses)| {
            let on = if *stage == Stage::Real { "real" } else { "procedural" };
            format!("{on} defects, {losses}")
        });
    };
    let run = Run { start, stop: &stop.asked, report: &mut report };
    let fitted = generator_fit::fit(&goods, &found, &settings, run)?;
    show.bar.finish_and_clear();
    let header = &fitted.header;
    let done = header.of == Some(header.steps);
    let stopped = if done { "" } else { " (stopped early; --resume goes on from here)" };
    stop.writing.store(true, Ordering::Relaxed);
    let sha256 = file::write(&args.out, header, &fitted.network)?;
    if done {
        std::fs::remove_file(&checkpoint)
            .with_context(|| format!("cannot remove {}", checkpoint.display()))?;
    }
    println!(
        "{}: {} steps{stopped}, SHA-256 {}, {:.0} s",
        args.out.display(),
        header.steps,
        &sha256[..12],
        start.elapsed().as_secs_f64()
    );
    println!("whether it is worth anything is not known before it is judged on real defects");
    Ok(())
}

fn settings(args: &GeneratorArgs) -> anyhow::Result<Settings> {
    let minutes = args.minutes.unwrap_or(10.0);
    anyhow::ensure!(
        minutes > 0.0 && minutes <= 60.0 * 24.0 * 7.0,
        "--minutes {minutes}: expected more than 0 and at most a week"
    );
    let width = args.width.unwrap_or(args.kind.width());
    anyhow::ensure!(
        file::WIDTHS.contains(&width) && width % 8 == 0,
        "--width {width}: expected a multiple of 8 from {} to {}",
        file::WIDTHS.start(),
        file::WIDTHS.end()
    );
    let budget = match args.steps {
        Some(steps) => Budget::Steps(steps),
        None => Budget::Time(Duration::from_secs_f64(minutes * 60.0)),
    };
    Ok(Settings {
        budget,
        side: args.side,
        width,
        batch: args.batch.map_or(args.kind.batch(), usize::from),
        seed: args.seed,
        symmetry: args.symmetry,
        families: args.family.clone(),
        threads: args.threads.map(usize::from),
        device: device(args.device)?,
        checkpoint: Some(checkpoint::path_of(&args.out)),
        checkpoint_every: Duration::from_secs(args.checkpoint_s),
        ..Settings::of(args.kind)
    })
}

/// Loads the real defects, and says what becomes of them.
fn real(args: &GeneratorArgs, goods: &Goods) -> anyhow::Result<Found> {
    let found = match &args.real {
        Some(dir) => known::find(dir, goods.input, goods.roi, true)?,
        // A plain folder of goods holds no defects: its subfolders are lots.
        None if !args.pictures.data.join("test").is_dir() => Found::default(),
        None => known::find(&args.pictures.data, goods.input, goods.roi, false)?,
    };
    for note in &found.notes {
        eprintln!("note: {note}");
    }
    if found.defects.is_empty() {
        eprintln!("note: no real defects, so it learns from procedural ones alone");
    }
    for (class, count) in found.counts() {
        if count < LEAST_TO_LEARN {
            eprintln!(
                "note: class {class}: {count} real defects are too few to learn from ({LEAST_TO_LEARN} are needed); \
                 `defects sample` pastes them instead"
            );
        } else {
            eprintln!("class {class}: {count} real defects to learn from");
        }
    }
    Ok(found)
}

/// Runs `defects sample`.
pub fn sample(args: &SampleArgs) -> anyhow::Result<()> {
    if args.between.is_empty() {
        check_out(&args.out, args.resume)?;
    } else {
        check_png(&args.out)?;
    }
    let mut generator = file::read(&args.generator, device(args.device)?)?;
    draw_by(args, &mut generator)?;
    let goods = goods(args, &generator)?;
    let real = args.real.as_ref().unwrap_or(&args.data);
    let has_real = args.real.is_some() || args.data.join("test").is_dir();
    let found = if has_real { known::find(real, goods.input, goods.roi, false)? } else { Found::default() };
    if let [a, b] = &args.between[..] {
        return strip(args, &generator, &goods, &found.defects, [a, b]);
    }
    let process: BTreeMap<String, f64> = args.set.iter().cloned().collect();
    anyhow::ensure!(process.len() == args.set.len(), "--set: one parameter is given twice");
    let wish = Wish { class: args.class.clone(), text: args.text.clone(), process };
    say_what_is_known(&generator, &found, &wish);
    let order = Order { count: args.count as usize, wish, extrapolate: args.extrapolate, seed: args.seed };
    let words = Words { first: "after the pictures that are being drawn", second: "--resume goes on" };
    let stop = on_ctrl_c(words)?;
    let mut told = progress("drawing defects");
    let run = folder::Run { resume: args.resume, stop: &stop.asked, report: &mut told };
    let filled = folder::fill(&generator, &goods, &found, &order, &args.out, run)?;
    if !filled.is_whole {
        let (part, drawn) = (part_of(&args.out), filled.drawn);
        eprintln!("stopped: {drawn} of {} are drawn, in {}; --resume goes on", args.count, part.display());
        std::process::exit(STOPPED);
    }
    say_unseen(&filled);
    println!("{}: {} pictures, see {}/sheet.png", args.out.display(), filled.pictures, args.out.display());
    Ok(())
}

/// Says how many pictures were left out.
pub fn say_unseen(filled: &folder::Filled) {
    let unseen = filled.drawn - filled.pictures.min(filled.drawn);
    if unseen > 0 {
        eprintln!(
            "note: {unseen} of {} pictures show nothing that could be seen, and are left out",
            filled.drawn
        );
    }
}

/// What the user should know before looking at the pictures.
pub fn say_what_is_known(generator: &Generator, found: &Found, wish: &Wish) {
    let header = &generator.header;
    if header.of != Some(header.steps) {
        eprintln!("note: this generator's fit was stopped early, after {} steps", header.steps);
    }
    if !header.learnt.is_empty() && found.defects.is_empty() {
        eprintln!(
            "note: no real defects there, so their masks cannot be used: procedural shapes are used instead"
        );
    }
    let asked = |class: &&String| wish.class.as_ref().is_none_or(|c| c == *class);
    let known = found.counts();
    for class in header.pasted.keys().filter(asked) {
        if known.contains_key(class) {
            eprintln!("note: class {class}: real defects are pasted, the generator has not learnt it");
        } else {
            eprintln!(
                "note: class {class}: nothing is made of it; the generator has not learnt it, and there are no real \
                 defects with masks to paste (--real gives their folder)"
            );
        }
    }
    if let Some(distance) = header.catalogue.distance(wish) {
        eprintln!(
            "the parameters lie {distance:.2} standard deviations from the nearest picture that was learnt from"
        );
    }
}

/// The goods as the generator saw them.
fn goods(args: &SampleArgs, generator: &Generator) -> anyhow::Result<Goods> {
    let header = &generator.header;
    let pictures = data::find_some(&args.data, MIN_SAMPLE_GOODS)?;
    let colour = if header.crop.channels == 1 { Colour::Grey } else { Colour::Rgb };
    let look = Look { size: header.size_px, roi: header.roi, colour, mask: args.mask.clone() };
    let goods = data::load(&pictures, &look, &mut progress("reading pictures"))?;
    for note in &goods.notes {
        eprintln!("note: {note}");
    }
    Ok(goods)
}

/// Writes the way from one real defect to another.
fn strip(
    args: &SampleArgs,
    generator: &Generator,
    goods: &Goods,
    known: &[Known],
    ends: [&String; 2],
) -> anyhow::Result<()> {
    let find = |name: &String| {
        let shown = || known.iter().take(3).map(|k| k.name.as_str()).collect::<Vec<_>>().join(", ");
        let end = known.iter().find(|k| k.name == *name || Path::new(name).ends_with(&k.name));
        end.with_context(|| {
            format!("--between {name}: is no real defect with a mask; there are such as {}", shown())
        })
    };
    let ends = [find(ends[0])?, find(ends[1])?];
    let count = (args.count as usize).clamp(2, MAX_STRIP);
    let crops = between::between(generator, goods, ends, count)?;
    let side = generator.header.crop.side as u32;
    let input = Input { width: side, height: side, channels: goods.input.channels };
    let last = crops.len() - 1;
    let mut tiles = Vec::with_capacity(crops.len());
    for (k, crop) in crops.iter().enumerate() {
        let caption = match k {
            0 => vec![ends[0].name.clone()],
            k if k == last => vec![ends[1].name.clone()],
            k => vec![format!("{:.2}", k as f64 / last as f64)],
        };
        tiles.push(Tile { pixels: resized(crop, input, STRIP_PX)?, caption, framed: false });
    }
    write_png(&draw(&[Row { label: String::new(), tiles }], STRIP_PX as usize)?, &args.out)?;
    println!("{}: {count} pictures, drawn on the good under the first", args.out.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_is_a_name_and_a_finite_number() {
        assert_eq!(parameter("wear = 0.7"), Ok(("wear".into(), 0.7)));
        for bad in ["wear", "=1", "wear=", "wear=much", "wear=inf", "wear=NaN"] {
            assert!(parameter(bad).is_err_and(|e| e.contains("NAME=VALUE")), "{bad}");
        }
    }
}
