//! `inspect-train defects whatif`: the product over a process parameter.

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Args;
use inspect_train::generators::diffusion::How;
use inspect_train::generators::near::NEAR;
use inspect_train::generators::whatif::draw::draw;
use inspect_train::generators::whatif::measures::{Direction, NAMES, Trend};
use inspect_train::generators::whatif::write::{Answer, Answering, Shown, figure, is_strip};
use inspect_train::generators::whatif::{
    Basis, MAX_ROWS, Question, STEPS, Setting, Sweep, WhatIfError, plan,
};
use inspect_train::generators::write::check_out;

use super::ask::AskArgs;
use super::pictures::check_png;

/// What `--help` says below the options.
const AFTER: &str = "\
Examples:
  --set speed=1.4                     speed over all that was learnt from, the tile at 1.4 with a red frame
  --set speed=1.0..1.4 --set feed=3   speed over this range, feed held at 3
  --set speed=1.9 --extrapolate       beyond what was learnt from: dashed frames, `beyond: a guess`

Look at the strip for what to believe:
  The tiles of a row differ in the swept parameter alone: the good, the mask and the noise are the same. The mask \
holds the defect's place and outline, so how large a defect becomes does not show; what is inside of it does.
  Below each tile: the value; how many standard deviations (sd) it and the fixed parameters lie from the nearest \
picture of this class that was learnt from (root of the mean square over these parameters); how many of those are \
near, that is within 0.5 sd in each of them.
  A dashed frame is a guess: outside of the range that was learnt from (`beyond`), or inside but with no picture \
near (`none near`).

OUT/whatif.csv has a line a tile: basis is learnt, none_near or beyond; brightness and roughness in grey levels; \
discolouration, brighter and changed as shares, against the good; all inside of the mask, empty where it is too small.
OUT/pictures has each picture, its mask (ground_truth) and its good (twin), and a manifest.csv.

Standard output has a line for each value (figures: mean over the rows), then one for each measure's trend: rho is \
Spearman's rank correlation with the parameter, the mean over rows of tiles on one good each; rises or falls are \
said only where all rows agree and chance would show less in 95 of 100. That is what the generator draws, not \
what parts do: real_rho is the same of the real pictures there, real_from and real_to what they show near the two ends. A network is smooth, so even a small change can have \
a high rho: see from and to.";

/// Show what the product would look like if a process parameter were different
///
/// A strip of pictures over one parameter (a column of numbers in the manifest.csv that the generator was fitted
/// with), with how far each value lies from what was learnt from. Beyond that it refuses, or, with --extrapolate,
/// says which tiles are guesses.
#[derive(Args)]
#[command(after_help = AFTER)]
pub struct WhatIfArgs {
    #[command(flatten)]
    ask: AskArgs,
    /// A process parameter: one value, or a range to sweep; may be given several times
    ///
    /// One parameter is swept: that with a range, else the first. Where it has one value, its whole range that was
    /// learnt from is swept, and the tile at the value is framed. The others are held at their values; of parameters
    /// that are not named the generator is told nothing.
    #[arg(long, required = true, value_name = "NAME=VALUE|LOW..HIGH", value_parser = setting)]
    set: Vec<(String, Setting)>,
    /// The folder to write, new or empty; or a name that ends in .png for the strip alone
    #[arg(long, value_name = "OUT")]
    out: PathBuf,
    /// Tiles of a row, 3 to 24
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = clap::value_parser!(i64).range(STEPS))]
    steps: i64,
    /// Rows, 1 to 16: other goods, masks and noise
    #[arg(long, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(i64).range(1..=MAX_ROWS))]
    rows: i64,
    /// Figures on standard output as one JSON object
    #[arg(long)]
    json: bool,
}

/// "wear=0.7" or "wear=0.2..0.7"
fn setting(text: &str) -> Result<(String, Setting), String> {
    let expected = || {
        "expected NAME=VALUE or NAME=LOW..HIGH with finite numbers, such as wear=0.7 or wear=0.2..0.7"
            .to_owned()
    };
    let (name, value) = text.split_once('=').ok_or_else(expected)?;
    let number = |text: &str| text.trim().parse().ok().filter(|v: &f64| v.is_finite()).ok_or_else(expected);
    let setting = match value.split_once("..") {
        Some((low, high)) => Setting::Range(number(low)?, number(high)?),
        None => Setting::Value(number(value)?),
    };
    if name.trim().is_empty() { Err(expected()) } else { Ok((name.trim().into(), setting)) }
}

/// Runs `defects whatif`.
pub fn run(args: &WhatIfArgs) -> anyhow::Result<()> {
    if is_strip(&args.out) {
        check_png(&args.out)?;
    } else {
        check_out(&args.out, false)?;
    }
    // More guidance shows numbers larger than they are.
    let generator = args.ask.generator(How { guidance: 1.0, ..How::default() })?;
    let question = Question {
        set: args.set.clone(),
        class: args.ask.class.clone(),
        text: args.ask.text.clone(),
        steps: args.steps as usize,
        rows: args.rows as usize,
        extrapolate: args.ask.extrapolate,
        seed: args.ask.seed,
    };
    let sweep = plan(&generator.header, &question)?;
    let (goods, found) = args.ask.pictures(&generator)?;
    args.ask.say_what_is_known(&generator, &found);
    say_of_sweep(args, &sweep);
    let mut answer = Answering::new(&generator, &goods, (&question, &sweep), &args.out)?;
    draw::<WhatIfError>(&generator, &goods, &found.defects, (&question, &sweep), &mut |drawn| {
        if drawn.step == 0 {
            eprintln!("row {} of {}", drawn.row + 1, question.rows);
        }
        answer.add(drawn)
    })?;
    let answer = answer.finish(&found.defects)?;
    if args.json {
        println!("{}", serde_json::to_string_pretty(&answer).context("the figures as JSON")?);
    } else {
        print(&answer);
    }
    let see = if is_strip(&args.out) { args.out.clone() } else { args.out.join("strip.png") };
    eprintln!("see {}", see.display());
    Ok(())
}

/// What the user should know before looking at the strip.
fn say_of_sweep(args: &WhatIfArgs, sweep: &Sweep) {
    let Sweep { class, parameter, learnt, steps, .. } = sweep;
    if args.ask.class.is_none() {
        eprintln!("class {class}: most pictures of it had these parameters known (--class shows another)");
    }
    eprintln!(
        "{parameter}: {} to {} in {} pictures that were learnt from",
        learnt.low, learnt.high, learnt.count
    );
    let count = |basis| steps.iter().filter(|s| s.basis == basis).count();
    match count(Basis::Beyond) {
        0 => {}
        n => eprintln!("note: {n} of {} values lie beyond what was learnt from: a guess", steps.len()),
    }
    match count(Basis::NoneNear) {
        0 => {}
        n => eprintln!(
            "note: {n} of {} values have no picture that was learnt from within {NEAR} standard deviations: a guess",
            steps.len()
        ),
    }
}

/// A line for each value and for each trend, `name=value` throughout.
fn print(answer: &Answer) {
    for Shown { step, measures } in &answer.values {
        let figures: String = NAMES
            .iter()
            .map(|name| format!(" {name}={}", figure(measures.get(name).copied().flatten())))
            .collect();
        println!(
            "value={} basis={} asked={} distance={} near={} of={}{figures}",
            step.value,
            step.basis,
            if step.asked { "yes" } else { "no" },
            figure(step.nearness.distance),
            step.nearness.near,
            step.nearness.of,
        );
    }
    for trend in &answer.trends {
        let Trend { measure, direction, rows, tiles, real_direction, real_pictures, .. } = trend;
        let [rho, lowest, highest] = [trend.rho, trend.lowest, trend.highest].map(figure);
        let [from, to, real] = [trend.from, trend.to, trend.real_rho].map(figure);
        let [real_from, real_to] = [trend.real_from, trend.real_to].map(figure);
        println!(
            "trend={measure} direction={direction} rho={rho} lowest={lowest} highest={highest} rows={rows} \
             tiles={tiles} from={from} to={to} real_direction={real_direction} real_rho={real} real_from={real_from} real_to={real_to} \
             real_pictures={real_pictures}"
        );
    }
    for trend in answer.trends.iter().filter(|t| t.is_alone()) {
        let Trend { measure, direction, real_pictures, .. } = trend;
        eprintln!(
            "note: {measure} {direction} here, which {real_pictures} real pictures of the class do not show: \
             do not believe it without a look at from and to"
        );
    }
    if answer.trends.iter().all(|t| t.direction == Direction::Unclear) {
        eprintln!("note: no trend is seen in any measure");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parameter_has_one_value_or_a_range() {
        let named = |s| Ok(("wear".to_owned(), s));
        assert_eq!(setting("wear = 0.7"), named(Setting::Value(0.7)));
        assert_eq!(setting("wear=-1..1e2"), named(Setting::Range(-1.0, 100.0)));
        assert_eq!(setting("wear=.2 .. .5"), named(Setting::Range(0.2, 0.5)));
        for bad in ["wear", "=1", "wear=", "wear=much", "wear=inf", "wear=NaN", "wear=1..", "wear=0..NaN"] {
            assert!(setting(bad).is_err_and(|e| e.contains("NAME=LOW..HIGH")), "{bad}");
        }
    }
}
