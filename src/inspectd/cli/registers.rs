//! `inspectd registers`: the register map, as the code has it.

use std::process::ExitCode;

use crate::plc::print::{Format, print};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// For a terminal, the manual, or import into PLC tools.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    super::say(&print(args.format))?;
    Ok(ExitCode::SUCCESS)
}
