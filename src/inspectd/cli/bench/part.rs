//! One part after another, beside bare runs of the same session: what the daemon adds.
//!
//! Never here: more than one part at a time.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use inspect_core::image::Image;
use inspect_core::runtime::Provider;
use serde::Serialize;
use tokio::sync::watch;
use tokio_modbus::client::{Context as Client, Reader as _, Writer as _, tcp};

use super::{Args, BLOCK_WORDS, PATIENCE, Percentiles, percentiles, records, start};
use crate::daemon::Daemon;
use crate::plc::map::{holding, input};
use crate::record::Times;

/// Pace of the polling client.
const POLL: Duration = Duration::from_millis(1);
/// The first parts warm caches and are not counted.
const WARM_UP: usize = 20;

/// The whole result.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    provider: Provider,
    parts: usize,
    threads: usize,
    frame_px: [u32; 2],
    input_px: [u32; 2],
    grab_us: Percentiles,
    resize_us: Percentiles,
    score_us: Percentiles,
    /// Trigger accepted to result valid, less resizing.
    trigger_to_result_us: Percentiles,
    bare_us: Percentiles,
    ratio: [f64; 3],
    /// 1.10 x the bare p50 + 300 us.
    bound_p50_us: u64,
    within_bound: bool,
}

/// Measures the parts.
///
/// Errors: the daemon's, the PLC's, or a part without a result.
pub async fn measure(args: &Args, folder: &Path) -> anyhow::Result<Report> {
    let started = start(args, folder, 1).await?;
    let daemon = started.daemon;
    let bare = drive(args, &daemon, &started.frames).await?;
    let journal = daemon.journal.clone();
    daemon.stop().await;
    drop(journal);
    let mut times: Vec<Times> = records(folder)?.into_iter().map(|r| r.times_us).collect();
    let sent = args.parts as usize + WARM_UP;
    ensure!(times.len() == sent, "{} parts in the journal, {sent} were sent", times.len());
    times.drain(..WARM_UP);
    let stage = |stage: fn(&Times) -> u64| percentiles(times.iter().map(stage).collect());
    let result = stage(|t| t.total.saturating_sub(t.resize));
    let bare = percentiles(bare);
    let bound_p50_us = bare.p50 * 11 / 10 + 300;
    let ratio = |a: u64, b: u64| a as f64 / b.max(1) as f64;
    Ok(Report {
        model: args.model.display().to_string(),
        provider: started.provider,
        parts: times.len(),
        threads: args.threads.into(),
        frame_px: started.frame_px,
        input_px: started.input_px,
        grab_us: stage(|t| t.grab),
        resize_us: stage(|t| t.resize),
        score_us: stage(|t| t.score),
        trigger_to_result_us: result,
        bare_us: bare,
        ratio: [ratio(result.p50, bare.p50), ratio(result.p99, bare.p99), ratio(result.p999, bare.p999)],
        bound_p50_us,
        within_bound: result.p50 <= bound_p50_us,
    })
}

/// Triggers the parts, each followed by a bare run; gives the bare runs' times in microseconds.
async fn drive(args: &Args, daemon: &Daemon, frames: &[Image]) -> anyhow::Result<Vec<u64>> {
    let address = daemon.modbus.address();
    let (seen, mut result) = watch::channel((0, 0));
    let poller = tokio::spawn(poll(address, seen));
    let mut plc = tcp::connect(address).await?;
    plc.write_single_register(holding::TRIGGER_ID, 0).await??;
    let scorer = daemon.scorers.any().context("no scorer")?;
    let total = WARM_UP + args.parts as usize;
    let mut bare = Vec::with_capacity(total);
    let mut acknowledged = 0;
    for part in 0..total {
        let id = part as u16 + 1;
        // All that a PLC says of a part, in one request, with what it has read of the one before.
        let mut words = [0; holding::SIZE as usize];
        words[usize::from(holding::TRIGGER_ID)] = id;
        words[usize::from(holding::RESULT_ACKNOWLEDGED)] = acknowledged;
        words[usize::from(holding::ENCODER) + 1] = id;
        for (word, pair) in
            words[usize::from(holding::SERIAL)..].iter_mut().zip(format!("SN{part:06}").as_bytes().chunks(2))
        {
            *word = u16::from_be_bytes([pair[0], pair[1]]);
        }
        plc.write_multiple_registers(holding::TRIGGER_ID, &words).await??;
        let answered = result.wait_for(|(_, seen)| *seen == id);
        match tokio::time::timeout(PATIENCE, answered).await {
            Ok(answered) => acknowledged = answered?.0,
            Err(_) => bail!("part {id} got no result within {} s", PATIENCE.as_secs()),
        }
        let image = Arc::new(frames[part % frames.len()].clone());
        let scored = scorer
            .request(image, None, Instant::now() + PATIENCE)
            .map_err(|code| anyhow::anyhow!(code.meaning()))?;
        bare.push(u64::try_from(scored.await?.run.as_micros())?);
    }
    poller.abort();
    bare.drain(..WARM_UP);
    Ok(bare)
}

/// Reads the result block at 1 kHz and tells its sequence and which part's result stands there.
async fn poll(address: SocketAddr, seen: watch::Sender<(u16, u16)>) -> anyhow::Result<()> {
    let mut client: Client = tcp::connect(address).await?;
    let mut pace = tokio::time::interval(POLL);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        pace.tick().await;
        let block = client.read_input_registers(input::RESULT_SEQUENCE, BLOCK_WORDS).await??;
        ensure!(block.first() == block.last(), "torn result block: {block:?}");
        seen.send_replace((block[0], block[usize::from(input::RESULT_TRIGGER_ID - input::RESULT_SEQUENCE)]));
    }
}

/// The result for people.
pub fn print(report: &Report) {
    let [fw, fh] = report.frame_px;
    let [iw, ih] = report.input_px;
    println!(
        "{} on {}, {} thread(s), {} parts, frame {fw}x{fh}, input {iw}x{ih}",
        report.model, report.provider, report.threads, report.parts
    );
    println!("{:<34}{:>9}{:>9}{:>9}", "microseconds", "p50", "p99", "p99.9");
    let row = |name: &str, p: Percentiles| println!("{name:<34}{:>9}{:>9}{:>9}", p.p50, p.p99, p.p999);
    row("trigger to frame", report.grab_us);
    row("resize (not in the sum below)", report.resize_us);
    row("score", report.score_us);
    row("trigger to result valid", report.trigger_to_result_us);
    row("bare run of the same session", report.bare_us);
    let [a, b, c] = report.ratio;
    println!("{:<34}{a:>9.2}{b:>9.2}{c:>9.2}", "ratio");
    let word = if report.within_bound { "within" } else { "OVER" };
    println!("p50 {word} the bound of 1.10 x bare + 300 us = {} us", report.bound_p50_us);
}
