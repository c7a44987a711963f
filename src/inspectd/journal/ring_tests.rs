//! What a ring gives back, whole or damaged.

use inspect_core::verdict::FaultCode;
use proptest::prelude::*;

use super::*;
use crate::record::TriggerSource;

fn opened(part: u64) -> Opened {
    let trigger = Trigger::new(TriggerSource::Plc, jiff::Timestamp::UNIX_EPOCH);
    Opened { station: "press".into(), part, trigger, simulated: true }
}

fn ring(dir: &Path, slots: usize) -> (Ring, Found) {
    Ring::open(dir, slots).unwrap()
}

fn last(verdict: Verdict) -> Last {
    Last { verdict, gate: Gate::Pass, total_us: 77 }
}

/// Three parts: judged, being judged, open.
fn filled(dir: &Path) -> Ring {
    let (ring, found) = ring(dir, 4);
    assert_eq!((found.slots, found.parts.len(), found.damaged), (4, 0, 0));
    for (slot, order) in [(2, 7), (0, 8), (3, 9)] {
        ring.accept(slot, order, &opened(order)).unwrap();
    }
    ring.judged(2, 7, &opened(7).fault(FaultCode::Internal)).unwrap();
    ring.last(2, 7, last(Verdict::Pass)).unwrap();
    ring.judged(0, 8, &opened(8).fault(FaultCode::Internal)).unwrap();
    ring.without_slot("press", 12, 3).unwrap();
    ring
}

#[test]
fn parts_come_back_in_order_and_only_those_whose_verdict_could_be_read_are_judged() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path()));
    let (ring, found) = ring(dir.path(), 4);
    let parts: Vec<_> =
        found.parts.iter().map(|l| (l.slot, l.order, l.opened.part, l.judged.is_some())).collect();
    assert_eq!(parts, [(2, 7, 7, true), (0, 8, 8, false), (3, 9, 9, false)]);
    let judged = found.parts[0].judged.as_ref().unwrap();
    assert_eq!((judged.verdict, judged.gate, judged.times_us.total), (Verdict::Pass, Gate::Pass, 77));
    assert_eq!((judged.reason.as_ref(), &judged.trigger), (None, &opened(7).trigger));
    ring.journaled("press", 9).unwrap();
    ring.journaled("other", 4).unwrap();
    let stations = super::found(&std::fs::read(ring.path()).unwrap()).stations;
    let station = |name: &str, last, without_slot| FoundStation { name: name.into(), last, without_slot };
    assert_eq!(stations, [station("press", 12, 3), station("other", 4, 0)]);
    for slot in [0, 2, 3] {
        ring.free(slot).unwrap();
    }
    assert_eq!(super::found(&std::fs::read(ring.path()).unwrap()).parts, []);
}

#[test]
fn a_slot_that_is_used_again_never_shows_the_part_before() {
    let dir = tempfile::tempdir().unwrap();
    let ring = filled(dir.path());
    ring.free(2).unwrap();
    ring.accept(2, 10, &opened(10)).unwrap();
    let found = super::found(&std::fs::read(ring.path()).unwrap());
    let part = found.parts.iter().find(|left| left.slot == 2).unwrap();
    assert_eq!((part.opened.part, &part.judged), (10, &None));
}

#[test]
fn an_order_is_never_given_twice_so_that_no_part_takes_what_one_before_it_left() {
    let dir = tempfile::tempdir().unwrap();
    let first = filled(dir.path());
    [0, 2, 3].into_iter().for_each(|slot| first.free(slot).unwrap());
    drop(first);
    let (_, found) = ring(dir.path(), 4);
    assert_eq!((found.parts.len(), found.order), (0, 8), "of the newest half that still stands there");
}

#[test]
fn another_size_waits_until_the_ring_is_empty_and_what_is_no_ring_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let first = filled(dir.path());
    assert!(matches!(Ring::open(dir.path(), 16), Err(JournalError::InUse { .. })), "one at a time");
    drop(first);
    let (again, found) = ring(dir.path(), 16);
    assert_eq!(found.slots, 4);
    for slot in [0, 2, 3] {
        again.free(slot).unwrap();
    }
    drop(again);
    for _ in 0..2 {
        let found = ring(dir.path(), 16).1;
        let lost: Vec<_> = found.stations.iter().map(|s| (&*s.name, s.last, s.without_slot)).collect();
        assert_eq!((found.slots, lost), (16, vec![("press", 12, 3)]), "what is to be told is kept");
    }
    for garbage in [&b"no ring"[..], &[], &[0xA5; 70_000], &b"INSPRNG1 cut short"[..]] {
        std::fs::write(dir.path().join(FILE), garbage).unwrap();
        assert_eq!(ring(dir.path(), 5).1.slots, 5);
        assert_eq!(ring(dir.path(), 5).1.damaged, 0);
    }
}

#[test]
fn a_record_that_is_too_long_is_kept_without_its_views() {
    let dir = tempfile::tempdir().unwrap();
    let (ring, _) = ring(dir.path(), 2);
    ring.accept(0, 1, &opened(1)).unwrap();
    let long = Inspection { truth: Some("x".repeat(SLOT_BYTES)), ..opened(1).fault(FaultCode::Late) };
    ring.judged(0, 1, &long).unwrap();
    ring.last(0, 1, last(Verdict::Reject)).unwrap();
    let found = super::found(&std::fs::read(ring.path()).unwrap());
    let judged = found.parts[0].judged.as_ref().unwrap();
    assert_eq!((judged.verdict, &judged.truth), (Verdict::Reject, &None));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a byte becomes: a part is as it was, or damaged, and never another.
    #[test]
    fn one_wrong_byte_changes_no_part(at in 0usize..(SLOTS_AT as usize + 4 * SLOT_BYTES), flip in 1u8..) {
        let dir = tempfile::tempdir().unwrap();
        let ring = filled(dir.path());
        let mut bytes = std::fs::read(ring.path()).unwrap();
        let before = found(&bytes);
        bytes[at] ^= flip;
        let after = found(&bytes);
        for left in &after.parts {
            let known = before.parts.iter().find(|known| known.opened == left.opened);
            prop_assert!(known.is_some_and(|known| left.judged.is_none() || known.judged == left.judged));
        }
        prop_assert!(after.parts.len() >= before.parts.len() - 1 || at < 8, "one byte costs one part at most");
    }

    #[test]
    fn any_bytes_are_read(bytes in prop::collection::vec(any::<u8>(), 0..20_000), ring: bool) {
        let mut bytes = bytes;
        if ring && bytes.len() >= 8 {
            bytes[..8].copy_from_slice(&MAGIC);
        }
        found(&bytes);
    }
}
