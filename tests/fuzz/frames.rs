//! Requests for the tests under attack: good ones, and good ones spoilt. A seed gives the same ones for ever.

use std::ops::Range;

/// Function codes that are served.
const SERVED: [u8; 10] = [1, 2, 3, 4, 5, 6, 15, 16, 22, 23];

pub struct Frames(u64);

impl Frames {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % limit
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    fn word_in(&mut self, range: Range<u16>) -> [u8; 2] {
        let word = range.start + self.below(u64::from(range.end - range.start)) as u16;
        word.to_be_bytes()
    }

    /// An address, mostly where something is.
    fn address(&mut self) -> [u8; 2] {
        match self.below(16) {
            0 => [self.byte(), self.byte()],
            1 => self.word_in(95..120),
            2 => self.word_in(998..1026),
            3..6 => [0, 0],
            _ => self.word_in(0..26),
        }
    }

    fn bytes(&mut self, count: usize, pdu: &mut Vec<u8>) {
        for _ in 0..count {
            // Small values, and 0 most of all, are those that mean something.
            let byte = if self.below(3) > 0 { self.below(4) as u8 } else { self.byte() };
            pdu.push(byte);
        }
    }

    fn good_pdu(&mut self, pdu: &mut Vec<u8>) {
        let function = SERVED[self.below(SERVED.len() as u64) as usize];
        pdu.push(function);
        pdu.extend(self.address());
        let few = self.word_in(1..20);
        match function {
            1..=4 => pdu.extend(few),
            5 => pdu.extend([if self.below(2) == 0 { 0xFF } else { 0 }, 0]),
            6 => self.bytes(2, pdu),
            22 => self.bytes(4, pdu),
            _ => {
                if function == 23 {
                    pdu.extend(few);
                    pdu.extend(self.address());
                }
                let count = self.word_in(1..20);
                let values = usize::from(count[1]);
                let bytes = if function == 15 { values.div_ceil(8) } else { 2 * values };
                pdu.extend(count);
                pdu.push(bytes as u8);
                self.bytes(bytes, pdu);
            }
        }
    }

    /// Puts the next one in the place of what stood in `adu`. It need not be a whole request, nor one alone.
    pub fn next(&mut self, adu: &mut Vec<u8>) {
        let unit = match self.below(16) {
            0 => self.byte(),
            1..4 => 0,
            4..6 => 255,
            6..10 => 1,
            _ => 2,
        };
        adu.clear();
        adu.extend([self.byte(), self.byte(), 0, 0, 0, 0, unit]);
        let how = self.below(32);
        if how == 0 {
            let length = 1 + self.below(253) as usize;
            self.bytes(length, adu);
        } else {
            self.good_pdu(adu);
        }
        let body = adu.len() - 7;
        match how {
            1..10 => {
                for _ in 0..=self.below(3) {
                    let at = 7 + self.below(body as u64) as usize;
                    adu[at] ^= 1 << self.below(8);
                }
            }
            10..12 => adu[7] = self.byte(),
            12..14 => adu.truncate(8 + self.below(body as u64) as usize),
            14 => self.bytes(3, adu),
            _ => {}
        }
        let length = (adu.len() - 6) as u16;
        adu[4..6].copy_from_slice(&length.to_be_bytes());
        match how {
            15 => adu.truncate(1 + self.below(adu.len() as u64 - 1) as usize), // cut
            16 => adu[5] = self.byte(),
            17 => adu[4 + self.below(2) as usize] ^= 1 << self.below(8),
            18 => adu[2 + self.below(2) as usize] = self.byte(),
            _ => {}
        }
    }
}
