//! From answers of fits to figures with intervals, and the whole report.
//!
//! Never here: fits, files.

use std::collections::BTreeSet;

use super::compare::figures;
use super::features::FeatureNet;
use super::figures::{
    Arm, FitsReport, Gains, Report, SCHEMA, SetGain, SetReport, SpaceFigures, Spread, Spreads, Worth,
};
use super::fits::{Asked, Figure, Measured, Plan, fits_of};
use super::load::Loaded;
use super::paired::{Drawn, Gain, gain};
use super::sets::CROP_PX;
use super::{Settings, confidence};
use crate::metrics::intervals::Bootstrap;

/// Figures of the fits: those of the arms, and the gain of each made set (`None` for the baseline).
pub struct Summed {
    /// For the report.
    pub report: FitsReport,
    /// By made set.
    pub gains: Vec<Option<SetGain>>,
}

/// Sums the answers up. `against`: the arm of the baseline. At least one seed is done.
pub fn sum(plan: &Plan, measured: &Measured, against: usize, settings: &Settings) -> Summed {
    let tests = plan.tests;
    let good: Vec<bool> = tests.classes.iter().map(Option::is_none).collect();
    let groups: Vec<&str> = tests.groups.iter().map(String::as_str).collect();
    let groups_of = |wanted: bool| {
        groups.iter().zip(&good).filter(|(_, g)| **g == wanted).map(|(n, _)| n).collect::<BTreeSet<_>>().len()
    };
    let least = groups_of(true).min(groups_of(false));
    let bootstrap = Bootstrap::new(&groups, &good);
    let drawn = Drawn { bootstrap: &bootstrap, pictures: groups.len(), groups: least };
    let once = vec![1u32; groups.len()];
    let with_pixels = tests.classes.iter().zip(&tests.masks).any(|(c, m)| c.is_some() && m.is_some());
    let compared = plan.sets.len() - usize::from(against > 0);
    let confidence = confidence(compared);

    let asked = |asked: Asked| asked == Asked::Shown || !measured.left_out.is_empty();
    let spread = |asked, figure, arm| {
        let of_seed = |s| measured.figure(asked, figure, s, arm, &once);
        let all: Vec<f64> = (0..measured.seeds).map(of_seed).collect();
        let min = all.iter().copied().fold(f64::INFINITY, f64::min);
        let max = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Spread { mean: all.iter().sum::<f64>() / all.len() as f64, min, max }
    };
    let spreads = |asked, arm: usize| Spreads {
        image_precision: spread(asked, Figure::ImagePrecision, arm),
        image_auroc: spread(asked, Figure::ImageAuroc, arm),
        pixel_precision: with_pixels.then(|| spread(asked, Figure::PixelPrecision, arm)),
    };
    let name = |arm: usize| arm.checked_sub(1).map_or("procedural".to_owned(), |k| plan.sets[k].name.clone());
    let arm = |arm: usize| Arm {
        name: name(arm),
        shown: spreads(Asked::Shown, arm),
        left_out: asked(Asked::LeftOut).then(|| spreads(Asked::LeftOut, arm)),
    };
    let over = |asked, figure, arm: usize| -> Gain {
        gain(measured.seeds, &drawn, confidence, |seed, times| {
            let of = |arm| measured.figure(asked, figure, seed, arm, times);
            of(arm) - of(against)
        })
    };
    let of_asked = |asked, arm: usize| Gains {
        image_precision: over(asked, Figure::ImagePrecision, arm),
        image_auroc: over(asked, Figure::ImageAuroc, arm),
        pixel_precision: with_pixels.then(|| over(asked, Figure::PixelPrecision, arm)),
    };
    let gains = (1..=plan.sets.len()).map(|arm| {
        (arm != against).then(|| SetGain {
            shown: of_asked(Asked::Shown, arm),
            left_out: asked(Asked::LeftOut).then(|| of_asked(Asked::LeftOut, arm)),
        })
    });
    let gains = gains.collect();
    let fits = fits_of(plan) / plan.seeds.max(1) as usize * measured.seeds;
    let report = FitsReport {
        against: settings.against.clone(),
        seeds: measured.seeds,
        fits,
        steps: settings.steps,
        size_px: settings.size,
        variant: settings.variant.to_string(),
        made_share: settings.made_share,
        left_out: measured.left_out.clone(),
        good: good.iter().filter(|g| **g).count(),
        defective: good.iter().filter(|g| !**g).count(),
        groups: least,
        confidence,
        arms: (0..=plan.sets.len()).map(arm).collect(),
    };
    Summed { report, gains }
}

/// The whole report but for what it does not show.
pub fn report(
    settings: &Settings,
    net: &FeatureNet,
    loaded: &Loaded,
    mut sets: Vec<SetReport>,
    fits: Option<Summed>,
    stopped: bool,
    against: usize,
) -> Report {
    let mut summed = None;
    if let Some(Summed { report, gains }) = fits {
        for (set, gain) in sets.iter_mut().skip(1).zip(gains) {
            set.gain = gain;
        }
        summed = Some(report);
    }
    for (arm, set) in sets.iter_mut().enumerate() {
        set.verdict = match &set.gain {
            _ if arm == against => Worth::Baseline,
            Some(gain) => gain.verdict(),
            None => Worth::NotMeasured,
        };
    }
    let space = SpaceFigures {
        name: net.name.clone(),
        sha256: net.sha256.clone(),
        features: net.len(),
        crop_px: CROP_PX,
        picture_px: [loaded.size.0, loaded.size.1],
    };
    Report {
        schema: SCHEMA,
        judged: jiff::Timestamp::now(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        data: settings.data.display().to_string(),
        space,
        real: figures(&loaded.real),
        sets,
        fits: summed,
        blind: None,
        stopped,
        not_shown: Vec::new(),
    }
}
