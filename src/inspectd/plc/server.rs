//! The Modbus TCP server: requests of any client against the stations' registers.
//!
//! Exceptions, by Modbus Application Protocol V1.1b3 section 7: 1 for a function code that is not served,
//! 2 for an address or range outside the map, 3 for a count outside the limits of section 6, 11 for a unit
//! identifier without a station. A PDU whose length contradicts itself closes its connection.
//!
//! Never here: verdicts; waiting on anything but the network.

use std::collections::HashMap;
use std::future;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::time::Instant;
use tokio_modbus::prelude::*;
use tokio_modbus::server::Service;
use tokio_modbus::server::tcp::Server;

use super::in_sight::InSight;
use super::map::{MIRROR, MIRROR_DISCRETE, STATION_STRIDE, discrete, input};
use super::registers::Registers;
use super::result::Refused;

/// Most clients at a time; another one is closed at once.
pub const MAX_CLIENTS: usize = 64;
/// A silent client is asked for a sign of life after this long, so often, so many times.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// An answer that is not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Most registers in one read, section 6.3 and 6.4.
pub(super) const MAX_READ_REGISTERS: u16 = 125;
/// Most bits in one read, section 6.1 and 6.2.
pub(super) const MAX_READ_BITS: u16 = 2000;
/// Most bits in one write, section 6.11.
pub(super) const MAX_WRITE_BITS: u16 = 1968;
/// Most registers in one write, section 6.12.
pub(super) const MAX_WRITE_REGISTERS: usize = 123;
/// A place outside the map, section 7.
const NO_SUCH_ADDRESS: ExceptionCode = ExceptionCode::IllegalDataAddress;
/// How often the clients are looked at while the daemon waits for them to read.
const SEEN_POLL: Duration = Duration::from_millis(5);

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The address cannot be listened on.
    #[error(
        "Modbus cannot listen on {address}: {source}; is another program using it, or does the port need CAP_NET_BIND_SERVICE?"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

/// What each client has read: for every station the revision of the block it read last.
type Seen = Vec<AtomicU64>;

/// The stations' registers and the clients that are connected.
pub struct Stations {
    stations: Vec<Arc<Registers>>,
    /// Serves the one station as an In-Sight camera.
    in_sight: Option<InSight>,
    clients: Mutex<HashMap<u64, Arc<Seen>>>,
    next_client: AtomicU64,
}

/// A running server. Dropping it closes all connections.
pub struct ModbusServer {
    stations: Arc<Stations>,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ModbusServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ModbusServer {
    /// Listens on `address` (port 0: any free one) and serves `stations`, the first of which is station 1.
    ///
    /// Errors: [`ServerError::Listen`].
    pub async fn start(address: SocketAddr, stations: Vec<Arc<Registers>>) -> Result<Self, ServerError> {
        Self::serve(address, stations, None).await
    }

    /// Listens on `address` and serves one station as an In-Sight camera.
    ///
    /// Errors: [`ServerError::Listen`].
    pub async fn start_in_sight(address: SocketAddr, camera: InSight) -> Result<Self, ServerError> {
        Self::serve(address, vec![Arc::clone(camera.registers())], Some(camera)).await
    }

    async fn serve(
        address: SocketAddr,
        stations: Vec<Arc<Registers>>,
        in_sight: Option<InSight>,
    ) -> Result<Self, ServerError> {
        let listen = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let as_in_sight = in_sight.is_some();
        let (clients, next_client) = (Mutex::default(), AtomicU64::new(0));
        let stations = Arc::new(Stations { stations, in_sight, clients, next_client });
        let served = Arc::clone(&stations);
        let task = tokio::spawn(async move {
            let server = Server::new(listener);
            let connected = |stream, peer| future::ready(Ok(connect(&served, stream, peer)));
            let failed = |error| tracing::debug!(%error, "Modbus connection ended");
            // `serve` returns when accepting fails (out of file handles, say), and ends all connections with
            // it: clients connect again, and until then see no `chain` and push parts out.
            while let Err(error) = server.serve(&connected, failed).await {
                tracing::warn!(%error, "Modbus cannot accept connections");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
        tracing::info!(%address, as_in_sight, "Modbus server listens");
        Ok(Self { stations, address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Clients connected now.
    pub fn clients(&self) -> usize {
        self.stations.clients().len()
    }

    /// Waits until each connected client has read the result that now stands at every station, at most
    /// until `deadline`. Returns whether all did.
    pub async fn all_have_read(&self, deadline: Instant) -> bool {
        loop {
            let clients: Vec<_> = self.stations.clients().values().cloned().collect();
            let current: Vec<u64> = self.stations.stations.iter().map(|s| s.revision()).collect();
            let read_all = |seen: &Arc<Seen>| {
                seen.iter().zip(&current).all(|(seen, now)| seen.load(Ordering::Relaxed) == *now)
            };
            if clients.iter().all(read_all) {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(SEEN_POLL).await;
        }
    }
}

impl Stations {
    fn clients(&self) -> std::sync::MutexGuard<'_, HashMap<u64, Arc<Seen>>> {
        self.clients.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn connect(stations: &Arc<Stations>, stream: TcpStream, peer: SocketAddr) -> Option<(Client, TcpStream)> {
    let mut clients = stations.clients();
    if clients.len() >= MAX_CLIENTS {
        tracing::warn!(%peer, limit = MAX_CLIENTS, "Modbus client refused: too many are connected");
        return None;
    }
    if let Err(error) = keep_honest(&stream) {
        tracing::warn!(%peer, %error, "a dead connection of this Modbus client would not be noticed");
    }
    let id = stations.next_client.fetch_add(1, Ordering::Relaxed);
    let seen: Arc<Seen> = Arc::new(stations.stations.iter().map(|_| AtomicU64::new(0)).collect());
    clients.insert(id, Arc::clone(&seen));
    tracing::info!(%peer, "Modbus client connected");
    Some((Client { stations: Arc::clone(stations), id, peer, seen }, stream))
}

/// Makes the system find and end connections whose other side is gone without a word: a pulled cable, a PLC
/// that lost power. Without it they would fill up [`MAX_CLIENTS`] over the months.
fn keep_honest(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_TRIES);
    let socket = socket2::SockRef::from(stream);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// One connection.
struct Client {
    stations: Arc<Stations>,
    id: u64,
    peer: SocketAddr,
    seen: Arc<Seen>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.stations.clients().remove(&self.id);
        tracing::info!(peer = %self.peer, "Modbus client disconnected");
    }
}

impl Service for Client {
    type Request = SlaveRequest<'static>;
    type Response = Response;
    type Exception = ExceptionCode;
    type Future = future::Ready<Result<Response, ExceptionCode>>;

    fn call(&self, request: Self::Request) -> Self::Future {
        future::ready(self.answer(request.slave, &request.request))
    }
}

impl Client {
    fn answer(&self, unit: u8, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        if let Some(camera) = &self.stations.in_sight {
            return self.answer_in_sight(camera, request);
        }
        match request {
            Request::ReadCoils(address, count) => {
                let (_, station, range) = self.range(unit, *address, *count, MAX_READ_BITS)?;
                station.coils(range).map(Response::ReadCoils).ok_or(NO_SUCH_ADDRESS)
            }
            Request::ReadDiscreteInputs(address, count) => {
                let (n, station, range) = self.range(unit, *address, *count, MAX_READ_BITS)?;
                let verdict = range.contains(&discrete::REJECT) || range.contains(&discrete::PASS);
                let bits = self.read(n, station, verdict, |s| s.discrete_inputs(range))?;
                Ok(Response::ReadDiscreteInputs(bits))
            }
            Request::ReadInputRegisters(address, count) => {
                let (n, station, range) = self.range(unit, *address, *count, MAX_READ_REGISTERS)?;
                let verdict = range.contains(&input::VERDICT);
                let words = self.read(n, station, verdict, |s| s.input_registers(range))?;
                Ok(Response::ReadInputRegisters(words))
            }
            Request::ReadHoldingRegisters(address, count) => {
                self.read_holding(unit, *address, *count).map(Response::ReadHoldingRegisters)
            }
            Request::WriteSingleCoil(address, bit) => {
                self.write_coils(unit, *address, &[*bit])?;
                Ok(Response::WriteSingleCoil(*address, *bit))
            }
            Request::WriteMultipleCoils(address, bits) => {
                let count = u16::try_from(bits.len()).map_err(|_| ExceptionCode::IllegalDataValue)?;
                count_within(count, MAX_WRITE_BITS)?;
                self.write_coils(unit, *address, bits)?;
                Ok(Response::WriteMultipleCoils(*address, count))
            }
            Request::WriteSingleRegister(address, value) => {
                self.write(unit, *address, &[*value])?;
                Ok(Response::WriteSingleRegister(*address, *value))
            }
            Request::WriteMultipleRegisters(address, values) => {
                self.write(unit, *address, values)?;
                Ok(Response::WriteMultipleRegisters(*address, values.len() as u16))
            }
            Request::MaskWriteRegister(address, and, or) => {
                let (_, station, at) = self.station(unit, *address)?;
                station.mask_register(at, *and, *or).map_err(|Refused::Address| NO_SUCH_ADDRESS)?;
                Ok(Response::MaskWriteRegister(*address, *and, *or))
            }
            Request::ReadWriteMultipleRegisters(address, count, to, values) => {
                let (_, _, range) = self.range(unit, *address, *count, MAX_READ_REGISTERS)?;
                if !Registers::holds(&range) {
                    return Err(NO_SUCH_ADDRESS); // before anything is written
                }
                self.write(unit, *to, values)?; // written first, section 6.17
                self.read_holding(unit, *address, *count).map(Response::ReadWriteMultipleRegisters)
            }
            _ => Err(ExceptionCode::IllegalFunction),
        }
    }

    /// As [`Self::read`]: the revision is read no later than the answer is made.
    fn answer_in_sight(&self, camera: &InSight, request: &Request<'_>) -> Result<Response, ExceptionCode> {
        let revision = camera.registers().revision();
        let (answer, saw_result) = camera.answer(request)?;
        if let (true, Some(seen)) = (saw_result, self.seen.first()) {
            seen.store(revision, Ordering::Relaxed);
        }
        Ok(answer)
    }

    /// Reads what may hold the verdict, and remembers that this client read the block that stood there no
    /// later than the answer was made.
    fn read<T>(
        &self,
        n: usize,
        station: &Registers,
        verdict: bool,
        read: impl FnOnce(&Registers) -> Option<T>,
    ) -> Result<T, ExceptionCode> {
        let revision = station.revision();
        let answer = read(station).ok_or(NO_SUCH_ADDRESS)?;
        if let (true, Some(seen)) = (verdict, self.seen.get(n)) {
            seen.store(revision, Ordering::Relaxed);
        }
        Ok(answer)
    }

    fn read_holding(&self, unit: u8, address: u16, count: u16) -> Result<Vec<u16>, ExceptionCode> {
        let (n, station, range) = self.range(unit, address, count, MAX_READ_REGISTERS)?;
        let verdict = range.contains(&(MIRROR + input::VERDICT)) || range.contains(&MIRROR_DISCRETE);
        self.read(n, station, verdict, |s| s.holding_registers(range))
    }

    fn write(&self, unit: u8, address: u16, values: &[u16]) -> Result<(), ExceptionCode> {
        if values.is_empty() || values.len() > MAX_WRITE_REGISTERS {
            return Err(ExceptionCode::IllegalDataValue);
        }
        let (_, station, at) = self.station(unit, address)?;
        station.write_registers(at, values).map_err(|Refused::Address| NO_SUCH_ADDRESS)
    }

    fn write_coils(&self, unit: u8, address: u16, bits: &[bool]) -> Result<(), ExceptionCode> {
        let (_, station, at) = self.station(unit, address)?;
        station.write_coils(at, bits).map_err(|Refused::Address| NO_SUCH_ADDRESS)
    }

    /// The station and places that a read means; its count is checked first.
    fn range(
        &self,
        unit: u8,
        address: u16,
        count: u16,
        most: u16,
    ) -> Result<(usize, &Registers, Range<u16>), ExceptionCode> {
        count_within(count, most)?;
        let (n, station, at) = self.station(unit, address)?;
        let end = at.checked_add(count).ok_or(NO_SUCH_ADDRESS)?;
        Ok((n, station, at..end))
    }

    /// The station that a unit identifier and an address mean, and the address inside its map.
    fn station(&self, unit: u8, address: u16) -> Result<(usize, &Registers, u16), ExceptionCode> {
        let (n, address, absent) = match unit {
            0 | 1 | 255 => {
                let n = usize::from(address / STATION_STRIDE);
                (n, address % STATION_STRIDE, ExceptionCode::IllegalDataAddress)
            }
            unit => (usize::from(unit) - 1, address, ExceptionCode::GatewayTargetDevice),
        };
        self.stations.stations.get(n).map(|station| (n, &**station, address)).ok_or(absent)
    }
}

pub(super) fn count_within(count: u16, limit: u16) -> Result<(), ExceptionCode> {
    if (1..=limit).contains(&count) { Ok(()) } else { Err(ExceptionCode::IllegalDataValue) }
}
