//! What an auditor relies on.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

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
fn a_process_says_once_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let journal =
        Journal::open(&JournalConfig { dir: dir.path().to_owned(), ..JournalConfig::default() }, dir.path())
            .unwrap();
    let config =
        crate::config::Config::parse("station = []\n[journal]\ndir = '.'", Path::new("c"), dir.path());
    let mut config = config.unwrap();
    config.journal.dir = dir.path().to_owned();
    let whats = || {
        let text = String::from_utf8(text(dir.path())).unwrap();
        let of = |line: &str| serde_json::from_str::<serde_json::Value>(line).unwrap()["what"].clone();
        text.lines().map(of).collect::<Vec<_>>()
    };
    daemon::started(&config, &journal);
    // Another configuration: the same process starts what is behind the Modbus server anew.
    config.runtime.threads += 1;
    daemon::started(&config, &journal);
    daemon::configuration_taken(&config, &journal);
    assert_eq!(whats(), ["started", "configuration_taken"]);
    journal.close().unwrap();
    assert_eq!(check_with_journal(dir.path()).unwrap().lines, 2);
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
    let check = |dir: &Path| check::check_full_at(dir, 100);
    let summary = check(dir.path()).unwrap();
    let kept = KEEP_FILES as u64 * 2 + 2;
    assert_eq!((summary.lines, summary.first), (kept, 2 * (KEEP_FILES as u64 + 3) - kept + 1));
    summary.holds_all(dir.path(), &anchors).unwrap();
    // As if the chain had been made anew behind all that the journal knows of.
    let error = summary.holds_all(dir.path(), &anchors[..2]).unwrap_err();
    assert!(matches!(error, AuditError::FrontGone { .. }), "{error}");
    std::fs::remove_file(&path).unwrap();
    assert!(check(dir.path()).unwrap().holds(dir.path(), anchors.last().unwrap()).is_err());
    let error = super::check(dir.path()).unwrap_err().to_string();
    assert!(error.contains("bytes, and is put away when it has more"), "{error}");
    let oldest = chain::put_away(dir.path()).unwrap().remove(0);
    let aside = dir.path().join("aside");
    std::fs::rename(&oldest, &aside).unwrap();
    let error = check(dir.path()).unwrap_err().to_string();
    assert!(error.contains("8 files were put away, and the last 9 are kept"), "{error}");
    let renamed = dir.path().join(chain::away_name(1));
    std::fs::rename(&aside, &renamed).unwrap();
    let error = check(dir.path()).unwrap_err().to_string();
    assert!(error.contains("named after another"), "{error}");
    std::fs::rename(&renamed, &oldest).unwrap();
    let middle = chain::put_away(dir.path()).unwrap().remove(4);
    std::fs::remove_file(middle).unwrap();
    assert!(matches!(check(dir.path()), Err(AuditError::Broken { line: 1, .. })));
}

#[test]
fn a_front_that_was_cut_off_is_not_taken_for_one_deleted_for_its_age() {
    let dir = tempfile::tempdir().unwrap();
    trail(dir.path(), 60);
    let whole = String::from_utf8(text(dir.path())).unwrap();
    let end: String = whole.split_inclusive('\n').skip(49).collect();
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    for name in ["audit-000000000200.jsonl", "audit-000000000060.jsonl"] {
        std::fs::write(dir.path().join(name), &end).unwrap();
        let error = check(dir.path()).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains("begins with entry 50"), "{error}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
}

#[test]
fn an_installation_whose_end_no_line_tells_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let place = |name: &str| PathBuf::from(format!("/m/{name}.onnx"));
    let begin = |name: &str, sha256: &str| {
        let (place, sha256) = (place(name), sha256.to_owned());
        append(dir.path(), What::Placing { place, sha256, before: None, agreed: Agreed::Option }).unwrap();
    };
    let end = |name: &str, sha256: &str| {
        let (place, sha256) = (place(name), sha256.to_owned());
        append(dir.path(), What::RolledBack { place, sha256, before: None, but: None }).unwrap();
    };
    let unfinished = || {
        let found = check(dir.path()).unwrap().unfinished;
        found.into_iter().map(|u| (u.place, u.sha256)).collect::<Vec<_>>()
    };
    begin("a", "1");
    end("a", "1");
    assert!(unfinished().is_empty());
    begin("a", "2");
    begin("b", "2");
    end("b", "2");
    // Another that did not get so far says nothing of it.
    let why = "no model".to_owned();
    append(dir.path(), What::Refused { place: place("a"), sha256: Some("3".into()), why }).unwrap();
    assert_eq!(unfinished(), [(place("a"), "2".to_owned())]);
    begin("a", "4");
    assert_eq!(unfinished(), [(place("a"), "4".to_owned())]);
    end("a", "4");
    assert!(unfinished().is_empty());
}

/// A file that is not the service's, and a folder that is, where the test may say so.
fn folder_of_the_service() -> (tempfile::TempDir, tempfile::TempDir, PathBuf) {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(dir.path(), Some(4_242), Some(4_242)).unwrap();
    }
    let file = other.path().join("shadow");
    std::fs::write(&file, "root's own").unwrap();
    (dir, other, file)
}

#[test]
fn a_link_in_the_folder_of_the_service_leads_root_nowhere() {
    let (dir, _other, file) = folder_of_the_service();
    let owner = std::fs::metadata(&file).unwrap().uid();
    for name in [LOCK, FILE] {
        std::os::unix::fs::symlink(&file, dir.path().join(name)).unwrap();
        let error = append(dir.path(), refused(1)).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
        let now = std::fs::metadata(&file).unwrap();
        assert_eq!((now.uid(), now.len()), (owner, 10), "{name}");
        std::fs::remove_file(dir.path().join(name)).unwrap();
    }
    // One that leads to nothing makes nothing.
    std::os::unix::fs::symlink(file.with_extension("new"), dir.path().join(FILE)).unwrap();
    assert!(append(dir.path(), refused(1)).is_err() && !file.with_extension("new").exists());
    std::fs::remove_file(dir.path().join(FILE)).unwrap();
    append(dir.path(), refused(1)).unwrap();
    let of = |path: &Path| std::fs::metadata(path).unwrap().uid();
    assert_eq!(of(&dir.path().join(FILE)), of(dir.path()), "what is made belongs to the folder's owner");
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
