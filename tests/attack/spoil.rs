//! Good files, spoilt. A seed gives the same ones for ever.

/// What parsers have stumbled over.
const TOKENS: [&str; 22] = [
    "-1",
    "0",
    "1e999",
    "nan",
    "-inf",
    "18446744073709551616",
    "4294967295",
    "\"",
    "'''",
    "[",
    "]]",
    "{",
    "}",
    "=",
    ".",
    "\n",
    "\\u0000",
    "\u{FEFF}",
    "null",
    "[[station]]\n",
    "#",
    "\u{1F980}",
];
/// Changes of one file.
const MOST_CHANGES: u64 = 6;
/// Longest piece that is taken out, doubled or taken over.
const PIECE_BYTES: u64 = 64;

pub struct Spoil(u64);

impl Spoil {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    fn below(&mut self, limit: u64) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        ((self.0 >> 16) % limit.max(1)) as usize
    }

    fn piece(&mut self, bytes: &[u8]) -> std::ops::Range<usize> {
        let from = self.below(bytes.len() as u64);
        from..(from + self.below(PIECE_BYTES)).min(bytes.len())
    }

    /// The next one, made of one of these.
    pub fn one_of(&mut self, good: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = good[self.below(good.len() as u64)].clone();
        for _ in 0..=self.below(MOST_CHANGES) {
            let piece = self.piece(&bytes);
            match self.below(8) {
                0 if !bytes.is_empty() => {
                    let at = self.below(bytes.len() as u64);
                    bytes[at] ^= 1 << self.below(8);
                }
                1 => drop(bytes.drain(piece)),
                2 => {
                    let again = bytes[piece.clone()].to_vec();
                    bytes.splice(piece.start..piece.start, again);
                }
                3 => {
                    let other = &good[self.below(good.len() as u64)];
                    let taken = other[self.piece(other)].to_vec();
                    bytes.splice(piece, taken);
                }
                4 => self.number(&mut bytes),
                5 => bytes.truncate(piece.end),
                _ => {
                    let token = TOKENS[self.below(TOKENS.len() as u64)];
                    bytes.splice(piece.start..piece.start, token.bytes());
                }
            }
        }
        bytes
    }

    /// Puts another number in a number's place.
    fn number(&mut self, bytes: &mut Vec<u8>) {
        let from = self.below(bytes.len() as u64);
        let digit = |at: &usize| bytes[*at].is_ascii_digit();
        let Some(start) = (from..bytes.len()).find(digit) else { return };
        let end = (start..bytes.len()).find(|at| !digit(at)).unwrap_or(bytes.len());
        let number = TOKENS[self.below(7)];
        bytes.splice(start..end, number.bytes());
    }
}
