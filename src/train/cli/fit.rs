//! `inspect-train fit`: goods in, one model file out.

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use inspect_train::batches::Symmetry;
use inspect_train::calibrate::check_alpha;
use inspect_train::data::Goods;
use inspect_train::fit::{Budget, Progress, Settings};
use inspect_train::net::Variant;
use inspect_train::suspects::suspects;
use inspect_train::{export, fit};

use super::pictures::{PictureArgs, list, write_sheet};

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
    /// Stop after so many minutes in all (default 10)
    #[arg(long, conflicts_with = "steps", value_name = "N")]
    minutes: Option<f64>,
    /// Stop after so many optimiser steps instead; same steps, seed and --threads: same model
    #[arg(long, value_name = "N")]
    steps: Option<u64>,
    /// Seed of the split, the weights and the made defects
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// How the part may lie in front of the camera
    ///
    /// `none` for a part in a fixture, always the same way round: the model learns what is usual at each
    /// place. `flip` or `rotate` if mirrored or quarter-turned pictures would be as good: round parts,
    /// surfaces, webs. That makes more of few pictures, but a part that lies wrongly is then no defect.
    #[arg(long, value_enum, default_value_t = Symmetry::None)]
    symmetry: Symmetry,
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
    /// Folder for the sheet of strange pictures, which is written if there are any; default: that of --out
    #[arg(long, value_name = "DIR")]
    suspects: Option<PathBuf>,
    /// The model's name on its card; default: the name of the file
    #[arg(long)]
    name: Option<String>,
    /// Threads; default: all cores, or one while that is faster because others use them
    #[arg(long, value_name = "N")]
    threads: Option<u16>,
}

/// Runs `fit`.
pub fn run(args: &FitArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    let settings = settings(args)?;
    export::check_writable(&args.out)?;
    let goods = args.pictures.load()?;
    show_suspects(args, &goods);
    let stop = Arc::new(AtomicBool::new(false));
    let writing = Arc::new(AtomicBool::new(false));
    stop_on_ctrl_c(stop.clone(), writing.clone())?;
    let mut show = Show::new();
    let fitted = fit::fit(&goods, &settings, start, &stop, &mut |p| show.step(p))?;
    show.bar.finish_and_clear();
    let stopped = if stop.load(Ordering::Relaxed) { " (stopped early)" } else { "" };
    eprintln!("{} steps{stopped}; {}", fitted.steps, fitted.calibration.claim);

    let stem = args.out.file_stem().map(|s| s.to_string_lossy().into_owned());
    let name = args.name.clone().or(stem).unwrap_or_else(|| "model".into());
    writing.store(true, Ordering::Relaxed);
    let written = export::export(&fitted, &goods, &settings, &name, &args.out)?;
    eprintln!(
        "libtorch and ONNX Runtime agree on {} pictures within {:.1e} of the threshold",
        written.compared, written.largest_difference
    );
    eprintln!(
        "the limit rejects {} of {} defects that were made on held-out goods",
        written.made_rejected, written.made
    );
    if written.made_rejected * 2 < written.made {
        eprintln!("note: that is less than half of them; more goods, or more minutes, give a closer limit");
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
    anyhow::ensure!(args.steps != Some(0), "--steps 0: expected at least 1");
    let budget = match args.steps {
        Some(steps) => Budget::Steps(steps),
        None => Budget::Time(Duration::from_secs_f64(minutes * 60.0)),
    };
    let review_alpha = args.review_alpha.unwrap_or(args.alpha);
    check_alpha(args.alpha, review_alpha)?;
    Ok(Settings {
        variant: args.variant,
        budget,
        seed: args.seed,
        symmetry: args.symmetry,
        alpha: args.alpha,
        review_alpha,
        threads: args.threads.map(usize::from),
    })
}

/// The first Ctrl-C asks the fit to end with what it has, the second ends the program.
fn stop_on_ctrl_c(stop: Arc<AtomicBool>, writing: Arc<AtomicBool>) -> anyhow::Result<()> {
    ctrlc::set_handler(move || {
        if writing.load(Ordering::Relaxed) {
            return; // a moment, and the file is whole
        }
        if stop.swap(true, Ordering::Relaxed) {
            eprintln!("stopped; nothing was written");
            std::process::exit(130);
        }
        eprintln!("stopping: calibrating and writing what there is (Ctrl-C again: write nothing)");
    })
    .context("cannot listen for Ctrl-C")
}

/// Progress: a bar in a terminal, a line every five seconds elsewhere.
struct Show {
    bar: ProgressBar,
    lines: bool,
    last: Option<Instant>,
}

impl Show {
    fn new() -> Self {
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, lines: !std::io::stderr().is_terminal(), last: None }
    }

    fn step(&mut self, p: &Progress) {
        let pause = Duration::from_millis(if self.lines { 5000 } else { 200 });
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        let seconds = p.elapsed.as_secs_f64();
        let left = if p.spent > 0.0 { seconds * (1.0 - p.spent).max(0.0) / p.spent } else { 0.0 };
        let text = format!(
            "step {} loss {:.4} {:.1} steps/s, {:.0} s left",
            p.step,
            p.loss,
            p.step as f64 / seconds.max(1e-9),
            left
        );
        if self.lines {
            eprintln!("{text}");
        } else {
            self.bar.set_position((p.spent * 1000.0) as u64);
            self.bar.set_message(text);
        }
    }
}
