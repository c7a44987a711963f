//! Fuzzed requests: in process, where each is checked for all that it changed, and over the network beside a PLC.
//!
//! What must hold stands in `tests/fuzz/properties.rs`, which cargo-fuzz uses too.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::Instant;

use super::frames::Frames;
use super::line::{Line, answer, connect_from, reset};
use super::properties::{Begin, Client, HEADER_BYTES, begin, check_answer, is_consistent, writes};

/// Requests in process: ten million take a quarter of a minute.
const PDUS: u64 = 10_000_000;
/// Requests over the network where nothing else is asked for.
const NETWORK_PDUS: u64 = 200_000;
/// Most requests that are sent before their answers are read.
const CHUNK: usize = 32;
/// Threads that attack.
const ATTACKERS: u64 = 2;

#[test]
fn fuzzed_pdus_panic_nowhere_write_only_what_they_may_and_pass_no_part() {
    let start = Instant::now();
    let (mut frames, mut client, mut adu) = (Frames::new(1), Client::new(), Vec::new());
    let mut sent = 0;
    while sent < PDUS {
        frames.next(&mut adu);
        client.send(&adu);
        sent += 1;
    }
    let [good, exceptions, closed] = client.counts;
    println!(
        "fuzz in process: {sent} PDUs in {:.1} s: {good} answered, {exceptions} exceptions, {closed} closed; {} parts triggered, none passed",
        start.elapsed().as_secs_f64(),
        client.parts,
    );
    let least = sent / 20;
    assert!(good > least && exceptions > least && closed > least && client.parts > sent / 1000);
}

/// What became of a generated request.
#[derive(Default)]
struct Sent {
    answered: u64,
    exceptions: u64,
    closed: u64,
}

struct Attacker {
    address: SocketAddr,
    host: u8,
    stream: TcpStream,
    frames: Frames,
    sent: Sent,
}

impl Attacker {
    fn new(address: SocketAddr, n: u64) -> Self {
        let host = 2 + n as u8;
        let stream = connect_from(host, address).unwrap();
        Self { address, host, stream, frames: Frames::new(7 + n), sent: Sent::default() }
    }

    /// The next request that does not write at the PLC's own station, where it would rightly act.
    fn next(&mut self, adu: &mut Vec<u8>) {
        loop {
            self.frames.next(adu);
            let mut rest = &adu[..];
            let mut harmless = true;
            while let Begin::Whole(length) = begin(rest) {
                let at = writes(rest[6], &rest[HEADER_BYTES..length]);
                harmless &= at.is_none_or(|(station, _)| station != 0);
                rest = &rest[length..];
            }
            if harmless {
                return;
            }
        }
    }

    /// Sends up to [`CHUNK`] requests, checks the answers, and connects anew where that was the end. Returns
    /// how many were sent.
    fn chunk(&mut self) -> u64 {
        let (mut bytes, mut adu, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        let (mut count, mut end) = (0, None);
        while end.is_none() && count < CHUNK as u64 {
            self.next(&mut adu);
            count += 1;
            let from = bytes.len();
            bytes.extend_from_slice(&adu);
            let mut at = from;
            end = loop {
                match begin(&bytes[at..]) {
                    Begin::Whole(length) if is_consistent(&bytes[at + HEADER_BYTES..at + length]) => {
                        expected.push(at..at + length);
                        at += length;
                    }
                    Begin::Part if at == bytes.len() => break None,
                    end => break Some(end),
                }
            };
        }
        self.stream.write_all(&bytes).unwrap();
        for request in expected {
            let answer = answer(&mut self.stream).expect("each whole request is answered");
            if check_answer(&bytes[request], &answer) {
                self.sent.answered += 1;
            } else {
                self.sent.exceptions += 1;
            }
        }
        if let Some(end) = end {
            self.sent.closed += 1;
            if end != Begin::Part {
                assert!(answer(&mut self.stream).is_err(), "answered what closes the connection");
            }
            let new = connect_from(self.host, self.address).unwrap();
            reset(std::mem::replace(&mut self.stream, new));
        }
        count
    }
}

#[test]
fn fuzzed_pdus_over_the_network_do_not_touch_the_plcs_parts() {
    let (line, mut plc) = Line::start();
    let pdus = std::env::var("FUZZ_PDUS").map_or(NETWORK_PDUS, |n| n.parse().unwrap());
    let name = "fuzzed PDUs over the network";
    let attackers = plc.under(name, || {
        let (address, start) = (line.address(), Instant::now());
        let attack = move |n| {
            let (mut attacker, mut sent) = (Attacker::new(address, n), 0);
            while sent < pdus / ATTACKERS {
                sent += attacker.chunk();
            }
            (sent, attacker.sent, start.elapsed())
        };
        std::thread::scope(|scope| {
            let all: Vec<_> = (0..ATTACKERS).map(|n| scope.spawn(move || attack(n))).collect();
            all.into_iter().map(|a| a.join().unwrap()).collect::<Vec<_>>()
        })
    });
    let sum = |of: fn(&Sent) -> u64| attackers.iter().map(|(_, sent, _)| of(sent)).sum::<u64>();
    println!(
        "{name}: {} PDUs in {:.1} s: {} answered, {} exceptions, {} closed",
        attackers.iter().map(|(count, ..)| count).sum::<u64>(),
        attackers.iter().map(|(.., took)| took.as_secs_f64()).fold(0.0, f64::max),
        sum(|s| s.answered),
        sum(|s| s.exceptions),
        sum(|s| s.closed),
    );
    assert_eq!(plc.lost, [0, 0]);
    line.stop(&plc);
}
