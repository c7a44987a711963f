//! The verdict on a part: four words, the fault codes, and the one function that reaches it.
//!
//! Pass is earned: a part passes only if every view has a finite score at or below its threshold.
//! The comparisons are written so that NaN fails them. Codes 0 and 0xFFFF never mean pass, because
//! they are what a PLC reads from memory that nobody wrote and from a dead bus.
//!
//! Never here: input, output, time, a default that passes.

use serde::{Deserialize, Serialize};

use crate::card::Thresholds;

/// What the line is told of one part.
///
/// In JSON two fields of the record that it is flattened into: `"verdict": "fault", "fault": "late"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(tag = "verdict", content = "fault", rename_all = "snake_case")]
pub enum Verdict {
    /// Every view scored at or below its review threshold.
    Pass,
    /// Above a review threshold, at or below every reject threshold: a person should look.
    Review,
    /// Above a reject threshold.
    Reject,
    /// No verdict could be earned; the code says why.
    Fault(FaultCode),
}

impl Verdict {
    /// The code on the wire: 1 pass, 2 review, 3 reject, 4 fault. Frozen with register map version 1.
    pub fn code(self) -> u16 {
        match self {
            Verdict::Pass => 1,
            Verdict::Review => 2,
            Verdict::Reject => 3,
            Verdict::Fault(_) => 4,
        }
    }

    /// One lower-case word: pass, review, reject, fault.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Pass => "pass",
            Verdict::Review => "review",
            Verdict::Reject => "reject",
            Verdict::Fault(_) => "fault",
        }
    }

    /// The fault's code, 0 where there is none.
    pub fn fault_code(self) -> u16 {
        match self {
            Verdict::Fault(code) => code.code(),
            _ => 0,
        }
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Verdict::Fault(code) => write!(f, "fault {} ({code:?})", code.code()),
            other => f.write_str(other.word()),
        }
    }
}

macro_rules! fault_codes {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $meaning:literal, $action:literal;)*) => {
        /// Why a part has no earned verdict, a station is not ready, or a command of the PLC failed. The numbers are frozen: PLC programs hold them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "snake_case")]
        #[repr(u16)]
        pub enum FaultCode { $($(#[doc = $doc])* $name = $code,)* }

        impl FaultCode {
            /// Every code, in ascending order.
            pub const ALL: &'static [FaultCode] = &[$(FaultCode::$name,)*];

            /// What happened, for the technician.
            pub fn meaning(self) -> &'static str {
                match self { $(FaultCode::$name => $meaning,)* }
            }

            /// What to do about it.
            pub fn action(self) -> &'static str {
                match self { $(FaultCode::$name => $action,)* }
            }
        }
    };
}

fault_codes! {
    /// The daemon has not yet finished starting.
    Starting = 1, "The station is starting: no part has been inspected yet.",
        "Wait. If it stays, read the station's state topic or the log for what it waits for.";
    /// The PLC has not written trigger_id 0 since the daemon started.
    NotArmed = 2, "The PLC has not written trigger_id 0 since the daemon started.",
        "Let the PLC write 0 to trigger_id once, then its part's id.";
    /// The daemon is shutting down.
    Stopping = 3, "The daemon is stopping.",
        "Start it again: systemctl start inspectd.";
    /// A trigger was accepted whose id an earlier part had; its own result is not there yet.
    NoResultYet = 4, "There is no result in the block: its part is still being inspected, or it was acknowledged.",
        "Use a result only if its id is the part's; let the PLC give each part another id than the one before.";
    /// The PLC has taken the station offline.
    Offline = 5, "The PLC has taken the station offline.",
        "Let the PLC drop the bit offline of control.";
    /// The station has recipes and none is in service.
    NoRecipe = 6, "No recipe is in service: the station does not know what it inspects.",
        "After each start of the daemon: let the PLC write control 0, recipe_request, then raise load_recipe.";
    /// The recipe was changed between this part's trigger and its inspection.
    RecipeChanged = 7, "The recipe was changed while this part waited to be inspected.",
        "Let the PLC wait for command_done before it triggers the next part.";
    /// The daemon ended with this part in hand.
    Restarted = 8, "The daemon ended and was started again while this part was in hand.",
        "This part was never judged and the PLC gets no result for its id: it has to push out what has none. Why the daemon ended: journalctl -u inspectd.";
    /// The camera cannot be reached.
    CameraAway = 10, "The camera cannot be reached.",
        "Check the camera's power, cable and address (of a folder or video: the files); the daemon reopens it by itself.";
    /// The camera is there but gave no frame in time.
    NoFrame = 11, "The camera gave no frame before the deadline.",
        "Check trigger wiring, exposure time and lighting controller; compare exposure with deadline_ms.";
    /// The frame was exposed before its trigger.
    StaleFrame = 12, "The frame was exposed before its trigger: it may show the part before.",
        "Check that the camera is not free-running while the PLC triggers.";
    /// A live camera gave the identical frame twice.
    RepeatedFrame = 13, "The camera gave the very same frame twice.",
        "Restart the camera; if it comes back, replace it.";
    /// The frame cannot be brought to the model's input.
    BadFrame = 14, "The frame cannot be used: it cannot be read, or does not hold the view's region of interest.",
        "Read the log for the reason; compare the camera's resolution with the view's roi.";
    /// Only parts of a frame came.
    IncompleteFrame = 15, "Parts of the frame were lost on the way from the camera.",
        "Check cable, switch and network card; set jumbo frames and net.core.rmem_max as the manual's page on cameras says.";
    /// The camera's frame numbers show that frames were lost.
    FrameGap = 16, "The camera took frames that never came: this one may belong to another part.",
        "As for 15; also check that nothing but this station triggers the camera, and not faster than it can.";
    /// A call of the camera's driver does not come back.
    CameraStuck = 17, "The camera's driver hangs: a call of it does not come back.",
        "The daemon gets it out of the way and, where that does not help, restarts itself. If it comes again: switch the camera off and on, check cable and driver.";
    /// The model is not loaded or failed its golden images.
    ModelAway = 20, "No model is ready: it does not load, fails its golden images, or is not signed.",
        "Read the reason in the station's state or the log; `inspectd model rollback` puts the one before back, `inspectd model install` a new one.";
    /// The model gave a score that is not a finite number.
    ScoreNotFinite = 21, "The model's score is not a finite number.",
        "Put the previous model back (`inspectd model rollback`); send this one and the frame (in the archive) to its maker.";
    /// The scorer returned an error.
    ScorerError = 22, "ONNX Runtime failed while it scored the part.",
        "Read the log; check GPU and driver; restart the daemon if it stays.";
    /// The scorer is still busy with an earlier part.
    ScorerBusy = 23, "The scorer was still busy with an earlier part.",
        "Parts come faster than they can be scored: use a smaller model or a GPU, or space the parts.";
    /// A run of the model does not come back.
    ScorerStuck = 24, "The model's run does not come back: the GPU or its driver hangs.",
        "The daemon restarts itself. If it comes again: restart the box, check GPU and driver (dmesg, nvidia-smi).";
    /// The deadline passed before the score was there.
    Late = 30, "The verdict was not there by the station's deadline.",
        "Run: inspectd bench --model FILE; compare with deadline_ms; look for other load on the box.";
    /// The station has no views, or not a score for each.
    NoViews = 40, "There is not one score for each view of the station.",
        "Check the station's views in the configuration.";
    /// A threshold is not a finite number.
    BadThreshold = 41, "A threshold of the view is not a finite number.",
        "Check the model's card and the view's thresholds: inspectd check.";
    /// The journal cannot take another record.
    JournalFull = 50, "The journal cannot take another record, so the part cannot be proven.",
        "Check disk space and the journal's directory; it goes on by itself when it can write.";
    /// A trigger came that could not be accepted.
    MissedTrigger = 60, "A trigger came that could not be accepted: a part in hand, not armed, offline, or stopping.",
        "Let the PLC wait for ready before it writes the next id; then clear the error.";
    /// A result was lost to the PLC.
    Overrun = 61, "A result was lost to the PLC: overwritten unread, or no room was left for it.",
        "Read (or acknowledge) each result before the next; set a larger results.depth; then clear the error.";
    /// An acknowledgement of no result.
    WrongAcknowledgement = 62, "The PLC acknowledged a result that was not there.",
        "Let the PLC write the result_sequence that it has just read, and only while result_valid is 1.";
    /// Too many rejects in a row, or too high a share of them.
    TooManyRejects = 63, "Parts are rejected in a row, or more often than the station's guard allows.",
        "Look at the rejected parts (in the archive): the process, the camera's picture or the model has changed; then clear the error.";
    /// A part known to be bad was not rejected.
    ChallengeFailed = 64, "A challenge part, known to be bad, was not rejected.",
        "Stop the line: parts since the last good challenge are in doubt. Check camera, light and model; then challenge again.";
    /// Pictures or scores are no longer those that the model was calibrated on.
    Drifted = 65, "Pictures or scores have drifted away from those that the model was calibrated on.",
        "Compare the archive's pictures with older ones: light, lens, exposure, position; then clear the error. If the product has changed: calibrate again.";
    /// More command bits than one.
    TwoCommands = 70, "Command bits were raised at once (none was carried out), or one while another was busy (that one was not).",
        "Let the PLC drop all command bits, then raise one.";
    /// A command bit without a command.
    UnknownCommand = 71, "This command bit has no meaning here.",
        "Drop it; see the register map.";
    /// A command bit stood before the daemon had seen all of them at 0.
    CommandNotArmed = 72, "A command bit was up before the daemon had seen all of them at 0, and was not carried out.",
        "Let the PLC write control 0 once after each start of the daemon, then raise the bit.";
    /// There is no recipe of this number.
    NoSuchRecipe = 73, "There is no recipe of this number.",
        "Check recipe_request, and the files in the recipes folder: inspectd check.";
    /// The recipe cannot be used.
    BadRecipe = 74, "The recipe cannot be used; the one before stays in service.",
        "Read the reason in the station's state or the log: inspectd check.";
    /// An internal error; the log tells more.
    Internal = 90, "An internal error stopped this inspection.",
        "Send the log to the maker.";
}

impl FaultCode {
    /// The number on the wire.
    pub fn code(self) -> u16 {
        self as u16
    }
}

/// What one view brings to the verdict: its score under its thresholds, or why it has none.
pub type ViewOutcome = Result<(f32, Thresholds), FaultCode>;

/// Reaches the verdict on a part that has `views` views.
///
/// Units: score and thresholds in the model's own unit, higher is more anomalous.
/// Any fault wins over any reject: a part of which one view is unknown was not inspected.
/// Property: the result is Pass only if `outcomes.len() == views > 0` and each score is finite and at or
/// below a finite review threshold that is not above its finite reject threshold.
pub fn judge(views: usize, outcomes: &[ViewOutcome]) -> Verdict {
    if views == 0 || outcomes.len() != views {
        return outcomes
            .iter()
            .find_map(|o| o.err())
            .map_or(Verdict::Fault(FaultCode::NoViews), Verdict::Fault);
    }
    let mut verdict = Verdict::Pass;
    for outcome in outcomes {
        match outcome {
            Err(code) => return Verdict::Fault(*code),
            Ok((score, _)) if !score.is_finite() => return Verdict::Fault(FaultCode::ScoreNotFinite),
            Ok((_, thresholds)) if !thresholds.are_sound() => {
                return Verdict::Fault(FaultCode::BadThreshold);
            }
            Ok((score, thresholds)) => {
                if *score <= thresholds.review {
                    continue; // this view earned its pass
                } else if *score <= thresholds.reject && verdict == Verdict::Pass {
                    verdict = Verdict::Review;
                } else if *score > thresholds.reject {
                    verdict = Verdict::Reject;
                }
            }
        }
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_f32() -> impl Strategy<Value = f32> {
        prop_oneof![any::<f32>(), Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), -2.0f32..2.0,]
    }

    fn outcome() -> impl Strategy<Value = ViewOutcome> {
        let scored = (any_f32(), any_f32(), any_f32())
            .prop_map(|(score, review, reject)| Ok((score, Thresholds { review, reject })));
        prop_oneof![9 => scored, 1 => Just(Err(FaultCode::Late))]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn pass_is_earned(views in 0usize..4, outcomes in prop::collection::vec(outcome(), 0..4)) {
            let earned = views > 0
                && outcomes.len() == views
                && outcomes.iter().all(|o| o.is_ok_and(|(s, t)| {
                    s.is_finite() && t.review.is_finite() && t.reject.is_finite()
                        && t.review <= t.reject && s <= t.review
                }));
            prop_assert_eq!(judge(views, &outcomes) == Verdict::Pass, earned);
        }

        #[test]
        fn a_fault_is_never_hidden(outcomes in prop::collection::vec(outcome(), 1..4)) {
            if outcomes.iter().any(Result::is_err) {
                prop_assert!(matches!(judge(outcomes.len(), &outcomes), Verdict::Fault(_)));
            }
        }
    }

    #[test]
    fn the_worst_view_decides_whatever_the_order() {
        let t = Thresholds { review: 1.0, reject: 2.0 };
        assert_eq!(judge(2, &[Ok((3.0, t)), Ok((1.5, t))]), Verdict::Reject);
        assert_eq!(judge(2, &[Ok((1.5, t)), Ok((3.0, t))]), Verdict::Reject);
        assert_eq!(judge(2, &[Ok((1.5, t)), Ok((0.5, t))]), Verdict::Review);
        assert_eq!(judge(1, &[Ok((1.0, t))]), Verdict::Pass);
    }

    #[test]
    fn wire_codes_are_frozen_and_none_is_what_dead_memory_reads() {
        let codes: Vec<u16> = FaultCode::ALL.iter().map(|c| c.code()).collect();
        let frozen = [
            1, 2, 3, 4, 5, 6, 7, 8, 10, 11, 12, 13, 14, 15, 16, 17, 20, 21, 22, 23, 24, 30, 40, 41, 50, 60,
            61, 62, 63, 64, 65, 70, 71, 72, 73, 74, 90,
        ];
        assert_eq!(codes, frozen);
        let verdicts = [Verdict::Pass, Verdict::Review, Verdict::Reject, Verdict::Fault(FaultCode::Late)];
        assert_eq!(verdicts.map(Verdict::code), [1, 2, 3, 4]);
    }
}
