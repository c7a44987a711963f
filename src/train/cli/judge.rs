//! `inspect-train defects judge`: what made defects are worth.

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use inspect_train::batches::Symmetry;
use inspect_train::fit::MADE_SHARE;
use inspect_train::judge::{self, Doing, MAX_SEEDS, Run, Settings, kept};
use inspect_train::learn::MAX_STEPS;
use inspect_train::made::{Named, check_names, named};
use inspect_train::net::Variant;

use super::backbone::BackboneArgs;
use super::stop::{STOPPED, Words, on_ctrl_c};

/// What `--help` says below the options.
const AFTER: &str = "\
Folders, in the MVTec AD layout:
  --data: DIR/train/good, DIR/test/good, DIR/test/CLASS and masks in DIR/ground_truth/CLASS/NAME_mask.png
  --made: DIR/test/CLASS and a mask for each picture, as `defects sample` writes them

What decides: models are fitted with and without each set and asked about the real defects of --data; where there \
are two classes or more, also with each class left out of the set in turn. A set is proven if the interval of its \
gain in image average precision lies above 0, and with classes left out not below it. Nothing else makes a set \
worth using. Real defects themselves can be a set beside the generators': what would photographs have done?

Standard output has a line for each set, its first words name and verdict: proven, not_proven, harmful, \
not_measured, baseline. Exit code 0: judged; 1: error; 130: stopped by Ctrl-C, the report holds what was done and \
--resume goes on.";

/// Judge made defects: do they help to find real ones, and how do they compare with those
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct JudgeArgs {
    /// Folder of goods and of real defects with masks that no generator was fitted on
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// A set of made defects and its name; give it again for each set
    #[arg(long, value_name = "NAME=DIR", required = true, value_delimiter = ',', value_parser = named)]
    made: Vec<Named>,
    /// What the sets are compared with: `procedural`, or the name of one of them
    #[arg(long, value_name = "NAME", default_value = "procedural")]
    against: String,
    /// Real defects that the generators were fitted on: copies of them are looked for
    ///
    /// DIR/CLASS/NAME.png with DIR/ground_truth, as `split --real` writes them, or an MVTec AD folder.
    #[arg(long, value_name = "DIR")]
    trained_on: Option<PathBuf>,
    /// Folder for the report: judge.html, judge.json, blind.png, blind_key.csv
    #[arg(long, value_name = "DIR")]
    report: PathBuf,
    /// Fits of each arm, each with a seed of its own; 0: no fits, the sets are only compared
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u64).range(0..=MAX_SEEDS))]
    seeds: u64,
    /// Optimiser steps of a fit
    #[arg(long, default_value_t = 600, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_STEPS))]
    steps: u64,
    /// Side of the fits' input, pixels, a multiple of 16
    #[arg(long, default_value_t = 64)]
    size: u32,
    /// Width of the fits' network
    #[arg(long, value_enum, default_value_t = Variant::Xxs)]
    variant: Variant,
    /// How the part may lie in front of the camera, as for `fit`
    #[arg(long, value_enum, default_value_t = Symmetry::None)]
    symmetry: Symmetry,
    /// Share of the damaged pictures that a made set gets in the end, as for `fit`
    #[arg(long, default_value_t = MADE_SHARE, value_name = "SHARE")]
    defects_share: f64,
    #[command(flatten)]
    backbone: BackboneArgs,
    /// Seed of what is drawn beside the fits: procedural defects, folds, the blind sheet
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Threads of a fit
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: u16,
    /// Go on with the stopped judgement of the same --report: fits that are done (in REPORT/fits.part) are not made
    /// again, and the report is the same as if it had not been stopped
    #[arg(long)]
    resume: bool,
}

/// Runs `defects judge`.
pub fn run(args: &JudgeArgs) -> anyhow::Result<()> {
    let start = Instant::now();
    check_names(&args.made).map_err(|reason| anyhow::anyhow!("--made: {reason}"))?;
    anyhow::ensure!(
        args.defects_share > 0.0 && args.defects_share <= 1.0,
        "--defects-share {}: expected more than 0 and at most 1",
        args.defects_share
    );
    if !kept::check(&args.report, args.resume)? && args.resume {
        let folder = args.report.join(kept::KEPT_NAME);
        eprintln!("note: {} is not there, so the judgement starts at the beginning", folder.display());
    }
    judge::prepare(&args.report)?;
    let settings = Settings {
        data: args.data.clone(),
        made: args.made.clone(),
        against: args.against.clone(),
        trained_on: args.trained_on.clone(),
        seeds: args.seeds,
        steps: args.steps,
        size: args.size,
        variant: args.variant,
        symmetry: args.symmetry,
        made_share: args.defects_share,
        backbone: args.backbone.load(judge::sets::CROP_PX)?,
        seed: args.seed,
        threads: usize::from(args.threads),
    };
    let words = Words {
        first: "writing the report of what is done",
        second: "no report was written; --resume goes on",
    };
    let stop = on_ctrl_c(words)?;
    let mut show = Show::new();
    let run = Run { dir: &args.report, stop: &stop.asked, report: &mut |doing| show.tell(doing) };
    let mut judged = judge::judge(&settings, run)?;
    show.bar.finish_and_clear();
    judge::write(&mut judged, &args.report, args.seed)?;
    print!("{}", judged.report.table());
    let page = args.report.join(judge::HTML_NAME);
    eprintln!("report: {}, {:.0} s", page.display(), start.elapsed().as_secs_f64());
    if judged.report.stopped {
        eprintln!("stopped early: the figures are of the seeds that were done; --resume goes on");
        std::process::exit(STOPPED);
    }
    Ok(())
}

/// Progress: a bar in a terminal, a line every five seconds elsewhere.
struct Show {
    bar: ProgressBar,
    lines: bool,
    /// When the first fit of this run began, and the share that was done before.
    begin: Option<(Instant, f64)>,
    last: Option<Instant>,
}

impl Show {
    fn new() -> Self {
        let bar = ProgressBar::new(1000);
        let style = ProgressStyle::with_template("{wide_bar} {percent}% {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        Self { bar, lines: !std::io::stderr().is_terminal(), begin: None, last: None }
    }

    fn tell(&mut self, doing: &Doing) {
        let p = match doing {
            Doing::Words(words) => {
                if self.lines {
                    eprintln!("{words}")
                } else {
                    self.bar.set_message(words.clone())
                }
                return;
            }
            Doing::Fits(p) => p,
        };
        let of = p.of.max(1) as f64;
        let (begin, before) = *self.begin.get_or_insert_with(|| (Instant::now(), p.done as f64 / of));
        let pause = Duration::from_millis(if self.lines { 5000 } else { 200 });
        if self.last.is_some_and(|last| last.elapsed() < pause) {
            return;
        }
        self.last = Some(Instant::now());
        let share = (p.done as f64 + p.step as f64 / p.steps.max(1) as f64) / of;
        let left = begin.elapsed().as_secs_f64() * (1.0 - share) / (share - before).max(1e-9);
        let text =
            format!("fit {} of {}, step {} of {}, {left:.0} s left", p.done + 1, p.of, p.step, p.steps);
        if self.lines {
            eprintln!("{text}");
        } else {
            self.bar.set_position((share * 1000.0) as u64);
            self.bar.set_message(text);
        }
    }
}
