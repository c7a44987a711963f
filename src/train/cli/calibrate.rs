//! `inspect-train calibrate`: new thresholds for a finished model.

use std::path::PathBuf;

use clap::Args;
use inspect_train::data;
use inspect_train::recalibrate::{MIN_GOODS, Recalibrated, check, recalibrate};

use super::pictures::progress;

/// New thresholds for a finished model, from good parts that it was not fitted on
///
/// For a line whose light or lots have changed a little, or to turn a provisional threshold into a proven one
/// (19 groups of pictures at 5 %, 99 at 1 %; pictures without groups count one each). Take pictures of
/// confirmed good parts with the station's camera. The network stays as it is; thresholds, claim and date are
/// new, and the file's SHA-256 with them.
#[derive(Args)]
pub struct CalibrateArgs {
    /// The model file
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Folder of good pictures that the model was not fitted on (subfolder = lot or session)
    #[arg(long, value_name = "DIR")]
    goods: PathBuf,
    /// The model file to write; that of --model is replaced in one step
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// False-reject budget: at most this share of good parts may be rejected
    ///
    /// 0.05 can be proven from 19 groups on, 0.01 from 99 on. A station with several views rejects a part if
    /// one of them does: give each of V views the V-th part of the station's budget.
    #[arg(long, default_value_t = 0.05, value_name = "SHARE")]
    alpha: f64,
    /// Share of good parts that may be rejected or sent to review; default: that of --alpha, no review
    #[arg(long, value_name = "SHARE")]
    review_alpha: Option<f64>,
}

/// Runs `calibrate`.
pub fn run(args: &CalibrateArgs) -> anyhow::Result<()> {
    let review_alpha = args.review_alpha.unwrap_or(args.alpha);
    let file = check(&args.model, &args.out, args.alpha, review_alpha)?;
    let pictures = data::find_some(&args.goods, MIN_GOODS)?;
    let goods = data::load_for(&pictures, &file.card, &mut progress("reading pictures"))?;
    for note in &goods.notes {
        eprintln!("note: {note}");
    }
    let done = recalibrate(&file, &goods, &args.out, args.alpha, review_alpha)?;
    print!("{}", told(&done, goods.pixels.len()));
    println!("{}: written", args.out.display());
    Ok(())
}

fn told(done: &Recalibrated, goods: usize) -> String {
    let mut text = String::new();
    let each = [("old", &done.old, done.old_not_passed), ("new", &done.new, done.new_not_passed)];
    for (word, card, not_passed) in each {
        text += &format!(
            "{word}: reject above {:.4}, review above {:.4}; {not_passed} of the {goods} goods do not pass\n     {}\n",
            card.thresholds.reject, card.thresholds.review, card.calibration.claim
        );
    }
    if done.golden_dropped > 0 {
        text += &format!(
            "golden images: {} kept, {} dropped (at a threshold, or another verdict now), {} new\n",
            done.golden_kept,
            done.golden_dropped,
            done.new.golden.len() - done.golden_kept
        );
    }
    text
}
