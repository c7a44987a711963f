//! `inspectd score`: a folder of images through the production path.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Context as _;
use inspect_core::image::{Image, is_image_path};
use inspect_core::model::ModelFile;
use inspect_core::resize::Resizer;
use inspect_core::runtime::{Provider, Runtime};
use inspect_core::scorer::{OnnxScorer, Scorer as _};
use inspect_core::verdict::{FaultCode, Verdict, judge};

use crate::archive::paint;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model file.
    #[arg(long)]
    model: PathBuf,
    /// CSV file to write: path, score, verdict, latency_us. Scores are in the model's own unit; `inspectd card`
    /// shows its limits.
    #[arg(long)]
    csv: PathBuf,
    /// Folder to write anomaly maps to, as PNG, in the folder structure of the images; apart from them.
    #[arg(long)]
    maps: Option<PathBuf>,
    /// Execution providers in order of preference.
    #[arg(long, value_delimiter = ',', default_value = "tensorrt,cuda,cpu", value_parser = provider)]
    providers: Vec<Provider>,
    /// Folder of images, searched through with all its subfolders.
    dir: PathBuf,
}

pub(super) fn provider(name: &str) -> Result<Provider, String> {
    [Provider::TensorRt, Provider::Cuda, Provider::Cpu]
        .into_iter()
        .find(|p| p.to_string() == name)
        .ok_or_else(|| "expected tensorrt, cuda or cpu".into())
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if let Some(maps) = &args.maps {
        keep_apart(maps, &args.dir)?;
    }
    let file = ModelFile::read(&args.model)?;
    let runtime = Runtime { providers: args.providers.clone(), ..Runtime::default() };
    let mut scorer = OnnxScorer::load(&file, &runtime)?;
    let mut paths = Vec::new();
    images(&args.dir, &mut paths)?;
    anyhow::ensure!(!paths.is_empty(), "{}: no image (png, jpg, bmp, tif) found", args.dir.display());
    paths.sort();
    // Written beside, renamed at the end: a run that fails leaves no half of a table.
    let part = args.csv.with_extension("csv.part");
    let mut csv = csv::Writer::from_path(&part).with_context(|| part.display().to_string())?;
    csv.write_record(["path", "score", "verdict", "latency_us"])?;
    let (mut resizer, mut map) = (Resizer::default(), Vec::new());
    let mut input = vec![0; file.card.input.bytes()];
    let thresholds = file.card.thresholds;
    let mut counts = [0usize; 4];
    for path in &paths {
        let mut latency_us = String::new();
        let mut value = String::new();
        let outcome = Image::read(path).map_err(|e| (e.to_string(), FaultCode::BadFrame)).and_then(|image| {
            let start = Instant::now();
            resizer
                .run(&image, file.card.preprocessing.roi, file.card.input, &mut input)
                .map_err(|e| (e.to_string(), FaultCode::BadFrame))?;
            let score =
                scorer.score(&input, &mut map).map_err(|e| (e.to_string(), FaultCode::ScorerError))?;
            latency_us = start.elapsed().as_micros().to_string();
            value = score.to_string();
            Ok((score, thresholds))
        });
        if let Err((error, _)) = &outcome {
            tracing::warn!(path = %path.display(), error, "not scored");
        }
        let verdict = judge(1, &[outcome.map_err(|(_, code)| code)]);
        counts[usize::from(verdict.code()) - 1] += 1;
        csv.write_record([&path.display().to_string(), &value, verdict.word(), &latency_us])?;
        if let (Some(maps), false) = (&args.maps, matches!(verdict, Verdict::Fault(_))) {
            let to = maps.join(path.strip_prefix(&args.dir).unwrap_or(path)).with_extension("png");
            std::fs::create_dir_all(to.parent().unwrap_or(maps)).with_context(|| to.display().to_string())?;
            paint(&map, file.map, thresholds.reject)?.write_png(&to)?;
        }
    }
    csv.flush()?;
    std::fs::rename(&part, &args.csv).with_context(|| args.csv.display().to_string())?;
    let [pass, review, reject, fault] = counts;
    eprintln!(
        "{} images on {}: {pass} pass, {review} review, {reject} reject, {fault} fault",
        paths.len(),
        scorer.provider()
    );
    Ok(ExitCode::SUCCESS)
}

/// Maps carry the names of their images: in one folder with them they would take their place.
fn keep_apart(maps: &Path, images: &Path) -> anyhow::Result<()> {
    let real = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    std::fs::create_dir_all(maps).with_context(|| maps.display().to_string())?;
    let (maps, images) = (real(maps)?, real(images)?);
    anyhow::ensure!(
        !maps.starts_with(&images) && !images.starts_with(&maps),
        "--maps {}: expected a folder apart from the images in {}, whose names the maps carry",
        maps.display(),
        images.display()
    );
    Ok(())
}

fn images(folder: &Path, paths: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let path = entry.with_context(|| folder.display().to_string())?.path();
        if path.is_dir() {
            images(&path, paths)?;
        } else if is_image_path(&path) {
            paths.push(path);
        }
    }
    Ok(())
}
