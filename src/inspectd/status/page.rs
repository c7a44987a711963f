//! The status as a page for a person: what is wrong and what to do first, the rest below.
//!
//! Never here: facts that the JSON does not have.

use std::fmt::Write as _;

use super::{CameraStatus, DaemonStatus, Phase, ReloadOutcome, ScorerStatus, StationStatus};
use crate::drift::{DriftLevel, DriftState};

/// The page. Lines are short enough for a terminal but for reasons, which are whole.
pub fn page(status: &DaemonStatus) -> String {
    let mut page = String::new();
    // Writing to a string cannot fail.
    let _ = write_page(&mut page, status);
    page
}

fn write_page(out: &mut String, status: &DaemonStatus) -> std::fmt::Result {
    let ready = status.stations.iter().filter(|s| s.state.ready).count();
    let count = status.stations.len();
    let head = match (status.phase, status.ready) {
        (Phase::Running, true) => "READY".to_owned(),
        (Phase::Running, false) => format!("NOT READY: {} of {count} stations", count - ready),
        (Phase::Starting, _) => "NOT READY: starting".to_owned(),
        (Phase::Reloading, _) => "NOT READY: starting anew with a changed configuration".to_owned(),
        (Phase::Stopping, _) => "NOT READY: stopping".to_owned(),
    };
    writeln!(out, "{head}")?;
    for (n, trouble) in status.troubles.iter().enumerate() {
        writeln!(out, "\n{}. {}", n + 1, trouble.heading())?;
        writeln!(out, "   Do: {}", trouble.action)?;
        if let Some(detail) = &trouble.detail {
            writeln!(out, "   It says: {}", detail.trim().replace('\n', "\n     "))?;
        }
    }
    writeln!(out)?;
    status.stations.iter().try_for_each(|station| write_station(out, station))?;
    status.scorers.iter().try_for_each(|scorer| write_scorer(out, scorer))?;
    if let Some(journal) = &status.journal {
        let (sequence, queued, places) = (journal.sequence, journal.queued, journal.places);
        write!(out, "journal   newest {sequence}, {queued} of {places} places wait for the disk")?;
        write_unless_0(out, "events dropped", journal.dropped_events)?;
        write_unless_0(out, "damaged and put aside", u64::from(journal.quarantined))?;
        writeln!(out, "; {}", journal.dir.display())?;
    }
    if let Some(link) = &status.mqtt {
        let word = if link.connected { "connected" } else { "NOT connected" };
        let (delivered, backlog) = (link.delivered, link.backlog);
        writeln!(out, "mqtt      {word}, delivered up to {delivered}, {backlog} behind")?;
    }
    for port in &status.modbus {
        let kind = if port.as_in_sight { "in-sight" } else { "modbus  " };
        let clients = if port.clients.is_empty() { "nobody".to_owned() } else { port.clients.join(", ") };
        writeln!(out, "{kind}  {}, connected: {clients}", port.listen)?;
    }
    if let Some(archive) = &status.archive {
        write!(out, "archive   {} parts written", archive.written)?;
        write_unless_0(out, "left out", archive.dropped)?;
        write_unless_0(out, "failed", archive.failed)?;
        writeln!(out)?;
    }
    if let Some(disk) = &status.disk {
        let gib = |bytes: u64| bytes as f64 / f64::from(1 << 30);
        writeln!(out, "disk      {:.1} of {:.1} GiB free", gib(disk.free_bytes), gib(disk.total_bytes))?;
    }
    if let Some(reload) = &status.last_reload {
        writeln!(out, "reload    {}", told(reload).replace('\n', "\n          "))?;
    }
    let process = &status.process;
    writeln!(
        out,
        "process   {}, {} MiB, {} handles, {} threads",
        process.pid,
        process.memory_bytes >> 20,
        process.open_handles,
        process.threads
    )?;
    let up = span(status.uptime_s);
    writeln!(out, "inspectd  {}, up {up}, {}", status.version, status.config.display())
}

fn write_unless_0(out: &mut String, what: &str, count: u64) -> std::fmt::Result {
    if count > 0 { write!(out, ", {count} {what}") } else { Ok(()) }
}

fn write_station(out: &mut String, station: &StationStatus) -> std::fmt::Result {
    let state = &station.state;
    let standing = match station.fault_code {
        None => "ready".to_owned(),
        Some(code) => format!("NOT READY, fault {code}"),
    };
    write!(out, "station   {}: {standing}", state.station)?;
    if let Some(recipe) = &state.recipe {
        write!(out, ", recipe {} ({})", recipe.number, recipe.name)?;
    }
    let marks = [
        (state.simulated, "simulated"),
        (state.bypass, "BYPASS"),
        (state.stop_request, "asks to stop the line"),
        (state.challenge_due, "challenge due"),
        (state.provisional, "provisional thresholds"),
        (!station.turns, "DOES NOT TURN"),
    ];
    for (_, mark) in marks.iter().filter(|(set, _)| *set) {
        write!(out, ", {mark}")?;
    }
    let c = state.counters;
    let verdicts = format!("pass {}, review {}, reject {}, fault {}", c.pass, c.review, c.reject, c.fault);
    write!(out, "\n          parts {}: {verdicts} ({} late); missed {}", c.accepted, c.late, c.missed)?;
    write_unless_0(out, "NOT in the journal", u64::from(c.not_journaled))?;
    writeln!(out)?;
    write_drift(out, &state.drift)?;
    station.cameras.iter().try_for_each(|camera| write_camera(out, camera))
}

/// Only what is not in order, each with its numbers.
fn write_drift(out: &mut String, drift: &DriftState) -> std::fmt::Result {
    if drift.readings.is_empty() {
        return Ok(()); // not watched, or too few parts
    }
    let provisional =
        if drift.provisional { ", compared with the first parts: the card has no reference" } else { "" };
    writeln!(out, "          drift {}{provisional}", drift.level.word())?;
    drift
        .readings
        .iter()
        .filter(|r| r.level != DriftLevel::Ok)
        .try_for_each(|r| writeln!(out, "            {}", r.words()))
}

fn write_camera(out: &mut String, camera: &CameraStatus) -> std::fmt::Result {
    write!(out, "          camera {} {} for {}", camera.view, camera.standing.word(), span(camera.for_s))?;
    write_unless_0(out, "threads left behind", camera.threads_left_behind as u64)?;
    match &camera.reason {
        Some(reason) => writeln!(out, ": {reason}"),
        None => writeln!(out),
    }
}

fn write_scorer(out: &mut String, scorer: &ScorerStatus) -> std::fmt::Result {
    let name = scorer.name.as_deref().unwrap_or("?");
    let sha256 = scorer.sha256.as_deref().and_then(|sha| sha.get(..8)).unwrap_or("not loaded");
    let users = if scorer.users == 0 { "kept warm".to_owned() } else { format!("{} use it", scorer.users) };
    let word = scorer.standing.word();
    let since = scorer.for_s.map(|s| format!(" for {}", span(s))).unwrap_or_default();
    write!(out, "model     {name} ({sha256}) {word}{since}, {users}; {}", scorer.model.display())?;
    match &scorer.reason {
        Some(reason) => writeln!(out, "\n          {reason}"),
        None => writeln!(out),
    }
}

/// What a reload came to.
pub fn told(outcome: &ReloadOutcome) -> String {
    let mut told = format!("{:.0}", outcome.time);
    if outcome.taken.is_empty() && outcome.refused.is_empty() {
        told.push_str(": nothing had changed");
    }
    outcome.taken.iter().for_each(|what| told.push_str(&format!("\ntaken: {what}")));
    outcome.refused.iter().for_each(|why| told.push_str(&format!("\nREFUSED: {why}")));
    told
}

/// A time span in its two largest units.
fn span(seconds: u64) -> String {
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, _) => format!("{minutes} min {} s", seconds % 60),
        (0, _, _) => format!("{hours} h {minutes} min"),
        _ => format!("{days} d {hours} h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_told_in_its_two_largest_units() {
        let told = [0, 59, 61, 3_600, 90_061].map(span);
        assert_eq!(told, ["0 s", "59 s", "1 min 1 s", "1 h 0 min", "1 d 1 h"]);
    }
}
