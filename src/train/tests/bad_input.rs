//! What people bring by mistake, for every command: a clear message, exit code 1, nothing half-written.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use common::{fit, part, program, refused, run, said, succeeded, write_parts};
use inspect_core::image::Image;

/// A folder of sixteen goods and a folder for what is written.
struct Place {
    dir: tempfile::TempDir,
    data: PathBuf,
    out: PathBuf,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let (data, out) = (dir.path().join("data"), dir.path().join("out"));
    write_parts(&data, 16, 0, false);
    std::fs::create_dir(&out).unwrap();
    Place { data, out, dir }
}

/// Each command that reads goods, on `data`, and what it would write.
fn commands(data: &Path, out: &Path, model: &Path) -> Vec<(Output, PathBuf)> {
    let (new, sheet) = (out.join("m.onnx"), out.join("s.png"));
    vec![
        (fit(data, &new, &[]), new.clone()),
        (run(&["calibrate"], &[("--model", model), ("--goods", data), ("--out", &new)]), new.clone()),
        (run(&["suspects"], &[("--data", data), ("--out", &sheet)]), sheet),
    ]
}

fn fitted(place: &Place) -> PathBuf {
    let (goods, model) = (place.dir.path().join("first"), place.dir.path().join("model.onnx"));
    write_parts(&goods, 16, 700, false);
    succeeded(&fit(&goods, &model, &[]));
    model
}

#[test]
fn bad_pictures_are_all_named_by_every_command() {
    let place = place();
    let model = fitted(&place);
    let png = std::fs::read(place.data.join("000.png")).unwrap();
    std::fs::write(place.data.join("truncated.png"), &png[..png.len() / 2]).unwrap();
    std::fs::write(place.data.join("empty.png"), b"").unwrap();
    std::fs::write(place.data.join("text.jpg"), b"no picture at all").unwrap();
    std::os::unix::fs::symlink("loop.png", place.data.join("loop.png")).unwrap();
    std::os::unix::fs::symlink("/no/such/file.png", place.data.join("gone.png")).unwrap();
    assert!(
        std::process::Command::new("mkfifo").arg(place.data.join("pipe.png")).status().unwrap().success()
    );
    for (output, absent) in commands(&place.data, &place.out, &model) {
        let names = ["truncated.png", "empty.png", "text.jpg", "loop.png", "gone.png", "pipe.png"];
        refused(&output, &absent, &names);
        refused(&output, &absent, &["6 pictures cannot be used", "replace or remove"]);
    }
}

#[test]
fn folders_without_goods_are_refused_by_every_command() {
    let place = place();
    let model = fitted(&place);
    let empty = place.dir.path().join("empty");
    std::fs::create_dir(&empty).unwrap();
    for (output, absent) in commands(&empty, &place.out, &model) {
        refused(&output, &absent, &["found 0 pictures", "at least"]);
    }
    part(0, false).write_png(&empty.join("one.png")).unwrap();
    for (output, absent) in commands(&empty, &place.out, &model) {
        refused(&output, &absent, &["found 1 pictures", "take more"]);
    }
    for (output, absent) in commands(&empty.join("one.png"), &place.out, &model) {
        refused(&output, &absent, &["is not a folder"]);
    }
    write_parts(&place.data.join("test/good"), 16, 0, false);
    for (output, absent) in commands(&place.data, &place.out, &model) {
        refused(&output, &absent, &["no train/good"]);
    }
}

#[test]
fn odd_names_and_links_are_no_trouble() {
    let place = place();
    std::fs::rename(place.data.join("000.png"), place.data.join(OsStr::from_bytes(b"\xff\xfe.png"))).unwrap();
    let folder = place.data.join("folder.png"); // a folder like any other: its pictures count
    std::fs::create_dir(&folder).unwrap();
    std::fs::rename(place.data.join("001.png"), folder.join("001.png")).unwrap();
    std::os::unix::fs::symlink(".", place.data.join("round")).unwrap();
    std::fs::write(place.data.join(".hidden.png"), b"").unwrap();
    std::fs::write(place.data.join("notes.txt"), b"").unwrap();
    let told = succeeded(&fit(&place.data, &place.out.join("m.onnx"), &[]));
    assert!(told.contains("16 good pictures, grey"), "{told}");
}

#[test]
fn a_file_that_may_not_be_read_is_named() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = place();
    let locked = place.data.join("003.png");
    std::fs::set_permissions(&locked, std::fs::Permissions::from_mode(0o0)).unwrap();
    if std::fs::read(&locked).is_ok() {
        println!("SKIPPED: this user may read everything (root)");
        return;
    }
    let out = place.out.join("m.onnx");
    refused(&fit(&place.data, &out, &[]), &out, &["003.png", "ermission"]);
}

/// Writes a 16-bit grey PNG or TIFF, with alpha if asked for.
fn deep(path: &Path, level: impl Fn(u32) -> u16, alpha: bool) {
    use image::{DynamicImage, ImageBuffer, Luma, LumaA};
    let image = if alpha {
        let of = |x: u32, y: u32| LumaA([level(x + y * 64), 30_000]);
        DynamicImage::ImageLumaA16(ImageBuffer::from_fn(64, 64, of))
    } else {
        DynamicImage::ImageLuma16(ImageBuffer::from_fn(64, 64, |x, y| Luma([level(x + y * 64)])))
    };
    image.save(path).unwrap();
}

#[test]
fn sixteen_bits_and_alpha_are_read_over_their_full_range_and_twelve_in_sixteen_are_refused() {
    let place = place();
    let deeper = place.dir.path().join("deeper");
    std::fs::create_dir(&deeper).unwrap();
    for i in 0..14u16 {
        let name = if i % 2 == 0 { format!("{i}.png") } else { format!("{i}.tiff") };
        deep(&deeper.join(name), |p| (p as u16 * 13) | (i << 4), i % 4 == 0);
    }
    let out = place.out.join("m.onnx");
    assert!(succeeded(&fit(&deeper, &out, &[])).contains("14 good pictures, grey"));
    std::fs::remove_file(&out).unwrap();
    for i in 0..14u16 {
        let name = if i % 2 == 0 { format!("{i}.png") } else { format!("{i}.tiff") };
        deep(&deeper.join(name), |p| (p as u16 + i) & 4095, i % 4 == 0);
    }
    refused(&fit(&deeper, &out, &[]), &out, &["12-bit", "full range"]);
}

#[test]
fn grey_and_colour_mixed_are_noted_and_can_be_made_grey() {
    let place = place();
    let colour: Vec<u8> = (0..64 * 64u32).flat_map(|i| [(i % 200) as u8, 50, 90]).collect();
    Image::new(64, 64, 3, colour).unwrap().write_png(&place.data.join("c.png")).unwrap();
    let out = place.out.join("m.onnx");
    let told = succeeded(&fit(&place.data, &out, &[]));
    assert!(told.contains("16 of 17 pictures are grey") && told.contains("RGB"), "{told}");
    let told = succeeded(&fit(&place.data, &out, &["--colour", "grey"]));
    assert!(told.contains("17 good pictures, grey"), "{told}");
}

#[test]
fn regions_masks_and_lists_that_do_not_fit_are_refused() {
    let place = place();
    let out = place.out.join("m.onnx");
    let mask = place.dir.path().join("mask.png");
    let with = |more: &[&str]| fit(&place.data, &out, more);
    let at = mask.to_str().unwrap();
    refused(&with(&["--roi", "60,0,10,10"]), &out, &["000.png", "64x64", "16 pictures"]);
    assert_eq!(with(&["--roi", "1,2,3"]).status.code(), Some(2));
    refused(&with(&["--mask", at]), &out, &["mask.png", "No such file"]);
    let write = |width: u32, height: u32, level: u8| {
        let image = Image::new(width, height, 1, vec![level; (width * height) as usize]).unwrap();
        image.write_png(&mask).unwrap();
    };
    write(32, 64, 255);
    refused(&with(&["--mask", at]), &out, &["32x64", "64x64"]);
    write(64, 64, 0);
    refused(&with(&["--mask", at]), &out, &["black everywhere"]);
    refused(&with(&["--exclude", at]), &out, &["--exclude", "is no picture"]);
}

#[test]
fn options_that_make_no_sense_are_refused_before_pictures_are_read() {
    let place = place();
    let out = place.out.join("m.onnx");
    let nowhere = Path::new("/no/such");
    for (more, words) in [
        (&["--crop", "48"][..], "less than --size 32"),
        (&["--crop", "20"], "multiple of 16"),
        (&["--suspects", "/no/folder"], "--suspects /no/folder"),
        (&["--alpha", "0.1", "--review-alpha", "0.05"], "--review-alpha 0.05"),
    ] {
        refused(&fit(nowhere, &out, more), &out, &[words]);
    }
    refused(&fit(nowhere, &place.out.join("m.png"), &[]), &out, &["m.png", "an .onnx file"]);
    for more in [["--threads", "0"], ["--seed", "-1"], ["--roi", "1,2,0,4"]] {
        let output = run(&[&["fit"][..], &more].concat(), &[("--data", nowhere), ("--out", &out)]);
        assert_eq!(output.status.code(), Some(2), "{more:?}");
        assert!(said(&output).contains(more[0]), "{more:?}");
    }
    let sheet = place.out.join("s.jpg");
    refused(&run(&["suspects"], &[("--data", nowhere), ("--out", &sheet)]), &sheet, &["s.jpg", ".png"]);
}

#[test]
fn files_that_are_no_models_are_refused() {
    let place = place();
    let (model, out) = (place.dir.path().join("bad.onnx"), place.out.join("m.onnx"));
    let calibrate = |more: &[&str]| {
        let paths = [("--model", model.as_path()), ("--goods", &place.data), ("--out", &out)];
        run(&[&["calibrate"], more].concat(), &paths)
    };
    refused(&calibrate(&[]), &out, &["bad.onnx", "No such file"]);
    std::fs::write(&model, b"").unwrap();
    refused(&calibrate(&[]), &out, &["bad.onnx"]);
    std::fs::write(&model, b"PK\x03\x04 something else").unwrap();
    refused(&calibrate(&[]), &out, &["truncated or not an ONNX file"]);
    refused(&calibrate(&["--alpha", "2"]), &out, &["--alpha 2"]);
}

/// Runs the program in a shell that lets no file grow beyond some kilobytes, as on a full disk.
fn on_a_full_disk(words: &[&str], paths: &[(&str, &Path)]) -> Output {
    let mut command = std::process::Command::new("sh");
    command
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$@\"", "sh"])
        .arg(program().get_program())
        .args(words);
    for (name, path) in paths {
        command.arg(name).arg(path);
    }
    command.output().unwrap()
}

#[test]
fn a_full_disk_is_told_and_nothing_half_written_stays() {
    let place = place();
    let model = fitted(&place);
    let (out, sheet) = (place.out.join("m.onnx"), place.out.join("s.png"));
    let words = ["fit", "--size", "32", "--variant", "xxs", "--steps", "2"];
    let output = on_a_full_disk(&words, &[("--data", &place.data), ("--out", &out)]);
    refused(&output, &out, &["m.onnx", "too large", "not written"]);
    let goods = [("--goods", place.data.as_path())];
    let to = |out| [("--model", model.as_path()), goods[0], ("--out", out)];
    refused(
        &on_a_full_disk(&["calibrate"], &to(&out)),
        &out,
        &["m.onnx", "too large", "nothing was written"],
    );
    let before = std::fs::read(&model).unwrap();
    let output = on_a_full_disk(&["calibrate"], &to(&model));
    assert!(!output.status.success(), "{}", said(&output));
    assert_eq!(std::fs::read(&model).unwrap(), before, "the old model is as it was");
    let output = on_a_full_disk(&["suspects"], &[("--data", &place.data), ("--out", &sheet)]);
    refused(&output, &sheet, &["s.png", "not written"]);
}
