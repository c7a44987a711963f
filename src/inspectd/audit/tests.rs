//! What an auditor relies on.

use std::os::unix::fs::PermissionsExt as _;

use proptest::prelude::*;

use super::*;
use crate::journal::{Journal, JournalConfig};

fn refused(n: u64) -> What {
    What::Refused {
        place: "/m/part.onnx".into(),
        sha256: Some(format!("{n:064x}")),
        why: format!("reason {n}"),
    }
}

fn who() -> Who {
    Who { uid: 7, user: "anna".into(), sudo_user: None }
}

/// A trail with so many lines; the anchor of each.
fn trail(dir: &Path, lines: u64) -> Vec<Anchor> {
    (0..lines).map(|n| append_as(dir, &who(), refused(n)).unwrap()).collect()
}

fn text(dir: &Path) -> Vec<u8> {
    std::fs::read(dir.join(FILE)).unwrap()
}

#[test]
fn each_line_tells_who_did_what_when_and_hangs_on_the_one_before() {
    let dir = tempfile::tempdir().unwrap();
    let anchors = trail(dir.path(), 3);
    let summary = check(dir.path()).unwrap();
    assert_eq!((summary.lines, summary.first, summary.torn_bytes), (3, 1, 0));
    assert_eq!(summary.last.as_ref().unwrap().0, anchors[2]);
    anchors.iter().for_each(|anchor| summary.holds(dir.path(), anchor).unwrap());
    let text = String::from_utf8(text(dir.path())).unwrap();
    let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
    assert_eq!((&lines[1]["what"], &lines[1]["who"]["user"]), (&"refused".into(), &"anna".into()));
    assert_eq!(lines[1]["previous"], anchors[0].sha256);
    assert!(lines[2]["time"].as_str().unwrap().ends_with('Z') && lines[2]["why"] == "reason 2");
    let mode = std::fs::metadata(dir.path().join(FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o007, 0, "nothing for others");
}

#[test]
fn nothing_is_a_good_trail_without_lines() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(check(dir.path()).unwrap(), Summary::default());
    assert_eq!(check(&dir.path().join("no such")).unwrap(), Summary::default());
}

#[test]
fn a_line_taken_out_put_in_or_exchanged_is_named() {
    let dir = tempfile::tempdir().unwrap();
    trail(dir.path(), 5);
    let whole = String::from_utf8(text(dir.path())).unwrap();
    let lines: Vec<&str> = whole.lines().collect();
    let says = |lines: &[&str]| {
        std::fs::write(dir.path().join(FILE), lines.join("\n") + "\n").unwrap();
        check(dir.path()).unwrap_err().to_string()
    };
    assert!(says(&[lines[0], lines[2], lines[3], lines[4]]).contains("line 2"));
    assert!(says(&lines[1..]).contains("line 1"), "the first, too");
    assert!(says(&[lines[0], lines[1], lines[1], lines[2]]).contains("line 3"));
    assert!(says(&[lines[0], lines[2], lines[1], lines[3]]).contains("line 2"));
    // One that is whole in itself, from another trail.
    let other = tempfile::tempdir().unwrap();
    trail(other.path(), 2);
    let foreign = String::from_utf8(text(other.path())).unwrap();
    let foreign = foreign.lines().nth(1).unwrap();
    assert!(says(&[lines[0], foreign, lines[2]]).contains("line 2"));
}

#[test]
fn lines_cut_off_are_missed_by_the_journal() {
    let dir = tempfile::tempdir().unwrap();
    let journal =
        Journal::open(&JournalConfig { dir: dir.path().to_owned(), ..JournalConfig::default() }, dir.path())
            .unwrap();
    for n in 0..3 {
        daemon::tell(dir.path(), &journal, refused(n));
    }
    journal.close().unwrap();
    assert_eq!(check_with_journal(dir.path()).unwrap().lines, 3);
    trail(dir.path(), 1); // by a command, which has no journal
    let whole = text(dir.path());
    let keep = |lines: usize| {
        let ends: Vec<usize> = (0..whole.len()).filter(|&at| whole[at] == b'\n').collect();
        std::fs::write(dir.path().join(FILE), &whole[..=ends[lines - 1]]).unwrap();
        assert_eq!(check(dir.path()).unwrap().lines, lines as u64, "whole in itself");
        check_with_journal(dir.path())
    };
    assert!(keep(3).is_ok(), "one that nobody anchored");
    let error = keep(2).unwrap_err().to_string();
    assert!(error.contains("entry 3") && error.contains("cut off"), "{error}");
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    assert!(check_with_journal(dir.path()).is_err());
}

#[test]
fn a_torn_line_is_taken_out_and_told_and_the_chain_holds() {
    let dir = tempfile::tempdir().unwrap();
    trail(dir.path(), 3);
    let whole = text(dir.path());
    let second = (0..whole.len()).filter(|&at| whole[at] == b'\n').nth(1).unwrap() + 1;
    for torn in [whole[second..whole.len() - 9].to_vec(), vec![0; 300]] {
        std::fs::write(dir.path().join(FILE), [&whole[..second], &torn[..]].concat()).unwrap();
        let summary = check(dir.path()).unwrap();
        assert_eq!((summary.lines, summary.torn_bytes), (2, torn.len() as u64));
        append_as(dir.path(), &who(), refused(9)).unwrap();
        assert_eq!((check(dir.path()).unwrap().lines, check(dir.path()).unwrap().torn_bytes), (4, 0));
        let text = String::from_utf8(text(dir.path())).unwrap();
        assert!(text.lines().nth(2).unwrap().contains("torn_line") && text.contains("reason 9"));
    }
}

#[test]
fn a_full_file_is_put_away_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut anchors = trail(dir.path(), 2);
    let path = dir.path().join(FILE);
    for _ in 0..KEEP_FILES + 2 {
        let tail = chain::tail(dir.path()).unwrap();
        put_away(dir.path(), &path, &tail).unwrap(); // as a file of MAX_FILE_BYTES would be
        anchors.extend(trail(dir.path(), 2));
    }
    let summary = check(dir.path()).unwrap();
    let kept = KEEP_FILES as u64 * 2 + 2;
    assert_eq!((summary.lines, summary.first), (kept, 2 * (KEEP_FILES as u64 + 3) - kept + 1));
    anchors.iter().for_each(|anchor| summary.holds(dir.path(), anchor).unwrap());
    std::fs::remove_file(&path).unwrap();
    assert!(check(dir.path()).unwrap().holds(dir.path(), anchors.last().unwrap()).is_err());
    let middle = chain::put_away(dir.path()).unwrap().remove(4);
    std::fs::remove_file(middle).unwrap();
    assert!(matches!(check(dir.path()), Err(AuditError::Broken { line: 1, .. })));
}

#[test]
fn many_who_append_at_once_make_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| trail(dir.path(), 10));
        }
    });
    assert_eq!(check(dir.path()).unwrap().lines, 40);
}

#[test]
fn a_long_reason_is_cut() {
    let dir = tempfile::tempdir().unwrap();
    let why = "ä".repeat(1_000_000);
    append(dir.path(), What::Refused { place: "p".into(), sha256: None, why }).unwrap();
    assert!(text(dir.path()).len() < 3_000 && check(dir.path()).unwrap().lines == 1);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn any_changed_byte_is_found(at: prop::sample::Index, bits in 1u8.., lines in 1u64..5) {
        let dir = tempfile::tempdir().unwrap();
        let anchors = trail(dir.path(), lines);
        let mut changed = text(dir.path());
        let at = at.index(changed.len());
        changed[at] ^= bits;
        std::fs::write(dir.path().join(FILE), &changed).unwrap();
        let found = match check(dir.path()) {
            Err(_) => true,
            // The end of the last line: as if it was torn, but for the anchor.
            Ok(summary) => anchors.iter().any(|anchor| summary.holds(dir.path(), anchor).is_err()),
        };
        prop_assert!(found, "byte {at} of {}", changed.len());
    }

    #[test]
    fn any_bytes_are_appended_to_and_never_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(FILE), &bytes).unwrap();
        let _ = check(dir.path());
        append(dir.path(), refused(1)).unwrap();
        let _ = check(dir.path());
    }
}
