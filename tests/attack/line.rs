//! A line of two stations whose parts' verdicts are known, and the PLC of station 1.
//!
//! Camera and scorer stand at their seams; the daemon, its stations and its server are the real ones. Attackers
//! have station 2 to themselves: what they write there is well-formed, and would rightly act on station 1.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use inspect_core::image::Image;
use inspect_core::scorer::{Scorer, ScorerError};
use inspectd::camera::{Camera, CameraError, Frame, Life};
use inspectd::daemon::{Daemon, Seams};
use inspectd::journal::JournalReader;
use inspectd::plc::registers::Registers;
use inspectd::scoring::ScoringError;
use tokio::runtime::Runtime;

use crate::stub;

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(30);
/// Parts without an attack, and at least so many under it.
const PARTS: usize = 200;
/// Each so manieth part comes over a connection of its own.
const ANEW_EVERY: u32 = 10;
/// From a part's result to the next part's trigger.
const PAUSE: Duration = Duration::from_millis(3);

/// From trigger to result: no attack may make a part late.
const DEADLINE: Duration = Duration::from_secs(2);

/// Counts its frames from 1 and writes the number into the picture.
struct Counting(u64);

impl Camera for Counting {
    fn grab(&mut self, _timeout: Duration) -> Result<Frame, CameraError> {
        self.0 += 1;
        let mut data = vec![0; 16];
        data[..8].copy_from_slice(&self.0.to_le_bytes());
        let image = Image::new(4, 4, 1, data).unwrap();
        Ok(Frame { image, number: self.0, exposed: Instant::now(), path: None, truth: None })
    }

    fn life(&mut self) -> Result<Life, CameraError> {
        Ok(Life::Proven)
    }

    fn expose(&mut self, _exposure_us: Option<f64>) -> Result<(), CameraError> {
        Ok(())
    }
}

/// Pass, review and reject by turns; or reject always.
struct ByNumber {
    by_turns: bool,
}

impl Scorer for ByNumber {
    fn run(&mut self, input: &[u8], scores: &mut Vec<f32>, maps: &mut Vec<f32>) -> Result<(), ScorerError> {
        *maps = vec![0.0; 4];
        let number = u64::from_le_bytes(input[..8].try_into().unwrap());
        *scores = vec![match input == [stub::GOLDEN_PIXEL; 16] {
            true => stub::GOLDEN_SCORE,
            false if self.by_turns => 0.5 + (number % 3) as f32,
            false => 2.5,
        }];
        Ok(())
    }
}

/// Verdict of the part with this number at station 1, see [`ByNumber`].
fn verdict(number: u32) -> u16 {
    1 + (number % 3) as u16
}

fn seams() -> Seams {
    Seams {
        camera: Box::new(|_| Box::new(|| Ok(Box::new(Counting(0)) as Box<dyn Camera>))),
        scorer: Box::new(|model| {
            let by_turns = model.ends_with("plc");
            Box::new(move || Ok::<_, ScoringError>(stub::loaded(Box::new(ByNumber { by_turns }))))
        }),
    }
}

/// The daemon under attack. One at a time: they would spoil each other's figures.
pub struct Line {
    daemon: Daemon,
    runtime: Runtime,
    folder: tempfile::TempDir,
    _alone: MutexGuard<'static, ()>,
}

impl Line {
    /// A line and its PLC.
    pub fn start() -> (Self, Plc) {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let stations = ["plc", "attacked"].map(|name| stub::station(name, DEADLINE));
        let config = stub::config(folder.path(), stations.into());
        // As `inspectd run` has it.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let daemon = runtime.block_on(Daemon::start(&config, seams())).unwrap();
        let mut plc = Plc::connect(daemon.modbus.address());
        plc.arm();
        (Self { daemon, runtime, folder, _alone: alone }, plc)
    }

    pub fn address(&self) -> SocketAddr {
        self.daemon.modbus.address()
    }

    pub fn clients(&self) -> usize {
        self.daemon.modbus.clients()
    }

    /// The registers of the station that attackers write.
    pub fn attacked(&self) -> Arc<Registers> {
        Arc::clone(&self.daemon.registers[1])
    }

    /// Stops the daemon and checks what it counted and wrote down.
    pub fn stop(self, plc: &Plc) {
        let counters = self.daemon.registers[0].counters();
        let triggered = plc.number;
        assert_eq!(counters.accepted, triggered, "each trigger was accepted once");
        assert_eq!(counters.pass + counters.review + counters.reject, triggered, "{counters:?}");
        assert_eq!((counters.late, counters.missed, counters.overrun), (0, 0, 0), "{counters:?}");
        self.runtime.block_on(self.daemon.stop());
        let entries = JournalReader::open(self.folder.path()).unwrap().after(0, usize::MAX >> 1).unwrap();
        let records = entries.iter().map(|e| serde_json::from_str::<serde_json::Value>(&e.json).unwrap());
        let parts: Vec<_> = records.filter(|r| r.get("part").is_some()).collect();
        assert!(
            parts.iter().all(|p| p["station"] == "plc" || p["gate"] != "pass"),
            "what is never good passed"
        );
        let of_plc = parts.iter().filter(|p| p["station"] == "plc").count();
        assert_eq!(of_plc, triggered as usize, "each part stands once in the journal");
    }
}

/// Times of one kind, microseconds.
#[derive(Default)]
struct Times(Vec<u64>);

impl Times {
    fn add(&mut self, since: Instant) {
        self.0.push(since.elapsed().as_micros() as u64);
    }

    fn tell(&mut self) -> String {
        self.0.sort_unstable();
        let at = |share: f64| self.0[((self.0.len() - 1) as f64 * share) as usize];
        format!("p50 {} us, p99 {} us, most {} us ({})", at(0.5), at(0.99), at(1.0), self.0.len())
    }
}

/// A PLC that does all as the manual says.
pub struct Plc {
    address: SocketAddr,
    standing: TcpStream,
    /// Of the last part.
    number: u32,
    reads: Times,
    results: Times,
    connects: Times,
    /// How often the standing connection was lost, and a new one, since the last attack began.
    pub lost: [u32; 2],
}

impl Plc {
    fn connect(address: SocketAddr) -> Self {
        let standing = connect(address);
        let (reads, results, connects) = Default::default();
        Self { address, standing, number: 0, reads, results, connects, lost: [0; 2] }
    }

    /// Parts without an attack and then parts under it, for as long as it goes on; prints the figures.
    pub fn under<T: Send>(&mut self, name: &str, attack: impl FnOnce() -> T + Send) -> T {
        self.lost = [0; 2];
        for _ in 0..PARTS {
            self.part();
        }
        self.tell(&format!("before {name}"));
        let result = std::thread::scope(|scope| {
            let attack = scope.spawn(attack);
            while !attack.is_finished() || self.results.0.len() < PARTS {
                self.part();
            }
            attack.join()
        });
        self.tell(name);
        result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Arms the station and waits until it is ready.
    fn arm(&mut self) {
        ask(&mut self.standing, 1, &[6, 0, 0, 0, 0]).unwrap();
        let until = Instant::now() + PATIENCE;
        while ask(&mut self.standing, 1, &[4, 0, 3, 0, 1]).unwrap()[3] & 1 == 0 {
            assert!(Instant::now() < until, "the station is not ready");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// One request, on the standing connection or on a new one for this part; connects again where it was lost.
    fn ask(&mut self, new: &mut Option<TcpStream>, pdu: &[u8]) -> Vec<u8> {
        for _ in 0..20 {
            let (stream, kind) = match new {
                Some(stream) => (stream, 1),
                None => (&mut self.standing, 0),
            };
            let start = Instant::now();
            match ask(stream, 1, pdu) {
                Ok(answer) => {
                    self.reads.add(start);
                    return answer;
                }
                Err(_) => {
                    self.lost[kind] += 1;
                    *stream = connect(self.address);
                }
            }
        }
        panic!("the PLC does not get an answer: {:?}", self.lost);
    }

    /// One part: trigger and encoder in one request, read until the result is there, check it.
    fn part(&mut self) {
        self.number += 1;
        let id = (self.number - 1) % u32::from(u16::MAX) + 1;
        let ([_, _, high, low], [e0, e1, e2, e3]) = (id.to_be_bytes(), self.number.to_be_bytes());
        let anew = Instant::now();
        let mut new = self.number.is_multiple_of(ANEW_EVERY).then(|| connect(self.address));
        let trigger = [16, 0, 0, 0, 8, 16, high, low, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, e0, e1, e2, e3];
        let start = Instant::now();
        assert_eq!(self.ask(&mut new, &trigger), trigger[..5]);
        if new.is_some() {
            self.connects.add(anew);
        }
        let words = loop {
            let answer = self.ask(&mut new, &[4, 0, 16, 0, 24]); // result_sequence to result_kind
            let words: Vec<u16> =
                answer[2..].chunks_exact(2).map(|w| u16::from_be_bytes([w[0], w[1]])).collect();
            if words[1] == u16::from_be_bytes([high, low]) {
                break words;
            }
            assert!(start.elapsed() < PATIENCE, "part {} has no result: {words:?}", self.number);
            std::thread::sleep(Duration::from_millis(1)); // the PLC's poll
        };
        self.results.add(start);
        let expected = verdict(self.number);
        assert_eq!((words[2], words[4]), (expected, 0), "part {}: {words:?}", self.number);
        assert_eq!(words[3] == 1, expected == 1, "the gate opens for a pass: {words:?}");
        assert_eq!(u32::from(words[6]) << 16 | u32::from(words[7]), self.number, "each part once: {words:?}");
        let encoder = u32::from(words[20]) << 16 | u32::from(words[21]);
        assert_eq!(encoder, self.number, "its own encoder: {words:?}");
        std::thread::sleep(PAUSE);
    }

    fn tell(&mut self, what: &str) {
        let [standing, new] = self.lost;
        let (reads, results, connects) = (self.reads.tell(), self.results.tell(), self.connects.tell());
        println!(
            "{what}: request {reads}; trigger to result {results}; connect and trigger {connects}; connections lost {standing}, new ones {new}"
        );
        [self.reads, self.results, self.connects] = Default::default();
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// A request with its header.
pub fn adu(unit: u8, pdu: &[u8]) -> Vec<u8> {
    [&[0x12, 0x34, 0, 0, 0, pdu.len() as u8 + 1, unit], pdu].concat()
}

/// An answer with its header.
pub fn answer(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut answer = vec![0; 7];
    stream.read_exact(&mut answer)?;
    answer.resize(6 + usize::from(u16::from_be_bytes([answer[4], answer[5]])), 0);
    stream.read_exact(&mut answer[7..])?;
    Ok(answer)
}

/// Sends one PDU and gives the PDU that came back.
pub fn ask(stream: &mut TcpStream, unit: u8, pdu: &[u8]) -> io::Result<Vec<u8>> {
    stream.write_all(&adu(unit, pdu))?;
    Ok(answer(stream)?.split_off(7))
}

/// A connection from an address of its own, `127.0.0.host`; its requests do not wait to be sent together.
pub fn connect_from(host: u8, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None)?;
    socket.set_tcp_nodelay(true)?;
    if host != 1 {
        socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into())?;
    }
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    socket.connect(&address.into())?;
    Ok(socket.into())
}

/// Closes with a reset instead of in order.
pub fn reset(stream: TcpStream) {
    socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
    drop(stream);
}
