//! Who is let in at the Modbus listener, and what a client that may only read can do. Addresses of loopback stand for
//! the line's.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use inspect_core::verdict::FaultCode;
use inspectd::plc::access::{AllowList, ClientConfig, May};
use inspectd::plc::handshake::Marks;
use inspectd::plc::in_sight::InSight;
use inspectd::plc::map::{holding, input};
use inspectd::plc::registers::{Asks, Registers};
use inspectd::plc::result::ResultBlock;
use inspectd::plc::server::{MAX_CLIENTS, ModbusServer};
use inspectd::plc::settings::{Results, Settings};
use inspectd::plc::word_order::WordOrder;
use inspectd::record::Gate;
use tokio::runtime::Runtime;

const PATIENCE: Duration = Duration::from_secs(30);
const PLC: &str = "127.0.0.1";
const PANEL: &str = "127.0.0.2";
const STRANGER: &str = "127.0.0.9";
/// A request of each function that writes.
const WRITES: [&[u8]; 6] = [
    &[5, 0, 0, 0xFF, 0],
    &[6, 0, 0, 0, 77],
    &[15, 0, 0, 0, 2, 1, 3],
    &[16, 0, 0, 0, 1, 2, 0, 77],
    &[22, 0, 0, 0, 0, 0, 77],
    &[23, 0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 77],
];
/// Reads of what the gate needs: registers, bits, and both as holding registers.
const LOOKS: [&[u8]; 4] = [&[4, 0, 16, 0, 19], &[2, 0, 0, 0, 8], &[3, 0, 116, 0, 19], &[3, 0, 99, 0, 1]];

fn allowed() -> AllowList {
    let client = |address: &str, may| ClientConfig { address: address.parse().unwrap(), may };
    AllowList::new(&[client("127.0.0.1/32", May::Write), client("127.0.0.0/29", May::Read)])
}

struct Line {
    server: ModbusServer,
    station: Arc<Registers>,
    asks: Asks,
    _runtime: Runtime,
}

impl Line {
    fn start(in_sight: bool) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let settings = Settings {
            by_plc: true,
            simulated: false,
            review_at_gate: Gate::Reject,
            results: Results::Latest,
            order: WordOrder::HighFirst,
        };
        let (station, asks) = Registers::new(settings);
        let (station, any_port) = (Arc::new(station), ([127, 0, 0, 1], 0).into());
        station.mark(Marks::default());
        let server = match in_sight {
            true => {
                let camera = InSight::new(Arc::clone(&station));
                runtime.block_on(ModbusServer::start_in_sight(any_port, allowed(), camera))
            }
            false => runtime.block_on(ModbusServer::start(any_port, allowed(), vec![Arc::clone(&station)])),
        };
        Self { server: server.unwrap(), station, asks, _runtime: runtime }
    }

    fn connect(&self, from: &str) -> TcpStream {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&format!("{from}:0").parse::<SocketAddr>().unwrap().into()).unwrap();
        socket.connect(&self.server.address().into()).unwrap();
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// What the PLC wrote, as memory has it.
    fn written(&self) -> Vec<u16> {
        self.station.holding_registers(0..holding::SIZE).unwrap()
    }

    /// A part comes and is judged.
    fn part(&mut self, plc: &mut TcpStream, id: u8) {
        assert_eq!(ask(plc, &[6, 0, 0, 0, id]), [6, 0, 0, 0, id]);
        let accepted = self.asks.accepted.blocking_recv().unwrap().accepted;
        let block =
            ResultBlock { trigger_id: accepted.trigger_id, ..ResultBlock::reject(FaultCode::NoFrame) };
        self.station.publish(block, Instant::now() + PATIENCE, true);
    }
}

fn ask(stream: &mut TcpStream, pdu: &[u8]) -> Vec<u8> {
    stream.write_all(&[&[0, 1, 0, 0, 0, pdu.len() as u8 + 1, 1], pdu].concat()).unwrap();
    let mut header = [0; 7];
    stream.read_exact(&mut header).expect("an answer");
    let mut answer = vec![0; usize::from(header[5]) - 1];
    stream.read_exact(&mut answer).unwrap();
    answer
}

/// Whether the server has closed it, without a byte.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == ErrorKind::ConnectionReset,
    }
}

#[test]
fn strangers_are_closed_counted_and_take_nobodys_place() {
    let line = Line::start(false);
    let mut panels: Vec<_> = (1..MAX_CLIENTS).map(|_| line.connect(PANEL)).collect();
    let mut plc = line.connect(PLC);
    panels.iter_mut().for_each(|panel| assert_eq!(ask(panel, &[4, 0, 0, 0, 1]), [4, 2, 0, 2]));
    assert_eq!(ask(&mut plc, &[4, 0, 0, 0, 1]), [4, 2, 0, 2]);
    assert_eq!(line.server.clients(), MAX_CLIENTS, "there is no room for another");
    for _ in 0..200 {
        let mut stranger = line.connect(STRANGER);
        let _ = stranger.write_all(&[0, 1, 0, 0, 0, 6, 1, 6, 0, 0, 0, 77]); // it may be closed already
        assert!(is_closed(&mut stranger), "a stranger is not answered");
    }
    assert_eq!((line.server.refused(), line.server.clients()), (200, MAX_CLIENTS));
    panels.iter_mut().for_each(|panel| assert_eq!(ask(panel, &[4, 0, 0, 0, 1]), [4, 2, 0, 2]));
    assert_eq!(ask(&mut plc, &[6, 0, 0, 0, 5]), [6, 0, 0, 0, 5]);
    assert_eq!(line.written()[0], 5, "the PLC wrote, and the strangers did not");
}

#[test]
fn a_panel_reads_everything_and_writes_nothing_on_both_maps() {
    for in_sight in [false, true] {
        let line = Line::start(in_sight);
        let (mut plc, mut panel) = (line.connect(PLC), line.connect(PANEL));
        let before = line.written();
        for pdu in WRITES {
            assert_eq!(ask(&mut panel, pdu), [pdu[0] | 0x80, 1], "{pdu:02X?}");
            assert_eq!(line.written(), before, "{pdu:02X?} wrote");
        }
        assert_eq!(ask(&mut panel, &[1, 0, 0, 0, 8])[0], 1, "it may read");
        let (control, answer): (&[u8], _) = if in_sight {
            (&[5, 0, 7, 0xFF, 0], vec![5, 0, 7, 0xFF, 0]) // SetOffline
        } else {
            (&[5, 0, 0, 0xFF, 0], vec![5, 0, 0, 0xFF, 0]) // offline
        };
        assert_eq!(ask(&mut plc, control), answer, "the PLC may write");
        assert!(line.station.is_offline());
    }
}

#[test]
fn what_a_panel_has_read_the_plc_has_not_read() {
    let mut line = Line::start(false);
    let (mut plc, mut panel) = (line.connect(PLC), line.connect(PANEL));
    assert_eq!(ask(&mut plc, &[6, 0, 0, 0, 0]), [6, 0, 0, 0, 0]);
    line.part(&mut plc, 1);
    for pdu in LOOKS {
        assert_eq!(ask(&mut panel, pdu)[0], pdu[0]);
    }
    assert!(line.station.is_open(), "the PLC still owes the result a look");
    line.part(&mut plc, 2);
    assert_eq!(line.station.counters().overrun, 1, "the PLC missed a result, whatever the panel saw");
    assert_eq!(ask(&mut plc, LOOKS[0])[0], 4);
    assert!(!line.station.is_open(), "the PLC has read it");
    line.part(&mut plc, 3);
    assert_eq!(line.station.counters().overrun, 1);
    assert_eq!(line.station.input_registers(input::VERDICT..input::VERDICT + 1).unwrap(), [4]);
}
