use std::time::{Duration, Instant};

use super::*;
use crate::journal::schema::TABLES;

const NOW_MS: i64 = 1_800_000_000_000; // January 2027
const KEEP: Keep = Keep { bytes: 1 << 40, days: 30 };

/// A table whose records have these times, in days before now.
fn table(days_ago: impl IntoIterator<Item = Option<i64>>) -> Connection {
    let conn = Connection::open_in_memory().unwrap();
    conn.execute_batch(TABLES).unwrap();
    conn.execute_batch("BEGIN").unwrap();
    for days in days_ago {
        let time = days.map(|days| NOW_MS - days * DAY_MS);
        conn.execute(
            "INSERT INTO record(kind, body, time) VALUES ('event', ?1, ?2)",
            ("x".repeat(500), time),
        )
        .unwrap();
    }
    conn.execute_batch("COMMIT").unwrap();
    conn
}

/// A clock that was steady for long enough.
fn steady(now: Instant) -> Steady {
    Steady { since: Some((now, NOW_MS - AGE_WAITS.as_millis() as i64)) }
}

/// Prunes once, `AGE_WAITS` after the clock's start; what went, and the oldest left.
fn pruned(conn: &mut Connection, keep: &Keep) -> (Pruned, Option<u64>) {
    let began = Instant::now();
    let tx = conn.transaction().unwrap();
    let now = (began + AGE_WAITS, NOW_MS);
    let pruned = prune(&tx, Path::new("/"), keep, &mut steady(began), now).unwrap();
    tx.commit().unwrap();
    let first = conn.query_row("SELECT min(sequence) FROM record", [], |r| r.get::<_, Option<i64>>(0));
    (pruned, first.unwrap().map(|first| first as u64))
}

fn oldest_left(days_ago: &[Option<i64>]) -> Option<u64> {
    pruned(&mut table(days_ago.iter().copied()), &KEEP).1
}

#[test]
fn what_is_older_than_keep_days_goes_in_chunks() {
    let mut conn = table((0..2_500).map(|i| Some(if i < 2_200 { 31 } else { 29 })));
    assert_eq!(pruned(&mut conn, &KEEP).1, Some(1_001));
    assert_eq!(pruned(&mut conn, &KEEP).1, Some(2_001));
    assert_eq!(pruned(&mut conn, &KEEP).1, Some(2_201));
    assert_eq!(pruned(&mut conn, &KEEP).1, Some(2_201));
    assert_eq!(pruned(&mut conn, &Keep { days: 0, ..KEEP }).1, Some(2_201));
}

#[test]
fn what_a_consumer_does_not_have_stays_whatever_its_age() {
    let mut conn = table([Some(200), Some(200), Some(200), Some(0)]);
    conn.execute("INSERT INTO cursor VALUES ('mqtt', 2)", []).unwrap();
    assert_eq!(pruned(&mut conn, &KEEP), (Pruned { healed: true, ..Pruned::default() }, Some(3)));
}

#[test]
fn a_clock_that_was_wrong_once_deletes_nothing_young() {
    let (old, young, ahead, epoch) = (Some(31), Some(29), Some(-3_650), Some(20_000));
    assert_eq!(oldest_left(&[old, ahead, old, young]), Some(4), "a time of the future among old ones");
    assert_eq!(oldest_left(&[ahead, ahead, young]), Some(1), "times of the future before young ones");
    assert_eq!(oldest_left(&[young, old, young]), Some(1), "a clock set back for a moment");
    assert_eq!(oldest_left(&[epoch, epoch, young]), Some(1), "a start at 1970");
    assert_eq!(oldest_left(&[None, None, young]), Some(1), "no time at all");
    assert_eq!(oldest_left(&[epoch, None, old, epoch, young]), Some(4), "as old as what comes after them");
    let long = [vec![epoch; PRUNE_CHUNK as usize + 10], vec![old, young]].concat();
    assert_eq!(oldest_left(&long), Some(long.len() as u64), "however many those are");
}

#[test]
fn age_counts_only_once_the_clock_ran_for_an_hour_without_a_jump() {
    let hour = AGE_WAITS;
    let began = Instant::now();
    let at = |clock: &mut Steady, after: Duration, ms: i64| clock.is_so(began + after, NOW_MS + ms);
    let ms = |time: Duration| time.as_millis() as i64;
    let mut clock = Steady::default();
    assert!(!at(&mut clock, Duration::ZERO, 0));
    assert!(!at(&mut clock, hour / 2, ms(hour / 2)));
    assert!(at(&mut clock, hour, ms(hour) + 3_000), "a few seconds are no jump");
    let years = 10 * 365 * DAY_MS;
    assert!(!at(&mut clock, hour + JUMP, ms(hour) + years), "ten years ahead");
    assert!(!at(&mut clock, hour + 2 * JUMP, ms(hour + 2 * JUMP)), "and back a minute later");
    assert!(!at(&mut clock, hour * 2, ms(hour * 2)));
    assert!(at(&mut clock, hour * 2 + 2 * JUMP, ms(hour * 2 + 2 * JUMP)));
    assert!(!at(&mut clock, hour * 3, ms(hour * 3) - 2 * ms(JUMP)), "back");
}

#[test]
fn the_size_decides_how_many_go() {
    let mb = 1_000_000;
    let keep = Keep { bytes: 100 * mb, days: 0 };
    let size = |used: u64, free: u64, disk_free: Option<u64>| {
        Size { used: used * mb, free, records: used * 1_000, disk_free }.excess(&keep)
    };
    assert_eq!(size(100, 0, None), (0, 0));
    assert_eq!(size(101, 0, None), (1_000, 0), "over the bound: a chunk of what is delivered");
    assert_eq!(
        Size { used: 100 * mb + 5_000, free: 0, records: 100_000, disk_free: None }.excess(&keep).0,
        5
    );
    assert_eq!(size(200, 0, None), (1_000, 0));
    assert_eq!(size(201, 0, None), (1_000, 1_000), "over the hard bound: the oldest, delivered or not");
    let low = Some(LEAST_FREE_BYTES - 1);
    assert_eq!(
        size(90, 0, low),
        (1_000, 1_000),
        "the disk is nearly full: what comes takes the place of the oldest"
    );
    assert_eq!(size(90, ROOM_BYTES, low), (0, 0), "there is room in the file");
    assert_eq!(size(60, 0, low), (0, 0), "a small journal is not what fills the disk");
    assert_eq!(size(90, 0, Some(LEAST_FREE_BYTES)), (0, 0));
    assert_eq!(Size { used: 0, free: 0, records: 0, disk_free: Some(0) }.excess(&keep), (0, 0));
}
