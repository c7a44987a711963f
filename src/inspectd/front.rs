//! What the PLC sees of the daemon: each station's registers, served from before anything else is there until after all
//! else has stopped. Until a station takes over its registers they say reject.
//!
//! Never here: stations, cameras, models, the journal.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use inspect_core::verdict::FaultCode;
use tokio::task::JoinHandle;

use crate::config::{Config, StationConfig, TriggerConfig};
use crate::plc::access::AllowList;
use crate::plc::handshake::Marks;
use crate::plc::in_sight::InSight;
use crate::plc::registers::{Asks, Registers};
use crate::plc::server::{ModbusServer, ServerError};
use crate::plc::settings::Settings;

/// Pace of `alive` and `chain`.
const BEAT: Duration = Duration::from_millis(250);
/// How often parts are looked for that no station is there for.
const REJECT_EVERY: Duration = Duration::from_millis(5);

/// The servers, and the registers that they serve.
pub struct Front {
    /// Serves the stations' registers.
    pub modbus: ModbusServer,
    /// Serve stations as In-Sight cameras.
    pub in_sight: Vec<ModbusServer>,
    /// Each station's registers.
    pub registers: Vec<Arc<Registers>>,
    /// What the PLC asks of each station.
    pub asks: Vec<Asks>,
    /// Lets `alive` and `chain` count.
    pub beat: Beat,
}

/// A task that lets `alive` and `chain` count until it is dropped.
pub struct Beat(JoinHandle<()>);

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Front {
    /// Opens the configured ports and serves reject, because the stations are starting.
    ///
    /// Errors: [`ServerError`].
    pub async fn open(config: &Config) -> Result<Self, ServerError> {
        let memories = config.stations.iter().map(|station| memory(config, station));
        let (registers, asks): (Vec<_>, Vec<_>) = memories.unzip();
        let allowed = AllowList::new(&config.modbus.clients);
        let modbus = ModbusServer::start(config.modbus.listen, allowed, registers.clone()).await?;
        let mut in_sight = Vec::new();
        for (station, registers) in config.stations.iter().zip(&registers) {
            let Some(shown) = &station.in_sight else { continue };
            let allowed = AllowList::new(config.in_sight_clients(shown));
            let camera = InSight::new(Arc::clone(registers));
            in_sight.push(ModbusServer::start_in_sight(shown.listen, allowed, camera).await?);
        }
        let beat = Beat(tokio::spawn(beat(registers.clone())));
        Ok(Self { modbus, in_sight, registers, asks, beat })
    }

    /// Says at every station why it cannot inspect yet.
    pub fn say(&self, code: FaultCode) {
        let marks = Marks { fault: Some(code), ..Marks::default() };
        self.registers.iter().for_each(|registers| registers.mark(marks));
    }

    /// Answers what the PLC asks all the same, while there are no stations: each part is a fault, in no journal.
    pub async fn reject_parts(&mut self, code: FaultCode) -> Infallible {
        loop {
            for (registers, asks) in self.registers.iter().zip(&mut self.asks) {
                while asks.accepted.try_recv().is_ok() {
                    registers.refuse_part(code);
                }
                while asks.commands.try_recv().is_ok() {
                    registers.end_command(Err(code));
                }
            }
            tokio::time::sleep(REJECT_EVERY).await;
        }
    }
}

fn memory(config: &Config, station: &StationConfig) -> (Arc<Registers>, Asks) {
    let (registers, asks) = Registers::new(Settings {
        by_plc: station.trigger == TriggerConfig::Plc,
        simulated: station.is_simulated(),
        review_at_gate: station.review_at_gate,
        results: station.results,
        order: config.modbus.word_order,
    });
    (Arc::new(registers), asks)
}

async fn beat(registers: Vec<Arc<Registers>>) {
    let mut interval = tokio::time::interval(BEAT);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        registers.iter().for_each(|r| r.beat());
    }
}
