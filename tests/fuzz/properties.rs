//! What must hold whatever bytes a Modbus client sends, checked against the code that serves a connection.
//!
//! - Nothing panics.
//! - Each whole request gets one answer of the right shape, or an exception; what is none closes the connection.
//! - Places that a function may not write do not change; an exception, a request that is cut short, and one
//!   that closes the connection change nothing.
//! - A client that may only read changes nothing, whatever it sends.
//! - A trigger is accepted only by a write of `trigger_id`, and nothing that clients send lets a part pass.
//!
//! The rules of length stand here a second time on purpose: the specification's, not the code's.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};
use inspectd::plc::access::May;
use inspectd::plc::handshake::Marks;
use inspectd::plc::map::{STATION_STRIDE, discrete, holding, input};
use inspectd::plc::registers::{Asks, Registers};
use inspectd::plc::requests::{Requests, Served};
use inspectd::plc::result::ResultBlock;
use inspectd::plc::settings::{Results, Settings};
use inspectd::plc::word_order::WordOrder;
use inspectd::record::Gate;

pub const HEADER_BYTES: usize = 7;
pub const MAX_PDU_BYTES: usize = 253;
const STATIONS: usize = 2;
/// A deadline that is not reached.
const FAR: Duration = Duration::from_secs(3600);

/// What a client's bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// A request of so many bytes.
    Whole(usize),
    /// A request whose rest is still to come, or nothing.
    Part,
    /// No Modbus.
    Wrong,
}

pub fn begin(bytes: &[u8]) -> Begin {
    let Some(header) = bytes.get(..HEADER_BYTES) else { return Begin::Part };
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    match 6 + length {
        _ if header[2..4] != [0, 0] || !(2..=1 + MAX_PDU_BYTES).contains(&length) => Begin::Wrong,
        whole if whole <= bytes.len() => Begin::Whole(whole),
        _ => Begin::Part,
    }
}

/// Whether a PDU has the length that its function code and its counts want.
pub fn is_consistent(pdu: &[u8]) -> bool {
    let at = |n: usize| usize::from(pdu.get(n).copied().unwrap_or(0));
    let word = |n: usize| at(n) << 8 | at(n + 1);
    match pdu[0] {
        1..=6 => pdu.len() == 5,
        22 => pdu.len() == 7,
        15 => pdu.len() == 6 + at(5) && at(5) == word(3).div_ceil(8) && pdu.len() >= 6,
        16 => pdu.len() == 6 + at(5) && at(5) == 2 * word(3) && pdu.len() >= 6,
        23 => pdu.len() == 10 + at(9) && at(9) == 2 * word(7) && pdu.len() >= 10,
        function => function < 0x80,
    }
}

/// The station, from 0, and the holding registers that a PDU may write.
pub fn writes(unit: u8, pdu: &[u8]) -> Option<(usize, Range<usize>)> {
    let word = |n: usize| Some(u16::from_be_bytes([*pdu.get(n)?, *pdu.get(n + 1)?]));
    let (address, count) = match pdu.first()? {
        5 | 15 => (word(1)?, 0),
        6 | 22 => (word(1)?, 1),
        16 => (word(1)?, word(3)?),
        23 => (word(5)?, word(7)?),
        _ => return None,
    };
    let (station, at) = match unit {
        0 | 1 | 255 => (address / STATION_STRIDE, address % STATION_STRIDE),
        unit => (u16::from(unit) - 1, address),
    };
    let at = usize::from(at);
    let control = usize::from(holding::CONTROL);
    let places = if count == 0 { control..control + 1 } else { at..at + usize::from(count) };
    Some((usize::from(station), places))
}

/// Checks the shape of an answer, header included. Whether it is no exception.
pub fn check_answer(request: &[u8], answer: &[u8]) -> bool {
    let (asked, pdu) = (&request[HEADER_BYTES..], &answer[HEADER_BYTES..]);
    assert_eq!(answer[..4], [request[0], request[1], 0, 0], "transaction and protocol are echoed");
    assert_eq!(usize::from(u16::from_be_bytes([answer[4], answer[5]])), pdu.len() + 1);
    assert_eq!(answer[6], request[6], "the unit is echoed");
    let served = matches!(asked[0], 1..=6 | 15 | 16 | 22 | 23);
    if pdu[0] == asked[0] | 0x80 {
        assert!(pdu.len() == 2 && matches!(pdu[1], 1 | 2 | 3 | 11), "{asked:02X?}: {pdu:02X?}");
        assert_eq!(pdu[1] == 1, !served, "exception 1 means not served: {asked:02X?}");
        return false;
    }
    assert!(served && pdu[0] == asked[0], "{asked:02X?}: {pdu:02X?}");
    let count = usize::from(u16::from_be_bytes([asked[3], asked[4]]));
    match asked[0] {
        1 | 2 => assert_eq!((pdu.len(), usize::from(pdu[1])), (2 + count.div_ceil(8), count.div_ceil(8))),
        3 | 4 | 23 => assert_eq!((pdu.len(), usize::from(pdu[1])), (2 + 2 * count, 2 * count)),
        15 | 16 => assert_eq!(pdu, &asked[..5]),
        _ => assert_eq!(pdu, asked),
    }
    true
}

type Written = [Vec<u16>; STATIONS];

/// A client of two stations, which reject each part. When its connection is closed it connects anew.
pub struct Client {
    served: Served,
    asks: Vec<Asks>,
    requests: Requests,
    answers: Vec<u8>,
    written: Written,
    /// Requests that were answered as asked, with an exception, and not.
    pub counts: [u64; 3],
    /// Parts that were triggered.
    pub parts: u64,
}

impl Client {
    pub fn new() -> Self {
        let settings = |results| Settings {
            by_plc: true,
            simulated: false,
            review_at_gate: Gate::Reject,
            results,
            order: WordOrder::HighFirst,
        };
        let all = [Results::Latest, Results::Acknowledged { depth: 1 }].map(settings).map(Registers::new);
        let (stations, asks): (Vec<_>, Vec<_>) = all.into_iter().map(|(r, a)| (Arc::new(r), a)).unzip();
        stations.iter().for_each(|s| s.mark(Marks::default()));
        let served = Served::of_stations(stations);
        let (requests, written) = (Requests::new(served.clone(), May::Write), written(served.stations()));
        Self { served, asks, requests, answers: Vec::new(), written, counts: [0; 3], parts: 0 }
    }

    /// Sends bytes, and closes the connection if they do not end with a request.
    pub fn send(&mut self, mut bytes: &[u8]) {
        loop {
            match begin(bytes) {
                Begin::Whole(length) if is_consistent(&bytes[HEADER_BYTES..length]) => {
                    self.whole(&bytes[..length]);
                    bytes = &bytes[length..];
                }
                Begin::Part => {
                    self.answers.clear();
                    assert_eq!(self.requests.take(bytes, &mut self.answers), Ok(0));
                    assert_eq!(self.requests.is_begun(), !bytes.is_empty());
                    return self.closed(bytes);
                }
                Begin::Whole(_) | Begin::Wrong => {
                    self.answers.clear();
                    let taken = self.requests.take(bytes, &mut self.answers);
                    assert!(taken.is_err(), "{bytes:02X?} must close the connection: {taken:?}");
                    return self.closed(bytes);
                }
            }
        }
    }

    /// Bytes that ended the connection: nothing came of them.
    fn closed(&mut self, bytes: &[u8]) {
        assert!(self.answers.is_empty(), "{bytes:02X?} was answered: {:02X?}", self.answers);
        if !bytes.is_empty() {
            assert_eq!(written(self.served.stations()), self.written, "{bytes:02X?} wrote");
            self.counts[2] += 1;
            self.requests = Requests::new(self.served.clone(), May::Write);
        }
        assert_eq!(self.play_stations(), [false; STATIONS], "{bytes:02X?} triggered");
    }

    /// One whole request, in two pieces.
    fn whole(&mut self, request: &[u8]) {
        if request[0].is_multiple_of(8) {
            self.check_onlooker(request);
        }
        self.answers.clear();
        let cut = usize::from(request[1]) % request.len();
        assert_eq!(self.requests.take(&request[..cut], &mut self.answers), Ok(0));
        assert_eq!(self.requests.take(&request[cut..], &mut self.answers), Ok(1));
        assert!(!self.requests.is_begun());
        let good = check_answer(request, &self.answers);
        self.counts[usize::from(!good)] += 1;
        let may = writes(request[6], &request[HEADER_BYTES..]).filter(|_| good);
        let triggered = self.play_stations();
        for (n, triggered) in triggered.into_iter().enumerate() {
            let places =
                may.iter().find(|(station, _)| *station == n).map_or(0..0, |(_, places)| places.clone());
            assert!(!triggered || places.contains(&usize::from(holding::TRIGGER_ID)), "{request:02X?}");
            self.check_written(n, places, triggered, request);
        }
    }

    /// The same request from a client that may only read.
    fn check_onlooker(&mut self, request: &[u8]) {
        self.answers.clear();
        let mut onlooker = Requests::new(self.served.clone(), May::Read);
        assert_eq!(onlooker.take(request, &mut self.answers), Ok(1));
        let (function, answer) = (request[HEADER_BYTES], &self.answers[HEADER_BYTES..]);
        if matches!(function, 5 | 6 | 15 | 16 | 22 | 23) {
            // 3: a coil is written as neither on nor off, which no client may.
            assert!(answer == [function | 0x80, 1] || answer == [0x85, 3], "{request:02X?}: {answer:02X?}");
        }
        assert_eq!(written(self.served.stations()), self.written, "{request:02X?} of an onlooker wrote");
        assert_eq!(self.play_stations(), [false; STATIONS], "{request:02X?} of an onlooker triggered");
    }

    fn check_written(&mut self, n: usize, places: Range<usize>, triggered: bool, request: &[u8]) {
        let now = self.served.stations()[n].holding_registers(0..holding::SIZE).unwrap();
        let taken = usize::from(holding::ENCODER)..usize::from(holding::SIZE); // with its trigger
        for (at, (now, before)) in now.iter().zip(&self.written[n]).enumerate() {
            let may = places.contains(&at) || triggered && taken.contains(&at) && *now == 0;
            assert!(now == before || may, "{request:02X?} changed {at} of station {n}: {before} to {now}");
        }
        let single = &request[HEADER_BYTES..];
        if let (6, Some(place)) = (single[0], places.clone().next()) {
            assert_eq!(
                now[place].to_be_bytes(),
                single[3..5],
                "{request:02X?} is written, or taken with a trigger"
            );
        }
        self.written[n] = now;
    }

    /// Rejects the parts that were triggered, refuses the commands, and checks that nothing passes. Tells
    /// which station was triggered.
    fn play_stations(&mut self) -> [bool; STATIONS] {
        let mut triggered = [false; STATIONS];
        for (n, (station, asks)) in self.served.stations().iter().zip(&mut self.asks).enumerate() {
            while let Ok(part) = asks.accepted.try_recv() {
                triggered[n] = true;
                self.parts += 1;
                let reject = ResultBlock {
                    trigger_id: part.accepted.trigger_id,
                    verdict: Verdict::Reject,
                    part: self.parts as u32,
                    kind: part.accepted.kind,
                    identity: part.accepted.identity,
                    ..ResultBlock::reject(FaultCode::Internal)
                };
                station.publish(reject, Instant::now() + FAR, true);
            }
            while asks.commands.try_recv().is_ok() {
                station.end_command(Err(FaultCode::Internal));
            }
            let block = station.input_registers(input::VERDICT..input::GATE + 1).unwrap();
            assert!(block[0] != 1 && block[1] == 2, "a part passes: {block:?}");
            let bits = station.discrete_inputs(discrete::REJECT..discrete::PASS + 1).unwrap();
            assert_eq!(bits, [true, false], "reject stands, pass does not");
        }
        triggered
    }
}

fn written(stations: &[Arc<Registers>]) -> Written {
    [0, 1].map(|n: usize| stations[n].holding_registers(0..holding::SIZE).unwrap())
}
