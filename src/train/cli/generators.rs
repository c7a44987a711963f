//! `inspect-train defects fit` and `defects sample`: generators of defects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use inspect_core::card::Input;
use inspect_train::batches::Symmetry;
use inspect_train::data::Goods;
use inspect_train::defects::Family;
use inspect_train::generators::diffusion::How;
use inspect_train::generators::fit::{Run, Settings};
use inspect_train::generators::known::{Found, Known, LEAST_TO_LEARN};
use inspect_train::generators::sample::{MAX_COUNT, Order, SampleError};
use inspect_train::generators::write::{Set, check_out};
use inspect_train::generators::{
    Generator, Kind, Stage, Wish, between, file, fit as generator_fit, known, sample as ask,
};
use inspect_train::learn::{Budget, MAX_STEPS};
use inspect_train::sheet::{Row, Tile, draw, resized};
use inspect_train::{checkpoint, export};

use super::ask::AskArgs;
use super::fit::{DeviceKind, Show, check_checkpoint, device, stop_on_ctrl_c};
use super::pictures::{PictureArgs, check_png, write_png};

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
    #[command(flatten)]
    ask: AskArgs,
    /// The folder to write, new or empty; with --between the PNG file
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Pictures
    #[arg(long, default_value_t = 16, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=MAX_COUNT as i64))]
    count: u32,
    /// A process parameter, such as wear=0.7; may be given several times
    #[arg(long, value_name = "NAME=VALUE", value_parser = parameter)]
    set: Vec<(String, f64)>,
    /// Ask for what is said of the real defects, of each class one after the other: captions, parameters and masks
    ///
    /// What is asked is then in OUT/manifest.csv, and `defects judge` says whether it was obeyed. Give real defects
    /// that the generator was not fitted on.
    #[arg(long, conflicts_with_all = ["text", "set", "between"])]
    as_real: bool,
    /// A strip from one real defect to another: two names below --real or --data (kind vae)
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with_all = ["class", "text", "set"])]
    between: Vec<String>,
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

/// Runs `defects fit`.
pub fn fit(args: &GeneratorArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let settings = settings(args)?;
    export::check_writable(&args.out)?;
    let checkpoint = checkpoint::path_of(&args.out);
    check_checkpoint(&checkpoint, args.resume)?;
    let goods = args.pictures.load()?;
    let found = if args.no_real { Found::default() } else { real(args, &goods)? };
    let stop = Arc::new(AtomicBool::new(false));
    let writing = Arc::new(AtomicBool::new(false));
    stop_on_ctrl_c(stop.clone(), writing.clone(), "writing what there is")?;
    let mut show = Show::new();
    let mut report = |p: &generator_fit::Report| {
        let on = if p.stage == Stage::Real { "real" } else { "procedural" };
        show.tell(p.step, p.of, p.since_start, p.elapsed, || format!("{on} defects, {}", p.losses));
    };
    let run = Run { start, stop: &stop, report: &mut report };
    let fitted = generator_fit::fit(&goods, &found, &settings, run)?;
    show.bar.finish_and_clear();
    let header = &fitted.header;
    let done = header.of == Some(header.steps);
    let stopped = if done { "" } else { " (stopped early; --resume goes on from here)" };
    writing.store(true, Ordering::Relaxed);
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
        check_out(&args.out)?;
    } else {
        check_png(&args.out)?;
    }
    let generator = args.ask.generator(How::default())?;
    let (goods, found) = args.ask.pictures(&generator)?;
    if let [a, b] = &args.between[..] {
        return strip(args, &generator, &goods, &found.defects, [a, b]);
    }
    let process: BTreeMap<String, f64> = args.set.iter().cloned().collect();
    anyhow::ensure!(process.len() == args.set.len(), "--set: one parameter is given twice");
    let wish = Wish { class: args.ask.class.clone(), text: args.ask.text.clone(), process };
    args.ask.say_what_is_known(&generator, &found);
    say_of_wish(&generator, &wish);
    anyhow::ensure!(
        !args.as_real || !found.defects.is_empty(),
        "--as-real: there are no real defects with masks; give their folder by --real"
    );
    let AskArgs { extrapolate, seed, .. } = args.ask;
    let (count, as_real) = (args.count as usize, args.as_real);
    let order = Order { count, wish, as_real, extrapolate, seed };
    let mut set = Set::new(&generator, &goods, &args.out)?;
    let unseen = ask::sample(&generator, &goods, &found.defects, &order, &mut |made| {
        set.add(&made).map(drop).map_err(SampleError::from)
    })?;
    let count = set.finish()?;
    if unseen > 0 {
        eprintln!(
            "note: {unseen} of {} pictures show nothing that could be seen, and are left out",
            args.count
        );
    }
    println!("{}: {count} pictures, see {}/sheet.png", args.out.display(), args.out.display());
    Ok(())
}

/// What is pasted, and how far the parameters lie from what was learnt from.
fn say_of_wish(generator: &Generator, wish: &Wish) {
    let asked = |class: &&String| wish.class.as_ref().is_none_or(|c| c == *class);
    for class in generator.header.pasted.keys().filter(asked) {
        eprintln!("note: class {class}: real defects are pasted, the generator has not learnt it");
    }
    match generator.header.catalogue.distance(wish) {
        Some(distance) => eprintln!(
            "the parameters lie {distance:.2} standard deviations from the nearest picture that was learnt from"
        ),
        None if !wish.process.is_empty() => eprintln!(
            "note: no picture of this class that was learnt from had these parameters known: what is made is a guess"
        ),
        None => {}
    }
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
        tiles.push(Tile { pixels: resized(crop, input, STRIP_PX)?, caption, ..Tile::default() });
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
