//! `inspect-train evaluate`: what a finished model file is worth on labelled pictures.

use std::path::{Path, PathBuf};

use clap::Args;
use inspect_train::{evaluate, report};

/// What `--help` says below the options.
const AFTER: &str = "\
Labelled pictures: DIR/test/good holds good parts, every other DIR/test/<class> defective ones.
Optional beside them:
  DIR/ground_truth/<class>/<stem>_mask.png: where the defect is, of the picture's size;
    every pixel that is not black is defect
  DIR/manifest.csv with the columns file,group,mask,part, all but `file` optional.
    group: lot, shift or session; part: the same name for pictures of one physical part

Each rate comes with two 95 % intervals: exact (Clopper-Pearson, every picture independent) and \
by group (bootstrap over groups, seeded). Review counts as not passed. With masks: pixel AUROC, \
pixel average precision, AUPRO up to a false-positive rate of 0.30 and of 0.05, at the size of \
the model's input.

Report: report.html is one file without scripts or references to the network; print it, sign it, \
mail it. report.json holds the same figures and the score of every picture. Each is replaced in \
one step.

A picture or mask that cannot be read ends the evaluation with its name: figures over the rest \
would flatter.";

#[derive(Args)]
#[command(after_help = AFTER)]
pub struct EvaluateArgs {
    /// The model file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Folder with test/good and test/<class of defect>
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Write a report to sign into this folder: report.html and report.json
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Write the figures as JSON to this file; `-`: to standard output, instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also compute what principal components alone reach on the same pictures
    #[arg(long)]
    floor: bool,
}

/// Runs `evaluate`.
pub fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    if let Some(dir) = &args.report {
        report::prepare(dir)?;
    }
    let mut evaluation = evaluate::evaluate_to_show(&args.model, &args.data, args.floor)?;
    match args.json.as_deref() {
        Some(path) if path == Path::new("-") => {
            println!("{}", serde_json::to_string_pretty(&evaluation.report)?);
        }
        Some(path) => {
            report::write_json(&evaluation, path)?;
            print!("{}", evaluation.report.table());
        }
        None => print!("{}", evaluation.report.table()),
    }
    if let Some(dir) = &args.report {
        report::write(&mut evaluation, dir)?;
        eprintln!("report: {}", dir.join(report::HTML_NAME).display());
    }
    Ok(())
}
