//! What a PLC does all day: it looks for life, arms the station, triggers parts and takes their results.
//!
//! Never here: misuse.

use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use tokio::time::sleep;

use super::client::{Plc, RESULT};
use super::{Edge, Outcome, Report, SimError, expect};
use crate::plc::map::{MIRROR, VERSION, discrete, holding, input, state_bit};
use crate::plc::reading::Reading;

/// `alive` and `chain` are watched for so long.
const WATCH: Duration = Duration::from_secs(2);
/// A fault may heal for so long before a part is triggered.
const HEAL: Duration = Duration::from_secs(10);
/// Most edges of one part that are kept.
const MAX_EDGES: usize = 64;

impl Plc {
    pub(super) async fn life(&mut self) -> Result<Outcome, SimError> {
        let before = self.read().await?;
        sleep(WATCH).await;
        let after = self.read().await?;
        let moved = |at: u16| after.at(at).wrapping_sub(before.at(at));
        let (alive, chain) = (moved(input::ALIVE), moved(input::CHAIN));
        let told = format!("alive moved by {alive}, chain by {chain} in {} s", WATCH.as_secs());
        let mirror = self.holding(MIRROR + input::MAP_VERSION).await? == VERSION;
        let fault = after.at(input::FAULT_CODE);
        let expected = format!(
            "both to move (fault_code {fault}: see the register map), and the mirror to read {VERSION}"
        );
        Ok(expect(alive > 0 && chain > 0 && mirror, told, &expected))
    }

    pub(super) async fn arm(&mut self) -> Result<Outcome, SimError> {
        self.write(holding::TRIGGER_ID, 0).await?;
        // The command bits have to be seen at 0 once, too.
        self.drop_commands().await?;
        let ready = |w: &Reading| w.state(state_bit::READY);
        let begins = [0, FaultCode::Starting.code()]; // 0: a part is in hand
        self.until(RESULT, |w| ready(w) || !begins.contains(&w.at(input::FAULT_CODE))).await?;
        let read = self.until(HEAL, ready).await?;
        let told = format!("ready {}, fault_code {}", u8::from(ready(&read)), read.at(input::FAULT_CODE));
        Ok(expect(ready(&read), told, "ready 1"))
    }

    pub(super) async fn cycle(&mut self, parts: u16, report: &mut Report) -> Result<Outcome, SimError> {
        let first = self.read().await?;
        let mut before = first.clone();
        for n in 0..parts {
            let begin = Instant::now();
            let id = self.trigger().await?;
            if n == 0 {
                self.watch(id, begin, &mut report.edges).await?;
            }
            let Some(read) = self.result(id).await? else {
                return Ok(Err(format!("no result for id {id} within {} s", RESULT.as_secs())));
            };
            report.results_us.push(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
            if read.at(input::RESULT_SEQUENCE) != read.at(input::RESULT_SEQUENCE_END) {
                return Ok(Err(format!("the result of id {id} is torn")));
            }
            let accepted = read.counted_since(&before, input::ACCEPTED);
            if accepted != 1 {
                let what = format!("accepted moved by {accepted} with one trigger");
                return Err(SimError::NotAlone { what });
            }
            before = read;
        }
        let last = self.read().await?;
        self.acknowledges = !last.handshake(discrete::RESULT_VALID);
        let lost = [input::MISSED, input::OVERRUNS, input::WRONG_ACKNOWLEDGEMENTS]
            .map(|counter| last.counted_since(&first, counter));
        let [passed, reviewed, rejected, faulted] =
            [input::PASSED, input::REVIEWED, input::REJECTED, input::FAULTED]
                .map(|counter| last.counted_since(&first, counter));
        let told = format!(
            "{parts} results, each with the id of its part: {passed} pass, {reviewed} review, {rejected} reject, {faulted} fault; missed +{}, overruns +{}, wrong_acknowledgements +{}",
            lost[0], lost[1], lost[2]
        );
        Ok(expect(lost == [0; 3], told, "none of these: does another PLC write to the station?"))
    }

    /// The first part until its result is there, read as fast as can be.
    async fn watch(&mut self, id: u16, begin: Instant, edges: &mut Vec<Edge>) -> Result<(), SimError> {
        let shown = |w: &Reading| {
            [
                ("ready", u16::from(w.state(state_bit::READY))),
                ("busy", u16::from(w.state(state_bit::BUSY))),
                ("result_valid", u16::from(w.handshake(discrete::RESULT_VALID))),
                ("result_trigger_id", w.at(input::RESULT_TRIGGER_ID)),
                ("gate", w.at(input::GATE)),
            ]
        };
        let mut last: Option<[(&str, u16); 5]> = None;
        while begin.elapsed() < RESULT && edges.len() < MAX_EDGES {
            let read = self.read().await?;
            let now = shown(&read);
            let at_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            for (k, (name, value)) in now.iter().enumerate() {
                if last.is_none_or(|last| last[k].1 != *value) {
                    edges.push(Edge { at_us, what: format!("{name} {value}") });
                }
            }
            last = Some(now);
            let others = read.at(input::RESULTS_WAITING) > 0; // they stand before it
            if others || read.at(input::RESULT_TRIGGER_ID) == id {
                return Ok(());
            }
            Self::can_come(&read, id)?;
        }
        Ok(())
    }
}
