//! What is told of a part: its result block for the PLC, its record for the journal, its frame for the archive.
//!
//! Never here: a decision; anything on the line's way but the making of the block.

use std::time::Duration;

use inspect_core::verdict::{FaultCode, Verdict};
use tokio::time::timeout;

use super::view::Look;
use super::{LATE_SCORE_WAIT, Station};
use crate::archive::{Kept, Pictures};
use crate::clock;
use crate::plc::result::{Accepted, ResultBlock};
use crate::record::{Event, EventKind, Gate, Inspection, RECORD_SCHEMA, Times, Trigger};

impl Station {
    /// The record of a part, but for what publication decides.
    pub(super) fn inspection(&self, part: u64, trigger: Trigger, looks: &mut [Look]) -> Inspection {
        let longest = |stage: fn(&Look) -> Duration| micros(looks.iter().map(stage).max());
        let times_us = Times {
            grab: longest(|l| l.grab),
            resize: longest(|l| l.resize),
            score: longest(|l| l.run),
            total: 0,
        };
        Inspection {
            schema: RECORD_SCHEMA,
            station: self.name.clone(),
            part,
            trigger,
            recipe: self.recipe.clone(),
            truth: looks.iter_mut().find_map(|l| l.truth.take()),
            views: looks.iter().map(|l| l.record.clone()).collect(),
            verdict: Verdict::Fault(FaultCode::Internal),
            reason: None,
            gate: Gate::Reject,
            review_at_gate: self.registers.review_at_gate(),
            simulated: self.simulated,
            times_us,
        }
    }

    /// Hands the archive what it keeps of a part, and logs the part.
    pub(super) fn tell_part(&self, inspection: &Inspection, mut looks: Vec<Look>) {
        let Inspection { part, verdict, .. } = *inspection;
        let relative = looks.iter().filter_map(|l| l.record.relative_score).reduce(f32::max);
        tracing::info!(
            verdict = verdict.word(),
            fault = verdict.fault_code(),
            score = relative,
            total_us = inspection.times_us.total,
            "inspected"
        );
        let wanted = self.archive.wants(part, verdict);
        let mut pictures = Vec::new();
        for look in &mut looks {
            if let Some(late) = look.late.take() {
                self.follow_late(part, inspection.trigger.clone(), late);
            }
            if wanted {
                pictures.push(Pictures {
                    view: look.record.view.clone(),
                    frame: look.image.take(),
                    map: std::mem::take(&mut look.map),
                    map_shape: look.map_shape,
                });
            }
        }
        if wanted {
            self.archive.keep(Kept { record: inspection.clone(), views: pictures });
        }
    }

    /// Logs what is latched, when it comes: nothing else keeps the moment.
    pub(super) fn tell_error(&self, error: Option<FaultCode>) {
        let Some(code) = error else { return };
        tracing::warn!(
            station = self.name,
            error = code.code(),
            meaning = code.meaning(),
            action = code.action(),
            "latched until the PLC's clear_error"
        );
    }

    /// Waits beside the line for a score that missed its deadline, and records it as an event.
    fn follow_late(
        &self,
        part: u64,
        trigger: Trigger,
        late: tokio::sync::oneshot::Receiver<crate::scoring::Scored>,
    ) {
        let (journal, station) = (self.journal.clone(), self.name.clone());
        tokio::spawn(async move {
            let message = match timeout(LATE_SCORE_WAIT, late).await {
                Ok(Ok(scored)) => match scored.score {
                    Ok(score) => format!(
                        "part {part}: score {score} came after the deadline; the PLC was told fault {}",
                        FaultCode::Late.code()
                    ),
                    Err(code) => {
                        format!("part {part}: after the deadline the scorer ended with fault {}", code.code())
                    }
                },
                _ => {
                    format!("part {part}: no score within {} s after the deadline", LATE_SCORE_WAIT.as_secs())
                }
            };
            let event = Event::now(EventKind::LateScore, Some(&station), message);
            journal.event(event.of_part(part, trigger));
        });
    }
}

pub(super) fn result_block(
    accepted: &Accepted,
    part: u64,
    verdict: Verdict,
    recipe: u16,
    looks: &[Look],
) -> ResultBlock {
    let worst = looks
        .iter()
        .filter_map(|l| Some((l.record.relative_score?, l.record.thresholds?)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let model = looks
        .first()
        .and_then(|l| l.record.model_sha256.get(..8))
        .and_then(|hex| u32::from_str_radix(hex, 16).ok());
    ResultBlock {
        trigger_id: accepted.trigger_id,
        verdict,
        gate: Gate::Reject, // until publication decides
        part: part as u32,  // wraps after 4 billion parts; the journal has all 64 bits
        score: worst.map_or(f32::NAN, |(score, _)| score),
        review_limit: worst.map_or(f32::NAN, |(_, t)| t.review / t.reject),
        total_us: u32::try_from(clock::since(accepted.at).as_micros()).unwrap_or(u32::MAX),
        model: model.unwrap_or(0),
        recipe,
        views: looks.iter().filter(|l| l.outcome.is_ok()).count() as u16,
        state: 0, // publication knows
        kind: accepted.kind,
        identity: accepted.identity,
    }
}

pub(super) fn micros(duration: Option<Duration>) -> u64 {
    duration.map_or(0, |d| u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
}
