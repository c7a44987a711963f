//! Many stations at once, from half of what one session can do to twice that: where this machine saturates, and what
//! happens past that.
//!
//! Each station has a PLC of its own on Modbus, which triggers at a steady pace and polls every 10 ms. What the
//! registers said of a part is compared with its record, and each record's score with that of the same frame
//! before the load began: any difference is counted as wrong.
//!
//! Never here: a verdict on the deadline, which is the line's.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use inspect_core::runtime::Provider;
use inspect_core::scorer::GOLDEN_TOLERANCE;
use inspect_core::verdict::{FaultCode, Verdict};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use tokio_modbus::client::{Reader as _, Writer as _, tcp};
use tokio_modbus::slave::Slave;

use super::{Args, BLOCK_WORDS, PATIENCE, Percentiles, Record, Started, percentiles, records, start};
use crate::plc::map::{discrete, holding, input};

/// Load of each step, as a share of what one session does when its runs follow each other at once.
const STEPS: [f64; 7] = [0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0];
/// Ids of a step at each station.
const IDS: u16 = 8192;
/// How often a PLC reads.
const POLL: Duration = Duration::from_millis(10);

/// The whole result.
#[derive(Debug, Serialize)]
pub struct Report {
    model: String,
    provider: Provider,
    threads: usize,
    sessions: usize,
    stations: usize,
    views: usize,
    deadline_ms: u64,
    /// Runs of one session a second, one after another.
    bare_per_s: f64,
    steps: Vec<Step>,
    /// Results that were not their part's, in all steps.
    wrong: usize,
}

impl Report {
    /// Each result was its part's.
    pub fn is_right(&self) -> bool {
        self.wrong == 0
    }
}

/// One step of the load.
#[derive(Debug, Serialize)]
struct Step {
    /// Parts a second, of all stations.
    triggered_per_s: f64,
    /// Of them, those with a score in time.
    judged_per_s: f64,
    late: usize,
    /// Given up for others, because their score would have come too late.
    scorer_busy: usize,
    /// Other faults.
    faults: usize,
    /// Triggers that came while the part before was in hand.
    missed: usize,
    /// Trigger to result, microseconds, of parts with a score in time.
    total_us: Percentiles,
    wrong: usize,
}

/// What a PLC read of a part.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Read {
    verdict: u16,
    fault: u16,
    score: f32,
}

type Seen = HashMap<(usize, u16), Read>;

/// Raises the load step by step.
///
/// Errors: the daemon's, a PLC's, or a part without a result.
pub async fn measure(args: &Args, folder: &Path) -> anyhow::Result<Report> {
    let stations = usize::from(args.stations);
    let started = start(args, folder, stations).await?;
    let (scores, bare) = bare(&started).await?;
    let looks = f64::from(args.views) * stations as f64;
    let mut steps = Vec::new();
    let mut known = 0;
    for (n, share) in STEPS.iter().enumerate() {
        let period = Duration::from_secs_f64(looks * bare.as_secs_f64() / share);
        eprintln!(
            "step {} of {}: a part every {:.1} ms at each station",
            n + 1,
            STEPS.len(),
            period.as_secs_f64() * 1e3
        );
        let missed = missed(&started);
        let (triggered, seen) = step(args, &started, n, period).await?;
        let all = settled(&started, folder, known + triggered - (missed_since(&started, missed))).await?;
        let records = &all[known..];
        known = all.len();
        let missed = missed_since(&started, missed);
        steps.push(judge(args, &started, records, &seen, &scores, triggered, missed));
    }
    let (provider, wrong) = (started.provider, steps.iter().map(|s| s.wrong).sum());
    started.daemon.stop().await;
    Ok(Report {
        model: args.model.display().to_string(),
        provider,
        threads: args.threads.into(),
        sessions: args.sessions.into(),
        stations,
        views: args.views.into(),
        deadline_ms: args.deadline_ms,
        bare_per_s: 1.0 / bare.as_secs_f64(),
        steps,
        wrong,
    })
}

/// Each frame's score, and the middle time of a run.
async fn bare(started: &Started) -> anyhow::Result<(Vec<f32>, Duration)> {
    let scorer = started.daemon.scorers.any().context("no scorer")?;
    let (mut scores, mut times) = (Vec::new(), Vec::new());
    for image in started.frames.iter() {
        let scored = scorer.request(Arc::new(image.clone()), None, Instant::now() + PATIENCE);
        let scored = scored.map_err(|code| anyhow::anyhow!(code.meaning()))?.await?;
        scores.push(scored.score.map_err(|code| anyhow::anyhow!(code.meaning()))?);
        times.push(scored.resize + scored.run);
    }
    times.sort_unstable();
    Ok((scores, times[times.len() / 2]))
}

fn missed(started: &Started) -> u64 {
    started.daemon.registers.iter().map(|r| u64::from(r.counters().missed)).sum()
}

fn missed_since(started: &Started, before: u64) -> usize {
    (missed(started) - before) as usize
}

/// All stations at work for the time of a step: triggers that were sent, and what the PLCs read.
async fn step(args: &Args, started: &Started, n: usize, period: Duration) -> anyhow::Result<(usize, Seen)> {
    let address = started.daemon.modbus.address();
    let lasts = Duration::from_secs(args.seconds.into());
    let mut plcs = JoinSet::new();
    for station in 0..usize::from(args.stations) {
        // Stations begin one after another, not all at the same moment.
        let offset = period.mul_f64(station as f64 / f64::from(args.stations));
        let first_id = n as u16 * IDS + 1;
        plcs.spawn(async move {
            let mut client = tcp::connect_slave(address, Slave(station as u8 + 1)).await?;
            if n == 0 {
                client.write_single_register(holding::TRIGGER_ID, 0).await??;
            }
            tokio::time::sleep(offset).await;
            let mut triggers = tokio::time::interval(period);
            triggers.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let mut polls = tokio::time::interval(POLL);
            polls.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let (until, mut id) = (Instant::now() + lasts, first_id);
            let mut seen = Vec::new();
            // Ids of one step do not come again in another.
            while Instant::now() < until && id - first_id < IDS - 1 {
                tokio::select! {
                    _ = triggers.tick() => {
                        client.write_single_register(holding::TRIGGER_ID, id).await??;
                        id += 1;
                    }
                    _ = polls.tick() => {
                        let block = client.read_input_registers(input::RESULT_SEQUENCE, BLOCK_WORDS).await??;
                        ensure!(block.first() == block.last(), "torn result block: {block:?}");
                        let at = |address: u16| block[usize::from(address - input::RESULT_SEQUENCE)];
                        let bits = u32::from(at(input::SCORE)) << 16 | u32::from(at(input::SCORE + 1));
                        let read = Read {
                            verdict: at(input::VERDICT),
                            fault: at(input::RESULT_FAULT_CODE),
                            score: f32::from_bits(bits),
                        };
                        seen.push(((station, at(input::RESULT_TRIGGER_ID)), read));
                    }
                }
            }
            Ok((usize::from(id - first_id), seen))
        });
    }
    let (mut triggered, mut seen) = (0, Seen::new());
    while let Some(done) = plcs.join_next().await {
        let (sent, read): (usize, Vec<_>) = done??;
        triggered += sent;
        seen.extend(read);
    }
    seen.retain(|(_, id), _| *id > n as u16 * IDS); // not those of the step before
    Ok((triggered, seen))
}

/// All records, when there are `expected`.
async fn settled(started: &Started, folder: &Path, expected: usize) -> anyhow::Result<Vec<Record>> {
    let until = Instant::now() + PATIENCE;
    loop {
        let all = records(folder)?;
        // A part in hand at the end of a step still gets its result.
        let busy = started
            .daemon
            .registers
            .iter()
            .any(|r| r.discrete_inputs(discrete::BUSY..discrete::BUSY + 1).is_none_or(|bits| bits[0]));
        if all.len() >= expected && !busy {
            return Ok(all);
        }
        if Instant::now() > until {
            bail!("{} records of {expected} parts are in the journal", all.len());
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Counts a step, and compares.
fn judge(
    args: &Args,
    started: &Started,
    records: &[Record],
    seen: &Seen,
    scores: &[f32],
    triggered: usize,
    missed: usize,
) -> Step {
    let is = |record: &Record, code| record.verdict == Verdict::Fault(code);
    let count = |code| records.iter().filter(|r| is(r, code)).count();
    let judged: Vec<&Record> = records.iter().filter(|r| !matches!(r.verdict, Verdict::Fault(_))).collect();
    let (late, scorer_busy) = (count(FaultCode::Late), count(FaultCode::ScorerBusy));
    let tolerance = started.reject * GOLDEN_TOLERANCE;
    let right_frame = |record: &&Record| {
        record.views.iter().all(|view| {
            let of_frame = view.frame.map(|n| scores[(n as usize - 1) % scores.len()]);
            let of_frame = of_frame.zip(view.score);
            of_frame.is_some_and(|(expected, got)| (expected - got).abs() <= tolerance)
        })
    };
    let as_read = |record: &&Record| {
        let id = record.trigger.trigger_id.unwrap_or(0);
        let highest = record.views.iter().filter_map(|v| v.relative_score).fold(f32::NAN, f32::max);
        let station = record.station.parse().unwrap_or(usize::MAX); // its name is its number
        seen.get(&(station, id)).is_none_or(|read| {
            read.verdict == record.verdict.code()
                && read.fault == record.verdict.fault_code()
                && (matches!(record.verdict, Verdict::Fault(_)) || read.score == highest)
        })
    };
    let wrong =
        judged.iter().filter(|r| !right_frame(r)).count() + records.iter().filter(|r| !as_read(r)).count();
    Step {
        triggered_per_s: triggered as f64 / f64::from(args.seconds),
        judged_per_s: judged.len() as f64 / f64::from(args.seconds),
        late,
        scorer_busy,
        faults: records.len() - judged.len() - late - scorer_busy,
        missed,
        total_us: percentiles(judged.iter().map(|r| r.times_us.total).collect()),
        wrong,
    }
}

/// The result for people.
pub fn print(report: &Report) {
    println!(
        "{} on {}, {} session(s) of {} thread(s), {} stations of {} view(s), deadline {} ms; one session alone: {:.0} runs/s",
        report.model,
        report.provider,
        report.sessions,
        report.threads,
        report.stations,
        report.views,
        report.deadline_ms,
        report.bare_per_s
    );
    println!(
        "{:>12}{:>12}{:>8}{:>8}{:>8}{:>8}{:>9}{:>9}{:>9}{:>7}",
        "triggered/s", "judged/s", "late", "busy", "faults", "missed", "p50 us", "p99", "p99.9", "wrong"
    );
    for step in &report.steps {
        let Percentiles { p50, p99, p999 } = step.total_us;
        println!(
            "{:>12.1}{:>12.1}{:>8}{:>8}{:>8}{:>8}{p50:>9}{p99:>9}{p999:>9}{:>7}",
            step.triggered_per_s,
            step.judged_per_s,
            step.late,
            step.scorer_busy,
            step.faults,
            step.missed,
            step.wrong
        );
    }
    println!(
        "late and busy parts are faults, and a trigger that was missed has no result: none of them passes"
    );
}
