//! Where in the picture the defect is seen: pixel AUROC, pixel average precision, AUPRO.
//!
//! Terms: *region*, the connected defect pixels of one mask (8 neighbours). *Overlap*, the share of a
//! region's pixels that are flagged; AUPRO is its mean over regions, integrated over the share of clean
//! pixels that are flagged too, up to a limit, and divided by the limit. 1 is perfect; a map that says
//! the same everywhere gets half the limit (0.15 up to 0.30).
//!
//! Pixels are those of the model's input, since that is what the model saw: the map is enlarged to it
//! bilinearly, the mask is brought to it by area. At the camera's resolution the figures would mostly
//! judge how finely the mask was drawn, and pictures of one set with many sizes would weigh unequally.
//!
//! Pixels are counted into bins of 2^-15 of their own size, so memory does not grow with the pictures.
//!
//! Never here: reading files ([`crate::truth`]).

/// Upper limit of the usual AUPRO. Source: Bergmann et al. 2021 (IJCV).
pub const USUAL_LIMIT: f64 = 0.30;
/// Upper limit of the strict AUPRO. Source: Heckler-Kram et al. 2025 (MVTec AD 2).
pub const STRICT_LIMIT: f64 = 0.05;
/// Bits of a map value that count: sign, exponent, 15 of the fraction.
const KEY_BITS: u32 = 24;
/// Bins that are made at once.
const PAGE_BITS: u32 = 12;
/// A map whose values lie within fewer bins than this is told to be too flat to be judged.
const MIN_BINS: usize = 256;

/// What fell into one bin.
#[derive(Debug, Clone, Copy, Default)]
struct Bin {
    clean: u64,
    defect: u64,
    /// Sum over defect pixels of 1 / pixels of their region.
    overlap: f64,
}

/// Counts of pixels by map value.
#[derive(Default)]
pub struct PixelCounts {
    pages: Vec<Option<Box<[Bin]>>>,
    regions: u64,
    clean: u64,
    defect: u64,
}

/// Figures over pixels.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PixelFigures {
    /// Area under the ROC curve over pixels.
    pub auroc: f64,
    /// Average precision over pixels.
    pub average_precision: f64,
    /// AUPRO up to [`USUAL_LIMIT`].
    pub aupro_30: f64,
    /// AUPRO up to [`STRICT_LIMIT`].
    pub aupro_05: f64,
}

/// Order-keeping number of a finite value, [`KEY_BITS`] wide.
fn key(value: f32) -> usize {
    let bits = (value + 0.0).to_bits(); // + 0.0: the two zeros are one value
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered >> (32 - KEY_BITS)) as usize
}

impl PixelCounts {
    /// Adds one picture: the enlarged map and the regions of its mask (none: all clean).
    ///
    /// Shape: `map` `[H · W]`, finite; `regions` hold places in it, each at most once.
    pub fn add(&mut self, map: &[f32], regions: &[Vec<u32>]) {
        let mut defect = vec![false; map.len()];
        for region in regions {
            let share = 1.0 / region.len() as f64;
            for &place in region {
                let Some(&value) = map.get(place as usize) else { continue };
                defect[place as usize] = true;
                let bin = self.bin(key(value));
                bin.defect += 1;
                bin.overlap += share;
                self.defect += 1;
            }
            self.regions += 1;
        }
        for (&value, _) in map.iter().zip(&defect).filter(|(_, defect)| !**defect) {
            self.bin(key(value)).clean += 1;
            self.clean += 1;
        }
    }

    fn bin(&mut self, key: usize) -> &mut Bin {
        let page = key >> PAGE_BITS;
        if self.pages.is_empty() {
            self.pages.resize(1 << (KEY_BITS - PAGE_BITS), None);
        }
        let bins = self.pages[page].get_or_insert_with(|| vec![Bin::default(); 1 << PAGE_BITS].into());
        &mut bins[key & ((1 << PAGE_BITS) - 1)]
    }

    /// Regions so far.
    pub fn regions(&self) -> u64 {
        self.regions
    }

    /// Bins that hold something, from the highest value downwards, with their keys.
    fn falling(&self) -> impl Iterator<Item = (usize, &Bin)> {
        let pages = self.pages.iter().enumerate().rev().filter_map(|(p, page)| Some((p, page.as_ref()?)));
        let bins = pages.flat_map(|(p, page)| {
            page.iter().enumerate().rev().map(move |(i, bin)| ((p << PAGE_BITS) + i, bin))
        });
        bins.filter(|(_, bin)| bin.clean + bin.defect > 0)
    }

    /// Whether the values lie so close together that the bins cannot tell them apart.
    pub fn is_too_flat(&self) -> bool {
        let highest = self.falling().next().map_or(0, |(key, _)| key);
        let lowest = self.falling().last().map_or(0, |(key, _)| key);
        highest > lowest && highest - lowest < MIN_BINS
    }

    /// The figures; `None` without a defect pixel or without a clean one, or if [`Self::is_too_flat`].
    pub fn figures(&self) -> Option<PixelFigures> {
        if self.defect == 0 || self.clean == 0 || self.is_too_flat() {
            return None;
        }
        let (clean, defect) = (self.clean as f64, self.defect as f64);
        let (mut alarms, mut found, mut above, mut precision) = (0u64, 0u64, 0.0, 0.0);
        for (_, bin) in self.falling() {
            // Defect pixels of this bin beat the clean ones below, and half of those beside them.
            let below = self.clean - alarms - bin.clean;
            above += bin.defect as f64 * (below as f64 + bin.clean as f64 / 2.0);
            alarms += bin.clean;
            found += bin.defect;
            precision += bin.defect as f64 * found as f64 / (found + alarms) as f64;
        }
        Some(PixelFigures {
            auroc: above / (clean * defect),
            average_precision: precision / defect,
            aupro_30: self.aupro(USUAL_LIMIT),
            aupro_05: self.aupro(STRICT_LIMIT),
        })
    }

    /// Mean overlap integrated over the share of flagged clean pixels up to `limit`, by trapezoids.
    ///
    /// Source: Bergmann et al. 2020 (CVPR, Uninformed Students); curve as in MVTec's own code.
    fn aupro(&self, limit: f64) -> f64 {
        let (mut alarms, mut overlap, mut area) = (0.0, 0.0, 0.0);
        for (_, bin) in self.falling() {
            let next = alarms + bin.clean as f64 / self.clean as f64;
            let higher = overlap + bin.overlap / self.regions as f64;
            if next >= limit {
                // Cut the last trapezoid off at the limit.
                let share = if next > alarms { (limit - alarms) / (next - alarms) } else { 0.0 };
                let end = overlap + (higher - overlap) * share;
                return (area + (limit - alarms) * (overlap + end) / 2.0) / limit;
            }
            area += (next - alarms) * (overlap + higher) / 2.0;
            (alarms, overlap) = (next, higher);
        }
        area / limit
    }
}

/// Connected defect pixels (8 neighbours). Shape: `mask` `[H · width]` → places in it, region by region.
pub fn regions(mask: &[bool], width: usize) -> Vec<Vec<u32>> {
    let (width, height) = (width.max(1), mask.len() / width.max(1));
    let mut left = mask.to_vec();
    let mut all = Vec::new();
    for start in 0..width * height {
        if !std::mem::take(&mut left[start]) {
            continue;
        }
        let mut region = vec![start as u32];
        let mut next = 0;
        while let Some(&place) = region.get(next) {
            next += 1;
            let (x, y) = (place as usize % width, place as usize / width);
            for ny in y.saturating_sub(1)..(y + 2).min(height) {
                for nx in x.saturating_sub(1)..(x + 2).min(width) {
                    if std::mem::take(&mut left[ny * width + nx]) {
                        region.push((ny * width + nx) as u32);
                    }
                }
            }
        }
        all.push(region);
    }
    all
}

/// Where a pixel of the larger picture lies between two of the smaller: the first, the second, how far.
fn between(small: usize, large: usize) -> Vec<(usize, usize, f32)> {
    let scale = small as f32 / large as f32;
    let place = |i: usize| {
        let at = ((i as f32 + 0.5) * scale - 0.5).clamp(0.0, (small - 1) as f32);
        let first = at as usize;
        (first, (first + 1).min(small - 1), at.fract())
    };
    (0..large).map(place).collect()
}

/// Enlarges a map bilinearly, pixel centres at halves (as `align_corners=False` elsewhere).
///
/// Shape: `map` `[from.0 · from.1]` (height, width) → `[to.0 · to.1]`. Empty where the sizes do not fit.
pub fn enlarge(map: &[f32], from: (usize, usize), to: (usize, usize)) -> Vec<f32> {
    if map.is_empty() || map.len() != from.0 * from.1 {
        return Vec::new();
    }
    let columns = between(from.1, to.1);
    let mut out = Vec::with_capacity(to.0 * to.1);
    for (top, bottom, down) in between(from.0, to.0) {
        let (top, bottom) = (&map[top * from.1..][..from.1], &map[bottom * from.1..][..from.1]);
        out.extend(columns.iter().map(|&(left, right, along)| {
            let above = top[left] + (top[right] - top[left]) * along;
            let below = bottom[left] + (bottom[right] - bottom[left]) * along;
            above + (below - above) * down
        }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pictures: &[(&[f32], &[&[u32]])]) -> Option<PixelFigures> {
        let mut counts = PixelCounts::default();
        for (map, regions) in pictures {
            counts.add(map, &regions.iter().map(|r| r.to_vec()).collect::<Vec<_>>());
        }
        counts.figures()
    }

    #[test]
    fn a_perfect_map_is_one_and_a_constant_one_is_half() {
        let perfect = figures(&[(&[0.0, 0.0, 9.0, 9.0], &[&[2, 3]]), (&[0.0; 4], &[])]).unwrap();
        assert_eq!((perfect.auroc, perfect.average_precision), (1.0, 1.0));
        assert!((perfect.aupro_30 - 1.0).abs() < 1e-12 && (perfect.aupro_05 - 1.0).abs() < 1e-12);
        let constant = figures(&[(&[2.0; 4], &[&[2]])]).unwrap();
        assert_eq!((constant.auroc, constant.average_precision), (0.5, 0.25));
        assert!((constant.aupro_30 - 0.15).abs() < 1e-12 && (constant.aupro_05 - 0.025).abs() < 1e-12);
    }

    #[test]
    fn every_region_counts_the_same_however_large() {
        // 20 clean pixels; a region of nine that is found at once, and one of one that never is.
        let mut map = vec![1.0; 30];
        map[..9].fill(5.0);
        map[9] = 0.5;
        let large: Vec<u32> = (0..9).collect();
        let got = figures(&[(&map, &[&large, &[9]])]).unwrap();
        assert!((got.aupro_30 - 0.5).abs() < 1e-12, "{got:?}");
        assert!((got.auroc - 0.9).abs() < 1e-12, "{got:?}"); // by pixels it is nine of ten
    }

    #[test]
    fn aupro_is_cut_off_at_the_limit_between_two_steps() {
        // Ten clean pixels, one region of two: found half at no alarm, the rest together with 5 alarms.
        let mut map = vec![0.5; 12];
        map[0] = 9.0;
        map[1..7].fill(4.0); // the region's second pixel and five clean ones
        let got = figures(&[(&map, &[&[0, 1]])]).unwrap();
        // Overlap runs from 0.5 at 0 alarms to 1.0 at 0.5: at 0.3 it is 0.8, on average 0.65.
        assert!((got.aupro_30 - 0.65).abs() < 1e-12, "{got:?}");
        assert!((got.aupro_05 - 0.525).abs() < 1e-12, "{got:?}");
    }

    #[test]
    fn nothing_to_judge_is_no_figure() {
        assert_eq!(figures(&[]), None);
        assert_eq!(figures(&[(&[1.0, 2.0], &[])]), None);
        assert_eq!(figures(&[(&[1.0, 2.0], &[&[0, 1]])]), None);
        assert_eq!(figures(&[(&[1000.0, 1000.01, 1000.2], &[&[0]])]), None, "too flat for the bins");
    }

    #[test]
    fn keys_keep_the_order_of_values() {
        let rising = [f32::MIN, -2.0, -1e-20, 0.0, 1e-20, 1.0, 1.0001, 2.0, f32::MAX];
        assert!(rising.windows(2).all(|w| key(w[0]) < key(w[1])), "{:?}", rising.map(key));
        assert_eq!(key(-0.0), key(0.0));
    }

    #[test]
    fn regions_touch_by_corners_and_not_around_the_edge() {
        let picture = "#...#\
                       .#..#\
                       ....#\
                       #..#.";
        let mask: Vec<bool> = picture.chars().map(|c| c == '#').collect();
        let mut sizes: Vec<usize> = regions(&mask, 5).iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!(sizes, [1, 2, 4]);
        assert!(regions(&[false; 6], 3).is_empty() && regions(&[], 0).is_empty());
        assert_eq!(regions(&[true; 6], 3).len(), 1);
    }

    #[test]
    fn enlarging_keeps_flat_maps_and_means_and_lies_between() {
        assert_eq!(enlarge(&[3.0; 4], (2, 2), (5, 7)), vec![3.0; 35]);
        assert_eq!(enlarge(&[0.0, 4.0], (1, 2), (1, 4)), [0.0, 1.0, 3.0, 4.0]);
        assert_eq!(enlarge(&[0.0, 4.0], (1, 2), (1, 2)), [0.0, 4.0]);
        assert!(enlarge(&[1.0], (2, 2), (4, 4)).is_empty());
    }
}
