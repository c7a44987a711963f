//! `inspectd registers`: the register map, as the code has it.

use std::process::ExitCode;

use crate::plc::in_sight::page;
use crate::plc::print::{Format, print};

/// Which map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Profile {
    /// The map of `modbus.listen`.
    Native,
    /// The map of a station's `in_sight.listen`.
    InSight,
}

#[derive(Debug, clap::Args)]
pub struct Args {
    /// For a terminal, the manual, or import into PLC tools.
    #[arg(long, value_enum, default_value = "table")]
    format: Format,
    /// The daemon's own map, or the bits of a Cognex In-Sight camera's that both have.
    #[arg(long, value_enum, default_value = "native")]
    profile: Profile,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let text = match (args.profile, args.format) {
        (Profile::Native, format) => print(format),
        (Profile::InSight, Format::Table) => page::table(),
        (Profile::InSight, Format::Csv) => page::csv(),
        (Profile::InSight, Format::Markdown) => page::page(),
        (Profile::InSight, Format::Handshake) => {
            anyhow::bail!("the In-Sight profile has one page, with its handshake: use --format markdown")
        }
    };
    super::say(&text)?;
    Ok(ExitCode::SUCCESS)
}
