//! What a judgement does not show, in sentences.
//!
//! Never here: figures of its own.

use super::Settings;
use super::figures::Report;
use super::obeyed::{Obeyed, TELLABLE};

/// With fewer groups an interval is said to be rough.
const FEW_GROUPS: usize = 10;
/// A classifier of real classes below this accuracy says little of made ones.
const WEAK: f64 = 0.8;
/// Fits of fewer steps are said to be short.
const SHORT_STEPS: u64 = 2_000;

/// The sentences, the weightiest first. `found` are notes on the data, which come last.
pub fn sentences(report: &Report, settings: &Settings, found: &[String]) -> Vec<String> {
    let mut all = fits(report, settings);
    all.extend(crops(report, settings));
    all.extend(found.iter().cloned());
    all
}

fn fits(report: &Report, settings: &Settings) -> Vec<String> {
    let mut all = Vec::new();
    let Some(fits) = &report.fits else {
        all.push(if report.stopped && settings.seeds == 0 {
            "It was stopped before it could tell whether conditions are obeyed.".into()
        } else if report.stopped {
            "It was stopped before the fits of one seed were done, so no gain was measured: no set is proven. --resume \
             goes on."
                .into()
        } else {
            "No fits were made (--seeds 0), so no gain was measured: no set is proven. How made defects look decides \
             nothing."
                .into()
        });
        return all;
    };
    if report.stopped {
        all.push(format!(
            "It was stopped: the gains are of {} seed(s) out of {}. --resume goes on.",
            fits.seeds, settings.seeds
        ));
    }
    if fits.seeds < 2 {
        all.push("One seed has no interval, so nothing can be proven by it; give --seeds 3 or more.".into());
    }
    if fits.groups < FEW_GROUPS {
        all.push(format!(
            "The tests have {} group(s) of good or of defective pictures: how a gain varies over parts is hardly known.",
            fits.groups
        ));
    }
    if fits.left_out.is_empty() {
        all.push(
            "There is one class of real defects, so none could be left out: nothing is known of other classes."
                .into(),
        );
    } else {
        all.push(
            "The class that is left out of a fit was not left out of the generator: something of it may show in what \
             the generator made of the others."
                .into(),
        );
    }
    if fits.steps < SHORT_STEPS {
        all.push(format!(
            "The fits are short ({} steps at {} px, width {}): what a set adds to them it need not add to a fit of the \
             size that is used.",
            fits.steps, fits.size_px, fits.variant
        ));
    }
    all.push(
        "Each set is one sample of one fit of its generator: the same generator fitted anew might do better or worse."
            .into(),
    );
    if settings.made.len() > 1 {
        all.push(format!(
            "{} sets were tried; their intervals are wide enough ({:.1} %) for all to hold together at 95 %. \
             Sets that were tried elsewhere and dropped are not counted.",
            settings.made.len(),
            fits.confidence * 100.0
        ));
    }
    all
}

fn crops(report: &Report, settings: &Settings) -> Vec<String> {
    let mut all = Vec::new();
    if settings.trained_on.is_none() {
        all.push(
            "What the generators were fitted on was not given (--trained-on). If it is among the real defects of \
             --data, every figure flatters the generators; copies were looked for among those."
                .into(),
        );
    }
    all.push(
        "Distances are those of a random network: good to rank sets of the same report, no measure of how real a \
         picture looks, and no FID. How large defects are on the part is not compared."
            .into(),
    );
    let [width, height] = report.space.picture_px;
    all.push(format!(
        "Crops are cut out of pictures of {width} x {height} pixels, the size of the set with the smallest, so that \
         sharpness tells nothing. What shows only in larger pictures is not compared."
    ));
    if report.real.crops < FEW_GROUPS {
        all.push(format!(
            "{} real defect(s) are few: kernel distance, density and coverage are rough or cannot be had.",
            report.real.crops
        ));
    }
    let by_crops = report.sets.iter().filter(|s| s.obeyed.is_none());
    let weak = by_crops.filter_map(|s| s.condition.as_ref()).next().filter(|c| c.real.accuracy < WEAK);
    if let Some(weak) = weak {
        all.push(format!(
            "The classifier finds the class of only {:.0} % of held-out real defects, so what it says of made ones is \
             weak.",
            weak.real.accuracy * 100.0
        ));
    }
    all.extend(report.sets.iter().find_map(|s| s.obeyed.as_ref()).map(reader).into_iter().flatten());
    for set in report.sets.iter().map(|s| &s.set).filter(|s| s.pasted > 0) {
        all.push(format!(
            "{} of the {} defects of `{}` are real ones put on goods, of classes of too few to learn from: its generator \
             did not draw them. They are in all figures but the copies.",
            set.pasted, set.crops, set.name
        ));
    }
    for set in &report.sets {
        let by_reader = set.obeyed.as_ref().map(|o| &o.unknown);
        let unknown = by_reader.or_else(|| set.condition.as_ref().map(|c| &c.unknown));
        if let Some(unknown) = unknown.filter(|u| !u.is_empty()) {
            let names: Vec<&str> = unknown.keys().map(String::as_str).collect();
            all.push(format!(
                "`{}` holds classes that real defects lack or have too few of ({}): whether they obey their class is \
                 not known.",
                set.set.name,
                names.join(", ")
            ));
        }
    }
    all
}

/// What the reader cannot tell, by what it says of held-out real defects.
fn reader(obeyed: &Obeyed) -> Vec<String> {
    let mut all = Vec::new();
    let told = [("class", Some(obeyed.class.all)), ("text", obeyed.text.as_ref().map(|t| t.all))];
    for (what, share) in told.into_iter().filter_map(|(what, both)| Some((what, both?.real?))) {
        if share.accuracy < TELLABLE {
            all.push(format!(
                "The reader tells the {what} of only {:.1} % of held-out real defects: made ones that obey are told \
                 wrong as often.",
                share.accuracy * 100.0
            ));
        }
    }
    all.push(
        "A generator is given masks, whose outline shows in what it makes: class, size and place may be told right \
         although it does not listen. A set of the same masks that was made without conditions (`defects sample \
         --as-real --guidance 0`) says how much."
            .into(),
    );
    for parameter in &obeyed.parameters {
        let lost: Vec<&str> =
            parameter.classes.keys().filter(|c| !parameter.told_in.contains(c)).map(String::as_str).collect();
        if !lost.is_empty() {
            all.push(format!(
                "`{}` cannot be told from a picture of class(es) {}, so nothing is known of made ones there.",
                parameter.name,
                lost.join(", ")
            ));
        }
    }
    all
}
