//! The Modbus side under attack: connections cut at every byte, slow clients, too many of them, bytes that are
//! no Modbus, no file handles. Whatever goes on, the PLC of the line gets one right result for each part, on
//! the connection that it holds and on new ones.
//!
//! `cargo test --test attack -- --nocapture` prints the PLC's round trips before and under each attack;
//! `FUZZ_PDUS=10000000` in the environment sends that many fuzzed requests over the network; that takes minutes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../fuzz/files.rs"]
mod files;
#[path = "../fuzz/frames.rs"]
mod frames;
mod fuzz;
mod line;
#[path = "../peers/mod.rs"]
mod peers;
#[path = "../fuzz/properties.rs"]
mod properties;
mod spoil;
mod spoilt;
#[path = "../stub/mod.rs"]
mod stub;

use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use inspectd::plc::access::AllowList;
use inspectd::plc::map::holding;
use inspectd::plc::registers::Registers;
use inspectd::plc::server::{MAX_CLIENTS, ModbusServer, REQUEST_WITHIN};
use inspectd::plc::settings::{Results, Settings};
use inspectd::plc::word_order::WordOrder;
use inspectd::record::Gate;
use line::{Line, PATIENCE, Plc, adu, answer, ask, connect_from, reset};
use peers::wait_for;

/// The PLC's own connections: one that it holds, and now and then another one.
const OF_THE_PLC: usize = 2;
/// How often each function's transaction is cut at each byte.
const CUT_ROUNDS: u32 = 4;
/// The PLC's own address, as the last number of 127.0.0.1.
const PLC_HOST: u8 = 1;
const OTHER_HOST: u8 = 2;

/// A request of each function that is served; those that write do it at station 2.
const EACH_FUNCTION: [&[u8]; 10] = [
    &[1, 0, 0, 0, 16],
    &[2, 0, 0, 0, 16],
    &[3, 0, 0, 0, 24],
    &[4, 0, 16, 0, 24],
    &[5, 0, 1, 0xFF, 0],                                      // bypass
    &[6, 0, 4, 0x12, 0x34],                                   // product
    &[15, 0, 0, 0, 8, 1, 0x02],                               // bypass, among others
    &[16, 0, 3, 0, 3, 6, 1, 2, 3, 4, 5, 6],                   // recipe_request to the word behind product
    &[22, 0, 4, 0xF0, 0x0F, 0x01, 0x10],                      // product
    &[23, 0, 0, 0, 9, 0, 8, 0, 2, 4, b'a', b'b', b'c', b'd'], // serial
];

/// How a client closes its connection: in order, or with a reset.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Close,
    Reset,
}

fn cut(stream: TcpStream, how: Cut) {
    match how {
        Cut::Close => drop(stream),
        Cut::Reset => reset(stream),
    }
}

fn written(attacked: &Registers) -> Vec<u16> {
    attacked.holding_registers(0..holding::SIZE).unwrap()
}

fn slots_are_free(line: &Line) {
    wait_for("the attackers' slots are free", PATIENCE, || line.clients() <= OF_THE_PLC);
}

/// Cuts a transaction after `sent` bytes of its request, or after `read` of its answer.
fn cut_one(line: &Line, request: &[u8], sent: usize, read: usize, how: Cut) {
    let mut stream = connect_from(OTHER_HOST, line.address()).unwrap();
    stream.write_all(&request[..sent]).unwrap();
    let mut some = vec![0; read];
    stream.read_exact(&mut some).unwrap();
    cut(stream, how);
}

/// Returns how many connections were cut.
fn cut_everywhere(line: &Line) -> u32 {
    let (attacked, clean) = (line.attacked(), vec![0; usize::from(holding::SIZE)]);
    let mut cuts = 0;
    for pdu in EACH_FUNCTION {
        let request = adu(2, pdu);
        attacked.write_registers(0, &clean).unwrap();
        let answered = {
            let mut stream = connect_from(OTHER_HOST, line.address()).unwrap();
            stream.write_all(&request).unwrap();
            answer(&mut stream).unwrap()
        };
        let whole = written(&attacked);
        assert_eq!(whole != clean, matches!(pdu[0], 5..), "{pdu:02X?} writes if it should");
        for how in [Cut::Close, Cut::Reset] {
            attacked.write_registers(0, &clean).unwrap();
            for sent in 0..request.len() {
                cut_one(line, &request, sent, 0, how);
                cuts += 1;
            }
            slots_are_free(line);
            assert_eq!(
                written(&attacked),
                clean,
                "{pdu:02X?} was cut ({how:?}) before its last byte, and wrote"
            );
            for read in 0..answered.len() {
                attacked.write_registers(0, &clean).unwrap();
                cut_one(line, &request, request.len(), read, how);
                cuts += 1;
                if read == 0 && matches!(how, Cut::Reset) {
                    let now = written(&attacked); // a reset may overtake the request
                    assert!(now == whole || now == clean, "{pdu:02X?}: {now:?}");
                } else {
                    wait_for("a whole request is carried out", PATIENCE, || written(&attacked) == whole);
                }
            }
        }
    }
    attacked.write_registers(0, &clean).unwrap();
    cuts
}

#[test]
fn connections_cut_at_every_byte_write_nothing_by_half_and_leave_their_slots() {
    let (line, mut plc) = Line::start();
    let cuts = plc.under("connections cut at every byte", || {
        (0..CUT_ROUNDS).map(|_| cut_everywhere(&line)).sum::<u32>()
    });
    println!("cut: {cuts} connections, 10 function codes, in order and with a reset");
    assert_eq!(plc.lost, [0, 0]);
    line.stop(&plc);
}

/// Sends a byte of a request every `pace`. The answer, or `None` if the connection was closed first.
fn byte_by_byte(address: SocketAddr, pace: Duration) -> Option<Vec<u8>> {
    let mut stream = connect_from(OTHER_HOST, address).unwrap();
    for byte in adu(2, &[3, 0, 0, 0, 2]) {
        stream.write_all(&[byte]).ok()?;
        std::thread::sleep(pace);
    }
    answer(&mut stream).ok()
}

fn is_timeout(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

/// A request that is begun, and no more. Returns when the server has closed.
fn never_finished(address: SocketAddr, bytes: usize) {
    let mut stream = connect_from(OTHER_HOST, address).unwrap();
    stream.write_all(&adu(2, &[6, 0, 4, 0, 1])[..bytes]).unwrap();
    let mut rest = Vec::new();
    let end = stream.read_to_end(&mut rest);
    assert!(!end.is_err_and(|e| is_timeout(&e)), "a begun request holds its slot for ever");
    assert!(rest.is_empty(), "half a request was answered: {rest:?}");
}

/// Requests, and their answers left unread. Returns when the server has closed.
fn never_reads(address: SocketAddr) {
    let mut stream = connect_from(OTHER_HOST, address).unwrap();
    let requests = adu(2, &[3, 0, 100, 0, 96]).repeat(1000);
    let until = Instant::now() + PATIENCE;
    let end = loop {
        match stream.write_all(&requests) {
            Ok(()) => assert!(Instant::now() < until, "answers that nobody reads are still made"),
            Err(end) => break end,
        }
    };
    assert!(!is_timeout(&end), "who reads no answer holds its slot for ever");
}

#[test]
fn slow_clients_hold_their_own_slot_for_a_bounded_time() {
    let (line, mut plc) = Line::start();
    plc.under("slow clients", || {
        let address = line.address();
        std::thread::scope(|scope| {
            for bytes in 1..12 {
                scope.spawn(move || never_finished(address, bytes));
                scope.spawn(move || never_reads(address));
            }
            let too_slow: Vec<_> =
                (0..10).map(|_| scope.spawn(move || byte_by_byte(address, REQUEST_WITHIN / 6))).collect();
            let slow =
                (0..10).map(|_| scope.spawn(move || byte_by_byte(address, Duration::from_millis(110))));
            for client in slow.collect::<Vec<_>>() {
                assert_eq!(client.join().unwrap().expect("slow, but in time")[7..9], [3, 4]);
            }
            assert!(too_slow.into_iter().all(|c| c.join().unwrap().is_none()), "a request for ever");
        });
        slots_are_free(&line);
    });
    assert_eq!(plc.lost, [0, 0]);
    line.stop(&plc);
}

/// Not a test by itself: the process of `thousand`, for a process may not have so many files as two sides need.
/// Holds 1,000 connections and makes each anew that is closed, until its input ends.
#[test]
fn child_that_holds_a_thousand_connections() {
    let Ok(address) = std::env::var("ATTACK_TEST_CHILD") else { return };
    let address = address.parse::<SocketAddr>().unwrap();
    let host = std::env::var("ATTACK_TEST_HOST").unwrap().parse().unwrap();
    let asks = std::env::var_os("ATTACK_TEST_ASKS").is_some();
    let over = AtomicBool::new(false);
    let connect = || {
        let mut stream = connect_from(host, address).unwrap();
        if asks {
            let _ = ask(&mut stream, 2, &[4, 0, 0, 0, 1]);
        }
        stream.set_nonblocking(true).unwrap();
        stream
    };
    let mut held: Vec<_> = (0..1000).map(|_| connect()).collect();
    println!("\nheld {}", held.len());
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let _ = std::io::stdin().read(&mut [0]);
            over.store(true, Ordering::Relaxed);
        });
        let mut anew = 0;
        while !over.load(Ordering::Relaxed) {
            for stream in &mut held {
                let closed = !stream.read(&mut [0]).is_err_and(|e| is_timeout(&e));
                if closed && !over.load(Ordering::Relaxed) {
                    reset(std::mem::replace(stream, connect()));
                    anew += 1;
                    std::thread::sleep(Duration::from_micros(200));
                }
            }
        }
        println!("\nanew {anew}");
    });
}

/// 1,000 connections from one address, made anew for as long as the PLC needs for its parts.
fn thousand(line: &Line, plc: &mut Plc, name: &str, host: u8, asks: bool) {
    plc.under(name, || {
        let mut command = Command::new(peers::own_program());
        command.args(["--exact", "child_that_holds_a_thousand_connections", "--nocapture"]);
        command.env("ATTACK_TEST_CHILD", line.address().to_string());
        command.env("ATTACK_TEST_HOST", host.to_string());
        if asks {
            command.env("ATTACK_TEST_ASKS", "1");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        assert!(lines.any(|l| l == "held 1000"), "the child does not hold its connections");
        let until = Instant::now() + Duration::from_secs(2); // how long the storm lasts
        wait_for("the storm", PATIENCE, || {
            assert!(line.clients() <= MAX_CLIENTS);
            Instant::now() > until
        });
        drop(child.stdin.take());
        let anew = lines.find(|l| l.starts_with("anew ")).unwrap();
        println!("{name}: 1000 held, and made {anew}");
        assert!(child.wait().unwrap().success());
        slots_are_free(line);
    });
}

#[test]
fn a_thousand_connections_never_keep_the_plc_out() {
    let (line, mut plc) = Line::start();
    thousand(&line, &mut plc, "1,000 silent connections from the PLC's own address", PLC_HOST, false);
    assert_eq!(plc.lost[0], 0, "who polls is never closed for who does not");
    thousand(&line, &mut plc, "1,000 asking connections from another address", OTHER_HOST, true);
    assert_eq!(plc.lost, [0, 0], "who has few connections is never closed for who has many");
    // Here nothing tells the PLC from the others. It may be closed, and gets in again.
    thousand(&line, &mut plc, "1,000 asking connections from the PLC's own address", PLC_HOST, true);
    line.stop(&plc);
}

/// Not a test by itself: it runs with few file handles.
#[test]
fn child_that_runs_out_of_files() {
    if std::env::var_os("FILES_TEST_CHILD").is_none() {
        return;
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let settings = Settings {
        by_plc: true,
        simulated: false,
        review_at_gate: Gate::Reject,
        results: Results::Latest,
        order: WordOrder::HighFirst,
    };
    let (registers, _asks) = Registers::new(settings);
    let start =
        ModbusServer::start(([127, 0, 0, 1], 0).into(), AllowList::default(), vec![Arc::new(registers)]);
    let server = runtime.block_on(start).unwrap();
    let version = |stream: &mut TcpStream| ask(stream, 1, &[4, 0, 0, 0, 1]).unwrap() == [4, 2, 0, 2];
    let mut standing = connect_from(PLC_HOST, server.address()).unwrap();
    assert!(version(&mut standing));
    let mut files: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
    assert!(File::open("/dev/null").is_err(), "there is no file handle left");
    files.pop();
    let mut new = connect_from(PLC_HOST, server.address()).unwrap(); // takes the last one
    new.write_all(&adu(1, &[4, 0, 0, 0, 1])).unwrap();
    for _ in 0..1000 {
        assert!(version(&mut standing), "the connection that stands goes on");
    }
    assert_eq!(server.clients(), 1);
    drop(files);
    assert_eq!(answer(&mut new).unwrap()[7..], [4, 2, 0, 2], "it gets in when there are handles again");
    assert!(version(&mut standing));
}

#[test]
fn without_file_handles_connections_go_on_and_new_ones_wait() {
    let child = Command::new("sh")
        .args(["-c", "ulimit -n 64; exec \"$0\" \"$@\""])
        .arg(peers::own_program())
        .args(["--exact", "child_that_runs_out_of_files", "--nocapture"])
        .env("FILES_TEST_CHILD", "1")
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&child.stdout) + String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && told.contains("1 passed"), "{told}");
}
