//! What `inspectd journal` says: of a sound journal, of a damaged one, and as files for other programs.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use inspect_core::verdict::{FaultCode, Verdict};
use inspectd::journal::Journal;
use inspectd::record::{Event, EventKind, Inspection, RecipeStamp};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use parquet::record::Field;

use crate::peers::wait_for;
use crate::{LONG, all, config, files, inspection, judge, take, write};

const SERIAL: &str = "Ä-1, \"x\"\r\n2";

fn journal_command(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    command.arg("journal").args(args).arg("--dir").arg(dir).env("TZ", "UTC");
    command
}

fn run(args: &[&str], dir: &Path) -> Output {
    journal_command(args, dir).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap() + &String::from_utf8_lossy(&output.stderr)
}

/// Three parts of two stations and an event.
fn small(dir: &Path) -> Vec<Inspection> {
    let journal = Journal::open(&config(dir), dir).unwrap();
    let mut records = Vec::new();
    for (station, verdict) in
        [("a", Verdict::Pass), ("b", Verdict::Reject), ("a", Verdict::Fault(FaultCode::Late))]
    {
        let taken = take(&journal, station);
        let mut record = inspection(station, taken.part);
        record.verdict = verdict;
        record.reason = None;
        record.recipe = Some(RecipeStamp { number: 7, name: "lid".into(), sha256: "ab".into() });
        record.trigger.serial = Some(SERIAL.into());
        record.trigger.trigger_id = Some(17);
        record.views = [0.25, 0.125].map(crate::figures::view).to_vec();
        judge(taken.slot.unwrap(), record.clone());
        record.publish(verdict, record.gate, 0);
        records.push(record);
    }
    journal.event(Event::now(EventKind::Started, None, "inspectd, \"quoted\""));
    journal.close().unwrap();
    records
}

#[test]
fn check_is_content_with_a_sound_journal_and_beside_a_running_daemon() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    let uuid = journal.committed().borrow().journal;
    journal.set_cursor("mqtt", uuid, 2);
    write(&journal, "a");
    let in_hand = take(&journal, "a");
    wait_for("the commit", LONG, || journal.committed().borrow().sequence == 5);
    let output = run(&["check"], dir.path());
    let text = said(&output);
    assert!(output.status.success(), "{text}");
    for expected in [
        &uuid.to_string()[..],
        "5, sequences 1 to 5",
        "a: 3 parts, 1 to 3",
        "up to 2, 3 behind",
        "1 parts in hand",
        "sound",
    ] {
        assert!(text.contains(expected), "{expected}: {text}");
    }
    drop(in_hand);
    journal.close().unwrap();
}

/// Changes a journal as it should never be changed.
fn tampered(sql: &str) -> (tempfile::TempDir, String, bool) {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    rusqlite::Connection::open(dir.path().join("journal.db")).unwrap().execute_batch(sql).unwrap();
    let output = run(&["check"], dir.path());
    let text = said(&output);
    (dir, text, output.status.success())
}

#[test]
fn check_finds_what_should_not_be_and_says_what_to_do() {
    for (sql, expected) in [
        ("DELETE FROM record WHERE sequence = 2", "sequences 2 to 2 are missing"),
        ("UPDATE record SET body = '{}' WHERE sequence = 2", "sequence 2: its record cannot be understood"),
        (
            "UPDATE record SET body = replace(body, '\"part\":2', '\"part\":1'), part = 1 WHERE sequence = 3",
            "station a: part 1 is there twice",
        ),
        (
            "UPDATE record SET body = replace(body, '\"part\":2', '\"part\":9'), part = 9 WHERE sequence = 3",
            "parts 2 to 8 are missing",
        ),
        ("UPDATE record SET part = 5 WHERE sequence = 2", "sequence 2: its columns"),
        ("UPDATE record SET time = time - 5000 WHERE sequence = 4", "sequence 4: its columns"),
        ("INSERT INTO cursor VALUES ('mqtt', 99)", "consumer mqtt: it has records up to 99, of 4"),
        ("UPDATE station SET part = 1 WHERE name = 'a'", "station a: its last part is 2"),
        ("UPDATE meta SET value = '9' WHERE key = 'schema'", "at most 2, got 9"),
        ("UPDATE meta SET value = 'x' WHERE key = 'journal'", "damaged"),
        ("DROP TABLE record", "damaged"),
    ] {
        let (_dir, text, sound) = tampered(sql);
        assert!(!sound && text.contains(expected) && text.contains("NOT SOUND"), "{sql}: {text}");
    }
    let (dir, _, sound) = tampered("");
    assert!(sound);
    std::fs::write(dir.path().join("audit.jsonl"), "{\"entry\": 1}\n").unwrap();
    let output = run(&["check"], dir.path());
    assert!(
        !output.status.success() && said(&output).contains("audit.jsonl, line 1: changed"),
        "{}",
        said(&output)
    );
    let none = tempfile::tempdir().unwrap();
    let output = run(&["check"], none.path());
    assert!(!output.status.success() && said(&output).contains("there is no journal"), "{}", said(&output));
    let (_dir, text, sound) = tampered("DELETE FROM record WHERE sequence = 1");
    assert!(sound && text.contains("up to sequence 1 are gone"), "old records may be gone: {text}");
}

#[test]
fn check_explains_a_power_cut_and_lost_parts() {
    let dir = tempfile::tempdir().unwrap();
    small(dir.path());
    let conn = rusqlite::Connection::open(dir.path().join("journal.db")).unwrap();
    conn.execute("UPDATE meta SET value = '0' WHERE key = 'clean'", []).unwrap();
    conn.execute("UPDATE meta SET value = 'another start' WHERE key = 'boot'", []).unwrap();
    drop(conn);
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    write(&journal, "a");
    journal.close().unwrap();
    let output = run(&["check", "--json"], dir.path());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{json:#}");
    assert_eq!(
        json["stations"][0]["gaps"][0],
        serde_json::json!({"from": 3, "to": 10_002, "explained_by": 10_005})
    );
    assert!(
        json["notes"].to_string().contains("sequences 5 to 10004 were skipped after a power cut"),
        "{json:#}"
    );
}

#[test]
fn tail_shows_the_newest_and_follows() {
    let dir = tempfile::tempdir().unwrap();
    let records = small(dir.path());
    let text = said(&run(&["tail", "-n", "2"], dir.path()));
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    let time = records[2].trigger.accepted.strftime("%Y-%m-%d %H:%M:%S%.3f+00:00").to_string();
    assert!(lines[0].starts_with(&time), "{text}");
    for word in ["part 2", "fault", "id 17", "serial Ä-1", FaultCode::Late.meaning()] {
        assert!(lines[0].contains(word), "{word}: {text}");
    }
    assert!(lines[1].contains("started: inspectd, \"quoted\""), "{text}");
    let text = said(&run(&["tail", "--station", "b", "--kind", "inspection", "--json"], dir.path()));
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&json["sequence"], &json["verdict"]), (&2.into(), &"reject".into()));

    let mut child =
        journal_command(&["tail", "-n", "1", "--follow"], dir.path()).stdout(Stdio::piped()).spawn().unwrap();
    let (told, lines) = std::sync::mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    std::thread::spawn(move || out.lines().try_for_each(|line| told.send(line.unwrap())));
    let next = || lines.recv_timeout(LONG).unwrap();
    assert!(next().contains("started"));
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    write(&journal, "c");
    assert!(next().contains("  c  "));
    // Put aside under its eyes: it goes on with the new one.
    journal.suspect(journal.committed().borrow().journal, "a test");
    assert!(next().contains("journal_quarantined"));
    child.kill().unwrap();
    child.wait().unwrap();
    journal.close().unwrap();
}

fn exported(dir: &Path, format: &str, more: &[&str]) -> PathBuf {
    let out = dir.join(format!("out.{format}"));
    let args = [&["export", "--format", format, "--out", out.to_str().unwrap()], more].concat();
    let output = run(&args, dir);
    assert!(output.status.success(), "{}", said(&output));
    assert!(files(dir, ".part").is_empty());
    out
}

#[test]
fn csv_opens_in_a_spreadsheet() {
    let dir = tempfile::tempdir().unwrap();
    let records = small(dir.path());
    let bytes = std::fs::read(exported(dir.path(), "csv", &[])).unwrap();
    let text = std::str::from_utf8(bytes.strip_prefix(b"\xEF\xBB\xBF").expect("the mark")).unwrap();
    assert!(text.contains("\"Ä-1, \"\"x\"\"\r\n2\""), "RFC 4180");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let names = reader.headers().unwrap().clone();
    let rows: Vec<csv::StringRecord> = reader.records().map(Result::unwrap).collect();
    let cell = |row: usize, name: &str| rows[row].get(names.iter().position(|n| n == name).unwrap()).unwrap();
    assert_eq!(rows.len(), 3, "a row for each part, none for the event");
    assert_eq!((cell(1, "station"), cell(1, "verdict"), cell(2, "fault")), ("b", "reject", "late"));
    assert_eq!(cell(2, "fault_code"), FaultCode::Late.code().to_string());
    assert_eq!(cell(0, "serial"), SERIAL);
    assert_eq!(cell(0, "time").parse::<jiff::Timestamp>().unwrap(), records[0].trigger.accepted);
    assert_eq!((cell(0, "views"), cell(0, "view1_score"), cell(0, "view3_score")), ("2", "0.25", ""));
    assert_eq!((cell(0, "recipe_number"), cell(0, "recipe")), ("7", "lid"));
    let only_b = std::fs::read_to_string(exported(dir.path(), "csv", &["--station", "b"])).unwrap();
    assert_eq!(csv::Reader::from_reader(only_b.as_bytes()).records().count(), 1);
    let second = records[1].trigger.accepted.to_string();
    let from = std::fs::read_to_string(exported(dir.path(), "csv", &["--from", &second])).unwrap();
    assert_eq!(csv::Reader::from_reader(from.as_bytes()).records().count(), 2);
    let to = std::fs::read_to_string(exported(dir.path(), "csv", &["--to", "2026-01-01"])).unwrap();
    assert_eq!(csv::Reader::from_reader(to.as_bytes()).records().count(), 0);
    let events = std::fs::read_to_string(exported(dir.path(), "csv", &["--kind", "event"])).unwrap();
    assert!(events.contains(",started,,,,,\"inspectd, \"\"quoted\"\"\"\r\n"), "{events}");
}

#[test]
fn parquet_and_json_lines_hold_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let records = small(dir.path());
    let reader =
        SerializedFileReader::new(File::open(exported(dir.path(), "parquet", &[])).unwrap()).unwrap();
    let rows: Vec<_> = reader.get_row_iter(None).unwrap().map(Result::unwrap).collect();
    assert_eq!(rows.len(), 3);
    for (row, record) in rows.iter().zip(&records) {
        let cell = |name: &str| row.get_column_iter().find(|(n, _)| *n == name).unwrap().1.clone();
        assert_eq!(cell("time"), Field::TimestampMicros(record.trigger.accepted.as_microsecond()));
        assert_eq!(cell("station"), Field::Str(record.station.clone()));
        assert_eq!(cell("part"), Field::Long(record.part as i64));
        assert_eq!(cell("verdict"), Field::Str(record.verdict.word().to_owned()));
        assert_eq!(cell("serial"), Field::Str(SERIAL.to_owned()));
        assert_eq!(cell("challenge"), Field::Bool(false));
        assert_eq!(cell("view1_score"), Field::Float(0.25));
        assert_eq!((cell("view3_score"), cell("encoder")), (Field::Null, Field::Null));
    }
    let text = std::fs::read_to_string(exported(dir.path(), "jsonl", &[])).unwrap();
    let lines: Vec<serde_json::Value> =
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.iter().map(|l| l["sequence"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    assert_eq!(lines[3]["event"], "started");
    let again: Inspection = serde_json::from_value(lines[1].clone()).unwrap();
    assert_eq!(again.trigger, records[1].trigger);
}

#[test]
fn what_can_be_read_of_a_journal_that_was_put_aside_is_exported_and_check_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    (1..=2_000).for_each(|_| _ = write(&journal, "a"));
    journal.close().unwrap();
    let path = dir.path().join("journal.db");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[4096 * 100..4096 * 110].fill(0xA5);
    std::fs::write(&path, &bytes).unwrap();
    let output = run(&["check"], dir.path());
    assert!(
        !output.status.success() && said(&output).contains("puts this journal aside"),
        "{}",
        said(&output)
    );
    let journal = Journal::open(&config(dir.path()), dir.path()).unwrap();
    wait_for("it to be put aside", LONG, || journal.health().borrow().quarantined == 1);
    journal.close().unwrap();
    let aside = files(dir.path(), "journal.quarantined-");
    let aside = aside.iter().find(|path| path.extension().unwrap() == "db").unwrap();
    let output = run(&["check"], dir.path());
    assert!(output.status.success() && said(&output).contains(aside.to_str().unwrap()), "{}", said(&output));
    let out = dir.path().join("saved.jsonl");
    let output = run(&["export", "--format", "jsonl", "--out", out.to_str().unwrap()], aside);
    let text = said(&output);
    assert!(!output.status.success() && text.contains("damaged after sequence"), "{text}");
    let saved = std::fs::read_to_string(&out).unwrap();
    let sequences: Vec<u64> = saved
        .lines()
        .map(|l| serde_json::from_str::<serde_json::Value>(l).unwrap()["sequence"].as_u64().unwrap())
        .collect();
    println!("{} of 2000 records saved: {text}", sequences.len());
    assert!(sequences.len() > 1_900 && sequences.len() < 2_000);
    assert!(
        sequences.is_sorted_by(|a, b| a < b)
            && sequences.first() == Some(&1)
            && sequences.last() == Some(&2_000)
    );
    assert_eq!(all(dir.path()).len(), 1, "the new journal says that the old was put aside");
}
