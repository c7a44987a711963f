//! `inspectd replay` against journals that a real station wrote and folders that a real camera filled: the real
//! program, the real model, simulated parts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use inspectd::config::Config;
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::{Journal, JournalConfig, JournalReader};
use inspectd::plc::map::{coil, discrete, holding, input};
use inspectd::plc::registers::Registers;
use inspectd::record::Inspection;
use serde_json::Value;

/// Nothing here may take longer.
const PATIENCE: Duration = Duration::from_secs(60);

const CONFIG: &str = r#"
    [modbus]
    listen = "127.0.0.1:0"
    [journal]
    dir = "journal"
    [archive]
    pass_every = 0
    min_free_gb = 0
    [runtime]
    providers = ["cpu"]
    [[station]]
    name = "s1"
    trigger = TRIGGER
    deadline_ms = 2000
    gate = { time_to_gate_ms = 2100, plc_poll_ms = 10, plc_scan_ms = 20 }
    results = { mode = "acknowledged", depth = 2 }
    [[station.view]]
    name = "top"
    model = "MODEL"
    camera = { kind = "simulated", seed = 5, defect_rate = 0.5, width = 128, height = 128 }
    [station.view.thresholds]
"#;

/// A folder with a configuration in it, and the journal that a daemon wrote there.
struct Line {
    folder: tempfile::TempDir,
}

impl Line {
    fn new() -> Self {
        let line = Self { folder: tempfile::tempdir().unwrap() };
        line.configure(r#"{ source = "plc" }"#, "");
        line
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes the configuration; returns its path.
    fn configure(&self, trigger: &str, thresholds: &str) -> String {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx");
        let text = CONFIG.replace("TRIGGER", trigger).replace("MODEL", model.to_str().unwrap()) + thresholds;
        let path = self.path("line.toml");
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }

    /// The same with two recipes, 3 and 7, the second of which rejects whatever comes.
    fn configure_recipes(&self) {
        let config = self.configure(r#"{ source = "plc" }"#, "");
        let text = std::fs::read_to_string(&config).unwrap();
        let model = text.lines().find(|line| line.trim().starts_with("model")).unwrap().to_owned();
        let text =
            text.replace(&model, "").replace("[[station.view]]", "recipes = 'recipes'\n[[station.view]]");
        std::fs::write(&config, text).unwrap();
        std::fs::create_dir(self.path("recipes")).unwrap();
        for (number, thresholds) in [(3, ""), (7, "thresholds = { reject = 0.01 }")] {
            let recipe =
                format!("number = {number}\nname = 'r'\n[[view]]\nname = 'top'\n{model}\n{thresholds}\n");
            std::fs::write(self.path(&format!("recipes/{number}.toml")), recipe).unwrap();
        }
    }

    /// Lets a daemon inspect parts, each under the recipe that `recipe` says, if any.
    async fn produce(&self, parts: u16, recipe: impl Fn(u16) -> Option<u16>) {
        let config = Config::read(&self.path("line.toml")).unwrap();
        let daemon = Daemon::start(&config, Seams::configured(&config)).await.unwrap();
        let registers = &daemon.registers[0];
        let write = |at: u16, values: &[u16]| registers.write_registers(at, values).unwrap();
        write(holding::CONTROL, &[0]);
        write(holding::TRIGGER_ID, &[0]);
        for n in 1..=parts {
            if let Some(number) = recipe(n) {
                write(holding::RECIPE_REQUEST, &[number]);
                write(holding::CONTROL, &[1 << coil::LOAD_RECIPE]);
                let done = |r: &Registers| {
                    r.discrete_inputs(0..discrete::SIZE).unwrap()[discrete::COMMAND_DONE as usize]
                };
                until("the recipe", || done(registers)).await;
                write(holding::CONTROL, &[0]);
            }
            let ready =
                |r: &Registers| r.discrete_inputs(0..discrete::SIZE).unwrap()[discrete::READY as usize];
            until("ready", || ready(registers)).await;
            write(holding::PRODUCT, &[n % 3]);
            write(holding::ENCODER, &[n, 17]);
            write(holding::SERIAL, &[u16::from_be_bytes(*b"A-"), 0x3030 + n % 10]);
            write(holding::TRIGGER_ID, &[1000 + n]);
            let word = |at: u16| registers.input_registers(at..at + 1).unwrap()[0];
            until("the result", || word(input::RESULT_TRIGGER_ID) == 1000 + n).await;
            write(holding::RESULT_ACKNOWLEDGED, &[word(input::RESULT_SEQUENCE)]);
        }
        daemon.stop().await;
    }

    fn replay(&self, args: &[&str]) -> Replay {
        let (config, journal) = (self.path("line.toml"), self.path("journal"));
        let mut all = vec!["replay", "--config", config.to_str().unwrap()];
        if !args.contains(&"--images") && !args.contains(&"--journal-from") {
            all.extend(["--journal-from", journal.to_str().unwrap()]);
        }
        all.extend(args);
        Replay(inspectd(&all))
    }

    fn inspections(&self, journal: &str) -> Vec<Inspection> {
        let entries = JournalReader::open(&self.path(journal)).unwrap().after(0, 100_000).unwrap();
        let inspections = entries.iter().filter(|entry| entry.kind == "inspection");
        inspections.map(|entry| serde_json::from_str(&entry.json).unwrap()).collect()
    }

    /// The demo's model under other thresholds: another digit before the point in both of them.
    fn other_model(&self, digit: u8) -> String {
        let mut bytes =
            std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/demo.onnx")).unwrap();
        let find = |bytes: &[u8], from: usize, text: &[u8]| {
            from + bytes[from..].windows(text.len()).position(|w| w == text).unwrap() + text.len()
        };
        let card = find(&bytes, 0, br#""thresholds":{"#);
        for name in [&br#""review":"#[..], br#""reject":"#] {
            let at = find(&bytes, card, name);
            assert_eq!(bytes[at + 1], b'.');
            bytes[at] = digit;
        }
        let path = self.path("other.onnx");
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Frames in an archive.
fn pictures(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    let of = |path: PathBuf| {
        let name = path.to_string_lossy().into_owned();
        if path.is_dir() { pictures(&path) } else { usize::from(name.ends_with("-top.png")) }
    };
    entries.map(of).sum()
}

fn inspectd(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_inspectd")).args(args).output().unwrap()
}

struct Replay(Output);

impl Replay {
    #[track_caller]
    fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "{}\n{}", self.out(), self.err());
        self
    }

    fn out(&self) -> String {
        String::from_utf8(self.0.stdout.clone()).unwrap()
    }

    fn err(&self) -> String {
        String::from_utf8(self.0.stderr.clone()).unwrap()
    }

    /// Single parts, and the sum.
    fn json(&self) -> (Vec<Value>, Value) {
        let mut lines: Vec<Value> = self.out().lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        let sum = lines.pop().unwrap();
        assert_eq!(sum["kind"], "summary");
        assert!(lines.iter().all(|line| line["kind"] == "part"));
        (lines, sum)
    }
}

/// A process that is ended whatever becomes of the test.
struct Running(Child);

impl Running {
    fn signal(&self, name: &str) {
        let done = Command::new("kill").args(["-s", name, &self.0.id().to_string()]).status();
        assert!(done.unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_same_model_nothing_flips_and_every_score_and_identity_comes_again() {
    let line = Line::new();
    line.produce(40, |_| None).await;
    let seen = line.inspections("journal");
    let before = std::fs::read(line.path("journal/journal.db")).unwrap();
    let (out, csv) = (line.path("out"), line.path("parts.csv"));
    let replay = line.replay(&["--json", "--journal", out.to_str().unwrap(), "--csv", csv.to_str().unwrap()]);
    let (parts, sum) = replay.ends_with(0).json();
    assert_eq!(std::fs::read(line.path("journal/journal.db")).unwrap(), before, "it is only read");

    assert!(parts.len() >= 5, "{sum}");
    assert_eq!((&sum["flips"], &sum["late"], &sum["not_journaled"]), (&0.into(), &0.into(), &0.into()));
    assert_eq!(sum["left_out"]["no_frame"].as_u64().unwrap() + parts.len() as u64, 40);
    let left_out = seen.iter().filter(|i| i.verdict.word() == "pass").count();
    assert_eq!(sum["left_out"]["passed"], left_out, "all that passed, whose frames nobody keeps");
    assert_eq!(sum["models"], sum["models_then"]);
    for part in &parts {
        assert!(part["score_change"].as_f64().unwrap().abs() < 1e-6, "{part}");
        assert_eq!(part["verdict"], part["verdict_then"]);
        assert_ne!(part["truth"], "good");
    }
    assert_eq!(csv::Reader::from_path(csv).unwrap().records().count(), parts.len());

    // What the replay's own journal says of them: the same parts, none of them really there.
    let again = line.inspections("out");
    assert_eq!(again.len(), parts.len());
    for (part, new) in parts.iter().zip(&again) {
        let old = seen.iter().find(|i| i.part == part["part"].as_u64().unwrap()).unwrap();
        let of = |i: &Inspection| {
            let t = i.trigger.clone();
            (t.trigger_id, t.serial, t.encoder, t.product, i.truth.clone(), i.verdict, i.gate)
        };
        assert_eq!(of(new), of(old));
        let change = new.views[0].score.unwrap() - old.views[0].score.unwrap();
        assert!(change.abs() < 1e-6 && new.simulated, "{change}");
        assert!(old.trigger.serial.is_some() && old.trigger.encoder.is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_of_a_running_daemon_is_read_and_its_production_goes_on() {
    let line = Line::new();
    let config = line.configure(r#"{ source = "clock", period_ms = 2000 }"#, "").clone();
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text
        .replace("deadline_ms = 2000", "deadline_ms = 100")
        .replace("period_ms = 2000", "period_ms = 100");
    std::fs::write(&config, text).unwrap();
    let mut run = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    run.args(["run", "--config", &config]).stderr(Stdio::null());
    let mut daemon = Running(run.spawn().unwrap());
    let archive = line.path("journal/archive");
    until("rejected parts", || pictures(&archive) >= 4).await;
    let (_, sum) = line.replay(&["--json"]).json();
    assert!(sum["parts"].as_u64().unwrap() >= 2, "{sum}");
    assert_eq!(sum["trigger_to_result_us"]["p50"].as_u64().map(|us| us > 0), Some(true));
    let journal = line.path("journal");
    let refused = line.replay(&["--journal", journal.to_str().unwrap()]).ends_with(1);
    assert!(refused.err().contains("production"), "{}", refused.err());
    let count = line.inspections("journal").len();
    until("further parts", || line.inspections("journal").len() > count + 2).await;
    daemon.signal("TERM");
    assert!(daemon.0.wait().unwrap().success());
    let parts: Vec<u64> = line.inspections("journal").iter().map(|i| i.part).collect();
    assert_eq!(parts, (1..=parts.len() as u64).collect::<Vec<_>>(), "no part of the replay is among them");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flips_are_told_each_way_and_by_the_exit_code() {
    let line = Line::new();
    line.configure(r#"{ source = "plc" }"#, "review = 0.01");
    line.produce(24, |_| None).await;
    // A model that rejects less; `review` of the configuration still holds.
    let (parts, sum) = line.replay(&["--json", "--model", &line.other_model(b'9')]).ends_with(3).json();
    let was = |verdict: &str| parts.iter().filter(|part| part["verdict_then"] == verdict).count();
    assert!(was("review") >= 3 && was("reject") >= 3, "{sum}");
    assert_ne!(sum["models"], sum["models_then"]);
    let flipped: Vec<_> = parts.iter().filter(|part| part["flipped"] == true).collect();
    assert!(flipped.len() >= 3 && sum["flips"] == flipped.len(), "{sum}");
    for part in &parts {
        let rejected = part["score"].as_f64().unwrap() > 1.0;
        assert_eq!(part["verdict"], if rejected { "reject" } else { "review" }, "{part}");
        assert_eq!(part["flipped"], part["verdict"] != part["verdict_then"], "{part}");
    }
    // Thresholds that let nothing pass, and the model of then.
    line.configure(r#"{ source = "plc" }"#, "reject = 0.01");
    let (parts, sum) = line.replay(&["--json", "--changes"]).ends_with(3).json();
    assert_eq!((parts.len(), &sum["flips"]), (was("review"), &was("review").into()), "only flips are shown");
    let expected = serde_json::json!([
        { "then": "reject", "now": "reject", "parts": was("reject") },
        { "then": "review", "now": "reject", "parts": was("review") },
    ]);
    assert_eq!(sum["verdicts"], expected);
    let text = line.replay(&["--last", "3", "--changes"]).out();
    assert!(text.contains("3 of 3 parts replayed") && text.contains("verdicts flipped: "), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn recipes_come_into_service_before_their_parts() {
    let line = Line::new();
    line.configure_recipes();
    line.produce(18, |n| (n % 6 == 1).then_some(if n % 12 == 1 { 7 } else { 3 })).await;
    let out = line.path("out");
    let (parts, sum) = line.replay(&["--json", "--journal", out.to_str().unwrap()]).ends_with(0).json();
    let numbers =
        |of: &[Inspection]| -> Vec<u16> { of.iter().map(|i| i.recipe.clone().unwrap().number).collect() };
    let again = numbers(&line.inspections("out"));
    let asked: Vec<u16> = parts.iter().map(|part| part["recipe"].as_u64().unwrap() as u16).collect();
    assert_eq!(again, asked);
    assert!(again.contains(&3) && again.contains(&7), "{sum}");
    // All under the strict one: what only the other had let pass as it should is rejected as before.
    let (parts, _) = line.replay(&["--json", "--recipe", "7"]).ends_with(0).json();
    assert!(parts.iter().all(|part| part["recipe"] == 7 && part["verdict"] == "reject"));
    std::fs::remove_file(line.path("recipes/3.toml")).unwrap();
    let failed = line.replay(&[]).ends_with(1).err();
    assert!(failed.contains("recipe 3") && failed.contains("fault 73"), "{failed}");
}

#[test]
fn a_folder_in_mvtec_layout_gives_truths_and_flips_nothing() {
    let line = Line::new();
    let (config, out) = (line.path("line.toml"), line.path("pictures"));
    let out = out.to_str().unwrap();
    let args =
        ["capture", "--config", config.to_str().unwrap(), "--count", "6", "--defects", "6", "--out", out];
    assert!(inspectd(&args).status.success());
    std::fs::write(line.path("pictures/test/good/broken.png"), b"no picture").unwrap();
    let images = format!("{out}/test");
    let journal = line.path("out");
    let replay = line.replay(&["--images", &images, "--json", "--journal", journal.to_str().unwrap()]);
    let (parts, sum) = replay.ends_with(0).json();
    assert_eq!((parts.len(), &sum["wanted"]), (13, &13.into()));
    for part in &parts {
        let (truth, serial) = (part["truth"].as_str(), part["serial"].as_str().unwrap());
        if serial == "good/broken.png" {
            assert_eq!((&part["verdict"], &part["fault"]), (&"fault".into(), &14.into()));
            continue;
        }
        let truth = truth.unwrap();
        assert!(serial.starts_with(truth), "{part}");
        assert_eq!(part["verdict"], if truth == "good" { "pass" } else { "reject" }, "{part}");
        assert!(part["verdict_then"].is_null() && part["flipped"] == false);
    }
    let records = line.inspections("out");
    let serials: Vec<_> = records.iter().map(|i| i.trigger.serial.clone().unwrap()).collect();
    let expected: Vec<_> = parts.iter().map(|part| part["serial"].as_str().unwrap()).collect();
    assert_eq!(serials, expected, "a record tells which picture it is of");
    let text = line.replay(&["--images", &images, "--rate", "200"]).ends_with(0).out();
    assert!(text.contains("really good: pass") && text.contains("no verdict can flip"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_it_in_order_with_what_was_done() {
    let line = Line::new();
    line.produce(12, |_| None).await;
    let (config, journal) = (line.path("line.toml"), line.path("journal"));
    let mut replay = Command::new(env!("CARGO_BIN_EXE_inspectd"));
    replay.args([
        "replay",
        "--config",
        config.to_str().unwrap(),
        "--journal-from",
        journal.to_str().unwrap(),
    ]);
    let out = line.path("out");
    replay.args(["--json", "--rate", "0.01", "--journal", out.to_str().unwrap()]);
    let mut replay = Running(replay.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(replay.0.stdout.take().unwrap()));
    let first: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!(first["kind"], "part");
    replay.signal("INT");
    let sum: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert_eq!((&sum["broken_off"], &sum["parts"]), (&true.into(), &1.into()));
    assert_eq!(replay.0.wait().unwrap().code(), Some(130));
    assert_eq!(line.inspections("out").len(), 1, "its journal was closed in order");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_replayed_is_named() {
    let line = Line::new();
    let fails = |args: &[&str], words: &[&str]| {
        let said = line.replay(args).ends_with(1).err();
        assert!(words.iter().all(|word| said.contains(word)), "{args:?}: {said}");
    };
    fails(&[], &["journal.db", "archive"]);
    fails(&["--images", "/no/such/folder"], &["/no/such/folder"]);
    let empty = line.path("empty");
    std::fs::create_dir(&empty).unwrap();
    let empty = empty.to_str().unwrap();
    fails(&["--images", empty], &["PNG"]);
    fails(&["--images", empty, "--real"], &["--rate"]);
    fails(&["--images", empty, "--view", "side"], &["top"]);
    fails(&["--images", empty, "--station", "s9"], &["s9", "s1"]);
    let config = JournalConfig { dir: line.path("journal"), ..JournalConfig::default() };
    Journal::open(&config, &config.dir).unwrap().close().unwrap();
    fails(&[], &["no part of station `s1`", "no station"]);
    line.produce(6, |_| None).await;
    fails(&["--model", "/no/such.onnx"], &["/no/such.onnx"]);
    fails(&["--recipe", "3"], &["no recipes"]);
    std::fs::remove_dir_all(line.path("journal/archive")).unwrap();
    fails(&[], &["6 parts", "[archive]", "top"]);
    std::fs::write(line.path("journal/journal.db"), b"not a journal at all, but long enough").unwrap();
    fails(&[], &["journal.db"]);
    let both = line.replay(&["--images", empty, "--journal-from", empty]);
    both.ends_with(2);
}
