//! The linear floor: what principal components alone can do on the same pictures.
//!
//! Grey 128x128, reconstruction from the leading components of the training goods, residual divided by
//! each pixel's own deviation on the goods, mean of the largest 1 %. A model below it has learnt too little.
//!
//! Never here: anything that a model file uses.

use std::path::Path;

use inspect_core::card::Input;
use inspect_core::image::Roi;
use inspect_core::resize::Resizer;
use tch::{Kind, Tensor};

use crate::data::{DataError, Labelled, find_goods, load_one};
use crate::metrics::auroc;

/// The floor's picture.
const INPUT: Input = Input { width: 128, height: 128, channels: 1 };
/// Most principal components; at most one fewer than goods.
const COMPONENTS: i64 = 40;
/// Added to each pixel's deviation, so that pixels that never change do not decide alone.
const SCALE_FLOOR: f64 = 0.02;
/// Share of pixels that the score is the mean of.
const TOP: f64 = 0.01;

/// Most goods that it is fitted on, evenly spread: their products are a matrix of that side.
const MOST_GOODS: usize = 2_000;
/// Pictures that are judged together.
const CHUNK: usize = 512;

/// Why there is no floor.
#[derive(Debug, thiserror::Error)]
pub enum FloorError {
    /// A picture or folder cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
}

/// The floor's AUROC on the labelled pictures, fitted on the goods of `dir`; `roi`: the part of each picture.
///
/// Errors: [`FloorError`].
pub fn floor(dir: &Path, labelled: &[Labelled], roi: Option<Roi>) -> Result<f64, FloorError> {
    let goods = find_goods(dir)?;
    let step = goods.len().div_ceil(MOST_GOODS);
    let score = fitted(&matrix(goods.iter().step_by(step).map(|p| p.path.as_path()), roi)?);
    let mut scores = Vec::with_capacity(labelled.len());
    for chunk in labelled.chunks(CHUNK) {
        scores.extend(score(&matrix(chunk.iter().map(|l| l.path.as_path()), roi)?));
    }
    let of = |good: bool| -> Vec<f32> {
        labelled.iter().zip(&scores).filter(|(l, _)| l.good == good).map(|(_, &s)| s).collect()
    };
    Ok(auroc(&of(true), &of(false)))
}

/// Shape: n pictures → `[n, 128·128]`, 0 to 1.
fn matrix<'a>(paths: impl Iterator<Item = &'a Path>, roi: Option<Roi>) -> Result<Tensor, DataError> {
    let mut resizer = Resizer::default();
    let mut pixels = Vec::new();
    for path in paths {
        pixels.extend(load_one(path, roi, INPUT, &mut resizer)?);
    }
    let flat = Tensor::from_slice(&pixels).view([-1, (INPUT.width * INPUT.height) as i64]);
    Ok(flat.to_kind(Kind::Float) / 255.0)
}

/// Shape: goods `[n, d]` → what makes m scores of `[m, d]`. Components by the n x n dual eigenproblem.
fn fitted(train: &Tensor) -> impl Fn(&Tensor) -> Vec<f32> + use<> {
    let n = train.size()[0];
    let mean = train.mean_dim([0i64].as_slice(), true, Kind::Float);
    let centred = train - &mean;
    let gram = centred.matmul(&centred.tr()).to_kind(Kind::Double);
    let (values, vectors) = gram.linalg_eigh("L"); // ascending
    let k = COMPONENTS.min(n - 1).max(1);
    let values = values.narrow(0, n - k, k).clamp_min(1e-9).sqrt();
    let vectors = (vectors.narrow(1, n - k, k) / values).to_kind(Kind::Float);
    let basis = centred.tr().matmul(&vectors); // (d, k), orthonormal columns
    let residual = move |x: &Tensor| {
        let x = x - &mean;
        &x - x.matmul(&basis).matmul(&basis.tr())
    };
    let scale = residual(train).std_dim([0i64].as_slice(), false, true) + SCALE_FLOOR;
    move |test| {
        let ratio = residual(test).abs() / &scale;
        let top = (ratio.size()[1] as f64 * TOP) as i64;
        let (largest, _) = ratio.topk(top, 1, true, false);
        let scores = largest.mean_dim([1i64].as_slice(), false, Kind::Float);
        let mut out = vec![0f32; scores.numel()];
        scores.copy_data(&mut out, scores.numel());
        out
    }
}
