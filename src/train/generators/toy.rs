//! Toy crops whose truth is known: a bar across the mask, bright or dark by class, thin or wide by word, stronger
//! the higher its process parameter.

use tch::{Device, Kind, Tensor};

use super::chance::Chance;
use super::{ConditionShape, Conditions, CropShape, Crops, Progress, Stage};

pub const CROP: CropShape = CropShape { side: 16, channels: 1 };
/// Size of the crops of [`large`].
pub const LARGE: CropShape = CropShape { side: 64, channels: 3 };
pub const CONDITIONS: ConditionShape = ConditionShape { classes: 2, words: 3, text: 3, parameters: 1 };
pub const BRIGHT: i64 = 1;
/// Words: 1 "bar" in every text, then one of these.
pub const THIN: i64 = 2;
/// Side of the mask, and rows of a thin and a wide bar.
const MASK: i64 = 8;
const ROWS: [i64; 2] = [2, 6];

/// Contrast of a bar whose parameter is `z`, -1 to 1.
pub fn contrast(z: f64) -> f64 {
    0.25 + 0.12 * z
}

/// Step number `step` of `of`.
pub fn at(step: u64, of: u64) -> Progress {
    Progress { step, of: Some(of), stage: Stage::Procedural, seed: step ^ 0x5eed }
}

/// Crops with conditions by chance. The i-th mask lies elsewhere than its neighbours'.
pub fn crops(seed: u64, n: i64) -> Crops {
    let mut chance = Chance::new(seed);
    let float = (Kind::Float, Device::Cpu);
    let pick = |share: Tensor| (share * 2.0).floor().to_kind(Kind::Int64);
    let (class, word) = (pick(chance.uniform(&[n])) + 1, pick(chance.uniform(&[n])) + THIN);
    let z = chance.uniform(&[n, 1]) * 2.0 - 1.0;
    let side = CROP.side;
    let good = chance.normal(&[n, 1, side, side]) * 0.02 + 0.5;
    let (mask, bar) = (Tensor::zeros([n, 1, side, side], float), Tensor::zeros([n, 1, side, side], float));
    let corner = (chance.uniform(&[n, 2]) * (side - MASK) as f64).floor().to_kind(Kind::Int64);
    for i in 0..n {
        let (y, x) = (corner.int64_value(&[i, 0]), corner.int64_value(&[i, 1]));
        let rows = ROWS[(word.int64_value(&[i]) - THIN) as usize];
        let sign = if class.int64_value(&[i]) == BRIGHT { 1.0 } else { -1.0 };
        let fill = |t: &Tensor, y: i64, rows: i64, value: f64| {
            let _ = t.get(i).narrow(1, y, rows).narrow(2, x, MASK).fill_(value);
        };
        fill(&mask, y, MASK, 1.0);
        fill(&bar, y + (MASK - rows) / 2, rows, sign * contrast(z.double_value(&[i, 0])));
    }
    let defect = &good + bar;
    let text = Tensor::stack(&[&word.ones_like(), &word, &word.zeros_like()], 1);
    let known = z.ones_like();
    Crops { good, defect, mask, conditions: Conditions { class, words: text, process: z, known } }
}

/// Milliseconds of one core that a call takes, the best of three after a first one.
pub fn milliseconds(mut call: impl FnMut(u64)) -> f64 {
    tch::set_num_threads(1);
    let spent_ns = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
        text.split(' ').next().unwrap().parse::<f64>().unwrap()
    };
    call(0);
    let time = |i: u64| {
        let start = spent_ns();
        call(i);
        (spent_ns() - start) / 1e6
    };
    (1..4).map(time).fold(f64::INFINITY, f64::min)
}

/// Crops of the default size, 16 of them, whose pixels are chance.
pub fn large(conditions: &Conditions) -> Crops {
    let mut chance = Chance::new(1);
    let mut picture = |channels: i64| chance.uniform(&[16, channels, 64, 64]);
    let (good, defect, mask) = (picture(3), picture(3), picture(1).gt(0.9).to_kind(Kind::Float));
    let index = Tensor::zeros([16], (Kind::Int64, Device::Cpu));
    Crops { good, defect, mask, conditions: conditions.pick(&index) }
}

/// What a picture shows, read from its pixels under the mask.
pub struct Shown {
    pub bright: bool,
    pub thin: bool,
    /// Of the two middle rows.
    pub contrast: f64,
}

/// What each of the pictures made for `crops` shows.
pub fn read(made: &Tensor, crops: &Crops) -> Vec<Shown> {
    let difference = (made - &crops.good) * &crops.mask;
    let rows = difference.sum_dim_intlist([1i64, 3].as_slice(), false, Kind::Float) / MASK as f64; // [N, S]
    let inside = crops.mask.amax([1i64, 3].as_slice(), false); // [N, S]
    let value = |i: i64, row: i64| rows.double_value(&[i, row]);
    let show = |i: i64| {
        let top = inside.get(i).argmax(0, false).int64_value(&[]);
        let middle = top + MASK / 2;
        let contrast = (value(i, middle - 1) + value(i, middle)) / 2.0;
        // Rows that only a wide bar reaches.
        let edge = (value(i, top + 1) + value(i, top + MASK - 2)) / 2.0;
        Shown { bright: contrast > 0.0, thin: edge.abs() < contrast.abs() / 2.0, contrast: contrast.abs() }
    };
    (0..made.size()[0]).map(show).collect()
}

/// Shares of the pictures that show the class, the word and the side of the middle contrast that they were told.
pub fn obeyed(made: &Tensor, crops: &Crops) -> [f64; 3] {
    let all = read(made, crops);
    let Conditions { class, words, process, .. } = &crops.conditions;
    let mut count = [0.0; 3];
    for (i, shown) in all.iter().enumerate() {
        let i = i as i64;
        let told_high = process.double_value(&[i, 0]) > 0.0;
        let right = [
            shown.bright == (class.int64_value(&[i]) == BRIGHT),
            shown.thin == (words.int64_value(&[i, 1]) == THIN),
            (shown.contrast > contrast(0.0)) == told_high,
        ];
        for (count, right) in count.iter_mut().zip(right) {
            *count += f64::from(u8::from(right)) / all.len() as f64;
        }
    }
    count
}

/// The crops with parameters at both ends, where the side of the middle is plain.
pub fn plain(mut crops: Crops) -> Crops {
    crops.conditions.process = crops.conditions.process.sign() * 0.8;
    crops
}

#[test]
fn the_truth_is_read_right() {
    let crops = crops(1, 64);
    assert_eq!(obeyed(&crops.defect, &crops), [1.0; 3]);
}
