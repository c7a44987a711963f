//! `inspectd status` and `inspectd reload`: ask the running daemon.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::config::Config;
use crate::status::{Answer, Ask, SOCKET, ask, page};

/// Exit code where a station is not ready, or a reload was refused.
const NOT_GOOD: u8 = 3;
/// Where a daemon that systemd started has its socket.
const USUAL_RUN_DIR: &str = "/run/inspectd";

/// Where to ask.
#[derive(Debug, clap::Args)]
struct Where {
    /// Socket of the daemon.
    #[arg(long, conflicts_with = "config")]
    socket: Option<PathBuf>,
    /// Configuration file of the daemon, which says where its socket is.
    #[arg(long, short, default_value = "/etc/inspectd/inspectd.toml")]
    config: PathBuf,
    /// JSON for programs; deploy/schema/answer.schema.json describes it.
    #[arg(long)]
    json: bool,
}

/// Exit codes: 0 every station is ready; 1 the daemon cannot be asked; 3 a station is not ready.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every station is ready, 1 the daemon cannot be asked, 3 a station is not ready."
)]
pub struct Args {
    #[command(flatten)]
    place: Where,
}

/// Exit codes: 0 all that had changed was taken; 1 the daemon cannot be asked; 3 something was refused.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Exit codes: 0 all that had changed was taken, 1 the daemon cannot be asked, 3 something was refused."
)]
pub struct ReloadArgs {
    #[command(flatten)]
    place: Where,
}

impl Where {
    fn ask(&self, what: &Ask) -> anyhow::Result<Answer> {
        let socket = match &self.socket {
            Some(socket) => socket.clone(),
            // A file that is wrong elsewhere still says where the daemon's socket is; one that cannot even be parsed must
            // not keep a person from asking the daemon, which runs with the one before.
            None => match Config::read_unchecked(&self.config) {
                Ok(config) => config.run_dir().join(SOCKET),
                Err(error) if Path::new(USUAL_RUN_DIR).is_dir() => {
                    eprintln!("{error}\nasking at {USUAL_RUN_DIR} instead");
                    Path::new(USUAL_RUN_DIR).join(SOCKET)
                }
                Err(error) => return Err(error).context("no configuration that names the daemon's socket: give one with --config FILE, or the socket with --socket PATH"),
            },
        };
        let answer = ask(&socket, what)?;
        if self.json {
            super::say(&format!("{}\n", serde_json::to_string_pretty(&answer)?))?;
        }
        Ok(answer)
    }
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match args.place.ask(&Ask::Status)? {
        Answer::Status(status) => {
            if !args.place.json {
                super::say(&page::page(&status))?;
            }
            Ok(if status.ready { ExitCode::SUCCESS } else { ExitCode::from(NOT_GOOD) })
        }
        other => bail!("expected a status, got {other:?}"),
    }
}

pub fn reload(args: &ReloadArgs) -> anyhow::Result<ExitCode> {
    match args.place.ask(&Ask::Reload)? {
        Answer::Reload(outcome) => {
            if !args.place.json {
                super::say(&format!("{}\n", page::told(&outcome)))?;
            }
            Ok(if outcome.refused.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(NOT_GOOD) })
        }
        Answer::Refused { why } => bail!("{why}"),
        Answer::Status(_) => bail!("expected a reload's outcome, got a status"),
    }
}
