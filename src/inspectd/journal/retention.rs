//! What is kept: bounded by size and by age, and what no consumer has yet kept beyond both.
//!
//! Terms. A record is *delivered* once every cursor has passed it. The *bound* is `max_mb` and `keep_days`: beyond
//! it delivered records go, the oldest first. The *hard bound* is [`HARD_FACTOR`] times `max_mb`, or a disk with less
//! than [`LEAST_FREE_BYTES`] left: there the oldest records go, delivered or not, and that is an alarm.
//!
//! The order of records is that of their sequences; a clock may have been wrong when one was written, or be wrong
//! now. So age counts only
//! - once the clock has run without a jump for [`AGE_WAITS`] by the monotonic clock,
//! - by times that can be true: not before [`FIRST_TIME_MS`], not in the future,
//! - from the oldest record on, up to the first whose time says that it is young.
//!
//! A clock that stands years ahead for more than [`AGE_WAITS`] does make everything old that is delivered.
//!
//! What is deleted makes room in the file for what comes; the file itself does not shrink.
//!
//! Never here: more than [`PRUNE_CHUNK`] records in one commit; a scan of the table.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction};

use super::PRUNE_CHUNK;

/// The hard bound, in sizes of the bound.
pub const HARD_FACTOR: u64 = 2;
/// With less than this left on the disk the journal does not grow.
pub const LEAST_FREE_BYTES: u64 = 200 << 20;
/// A journal smaller than this may grow however full the disk is.
pub const LEAST_KEPT_BYTES: u64 = 64 << 20;
/// Room within the file that is made at a time where the disk has none.
const ROOM_BYTES: u64 = 2 << 20;
/// How long the clock must have run steadily before age counts.
pub const AGE_WAITS: Duration = Duration::from_secs(3_600);
/// How far the clock may go from the monotonic one before that is a jump.
const JUMP: Duration = Duration::from_secs(60);
/// No record is older than the program: 2026-01-01, Unix milliseconds.
const FIRST_TIME_MS: i64 = 1_767_225_600_000;
/// So many times as many records as are deleted are looked at for one whose time can be true.
const LOOK_PAST: u64 = 10;
const DAY_MS: i64 = 86_400_000;

/// The bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Keep {
    /// Size.
    pub bytes: u64,
    /// Age; 0: none.
    pub days: u32,
}

/// Whether the clock can be believed.
#[derive(Debug, Default)]
pub(super) struct Steady {
    /// Since when there was no jump: monotonic, and Unix milliseconds.
    since: Option<(Instant, i64)>,
}

impl Steady {
    /// Whether it has run without a jump for [`AGE_WAITS`]. To be asked at every commit.
    fn is_so(&mut self, now: Instant, now_ms: i64) -> bool {
        let (since, since_ms) = *self.since.get_or_insert((now, now_ms));
        let ran = now.saturating_duration_since(since);
        let expected = since_ms.saturating_add(ran.as_millis() as i64);
        if now_ms.abs_diff(expected) > JUMP.as_millis() as u64 {
            self.since = Some((now, now_ms));
            return false;
        }
        ran >= AGE_WAITS
    }
}

/// What decides how much goes because of its size.
#[derive(Debug, Clone, Copy)]
struct Size {
    /// Pages in use, in bytes.
    used: u64,
    /// Free pages within the file, in bytes.
    free: u64,
    records: u64,
    /// What the disk has left; none where it does not tell.
    disk_free: Option<u64>,
}

impl Size {
    /// Of the journal as this transaction sees it.
    fn of(tx: &Connection, path: &Path) -> rusqlite::Result<Self> {
        let mut pages = tx.prepare_cached(
            "SELECT page_count, freelist_count, page_size
             FROM pragma_page_count, pragma_freelist_count, pragma_page_size",
        )?;
        let (pages, free, bytes) =
            pages.query_row([], |r| Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, r.get::<_, i64>(2)?)))?;
        let mut ends = tx.prepare_cached(
            // Apart, each is one look; together they are a scan.
            "SELECT (SELECT min(sequence) FROM record), (SELECT max(sequence) FROM record)",
        )?;
        let (first, last): (Option<i64>, Option<i64>) = ends.query_row([], |r| Ok((r.get(0)?, r.get(1)?)))?;
        let records =
            last.zip(first).map_or(0, |(last, first)| last.saturating_sub(first).unsigned_abs() + 1);
        let disk = rustix::fs::statvfs(path).ok();
        let size = |pages: i64| pages.max(0) as u64 * bytes.max(0) as u64;
        Ok(Self {
            used: size(pages.saturating_sub(free)),
            free: size(free),
            records,
            disk_free: disk.map(|disk| disk.f_bavail.saturating_mul(disk.f_frsize)),
        })
    }

    /// How many records are that many bytes, at most [`PRUNE_CHUNK`].
    fn records_in(&self, bytes: u64) -> u64 {
        let each = (self.used / self.records.max(1)).max(1);
        bytes.div_ceil(each).min(PRUNE_CHUNK)
    }

    fn disk_is_low(&self) -> bool {
        self.used > LEAST_KEPT_BYTES && self.disk_free.is_some_and(|free| free < LEAST_FREE_BYTES)
    }

    /// How many of the oldest go: of those that are delivered, and of all.
    fn excess(&self, keep: &Keep) -> (u64, u64) {
        let over = |bound: u64| self.records_in(self.used.saturating_sub(bound));
        let room = if self.disk_is_low() && self.free < ROOM_BYTES { self.records_in(ROOM_BYTES) } else { 0 };
        (over(keep.bytes).max(room), over(keep.bytes.saturating_mul(HARD_FACTOR)).max(room))
    }
}

/// What went that no consumer had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Pruned {
    /// How many.
    pub undelivered: u64,
    /// Newest sequence that went with them.
    pub up_to: u64,
    /// Nothing presses against the hard bound any more.
    pub healed: bool,
}

/// Deletes what is over the bounds, at most [`PRUNE_CHUNK`] records.
pub(super) fn prune(
    tx: &Transaction<'_>,
    path: &Path,
    keep: &Keep,
    steady: &mut Steady,
    now: (Instant, i64),
) -> rusqlite::Result<Pruned> {
    let size = Size::of(tx, path)?;
    let (delivered, any) = size.excess(keep);
    let mut cursors = tx.prepare_cached("SELECT coalesce(min(sequence), 9223372036854775807) FROM cursor")?;
    let passed: i64 = cursors.query_row([], |r| r.get(0))?;
    let steady = steady.is_so(now.0, now.1);
    let young_ms = now.1.saturating_sub(i64::from(keep.days).saturating_mul(DAY_MS));
    let mut last = None;
    if delivered > 0 {
        last = last.max(oldest(tx, delivered, passed)?);
    }
    if any > 0 {
        last = last.max(oldest(tx, any, i64::MAX)?);
    }
    if keep.days > 0 && steady {
        last = last.max(aged(tx, passed, young_ms, now.1)?);
    }
    let mut pruned = Pruned::default();
    if let Some(last) = last {
        if last > passed {
            let mut count =
                tx.prepare_cached("SELECT count(*) FROM record WHERE sequence > ?1 AND sequence <= ?2")?;
            pruned.undelivered = count.query_row((passed, last), |r| r.get::<_, i64>(0))?.max(0) as u64;
            pruned.up_to = last.max(0) as u64;
        }
        tx.prepare_cached("DELETE FROM record WHERE sequence <= ?1")?.execute([last])?;
    }
    // Well below the hard bound: at the bound itself a journal stands for years.
    let halfway = keep.bytes.saturating_mul(1 + HARD_FACTOR) / 2;
    pruned.healed = size.used <= halfway && !size.disk_is_low();
    Ok(pruned)
}

/// The last of the `count` oldest records up to `passed`.
fn oldest(tx: &Connection, count: u64, passed: i64) -> rusqlite::Result<Option<i64>> {
    tx.prepare_cached(
        "SELECT max(sequence) FROM (SELECT sequence FROM record WHERE sequence <= ?1 ORDER BY sequence LIMIT ?2)",
    )?
    .query_row((passed, count as i64), |r| r.get(0))
}

/// The last of the oldest records, at most [`PRUNE_CHUNK`], that is too old, before the first that is young. Those before
/// it whose time cannot be true are looked past: a machine without a battery starts in 1970 until a time server answers.
fn aged(tx: &Connection, passed: i64, young_ms: i64, now_ms: i64) -> rusqlite::Result<Option<i64>> {
    let mut times = tx.prepare_cached(
        "SELECT sequence, time FROM record WHERE sequence <= ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let mut rows = times.query((passed, (PRUNE_CHUNK * LOOK_PAST) as i64))?;
    let (mut last, mut looked) = (None, 0);
    while let Some(row) = rows.next()? {
        looked += 1;
        if looked > PRUNE_CHUNK && last.is_some() {
            break;
        }
        match row.get::<_, Option<i64>>(1)? {
            Some(time) if (FIRST_TIME_MS..young_ms).contains(&time) => last = Some(row.get(0)?),
            Some(time) if (young_ms..=now_ms).contains(&time) => break,
            // No time that can be true: what stands around it tells.
            _ => {}
        }
    }
    Ok(last)
}

#[cfg(test)]
#[path = "retention_tests.rs"]
mod tests;
