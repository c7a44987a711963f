//! `inspect-train fit`: goods in, one model file out.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use inspect_train::batches::Symmetry;
use inspect_train::calibrate::check_alpha;
use inspect_train::data::Goods;
use inspect_train::defects::Family;
use inspect_train::fit::Settings;
use inspect_train::learn::{Budget, MAX_STEPS, Progress, Run};
use inspect_train::made::{Named, check_names, named};
use inspect_train::net::Variant;
use inspect_train::real::{self, MAX_REAL, RealDefect};
use inspect_train::score::Fusion;
use inspect_train::suspects::suspects;
use inspect_train::torch::Precision;
use inspect_train::{checkpoint, export, fit};
use tch::Device;

use super::backbone::BackboneArgs;
use super::made::{Sources, made_defects, remove_drawn};
use super::pictures::{PictureArgs, list, write_sheet};
use super::stop::{Words, on_ctrl_c};

/// What is left of a fit after a second Ctrl-C.
pub const NOTHING_WRITTEN: &str = "nothing was written, --resume goes on from the last checkpoint";

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Normalise {
    /// Nothing
    None,
    /// Brightness and contrast
    Exposure,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum DeviceKind {
    /// The processor
    Cpu,
    /// The first NVIDIA GPU
    Cuda,
}

#[derive(Args)]
pub struct FitArgs {
    #[command(flatten)]
    pictures: PictureArgs,
    /// The model file to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Width of the network: wider sees more and takes longer
    #[arg(long, value_enum, default_value_t = Variant::Xs)]
    variant: Variant,
    #[command(flatten)]
    backbone: BackboneArgs,
    /// Stop after so many minutes in all (default 10)
    #[arg(long, conflicts_with = "steps", value_name = "N")]
    minutes: Option<f64>,
    /// Stop after so many optimiser steps instead; same steps, seed and --threads: same model
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_STEPS))]
    steps: Option<u64>,
    /// Seed of the split, the weights and the made defects
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How the part may lie in front of the camera
    ///
    /// `none` for a part in a fixture, always the same way round: the model learns what is usual at each
    /// place. `flip` or `rotate` if mirrored or quarter-turned pictures would be as good: round parts,
    /// surfaces, webs. That makes more of few pictures, but a part that lies wrongly is then no defect, and what
    /// stands upright (print, a clamp) is learnt in every way round: not for those.
    #[arg(long, value_enum, default_value_t = Symmetry::None)]
    symmetry: Symmetry,
    /// What to take out of each picture before it is looked at
    ///
    /// `exposure` where the light or the exposure time changes from picture to picture, or parts of one
    /// kind are lighter and darker: brightness and contrast of the whole picture are taken out. Not where a
    /// part that is too dark or too light as a whole is a defect.
    #[arg(long, value_enum, default_value_t = Normalise::None)]
    normalise: Normalise,
    /// Learn from windows of so many pixels instead of whole pictures: a multiple of 16, less than --size
    ///
    /// For tiny defects on big parts: give a large --size, so that the defect still covers pixels, and a
    /// window of 128 or so; a step then costs what a picture of the window's size costs. The model itself
    /// looks at the whole picture at --size.
    #[arg(long, value_name = "PX", conflicts_with = "backbone")]
    crop: Option<u32>,
    /// Families of made defects to leave out; the model is then judged on those (`defects preview` shows them)
    #[arg(long, value_enum, value_delimiter = ',', value_name = "FAMILY")]
    without: Vec<Family>,
    /// Folder of known defects to learn from beside the made ones: DIR/CLASS/NAME.png
    ///
    /// Masks in DIR/ground_truth/CLASS/NAME_mask.png (black: no defect) or boxes in DIR/boxes.csv (columns
    /// file,x1,y1,x2,y2, pixels of the picture) say where the defect is; without them it is looked for in the whole
    /// picture (in --roi). A few of each class are enough. Never give pictures that `evaluate` judges by:
    /// `inspect-train split --real N` takes them out of labelled pictures, so that the rest can still judge.
    #[arg(long, value_name = "DIR")]
    real: Option<PathBuf>,
    /// Defects of generators to mix in: NAME=FILE[,NAME=DIR], files of `defects fit` or folders of `defects sample`
    ///
    /// Off unless it is given: first let `defects judge` prove on held-out real defects that a set is worth it. A
    /// generator draws --defects-count of them on the goods that are fitted on, before the first step. Masks for its
    /// classes of real defects come from --real, and so do defects of the classes that it can only paste.
    /// The share of such pictures rises from 0 to --defects-share over the first 40 % of --steps (400 steps with
    /// --minutes). Names, numbers and SHA-256 of the sets go on the model's card.
    #[arg(long, value_name = "NAME=FILE", value_delimiter = ',', value_parser = named)]
    defects: Vec<Named>,
    /// Share of the damaged pictures without a known defect that --defects makes, in the end
    #[arg(long, default_value_t = fit::MADE_SHARE, value_name = "SHARE", requires = "defects")]
    defects_share: f64,
    /// Defects that each generator file of --defects draws; on two cores a diffusion model takes minutes for them
    #[arg(long, default_value_t = 400, value_name = "N", requires = "defects",
        value_parser = clap::value_parser!(u32).range(1..=MAX_REAL as i64))]
    defects_count: u32,
    /// What makes the score: logits of the head and residual of the VAE, or one of them for comparison
    #[arg(long, value_enum, default_value_t = Fusion::Fused)]
    score: Fusion,
    /// Go on with the stopped fit of the same --out, to the same model as if it had not been stopped
    ///
    /// A fit keeps a checkpoint beside --out (FILE.checkpoint), written every minute and when it is stopped.
    /// Give the same options again. With --threads 1 the result is the same to the last bit.
    #[arg(long)]
    resume: bool,
    /// Seconds between checkpoints
    #[arg(long, default_value_t = 60, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    checkpoint_s: u64,
    /// Keep the checkpoint of a finished fit: `--resume --score head` then makes another score of it at once
    #[arg(long)]
    keep_checkpoint: bool,
    /// Where the network learns; cuda needs an inspect-train that was built against libtorch for CUDA
    #[arg(long, value_enum, default_value_t = DeviceKind::Cpu)]
    device: DeviceKind,
    /// In what numbers the network learns; default: bf16 where processor or GPU compute with it, else f32
    ///
    /// bf16 halves the time of a step where it is at home, and is slow elsewhere. The model file is f32 in any case.
    #[arg(long, value_enum)]
    precision: Option<Precision>,
    /// False-reject budget: at most this share of good parts may be rejected
    ///
    /// 0.05 can be proven from 19 held-out groups on, 0.01 from 99 on (pictures without groups count one each).
    /// A station with several views rejects a part if one of them does: give each of V views the V-th part of
    /// the station's budget.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    alpha: f64,
    /// Share of good parts that may be rejected or sent to review; default: that of --alpha, no review
    #[arg(long, value_name = "SHARE")]
    review_alpha: Option<f64>,
    /// Folder for the sheet of strange goods (NAME.suspects.png), written if there are any; default: that of --out
    #[arg(long, value_name = "DIR")]
    suspects: Option<PathBuf>,
    /// The model's name on its card; default: the name of the file
    #[arg(long)]
    name: Option<String>,
    /// Threads; default: all cores, or one while that is faster because others use them
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
}

/// Runs `fit`.
pub fn run(args: &FitArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let mut settings = settings(args)?;
    export::check_writable(&args.out)?;
    let checkpoint = checkpoint::path_of(&args.out);
    check_checkpoint(&checkpoint, args.resume)?;
    let goods = args.pictures.load()?;
    if let Some(dir) = &args.real {
        settings.real = known_defects(dir, &goods, settings.crop)?;
    }
    let stop = on_ctrl_c(Words { first: "calibrating and writing what there is", second: NOTHING_WRITTEN })?;
    let sources = Sources {
        sets: &args.defects,
        count: args.defects_count as usize,
        real: args.real.as_deref(),
        model: &args.out,
    };
    settings.made = made_defects(&sources, &goods, &settings, &stop)?;
    let turns = |mask| args.symmetry.turns(mask, args.pictures.size as usize).len();
    let (all, used) = (turns(None), turns(goods.mask.as_deref()));
    if used < all {
        eprintln!(
            "note: --symmetry {} turns each picture {all} ways, of which only {used} leave --mask in its place; \
             the others are not used",
            args.symmetry
        );
    }
    show_suspects(args, &goods);
    let mut show = Show::new();
    let run = Run {
        start,
        stop: &stop.asked,
        report: &mut |p: &Progress| show.tell(p, |step| format!("loss {:.4}", step.loss)),
    };
    let fitted = fit::fit(&goods, &settings, run)?;
    show.bar.finish_and_clear();
    let done = fitted.learnt.of == Some(fitted.learnt.steps);
    let stopped = if done { "" } else { " (stopped early; --resume goes on from here)" };
    eprintln!("{} steps{stopped}; {}", fitted.learnt.steps, fitted.calibration.claim);

    let stem = args.out.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_else(|| "model".into());
    stop.writing.store(true, Ordering::Relaxed);
    let written = export::export(&fitted, &goods, &settings, &name, &args.out)?;
    eprintln!(
        "libtorch and ONNX Runtime agree on {} pictures within {:.1e} of the threshold",
        written.compared, written.largest_difference
    );
    for (fusion, auroc) in &written.made_auroc {
        eprintln!("AUROC of held-out goods against defects made on them, {fusion}: {auroc:.4}");
    }
    eprintln!(
        "the limit rejects {} of {} defects that were made on held-out goods",
        written.made_rejected, written.made
    );
    if written.made_rejected * 2 < written.made {
        eprintln!("note: that is less than half of them; more goods, or more minutes, give a closer limit");
    }
    if done && !args.keep_checkpoint {
        std::fs::remove_file(&checkpoint)
            .with_context(|| format!("cannot remove {}", checkpoint.display()))?;
        remove_drawn(&args.defects, &args.out)?;
    }
    println!(
        "{}: {:.2} MiB, reject above {:.3}, {:.0} s",
        args.out.display(),
        written.bytes as f64 / f64::from(1 << 20),
        fitted.thresholds.reject,
        start.elapsed().as_secs_f64()
    );
    Ok(())
}

/// Loads known defects and says what the user should know of them.
fn known_defects(dir: &Path, goods: &Goods, crop: Option<u32>) -> anyhow::Result<Vec<RealDefect>> {
    let real::Known { defects, notes } = real::load(dir, goods.input, goods.roi)?;
    eprintln!("{} known defects from {}", defects.len(), dir.display());
    for note in notes {
        eprintln!("note: {note}");
    }
    if let Some(crop) = crop {
        let lost = defects.iter().filter(|d| !d.fits(crop as usize)).count();
        if lost > 0 {
            eprintln!(
                "note: {lost} of them have no mask, and no boxes that a window of --crop {crop} px holds, so nobody \
                 knows which windows show the defect: they are not learnt from; draw masks"
            );
        }
    }
    if let Some(matters) = &goods.mask {
        let lost = defects.iter().filter(|d| !d.is_seen(matters)).count();
        if lost > 0 {
            eprintln!("note: {lost} of them lie wholly where --mask is black, and are not learnt from");
        }
    }
    Ok(defects)
}

/// Lists what is strange among the goods and writes a sheet of it. The fit goes on: people decide.
fn show_suspects(args: &FitArgs, goods: &Goods) {
    let all = suspects(goods);
    if list(&all) == 0 {
        return;
    }
    let stem = args.out.file_stem().unwrap_or_default();
    let folder = args.suspects.as_deref().or(args.out.parent()).unwrap_or(Path::new("."));
    let mut name = stem.to_owned();
    name.push(".suspects.png");
    let sheet = folder.join(name);
    match write_sheet(goods, &all, &sheet) {
        Ok(()) => eprintln!("see {}; --exclude FILE leaves pictures out", sheet.display()),
        Err(error) => eprintln!("note: {error:#}"),
    }
}

fn settings(args: &FitArgs) -> anyhow::Result<Settings> {
    let minutes = args.minutes.unwrap_or(10.0);
    anyhow::ensure!(
        minutes > 0.0 && minutes <= 60.0 * 24.0 * 7.0,
        "--minutes {minutes}: expected more than 0 and at most a week"
    );
    let size = args.pictures.size;
    if let Some(crop) = args.crop {
        anyhow::ensure!(
            crop >= 32 && crop.is_multiple_of(16) && crop < size,
            "--crop {crop}: expected a multiple of 16 from 32 pixels on, and less than --size {size}"
        );
    }
    let onnx = args.out.extension().is_some_and(|e| e.eq_ignore_ascii_case("onnx"));
    anyhow::ensure!(onnx, "--out {}: expected the name of an .onnx file", args.out.display());
    if let Some(dir) = &args.suspects {
        anyhow::ensure!(dir.is_dir(), "--suspects {}: is not a folder", dir.display());
    }
    anyhow::ensure!(
        args.crop.is_none() || args.normalise == Normalise::None,
        "--crop and --normalise exposure: a window's brightness is not the picture's; give one of them"
    );
    anyhow::ensure!(
        args.without.len() < Family::ALL.len(),
        "--without: all families are left out, so there is nothing to learn defects from"
    );
    anyhow::ensure!(
        args.backbone.backbone.is_none() || args.normalise == Normalise::None,
        "--backbone and --normalise exposure: a backbone wants pictures as it was trained on; give one of them"
    );
    check_names(&args.defects).map_err(|reason| anyhow::anyhow!("--defects: {reason}"))?;
    anyhow::ensure!(
        args.defects_share > 0.0 && args.defects_share <= 1.0,
        "--defects-share {}: expected more than 0 and at most 1",
        args.defects_share
    );
    let budget = match args.steps {
        Some(steps) => Budget::Steps(steps),
        None => Budget::Time(Duration::from_secs_f64(minutes * 60.0)),
    };
    let device = device(args.device)?;
    let review_alpha = args.review_alpha.unwrap_or(args.alpha);
    check_alpha(args.alpha, review_alpha)?;
    Ok(Settings {
        variant: args.variant,
        backbone: args.backbone.load(size)?,
        budget,
        seed: args.seed,
        symmetry: args.symmetry,
        exposure: args.normalise == Normalise::Exposure,
        crop: args.crop,
        without: args.without.clone(),
        real: Vec::new(),
        made: Vec::new(),
        made_share: args.defects_share,
        fusion: args.score,
        device,
        precision: args.precision.unwrap_or_else(|| Precision::fastest(device)),
        checkpoint: Some(checkpoint::path_of(&args.out)),
        checkpoint_every: Duration::from_secs(args.checkpoint_s),
        alpha: args.alpha,
        review_alpha,
        threads: args.threads.map(usize::from),
    })
}

pub fn device(kind: DeviceKind) -> anyhow::Result<Device> {
    match kind {
        DeviceKind::Cpu => Ok(Device::Cpu),
        DeviceKind::Cuda if tch::Cuda::is_available() => Ok(Device::Cuda(0)),
        DeviceKind::Cuda => anyhow::bail!(
            "--device cuda: libtorch finds no GPU; it has to be libtorch for CUDA (set LIBTORCH to its folder \
             and build inspect-train again), and `nvidia-smi` has to show the GPU"
        ),
    }
}

/// A checkpoint that is there is never overwritten unasked.
pub fn check_checkpoint(path: &Path, resume: bool) -> anyhow::Result<()> {
    if path.exists() && !resume {
        anyhow::bail!(
            "{}: a fit of this --out was stopped; go on with it by --resume, or delete the file to start over",
            path.display()
        );
    }
    if resume && !path.exists() {
        eprintln!("note: {} is not there, so the fit starts at the beginning", path.display());
    }
    Ok(())
}

/// Progress: a bar in a terminal, a line every five seconds elsewhere.
pub struct Show {
    /// To be cleared at the end.
    pub bar: ProgressBar,
    lines: bool,
    last: Option<Instant>,
}

impl Show {
    pub fn new() -> Self {
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, lines: !std::io::stderr().is_terminal(), last: None }
    }

    /// `losses` in words.
    pub fn tell<T>(&mut self, p: &Progress<T>, losses: impl FnOnce(&T) -> String) {
        let pause = Duration::from_millis(if self.lines { 5000 } else { 200 });
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        let Progress { step, of, elapsed, since_start, gave } = p;
        let rate = *since_start as f64 / elapsed.as_secs_f64().max(1e-9);
        let left = of.map_or(0.0, |of| of.saturating_sub(*step) as f64 / rate);
        let all = of.map_or(String::new(), |of| format!(" of {of}"));
        let text = format!("step {step}{all}, {}, {rate:.1} steps/s, {left:.0} s left", losses(gave));
        if self.lines {
            eprintln!("{text}");
        } else {
            self.bar.set_position(of.map_or(0, |of| step * 1000 / of.max(1)));
            self.bar.set_message(text);
        }
    }
}
