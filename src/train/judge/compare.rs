//! The figures that need no fit, set by set.
//!
//! Never here: files.

use tch::Tensor;

use super::classify::{Labelled, condition, two_sample};
use super::distance::{NEIGHBOURS, copies, density_coverage, diversity, kid};
use super::features::{FeatureNet, Space};
use super::figures::{CopiesReport, CopyPair, Diversity, SetFigures, SetReport, Worth};
use super::load::Loaded;
use super::sets::{Crop, Set};
use crate::backbone::BackboneError;

/// Pairs that a report names.
pub const SHOWN_PAIRS: usize = 12;

/// A set with its points.
struct Seen<'a> {
    set: &'a Set,
    points: Tensor,
    classes: Vec<&'a str>,
    groups: Vec<&'a str>,
}

impl<'a> Seen<'a> {
    fn new(set: &'a Set, points: Tensor) -> Self {
        let of = |field: fn(&Crop) -> &str| set.crops.iter().map(field).collect();
        Self { set, points, classes: of(|c| &c.class), groups: of(|c| &c.group) }
    }

    /// Looks at a set. Errors: those of the network.
    fn by(net: &FeatureNet, space: &Space, set: &'a Set) -> Result<Self, BackboneError> {
        Ok(Self::new(set, space.bring(&net.features(&set.crops)?)))
    }

    fn labelled(&self) -> Labelled<'_> {
        Labelled { points: &self.points, classes: &self.classes, groups: &self.groups }
    }
}

/// What a set holds.
pub fn figures(set: &Set) -> SetFigures {
    let groups: std::collections::BTreeSet<&str> = set.crops.iter().map(|c| c.group.as_str()).collect();
    SetFigures {
        name: set.name.clone(),
        pictures: set.found,
        crops: set.crops.len(),
        groups: groups.len(),
        pasted: set.pasted(),
        classes: set.classes(),
    }
}

/// Compares each set with the real defects.
///
/// Errors: [`BackboneError`], where a backbone is what compares.
pub fn compare(net: &FeatureNet, loaded: &Loaded, seed: u64) -> Result<Vec<SetReport>, BackboneError> {
    let features = net.features(&loaded.real.crops)?;
    let space = Space::new(&features);
    let real = Seen::new(&loaded.real, space.bring(&features));
    let trained = loaded.trained.as_ref().map(|set| Seen::by(net, &space, set)).transpose()?;
    let report = |(place, set): (usize, &Set)| {
        let made = Seen::by(net, &space, set)?;
        // Procedural families are no classes of real defects, even where a name is the same: all are one class.
        let one = |seen: &Seen<'_>| vec![""; seen.classes.len()];
        let all = place == 0;
        let (real_classes, classes) =
            if all { (one(&real), one(&made)) } else { (real.classes.clone(), made.classes.clone()) };
        Ok(SetReport {
            set: figures(set),
            kid: kid(&real.points, &made.points, seed),
            density_coverage: density_coverage(&real.points, &made.points, NEIGHBOURS),
            two_sample: two_sample((&real.points, &real.groups), (&made.points, &made.groups), seed),
            copies: copied(&real, trained.as_ref(), &made),
            diversity: diversity((&real.points, &real_classes), (&made.points, &classes))
                .map(|(real, made)| Diversity { real, made, ratio: made / real.max(1e-12) }),
            condition: (!all).then(|| condition(real.labelled(), made.labelled(), seed)).flatten(),
            obeyed: None,
            gain: None,
            verdict: Worth::NotMeasured,
        })
    };
    loaded.sets.iter().enumerate().map(report).collect()
}

/// Copies among what a generator drew: what is pasted is one, and meant to be.
fn copied(real: &Seen, trained: Option<&Seen>, made: &Seen) -> Option<CopiesReport> {
    let of_set = made.set.crops.iter().enumerate();
    let drawn: Vec<i64> = of_set.filter(|(_, c)| !c.is_pasted).map(|(i, _)| i as i64).collect();
    if drawn.is_empty() {
        return None;
    }
    let points = made.points.index_select(0, &Tensor::from_slice(&drawn));
    let (from, held_out) = match trained {
        Some(trained) => (trained, Some(&real.points)),
        None => (real, None),
    };
    let found = copies(&from.points, &from.groups, held_out, &points)?;
    let pair = |p: &super::distance::Pair| CopyPair {
        made: made.set.crops[drawn[p.made] as usize].name.clone(),
        trained: from.set.crops[p.trained].name.clone(),
        distance: p.distance,
        copy: p.distance < found.limit,
    };
    Some(CopiesReport {
        count: found.count(),
        share: found.count() as f64 / found.pairs.len() as f64,
        nearer: found.nearer,
        apart: trained.is_some(),
        pairs: found.pairs.iter().take(SHOWN_PAIRS).map(pair).collect(),
    })
}
