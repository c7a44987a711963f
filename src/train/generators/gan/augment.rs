//! Changes that the discriminator sees on real and made pictures alike, so that it cannot learn a few real ones by
//! heart: colour, translation, cutout. Gradients go through them.
//!
//! Source: Zhao et al. 2020 (DiffAugment). Milder than there: a defect is small, and how bright it is matters.
//!
//! Never here: augmentation of what a generator learns to draw; that would be drawn too.

use tch::{Kind, Tensor};

use crate::generators::chance::Chance;

/// Most that brightness is moved by, of 0..1.
const BRIGHTNESS: f64 = 0.1;
/// Most that contrast is changed by, as a share.
const CONTRAST: f64 = 0.25;
/// Most that saturation is changed by, as a share.
const SATURATION: f64 = 0.5;
/// Most that a picture is moved by, as a share of its side.
const MOVE: f64 = 0.125;
/// Side of the square that is painted grey, as a share of the picture's.
const CUTOUT: f64 = 0.25;

/// Shapes: x `[N, C, S, S]` in 0..1, mask `[N, 1, S, S]` → the same. The mask moves with the picture.
pub fn augment(x: &Tensor, mask: &Tensor, chance: &mut Chance) -> (Tensor, Tensor) {
    let size = x.size();
    let (n, side, device) = (size[0], size[3], x.device());
    let mut spread = |most: f64| ((chance.uniform(&[n, 1, 1, 1]) * 2.0 - 1.0) * most).to_device(device);
    let mut x = x + spread(BRIGHTNESS);
    if size[1] == 3 {
        let grey = x.mean_dim([1i64].as_slice(), true, Kind::Float);
        x = (x - &grey) * (spread(SATURATION) + 1.0) + grey;
    }
    let mean = x.mean_dim([1i64, 2, 3].as_slice(), true, Kind::Float);
    x = (x - &mean) * (spread(CONTRAST) + 1.0) + mean;
    let reach = (side as f64 * MOVE).floor() + 0.5;
    let (down, right) = (spread(reach).round(), spread(reach).round());
    let (x, mask) = (moved(&x, &down, &right), moved(mask, &down, &right));
    let middle = side as f64 / 2.0;
    let (y0, x0) = (spread(middle) + middle, spread(middle) + middle);
    let at = Tensor::arange(side, (Kind::Float, device)) + 0.5;
    let near = |axis: Tensor, centre: Tensor| (axis - centre).abs().lt(side as f64 * CUTOUT / 2.0);
    let cut = near(at.view([1, 1, side, 1]), y0).logical_and(&near(at.view([1, 1, 1, side]), x0));
    (x.masked_fill(&cut, 0.5), mask)
}

/// Moved by whole pixels `[N, 1, 1, 1]`; what comes in repeats the border.
fn moved(x: &Tensor, down: &Tensor, right: &Tensor) -> Tensor {
    let size = x.size();
    let at = Tensor::arange(size[3], (Kind::Float, x.device()));
    let from = |axis: Tensor, by: &Tensor| {
        (axis - by).clamp(0.0, (size[3] - 1) as f64).to_kind(Kind::Int64).expand(&size, false)
    };
    let rows = x.gather(2, &from(at.view([1, 1, -1, 1]), down), false);
    rows.gather(3, &from(at.view([1, 1, 1, -1]), right), false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tch::Device;

    #[test]
    fn pictures_move_with_their_masks_and_gradients_come_back() {
        let mask = Tensor::zeros([8, 1, 16, 16], (Kind::Float, Device::Cpu));
        let _ = mask.narrow(2, 6, 4).narrow(3, 6, 4).fill_(1.0);
        let x = (mask.repeat([1, 3, 1, 1]) * 0.5 + 0.25).set_requires_grad(true);
        let (seen, moved) = augment(&x, &mask, &mut Chance::new(1));
        assert_eq!(moved.sum(Kind::Float).double_value(&[]), 8.0 * 16.0, "moved by no more than it can be");
        assert!(!moved.equal(&mask));
        for i in 0..8 {
            // Where nothing is cut out, the picture is brightest where the mask is.
            let shown = seen.get(i).select(0, 0).detach();
            let inside = moved.get(i).select(0, 0).gt(0.5);
            let rest = shown.masked_fill(&inside, 0.0).min().double_value(&[]);
            assert!(shown.masked_select(&inside).max().double_value(&[]) > rest, "picture {i}");
        }
        let gradient = Tensor::run_backward(&[seen.sum(Kind::Float)], &[&x], false, false).remove(0);
        assert!(gradient.abs().sum(Kind::Float).double_value(&[]) > 1.0);
    }
}
