//! What a user of made defects relies on.

use rand::SeedableRng;

use super::*;

/// A bright disc with some texture on a dark, even ground; or a surface of stripes.
fn good(side: usize, channels: usize, disc: bool) -> Vec<f32> {
    (0..channels * side * side)
        .map(|i| {
            let (x, y, c) = (i % side, i / side % side, i / (side * side));
            let away = [x, y].map(|v| (v as f32 / side as f32 - 0.5).powi(2)).iter().sum::<f32>().sqrt();
            if disc && away > 0.35 {
                12.0
            } else {
                120.0 + ((x * 3 + y * 5) % 17) as f32 * 4.0 + c as f32 * 9.0
            }
        })
        .collect()
}

fn ground<'a>(good: &'a [f32], other: &'a [f32], side: usize, channels: usize) -> Ground<'a> {
    Ground { good, other, side, channels, matters: None }
}

/// Pixel by pixel: marked exactly where the picture differs visibly, and in range.
fn assert_exact(made: &Defect, ground: &Ground) {
    let area = ground.side * ground.side;
    for i in 0..area {
        let change = (0..ground.channels)
            .map(|c| (made.picture[c * area + i] - ground.good[c * area + i]).abs())
            .fold(0.0, f32::max);
        assert_eq!(made.mask[i] == 1.0, change > VISIBLE, "{}: pixel {i} changed by {change}", made.family);
        assert!(made.mask[i] == 0.0 || made.mask[i] == 1.0);
    }
    assert!(made.picture.iter().all(|v| (0.0..=255.0).contains(v)), "{}", made.family);
}

#[test]
fn every_family_is_seen_with_an_exact_mask_on_grey_and_colour_small_and_large() {
    for (side, channels) in [(32, 1), (32, 3), (64, 3), (128, 1), (96, 3)] {
        for disc in [true, false] {
            let (one, two) = (good(side, channels, disc), good(side, channels, !disc));
            let ground = ground(&one, &two, side, channels);
            for family in Family::ALL {
                let seen = (0..12)
                    .filter(|&seed| {
                        let made = make(&mut Random::seed_from_u64(seed), &ground, &[family]);
                        assert_exact(&made, &ground);
                        assert_eq!(made.family, family);
                        made.mask.contains(&1.0)
                    })
                    .count();
                assert!(seen >= 11, "{family} at {side} px, {channels} channels, disc {disc}: {seen} of 12");
            }
        }
    }
}

#[test]
fn the_same_seed_makes_the_same_defect_and_another_seed_another() {
    let one = good(64, 3, true);
    let ground = ground(&one, &one, 64, 3);
    for family in Family::ALL {
        let made = |seed| make(&mut Random::seed_from_u64(seed), &ground, &[family]).picture;
        assert_eq!(made(5), made(5), "{family}");
        assert_ne!(made(5), made(6), "{family}");
    }
}

#[test]
fn a_blank_surface_of_any_shade_gets_defects_too() {
    for shade in [0.0, 128.0, 255.0] {
        let blank = vec![shade; 64 * 64];
        let ground = ground(&blank, &blank, 64, 1);
        let mut random = Random::seed_from_u64(1);
        for _ in 0..40 {
            let made = make(&mut random, &ground, &[]);
            assert_exact(&made, &ground);
            assert!(made.mask.contains(&1.0), "{} on {shade}", made.family);
        }
        for family in Family::ALL {
            assert_exact(&make(&mut random, &ground, &[family]), &ground); // maybe nothing, never wrong
        }
    }
}

#[test]
fn sizes_run_from_specks_to_a_tenth_of_the_picture_and_small_ones_are_common() {
    // A calm surface: a rough one hides specks, which are then not made.
    let calm: Vec<f32> = (0..128 * 128).map(|i| 90.0 + (i % 128) as f32 * 0.5).collect();
    let rough = good(128, 1, false);
    let ground = ground(&calm, &rough, 128, 1);
    let mut random = Random::seed_from_u64(2);
    let mut areas: Vec<f32> =
        (0..600).map(|_| make(&mut random, &ground, &[]).mask.iter().sum::<f32>()).collect();
    areas.sort_by(f32::total_cmp);
    assert!(areas[5] <= 5.0, "the smallest are {} pixels", areas[5]);
    assert!(areas[30] <= 12.0, "a twentieth is below {} pixels", areas[30]);
    assert!(areas[300] <= 400.0, "half are below {} pixels", areas[300]);
    assert!(areas[590] >= 1000.0, "the largest are {} pixels", areas[590]);
}

#[test]
fn what_drowns_in_the_surface_is_not_called_a_defect() {
    // Neighbours differ by some 12 grey values: 4 x 12 is the least change times root of pixels.
    let rough = good(64, 1, false);
    let ground = ground(&rough, &rough, 64, 1);
    let mut random = Random::seed_from_u64(4);
    for _ in 0..300 {
        let made = make(&mut random, &ground, &[]);
        let changes: Vec<f32> =
            made.picture.iter().zip(&rough).map(|(p, g)| (p - g).abs()).filter(|c| *c > VISIBLE).collect();
        let strength = changes.iter().sum::<f32>() / (changes.len() as f32).sqrt();
        assert!(strength > 40.0, "{}: {} pixels, strength {strength}", made.family, changes.len());
    }
}

#[test]
fn defects_mostly_hit_the_part_and_never_what_does_not_matter() {
    let (one, side) = (good(64, 1, true), 64);
    let mut ground = ground(&one, &one, side, 1);
    let mut random = Random::seed_from_u64(3);
    let on_part = |mask: &[f32]| mask.iter().zip(&one).any(|(m, v)| *m == 1.0 && *v > 50.0);
    let hits = (0..200).filter(|_| on_part(&make(&mut random, &ground, &[]).mask)).count();
    assert!(hits > 160, "{hits} of 200 hit the part");

    let half: Vec<f32> = (0..side * side).map(|i| if i % side < side / 2 { 1.0 } else { 0.0 }).collect();
    ground.matters = Some(&half);
    for _ in 0..100 {
        let made = make(&mut random, &ground, &[]);
        assert_exact(&made, &ground);
        for i in (0..side * side).filter(|i| half[*i] == 0.0) {
            assert_eq!(made.picture[i], one[i], "{} damaged what does not matter", made.family);
        }
    }
}

#[test]
fn a_real_defect_lies_on_another_good_with_its_own_mask() {
    let side = 48;
    let (one, mut hurt) = (vec![100.0; side * side], vec![140.0; side * side]);
    let mut marked = vec![0.0; side * side];
    for i in (0..side * side).filter(|i| (20..26).contains(&(i % side)) && (30..33).contains(&(i / side))) {
        (hurt[i], marked[i]) = (20.0, 1.0);
    }
    let ground = ground(&one, &hurt, side, 1);
    for seed in 0..20 {
        let random = &mut Random::seed_from_u64(seed);
        let (picture, mask) = transplant(random, &ground, &marked, Transplant::Seamless).unwrap();
        // The difference in light (100 to 140) is gone: what is left is the defect.
        assert_eq!(mask.iter().sum::<f32>(), 18.0, "seed {seed}");
        assert!(picture.iter().zip(&mask).all(|(p, m)| if *m == 1.0 {
            *p < 60.0
        } else {
            (p - 100.0).abs() <= VISIBLE
        }));
        let (_, hard) = transplant(random, &ground, &marked, Transplant::Hard).unwrap();
        assert_eq!(hard.iter().sum::<f32>(), 70.0, "the rim comes with it as it is");
    }
    assert!(
        transplant(&mut Random::seed_from_u64(1), &ground, &vec![0.0; side * side], Transplant::Hard)
            .is_none()
    );
}

/// Figures for the module's budget: `cargo test --release -p inspect-train -- --ignored --nocapture time_of`.
#[test]
#[ignore = "prints times, proves nothing"]
fn time_of_a_defect_by_family() {
    for (side, channels) in [(128, 1), (128, 3), (256, 3)] {
        let one = good(side, channels, true);
        let ground = ground(&one, &one, side, channels);
        let mut random = Random::seed_from_u64(1);
        for family in Family::ALL {
            let start = std::time::Instant::now();
            (0..500).for_each(|_| drop(make(&mut random, &ground, &[family])));
            let us = start.elapsed().as_secs_f64() * 1e6 / 500.0;
            println!("{side:>4} px {channels} channels {family:<10} {us:>7.0} us");
        }
    }
}
