//! `inspectd model` with the real program, the real model and simulated parts: through the gate, past it, and back.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use inspect_core::model::sha256;
use inspect_core::verdict::FaultCode;
use inspectd::audit::{check, check_with_journal};
use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::JournalReader;
use inspectd::record::Inspection;
use minisign::KeyPair;
use serde_json::Value;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
    [modbus]
    listen = "127.0.0.1:0"
    [journal]
    dir = "journal"
    [archive]
    pass_every = 1
    min_free_gb = 0
    [models]
    [runtime]
    providers = ["cpu"]
    [[station]]
    name = "s1"
    trigger = { source = "clock", period_ms = 200 }
    deadline_ms = 200
    gate = { time_to_gate_ms = 230, plc_poll_ms = 10, plc_scan_ms = 20 }
    [[station.view]]
    name = "top"
    model = "part.onnx"
    camera = { kind = "simulated", seed = 5, defect_rate = 0.3, width = 128, height = 128 }
"#;

/// A folder with a configuration and a model in its place.
struct Line {
    folder: tempfile::TempDir,
}

impl Line {
    fn new() -> Self {
        let line = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::write(line.path("line.toml"), CONFIG).unwrap();
        std::fs::write(line.path("part.onnx"), demo()).unwrap();
        line
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn set_key(&self, keys: &KeyPair) {
        let key = format!("[models]\n    public_key = \"{}\"", keys.pk.to_base64());
        std::fs::write(self.path("line.toml"), CONFIG.replace("[models]", &key)).unwrap();
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        std::fs::write(self.path(name), bytes).unwrap();
        self.path(name).to_str().unwrap().to_owned()
    }

    fn in_place(&self) -> Vec<u8> {
        std::fs::read(self.path("part.onnx")).unwrap()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inspectd"));
        command.args(args).args(["--config", self.path("line.toml").to_str().unwrap()]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    #[track_caller]
    fn model(&self, args: &[&str], code: i32) -> Said {
        let said = Said(self.command(&[&["model"], args].concat()).output().unwrap());
        assert_eq!(said.0.status.code(), Some(code), "{}\n{}", said.out(), said.err());
        said
    }

    fn daemon(&self) -> Running {
        let mut command = self.command(&["run"]);
        Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Frames in the archive.
    fn frames(&self) -> usize {
        files(&self.path("journal/archive")).iter().filter(|f| f.ends_with("-top.png")).count()
    }

    /// Model of the newest part.
    fn judged_by(&self) -> Option<String> {
        let entries = JournalReader::open(&self.path("journal")).ok()?.after(0, 100_000).ok()?;
        let newest = entries.iter().rfind(|entry| entry.kind == "inspection")?;
        let newest: Inspection = serde_json::from_str(&newest.json).unwrap();
        Some(newest.views[0].model_sha256.clone())
    }

    /// What stands in the audit trail, in its order.
    fn audited(&self) -> Vec<String> {
        check(&self.path("journal")).unwrap();
        let text = std::fs::read_to_string(self.path("journal/audit.jsonl")).unwrap();
        let what =
            |line: &str| serde_json::from_str::<Value>(line).unwrap()["what"].as_str().unwrap().to_owned();
        text.lines().map(what).collect()
    }
}

fn demo() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx")).unwrap()
}

/// The demo's model with limits so low that hardly anything passes.
fn tightened() -> Vec<u8> {
    let mut bytes = demo();
    let find = |bytes: &[u8], from: usize, text: &[u8]| {
        from + bytes[from..].windows(text.len()).position(|w| w == text).unwrap() + text.len()
    };
    let card = find(&bytes, 0, br#""thresholds":{"#);
    for name in [&br#""review":"#[..], br#""reject":"#] {
        let at = find(&bytes, card, name);
        assert_eq!(bytes[at + 1], b'.');
        bytes[at] = b'0';
        bytes[at + 2..at + 4].copy_from_slice(b"50");
    }
    bytes
}

fn files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let of =
        |path: PathBuf| if path.is_dir() { files(&path) } else { vec![path.to_str().unwrap().to_owned()] };
    entries.flat_map(of).collect()
}

#[track_caller]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

struct Said(Output);

impl Said {
    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out()).unwrap()
    }
}

/// A process that is ended whatever becomes of the test.
struct Running(Child);

impl Running {
    fn stop(mut self) {
        let done = Command::new("kill").args(["-s", "TERM", &self.0.id().to_string()]).status();
        assert!(done.unwrap().success() && self.0.wait().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_model_is_tried_agreed_to_put_into_service_and_taken_back_beside_the_running_line() {
    let line = Line::new();
    let daemon = line.daemon();
    until("archived parts", || line.frames() >= 12);
    let (old, new) = (sha256(&demo()), sha256(&tightened()));
    let file = line.write("new.onnx", &tightened());

    let report = line.path("report");
    let said = line.model(&["install", &file, "--shadow", "10", "--report", report.to_str().unwrap()], 3);
    assert!(
        said.out().contains("10 frames tried") && said.out().contains("no longer pass"),
        "{}",
        said.out()
    );
    assert!(said.err().contains("nobody agreed"), "{}", said.err());
    assert_eq!(line.in_place(), demo());
    let page = std::fs::read_to_string(report.join("index.html")).unwrap();
    let pictures: Vec<&str> =
        page.split("<img src=\"").skip(1).map(|p| p.split('"').next().unwrap()).collect();
    assert!(pictures.len() >= 3 && pictures.iter().all(|picture| report.join(picture).is_file()), "{page}");

    let said =
        line.model(&["install", &file, "--yes", "--json", "--station", "s1", "--view", "top"], 0).json();
    let totals = &said["shadow"]["totals"];
    assert!(totals["frames"].as_u64() >= Some(12) && totals["pass_lost"].as_u64() > Some(0), "{totals}");
    assert_eq!((&totals["pass_gained"], &said["agreed"]), (&0.into(), &"option".into()));
    assert_eq!((&said["sha256"], &said["before"]), (&new.clone().into(), &old.clone().into()));
    assert_eq!(said["daemon"]["told"], true, "{}", said["daemon"]);
    assert_eq!(line.in_place(), tightened());
    until("a part judged by the new model", || line.judged_by().as_ref() == Some(&new));
    let again = line.model(&["install", &file], 0);
    assert!(again.out().contains("already"), "{}", again.out());

    line.model(&["rollback", "--as", line.path("part.onnx").to_str().unwrap()], 0);
    assert_eq!(line.in_place(), demo());
    until("a part judged by the one before", || line.judged_by().as_ref() == Some(&old));
    line.model(&["rollback"], 1);
    line.model(&["rollback", "--to", &new[..8], "--shadow", "4"], 3);

    let list = line.model(&["list", "--json"], 0).json();
    assert_eq!(
        (list[0]["sha256"].as_str(), list[0]["in_service"].as_str(), list[0]["users"][0].as_str()),
        (Some(&*old), Some(&*old), Some("station s1, view top"))
    );
    let how: Vec<&str> =
        list[0]["history"].as_array().unwrap().iter().map(|e| e["how"].as_str().unwrap()).collect();
    assert_eq!(how, ["found", "installed", "rolled_back"]);
    let told = line.model(&["list"], 0).out();
    assert!(told.contains("put back by") && !told.contains("NOT in service"), "{told}");
    // As where the installer is killed before it has told the daemon.
    std::fs::rename(line.write("unheard.onnx", &tightened()), line.path("part.onnx")).unwrap();
    let told = line.model(&["list"], 0).out();
    assert!(told.contains(&format!("NOT in service: the daemon goes on with {}", &old[..8])), "{told}");
    daemon.stop();
    let audited = line.audited();
    assert_eq!(audited[0], "started");
    let of = |what: &str| audited.iter().filter(|a| *a == what).count();
    assert_eq!(
        (of("install_begun"), of("installed"), of("rolled_back"), of("shadow")),
        (2, 1, 1, 3),
        "{audited:?}"
    );
    let summary = check_with_journal(&line.path("journal")).unwrap();
    assert_eq!(summary.lines, audited.len() as u64);
}

#[test]
fn without_frames_somebody_has_to_agree_and_what_does_not_load_never_gets_that_far() {
    let line = Line::new();
    let file = line.write("new.onnx", &tightened());
    let said = line.model(&["install", &file], 3);
    assert!(said.err().contains("no archived frame"), "{}", said.err());
    let cut = line.write("cut.onnx", &demo()[..100_000]);
    assert!(line.model(&["install", &cut, "--yes"], 1).err().contains("truncated"));
    let mut broken = tightened();
    let at = broken.windows(8).position(|w| w == br#""score":"#).unwrap() + 8;
    broken[at] = if broken[at] == b'5' { b'6' } else { b'5' }; // a golden score that nothing gives
    let broken = line.write("broken.onnx", &broken);
    assert!(line.model(&["install", &broken, "--yes"], 1).err().contains("golden"));
    assert!(
        line.model(&["install", &file, "--as", "/no/such.onnx"], 1).err().contains("part.onnx (station s1")
    );
    assert_eq!(line.in_place(), demo());
    let audited = line.audited();
    assert_eq!(audited.iter().filter(|a| *a == "refused").count(), 3, "{audited:?}");
    // A place that is empty is filled.
    std::fs::remove_file(line.path("part.onnx")).unwrap();
    line.model(&["install", &file, "--yes"], 0);
    assert_eq!(line.in_place(), tightened());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_a_key_is_set_nobody_gets_around_it() {
    let line = Line::new();
    let keys = KeyPair::generate_unencrypted_keypair().unwrap();
    line.set_key(&keys);
    let sign = |bytes: &[u8], comment: &str| {
        minisign::sign(None, &keys.sk, bytes, Some(comment), None).unwrap().into_string()
    };
    let new = line.write("new.onnx", &tightened());
    assert!(line.model(&["install", &new, "--yes"], 1).err().contains("not signed"));
    line.write("new.onnx.minisig", sign(&demo(), "of another model").as_bytes());
    assert!(line.model(&["install", &new, "--yes"], 1).err().contains("not good"));
    line.write("new.onnx.minisig", sign(&tightened(), "released by anna").as_bytes());
    let said = line.model(&["install", &new, "--yes"], 0);
    assert!(said.out().contains("released by anna"), "{}", said.out());
    assert_eq!(line.in_place(), tightened());
    let list = line.model(&["list", "--json"], 0).json();
    assert_eq!(list[0]["signature"], "good: released by anna");
    assert_eq!(list[0]["history"][1]["signed_by"]["comment"], "released by anna");
    // The one before came without a signature.
    assert!(line.model(&["rollback"], 1).err().contains("not signed"));

    let config = Config::read(&line.path("line.toml")).unwrap();
    let fault = async || {
        let daemon = Daemon::start(&config, Seams::configured(&config)).await.unwrap();
        let mut state = daemon.states[0].clone();
        let settled = state.wait_for(|state| state.fault != Some(FaultCode::Starting));
        let state = tokio::time::timeout(PATIENCE, settled).await.unwrap().unwrap().clone();
        daemon.stop().await;
        (state.fault, state.detail.unwrap_or_default())
    };
    assert_eq!(fault().await, (None, String::new()));
    std::fs::remove_file(line.path("part.onnx.minisig")).unwrap();
    assert_eq!(fault().await.0, None, "its history has it too");
    std::fs::write(line.path("part.onnx"), demo()).unwrap();
    let (code, why) = fault().await;
    assert!(code == Some(FaultCode::ModelAway) && why.contains("not signed"), "{code:?} {why}");
    let checked =
        Command::new(env!("CARGO_BIN_EXE_inspectd")).arg("check").arg(line.path("line.toml")).output();
    assert!(String::from_utf8(checked.unwrap().stderr).unwrap().contains("not signed"));
}

/// The demo's model under another name: another file, and not one verdict changes.
fn renamed() -> Vec<u8> {
    let mut bytes = demo();
    let card = bytes.windows(14).rposition(|w| w == br#""thresholds":{"#).unwrap();
    let name = br#""name":""#;
    let at = bytes[..card].windows(name.len()).rposition(|w| w == name).unwrap() + name.len();
    bytes[at] = if bytes[at] == b'x' { b'y' } else { b'x' };
    bytes
}

#[test]
fn nobody_has_to_agree_only_where_every_view_was_compared() {
    let line = Line::new();
    // A second station that looks with the model and never had a part.
    let station = CONFIG.split("[[station]]").nth(1).unwrap();
    let idle = station.replace("s1", "s2").replace("source = \"clock\", period_ms = 200", "source = \"plc\"");
    std::fs::write(line.path("line.toml"), format!("{CONFIG}[[station]]{idle}")).unwrap();
    let daemon = line.daemon();
    until("archived parts", || line.frames() >= 4);
    daemon.stop();
    let file = line.write("new.onnx", &renamed());
    let said = line.model(&["install", &file, "--shadow", "4"], 3);
    assert!(said.err().contains("no archived frame of station s2"), "{}", said.err());
    assert_eq!(line.in_place(), demo());
    std::fs::write(line.path("line.toml"), CONFIG).unwrap();
    let said = line.model(&["install", &file, "--shadow", "4", "--json"], 0).json();
    assert_eq!(
        (&said["agreed"], &said["shadow"]["totals"]["compared"]),
        (&"nothing_changed".into(), &4.into())
    );
    assert_eq!(said["but"], Value::Null);
    assert_eq!(line.in_place(), renamed());
}

#[test]
fn without_a_present_model_a_part_of_two_views_says_nothing_of_one() {
    let line = Line::new();
    let view = CONFIG.split("[[station.view]]").nth(1).unwrap();
    std::fs::write(
        line.path("line.toml"),
        format!("{CONFIG}[[station.view]]{}", view.replace("top", "side")),
    )
    .unwrap();
    let daemon = line.daemon();
    until("archived parts", || line.frames() >= 4);
    daemon.stop();
    let file = line.write("new.onnx", &renamed());
    std::fs::write(line.path("part.onnx"), &demo()[..100_000]).unwrap();
    let said = line.model(&["install", &file, "--shadow", "4"], 3);
    assert!(said.err().contains("no verdict of station s1, view top could be compared"), "{}", said.err());
    assert!(said.out().contains("NOTHING compared"), "{}", said.out());
}

#[test]
fn a_wrong_model_in_its_place_is_mended_while_the_daemon_runs_and_says_why_it_does_not_judge() {
    let line = Line::new();
    let file = line.write("new.onnx", &renamed());
    line.model(&["install", &file, "--yes"], 0);
    // Somebody copies one over it that the view's limits are too loose for.
    let loose =
        CONFIG.replace("model = \"part.onnx\"", "model = \"part.onnx\"\n thresholds = { reject = 0.9 }");
    std::fs::write(line.path("line.toml"), loose).unwrap();
    std::fs::write(line.path("part.onnx"), tightened()).unwrap();
    let daemon = line.daemon();
    let state = || {
        let said = line.command(&["status", "--json"]).output().unwrap();
        String::from_utf8(said.stdout).unwrap()
    };
    until("the station to say why", || state().contains("bad_threshold"));
    let listed = line.model(&["list"], 0);
    assert!(listed.out().contains(&sha256(&tightened())[..8]), "{}", listed.out());
    line.model(&["rollback", "--to", &sha256(&demo())[..8]], 0);
    assert_eq!(line.in_place(), demo());
    until("the station to judge again", || line.judged_by() == Some(sha256(&demo())));
    daemon.stop();
}

#[test]
fn a_kept_file_that_was_exchanged_does_not_come_back() {
    let line = Line::new();
    let file = line.write("new.onnx", &renamed());
    line.model(&["install", &file, "--yes"], 0);
    let kept = line.path(&format!("part.onnx.history/{}.onnx", sha256(&demo())));
    std::fs::write(&kept, tightened()).unwrap();
    let said = line.model(&["rollback"], 1);
    assert!(said.err().contains("expected the model that was in the place"), "{}", said.err());
    assert_eq!((line.in_place(), line.audited().last().unwrap().as_str()), (renamed(), "refused"));
}

#[test]
fn what_fails_after_the_model_is_in_its_place_is_no_refusal() {
    let line = Line::new();
    let file = line.write("new.onnx", &renamed());
    // The signature of the one before cannot be taken away.
    std::fs::create_dir(line.path("part.onnx.minisig")).unwrap();
    let said = line.model(&["install", &file, "--yes"], 0);
    assert!(said.err().contains("in its place, BUT") && said.err().contains("minisig"), "{}", said.err());
    assert_eq!(line.in_place(), renamed());
    let audited = line.audited();
    assert_eq!(audited[audited.len() - 2..], ["placing", "installed"]);
    let text = std::fs::read_to_string(line.path("journal/audit.jsonl")).unwrap();
    assert!(text.lines().last().unwrap().contains(r#""but":""#), "{text}");
}

#[test]
fn kill_9_at_any_point_of_an_installation_leaves_a_whole_model() {
    let (old, new) = (sha256(&demo()), sha256(&tightened()));
    let points = [
        format!("part.onnx.history/{old}.onnx.part"),
        format!("part.onnx.history/{new}.onnx.part"),
        "part.onnx.history/index.json".to_owned(),
        "part.onnx.part".to_owned(),
    ];
    for point in points {
        let hit = (0..MOST_TRIES).find_map(|_| killed_at(&point));
        let line = hit.unwrap_or_else(|| panic!("never hit {point} in {MOST_TRIES} installations"));
        let now = line.in_place();
        assert!(now == demo() || now == tightened(), "{} bytes after a kill at {point}", now.len());
        // It began, and no line says what came of it: whoever looks is told.
        assert_eq!(line.audited().last().unwrap(), "placing", "{point}");
        let listed = line.model(&["list"], 0);
        assert!(listed.out().contains("BROKE OFF") && listed.out().contains(&new), "{}", listed.out());
        let checked = line.command(&["journal", "check"]).output().unwrap();
        let checked = String::from_utf8(checked.stdout).unwrap();
        assert!(checked.contains("does not say what came of it"), "{checked}");
        let file = line.path("new.onnx");
        line.model(&["install", file.to_str().unwrap(), "--yes", "--shadow", "0"], 0);
        assert_eq!(line.in_place(), tightened());
        assert!(check(&line.path("journal")).unwrap().unfinished.is_empty());
    }
}

/// Installations that are killed at a point before it counts as one that cannot be hit.
const MOST_TRIES: usize = 40;

/// A line whose installation was killed while this file was there and the new model not yet in its place.
fn killed_at(point: &str) -> Option<Line> {
    let line = Line::new();
    let file = line.write("new.onnx", &tightened());
    let mut install = line.command(&["model", "install", &file, "--yes", "--shadow", "0"]);
    let mut install = Running(install.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    let start = Instant::now();
    // No pause: the file that is waited for may be gone in a moment.
    while !line.path(point).exists() && install.0.try_wait().unwrap().is_none() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {point}");
    }
    let _ = install.0.kill();
    let killed = install.0.wait().unwrap().code().is_none();
    // Between the look and the kill it may have gone on.
    (killed && line.path(point).exists() && line.in_place() == demo()).then_some(line)
}
