//! Any bytes that a client may send, see `../properties.rs`.
//!
//! The first byte says how the rest is meant: even, as a client's bytes; odd, as PDUs, each led by its length
//! and unit identifier, so that the header does not stand in the fuzzer's way.

#![no_main]

#[path = "../properties.rs"]
mod properties;

use libfuzzer_sys::fuzz_target;
use properties::{Client, MAX_PDU_BYTES};

fuzz_target!(|data: &[u8]| {
    let Some((how, mut rest)) = data.split_first() else { return };
    let mut client = Client::new();
    if how % 2 == 0 {
        client.send(rest);
        return;
    }
    while let [length, unit, after @ ..] = rest {
        let pdu;
        (pdu, rest) = after.split_at(after.len().min(usize::from(*length) % (MAX_PDU_BYTES + 1)));
        let header = [0xAB, 0xCD, 0, 0, 0, pdu.len() as u8 + 1, *unit];
        client.send(&[&header, pdu].concat());
    }
});
