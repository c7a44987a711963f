//! Modbus TCP as bytes: requests to their meaning, answers to bytes.
//!
//! Sources: Modbus Messaging on TCP/IP Implementation Guide V1.0b, section 3.1.3 (the header); Modbus
//! Application Protocol V1.1b3, section 6 (function codes, the places that are cited here).
//!
//! Why not tokio-modbus' own server, whose request type this is: version 0.17 panics at a write of coils with
//! fewer bytes than its count needs, waits for ever for the rest of a request, and ends all connections when
//! one cannot be accepted.
//!
//! Never here: registers, sockets, what a request does.

use tokio_modbus::{ExceptionCode, Request};

/// Bytes of the header, the unit identifier among them.
const HEADER_BYTES: usize = 7;
/// Most bytes of a PDU, section 4.1.
const MAX_PDU_BYTES: usize = 253;
/// What the header's length may say: unit identifier and PDU.
const LENGTHS: std::ops::RangeInclusive<usize> = 2..=1 + MAX_PDU_BYTES;
/// Most bytes of a request or an answer.
pub const MAX_ADU_BYTES: usize = HEADER_BYTES + MAX_PDU_BYTES;

/// Why nothing can be made of a client's bytes: its connection is closed, for where the next request begins is
/// not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Contradiction {
    /// It speaks something else.
    #[error("protocol identifier {0}, expected 0: this client does not speak Modbus TCP")]
    Protocol(u16),
    /// No request is so long.
    #[error("length {0} in the header, expected 2 to 254: this client does not keep to Modbus TCP")]
    Length(usize),
    /// The function code wants another length, or another count.
    #[error(
        "a request of {bytes} bytes with function code {function} contradicts itself: see to this client"
    )]
    Pdu {
        /// Its function code.
        function: u8,
        /// Its length, function code included.
        bytes: usize,
    },
}

/// One request with its header: the application data unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Adu<'a> {
    /// What the client numbers it by; echoed.
    pub transaction: [u8; 2],
    /// Unit identifier.
    pub unit: u8,
    /// Function code and data, 1 to 253 bytes.
    pub pdu: &'a [u8],
}

impl Adu<'_> {
    /// Bytes that it takes on the wire.
    pub fn bytes(&self) -> usize {
        HEADER_BYTES + self.pdu.len()
    }
}

/// The request that `bytes` begin with; `None` while some of it is still to come.
///
/// Errors: [`Contradiction::Protocol`], [`Contradiction::Length`].
pub fn adu(bytes: &[u8]) -> Result<Option<Adu<'_>>, Contradiction> {
    let Some((&[t0, t1, p0, p1, l0, l1, unit], rest)) = bytes.split_first_chunk() else { return Ok(None) };
    let (protocol, length) = (word(p0, p1), usize::from(word(l0, l1)));
    if protocol != 0 {
        return Err(Contradiction::Protocol(protocol));
    }
    if !LENGTHS.contains(&length) {
        return Err(Contradiction::Length(length));
    }
    Ok(rest.get(..length - 1).map(|pdu| Adu { transaction: [t0, t1], unit, pdu }))
}

/// What a PDU asks. The inner error is the exception that answers it.
///
/// Errors: [`Contradiction::Pdu`].
pub fn request(pdu: &[u8]) -> Result<Result<Request<'static>, ExceptionCode>, Contradiction> {
    let count = |high, low| usize::from(word(high, low));
    Ok(Ok(match *pdu {
        [1, a, b, c, d] => Request::ReadCoils(word(a, b), word(c, d)),
        [2, a, b, c, d] => Request::ReadDiscreteInputs(word(a, b), word(c, d)),
        [3, a, b, c, d] => Request::ReadHoldingRegisters(word(a, b), word(c, d)),
        [4, a, b, c, d] => Request::ReadInputRegisters(word(a, b), word(c, d)),
        [5, a, b, 0x00, 0x00] => Request::WriteSingleCoil(word(a, b), false),
        [5, a, b, 0xFF, 0x00] => Request::WriteSingleCoil(word(a, b), true),
        [5, _, _, _, _] => return Ok(Err(ExceptionCode::IllegalDataValue)), // section 6.5
        [6, a, b, c, d] => Request::WriteSingleRegister(word(a, b), word(c, d)),
        [15, a, b, c, d, n, ref rest @ ..]
            if usize::from(n) == rest.len() && rest.len() == count(c, d).div_ceil(8) =>
        {
            Request::WriteMultipleCoils(word(a, b), bits(rest, count(c, d)).into())
        }
        [16, a, b, c, d, n, ref rest @ ..]
            if usize::from(n) == rest.len() && rest.len() == 2 * count(c, d) =>
        {
            Request::WriteMultipleRegisters(word(a, b), words(rest).into())
        }
        [22, a, b, c, d, e, f] => Request::MaskWriteRegister(word(a, b), word(c, d), word(e, f)),
        [23, a, b, c, d, e, f, g, h, n, ref rest @ ..]
            if usize::from(n) == rest.len() && rest.len() == 2 * count(g, h) =>
        {
            Request::ReadWriteMultipleRegisters(word(a, b), word(c, d), word(e, f), words(rest).into())
        }
        [function @ (1..=6 | 15 | 16 | 22 | 23 | 0x80..), ..] => {
            return Err(Contradiction::Pdu { function, bytes: pdu.len() });
        }
        [_, ..] => return Ok(Err(ExceptionCode::IllegalFunction)),
        [] => return Err(Contradiction::Pdu { function: 0, bytes: 0 }),
    }))
}

/// What is said to a request that was carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Coils or discrete inputs, at most 2000.
    Bits(Vec<bool>),
    /// Registers, at most 125.
    Words(Vec<u16>),
    /// It was written: the request is echoed, as far as its values.
    Written,
}

/// Appends the answer to a request, with its header.
pub fn answer(adu: &Adu<'_>, answer: &Result<Answer, ExceptionCode>, out: &mut Vec<u8>) {
    let header_at = out.len();
    out.extend_from_slice(&[adu.transaction[0], adu.transaction[1], 0, 0, 0, 0, adu.unit]);
    let function = adu.pdu.first().copied().unwrap_or_default();
    match answer {
        Ok(Answer::Bits(bits)) => {
            out.extend_from_slice(&[function, bits.len().div_ceil(8) as u8]);
            let byte = |eight: &[bool]| eight.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit));
            out.extend(bits.chunks(8).map(byte));
        }
        Ok(Answer::Words(words)) => {
            out.extend_from_slice(&[function, 2 * words.len() as u8]);
            out.extend(words.iter().flat_map(|word| word.to_be_bytes()));
        }
        // Sections 6.11 and 6.12 echo address and count, the others the whole request.
        Ok(Answer::Written) if matches!(function, 15 | 16) => {
            out.extend(adu.pdu.iter().take(5));
        }
        Ok(Answer::Written) => out.extend_from_slice(adu.pdu),
        Err(exception) => out.extend_from_slice(&[function | 0x80, u8::from(*exception)]),
    }
    let length = (out.len() - header_at - HEADER_BYTES + 1) as u16; // at most 254: counts are checked before
    out[header_at + 4..header_at + 6].copy_from_slice(&length.to_be_bytes());
}

fn word(high: u8, low: u8) -> u16 {
    u16::from_be_bytes([high, low])
}

fn words(bytes: &[u8]) -> Vec<u16> {
    bytes.chunks_exact(2).map(|pair| word(pair[0], pair[1])).collect()
}

/// The first `count` bits, the lowest of the first byte first; fewer if there are fewer.
fn bits(bytes: &[u8], count: usize) -> Vec<bool> {
    bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte & (1 << bit) != 0)).take(count).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_there_with_its_last_byte_and_not_before() {
        let bytes = [0x12, 0x34, 0, 0, 0, 6, 9, 4, 0, 16, 0, 19, 0xEE];
        for end in 0..12 {
            assert_eq!(adu(&bytes[..end]), Ok(None), "{end} bytes");
        }
        let whole = Adu { transaction: [0x12, 0x34], unit: 9, pdu: &[4, 0, 16, 0, 19] };
        assert_eq!(adu(&bytes), Ok(Some(whole)));
        assert_eq!(whole.bytes(), 12);
        assert_eq!(adu(&[0, 0, 0, 1, 0, 6, 1]), Err(Contradiction::Protocol(1)));
        for length in [0, 1, 255, 65535_u16] {
            let [high, low] = length.to_be_bytes();
            let refused = Err(Contradiction::Length(length.into()));
            assert_eq!(adu(&[0, 0, 0, 0, high, low, 1]), refused);
        }
    }

    #[test]
    fn bits_and_words_are_as_the_specifications_examples() {
        // Section 6.11: coils 20 to 29 as CD 01.
        let coils = request(&[0x0F, 0, 0x13, 0, 0x0A, 2, 0xCD, 0x01]).unwrap().unwrap();
        let set = [true, false, true, true, false, false, true, true, true, false];
        assert_eq!(coils, Request::WriteMultipleCoils(0x13, set.to_vec().into()));
        // Section 6.1: the same ten bits as an answer.
        let mut out = vec![0xEE];
        let asked = Adu { transaction: [1, 2], unit: 3, pdu: &[1, 0, 0x13, 0, 0x0A] };
        answer(&asked, &Ok(Answer::Bits(set.to_vec())), &mut out);
        assert_eq!(out, [0xEE, 1, 2, 0, 0, 0, 5, 3, 1, 2, 0xCD, 0x01]);
        // Section 6.17.
        let asked = request(&[0x17, 0, 3, 0, 6, 0, 0x0E, 0, 1, 2, 0, 0xFF]).unwrap().unwrap();
        assert_eq!(asked, Request::ReadWriteMultipleRegisters(3, 6, 0x0E, vec![0xFF].into()));
    }

    #[test]
    fn what_contradicts_itself_is_told_from_what_is_not_served() {
        let contradict: [&[u8]; 9] = [
            &[],
            &[0x04, 0, 0, 0],                      // a byte is missing
            &[0x04, 0, 0, 0, 1, 0],                // a byte too many
            &[0x0F, 0, 0, 0x07, 0xD0, 1, 0xFF],    // 2000 coils in one byte
            &[0x10, 0, 0, 0x80, 0, 0],             // 32768 registers in none
            &[0x10, 0, 0, 0, 1, 4, 0, 5],          // byte count
            &[0x17, 0, 0, 0, 1, 0, 0, 0x80, 0, 0], // 32768 registers in none
            &[0x16, 0, 0, 0, 0, 0],                // a byte is missing
            &[0x84, 2],                            // an answer
        ];
        for pdu in contradict {
            assert!(request(pdu).is_err(), "{pdu:02X?}");
        }
        for pdu in [&[0x2B_u8][..], &[0x07], &[0x11, 1, 2, 3], &[0x7F; 253], &[0]] {
            assert_eq!(request(pdu), Ok(Err(ExceptionCode::IllegalFunction)), "{pdu:02X?}");
        }
        assert_eq!(request(&[5, 0, 0, 1, 0]), Ok(Err(ExceptionCode::IllegalDataValue)));
    }
}
