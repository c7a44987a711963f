//! `inspectd check`: every error in configuration files, before they act.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context as _;

use inspect_core::file;

use crate::config::{Config, MAX_CONFIG_BYTES};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Configuration files, or folders of which every *.toml file with a [[station]] is checked.
    #[arg(default_value = "/etc/inspectd/inspectd.toml")]
    paths: Vec<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let mut files = Vec::new();
    for path in &args.paths {
        if path.is_dir() {
            files.extend(configurations(path)?);
        } else {
            files.push(path.clone());
        }
    }
    anyhow::ensure!(!files.is_empty(), "no configuration file (*.toml with a [[station]]) found");
    let mut failed = 0;
    for file in &files {
        match Config::read(file) {
            Ok(config) => {
                println!("{}: good, {} station(s)", file.display(), config.stations.len());
                config.notes().iter().for_each(|note| println!("  note: {note}"));
            }
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
            }
        }
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn configurations(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        let is_toml = path.extension().is_some_and(|e| e == "toml");
        if is_toml && file::read_text(&path, MAX_CONFIG_BYTES).is_ok_and(|text| text.contains("[[station]]"))
        {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
