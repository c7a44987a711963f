//! The options that name a user's own network.

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use inspect_train::backbone::{Backbone, Scale};

#[derive(Args)]
pub struct BackboneArgs {
    /// A network of your own to look with, frozen: FILE.onnx
    ///
    /// One that was trained on many pictures sees more than what can be learnt from a few. It has one input, 32-bit
    /// floats [N, C, H, W] with C 3 (RGB) or 1; its outputs are feature maps, of which the two with strides nearest to 8
    /// and 16 pixels are used; opset 13 to 23, standard operators, all weights inside the file. `fit` merges it into the
    /// model file, and --variant is the width of what stands behind it (not with --crop or --normalise exposure).
    /// `defects judge` compares crops by its features.
    #[arg(long, value_name = "FILE")]
    pub backbone: Option<PathBuf>,
    /// What --backbone takes off its pictures, for pixels from 0 to 1: one number or R,G,B (default 0)
    #[arg(
        long,
        value_name = "R,G,B",
        value_delimiter = ',',
        requires = "backbone",
        allow_hyphen_values = true
    )]
    backbone_mean: Vec<f32>,
    /// What --backbone divides them by after that: one number or R,G,B (default 1)
    #[arg(
        long,
        value_name = "R,G,B",
        value_delimiter = ',',
        requires = "backbone",
        allow_hyphen_values = true
    )]
    backbone_std: Vec<f32>,
}

impl BackboneArgs {
    /// Reads the network, tries it on pictures of `size` pixels and says what of it is used.
    pub fn load(&self, size: u32) -> anyhow::Result<Option<Arc<Backbone>>> {
        let Some(path) = &self.backbone else { return Ok(None) };
        let scale = Scale::new(&self.backbone_mean, &self.backbone_std)?;
        let backbone = Backbone::load(path, scale, size)?;
        for map in &backbone.maps {
            eprintln!("backbone: output {}", map.said(backbone.size));
        }
        Ok(Some(Arc::new(backbone)))
    }
}
