//! What people bring to `defects fit` by mistake or of need: a clear message, or the right result.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Output;

use common::{defect, refused, run, succeeded, write_defects, write_parts};
use inspect_core::image::Image;

struct Place {
    _dir: tempfile::TempDir,
    data: PathBuf,
    file: PathBuf,
}

/// 14 goods and room for defects.
fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (data, file) = (dir.path().join("data"), dir.path().join("g.safetensors"));
    write_parts(&data.join("train/good"), 14, 0, false);
    Place { _dir: dir, data, file }
}

impl Place {
    fn fit(&self, more: &[&str]) -> Output {
        let words = "defects fit --kind vae --size 64 --side 32 --width 8 --batch 2 --threads 1 --steps 2";
        let words: Vec<&str> = words.split(' ').collect();
        run(&[&words, more].concat(), &[("--data", &self.data), ("--out", &self.file)])
    }

    fn refuses(&self, more: &[&str], words: &[&str]) {
        refused(&self.fit(more), &self.file, words);
    }

    fn sample(&self, class: &str) -> Vec<[Image; 2]> {
        let set = self.file.with_file_name(class);
        let words = ["defects", "sample", "--count", "4", "--class", class];
        succeeded(&run(&words, &[("--generator", &self.file), ("--data", &self.data), ("--out", &set)]));
        let pictures = inspect_train::data::images_below(&set.join("test")).unwrap();
        let mask = |p: &Path| {
            let stem = p.file_stem().unwrap().to_string_lossy().into_owned();
            set.join(format!("ground_truth/{class}/{stem}_mask.png"))
        };
        pictures.iter().map(|p| [Image::read(p).unwrap(), Image::read(&mask(p)).unwrap()]).collect()
    }

    fn manifest(&self, text: &str) {
        std::fs::write(self.data.join("manifest.csv"), text).unwrap();
    }
}

#[test]
fn four_of_a_class_are_pasted_and_five_are_learnt_from() {
    let place = place();
    write_defects(&place.data, "four", 4, 250, true);
    write_defects(&place.data, "five", 5, 20, true);
    let told = succeeded(&place.fit(&[]));
    assert!(told.contains("class four: 4 real defects are too few"), "{told}");
    assert!(told.contains("class five: 5 real defects to learn from"), "{told}");
    let made = place.sample("four");
    assert_eq!(made.len(), 4);
    for [picture, mask] in made {
        // As bright as the real ones, wherever it was put: nothing else on these parts is.
        let bright = picture.data().iter().zip(mask.data()).filter(|(v, m)| **v > 215 && **m > 0).count();
        assert!(bright >= 50, "{bright} pixels of a patch of 108");
    }
}

#[test]
fn real_defects_of_mixed_sizes_are_brought_to_one() {
    let place = place();
    write_defects(&place.data, "patch", 3, 20, true);
    for (i, times) in [(3, 2), (4, 3)] {
        let names = [format!("test/patch/{i}.png"), format!("ground_truth/patch/{i}_mask.png")];
        for (image, name) in defect(100 + i, 20).iter().zip(names) {
            let side = 64 * times;
            let at = |p: u32| (p / side / times * 64 + p % side / times) as usize;
            let pixels = (0..side * side).map(|p| image.data()[at(p)]).collect();
            Image::new(side, side, 1, pixels).unwrap().write_png(&place.data.join(name)).unwrap();
        }
    }
    let told = succeeded(&place.fit(&[]));
    assert!(told.contains("class patch: 5 real defects to learn from"), "{told}");
    let mask = place.data.join("ground_truth/patch/4_mask.png");
    Image::new(64, 64, 1, vec![255; 64 * 64]).unwrap().write_png(&mask).unwrap();
    std::fs::remove_file(&place.file).unwrap();
    place.refuses(&[], &["4_mask.png", "64", "192"]);
}

#[test]
fn empty_folders_are_told() {
    let place = place();
    let empty = place.file.with_file_name("empty");
    std::fs::create_dir(&empty).unwrap();
    place.refuses(&["--real", empty.to_str().unwrap()], &["empty", "no picture of a defect"]);
    let words = ["defects", "fit", "--kind", "vae", "--steps", "2"];
    let output = run(&words, &[("--data", &empty), ("--out", &place.file)]);
    refused(&output, &place.file, &["empty", "found 0 pictures"]);
    // An empty folder of defects is none: procedural ones are learnt from.
    std::fs::create_dir_all(place.data.join("test/patch")).unwrap();
    let told = succeeded(&place.fit(&[]));
    assert!(told.contains("no real defects, so it learns from procedural ones alone"), "{told}");
}

#[test]
fn captions_and_parameters_that_cannot_be_meant_are_told() {
    let place = place();
    write_defects(&place.data, "patch", 5, 20, true);
    let caption = |words: usize| {
        place.manifest(&format!("file,caption\ntest/patch/0.png,{}\n", "dark ".repeat(words)));
    };
    caption(25);
    place.refuses(&[], &["manifest.csv", "25 words"]);
    let rows = |cell: &str| {
        let row = |(i, wear): (usize, &str)| format!("test/patch/{i}.png,{wear}\n");
        let rows: String = ["0.1", "0.2", cell, "0.3", ""].into_iter().enumerate().map(row).collect();
        place.manifest(&format!("file,wear\n{rows}"));
    };
    for cell in ["high", "NaN", "inf", "\"0,4\""] {
        rows(cell);
        place.refuses(&[], &["manifest.csv", "column `wear` holds 3 numbers", cell.trim_matches('"')]);
    }
    rows("0.4");
    succeeded(&place.fit(&[]));
    caption(24);
    succeeded(&place.fit(&["--seed", "1"]));
}
