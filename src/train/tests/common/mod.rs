//! The program as a process of its own, and pictures for it.

#![allow(clippy::unwrap_used, reason = "a test may panic")]
#![allow(dead_code, reason = "each test file uses a part of it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use inspect_core::image::Image;
use rand::{RngExt, SeedableRng};

/// Side of the pictures, pixels.
pub const SIDE: u32 = 64;

pub fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_inspect-train"))
}

/// Runs the program with `words`, then `paths` as `--name PATH`.
pub fn run(words: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = program();
    command.args(words);
    for (name, path) in paths {
        command.arg(name).arg(path);
    }
    command.output().unwrap()
}

/// A short fit; `more` options.
pub fn fit(data: &Path, out: &Path, more: &[&str]) -> Output {
    let words = ["fit", "--size", "32", "--variant", "xxs", "--steps", "2", "--threads", "1"];
    run(&[&words, more].concat(), &[("--data", data), ("--out", out)])
}

/// Runs a fit that writes `file`, sends it a signal once its checkpoint is there, and waits for its end. On a busy
/// machine a fit may be done before the signal comes: then it is run again.
pub fn stopped(signal: &str, command: &mut Command, file: &Path, checkpoint: &Path) {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    for _ in 0..20 {
        let mut child = command.spawn().unwrap();
        let end = Instant::now() + Duration::from_secs(120);
        while !checkpoint.exists() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < end, "no checkpoint and no end");
            std::thread::sleep(Duration::from_millis(2));
        }
        let kill = Command::new("kill").args([format!("-{signal}"), child.id().to_string()]).output();
        kill.unwrap(); // fails where the fit is gone
        child.wait().unwrap();
        if checkpoint.exists() {
            return;
        }
        std::fs::remove_file(file).unwrap();
    }
    panic!("20 fits were done before they could be stopped");
}

pub fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

pub fn succeeded(output: &Output) -> String {
    assert!(output.status.success(), "{}", said(output));
    said(output)
}

/// It fails with 1, says all of `expected`, does not panic, and `absent` is not there, nor a part of it.
pub fn refused(output: &Output, absent: &Path, expected: &[&str]) {
    let said = said(output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for words in expected {
        assert!(said.contains(words), "expected `{words}` in: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
    let name = absent.file_name().unwrap().to_string_lossy().into_owned();
    let beside = absent.parent().unwrap();
    let left: Vec<PathBuf> =
        std::fs::read_dir(beside).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    assert!(
        !left.iter().any(|p| p.file_name().unwrap().to_string_lossy().starts_with(&name)),
        "left behind: {left:?}: {said}"
    );
}

/// A disc on a dark ground, a little differently placed and lit each time; `defect`: a bar across it.
pub fn part(seed: u64, defect: bool) -> Image {
    let mut r = rand::rngs::StdRng::seed_from_u64(seed);
    let (cx, cy) = (r.random_range(31.0..33.0f32), r.random_range(31.0..33.0f32));
    let light = r.random_range(0.97..1.03f32);
    let mut pixels = Vec::new();
    for y in 0..SIDE {
        for x in 0..SIDE {
            let inside = (x as f32 - cx).hypot(y as f32 - cy) < 22.0;
            let bar = defect && (24..30).contains(&y) && (20..50).contains(&x);
            let level = if bar {
                20.0
            } else if inside {
                180.0
            } else {
                60.0
            };
            pixels.push((level * light + r.random_range(-4.0..4.0f32)) as u8);
        }
    }
    Image::new(SIDE, SIDE, 1, pixels).unwrap()
}

/// Writes `count` parts into `dir`, which it makes.
pub fn write_parts(dir: &Path, count: u64, first_seed: u64, defect: bool) {
    std::fs::create_dir_all(dir).unwrap();
    for i in 0..count {
        part(first_seed + i, defect).write_png(&dir.join(format!("{i:03}.png"))).unwrap();
    }
}

/// A part with a patch of that grey on it, and its mask.
pub fn defect(seed: u64, level: u8) -> [Image; 2] {
    let good = part(seed, false);
    let (mut pixels, mut mask) = (good.data().to_vec(), vec![0; (SIDE * SIDE) as usize]);
    let (left, top) = (22 + seed as usize % 10, 24 + seed as usize % 7);
    for y in top..top + 9 {
        for x in left..left + 12 {
            (pixels[y * 64 + x], mask[y * 64 + x]) = (level, 255);
        }
    }
    [pixels, mask].map(|p| Image::new(SIDE, SIDE, 1, p).unwrap())
}

/// Writes `count` of them as `dir/test/CLASS` and, if asked for, `dir/ground_truth/CLASS`.
pub fn write_defects(dir: &Path, class: &str, count: u64, level: u8, masks: bool) {
    let folders = [dir.join("test").join(class), dir.join("ground_truth").join(class)];
    folders.iter().for_each(|f| std::fs::create_dir_all(f).unwrap());
    for i in 0..count {
        let [picture, mask] = defect(100 + i, level);
        picture.write_png(&folders[0].join(format!("{i}.png"))).unwrap();
        if masks {
            mask.write_png(&folders[1].join(format!("{i}_mask.png"))).unwrap();
        }
    }
}
