//! `inspectd card`: what a model file says of itself.

use std::path::PathBuf;
use std::process::ExitCode;

use inspect_core::model::ModelFile;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model file.
    model: PathBuf,
    /// The card as JSON, without the golden images' bytes.
    #[arg(long)]
    json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let model = ModelFile::read(&args.model)?;
    let card = &model.card;
    if args.json {
        let mut value = serde_json::to_value(card)?;
        for golden in value["golden"].as_array_mut().into_iter().flatten() {
            golden.as_object_mut().map(|g| g.remove("png_base64"));
        }
        value["sha256"] = model.sha256.clone().into();
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(ExitCode::SUCCESS);
    }
    let (h, w) = model.map;
    println!("{}", card.name);
    println!("  file        {} ({} bytes)", model.path.display(), model.bytes.len());
    println!("  sha256      {}", model.sha256);
    println!("  fitted      {}, inspect-train {}", card.created, card.training.trainer_version);
    println!(
        "  input       {}x{}, {} channel(s); map {w}x{h}",
        card.input.width, card.input.height, card.input.channels
    );
    let (t, c) = (card.thresholds, &card.calibration);
    println!("  thresholds  review {}, reject {}", t.review, t.reject);
    let provisional = if c.provisional { ", provisional" } else { "" };
    println!(
        "  calibrated  {:?} on {} goods in {} groups, alpha {}{provisional}",
        c.method, c.goods, c.groups, c.alpha
    );
    println!("              {}", c.claim);
    println!("  trained on  {} goods, data sha256 {}", card.training.goods, card.training.data_sha256);
    println!("              seed {}, {} steps", card.training.seed, card.training.steps);
    for (key, value) in &card.training.settings {
        println!("              {key} = {value}");
    }
    for golden in &card.golden {
        println!(
            "  golden      {}: score {} ({:.2} of the limit)",
            golden.name,
            golden.score,
            golden.score / t.reject
        );
    }
    Ok(ExitCode::SUCCESS)
}
