//! The U-Net of the GAN's generator and of the diffusion model: residual blocks steered by a signal, attention
//! where the map is small.
//!
//! Source: Ho et al. 2020, appendix B; Dhariwal & Nichol 2021, section 3; cross-attention as in Rombach et al.
//! 2022, section 3.3. Downwards by a strided convolution, upwards by nearest neighbour.
//!
//! Never here: what the signal holds, losses.

use tch::{Kind, Tensor};

use super::layers::{GROUP, Layers, Start};

/// Maps with sides up to it, but not the first one, attend to themselves and to the text.
const ATTENTION_SIDE: i64 = 16;
/// The smallest side of a map.
const MIN_SIDE: i64 = 4;

/// Words to attend to.
pub struct Text {
    /// Shape: `[N, L, D]`
    pub tokens: Tensor,
    /// Which of them are there. Shape: `[N, L]`, bool
    pub known: Tensor,
}

/// What the network looks like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UNet {
    /// Channels from full to lowest resolution; each level has half the side of the one before.
    pub widths: Vec<i64>,
    /// Residual blocks at each level, down and again up.
    pub blocks: usize,
    /// Channels of the result.
    pub out: i64,
    /// Whether small maps attend to themselves, and to the text if there is one.
    pub attends: bool,
}

impl UNet {
    /// Widths `base` times each of `factors`, as many levels as `side` allows; the last factor again until maps are
    /// small enough to attend. `base` is rounded up to a multiple of [`GROUP`].
    pub fn widths(side: i64, base: i64, factors: &[i64]) -> Vec<i64> {
        let base = (base.max(1) + GROUP - 1) / GROUP * GROUP;
        let last = factors.last().copied().unwrap_or(1);
        let mut widths = Vec::new();
        let mut side = side;
        for level in 0.. {
            widths.push(base * factors.get(level).copied().unwrap_or(last));
            let enough = level + 1 >= factors.len() && side <= ATTENTION_SIDE;
            if enough || side % 2 != 0 || side / 2 < MIN_SIDE {
                break;
            }
            side /= 2;
        }
        widths
    }

    /// Shapes: x `[N, C, S, S]`, signal `[N, D]` → `[N, out, S, S]`, f32
    pub fn forward(&self, layers: &Layers, x: &Tensor, signal: &Tensor, text: Option<&Text>) -> Tensor {
        let full = x.size()[2];
        let block = |x: &Tensor, name: String, width: i64| {
            let h = residual(layers, x, signal, &name, width);
            let side = h.size()[2];
            let attends = self.attends && side <= ATTENTION_SIDE && (side < full || self.widths.len() == 1);
            if attends { attend(layers, &h, text, &name) } else { h }
        };
        let mut h = layers.conv(x, "in", (self.widths[0], 3, 1), Start::Usual);
        let mut skips = Vec::with_capacity(self.widths.len());
        for (level, &width) in self.widths.iter().enumerate() {
            if level > 0 {
                h = layers.conv(&h, &format!("down{level}"), (width, 3, 2), Start::Usual);
            }
            for i in 0..self.blocks {
                h = block(&h, format!("down{level}_{i}"), width);
            }
            skips.push(h.shallow_clone());
        }
        skips.pop(); // the lowest is where the way up begins
        let lowest = self.widths[self.widths.len() - 1];
        h = residual(layers, &h, signal, "middle", lowest);
        for (level, skip) in skips.iter().enumerate().rev() {
            let size = skip.size();
            let up = h.upsample_nearest2d([size[2], size[3]], None, None);
            h = Tensor::cat(&[&up, skip], 1);
            for i in 0..self.blocks {
                h = block(&h, format!("up{level}_{i}"), self.widths[level]);
            }
        }
        let h = layers.group_norm(&h, "out_norm").silu();
        layers.conv(&h, "out", (self.out, 3, 1), Start::Small).to_kind(Kind::Float).contiguous()
    }
}

/// Two convolutions, the adaptive norm between them. Source: Dhariwal & Nichol 2021, section 3.
fn residual(layers: &Layers, x: &Tensor, signal: &Tensor, name: &str, width: i64) -> Tensor {
    let h = layers.group_norm(x, &format!("{name}_first_norm")).silu();
    let h = layers.conv(&h, &format!("{name}_first"), (width, 3, 1), Start::Usual);
    let h = layers.adaptive_norm(&h, signal, &format!("{name}_told")).silu();
    let h = layers.conv(&h, &format!("{name}_second"), (width, 3, 1), Start::Small);
    if x.size()[1] == width {
        x + h
    } else {
        layers.conv(x, &format!("{name}_skip"), (width, 1, 1), Start::Usual) + h
    }
}

/// Every place looks at every other, then at the words.
fn attend(layers: &Layers, x: &Tensor, text: Option<&Text>, name: &str) -> Tensor {
    let size = x.size();
    let tokens = |x: &Tensor, norm: &str| {
        layers.group_norm(x, &format!("{name}_{norm}")).flatten(2, 3).transpose(1, 2) // [N, H W, C]
    };
    let picture = |t: Tensor| t.transpose(1, 2).reshape(&size);
    let own = tokens(x, "self_norm");
    let x = x + picture(layers.attention(&own, &own, None, &format!("{name}_self")));
    let Some(text) = text else { return x };
    let asking = tokens(&x, "text_norm");
    &x + picture(layers.attention(&asking, &text.tokens, Some(&text.known), &format!("{name}_text")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_always_a_map_small_enough_to_attend() {
        let widths = |side| UNet::widths(side, 13, &[1, 2, 3, 4]);
        assert_eq!(widths(16), [16, 32, 48]);
        assert_eq!(widths(64), [16, 32, 48, 64]);
        assert_eq!(widths(128), [16, 32, 48, 64]);
        assert_eq!(widths(256), [16, 32, 48, 64, 64]);
        assert_eq!(widths(48), [16, 32, 48, 64]);
    }
}
