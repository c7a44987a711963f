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
        super::say(&format!("{}\n", serde_json::to_string_pretty(&value)?))?;
        return Ok(ExitCode::SUCCESS);
    }
    let (h, w) = model.map;
    let mut text = String::new();
    let mut line = |line: String| {
        text.push_str(&line);
        text.push('\n');
    };
    line(card.name.clone());
    line(format!("  file        {} ({} bytes)", model.path.display(), model.bytes.len()));
    line(format!("  sha256      {}", model.sha256));
    line(format!("  fitted      {}, inspect-train {}", card.created, card.training.trainer_version));
    line(format!(
        "  input       {}x{}, {} channel(s); map {w}x{h}",
        card.input.width, card.input.height, card.input.channels
    ));
    let (t, c) = (card.thresholds, &card.calibration);
    line(format!("  thresholds  review {}, reject {}", t.review, t.reject));
    let provisional = if c.provisional { ", provisional" } else { "" };
    line(format!(
        "  calibrated  {:?} on {} goods in {} groups, alpha {}{provisional}",
        c.method, c.goods, c.groups, c.alpha
    ));
    line(format!("              {}", c.claim));
    if !c.shares.is_empty() {
        let reject: Vec<_> = c.shares.iter().map(|s| s.thresholds.reject.to_string()).collect();
        line(format!("  of a part with 2, 3, … views, alpha shared: reject {}", reject.join(", ")));
    }
    match &card.reference {
        Some(reference) => line(format!(
            "  reference   scores and pictures of {} goods, for drift: brightness {:.1} ± {:.1}",
            reference.goods, reference.brightness.mean, reference.brightness.deviation
        )),
        None => line("  reference   none: drift is told from the first parts".into()),
    }
    line(format!("  trained on  {} goods, data sha256 {}", card.training.goods, card.training.data_sha256));
    line(format!("              seed {}, {} steps", card.training.seed, card.training.steps));
    for (key, value) in &card.training.settings {
        line(format!("              {key} = {value}"));
    }
    for golden in &card.golden {
        line(format!(
            "  golden      {}: score {} ({:.2} of the limit)",
            golden.name,
            golden.score,
            golden.score / t.reject
        ));
    }
    super::say(&text)?;
    Ok(ExitCode::SUCCESS)
}
