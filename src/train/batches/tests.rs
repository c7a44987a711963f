//! What a fit relies on in its batches.

use super::*;

const SIDE: usize = 64;
const INPUT: Input = Input { width: SIDE as u32, height: SIDE as u32, channels: 1 };

/// `count` goods that are told apart by their mean.
fn goods(count: u8) -> Vec<Vec<u8>> {
    (0..count).map(|k| (0..SIDE * SIDE).map(|i| 40 + k * 20 + (i % 7) as u8).collect()).collect()
}

fn batches<'a>(goods: &'a [Vec<u8>], options: Options<'a>) -> Batches<'a> {
    Batches::new(goods.iter().map(Vec::as_slice).collect(), INPUT, options)
}

/// A real defect: a black square in its mask's place.
fn real(mark: f32) -> RealDefect {
    let inside = |i: &usize| (10..20).contains(&(i % SIDE)) && (30..40).contains(&(i / SIDE));
    let pixels = (0..SIDE * SIDE).map(|i| if inside(&i) { 0 } else { 100 }).collect();
    let mask = (0..SIDE * SIDE).map(|i| if inside(&i) { mark } else { 0.0 }).collect();
    RealDefect { name: "a/1.png".into(), class: "a".into(), pixels, mask }
}

#[test]
fn a_batch_depends_on_seed_and_number_alone() {
    let goods = goods(5);
    let options = |seed| Options { symmetry: Symmetry::Rotate, seed, ..Options::default() };
    let mut first = batches(&goods, options(3));
    let expected: Vec<Batch> = (0..4).map(|i| first.batch(i, 4)).collect();
    let mut resumed = batches(&goods, options(3));
    let mut used = resumed.batch(9, 6);
    for i in [3, 0, 2, 1] {
        resumed.batch_into(&mut used, i as u64, 4);
        assert_eq!(used, expected[i]);
        assert_eq!(resumed.copies(i as u64, 2, true), first.copies(i as u64, 2, true));
    }
    assert_ne!(expected[0], expected[1]);
    assert_ne!(batches(&goods, options(4)).batch(0, 4), expected[0]);
}

#[test]
fn made_sets_come_in_slowly_and_change_nothing_where_there_are_none() {
    let goods = goods(5);
    let made =
        [MadeSet { name: "gan".into(), sha256: String::new(), generator: None, defects: vec![real(1.0)] }];
    let options = Options { exposure: 0.0, ..Options::default() };
    let plain = batches(&goods, options.clone()).batch(3, 8);
    let none = Options { made_share: 0.5, made_rise: 10, ..options.clone() };
    assert_eq!(batches(&goods, none).batch(3, 8), plain, "the stream of chance is the same");
    let mixed = Options { made: &made, made_share: 0.5, made_rise: 40, ..options.clone() };
    assert_eq!(batches(&goods, mixed.clone()).batch(0, 8).has_target, vec![1.0; 8], "0 at the start");
    let unknown = |from: u64| {
        let mut batches = batches(&goods, mixed.clone());
        let all: Vec<f32> = (from..from + 40).flat_map(|i| batches.batch(i, 8).has_target).collect();
        all.iter().filter(|t| **t == 0.0).count()
    };
    // Half of the 160 damaged pictures are generated in the end, and half of those lie in their own picture.
    let (rising, risen) = (unknown(0), unknown(40));
    assert!((25..=55).contains(&risen) && (8..=30).contains(&rising), "{rising} {risen}");
}

#[test]
fn every_good_comes_once_a_round_and_rounds_differ() {
    let goods = goods(8);
    let mut batches = batches(&goods, Options { exposure: 0.0, ..Options::default() });
    let mut round = |k: u64| -> Vec<usize> {
        let targets: Vec<f32> = (0..2).flat_map(|i| batches.batch(k * 2 + i, 4).target).collect();
        targets.chunks(SIDE * SIDE).map(|t| (t[0] as usize - 40) / 20).collect()
    };
    let (one, two) = (round(0), round(1));
    assert_ne!(one, two);
    for mut round in [one, two] {
        round.sort_unstable();
        assert_eq!(round, [0, 1, 2, 3, 4, 5, 6, 7]);
    }
}

#[test]
fn windows_start_at_every_sixteenth_pixel() {
    let goods = goods(3);
    let mut batches = batches(&goods, Options { crop: Some(32), ..Options::default() });
    let places: std::collections::BTreeSet<_> = (0..40).map(|i| batches.batch(i, 2).at).collect();
    assert_eq!(places.len(), 9, "three places each way: {places:?}");
    let batch = batches.batch(0, 4);
    assert_eq!((batch.input.len(), batch.mask.len()), (4 * 32 * 32, 4 * 32 * 32));
}

#[test]
fn a_third_of_the_damaged_pictures_are_real_and_say_whether_their_good_is_known() {
    let goods = goods(4);
    for (mark, known) in [(1.0, true), (0.5, false)] {
        let real = [real(mark)];
        let mut batches = batches(&goods, Options { real: &real, exposure: 0.0, ..Options::default() });
        let (mut whole, mut transplanted) = (0, 0);
        for i in 0..60 {
            let batch = batches.batch(i, 4);
            assert_eq!(batch.has_target[..2], [1.0, 1.0], "the clean half is known");
            for k in 2..4 {
                let range = k * SIDE * SIDE..(k + 1) * SIDE * SIDE;
                let mask = &batch.mask[range.clone()];
                if batch.has_target[k] == 0.0 {
                    whole += 1;
                    assert_eq!(mask.iter().sum::<f32>(), 100.0 * mark);
                    assert!(
                        batch.input[range.clone()].iter().zip(mask).all(|(v, m)| (*v == 0.0) == (*m > 0.0))
                    );
                } else if mask.iter().sum::<f32>() == 100.0 {
                    transplanted += 1;
                }
            }
        }
        assert!((10..70).contains(&whole), "{whole} of 120 whole");
        assert_eq!(transplanted > 5, known, "{transplanted} of 120 on another good");
    }
}

#[test]
fn a_window_shows_no_part_of_a_region_that_holds_a_defect_somewhere() {
    let goods = goods(4);
    let real = [RealDefect { mask: vec![0.5; SIDE * SIDE], ..real(0.5) }];
    let mut batches = batches(&goods, Options { real: &real, crop: Some(32), ..Options::default() });
    assert!((0..30).all(|i| batches.batch(i, 4).has_target == [1.0; 4]));
}

#[test]
fn what_is_ignored_is_never_seen_elsewhere() {
    // The belt is white, and moves by two pixels at most however the part is turned.
    let belt: Vec<f32> = (0..SIDE * SIDE).map(|i| f32::from(u8::from(i / SIDE <= 50))).collect();
    let picture: Vec<u8> = (0..SIDE * SIDE).map(|i| if i / SIDE > 50 { 255 } else { 60 }).collect();
    let options = Options { symmetry: Symmetry::Rotate, matters: Some(&belt), ..Options::default() };
    let goods = vec![picture];
    let copies = batches(&goods, options).copies(0, 32, true);
    for copy in copies.chunks(SIDE * SIDE) {
        assert!(copy[..48 * SIDE].iter().all(|v| *v < 100.0) && copy[54 * SIDE..].iter().all(|v| *v > 200.0));
    }
}

#[test]
fn what_does_not_matter_is_neither_damaged_nor_marked() {
    let (goods, real) = (goods(4), [real(1.0)]);
    let nothing = vec![0.0; SIDE * SIDE];
    let options = Options { matters: Some(&nothing), real: &real, ..Options::default() };
    let mut batches = batches(&goods, options);
    for i in 0..20 {
        let batch = batches.batch(i, 4);
        assert!(batch.input == batch.target && batch.mask.iter().all(|m| *m == 0.0));
    }
}

/// Figures for the module's budget: `cargo test --release -p inspect-train -- --ignored --nocapture time_of`.
#[test]
#[ignore = "prints times, proves nothing"]
fn time_of_a_batch() {
    for (side, channels) in [(128u32, 1u8), (128, 3), (256, 3)] {
        let input = Input { width: side, height: side, channels };
        let pixels: Vec<u8> = (0..input.bytes()).map(|i| (i % 251) as u8).collect();
        let options = Options { symmetry: Symmetry::Rotate, ..Options::default() };
        let mut batches = Batches::new(vec![&pixels; 9], input, options);
        let start = std::time::Instant::now();
        let mut batch = Batch::default();
        (0..200).for_each(|i| batches.batch_into(&mut batch, i, 8));
        let ms = start.elapsed().as_secs_f64() * 1e3 / 200.0;
        println!("batch of 8 at {side} px, {channels} channels: {ms:.2} ms");
    }
}
