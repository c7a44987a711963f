//! `inspect-train evaluate`: what a finished model file is worth on labelled pictures.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use inspect_train::evaluate;

#[derive(Args)]
pub struct EvaluateArgs {
    /// The model file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Folder with test/good and test/<class of defect>
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Write the figures as JSON to this file; `-`: to standard output, instead of the table
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Also compute what principal components alone reach on the same pictures
    #[arg(long)]
    floor: bool,
}

/// Runs `evaluate`.
pub fn run(args: &EvaluateArgs) -> anyhow::Result<()> {
    let report = evaluate::evaluate(&args.model, &args.data, args.floor)?;
    let json = serde_json::to_string_pretty(&report)?;
    match args.json.as_deref() {
        Some(path) if path == Path::new("-") => println!("{json}"),
        Some(path) => {
            std::fs::write(path, json + "\n").with_context(|| format!("cannot write {}", path.display()))?;
            print!("{}", report.table());
        }
        None => print!("{}", report.table()),
    }
    Ok(())
}
