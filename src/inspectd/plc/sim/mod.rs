//! A PLC that is played, for commissioning: it drives a station over Modbus TCP as a PLC would, well and wrongly,
//! and says whether what it reads is what the manual promises.
//!
//! Terms. An *edge* is a change of what the PLC reads, with its time since the trigger. *Misuse* is what a PLC
//! should not do: the station must bear it, and tell it.
//!
//! It triggers real parts: the station's gate moves. What it raises it drops again, also where it breaks off.
//!
//! Never here: the daemon's own state; a promise that the manual's state table does not make.

mod client;
mod misuse;
mod normal;

use std::net::SocketAddr;

use serde::Serialize;

use self::client::Plc;
use super::map::{VERSION, coil};

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
    /// Another writes to the station.
    #[error("{what}: another PLC drives the station; stop it first")]
    NotAlone {
        /// What shows it.
        what: String,
    },
    /// A person stopped it.
    #[error("stopped before its end")]
    Stopped,
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
    /// Recipe that is brought into service first.
    pub recipe: Option<u16>,
    /// Parts of the normal cycle.
    pub parts: u16,
    /// Whether to misuse the handshake as well.
    pub misuse: bool,
}

/// What a step came to: what was read, or that and what was expected.
type Outcome = Result<String, String>;

/// The steps as they are done.
struct Done<'a> {
    report: Report,
    tell: &'a mut dyn FnMut(&Step),
}

impl Done<'_> {
    /// Whether the step was good.
    fn step(&mut self, what: &str, outcome: Outcome) -> bool {
        let good = outcome.is_ok();
        let (Ok(told) | Err(told)) = outcome;
        let step = Step { what: what.to_owned(), good, told };
        (self.tell)(&step);
        self.report.steps.push(step);
        good
    }
}

/// Plays a PLC until it is done or `stop` comes; tells each step when it is done. What it breaks off for is the last
/// step, and not good.
///
/// Errors: [`SimError`] where it could not begin.
pub async fn play(
    plan: Play,
    stop: impl Future<Output = ()>,
    tell: &mut dyn FnMut(&Step),
) -> Result<Report, SimError> {
    let mut plc = Plc::connect(plan.address, plan.unit).await?;
    let offline = plc.coil_stands(coil::OFFLINE).await?;
    let mut done = Done { report: Report::default(), tell };
    let ended = tokio::select! {
        ended = steps(&mut plc, plan, &mut done) => ended,
        () = stop => Err(SimError::Stopped),
    };
    drop(plc);
    if let Err(error) = ended {
        done.step("the play goes to its end", Err(error.to_string()));
    }
    if let Err(error) = restore(plan, offline).await {
        let told = format!("{error}; expected to drop what was raised: look at coils 0 and 8 to 15");
        done.step("the coils are as they were", Err(told));
    }
    let mut report = done.report;
    report.results_us.sort_unstable();
    report.good = report.steps.iter().all(|s| s.good);
    Ok(report)
}

/// Over a connection of its own: on the one before, half an answer may be under way.
async fn restore(plan: Play, offline: bool) -> Result<(), SimError> {
    let mut plc = Plc::connect(plan.address, plan.unit).await?;
    plc.drop_commands().await?;
    plc.coil(coil::OFFLINE, offline).await
}

async fn steps(plc: &mut Plc, plan: Play, done: &mut Done<'_>) -> Result<(), SimError> {
    if let Some(recipe) = plan.recipe
        && !done.step("the recipe comes into service", plc.load_recipe(recipe).await?)
    {
        return Ok(());
    }
    done.step("alive and chain count", plc.life().await?);
    if !done.step("ready after trigger_id 0", plc.arm().await?) {
        return Ok(()); // no part would show anything but that
    }
    let cycle = plc.cycle(plan.parts, &mut done.report).await?;
    if !done.step("parts, one after the other", cycle) || !plan.misuse {
        return Ok(());
    }
    done.step("a trigger while busy is missed, and told", plc.trigger_while_busy(None).await?);
    done.step("the same id again is no trigger", plc.same_id_again().await?);
    done.step("a wrong acknowledgement takes no result away", plc.acknowledge_wrongly().await?);
    done.step("an acknowledgement while nothing is valid", plc.acknowledge_nothing().await?);
    done.step(
        "offline in the middle of a part: its result comes, the next trigger is missed",
        plc.offline_in_the_middle().await?,
    );
    done.step("results that nobody takes: one too many is lost, and told", plc.overrun().await?);
    done.step("two commands at once: neither", plc.two_commands().await?);
    done.step("a PLC that restarts in the middle of a part", plc.restart(plan).await?);
    let mut other = Plc::connect(plan.address, plan.unit).await?;
    done.step("a second master reads, acknowledges and triggers", plc.second_master(&mut other).await?);
    done.step(
        "a second master that triggers while busy is missed, and told",
        plc.trigger_while_busy(Some(&mut other)).await?,
    );
    done.step("the error can be cleared", plc.clear().await?);
    Ok(())
}

fn expect(good: bool, told: String, expected: &str) -> Outcome {
    if good { Ok(told) } else { Err(format!("{told}; expected {expected}")) }
}
