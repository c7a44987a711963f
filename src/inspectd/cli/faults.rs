//! `inspectd faults`: the fault codes, what is seen of each and what to do.

use std::process::ExitCode;

use anyhow::Context as _;

use crate::faults;

/// How it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For a terminal.
    Text,
    /// The manual's page.
    Markdown,
    /// For programs: an array, or one object.
    Json,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "\x20 inspectd faults 17            what fault 17 is, where it is seen, and what to do"
)]
pub struct Args {
    /// The code on the PLC's panel, or its word in MQTT (camera_away); absent: all of them.
    code: Option<String>,
    /// For a terminal, the manual, or programs.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let code = match &args.code {
        Some(wanted) => Some(faults::find(wanted).with_context(|| {
            format!("fault {wanted}: expected a code or a word of the list: inspectd faults")
        })?),
        None => None,
    };
    let text = match (args.format, code) {
        (Format::Text, Some(code)) => faults::text(code),
        (Format::Text, None) => faults::list(),
        (Format::Markdown, None) => faults::page(),
        (Format::Markdown, Some(_)) => {
            anyhow::bail!("--format markdown is the whole page: leave the code out")
        }
        (Format::Json, Some(code)) => format!("{}\n", serde_json::to_string_pretty(&faults::row(code))?),
        (Format::Json, None) => format!("{}\n", serde_json::to_string_pretty(&faults::rows())?),
    };
    super::say(&text)?;
    Ok(ExitCode::SUCCESS)
}
