//! Requests of a Modbus client on In-Sight's tables.
//!
//! The unit identifier is not looked at: one listener is one camera. Exceptions: 1 for a function code that is not
//! served, 2 for an address outside the blocks, a range that leaves its block or a write to what can only be
//! read, 3 for a count outside the limits of Modbus Application Protocol V1.1b3, section 6.
//!
//! Never here: what a bit means.

use std::ops::Range;

use tokio_modbus::{ExceptionCode, Request};

use super::InSight;
use super::table::{AREAS, Area, BAD_COMMAND, Block, SHOWN, control, output, status};
use crate::plc::access::May;
use crate::plc::map::Table;
use crate::plc::pdu::Answer;
use crate::plc::requests::{
    MAX_READ_BITS, MAX_READ_REGISTERS, MAX_WRITE_BITS, MAX_WRITE_REGISTERS, count_within,
};

/// A place outside the blocks, or one that cannot be written.
const NO_SUCH_ADDRESS: ExceptionCode = ExceptionCode::IllegalDataAddress;

/// The block that holds the whole of a range of a table, and the range inside it.
fn area(
    table: Table,
    address: u16,
    count: u16,
    most: u16,
) -> Result<(&'static Area, Range<u16>), ExceptionCode> {
    count_within(count, most)?;
    let places = |area: &Area| match table {
        Table::HoldingRegister => Some((area.holding, area.words)),
        _ => (area.table == table).then_some((area.address, area.size)),
    };
    AREAS
        .iter()
        .find_map(|area| {
            let (first, size) = places(area)?;
            let from = address.checked_sub(first)?;
            let to = from.checked_add(count).filter(|to| *to <= size)?;
            Some((area, from..to))
        })
        .ok_or(NO_SUCH_ADDRESS)
}

fn writable(address: u16, count: u16) -> Result<(Block, Range<u16>), ExceptionCode> {
    let (area, range) = area(Table::HoldingRegister, address, count, MAX_WRITE_REGISTERS as u16)?;
    if area.writable { Ok((area.block, range)) } else { Err(NO_SUCH_ADDRESS) }
}

/// Sets bits of a block from bit `at` on.
fn with_bits(block: u32, at: u16, bits: &[bool]) -> u32 {
    (at..).zip(bits).fold(block, |block, (bit, set)| block & !(1 << bit) | u32::from(*set) << bit)
}

fn with_words(block: u32, at: u16, words: &[u16]) -> u32 {
    (at..).zip(words).fold(block, |block, (word, value)| {
        block & !(0xFFFF << (16 * word)) | u32::from(*value) << (16 * word)
    })
}

impl InSight {
    /// The answer to a client that may do so much, and whether it let the client see the result that stands.
    /// What one sees that may only read, the PLC has not read. Its writes are refused before ([`Requests`]).
    ///
    /// [`Requests`]: crate::plc::requests::Requests
    ///
    /// Errors: the Modbus exception; then nothing is changed.
    pub(in crate::plc) fn answer(
        &self,
        request: &Request<'_>,
        may: May,
    ) -> Result<(Answer, bool), ExceptionCode> {
        match request {
            Request::ReadCoils(address, count) => {
                let (_, range) = area(Table::Coil, *address, *count, MAX_READ_BITS)?;
                let control = self.control();
                Ok((Answer::Bits(range.map(|bit| control & (1 << bit) != 0).collect()), false))
            }
            Request::ReadDiscreteInputs(address, count) => {
                let (_, range) = area(Table::DiscreteInput, *address, *count, MAX_READ_BITS)?;
                let reads = [status::RESULTS_VALID, status::JOB_PASS].iter().any(|bit| range.contains(bit));
                let status = self.status(reads && may == May::Write);
                let bits = range.map(|bit| status & (1 << bit) != 0).collect();
                Ok((Answer::Bits(bits), reads))
            }
            Request::ReadInputRegisters(address, count) => {
                self.read(Table::InputRegister, *address, *count, may)
            }
            Request::ReadHoldingRegisters(address, count) => {
                self.read(Table::HoldingRegister, *address, *count, may)
            }
            Request::WriteSingleCoil(address, bit) => self.write_coils(*address, &[*bit]),
            Request::WriteMultipleCoils(address, bits) => self.write_coils(*address, bits),
            Request::WriteSingleRegister(address, value) => self.write(*address, &[*value]),
            Request::WriteMultipleRegisters(address, values) => self.write(*address, values),
            Request::MaskWriteRegister(address, and, or) => self.mask(*address, *and, *or),
            Request::ReadWriteMultipleRegisters(address, count, to, values) => {
                area(Table::HoldingRegister, *address, *count, MAX_READ_REGISTERS)?; // before anything is written
                self.write(*to, values)?; // written first, section 6.17
                self.read(Table::HoldingRegister, *address, *count, may)
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    /// Words, and whether they tell of the result that stands.
    fn read(
        &self,
        table: Table,
        address: u16,
        count: u16,
        may: May,
    ) -> Result<(Answer, bool), ExceptionCode> {
        let takes = may == May::Write;
        let (area, range) = area(table, address, count, MAX_READ_REGISTERS)?;
        let pick = |words: &[u16]| -> Vec<u16> {
            range.clone().map(|at| words.get(usize::from(at)).copied().unwrap_or(0)).collect()
        };
        let halves = |block: u32| pick(&[block as u16, (block >> 16) as u16]);
        let (words, reads) = match area.block {
            Block::Control => (halves(self.control()), false),
            Block::Status => (halves(self.status(takes)), true), // ResultsValid in one half, JobPass in the other
            Block::Input => (pick(&[self.command()]), false),
            Block::Output => {
                let reads = range.end > output::INSPECTION_ID && usize::from(range.start) < SHOWN;
                (pick(&self.output(reads && takes)), reads)
            }
            Block::StringCommand => (pick(&[]), false),
            Block::StringResult => {
                let stands = self.control() & (1 << control::INITIATE_STRING_CMD) != 0;
                (pick(&[if stands { BAD_COMMAND } else { 0 }]), false)
            }
        };
        Ok((Answer::Words(words), reads))
    }

    fn write_coils(&self, address: u16, bits: &[bool]) -> Result<(Answer, bool), ExceptionCode> {
        let count = u16::try_from(bits.len()).map_err(|_| ExceptionCode::IllegalDataValue)?;
        let (_, range) = area(Table::Coil, address, count, MAX_WRITE_BITS)?;
        self.write_control(|block| with_bits(block, range.start, bits));
        Ok((Answer::Written, false))
    }

    fn write(&self, address: u16, values: &[u16]) -> Result<(Answer, bool), ExceptionCode> {
        let count = u16::try_from(values.len()).map_err(|_| ExceptionCode::IllegalDataValue)?;
        let (block, range) = writable(address, count)?;
        match (block, values) {
            (Block::Control, _) => self.write_control(|block| with_words(block, range.start, values)),
            (Block::Input, [number, ..]) if range.start == 0 => self.write_command(*number),
            _ => {} // absent: taken and forgotten
        }
        Ok((Answer::Written, false))
    }

    fn mask(&self, address: u16, and: u16, or: u16) -> Result<(Answer, bool), ExceptionCode> {
        let masked = |old: u16| (old & and) | (or & !and); // section 6.16
        let (block, range) = writable(address, 1)?;
        match block {
            Block::Control => self.write_control(|block| {
                let old = (block >> (16 * range.start)) as u16;
                with_words(block, range.start, &[masked(old)])
            }),
            Block::Input if range.start == 0 => self.write_command(masked(self.command())),
            _ => {} // absent: taken and forgotten
        }
        Ok((Answer::Written, false))
    }
}
