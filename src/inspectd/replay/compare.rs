//! What a replay came to: each part then and now, and the sum of all.
//!
//! Terms. *Then*: as journaled. *Now*: in the replay. A *flip* is a part that was judged then, and has another
//! verdict or a fault now. A part that was a fault then was never judged: what is said of it now flips nothing.
//! Scores are divided by the reject threshold of their time: 1.00 is the limit.
//!
//! Never here: an opinion which of the two is right.

use std::collections::BTreeMap;

use inspect_core::verdict::{FaultCode, Verdict};
use serde::Serialize;

use super::plc::Answer;
use super::source::{LeftOut, Part};

/// One part, flat: a line of the output.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Outcome {
    /// `part`.
    pub kind: &'static str,
    /// Its number in the journal that it comes from.
    pub part: Option<u64>,
    /// The picture of its first view.
    pub picture: String,
    /// The id that it was triggered by.
    pub trigger_id: u16,
    /// As the PLC wrote it then; of a picture in a folder, the end of its path.
    pub serial: Option<String>,
    /// As the PLC wrote it then.
    pub encoder: Option<u32>,
    /// As the PLC wrote it then.
    pub product: u16,
    /// The recipe that was brought into service for it.
    pub recipe: Option<u16>,
    /// What it really is, where somebody knows.
    pub truth: Option<String>,
    /// Verdict then: pass, review, reject, fault.
    pub verdict_then: Option<&'static str>,
    /// Fault code then, 0: none.
    pub fault_then: Option<u16>,
    /// Score then.
    pub score_then: Option<f32>,
    /// Verdict now.
    pub verdict: &'static str,
    /// Fault code now, 0: none.
    pub fault: u16,
    /// Score now.
    pub score: Option<f32>,
    /// Score now less score then.
    pub score_change: Option<f32>,
    /// Judged then, and otherwise now.
    pub flipped: bool,
    /// Trigger to result, microseconds.
    pub total_us: u32,
}

impl Outcome {
    /// A part and what the PLC read of it.
    pub(super) fn new(part: &Part, answer: Answer) -> Self {
        let then = part.then.as_ref();
        let score_then = then.and_then(|then| then.score);
        let picture = part.pictures.first().map(|(_, path)| path.display().to_string());
        Self {
            kind: "part",
            part: then.map(|then| then.part),
            picture: picture.unwrap_or_default(),
            trigger_id: answer.trigger_id,
            serial: part.serial.clone(),
            encoder: part.encoder,
            product: part.product,
            recipe: part.recipe,
            truth: part.truth.clone(),
            verdict_then: then.map(|then| then.verdict.word()),
            fault_then: then.map(|then| then.verdict.fault_code()),
            score_then,
            verdict: answer.verdict.word(),
            fault: answer.verdict.fault_code(),
            score: answer.score,
            score_change: answer.score.zip(score_then).map(|(now, then)| now - then),
            flipped: then.is_some_and(|then| is_flip(then.verdict, answer.verdict)),
            total_us: answer.total_us,
        }
    }

    /// Whether it was a fault then, and is judged now.
    pub fn is_judged_anew(&self) -> bool {
        self.verdict_then == Some("fault") && self.verdict != "fault"
    }
}

fn is_flip(then: Verdict, now: Verdict) -> bool {
    !matches!(then, Verdict::Fault(_)) && then.word() != now.word()
}

/// Parts with these verdicts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct VerdictCount {
    /// Then; none where nothing was journaled.
    pub then: Option<&'static str>,
    /// Now.
    pub now: &'static str,
    /// So many.
    pub parts: u64,
}

/// Parts that really are this, and what was said of them now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TruthCount {
    /// "good", or the name of a defect.
    pub truth: String,
    /// Now.
    pub now: &'static str,
    /// So many.
    pub parts: u64,
}

/// Of many values, by nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Spread<T> {
    /// Half of them are at most this.
    pub p50: T,
    /// 99 % of them.
    pub p99: T,
    /// All of them.
    pub most: T,
}

/// The whole replay.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// `summary`.
    pub kind: &'static str,
    /// Parts with a result.
    pub parts: u64,
    /// Parts that were to be replayed.
    pub wanted: u64,
    /// Ended before the last part.
    pub broken_off: bool,
    /// Parts whose frame was deleted meanwhile.
    pub gone: u64,
    /// Parts of the journal that cannot be replayed.
    pub left_out: LeftOut,
    /// Models that judged them then.
    pub models_then: Vec<String>,
    /// Models that judged them now, of the station's first view.
    pub models: Vec<String>,
    /// How often each verdict became which.
    pub verdicts: Vec<VerdictCount>,
    /// Parts judged then, and otherwise now.
    pub flips: u64,
    /// Parts that were a fault then, and are judged now.
    pub judged_anew: u64,
    /// Where the truth is known, what was said.
    pub truths: Vec<TruthCount>,
    /// Size of the scores' change, of parts with a score then and now.
    pub score_change: Option<Spread<f32>>,
    /// Trigger to result, microseconds.
    pub trigger_to_result_us: Option<Spread<u32>>,
    /// Faults because the deadline passed.
    pub late: u64,
    /// Parts whose time had come while the one before was in hand.
    pub behind: u64,
    /// Parts that the replay's own journal could not take.
    pub not_journaled: u64,
}

/// Adds up outcomes.
#[derive(Debug, Default)]
pub(super) struct Tally {
    verdicts: BTreeMap<(Option<&'static str>, &'static str), u64>,
    truths: BTreeMap<(String, &'static str), u64>,
    changes: Vec<f32>,
    total_us: Vec<u32>,
    flips: u64,
    judged_anew: u64,
    late: u64,
    /// See [`Summary::behind`].
    pub behind: u64,
    /// See [`Summary::gone`].
    pub gone: u64,
}

impl Tally {
    pub fn add(&mut self, outcome: &Outcome) {
        *self.verdicts.entry((outcome.verdict_then, outcome.verdict)).or_default() += 1;
        if let Some(truth) = &outcome.truth {
            *self.truths.entry((truth.clone(), outcome.verdict)).or_default() += 1;
        }
        self.changes.extend(outcome.score_change.map(f32::abs));
        self.total_us.push(outcome.total_us);
        self.flips += u64::from(outcome.flipped);
        self.judged_anew += u64::from(outcome.is_judged_anew());
        self.late += u64::from(outcome.fault == FaultCode::Late.code());
    }

    pub fn sum(mut self) -> Summary {
        self.changes.sort_unstable_by(f32::total_cmp);
        self.total_us.sort_unstable();
        let verdicts = self.verdicts.into_iter();
        let truths = self.truths.into_iter();
        Summary {
            kind: "summary",
            parts: self.total_us.len() as u64,
            wanted: 0,
            broken_off: false,
            gone: self.gone,
            left_out: LeftOut::default(),
            models_then: Vec::new(),
            models: Vec::new(),
            verdicts: verdicts.map(|((then, now), parts)| VerdictCount { then, now, parts }).collect(),
            flips: self.flips,
            judged_anew: self.judged_anew,
            truths: truths.map(|((truth, now), parts)| TruthCount { truth, now, parts }).collect(),
            score_change: spread(&self.changes),
            trigger_to_result_us: spread(&self.total_us),
            late: self.late,
            behind: self.behind,
            not_journaled: 0,
        }
    }
}

/// None of none.
fn spread<T: Copy>(sorted: &[T]) -> Option<Spread<T>> {
    let at = |share: f64| {
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied()
    };
    Some(Spread { p50: at(0.5)?, p99: at(0.99)?, most: at(1.0)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flip_is_a_judged_part_with_another_verdict() {
        let late = Verdict::Fault(FaultCode::Late);
        let none = Verdict::Fault(FaultCode::NoFrame);
        for (then, now, flip) in [
            (Verdict::Reject, Verdict::Reject, false),
            (Verdict::Reject, Verdict::Pass, true),
            (Verdict::Review, Verdict::Reject, true),
            (Verdict::Reject, late, true),
            (late, Verdict::Pass, false),
            (late, none, false),
        ] {
            assert_eq!(is_flip(then, now), flip, "{then} {now}");
        }
    }

    #[test]
    fn spreads_are_of_what_is_there() {
        assert_eq!(spread::<u32>(&[]), None);
        assert_eq!(spread(&[7]), Some(Spread { p50: 7, p99: 7, most: 7 }));
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!(spread(&hundred), Some(Spread { p50: 50, p99: 99, most: 100 }));
    }
}
