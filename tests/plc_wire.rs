//! The bytes of register map version 2, frozen: PLC programs hold them.
//!
//! If a test in this file fails, do not change the test. Make a new version of the map.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::{FaultCode, Verdict};
use inspectd::plc::access::AllowList;
use inspectd::plc::handshake::Marks;
use inspectd::plc::registers::{Asks, Registers};
use inspectd::plc::result::{Identity, PartKind, ResultBlock};
use inspectd::plc::server::{MAX_CLIENTS, ModbusServer};
use inspectd::plc::settings::{Results, Settings};
use inspectd::plc::word_order::WordOrder;
use inspectd::record::Gate;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

struct Line {
    server: ModbusServer,
    stations: Vec<Arc<Registers>>,
    asks: Vec<Asks>,
}

async fn line(order: WordOrder) -> Line {
    let results = Results::Latest;
    let settings = Settings { by_plc: true, simulated: false, review_at_gate: Gate::Reject, results, order };
    let (stations, asks): (Vec<_>, Vec<_>) =
        (0..2).map(|_| Registers::new(settings)).map(|(registers, asks)| (Arc::new(registers), asks)).unzip();
    let server = ModbusServer::start(([127, 0, 0, 1], 0).into(), AllowList::default(), stations.clone())
        .await
        .unwrap();
    Line { server, stations, asks }
}

impl Line {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.server.address()).await.unwrap()
    }
}

/// Sends one PDU to `unit` and gives the PDU that came back.
async fn ask(stream: &mut TcpStream, unit: u8, pdu: &[u8]) -> Vec<u8> {
    // MBAP header: transaction 0x0102, protocol 0, length, unit.
    let mut adu = vec![0x01, 0x02, 0, 0, 0, pdu.len() as u8 + 1, unit];
    adu.extend_from_slice(pdu);
    stream.write_all(&adu).await.unwrap();
    let mut header = [0; 7];
    stream.read_exact(&mut header).await.unwrap();
    assert_eq!(header[..4], [0x01, 0x02, 0, 0], "transaction and protocol are echoed");
    assert_eq!(header[6], unit);
    let mut answer = vec![0; usize::from(u16::from_be_bytes([header[4], header[5]])) - 1];
    stream.read_exact(&mut answer).await.unwrap();
    answer
}

fn pass(trigger_id: u16) -> ResultBlock {
    ResultBlock {
        trigger_id,
        verdict: Verdict::Pass,
        gate: Gate::Pass,
        part: 0x0001_0002,
        score: 0.5,
        review_limit: 1.0,
        total_us: 0x0003_0004,
        model: 0xDEAD_BEEF,
        recipe: 7,
        views: 1,
        state: 0,
        kind: PartKind::Part,
        identity: Identity { encoder: Some(0x0005_0006), product: 0x0708, ..Identity::default() },
    }
}

#[tokio::test]
async fn after_start_the_block_says_fault_starting_and_reject() {
    let line = line(WordOrder::HighFirst).await;
    let answer = ask(&mut line.connect().await, 1, &[0x04, 0, 16, 0, 19]).await;
    let expected = [
        0x04, 38, // function, bytes
        0x00, 0x01, // 16 result_sequence
        0x00, 0x00, // 17 result_trigger_id: no part's
        0x00, 0x04, // 18 verdict: fault
        0x00, 0x02, // 19 gate: push out
        0x00, 0x01, // 20 result_fault_code: starting
        0x00, 0x04, // 21 result_state: fault
        0, 0, 0, 0, // 22 part
        0x7F, 0xC0, 0, 0, // 24 score: NaN
        0x7F, 0xC0, 0, 0, // 26 review_limit: NaN
        0, 0, 0, 0, // 28 total_us
        0, 0, 0, 0, // 30 model
        0, 0, // 32 recipe
        0, 0, // 33 views
        0x00, 0x01, // 34 result_sequence_end
    ];
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn a_pass_in_both_word_orders() {
    for (order, score, part) in [
        (WordOrder::HighFirst, [0x3F, 0x00, 0, 0], [0x00, 0x01, 0x00, 0x02]),
        (WordOrder::LowFirst, [0, 0, 0x3F, 0x00], [0x00, 0x02, 0x00, 0x01]),
    ] {
        let mut line = line(order).await;
        let mut plc = line.connect().await;
        line.stations[0].mark(Marks::default());
        // trigger_id 0, then 0x1234, each echoed.
        assert_eq!(ask(&mut plc, 1, &[0x06, 0, 0, 0, 0]).await, [0x06, 0, 0, 0, 0]);
        assert_eq!(ask(&mut plc, 1, &[0x06, 0, 0, 0x12, 0x34]).await, [0x06, 0, 0, 0x12, 0x34]);
        line.stations[0].publish(pass(0x1234), Instant::now() + Duration::from_secs(60), true);
        let words = ask(&mut plc, 1, &[0x04, 0, 16, 0, 19]).await;
        assert_eq!(words[4..6], [0x12, 0x34], "result_trigger_id");
        assert_eq!(words[6..12], [0, 1, 0, 1, 0, 0], "verdict pass, gate pass, no fault");
        assert_eq!(words[12..14], [0x00, 0x09], "state: ready, armed");
        assert_eq!(words[14..18], part);
        assert_eq!(words[18..22], score);
        assert_eq!(words[34..36], [0, 7], "recipe");
        let identity = ask(&mut plc, 1, &[0x04, 0, 36, 0, 4]).await;
        let encoder = if order == WordOrder::HighFirst { [0, 5, 0, 6] } else { [0, 6, 0, 5] };
        assert_eq!(identity[2..], [&encoder[..], &[7, 8, 0, 1]].concat(), "encoder, product, kind");
        // Discrete inputs: reject 0, pass 1, ready 1, result_valid 1, all else 0.
        assert_eq!(ask(&mut plc, 1, &[0x02, 0, 0, 0, 16]).await, [0x02, 2, 0b0000_0110, 0b0000_0001]);
        // accepted and passed count 1.
        let counters = ask(&mut plc, 1, &[0x04, 0, 48, 0, 4]).await;
        let one = if order == WordOrder::HighFirst { [0, 0, 0, 1] } else { [0, 1, 0, 0] };
        assert_eq!(counters[2..], [one, one].concat());
        // The mirror among the holding registers is the same.
        let mirror = ask(&mut plc, 1, &[0x03, 0, 116, 0, 19]).await;
        assert_eq!(mirror[2..], words[2..]);
        assert_eq!(ask(&mut plc, 1, &[0x03, 0, 99, 0, 1]).await, [0x03, 2, 0x01, 0x06]);
        assert_eq!(
            ask(&mut plc, 1, &[0x03, 0, 99, 0, 2]).await,
            [0x03, 4, 0x01, 0x06, 0, 2],
            "with what follows"
        );
        // trigger_id can be read back.
        assert_eq!(ask(&mut plc, 1, &[0x03, 0, 0, 0, 1]).await, [0x03, 2, 0x12, 0x34]);
        assert_eq!(line.asks[0].accepted.try_recv().unwrap().accepted.trigger_id, 0x1234);
        // A second part while one is in hand is not accepted: `missed`, at 60, counts it.
        ask(&mut plc, 1, &[0x06, 0, 0, 0, 5]).await;
        ask(&mut plc, 1, &[0x06, 0, 0, 0, 6]).await;
        let missed = ask(&mut plc, 1, &[0x04, 0, 60, 0, 2]).await;
        assert_eq!(missed[2..], one);
    }
}

#[tokio::test]
async fn units_and_offsets_reach_the_same_stations() {
    let line = line(WordOrder::HighFirst).await;
    let mut plc = line.connect().await;
    ask(&mut plc, 2, &[0x06, 0, 0, 0, 0]).await; // arms station 2
    for (unit, address, armed) in [(0, 3u16, 0), (1, 3, 0), (255, 3, 0), (2, 3, 8), (1, 1003, 8)] {
        let [high, low] = address.to_be_bytes();
        let state = ask(&mut plc, unit, &[0x04, high, low, 0, 1]).await;
        assert_eq!(state, [0x04, 2, 0, 0x04 | armed], "unit {unit}, address {address}");
    }
}

#[tokio::test]
async fn exceptions_say_what_is_wrong() {
    let line = line(WordOrder::HighFirst).await;
    let mut plc = line.connect().await;
    let cases: [(&str, u8, &[u8], [u8; 2]); 18] = [
        ("report server id is not served", 1, &[0x11], [0x91, 1]),
        ("past the input registers", 1, &[0x04, 0, 96, 0, 1], [0x84, 2]),
        ("across their end", 1, &[0x04, 0, 90, 0, 10], [0x84, 2]),
        ("past the discrete inputs", 1, &[0x02, 0, 15, 0, 2], [0x82, 2]),
        ("past the coils", 1, &[0x01, 0, 15, 0, 2], [0x81, 2]),
        ("past the holding registers", 1, &[0x03, 0, 23, 0, 2], [0x83, 2]),
        ("from before the discrete inputs' mirror into it", 1, &[0x03, 0, 98, 0, 2], [0x83, 2]),
        ("past the mirror", 1, &[0x03, 0, 195, 0, 2], [0x83, 2]),
        ("address wraps", 1, &[0x04, 0xFF, 0xFF, 0, 2], [0x84, 2]),
        ("offset of a station that is not there", 1, &[0x04, 0x07, 0xD0, 0, 1], [0x84, 2]),
        ("write where nothing can be written", 1, &[0x06, 0, 24, 0, 0], [0x86, 2]),
        ("write of the mirror", 1, &[0x06, 0, 118, 0, 1], [0x86, 2]),
        ("write of a coil that is none", 1, &[0x05, 0, 16, 0xFF, 0], [0x85, 2]),
        ("count 0", 1, &[0x04, 0, 0, 0, 0], [0x84, 3]),
        ("count 126", 1, &[0x04, 0, 0, 0, 126], [0x84, 3]),
        ("2001 bits", 1, &[0x02, 0, 0, 0x07, 0xD1], [0x82, 3]),
        ("write of nothing", 1, &[0x10, 0, 0, 0, 0, 0], [0x90, 3]),
        ("no such unit", 3, &[0x04, 0, 0, 0, 1], [0x84, 11]),
    ];
    for (what, unit, pdu, expected) in cases {
        assert_eq!(ask(&mut plc, unit, pdu).await, expected, "{what}");
    }
}

#[tokio::test]
async fn a_contradictory_pdu_costs_only_its_own_connection() {
    let line = line(WordOrder::HighFirst).await;
    let mut broken = line.connect().await;
    // Write of one register with a byte count of 4.
    broken.write_all(&[0, 1, 0, 0, 0, 11, 1, 0x10, 0, 0, 0, 1, 4, 0, 1, 0, 2]).await.unwrap();
    let mut rest = Vec::new();
    let _ = broken.read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "closed without an answer: {rest:?}");
    assert_eq!(ask(&mut line.connect().await, 1, &[0x04, 0, 0, 0, 1]).await, [0x04, 2, 0, 2]);
}

#[tokio::test]
async fn one_client_too_many_takes_the_place_of_the_one_that_asked_longest_ago() {
    let line = line(WordOrder::HighFirst).await;
    let mut clients = Vec::new();
    for _ in 0..MAX_CLIENTS {
        let mut client = line.connect().await;
        ask(&mut client, 1, &[0x04, 0, 0, 0, 1]).await;
        clients.push(client);
    }
    let oldest = &mut clients[0];
    ask(oldest, 1, &[0x04, 0, 0, 0, 1]).await;
    let mut new = line.connect().await;
    assert_eq!(ask(&mut new, 1, &[0x04, 0, 0, 0, 1]).await, [0x04, 2, 0, 2]);
    let mut rest = Vec::new();
    let _ = clients.remove(1).read_to_end(&mut rest).await;
    assert!(rest.is_empty(), "{rest:?}");
    for client in &mut clients {
        assert_eq!(ask(client, 1, &[0x04, 0, 0, 0, 1]).await, [0x04, 2, 0, 2]);
    }
}

#[test]
fn fault_codes_of_the_manual_are_those_of_the_code() {
    let starting = FaultCode::Starting;
    assert_eq!((starting.code(), starting.meaning().is_empty()), (1, false));
    assert!(FaultCode::ALL.iter().all(|c| !c.meaning().is_empty() && !c.action().is_empty()));
}
