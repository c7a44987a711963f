//! `inspectd journal`: what stands in the journal. Only reads, beside a running daemon too.

mod check;
mod export;
mod tail;

use std::path::PathBuf;
use std::process::ExitCode;

use crate::config::Config;
use crate::journal::JournalReader;
use crate::journal::export::{Kind, columns};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say whether the journal is sound, and what lies beside it; exit code 0 if it is, 1 with a line for each finding.
    Check(check::Args),
    /// Show the newest records, one a line.
    Tail(tail::Args),
    /// Write the records into a file: CSV, Parquet, JSON Lines.
    Export(export::Args),
    /// Say what the columns of CSV and Parquet mean.
    Columns,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.command {
        Command::Check(args) => check::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Export(args) => export::run(args),
        Command::Columns => {
            super::say(&columns::markdown())?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Which journal.
#[derive(Debug, clap::Args)]
struct Which {
    /// The daemon's configuration, which names the journal.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
    /// The journal's directory, or a journal's file, such as one that was put aside.
    #[arg(long, conflicts_with = "config")]
    dir: Option<PathBuf>,
}

impl Which {
    /// The journal's directory or file, and the directory of its ring.
    fn paths(&self) -> anyhow::Result<(PathBuf, PathBuf)> {
        if let Some(dir) = &self.dir {
            return Ok((dir.clone(), dir.clone()));
        }
        let config = Config::read_unchecked(&self.config)?;
        let run_dir = config.run_dir().to_owned();
        Ok((config.journal.dir, run_dir))
    }

    fn reader(&self) -> anyhow::Result<JournalReader> {
        let (path, _) = self.paths()?;
        Ok(if path.is_dir() { JournalReader::open(&path)? } else { JournalReader::open_file(&path)? })
    }
}

/// Which records.
#[derive(Debug, clap::Args)]
struct Records {
    /// Of this station only.
    #[arg(long)]
    station: Option<String>,
    /// Of this kind only.
    #[arg(long, value_enum)]
    kind: Option<KindWord>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum KindWord {
    /// One of a part.
    Inspection,
    /// Anything else.
    Event,
}

impl KindWord {
    fn kind(self) -> Kind {
        match self {
            Self::Inspection => Kind::Inspection,
            Self::Event => Kind::Event,
        }
    }
}
