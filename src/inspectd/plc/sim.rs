//! A PLC that is played, for commissioning: it drives a station over Modbus TCP as a PLC would, well and wrongly,
//! and says whether what it reads is what the manual promises.
//!
//! Terms. An *edge* is a change of what the PLC reads, with its time since the trigger. *Misuse* is what a PLC
//! should not do: the station must bear it, and tell it.
//!
//! It triggers real parts: the station's gate moves.
//!
//! Never here: the daemon's own state; a promise that the manual's state table does not make.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use serde::Serialize;
use tokio::time::{sleep, timeout};
use tokio_modbus::client::{Context, tcp};
use tokio_modbus::prelude::*;

use super::map::{MIRROR, VERSION, coil, holding, input, state_bit};

/// Longest wait for a connection or an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait for a result, beyond any sensible deadline.
const RESULT: Duration = Duration::from_secs(70);
/// `alive` and `chain` are watched for so long.
const WATCH: Duration = Duration::from_secs(2);
/// Most edges of one part that are kept.
const MAX_EDGES: usize = 64;

/// Why the play broke off.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// No connection.
    #[error(
        "no Modbus connection to {address}: {reason}; is inspectd running, and does [modbus] listen there?"
    )]
    Connect {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        reason: String,
    },
    /// A request failed.
    #[error("{what}: {reason}")]
    Request {
        /// Which.
        what: &'static str,
        /// What came back.
        reason: String,
    },
    /// Something else answers there.
    #[error("map_version is {found}, expected {VERSION}: this is no inspectd of this version")]
    Version {
        /// What was read.
        found: u16,
    },
    /// Parts come from elsewhere.
    #[error(
        "triggers were accepted that this PLC did not send: another PLC drives the station; stop it first"
    )]
    NotAlone,
}

/// One thing that was tried.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// What.
    pub what: String,
    /// Whether all came as promised.
    pub good: bool,
    /// What was read; where it was not good, what was expected.
    pub told: String,
}

/// A change of what the PLC reads.
#[derive(Debug, Clone, Serialize)]
pub struct Edge {
    /// Since the trigger was written, microseconds.
    pub at_us: u64,
    /// What reads how now.
    pub what: String,
}

/// What the play came to.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whether every step was good.
    pub good: bool,
    /// In order.
    pub steps: Vec<Step>,
    /// Of the first part.
    pub edges: Vec<Edge>,
    /// Trigger written to result read, of each part, microseconds, ascending.
    pub results_us: Vec<u64>,
}

/// What is played.
#[derive(Debug, Clone, Copy)]
pub struct Play {
    /// Where the daemon listens.
    pub address: SocketAddr,
    /// The station's unit identifier.
    pub unit: u8,
    /// Parts of the normal cycle.
    pub parts: u16,
    /// Whether to misuse the handshake as well.
    pub misuse: bool,
}

struct Plc {
    modbus: Context,
    id: u16,
    accepted: u32,
}

/// All input registers of one moment.
struct Words(Vec<u16>);

impl Words {
    fn at(&self, place: u16) -> u16 {
        self.0.get(usize::from(place)).copied().unwrap_or(0)
    }

    fn state(&self, bit: u16) -> bool {
        self.at(input::STATE) & bit != 0
    }

    /// A discrete input from 8 on.
    fn handshake(&self, bit: u16) -> bool {
        self.at(input::HANDSHAKE) & (1 << (bit - super::map::discrete::RESULT_VALID)) != 0
    }

    /// A counter. Its word order does not matter here: it is compared with itself, and stays small.
    fn count(&self, place: u16) -> u32 {
        u32::from(self.at(place)).max(u32::from(self.at(place + 1)))
    }
}

/// Plays a PLC; tells each step when it is done.
///
/// Errors: [`SimError`] where it cannot go on; what does not come as promised is a step that is not good.
pub async fn play(play: Play, tell: &mut dyn FnMut(&Step)) -> Result<Report, SimError> {
    let mut plc = Plc::connect(play.address, play.unit).await?;
    let mut report = Report::default();
    let mut done = |report: &mut Report, what: &str, result: Result<String, String>| {
        let (good, told) = match result {
            Ok(told) => (true, told),
            Err(told) => (false, told),
        };
        let step = Step { what: what.to_owned(), good, told };
        tell(&step);
        report.steps.push(step);
    };
    let life = plc.life().await?;
    done(&mut report, "alive and chain count", life);
    let armed = plc.arm().await?;
    done(&mut report, "ready after trigger_id 0", armed);
    let cycle = plc.cycle(play.parts, &mut report).await?;
    done(&mut report, "parts, one after the other", cycle);
    if play.misuse {
        let busy = plc.trigger_while_busy().await?;
        done(&mut report, "a trigger while busy is missed, and told", busy);
        let same = plc.same_id_again().await?;
        done(&mut report, "the same id again is no trigger", same);
        let wrong = plc.acknowledge_nothing().await?;
        done(&mut report, "an acknowledgement of nothing takes no result away", wrong);
        let offline = plc.offline_in_the_middle().await?;
        done(
            &mut report,
            "offline in the middle of a part: its result comes, the next trigger is missed",
            offline,
        );
        let two = plc.two_commands().await?;
        done(&mut report, "two commands at once: neither", two);
        let restart = plc.restart(play.address, play.unit).await?;
        done(&mut report, "a PLC that restarts in the middle of a part", restart);
        let second = plc.second_master(play.address, play.unit).await?;
        done(&mut report, "a second master reads the same result", second);
        let clear = plc.command(coil::CLEAR_ERROR).await?;
        done(&mut report, "the error can be cleared", clear);
    }
    report.results_us.sort_unstable();
    report.good = report.steps.iter().all(|s| s.good);
    Ok(report)
}

fn expect(good: bool, told: String, expected: &str) -> Result<String, String> {
    if good { Ok(told) } else { Err(format!("{told}; expected {expected}")) }
}

impl Plc {
    async fn connect(address: SocketAddr, unit: u8) -> Result<Self, SimError> {
        let failed = |reason: String| SimError::Connect { address, reason };
        let connected = timeout(ANSWER, tcp::connect_slave(address, Slave(unit))).await;
        let modbus = connected
            .map_err(|_| failed(format!("no answer within {} s", ANSWER.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        let mut plc = Self { modbus, id: 0, accepted: 0 };
        let words = plc.read().await?;
        match words.at(input::MAP_VERSION) {
            VERSION => {}
            found => return Err(SimError::Version { found }),
        }
        plc.accepted = words.count(input::ACCEPTED);
        let ids = plc.holding(holding::TRIGGER_ID).await?;
        plc.id = ids;
        Ok(plc)
    }

    /// One request; a late answer would be taken for the next one's, so that a silent peer ends the play.
    async fn ask<T>(
        what: &'static str,
        request: impl Future<Output = tokio_modbus::Result<T>>,
    ) -> Result<T, SimError> {
        let failed = |reason: String| SimError::Request { what, reason };
        timeout(ANSWER, request)
            .await
            .map_err(|_| failed(format!("no answer within {} s", ANSWER.as_secs())))?
            .map_err(|e| failed(e.to_string()))?
            .map_err(|e| failed(e.to_string()))
    }

    async fn read(&mut self) -> Result<Words, SimError> {
        let read = self.modbus.read_input_registers(0, input::SIZE);
        Self::ask("read of the input registers", read).await.map(Words)
    }

    async fn holding(&mut self, place: u16) -> Result<u16, SimError> {
        let read = self.modbus.read_holding_registers(place, 1);
        Ok(Self::ask("read of a holding register", read).await?.first().copied().unwrap_or(0))
    }

    async fn write(&mut self, place: u16, value: u16) -> Result<(), SimError> {
        Self::ask("write of a holding register", self.modbus.write_single_register(place, value)).await
    }

    async fn coil(&mut self, bit: u16, set: bool) -> Result<(), SimError> {
        Self::ask("write of a coil", self.modbus.write_single_coil(bit, set)).await
    }

    /// Reads until `is` holds, or the limit is over; what was read last.
    async fn until(&mut self, limit: Duration, is: impl Fn(&Words) -> bool) -> Result<Words, SimError> {
        let end = Instant::now() + limit;
        loop {
            let words = self.read().await?;
            if is(&words) || Instant::now() >= end {
                return Ok(words);
            }
        }
    }

    async fn life(&mut self) -> Result<Result<String, String>, SimError> {
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

    async fn arm(&mut self) -> Result<Result<String, String>, SimError> {
        self.write(holding::TRIGGER_ID, 0).await?;
        let words = self.until(RESULT, |w| w.state(state_bit::READY)).await?;
        let told = format!(
            "ready {}, fault_code {}",
            u8::from(words.state(state_bit::READY)),
            words.at(input::FAULT_CODE)
        );
        self.accepted = words.count(input::ACCEPTED);
        // The command bits have to be seen at 0 once, too.
        self.write(holding::CONTROL, 0).await?;
        Ok(expect(words.state(state_bit::READY), told, "ready 1"))
    }

    /// The next id, never the one that stands there.
    async fn trigger(&mut self) -> Result<u16, SimError> {
        self.id = self.id.checked_add(1).unwrap_or(1);
        let id = self.id;
        self.write(holding::TRIGGER_ID, id).await?;
        Ok(id)
    }

    /// The result of an id, acknowledged; results of others that stand before it are acknowledged as well.
    async fn result(&mut self, id: u16) -> Result<Option<Words>, SimError> {
        let end = Instant::now() + RESULT;
        while Instant::now() < end {
            let words = self.read().await?;
            if words.handshake(super::map::discrete::RESULT_VALID) {
                self.write(holding::RESULT_ACKNOWLEDGED, words.at(input::RESULT_SEQUENCE)).await?;
                if words.at(input::RESULT_TRIGGER_ID) == id {
                    return Ok(Some(words));
                }
            }
        }
        Ok(None)
    }

    async fn cycle(&mut self, parts: u16, report: &mut Report) -> Result<Result<String, String>, SimError> {
        for n in 0..parts {
            let begin = Instant::now();
            let id = self.trigger().await?;
            let result = if n == 0 {
                self.watch(id, begin, &mut report.edges).await?
            } else {
                self.result(id).await?
            };
            let Some(words) = result else {
                return Ok(Err(format!("no result for id {id} within {} s", RESULT.as_secs())));
            };
            report.results_us.push(u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX));
            if words.at(input::RESULT_SEQUENCE) != words.at(input::RESULT_SEQUENCE_END) {
                return Ok(Err(format!("the result of id {id} is torn")));
            }
            if n > 0 && words.count(input::ACCEPTED).wrapping_sub(self.accepted) > 1 {
                return Err(SimError::NotAlone);
            }
            self.accepted = words.count(input::ACCEPTED);
        }
        Ok(Ok(format!("{parts} results, each with the id of its part")))
    }

    /// The first part, read as fast as can be.
    async fn watch(
        &mut self,
        id: u16,
        begin: Instant,
        edges: &mut Vec<Edge>,
    ) -> Result<Option<Words>, SimError> {
        let shown = |w: &Words| {
            [
                ("ready", u16::from(w.state(state_bit::READY))),
                ("busy", u16::from(w.state(state_bit::BUSY))),
                ("result_valid", u16::from(w.handshake(super::map::discrete::RESULT_VALID))),
                ("result_trigger_id", w.at(input::RESULT_TRIGGER_ID)),
                ("gate", w.at(input::GATE)),
            ]
        };
        let mut last: Option<[(&str, u16); 5]> = None;
        while begin.elapsed() < RESULT && edges.len() < MAX_EDGES {
            let words = self.read().await?;
            let now = shown(&words);
            let at_us = u64::try_from(begin.elapsed().as_micros()).unwrap_or(u64::MAX);
            for (k, (name, value)) in now.iter().enumerate() {
                if last.is_none_or(|last| last[k].1 != *value) {
                    edges.push(Edge { at_us, what: format!("{name} {value}") });
                }
            }
            last = Some(now);
            if words.at(input::RESULT_TRIGGER_ID) == id {
                return self.result(id).await;
            }
        }
        Ok(None)
    }

    async fn trigger_while_busy(&mut self) -> Result<Result<String, String>, SimError> {
        let before = self.read().await?.count(input::MISSED);
        let first = self.trigger().await?;
        let second = self.trigger().await?;
        let got = self.result(first).await?.is_some();
        let missed = self.read().await?.count(input::MISSED);
        if missed == before {
            // It was faster than the second write: then that was a part of its own.
            let both = self.result(second).await?.is_some();
            return Ok(expect(
                got && both,
                "the station was never busy long enough; both parts have results".into(),
                "two results",
            ));
        }
        let told = format!("missed counts {}", missed.wrapping_sub(before));
        Ok(expect(got && missed == before + 1, told, "1, and the result of the first"))
    }

    async fn same_id_again(&mut self) -> Result<Result<String, String>, SimError> {
        let before = self.read().await?.count(input::ACCEPTED);
        let id = self.id;
        self.write(holding::TRIGGER_ID, id).await?;
        let after = self.read().await?.count(input::ACCEPTED);
        Ok(expect(after == before, format!("accepted {before}, then {after}"), "no further part"))
    }

    async fn acknowledge_nothing(&mut self) -> Result<Result<String, String>, SimError> {
        let id = self.trigger().await?;
        let words = self.until(RESULT, |w| w.at(input::RESULT_TRIGGER_ID) == id).await?;
        self.write(holding::RESULT_ACKNOWLEDGED, words.at(input::RESULT_SEQUENCE).wrapping_add(7).max(1))
            .await?;
        let after = self.read().await?;
        let told = format!("the block holds id {}", after.at(input::RESULT_TRIGGER_ID));
        let good = after.at(input::RESULT_TRIGGER_ID) == id;
        self.result(id).await?;
        Ok(expect(good, told, &format!("id {id}")))
    }

    async fn offline_in_the_middle(&mut self) -> Result<Result<String, String>, SimError> {
        let id = self.trigger().await?;
        self.coil(coil::OFFLINE, true).await?;
        let got = self.result(id).await?.is_some();
        let before = self.read().await?;
        self.trigger().await?;
        let after = self.read().await?;
        self.coil(coil::OFFLINE, false).await?;
        let missed = after.count(input::MISSED).wrapping_sub(before.count(input::MISSED));
        let code = after.at(input::FAULT_CODE);
        let told =
            format!("result {}, fault_code {code}, missed +{missed}", if got { "there" } else { "missing" });
        let good = got && missed == 1 && code == FaultCode::Offline.code();
        Ok(expect(good, told, "the result, fault_code 5, missed +1"))
    }

    async fn two_commands(&mut self) -> Result<Result<String, String>, SimError> {
        self.write(holding::CONTROL, 0).await?;
        self.write(holding::CONTROL, 1 << coil::CLEAR_ERROR | 1 << coil::RESET_COUNTERS).await?;
        let words = self.read().await?;
        self.write(holding::CONTROL, 0).await?;
        let code = words.at(input::COMMAND_FAULT_CODE);
        Ok(expect(code == FaultCode::TwoCommands.code(), format!("command_fault_code {code}"), "70"))
    }

    /// Cuts its own connection with a part in hand, comes back as a PLC without memory.
    async fn restart(&mut self, address: SocketAddr, unit: u8) -> Result<Result<String, String>, SimError> {
        let id = self.trigger().await?;
        let again = Self::connect(address, unit).await?;
        self.modbus = again.modbus; // the old connection is dropped
        self.write(holding::TRIGGER_ID, 0).await?;
        let got = self.result(id).await?.is_some();
        let discarded = self.command(coil::DISCARD_RESULTS).await?;
        let next = self.trigger().await?;
        let result = self.result(next).await?.is_some();
        let told = format!(
            "result of the part in hand {got}, discard_results {}, next part {result}",
            discarded.is_ok()
        );
        Ok(expect(got && discarded.is_ok() && result, told, "all three"))
    }

    async fn second_master(
        &mut self,
        address: SocketAddr,
        unit: u8,
    ) -> Result<Result<String, String>, SimError> {
        let mut other = Self::connect(address, unit).await?;
        let id = self.trigger().await?;
        let (one, two) = (
            self.until(RESULT, |w| w.at(input::RESULT_TRIGGER_ID) == id).await?,
            other.until(ANSWER, |w| w.at(input::RESULT_TRIGGER_ID) == id).await?,
        );
        let block = |w: &Words| w.0.get(16..40).map(<[u16]>::to_vec);
        let good = block(&one) == block(&two);
        self.result(id).await?;
        Ok(expect(good, format!("both read id {}", two.at(input::RESULT_TRIGGER_ID)), "the same words"))
    }

    /// A command from raise to drop.
    async fn command(&mut self, bit: u16) -> Result<Result<String, String>, SimError> {
        self.coil(bit, true).await?;
        let done = super::map::discrete::COMMAND_DONE;
        let failed = super::map::discrete::COMMAND_FAILED;
        let words = self.until(RESULT, |w| w.handshake(done) || w.handshake(failed)).await?;
        self.coil(bit, false).await?;
        let code = words.at(input::COMMAND_FAULT_CODE);
        Ok(expect(words.handshake(done), format!("command_fault_code {code}"), "command_done"))
    }
}
