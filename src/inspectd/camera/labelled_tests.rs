use std::collections::BTreeMap;

use inspect_core::measure::{bright_share, discolouration, roughness};

use super::super::process::{ProcessConfig, RANGES};
use super::*;

fn parts(classes: &[Kind], px: u32, process: Option<ProcessConfig>, masks: Masks) -> LabelledParts {
    let camera = SimulatedConfig { width: px, height: px, process, ..SimulatedConfig::default() };
    LabelledParts::new(&LabelledConfig { masks, classes: classes.into(), camera }).unwrap()
}

/// A plain process with one parameter set to a share of its range.
fn set(name: &str, share: f64, acts_on: ActsOn) -> ProcessConfig {
    let mut process = ProcessConfig { acts_on, ..ProcessConfig::default() };
    for ((parameter, [low, high]), plain) in PARAMETERS.into_iter().zip(RANGES).zip([0.0, 1.0, 0.0]) {
        let share = if parameter == name { share } else { plain };
        process.set(parameter, low + share * (high - low)).unwrap();
    }
    process
}

const SHARES: [f64; 5] = [0.0, 0.25, 0.5, 0.75, 1.0];

/// Mean of a measure over `count` parts with a defect, at each of [`SHARES`] of a parameter's range.
fn trend(
    name: &str,
    kinds: &[Kind],
    masks: Masks,
    count: u64,
    measure: impl Fn(&LabelledPart) -> Option<f64>,
) -> [f64; 5] {
    SHARES.map(|share| {
        let parts = parts(kinds, 128, Some(set(name, share, ActsOn::Defect)), masks);
        let of: Vec<f64> = (0..count).filter_map(|i| measure(&parts.part(false, i).unwrap())).collect();
        assert!(of.len() as u64 > count / 3, "{name}: {} of {count} can be measured", of.len());
        of.iter().sum::<f64>() / of.len() as f64
    })
}

fn rises(trend: [f64; 5]) -> bool {
    trend.windows(2).all(|pair| pair[0] < pair[1])
}

fn masked(part: &LabelledPart) -> &Image {
    part.mask.as_ref().unwrap()
}

fn dark(part: &LabelledPart) -> Option<f64> {
    discolouration(&part.image, part.twin.as_ref().unwrap(), masked(part))
}

#[test]
fn wear_roughens_a_defect_by_its_law() {
    let kinds = [Kind::Stain, Kind::Dent, Kind::MissingHole];
    let rough = trend("wear", &kinds, Masks::Exact, 100, |p| roughness(&p.image, masked(p)));
    assert!(rises(rough), "{rough:?}");
    // Grain adds to what is there without it as variances do; 24 grey levels at full wear.
    for (share, rough_at) in SHARES.into_iter().zip(rough).skip(2) {
        let grain = (rough_at.powi(2) - rough[0].powi(2)).sqrt();
        assert!((grain / (24.0 * share) - 1.0).abs() < 0.2, "{grain} at wear {share}: {rough:?}");
    }
}

#[test]
fn feed_raises_burrs_by_its_law() {
    let height = |p: &LabelledPart| bright_share(&p.image, masked(p), 80.0);
    let filled = trend("feed_mm", &[Kind::Burr], Masks::Room, 100, height);
    assert!(rises(filled), "{filled:?}");
    // Linear but for the edge: the middle lies between the ends.
    let middle = (filled[2] - filled[0]) / (filled[4] - filled[0]);
    assert!((0.35..0.65).contains(&middle), "{filled:?}");
    let area = |p: &LabelledPart| Some(masked(p).data().iter().filter(|v| **v > 0).count() as f64);
    assert!(rises(trend("feed_mm", &[Kind::Burr], Masks::Exact, 100, area)));
    let room = trend("feed_mm", &[Kind::Burr], Masks::Room, 100, area);
    assert!(room[4] / room[0] < 1.05, "the room does not give the feed away: {room:?}");
}

#[test]
fn temperature_discolours_a_defect_by_its_law() {
    let kinds = [Kind::Stain];
    let dark = trend("temperature_c", &kinds, Masks::Exact, 100, dark);
    assert!(rises(dark), "{dark:?}");
    for (share, dark_at) in SHARES.into_iter().zip(dark) {
        // The edge of a stain is not all tinted, so that the mask as a whole loses some less.
        let kept = (1.0 - dark_at) / (1.0 - dark[0]);
        assert!((kept - (1.0 - 0.35 * share)).abs() < 0.04, "{kept} at {share}: {dark:?}");
    }
}

/// Root mean square error of `estimate` of parameter `at`, as a share of its range, over 100 parts of any process.
fn error_of(at: usize, kind: Kind, masks: Masks, estimate: impl Fn(&LabelledPart) -> Option<f64>) -> f64 {
    let process = ProcessConfig { acts_on: ActsOn::Defect, ..ProcessConfig::default() };
    let parts = parts(&[kind], 128, Some(process), masks);
    let [low, high] = RANGES[at];
    let off = |index| {
        let part = parts.part(false, index).unwrap();
        let truth = (f64::from(part.label.process.unwrap()[at]) - low) / (high - low);
        estimate(&part).map(|share| (share - truth).powi(2))
    };
    let of: Vec<f64> = (0..100).filter_map(off).collect();
    assert!(of.len() > 60, "{kind:?}: {}", of.len());
    (of.iter().sum::<f64>() / of.len() as f64).sqrt()
}

#[test]
fn the_process_can_be_measured_in_a_single_picture_while_everything_else_varies() {
    let wear = |p: &LabelledPart| {
        let (rough, noise) = (roughness(&p.image, masked(p))?, 4.6_f64);
        Some((rough.powi(2) - noise.powi(2)).max(0.0).sqrt() / 21.6)
    };
    // A stain keeps some 75 % of the light of its ground by itself, and its edge is not all tinted.
    let temperature = |p: &LabelledPart| Some((1.0 - (1.0 - dark(p)?) / 0.755) / 0.32);
    let feed = |p: &LabelledPart| Some((bright_share(&p.image, masked(p), 80.0)? - 0.53) / 0.38);
    let errors = [
        error_of(0, Kind::Stain, Masks::Exact, wear),
        error_of(1, Kind::Burr, Masks::Room, feed),
        error_of(2, Kind::Stain, Masks::Exact, temperature),
    ];
    eprintln!("errors as shares of the range: wear, feed_mm, temperature_c = {errors:.3?}");
    assert!(errors[0] < 0.18 && errors[1] < 0.24 && errors[2] < 0.10, "{errors:?}");
}

#[test]
fn a_process_that_acts_on_the_part_shows_on_good_ones() {
    // A square of plain face above the flange's middle, left of the bolt hole there.
    let patch = |part: &LabelledPart| {
        let inside = |i: u32| (36..52).contains(&(i % 128)) && (24..32).contains(&(i / 128));
        let data = (0..128 * 128).map(|i| if inside(i) { 255 } else { 0 }).collect();
        let mask = Image::new(128, 128, 1, data).unwrap();
        let lit = part.image.data().iter().zip(mask.data()).filter(|(_, m)| **m > 0);
        let mean = lit.map(|(level, _)| f64::from(*level)).sum::<f64>() / 128.0;
        (roughness(&part.image, &mask).unwrap(), mean)
    };
    let at = |name, share| {
        let parts = parts(&Kind::ALL, 128, Some(set(name, share, ActsOn::Part)), Masks::Exact);
        (0..100).fold((0.0, 0.0), |(rough, mean), i| {
            let (r, m) = patch(&parts.part(true, i).unwrap());
            (rough + r / 100.0, mean + m / 100.0)
        })
    };
    let rough = SHARES.map(|share| at("wear", share).0);
    let level = SHARES.map(|share| -at("temperature_c", share).1);
    assert!(rises(rough) && rises(level), "{rough:?} {level:?}");
    assert!((level[4] / level[0] - 0.65).abs() < 0.02, "{level:?}");
}

#[test]
fn masks_are_where_the_picture_differs_and_no_good_part_has_one() {
    for acts_on in [ActsOn::Part, ActsOn::Defect] {
        let process = Some(ProcessConfig { acts_on, ..ProcessConfig::default() });
        let parts = parts(&Kind::ALL, 128, process, Masks::Exact);
        for index in 0..24 {
            let number = LabelledParts::number(false, index);
            let part = parts.part(false, index).unwrap();
            let process = parts.config.camera.process(number).filter(|_| acts_on == ActsOn::Part);
            let twin = parts.scene.render(number, Made { defect: None, process: process.as_ref() }).unwrap();
            let pixels = part.image.data().iter().zip(twin.data()).zip(masked(&part).data());
            assert!(pixels.clone().all(|((a, b), mask)| (a != b) == (*mask == 255)), "{:?}", part.label);
            assert!(pixels.filter(|(_, mask)| **mask > 0).count() > 8, "{:?}", part.label);
        }
        assert_eq!(parts.part(true, 3).unwrap().mask, None);
    }
}

#[test]
fn every_defect_can_be_seen_on_the_smallest_pictures() {
    let process = ProcessConfig { feed_mm: Some(0.1), acts_on: ActsOn::Defect, ..ProcessConfig::default() };
    let parts = parts(&Kind::ALL, MIN_LABELLED_SIDE_PX, Some(process), Masks::Exact);
    for index in 0..600 {
        let part = parts.part(false, index).unwrap();
        assert!(masked(&part).data().iter().filter(|v| **v > 0).count() >= 4, "{index}: {:?}", part.label);
    }
}

/// A caption's parts with a defect, each with the mean change of its pixels, its mask's pixels and its contrast.
struct Seen {
    caption: String,
    change: f64,
    pixels: f64,
    contrast: f64,
    /// Mean distance of its pixels from the part's middle, part units.
    radius: f64,
}

fn seen(kind: Kind, count: u64) -> Vec<Seen> {
    let process = ProcessConfig { acts_on: ActsOn::Defect, ..ProcessConfig::default() };
    let parts = parts(&[kind], 256, Some(process), Masks::Exact);
    let see = |index| {
        let part = parts.part(false, index).unwrap();
        let twin = parts.scene.render(LabelledParts::number(false, index), Made::default()).unwrap();
        let data = part.image.data().iter().zip(twin.data()).enumerate();
        // What differs clearly.
        let changes: Vec<(usize, f64)> = data
            .map(|(i, (a, b))| (i, f64::from(*a) - f64::from(*b)))
            .filter(|(_, change)| change.abs() > 8.0)
            .collect();
        let mean =
            |of: &dyn Fn(&(usize, f64)) -> f64| changes.iter().map(of).sum::<f64>() / changes.len() as f64;
        Seen {
            caption: part.label.caption,
            change: mean(&|(_, change)| *change),
            pixels: changes.len() as f64,
            contrast: mean(&|(_, change)| change.abs()),
            radius: mean(&|(i, _)| ((i % 256) as f64 - 127.5).hypot((i / 256) as f64 - 127.5)),
        }
    };
    (0..count).map(see).collect()
}

/// Mean of a measure over the captions that have `word`; there must be some.
fn of_word(seen: &[Seen], word: &str, measure: impl Fn(&Seen) -> f64) -> f64 {
    let of: Vec<f64> = seen.iter().filter(|s| s.caption.contains(word)).map(measure).collect();
    assert!(of.len() >= 6, "{word}: {}", of.len());
    of.iter().sum::<f64>() / of.len() as f64
}

#[test]
fn the_words_of_scratches_are_true() {
    let seen = seen(Kind::Scratch, 96);
    for scratch in &seen {
        let (bright, dark) = (scratch.caption.ends_with(", bright"), scratch.caption.ends_with(", dark"));
        assert!(bright != dark, "{}", scratch.caption);
        assert_eq!(scratch.change > 0.0, bright, "{}: {}", scratch.caption, scratch.change);
        let right = match &scratch.caption {
            caption if caption.contains("on the hub") => scratch.radius < 57.0,
            caption if caption.contains("on the face") => (57.0..102.0).contains(&scratch.radius),
            caption => caption.contains("across the rim") && scratch.radius > 65.0,
        };
        assert!(right, "{}: {}", scratch.caption, scratch.radius);
    }
    // As wide as its area by its length says.
    for length in ["short", "long"] {
        let area = |width| of_word(&seen, &format!("{length} {width}"), |s| s.pixels);
        assert!(area("wide") > 1.5 * area("thin"), "{length}: {} {}", area("wide"), area("thin"));
    }
    assert!(of_word(&seen, "long thin", |s| s.pixels) > 1.5 * of_word(&seen, "short thin", |s| s.pixels));
}

#[test]
fn the_words_of_other_defects_are_true() {
    for kind in [Kind::Dent, Kind::Stain, Kind::Chip, Kind::Burr] {
        let seen = seen(kind, 48);
        let opposite = if kind == Kind::Burr { ["narrow", "broad"] } else { ["small", "large"] };
        let [less, more] = opposite.map(|word| of_word(&seen, word, |s| s.pixels));
        assert!(less * 1.4 < more, "{kind:?}: {less} {more}");
        for s in &seen {
            let right = match &s.caption {
                caption if caption.contains("on the hub") => s.radius < 62.0,
                caption if caption.contains("on the face") => s.radius > 60.0,
                caption if caption.contains("in the bore") => s.radius < 32.0,
                caption if caption.contains("in a bolt hole") => (70.0..90.0).contains(&s.radius),
                caption if caption.contains("out of the flat") => (80.0..103.0).contains(&s.radius),
                caption => caption.contains("out of the rim") && (88.0..112.0).contains(&s.radius),
            };
            assert!(right, "{}: {}", s.caption, s.radius);
            assert!(kind != Kind::Stain || s.change < 0.0, "{}", s.caption);
        }
        if kind == Kind::Dent {
            let [shallow, deep] = ["shallow", "deep"].map(|word| of_word(&seen, word, |s| s.contrast));
            assert!(shallow * 1.2 < deep, "{shallow} {deep}");
        }
    }
}

#[test]
fn words_and_classes_come_equally_often() {
    let parts = parts(&Kind::ALL, 96, None, Masks::Exact);
    let (mut classes, mut captions) = (BTreeMap::new(), BTreeMap::new());
    for index in 0..6 * 24 * 20 {
        let label = parts.label(false, index);
        *classes.entry(label.class).or_insert(0) += 1;
        *captions.entry(label.caption).or_insert(0) += 1;
        assert_eq!(label.process, None);
    }
    assert!(classes.len() == 6 && classes.values().all(|count| *count == 480), "{classes:?}");
    // 3·2·2·2 scratches, 2·2·2 dents, 2·2 each of stains, chips and burrs, one missing hole.
    assert_eq!(captions.len(), 24 + 8 + 4 + 4 + 4 + 1, "{captions:?}");
    for (caption, count) in captions {
        let expected = match caption.split_whitespace().find(|w| Kind::ALL.iter().any(|k| k.name() == *w)) {
            Some("scratch") => 20,
            Some("dent") => 60,
            Some(_) => 120,
            None => 480,
        };
        assert_eq!(count, expected, "{caption}: every place that was wanted was found");
    }
}
