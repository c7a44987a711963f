//! `defects sample` that is stopped: what is left is well-formed, refused unasked, and gone on with to the same bytes.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::{program, refused, run, said, succeeded, write_defects, write_parts};
use inspect_core::card::Input;
use inspect_train::generators::known;

const COUNT: &str = "400";

/// Goods, real defects and a generator; the folder, `data` and `g` in it.
fn place() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let (data, generator) = (dir.path().join("data"), dir.path().join("g"));
    write_parts(&data.join("train/good"), 14, 0, false);
    write_defects(&data, "patch", 6, 20, true);
    write_defects(&data, "rare", 2, 250, true);
    let words = "defects fit --kind vae --size 64 --side 32 --width 8 --batch 4 --threads 1 --steps 20";
    let words: Vec<&str> = words.split(' ').collect();
    succeeded(&run(&words, &[("--data", &data), ("--out", &generator)]));
    (dir, data, generator)
}

fn sample(data: &Path, generator: &Path, out: &Path, more: &[&str]) -> Command {
    let mut command = program();
    command.args(["defects", "sample", "--count", COUNT, "--seed", "3"]).args(more).arg("--data").arg(data);
    command.arg("--generator").arg(generator).arg("--out").arg(out);
    command
}

/// Every file below `dir`, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![dir.to_owned()];
    while let Some(folder) = left.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                left.push(path);
            } else {
                let name = path.strip_prefix(dir).unwrap().to_string_lossy().into_owned();
                found.insert(name, std::fs::read(path).unwrap());
            }
        }
    }
    found
}

/// Starts drawing into `out` and sends `signal` when some pictures are there. Returns exit code and what was said.
fn stopped(signal: &str, mut command: Command, part: &Path) -> (Option<i32>, String) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + Duration::from_secs(120);
    while !part.join("test/patch/0010.png").exists() {
        assert!(Instant::now() < end && child.try_wait().unwrap().is_none(), "nothing was drawn");
        std::thread::sleep(Duration::from_millis(2));
    }
    let mut kill = Command::new("kill");
    assert!(kill.args([format!("-{signal}"), child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert!(part.is_dir(), "was not stopped in time: {}", said(&output));
    (output.status.code(), said(&output))
}

#[test]
fn a_stopped_run_is_gone_on_with_to_the_same_bytes() {
    let (dir, data, generator) = place();
    let straight = dir.path().join("straight");
    succeeded(&sample(&data, &generator, &straight, &[]).output().unwrap());
    let expected = files(&straight);
    assert!(expected.len() > 700 && expected.contains_key("sheet.png"), "{} files", expected.len());

    for signal in ["INT", "KILL"] {
        let (out, part) = (dir.path().join(signal), dir.path().join(format!("{signal}.part")));
        let (code, told) = stopped(signal, sample(&data, &generator, &out, &[]), &part);
        assert!(!out.exists(), "what is not whole has not its final name");
        if signal == "INT" {
            // Asked to end, it leaves nothing torn: a set like any other, whose name says that it is a part.
            assert_eq!(code, Some(130), "{told}");
            assert!(told.contains("of 400 are drawn") && told.contains("INT.part"), "{told}");
            let rows = csv::Reader::from_path(part.join("manifest.csv")).unwrap().records().count();
            let input = Input { width: 64, height: 64, channels: 1 };
            let found = known::find(&part, input, None, true).unwrap();
            assert!(found.notes.is_empty() && found.defects.len() == rows, "{rows}: {:?}", found.notes);
        } else {
            // Killed, or the power failed: the last line and picture may be torn.
            let manifest = std::fs::read(part.join("manifest.csv")).unwrap();
            std::fs::write(part.join("manifest.csv"), &manifest[..manifest.len() - 30]).unwrap();
            std::fs::write(part.join("test/patch/0010.png"), b"").unwrap();
        }
        let again = sample(&data, &generator, &out, &[]).output().unwrap();
        assert_eq!(again.status.code(), Some(1));
        assert!(
            said(&again).contains(
                ".part is left of a stopped run; remove it (`defects sample` goes on with it by --resume)"
            ),
            "{}",
            said(&again)
        );
        let other = sample(&data, &generator, &out, &["--resume", "--class", "patch"]).output().unwrap();
        assert!(said(&other).contains("--class was ") && part.is_dir(), "{}", said(&other));

        succeeded(&sample(&data, &generator, &out, &["--resume"]).output().unwrap());
        let got = files(&out);
        assert!(got.keys().eq(expected.keys()), "{signal}: other files");
        let differs: Vec<&String> = expected.keys().filter(|name| got[*name] != expected[*name]).collect();
        assert!(differs.is_empty(), "{signal}: {differs:?} differ");
        assert!(!part.exists());
        // What is whole is left as it is.
        succeeded(&sample(&data, &generator, &out, &["--resume"]).output().unwrap());
        assert!(files(&out) == expected);
    }
}

#[test]
fn what_is_no_stopped_run_is_not_gone_on_with() {
    let (dir, data, generator) = place();
    let (out, part) = (dir.path().join("set"), dir.path().join("set.part"));
    std::fs::create_dir(&part).unwrap();
    std::fs::write(part.join("mine.txt"), b"mine").unwrap();
    let output = sample(&data, &generator, &out, &["--resume"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("order.json"), "{}", said(&output));
    assert_eq!(files(&part).len(), 1, "what belongs to somebody else stays");
    std::fs::remove_dir_all(&part).unwrap();
    std::fs::create_dir(&out).unwrap();
    std::fs::write(out.join("mine.txt"), b"mine").unwrap();
    let output = sample(&data, &generator, &out, &["--resume"]).output().unwrap();
    assert!(!output.status.success() && said(&output).contains("not an empty folder"), "{}", said(&output));
    // Nothing to go on from: it starts at the beginning, and a condition that is refused leaves nothing behind.
    let none = dir.path().join("none");
    refused(
        &sample(&data, &generator, &none, &["--resume", "--class", "hole"]).output().unwrap(),
        &none,
        &["`hole`"],
    );
}

#[test]
fn what_is_asked_as_the_real_ones_say_is_theirs_in_turn_at_their_places() {
    let dir = tempfile::tempdir().unwrap();
    let (data, generator, set) = (dir.path().join("data"), dir.path().join("g"), dir.path().join("set"));
    write_parts(&data.join("train/good"), 14, 0, false);
    write_defects(&data, "patch", 6, 20, true);
    let said_of = |i: u64| (["a dark patch", "a dark spot"][i as usize % 2], format!("0.{}", i + 1));
    let row = |i: u64| format!("test/patch/{i}.png,{},{}\n", said_of(i).0, said_of(i).1);
    let rows: String = (0..6).map(row).collect();
    std::fs::write(data.join("manifest.csv"), "file,caption,wear\n".to_owned() + &rows).unwrap();
    let words = "defects fit --kind vae --size 64 --side 32 --width 8 --batch 4 --threads 1 --steps 20";
    let words: Vec<&str> = words.split(' ').collect();
    succeeded(&run(&words, &[("--data", &data), ("--out", &generator)]));

    let ask = |data: &Path, out: &Path, more: &[&str]| {
        let words = [&["defects", "sample", "--as-real", "--count", "14", "--seed", "5"], more].concat();
        run(&words, &[("--data", data), ("--generator", &generator), ("--out", out)])
    };
    succeeded(&ask(&data, &set, &[]));
    let rows = inspect_train::data::manifest::read(&set.join("manifest.csv")).unwrap();
    let mut table = csv::Reader::from_path(set.join("manifest.csv")).unwrap();
    let columns = table.headers().unwrap().clone();
    let column = |name: &str| columns.iter().position(|c| c == name).unwrap();
    let mut seen = 0;
    for record in table.records().map(Result::unwrap) {
        let seed: u64 = record[column("seed")].parse().unwrap();
        let like = (seed - 5) % (1 << 40) % 6; // later attempts have seeds of their own
        let said = &rows[&record[column("file")]];
        assert_eq!((said.caption.as_str(), said.parameters["wear"].to_string()), said_of(like));
        let [label, mask] = [set.join(&said.mask), data.join(format!("ground_truth/patch/{like}_mask.png"))]
            .map(|path| inspect_core::image::Image::read(&path).unwrap());
        // Moved by up to an eighth of the crop's 32 pixels, to where the good looks most like the real one's part.
        let moved = |dx: i64, dy: i64| {
            (0..64 * 64i64).filter(|i| label.data()[*i as usize] > 0).all(|i| {
                let (x, y) = (i % 64 - dx, i / 64 - dy);
                (0..64).contains(&x) && (0..64).contains(&y) && mask.data()[(y * 64 + x) as usize] > 0
            })
        };
        let near = (-4..=4).any(|dx| (-4..=4).any(|dy| moved(dx, dy)));
        assert!(near, "{} does not lie where that of {like} lies", &record[column("file")]);
        seen += 1;
    }
    assert!(seen >= 7, "{seen} of 14 can be seen");

    let bare = dir.path().join("bare");
    write_parts(&bare.join("train/good"), 4, 0, false);
    let none = dir.path().join("none");
    refused(&ask(&bare, &none, &[]), &none, &["--as-real", "no real defects with masks"]);
}
