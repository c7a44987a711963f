//! VAE-F: the same network over the features of a backbone instead of pixels.
//!
//! It draws the whitened features that a good part would have, and how sure it is of each; its head sees features,
//! reconstruction and residual. The latent is drawn while it learns, which is the noise that keeps a reconstruction
//! from copying what it was never taught (the part of Dinomaly's noisy bottleneck, Guo et al. 2025, section 3.2).
//!
//! Terms: as [`super`]; a *cell* of the features is [`crate::backbone::CELL_PX`] pixels wide, one of the latent
//! twice that.
//!
//! Never here: the backbone.

use super::{Conv, Decoded, Graph, LOG_VARIANCE, Shape, Variant, block, res, up};

/// Widths of a variant.
#[derive(Debug, Clone, Copy)]
pub struct Widths {
    /// Most channels of the features.
    pub features: usize,
    /// Channels at the features' cells.
    pub fine: i64,
    /// Channels at the latent's cells.
    pub coarse: i64,
    /// Channels of the latent.
    pub latent: i64,
    /// Channels of the head.
    pub head: i64,
    /// Residual blocks of each.
    pub depth: usize,
}

/// What [`Variant`] means here. Multiples of 16 run best.
pub fn widths(variant: Variant) -> Widths {
    let of =
        |features, fine, coarse, latent, head, depth| Widths { features, fine, coarse, latent, head, depth };
    match variant {
        Variant::Xxs => of(64, 32, 48, 16, 32, 1),
        Variant::Xs => of(128, 64, 96, 32, 48, 1),
        Variant::S => of(192, 96, 128, 32, 64, 1),
        Variant::M => of(256, 192, 256, 64, 128, 2),
        Variant::L => of(256, 256, 384, 96, 192, 2),
    }
}

/// Channels to channels, cell by cell.
fn narrow<G: Graph>(g: &mut G, x: &G::Value, name: &str, out: i64) -> G::Value {
    let x = g.conv(x, name, Conv { out, kernel: 1, stride: 1, norm: true });
    g.relu(&x)
}

/// Encoder. Shape: `[N, K, h, w]` → `[N, coarse, h/2, w/2]`.
pub fn encode<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> G::Value {
    let w = widths(shape.variant);
    let x = narrow(g, x, "e2", w.fine); // (N, fine, h, w)
    let x = res(g, x, "e2r", w.fine, w.depth);
    let x = block(g, &x, "e3", w.coarse, 2); // (N, coarse, h/2, w/2)
    res(g, x, "e3r", w.coarse, w.depth)
}

/// Decoder. Shape: `z` `[N, latent, h/2, w/2]`, `position` `[1, coarse, h/2, w/2]` → twice `[N, K, h, w]`.
pub fn decode<G: Graph>(
    g: &mut G,
    z: &G::Value,
    position: &G::Value,
    channels: i64,
    shape: Shape,
) -> Decoded<G::Value> {
    let w = widths(shape.variant);
    let x = g.conv(z, "d3", Conv { out: w.coarse, kernel: 3, stride: 1, norm: true });
    let x = g.add(&x, position);
    let x = g.relu(&x); // (N, coarse, h/2, w/2)
    let x = res(g, x, "d3r", w.coarse, w.depth);
    let x = up(g, &x, "d2", w.fine); // (N, fine, h, w)
    let x = res(g, x, "d2r", w.fine, w.depth);
    let x = g.conv(&x, "out", Conv { out: 2 * channels, kernel: 1, stride: 1, norm: false });
    let reconstruction = g.channels(&x, 0, channels);
    let log_variance = g.channels(&x, channels, 2 * channels);
    let log_variance = g.clip(&log_variance, LOG_VARIANCE.0, LOG_VARIANCE.1);
    Decoded { reconstruction, log_variance }
}

/// Head, of features, reconstruction and residual one behind the other. Shape: `[N, 3K, h, w]` → `[N, 1, 2h, 2w]`:
/// logits of cells of 4 pixels, as the other network's.
pub fn head<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> G::Value {
    let w = widths(shape.variant);
    let x = narrow(g, x, "h2", w.head);
    let x = block(g, &x, "h3", w.head, 1);
    let x = res(g, x, "h3r", w.head, w.depth);
    let x = g.conv(&x, "logit", Conv { out: 4, kernel: 3, stride: 1, norm: false });
    g.depth_to_space2(&x)
}
