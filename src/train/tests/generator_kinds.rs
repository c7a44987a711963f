//! Every kind of generator as its user meets it: fitted, stopped and gone on with, asked.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;
use std::process::Output;

use common::{program, refused, run, said, succeeded, write_parts};
use inspect_core::image::Image;
use inspect_train::data::{Look, find_some, load};

const FIT: [&str; 16] = [
    "defects",
    "fit",
    "--family",
    "stain,scratch",
    "--size",
    "64",
    "--side",
    "32",
    "--width",
    "8",
    "--batch",
    "2",
    "--threads",
    "1",
    "--steps",
    "6",
];

fn fit(kind: &str, data: &Path, out: &Path, more: &[&str]) -> Output {
    run(&[&FIT[..], &["--kind", kind], more].concat(), &[("--data", data), ("--out", out)])
}

fn sample(generator: &Path, data: &Path, out: &Path, more: &[&str]) -> Output {
    let words = [&["defects", "sample", "--count", "3", "--class", "stain"], more].concat();
    run(&words, &[("--generator", generator), ("--data", data), ("--out", out)])
}

fn pictures(dir: &Path) -> Vec<Vec<u8>> {
    let files = inspect_train::data::images_below(&dir.join("test")).unwrap();
    files.iter().map(|p| Image::read(p).unwrap().data().to_vec()).collect()
}

/// Each whole picture as it was written is its good to the bit where its mask is black, and not where it is white.
fn same_outside_of_the_mask(set: &Path, data: &Path) {
    let goods = load(&find_some(data, 1).unwrap(), &Look::at(64), &mut |_, _| {}).unwrap();
    let mut rows = 0;
    for row in csv::Reader::from_path(set.join("manifest.csv")).unwrap().records() {
        let row = row.unwrap();
        let [picture, mask] = [0, 1].map(|i| Image::read(&set.join(&row[i])).unwrap());
        let good =
            &goods.pixels[goods.names.iter().position(|n| n == row.iter().next_back().unwrap()).unwrap()];
        assert_eq!((picture.data().len(), mask.data().len()), (good.len(), good.len()));
        for ((new, old), m) in picture.data().iter().zip(good).zip(mask.data()) {
            assert_eq!(new == old, *m == 0, "{}", &row[0]);
        }
        rows += 1;
    }
    assert!(rows > 0);
}

#[test]
fn each_kind_is_fitted_killed_resumed_and_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path());
    write_parts(&data.join("train/good"), 14, 0, false);
    for kind in ["vae", "gan", "diffusion"] {
        let straight = out.join(kind);
        succeeded(&fit(kind, &data, &straight, &[]));
        let (killed, checkpoint) = (out.join(format!("{kind}-2")), out.join(format!("{kind}-2.checkpoint")));
        let mut command = program();
        command.args(FIT).args(["--kind", kind, "--checkpoint-s", "0", "--data"]).arg(&data);
        common::stopped("KILL", command.arg("--out").arg(&killed), &killed, &checkpoint);
        succeeded(&fit(kind, &data, &killed, &["--resume"]));
        assert!(
            std::fs::read(&killed).unwrap() == std::fs::read(&straight).unwrap(),
            "{kind}: resumed otherwise"
        );

        let made = |name: &str, seed: &str| {
            let set = out.join(format!("{kind}-{name}"));
            succeeded(&sample(&straight, &data, &set, &["--seed", seed]));
            pictures(&set)
        };
        let first = made("a", "1");
        same_outside_of_the_mask(&out.join(format!("{kind}-a")), &data);
        assert!(!first.is_empty() && first == made("b", "1") && first != made("c", "2"));
    }
    let set = out.join("set");
    let how = ["--guidance", "3", "--draw-steps", "5", "--strength", "0.5"];
    succeeded(&sample(&out.join("diffusion"), &data, &out.join("told"), &how));
    refused(
        &sample(&out.join("gan"), &data, &set, &how),
        &set,
        &["--guidance", "kind diffusion", "kind gan"],
    );
    for bad in [["--guidance", "NaN"], ["--strength", "1.1"], ["--draw-steps", "0"]] {
        let told = sample(&out.join("diffusion"), &data, &set, &bad);
        assert!(!told.status.success() && said(&told).contains(bad[0]), "{}", said(&told));
    }
}
