//! The network, VAE-D: a denoising spatial VAE with a heteroscedastic decoder, and a head that tells
//! defects from what the VAE merely cannot draw.
//!
//! Written once over [`Graph`], some twenty operators that libtorch ([`crate::torch`]) and the ONNX
//! writer ([`crate::onnx`]) both carry out, so that what is trained and what is shipped cannot differ.
//! No path leads from encoder to decoder but the latent: a skip would copy the defect. The head sees
//! picture, reconstruction and residual side by side and has skips of its own (Zavrtanik et al. 2021,
//! DRAEM, section 3.2).
//!
//! Terms: *latent* mu, log-variance per cell of 16x16 pixels; *residual* the difference between picture
//! and reconstruction in units of the deviation that the decoder expects there; *logit* what the head
//! says of a cell of 4x4 pixels, above 0 where a defect is likelier than not.
//!
//! With a backbone ([`crate::backbone`]) the same functions draw features instead of pixels: [`features`].
//!
//! Never here: losses, statistics, files.

pub mod features;

/// One convolution, named for its weights.
#[derive(Debug, Clone, Copy)]
pub struct Conv {
    /// Output channels.
    pub out: i64,
    /// Side of the kernel, odd.
    pub kernel: i64,
    /// Stride.
    pub stride: i64,
    /// Followed by BatchNorm (folded into the weights at export).
    pub norm: bool,
}

/// The operators. Shape of every value: `[N, C, H, W]`, f32.
pub trait Graph {
    /// A tensor or its name.
    type Value;
    /// Pixels through the user's frozen backbone: `[N, C, S, S]`, 0 to 255 → features `[N, K, S/8, S/8]`
    fn frozen(&mut self, pixels: &Self::Value) -> Self::Value;
    /// Convolution with "same" padding; weights by `name`.
    fn conv(&mut self, x: &Self::Value, name: &str, conv: Conv) -> Self::Value;
    /// max(x, 0), in the place of x, which must not be used afterwards
    fn relu(&mut self, x: &Self::Value) -> Self::Value;
    /// a + b, broadcast
    fn add(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// a - b, broadcast
    fn sub(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// a * b, broadcast
    fn mul(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// a / b, broadcast
    fn div(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// The larger of a and b, broadcast
    fn max(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// e to the x
    fn exp(&mut self, x: &Self::Value) -> Self::Value;
    /// Square root
    fn sqrt(&mut self, x: &Self::Value) -> Self::Value;
    /// x times a number
    fn scale(&mut self, x: &Self::Value, factor: f64) -> Self::Value;
    /// Limits x to lo..=hi
    fn clip(&mut self, x: &Self::Value, lo: f64, hi: f64) -> Self::Value;
    /// Every pixel four times: `[N, C, H, W]` → `[N, C, 2H, 2W]`
    fn upsample2(&mut self, x: &Self::Value) -> Self::Value;
    /// `[N, 4C, H, W]` → `[N, C, 2H, 2W]`, channel-major (CRD)
    fn depth_to_space2(&mut self, x: &Self::Value) -> Self::Value;
    /// Channels `from..to`
    fn channels(&mut self, x: &Self::Value, from: i64, to: i64) -> Self::Value;
    /// One behind the other: channels add up
    fn concat(&mut self, parts: &[&Self::Value]) -> Self::Value;
    /// Mean over channels and places: `[N, C, H, W]` → `[N, 1, 1, 1]`
    fn mean_picture(&mut self, x: &Self::Value) -> Self::Value;
    /// Mean over channels: `[N, C, H, W]` → `[N, 1, H, W]`
    fn mean_channels(&mut self, x: &Self::Value) -> Self::Value;
    /// Mean over k x k windows, padded by `pad` cells that do not count
    fn avg_pool(&mut self, x: &Self::Value, k: i64, stride: i64, pad: i64) -> Self::Value;
    /// Largest value of each picture: `[N, C, H, W]` → `[N, 1, 1, 1]`
    fn max_picture(&mut self, x: &Self::Value) -> Self::Value;
    /// Maximum over k x k windows every k cells
    fn max_pool(&mut self, x: &Self::Value, k: i64) -> Self::Value;
    /// A stored constant or learned map
    fn constant(&mut self, name: &str) -> Self::Value;
}

/// How wide and deep the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Variant {
    /// For small edge boxes: half of xs in every respect.
    Xxs,
    /// For the processor: the default.
    Xs,
    /// For the processor where a part has a few milliseconds more.
    S,
    /// For a GPU, to fit and to run.
    M,
    /// For a GPU, parts that vary much.
    L,
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Variant::Xxs => "xxs",
            Variant::Xs => "xs",
            Variant::S => "s",
            Variant::M => "m",
            Variant::L => "l",
        })
    }
}

/// Everything that determines the network's shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Width and height of the input, pixels; a multiple of [`STRIDE`].
    pub size: i64,
    /// 1 or 3.
    pub channels: i64,
    /// Widths.
    pub variant: Variant,
    /// Whether brightness and contrast are taken out of each picture.
    pub exposure: bool,
    /// Whether a part of each picture is painted over, because it does not matter.
    pub masked: bool,
    /// Channels of a backbone's features, which the network then draws; `None`: it draws pixels.
    pub features: Option<i64>,
}

/// Pixels per latent cell.
pub const STRIDE: i64 = 16;
/// Limits of the decoder's log-variance: without them the loss can explode within a few steps.
pub const LOG_VARIANCE: (f64, f64) = (-6.0, 2.0);
/// What the head is shown of the residual: beyond it a pixel is wrong in any case, and one such pixel must
/// not drown its neighbours.
const RESIDUAL_LIMIT: f64 = 6.0;
/// Name of the learned map that tells the decoder where it is. Shape: `[1, widths[3], h, w]`.
pub const POSITION: &str = "position";

impl Shape {
    /// Channels at 1/2, 1/4, 1/8 and 1/16 of the input's side. Multiples of 16 run best.
    pub fn widths(&self) -> [i64; 4] {
        match self.variant {
            Variant::Xxs => [8, 16, 32, 48],
            Variant::Xs => [16, 32, 48, 64],
            Variant::S => [16, 48, 64, 96],
            Variant::M => [32, 64, 128, 256],
            Variant::L => [64, 128, 256, 384],
        }
    }

    /// Channels of the latent.
    pub fn latent(&self) -> i64 {
        if self.features.is_some() {
            return features::widths(self.variant).latent;
        }
        match self.variant {
            Variant::Xxs | Variant::Xs | Variant::S => 16,
            Variant::M => 32,
            Variant::L => 64,
        }
    }

    /// Channels where the latent is drawn from.
    pub fn coarsest(&self) -> i64 {
        match self.features {
            Some(_) => features::widths(self.variant).coarse,
            None => self.widths()[3],
        }
    }

    /// Residual blocks at 1/8 and 1/16 of the side; at 1/4 there is one less.
    pub fn depth(&self) -> usize {
        match self.variant {
            Variant::Xxs | Variant::Xs | Variant::S => 1,
            Variant::M | Variant::L => 2,
        }
    }

    /// Cells along a side of the latent.
    pub fn cells(&self) -> i64 {
        self.size / STRIDE
    }
}

/// 3x3 convolution, BatchNorm, ReLU.
fn block<G: Graph>(g: &mut G, x: &G::Value, name: &str, out: i64, stride: i64) -> G::Value {
    let x = g.conv(x, name, Conv { out, kernel: 3, stride, norm: true });
    g.relu(&x)
}

/// `n` times x + two convolutions of it. Source: He et al. 2016, fig. 2.
fn res<G: Graph>(g: &mut G, x: G::Value, name: &str, out: i64, n: usize) -> G::Value {
    (0..n).fold(x, |x, i| {
        let y = block(g, &x, &format!("{name}_{i}a"), out, 1);
        let y = g.conv(&y, &format!("{name}_{i}b"), Conv { out, kernel: 3, stride: 1, norm: true });
        let y = g.add(&x, &y);
        g.relu(&y)
    })
}

/// Twice the resolution. The convolution comes first, where it costs a quarter: the one that follows at
/// the finer resolution smooths what is drawn.
fn up<G: Graph>(g: &mut G, x: &G::Value, name: &str, out: i64) -> G::Value {
    let x = block(g, x, name, out, 1);
    g.upsample2(&x)
}

/// What was seen coarsely, added to what was seen finely. Source: Lin et al. 2017, feature pyramids, fig. 3.
fn merge<G: Graph>(g: &mut G, coarse: &G::Value, fine: &G::Value, name: &str, out: i64) -> G::Value {
    let lateral = Conv { out, kernel: 1, stride: 1, norm: true };
    let x = g.conv(coarse, &format!("{name}_a"), lateral);
    let x = g.upsample2(&x);
    let x = g.add(&x, fine);
    block(g, &x, &format!("{name}_b"), out, 1)
}

/// Encoder. Shape: `[N, C, S, S]` → features `[N, w3, S/16, S/16]`, of which [`mean`] and [`log_variance`] are made.
pub fn encode<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> G::Value {
    if shape.features.is_some() {
        return features::encode(g, x, shape);
    }
    let ([w0, w1, w2, w3], n) = (shape.widths(), shape.depth());
    let x = block(g, x, "e0", w0, 2); // (N, w0, S/2, S/2)
    let x = block(g, &x, "e1", w1, 2); // (N, w1, S/4, S/4)
    let x = res(g, x, "e1r", w1, n - 1);
    let x = block(g, &x, "e2", w2, 2); // (N, w2, S/8, S/8)
    let x = res(g, x, "e2r", w2, n);
    let x = block(g, &x, "e3", w3, 2); // (N, w3, S/16, S/16)
    res(g, x, "e3r", w3, n)
}

/// Mean of the latent, mu. Shape: features of [`encode`] → `[N, latent, S/16, S/16]`.
pub fn mean<G: Graph>(g: &mut G, features: &G::Value, shape: Shape) -> G::Value {
    g.conv(features, "mu", Conv { out: shape.latent(), kernel: 1, stride: 1, norm: false })
}

/// Log-variance of the latent; only learning needs it. Shape: as [`mean`].
pub fn log_variance<G: Graph>(g: &mut G, features: &G::Value, shape: Shape) -> G::Value {
    g.conv(features, "logvar", Conv { out: shape.latent(), kernel: 1, stride: 1, norm: false })
}

/// What the decoder gives back of a picture.
pub struct Decoded<V> {
    /// The picture as a good part would look. Shape: `[N, C, S, S]`.
    pub reconstruction: V,
    /// How far off the decoder expects to be. Shape: `[N, 1, S, S]`, for features that of the reconstruction; within
    /// [`LOG_VARIANCE`].
    pub log_variance: V,
}

/// Decoder. Shape: `z` `[N, latent, S/16, S/16]`, `position` `[1, w3, S/16, S/16]`.
pub fn decode<G: Graph>(g: &mut G, z: &G::Value, position: &G::Value, shape: Shape) -> Decoded<G::Value> {
    if let Some(channels) = shape.features {
        return features::decode(g, z, position, channels, shape);
    }
    let ([w0, w1, w2, w3], n) = (shape.widths(), shape.depth());
    let x = g.conv(z, "d3", Conv { out: w3, kernel: 3, stride: 1, norm: true });
    let x = g.add(&x, position);
    let x = g.relu(&x); // (N, w3, S/16, S/16)
    let x = res(g, x, "d3r", w3, n);
    let x = up(g, &x, "d2", w2); // (N, w2, S/8, S/8)
    let x = res(g, x, "d2r", w2, n);
    let x = up(g, &x, "d1", w1); // (N, w1, S/4, S/4)
    let x = res(g, x, "d1r", w1, n - 1);
    let x = up(g, &x, "d0", w0); // (N, w0, S/2, S/2)
    let out = Conv { out: 4 * (shape.channels + 1), kernel: 3, stride: 1, norm: false };
    let x = g.conv(&x, "out", out);
    let x = g.depth_to_space2(&x); // (N, C+1, S, S)
    let reconstruction = g.channels(&x, 0, shape.channels);
    let log_variance = g.channels(&x, shape.channels, shape.channels + 1);
    let log_variance = g.clip(&log_variance, LOG_VARIANCE.0, LOG_VARIANCE.1);
    Decoded { reconstruction, log_variance }
}

/// The standardised residual, signed. Shape: `[N, C, S, S]` → the same.
///
/// (x - x̂) / σ, the square root of twice the quadratic term of the Gaussian log-likelihood.
/// Source: Kingma & Welling 2014, appendix C.2.
pub fn residual<G: Graph>(g: &mut G, x: &G::Value, decoded: &Decoded<G::Value>) -> G::Value {
    let difference = g.sub(x, &decoded.reconstruction);
    let exponent = g.scale(&decoded.log_variance, -0.5);
    let inverse = g.exp(&exponent);
    g.mul(&difference, &inverse)
}

/// Head. Shape: picture, its decoding and residual → logits `[N, 1, S/4, S/4]`.
///
/// Source: DRAEM's discriminative network (Zavrtanik et al. 2021, section 3.2), with the residual given to
/// it and at a quarter of the resolution.
pub fn head<G: Graph>(
    g: &mut G,
    x: &G::Value,
    decoded: &Decoded<G::Value>,
    residual: &G::Value,
    shape: Shape,
) -> G::Value {
    let ([w0, w1, w2, w3], n) = (shape.widths(), shape.depth());
    let residual = g.clip(residual, -RESIDUAL_LIMIT, RESIDUAL_LIMIT);
    let x = g.concat(&[x, &decoded.reconstruction, &residual]); // (N, 3C, S, S)
    if shape.features.is_some() {
        return features::head(g, &x, shape);
    }
    let x = block(g, &x, "h0", w0, 2); // (N, w0, S/2, S/2)
    let x = block(g, &x, "h1", w1, 2);
    let fine = res(g, x, "h1r", w1, n); // (N, w1, S/4, S/4)
    let x = block(g, &fine, "h2", w2, 2);
    let middle = res(g, x, "h2r", w2, n); // (N, w2, S/8, S/8)
    let x = block(g, &middle, "h3", w3, 2);
    let x = res(g, x, "h3r", w3, n); // (N, w3, S/16, S/16)
    let x = merge(g, &x, &middle, "h4", w2); // (N, w2, S/8, S/8)
    let x = merge(g, &x, &fine, "h5", w1); // (N, w1, S/4, S/4)
    g.conv(&x, "logit", Conv { out: 1, kernel: 1, stride: 1, norm: false })
}
