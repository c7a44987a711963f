//! `inspectd plc-sim`: plays a PLC against a running daemon.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::plc::sim::{Play, Report, Step, play};

#[derive(Debug, clap::Args)]
#[command(
    after_help = "It triggers real parts, and the gate moves: stop the line first, and the PLC that drives it.\n\
    Exit code 0: all was as the manual says (deploy/manual/handshake.md); 1: it was not, or the play broke off."
)]
pub struct Args {
    /// Where the daemon's Modbus server listens.
    #[arg(long, default_value = "127.0.0.1:502")]
    address: SocketAddr,
    /// The station's unit identifier: 1 for the first.
    #[arg(long, default_value_t = 1)]
    unit: u8,
    /// Recipe to bring into service first, at a station with recipes.
    #[arg(long, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..))]
    recipe: Option<u16>,
    /// Parts of the normal cycle.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=60000))]
    parts: u16,
    /// Also do what a PLC should not: trigger while busy, acknowledge nothing, restart in the middle of a part, two at once, and more.
    #[arg(long)]
    misuse: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Args { address, unit, recipe, parts, misuse, .. } = *args;
    let plan = Play { address, unit, recipe, parts, misuse };
    let mut tell = |step: &Step| {
        if !args.json {
            let mark = if step.good { "ok   " } else { "WRONG" };
            let _ = super::say(&format!("{mark} {}: {}\n", step.what, step.told));
        }
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    let report = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT cannot be handled")?;
        let mut terminate = signal(SignalKind::terminate()).context("SIGTERM cannot be handled")?;
        let stop = async {
            tokio::select! { _ = interrupt.recv() => {}, _ = terminate.recv() => {} }
        };
        anyhow::Ok(play(plan, stop, &mut tell).await?)
    })?;
    if args.json {
        super::say(&format!("{}\n", serde_json::to_string_pretty(&report)?))?;
    } else {
        super::say(&text(&report))?;
    }
    Ok(if report.good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn text(report: &Report) -> String {
    let mut text = String::new();
    if !report.edges.is_empty() {
        text += "\nfirst part, from its trigger:\n";
    }
    for edge in &report.edges {
        text += &format!("{:>10.1} ms  {}\n", edge.at_us as f64 / 1e3, edge.what);
    }
    let us = &report.results_us;
    let at = |share: f64| {
        us.get((us.len().saturating_sub(1) as f64 * share) as usize).copied().unwrap_or(0) as f64 / 1e3
    };
    text += &format!(
        "\ntrigger written to result read: median {:.1} ms, 99 % {:.1} ms, longest {:.1} ms, {} parts\n",
        at(0.5),
        at(0.99),
        at(1.0),
        us.len()
    );
    text += if report.good {
        "the wiring is good: every answer was as the manual says\n"
    } else {
        "the wiring is NOT good: see the lines that begin with WRONG, and deploy/manual/handshake.md\n"
    };
    text
}
