//! A made set that obeys is told from one that does not, on shapes drawn by rule.

use std::path::Path;

use inspect_core::image::Image;
use rand::{RngExt as _, SeedableRng as _};

use super::*;
use crate::batches::Symmetry;
use crate::defects::Random;
use crate::made::Named;
use crate::net::Variant;

const SIDE: u32 = 64;
/// Seconds on one core; enough for shapes.
const STEPS: usize = 160;

/// How pictures differ from what their manifest says.
#[derive(Clone, Copy, PartialEq)]
enum Kept {
    /// Not at all.
    All,
    /// Dark is bright, hot is cold.
    ClassAlone,
    /// They show nothing.
    Nothing,
}

/// A picture of noise, with a bar (thin or wide, dark or bright, plainer when hot) or a spot, or nothing.
fn picture(r: &mut Random, marked: &dyn Fn(u32, u32) -> bool, by: f64) -> Image {
    let pixel = |i: u32| {
        let change = if marked(i % SIDE, i / SIDE) { by } else { 0.0 };
        (125.0 + change + r.random_range(-5.0..5.0)) as u8
    };
    Image::new(SIDE, SIDE, 1, (0..SIDE * SIDE).map(pixel).collect()).unwrap()
}

fn save(image: &Image, path: &Path) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image.write_png(path).unwrap();
}

/// `bars` bars and `spots` spots with masks and manifest.
fn write(dir: &Path, (bars, spots): (u32, u32), kept: Kept, seed: u64) {
    let mut r = Random::seed_from_u64(seed);
    let mut manifest = "file,caption,heat\n".to_owned();
    for k in 0..bars + spots {
        let (x, y) = (r.random_range(12..24), r.random_range(12..44));
        let (wide, bright, heat) = (k % 2 == 0, k / 2 % 2 == 0, r.random_range(0.0..1.0f64));
        let other = kept == Kept::ClassAlone;
        let sign = if bright == other { -1.0 } else { 1.0 };
        let (class, by) = if k < bars {
            ("bar", sign * (30.0 + 60.0 * if other { 1.0 - heat } else { heat }))
        } else {
            ("spot", -60.0)
        };
        let rows = if wide { 8 } else { 3 };
        let bar = |px: u32, py: u32| (x..x + 22).contains(&px) && (y..y + rows).contains(&py);
        let spot = |px: u32, py: u32| px.abs_diff(x + 10).pow(2) + py.abs_diff(y).pow(2) < 36;
        let marked = |px: u32, py: u32| if class == "bar" { bar(px, py) } else { spot(px, py) };
        let by = if kept == Kept::Nothing { 0.0 } else { by };
        save(&picture(&mut r, &marked, by), &dir.join(format!("test/{class}/{k:03}.png")));
        // The same mask for thin and wide, dark and bright.
        let mask = |i: u32| {
            let (px, py) = (i % SIDE, i / SIDE);
            let room = class == "bar" && (x..x + 22).contains(&px) && (y..y + 8).contains(&py);
            if room || marked(px, py) { 255 } else { 0 }
        };
        let mask = Image::new(SIDE, SIDE, 1, (0..SIDE * SIDE).map(mask).collect()).unwrap();
        save(&mask, &dir.join(format!("ground_truth/{class}/{k:03}_mask.png")));
        let (size, tone) = (if wide { "wide" } else { "thin" }, if bright { "bright" } else { "dark" });
        let caption = if class == "bar" { format!("{size} bar {tone}") } else { "spot".into() };
        manifest += &format!("test/{class}/{k:03}.png,{caption},{heat:.3}\n");
    }
    std::fs::write(dir.join("manifest.csv"), manifest).unwrap();
}

fn settings(data: &Path, made: Vec<Named>) -> Settings {
    Settings {
        data: data.to_owned(),
        made,
        against: "procedural".into(),
        trained_on: None,
        seeds: 0,
        steps: 1,
        size: 32,
        variant: Variant::Xxs,
        symmetry: Symmetry::None,
        made_share: 0.5,
        seed: 0,
        threads: 1,
        backbone: None,
    }
}

fn data(bars: u32, spots: u32) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut r = Random::seed_from_u64(9);
    for k in 0..10 {
        save(&picture(&mut r, &|_, _| false, 0.0), &dir.path().join(format!("train/good/{k}.png")));
    }
    write(dir.path(), (bars, spots), Kept::All, 1);
    dir
}

#[test]
fn a_set_that_obeys_is_told_from_one_that_obeys_the_class_alone_and_one_that_shows_nothing() {
    let data = data(120, 48);
    let made = [Kept::All, Kept::ClassAlone, Kept::Nothing].map(|kept| {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), (40, 12), kept, 77);
        dir
    });
    let named = |dir: &tempfile::TempDir| Named { name: "made".into(), path: dir.path().to_owned() };
    let settings = settings(data.path(), made.iter().map(named).collect());
    let real = sets::real(data.path()).unwrap().cut((64, 64)).unwrap();
    let asked = ask_after(Some(STEPS), &real, &settings, &AtomicBool::new(false)).unwrap();
    let [obeys, class_alone, nothing] = &asked.sets[..] else { panic!("{} sets", asked.sets.len()) };
    let share = |share: Option<crate::judge::classify::Share>| share.unwrap().accuracy;

    // What the reader is worth by itself, on real ones that it has not seen.
    assert_eq!((obeys.learnt, obeys.held_out), (126, 42));
    assert!(share(obeys.class.all.real) > 0.95, "{obeys:?}");
    assert!(share(obeys.text.as_ref().unwrap().all.real) > 0.9, "{obeys:?}");
    assert!(
        share(obeys.class.all.made) > 0.95 && share(obeys.text.as_ref().unwrap().all.made) > 0.9,
        "{obeys:?}"
    );

    let heat = &obeys.parameters[0];
    assert_eq!(
        (heat.name.as_str(), &heat.told_in),
        ("heat", &vec!["bar".to_owned()]),
        "no spot shows it: {heat:?}"
    );
    assert!(share(heat.side.made) > 0.9 && heat.correlation.made.unwrap() > 0.9, "{heat:?}");
    assert_eq!(heat.side.made.unwrap().of, heat.classes["bar"].made.unwrap().of, "spots do not count");

    assert!(share(class_alone.class.all.made) > 0.95, "{class_alone:?}");
    assert!(share(class_alone.text.as_ref().unwrap().all.made) < 0.1, "{class_alone:?}");
    let word = |name: &str| share(class_alone.words.iter().find(|w| w.word == name).unwrap().told.made);
    assert!(word("dark") < 0.1 && word("thin") > 0.9, "{:?}", class_alone.words);
    assert!(share(class_alone.parameters[0].side.made) < 0.1, "{class_alone:?}");
    assert!(class_alone.parameters[0].correlation.made.unwrap() < -0.8, "{class_alone:?}");

    assert!(share(nothing.class.all.made) < 0.1, "a place alone is no defect: {nothing:?}");
}

#[test]
fn too_few_real_defects_teach_no_reader_and_a_stopped_one_says_nothing() {
    let few = data(MIN_OF_CLASS as u32 - 1, 3);
    let real = sets::real(few.path()).unwrap().cut((64, 64)).unwrap();
    let settings_of = |dir: &Path| settings(dir, vec![Named { name: "made".into(), path: dir.to_owned() }]);
    assert!(ask(&real, &settings_of(few.path()), &AtomicBool::new(false)).unwrap().sets.is_empty());
    let enough = data(MIN_OF_CLASS as u32, 3);
    let real = sets::real(enough.path()).unwrap().cut((64, 64)).unwrap();
    assert!(ask(&real, &settings_of(enough.path()), &AtomicBool::new(true)).unwrap().sets.is_empty());
}
