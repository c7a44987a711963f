//! The network: a denoising spatial VAE with a heteroscedastic decoder, and the score drawn from it.
//!
//! Written once over [`Graph`], some fifteen operators that libtorch ([`crate::torch`]) and the ONNX
//! writer ([`crate::onnx`]) both carry out, so that what is trained and what is shipped cannot differ.
//! No path leads from encoder to decoder but the latent: a skip would copy the defect.
//!
//! Terms: *latent* mu, log-variance per cell of 16x16 pixels; *residual* the squared difference between
//! picture and reconstruction in units of the variance that the decoder expects there.
//!
//! Never here: losses, statistics, files.

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
    /// Convolution with "same" padding; weights by `name`.
    fn conv(&mut self, x: &Self::Value, name: &str, conv: Conv) -> Self::Value;
    /// max(x, 0)
    fn relu(&mut self, x: &Self::Value) -> Self::Value;
    /// a + b, broadcast
    fn add(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// a - b, broadcast
    fn sub(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// a * b, broadcast
    fn mul(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// The larger of a and b, broadcast
    fn max(&mut self, a: &Self::Value, b: &Self::Value) -> Self::Value;
    /// e to the x
    fn exp(&mut self, x: &Self::Value) -> Self::Value;
    /// Square root
    fn sqrt(&mut self, x: &Self::Value) -> Self::Value;
    /// -x
    fn neg(&mut self, x: &Self::Value) -> Self::Value;
    /// Limits x to lo..=hi
    fn clip(&mut self, x: &Self::Value, lo: f64, hi: f64) -> Self::Value;
    /// Every pixel four times: `[N, C, H, W]` → `[N, C, 2H, 2W]`
    fn upsample2(&mut self, x: &Self::Value) -> Self::Value;
    /// `[N, 4C, H, W]` → `[N, C, 2H, 2W]`, channel-major (CRD)
    fn depth_to_space2(&mut self, x: &Self::Value) -> Self::Value;
    /// Channels `from..to`
    fn channels(&mut self, x: &Self::Value, from: i64, to: i64) -> Self::Value;
    /// Mean over channels: `[N, C, H, W]` → `[N, 1, H, W]`
    fn mean_channels(&mut self, x: &Self::Value) -> Self::Value;
    /// Mean over k x k windows, padded by `pad` cells that do not count
    fn avg_pool(&mut self, x: &Self::Value, k: i64, stride: i64, pad: i64) -> Self::Value;
    /// Maximum over k x k windows every k cells
    fn max_pool(&mut self, x: &Self::Value, k: i64) -> Self::Value;
    /// A stored constant or learned map
    fn constant(&mut self, name: &str) -> Self::Value;
}

/// How wide the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Variant {
    /// About 0.7 ms for an RGB picture of 128 px on one core.
    Xxs,
    /// About 1 ms for an RGB picture of 128 px on one core: the default.
    Xs,
    /// About 1.6 ms for an RGB picture of 128 px on one core.
    S,
}

impl std::fmt::Display for Variant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Variant::Xxs => "xxs",
            Variant::Xs => "xs",
            Variant::S => "s",
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
}

/// Pixels per latent cell.
pub const STRIDE: i64 = 16;
/// Channels of the latent.
pub const LATENT: i64 = 16;
/// Limits of the decoder's log-variance: without them the loss can explode within a few steps.
pub const LOG_VARIANCE: (f64, f64) = (-6.0, 2.0);
/// Name of the learned map that tells the decoder where it is. Shape: `[1, widths[3], h, w]`.
pub const POSITION: &str = "position";

impl Shape {
    /// Channels at 1/2, 1/4, 1/8 and 1/16 of the input's side.
    pub fn widths(&self) -> [i64; 4] {
        match self.variant {
            Variant::Xxs => [8, 16, 32, 48],
            Variant::Xs => [16, 32, 48, 64],
            Variant::S => [16, 48, 64, 96],
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

/// x + two convolutions of it. Source: He et al. 2016, fig. 2.
fn res<G: Graph>(g: &mut G, x: &G::Value, name: &str, out: i64) -> G::Value {
    let y = block(g, x, &format!("{name}_a"), out, 1);
    let y = g.conv(&y, &format!("{name}_b"), Conv { out, kernel: 3, stride: 1, norm: true });
    let y = g.add(x, &y);
    g.relu(&y)
}

fn up<G: Graph>(g: &mut G, x: &G::Value, name: &str, out: i64) -> G::Value {
    let x = g.upsample2(x);
    block(g, &x, name, out, 1)
}

/// Encoder. Shape: `[N, C, S, S]` → mu, log-variance, each `[N, 16, S/16, S/16]`.
pub fn encode<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> (G::Value, G::Value) {
    let [w0, w1, w2, w3] = shape.widths();
    let x = block(g, x, "e0", w0, 2); // (N, w0, S/2, S/2)
    let x = block(g, &x, "e1", w1, 2); // (N, w1, S/4, S/4)
    let x = block(g, &x, "e2", w2, 2); // (N, w2, S/8, S/8)
    let x = res(g, &x, "e2r", w2);
    let x = block(g, &x, "e3", w3, 2); // (N, w3, S/16, S/16)
    let x = res(g, &x, "e3r", w3);
    let head = Conv { out: LATENT, kernel: 1, stride: 1, norm: false };
    (g.conv(&x, "mu", head), g.conv(&x, "logvar", head))
}

/// Decoder. Shape: `[N, 16, S/16, S/16]` → reconstruction `[N, C, S, S]`, its log-variance `[N, 1, S, S]`.
pub fn decode<G: Graph>(g: &mut G, z: &G::Value, shape: Shape) -> (G::Value, G::Value) {
    let [w0, w1, w2, w3] = shape.widths();
    let x = g.conv(z, "d3", Conv { out: w3, kernel: 3, stride: 1, norm: true });
    let position = g.constant(POSITION);
    let x = g.add(&x, &position);
    let x = g.relu(&x); // (N, w3, S/16, S/16)
    let x = res(g, &x, "d3r", w3);
    let x = up(g, &x, "d2", w2); // (N, w2, S/8, S/8)
    let x = res(g, &x, "d2r", w2);
    let x = up(g, &x, "d1", w1); // (N, w1, S/4, S/4)
    let x = up(g, &x, "d0", w0); // (N, w0, S/2, S/2)
    let out = Conv { out: 4 * (shape.channels + 1), kernel: 3, stride: 1, norm: false };
    let x = g.conv(&x, "out", out);
    let x = g.depth_to_space2(&x); // (N, C+1, S, S)
    let reconstruction = g.channels(&x, 0, shape.channels);
    let log_variance = g.channels(&x, shape.channels, shape.channels + 1);
    let log_variance = g.clip(&log_variance, LOG_VARIANCE.0, LOG_VARIANCE.1);
    (reconstruction, log_variance)
}

/// The normalised residual at inference (z = mu). Shape: `[N, C, S, S]` → `[N, 1, S, S]`, ≥ 0.
///
/// (x - x̂)² / σ², mean over channels: twice the quadratic term of the Gaussian log-likelihood.
/// Source: Kingma & Welling 2014, appendix C.2.
pub fn residual<G: Graph>(g: &mut G, x: &G::Value, shape: Shape) -> G::Value {
    let (mu, _) = encode(g, x, shape);
    let (reconstruction, log_variance) = decode(g, &mu, shape);
    let difference = g.sub(x, &reconstruction);
    let squared = g.mul(&difference, &difference);
    let squared = g.mean_channels(&squared);
    let inverse = g.neg(&log_variance);
    let inverse = g.exp(&inverse);
    g.mul(&squared, &inverse)
}
