//! One client's requests against the stations' registers: from the bytes that arrive to those that answer.
//!
//! Exceptions, by Modbus Application Protocol V1.1b3 section 7: 1 for a function code that is not served,
//! and for a write by a client that may only read (section 7: "not an allowable action for the server"; 3 would
//! say that the request is malformed, and a panel's programmer would look for a mistake that is not there),
//! 2 for an address or range outside the map, 3 for a count outside the limits of section 6, 11 for a unit
//! identifier without a station. A request that contradicts itself ([`Contradiction`]) closes its connection.
//!
//! A request acts when its last byte is there, and not before: one that is cut short does nothing.
//!
//! Never here: sockets, waiting, verdicts.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio_modbus::{ExceptionCode, Request};

use super::access::May;
use super::in_sight::InSight;
use super::map::{MIRROR, MIRROR_DISCRETE, STATION_STRIDE, discrete, input};
use super::pdu::{self, Answer, Contradiction};
use super::registers::Registers;
use super::result::Refused;

/// Most registers in one read, section 6.3 and 6.4.
pub(super) const MAX_READ_REGISTERS: u16 = 125;
/// Most bits in one read, section 6.1 and 6.2.
pub(super) const MAX_READ_BITS: u16 = 2000;
/// Most bits in one write, section 6.11.
pub(super) const MAX_WRITE_BITS: u16 = 1968;
/// Most registers in one write, section 6.12.
pub(super) const MAX_WRITE_REGISTERS: usize = 123;
/// A place outside the map, section 7.
const NO_SUCH_ADDRESS: ExceptionCode = ExceptionCode::IllegalDataAddress;

/// What a client has read: for every station the revision of the block that it read last.
pub type Seen = Arc<[AtomicU64]>;

/// What the clients of one server get to see.
#[derive(Clone)]
pub struct Served {
    stations: Arc<[Arc<Registers>]>,
    /// Shows the only station, in place of its own map.
    in_sight: Option<Arc<InSight>>,
}

impl Served {
    /// Stations by the native map, the first of which is station 1.
    pub fn of_stations(stations: Vec<Arc<Registers>>) -> Self {
        Self { stations: stations.into(), in_sight: None }
    }

    /// One station as an In-Sight camera.
    pub fn as_in_sight(camera: InSight) -> Self {
        Self { stations: [Arc::clone(camera.registers())].into(), in_sight: Some(Arc::new(camera)) }
    }

    /// The stations.
    pub fn stations(&self) -> &[Arc<Registers>] {
        &self.stations
    }

    /// Whether the station is shown as an In-Sight camera.
    pub fn is_in_sight(&self) -> bool {
        self.in_sight.is_some()
    }
}

/// One client's requests.
pub struct Requests {
    served: Served,
    may: May,
    seen: Seen,
    /// The bytes of a request that is not whole: fewer than [`pdu::MAX_ADU_BYTES`].
    begun: Vec<u8>,
}

impl Requests {
    /// A client.
    pub fn new(served: Served, may: May) -> Self {
        let seen = served.stations.iter().map(|_| AtomicU64::new(0)).collect();
        Self { served, may, seen, begun: Vec::new() }
    }

    /// What it may do.
    pub fn may(&self) -> May {
        self.may
    }

    /// What it has read.
    pub fn seen(&self) -> Seen {
        Arc::clone(&self.seen)
    }

    /// Whether a request has begun that is not whole yet.
    pub fn is_begun(&self) -> bool {
        !self.begun.is_empty()
    }

    /// Takes what arrived, carries out each request that is whole with it, in order, and appends the answers.
    /// Returns how many requests that were.
    ///
    /// Errors: [`Contradiction`]; the requests before it were carried out, and the connection must be closed.
    pub fn take(&mut self, arrived: &[u8], answers: &mut Vec<u8>) -> Result<usize, Contradiction> {
        self.begun.extend_from_slice(arrived);
        let (mut at, mut count) = (0, 0);
        while let Some(adu) = pdu::adu(&self.begun[at..])? {
            let answer = pdu::request(adu.pdu)?.and_then(|request| self.answer(adu.unit, &request));
            pdu::answer(&adu, &answer, answers);
            at += adu.bytes();
            count += 1;
        }
        self.begun.drain(..at);
        Ok(count)
    }

    fn answer(&self, unit: u8, request: &Request<'_>) -> Result<Answer, ExceptionCode> {
        if self.may == May::Read && writes(request) {
            return Err(ExceptionCode::IllegalFunction); // before anything is looked at, let alone written
        }
        if let Some(camera) = &self.served.in_sight {
            return self.answer_in_sight(camera, request);
        }
        match request {
            Request::ReadCoils(address, count) => {
                let (_, station, range) = self.range(unit, *address, *count, MAX_READ_BITS)?;
                station.coils(range).map(Answer::Bits).ok_or(NO_SUCH_ADDRESS)
            }
            Request::ReadDiscreteInputs(address, count) => {
                let (n, station, range) = self.range(unit, *address, *count, MAX_READ_BITS)?;
                let verdict = range.contains(&discrete::REJECT) || range.contains(&discrete::PASS);
                self.read(n, station, verdict, |s| s.discrete_inputs_for(self.may, range)).map(Answer::Bits)
            }
            Request::ReadInputRegisters(address, count) => {
                let (n, station, range) = self.range(unit, *address, *count, MAX_READ_REGISTERS)?;
                let verdict = range.contains(&input::VERDICT);
                self.read(n, station, verdict, |s| s.input_registers_for(self.may, range)).map(Answer::Words)
            }
            Request::ReadHoldingRegisters(address, count) => self.read_holding(unit, *address, *count),
            Request::WriteSingleCoil(address, bit) => self.write_coils(unit, *address, &[*bit]),
            Request::WriteMultipleCoils(address, bits) => self.write_coils(unit, *address, bits),
            Request::WriteSingleRegister(address, value) => self.write(unit, *address, &[*value]),
            Request::WriteMultipleRegisters(address, values) => self.write(unit, *address, values),
            Request::MaskWriteRegister(address, and, or) => {
                let (_, station, at) = self.station(unit, *address)?;
                written(station.mask_register(at, *and, *or))
            }
            Request::ReadWriteMultipleRegisters(address, count, to, values) => {
                let (_, _, range) = self.range(unit, *address, *count, MAX_READ_REGISTERS)?;
                if !Registers::holds(&range) {
                    return Err(NO_SUCH_ADDRESS); // before anything is written
                }
                self.write(unit, *to, values)?; // written first, section 6.17
                self.read_holding(unit, *address, *count)
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    /// As [`Self::read`]: the revision is read no later than the answer is made.
    fn answer_in_sight(&self, camera: &InSight, request: &Request<'_>) -> Result<Answer, ExceptionCode> {
        let revision = camera.registers().revision();
        let (answer, saw_result) = camera.answer(request, self.may)?;
        if let (true, Some(seen)) = (saw_result, self.seen.first()) {
            seen.store(revision, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Reads what may hold the verdict, and remembers that this client read the block that stood there no
    /// later than the answer was made.
    fn read<T>(
        &self,
        n: usize,
        station: &Registers,
        verdict: bool,
        read: impl FnOnce(&Registers) -> Option<T>,
    ) -> Result<T, ExceptionCode> {
        let revision = station.revision();
        let answer = read(station).ok_or(NO_SUCH_ADDRESS)?;
        if let (true, Some(seen)) = (verdict, self.seen.get(n)) {
            seen.store(revision, Ordering::Relaxed);
        }
        Ok(answer)
    }

    fn read_holding(&self, unit: u8, address: u16, count: u16) -> Result<Answer, ExceptionCode> {
        let (n, station, range) = self.range(unit, address, count, MAX_READ_REGISTERS)?;
        let verdict = range.contains(&(MIRROR + input::VERDICT)) || range.contains(&MIRROR_DISCRETE);
        self.read(n, station, verdict, |s| s.holding_registers_for(self.may, range)).map(Answer::Words)
    }

    fn write(&self, unit: u8, address: u16, values: &[u16]) -> Result<Answer, ExceptionCode> {
        if values.is_empty() || values.len() > MAX_WRITE_REGISTERS {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let (_, station, at) = self.station(unit, address)?;
        written(station.write_registers(at, values))
    }

    fn write_coils(&self, unit: u8, address: u16, bits: &[bool]) -> Result<Answer, ExceptionCode> {
        let count = u16::try_from(bits.len()).map_err(|_| ExceptionCode::IllegalDataValue)?;
        count_within(count, MAX_WRITE_BITS)?;
        let (_, station, at) = self.station(unit, address)?;
        written(station.write_coils(at, bits))
    }

    /// The station and places that a read means; its count is checked first.
    fn range(
        &self,
        unit: u8,
        address: u16,
        count: u16,
        most: u16,
    ) -> Result<(usize, &Registers, Range<u16>), ExceptionCode> {
        count_within(count, most)?;
        let (n, station, at) = self.station(unit, address)?;
        let end = at.checked_add(count).ok_or(NO_SUCH_ADDRESS)?;
        Ok((n, station, at..end))
    }

    /// The station that a unit identifier and an address mean, and the address inside its map.
    fn station(&self, unit: u8, address: u16) -> Result<(usize, &Registers, u16), ExceptionCode> {
        let (n, address, absent) = match unit {
            0 | 1 | 255 => {
                let n = usize::from(address / STATION_STRIDE);
                (n, address % STATION_STRIDE, ExceptionCode::IllegalDataAddress)
            }
            unit => (usize::from(unit) - 1, address, ExceptionCode::GatewayTargetDevice),
        };
        self.served.stations.get(n).map(|station| (n, &**station, address)).ok_or(absent)
    }
}

fn writes(request: &Request<'_>) -> bool {
    use Request as R;
    matches!(
        request,
        R::WriteSingleCoil(..)
            | R::WriteMultipleCoils(..)
            | R::WriteSingleRegister(..)
            | R::WriteMultipleRegisters(..)
            | R::MaskWriteRegister(..)
            | R::ReadWriteMultipleRegisters(..)
    )
}

fn written(result: Result<(), Refused>) -> Result<Answer, ExceptionCode> {
    result.map(|()| Answer::Written).map_err(|Refused::Address| NO_SUCH_ADDRESS)
}

pub(super) fn count_within(count: u16, limit: u16) -> Result<(), ExceptionCode> {
    if (1..=limit).contains(&count) { Ok(()) } else { Err(ExceptionCode::IllegalDataValue) }
}
