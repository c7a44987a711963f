//! The played PLC's requests, each with its limit, and what it waits for.
//!
//! Never here: what should come of them.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tokio_modbus::client::{Context, tcp};
use tokio_modbus::prelude::*;

use super::{Outcome, SimError, expect};
use crate::plc::map::{VERSION, coil, discrete, holding, input, state_bit};
use crate::plc::reading::Reading;

/// Longest wait for a connection or an answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Longest wait for a result, beyond any sensible deadline.
pub(super) const RESULT: Duration = Duration::from_secs(70);

/// Longest wait for a recipe, whose models are loaded.
const LOAD_LIMIT: Duration = Duration::from_secs(150);

/// One connection to a station.
pub(super) struct Plc {
    modbus: Context,
    /// The id that was written last.
    pub id: u16,
    /// Whether results are acknowledged; known after the first.
    pub acknowledges: bool,
}

impl Plc {
    /// Connects, and reads whether the station is there.
    pub async fn connect(address: SocketAddr, unit: u8) -> Result<Self, SimError> {
        let failed = |reason: String| SimError::Connect { address, reason };
        let connected = timeout(ANSWER, tcp::connect_slave(address, Slave(unit))).await;
        let modbus = connected
            .map_err(|_| failed(format!("no answer within {} s", ANSWER.as_secs())))?
            .map_err(|e| failed(e.to_string()))?;
        let mut plc = Self { modbus, id: 0, acknowledges: false };
        match plc.read().await?.at(input::MAP_VERSION) {
            VERSION => {}
            found => return Err(SimError::Version { found }),
        }
        plc.id = plc.holding(holding::TRIGGER_ID).await?;
        Ok(plc)
    }

    /// Goes on over a new connection, as a PLC without memory.
    pub async fn reconnect(&mut self, address: SocketAddr, unit: u8) -> Result<(), SimError> {
        self.modbus = Self::connect(address, unit).await?.modbus; // the old connection is dropped
        Ok(())
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

    /// All input registers.
    pub async fn read(&mut self) -> Result<Reading, SimError> {
        let read = self.modbus.read_input_registers(0, input::SIZE);
        Self::ask("read of the input registers", read).await.map(Reading::new)
    }

    /// What stands before the result block, which stays unread.
    pub async fn read_head(&mut self) -> Result<Reading, SimError> {
        let read = self.modbus.read_input_registers(0, input::RESULT_SEQUENCE);
        Self::ask("read of the first input registers", read).await.map(Reading::new)
    }

    pub async fn holding(&mut self, place: u16) -> Result<u16, SimError> {
        let read = self.modbus.read_holding_registers(place, 1);
        Ok(Self::ask("read of a holding register", read).await?.first().copied().unwrap_or(0))
    }

    pub async fn write(&mut self, place: u16, value: u16) -> Result<(), SimError> {
        Self::ask("write of a holding register", self.modbus.write_single_register(place, value)).await
    }

    pub async fn coil(&mut self, bit: u16, set: bool) -> Result<(), SimError> {
        Self::ask("write of a coil", self.modbus.write_single_coil(bit, set)).await
    }

    pub async fn coil_stands(&mut self, bit: u16) -> Result<bool, SimError> {
        let read = self.modbus.read_coils(bit, 1);
        Ok(Self::ask("read of a coil", read).await?.first().copied().unwrap_or(false))
    }

    /// All command bits to 0; the levels are not touched.
    pub async fn drop_commands(&mut self) -> Result<(), SimError> {
        let commands = [false; (coil::SIZE - coil::CLEAR_ERROR) as usize];
        let write = self.modbus.write_multiple_coils(coil::CLEAR_ERROR, &commands);
        Self::ask("write of the command coils", write).await
    }

    /// Reads until `is` holds, or the limit is over; what was read last.
    pub async fn until(
        &mut self,
        limit: Duration,
        is: impl Fn(&Reading) -> bool,
    ) -> Result<Reading, SimError> {
        let end = Instant::now() + limit;
        loop {
            let read = self.read().await?;
            if is(&read) || Instant::now() >= end {
                return Ok(read);
            }
        }
    }

    /// The next id, never the one that stands there.
    pub fn next_id(&mut self) -> u16 {
        self.id = self.id.checked_add(1).unwrap_or(1);
        self.id
    }

    /// Writes the next id.
    pub async fn trigger(&mut self) -> Result<u16, SimError> {
        let id = self.next_id();
        self.write(holding::TRIGGER_ID, id).await?;
        Ok(id)
    }

    /// Whether the result of the id that was written last can still come to this PLC.
    ///
    /// Errors: [`SimError::NotAlone`].
    pub fn can_come(read: &Reading, id: u16) -> Result<(), SimError> {
        let stands = read.handshake(discrete::RESULT_VALID) || read.at(input::RESULTS_WAITING) > 0;
        let what = match read.at(input::ACCEPTED_TRIGGER_ID) {
            _ if read.at(input::RESULT_TRIGGER_ID) == id || read.at(input::RESULTS_WAITING) > 0 => {
                return Ok(());
            }
            other if other != id => format!("id {id} was written, and accepted_trigger_id is {other}"),
            _ if read.state(state_bit::BUSY) || stands => return Ok(()),
            _ => format!("the result of id {id} was acknowledged by another"),
        };
        Err(SimError::NotAlone { what })
    }

    /// The result of the id that was written last, acknowledged; results of others that stand before it are
    /// acknowledged as well.
    pub async fn result(&mut self, id: u16) -> Result<Option<Reading>, SimError> {
        let end = Instant::now() + RESULT;
        while Instant::now() < end {
            let read = self.read().await?;
            if read.handshake(discrete::RESULT_VALID) {
                self.write(holding::RESULT_ACKNOWLEDGED, read.at(input::RESULT_SEQUENCE)).await?;
                if read.at(input::RESULT_TRIGGER_ID) == id {
                    return Ok(Some(read));
                }
            }
            Self::can_come(&read, id)?;
        }
        Ok(None)
    }

    /// Brings a recipe into service; its models may have to be loaded.
    pub async fn load_recipe(&mut self, number: u16) -> Result<Outcome, SimError> {
        self.drop_commands().await?; // they have to be seen at 0 once
        self.write(holding::RECIPE_REQUEST, number).await?;
        self.command_within(coil::LOAD_RECIPE, LOAD_LIMIT).await
    }

    /// A command from raise to drop.
    pub async fn command(&mut self, bit: u16) -> Result<Outcome, SimError> {
        self.command_within(bit, RESULT).await
    }

    async fn command_within(&mut self, bit: u16, limit: Duration) -> Result<Outcome, SimError> {
        self.coil(bit, true).await?;
        let ended =
            |w: &Reading| w.handshake(discrete::COMMAND_DONE) || w.handshake(discrete::COMMAND_FAILED);
        let read = self.until(limit, ended).await?;
        self.coil(bit, false).await?;
        let code = read.at(input::COMMAND_FAULT_CODE);
        let done = read.handshake(discrete::COMMAND_DONE);
        Ok(expect(done, format!("command_fault_code {code}"), "command_done"))
    }
}
