//! The Modbus TCP server: who is connected, and for how long.
//!
//! Whatever clients do, a PLC that asks gets its answer, and one that connects gets in:
//!
//! - A connection may idle for ever: a PLC may ask as rarely as it likes. One whose other side is gone is found
//!   by TCP keepalive.
//! - A request that has begun must be whole within [`REQUEST_WITHIN`], and answers must go out within
//!   [`ANSWER_WITHIN`], else the connection is closed: a peer that hangs holds no more than its own socket.
//! - When [`MAX_CLIENTS`] are connected a new one takes the place of another: of one from the address with the
//!   most connections, there of the one whose last request is longest ago; those that never asked go first. So
//!   a panel that leaks connections loses its own, and a PLC with one connection that polls keeps its place as
//!   long as another address has more. A PLC that is closed all the same gets in again.
//! - A connection that cannot be accepted (out of file handles, say) costs no other.
//! - A client that is not on the listener's list ([`super::access`]) is closed at once and takes nobody's place.
//! - Each client's requests are answered in turns with the others', however many it sends at once.
//!
//! Never here: what a request means ([`super::requests`]); waiting on anything but the network.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::{Instant, timeout, timeout_at};

use super::access::{AllowList, May, Refused};
use super::in_sight::InSight;
use super::pdu::{Contradiction, MAX_ADU_BYTES};
use super::registers::Registers;
use super::requests::{Requests, Seen, Served};

/// Most clients at a time; another one takes the place of one of them.
pub const MAX_CLIENTS: usize = 64;
/// A request must be whole so long after its first byte.
pub const REQUEST_WITHIN: Duration = Duration::from_secs(3);
/// The system must take an answer within this time: it does not while the client leaves earlier ones unread.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(3);
/// Bytes that are taken from a client at once: some twenty requests, then it is the others' turn.
const TURN_BYTES: usize = MAX_ADU_BYTES;
/// Answers that the system may hold for a client that does not read them.
const SEND_BUFFER_BYTES: usize = 32 * 1024;
/// A silent client is asked for a sign of life after this long, so often, so many times.
const KEEPALIVE_AFTER: Duration = Duration::from_secs(10);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_TRIES: u32 = 3;
/// An answer that is not acknowledged for this long ends the connection.
const UNACKNOWLEDGED: Duration = Duration::from_secs(20);
/// Pause after a connection could not be accepted.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);
/// That clients were closed to make room is told so often at most.
const TELL_EVERY: Duration = Duration::from_secs(60);
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

/// Why a connection ended, other than by its client.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("the network: {0}")]
    Network(#[from] io::Error),
    #[error(transparent)]
    Contradiction(#[from] Contradiction),
    #[error("a request was not whole within {REQUEST_WITHIN:?} of its first byte")]
    RequestUnfinished,
    #[error("the answers are not read: nothing could be sent for {ANSWER_WITHIN:?}")]
    AnswersUnread,
}

/// One connection, as the others see it.
struct Client {
    address: IpAddr,
    seen: Seen,
    /// Which of all requests its last one was; 0: none yet.
    asked: Arc<AtomicU64>,
    /// None for the moment before it is started.
    task: Option<AbortHandle>,
}

/// The connections by number, in the order in which they came.
#[derive(Default)]
struct Clients {
    connected: Mutex<HashMap<u64, Client>>,
    /// Requests so far, of all.
    requests: AtomicU64,
    /// Connections that were closed since their address is not on the list.
    refused: AtomicU64,
}

/// A server, for whoever looks on; keeps no port open.
#[derive(Clone)]
pub struct ServerWatch {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whether it is an In-Sight camera's.
    pub as_in_sight: bool,
    clients: Arc<Clients>,
}

impl ServerWatch {
    /// Addresses of the clients connected now, each once for each connection.
    pub fn clients(&self) -> Vec<IpAddr> {
        let mut clients: Vec<_> = self.clients.lock().values().map(|client| client.address).collect();
        clients.sort_unstable();
        clients
    }

    /// Connections that were closed since the start because their address is not on the list.
    pub fn refused(&self) -> u64 {
        self.clients.refused.load(Ordering::Relaxed)
    }
}

/// A running server. Dropping it closes all connections.
pub struct ModbusServer {
    served: Served,
    clients: Arc<Clients>,
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for ModbusServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ModbusServer {
    /// Listens on `address` (port 0: any free one) and serves `stations`, the first of which is station 1, to
    /// those whom `allowed` lets in.
    ///
    /// Errors: [`ServerError::Listen`].
    pub async fn start(
        address: SocketAddr,
        allowed: AllowList,
        stations: Vec<Arc<Registers>>,
    ) -> Result<Self, ServerError> {
        Self::listen(address, allowed, Served::of_stations(stations)).await
    }

    /// Listens on `address` and serves one station as an In-Sight camera.
    ///
    /// Errors: [`ServerError::Listen`].
    pub async fn start_in_sight(
        address: SocketAddr,
        allowed: AllowList,
        camera: InSight,
    ) -> Result<Self, ServerError> {
        Self::listen(address, allowed, Served::as_in_sight(camera)).await
    }

    async fn listen(address: SocketAddr, allowed: AllowList, served: Served) -> Result<Self, ServerError> {
        let listen = |source| ServerError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let address = listener.local_addr().map_err(listen)?;
        let clients = Arc::<Clients>::default();
        let task = tokio::spawn(accept(listener, allowed, served.clone(), Arc::clone(&clients)));
        tracing::info!(%address, as_in_sight = served.is_in_sight(), "Modbus server listens");
        Ok(Self { served, clients, address, task })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For whoever looks on.
    pub fn look_on(&self) -> ServerWatch {
        let (address, as_in_sight) = (self.address, self.served.is_in_sight());
        ServerWatch { address, as_in_sight, clients: Arc::clone(&self.clients) }
    }

    /// Clients connected now.
    pub fn clients(&self) -> usize {
        self.clients.lock().len()
    }

    /// Connections that were closed since the start because their address is not on the list.
    pub fn refused(&self) -> u64 {
        self.clients.refused.load(Ordering::Relaxed)
    }

    /// Waits until each connected client has read the result that now stands at every station, at most
    /// until `deadline`. Returns whether all did.
    pub async fn all_have_read(&self, deadline: Instant) -> bool {
        loop {
            let clients: Vec<Seen> = self.clients.lock().values().map(|c| Arc::clone(&c.seen)).collect();
            let current: Vec<u64> = self.served.stations().iter().map(|s| s.revision()).collect();
            let read_all = |seen: &Seen| {
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

impl Clients {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Client>> {
        self.connected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a client that is not on the list, and tells of it now and then.
    fn refuse(&self, address: IpAddr, refused: &mut Refused) {
        let count = self.refused.fetch_add(1, Ordering::Relaxed) + 1;
        if refused.is_news(address, std::time::Instant::now()) {
            tracing::warn!(%address, refused = count,
                "a Modbus client that is not on the list was closed; if it belongs to the line, add it to `clients`");
        }
    }

    /// Closes one connection where there is no room for another. Returns its address.
    fn make_room(&self) -> Option<IpAddr> {
        let mut connected = self.lock();
        if connected.len() < MAX_CLIENTS {
            return None;
        }
        let mut of_address = HashMap::<IpAddr, usize>::new();
        connected.values().for_each(|c| *of_address.entry(c.address).or_default() += 1);
        let rank = |id: &u64, c: &Client| {
            (of_address.get(&c.address).copied(), Reverse(c.asked.load(Ordering::Relaxed)), Reverse(*id))
        };
        let worst = connected.iter().max_by_key(|(id, client)| rank(id, client)).map(|(id, _)| *id)?;
        let client = connected.remove(&worst)?;
        if let Some(task) = client.task {
            task.abort();
        }
        Some(client.address)
    }
}

/// Accepts connections for ever. Dropped, it ends them all.
async fn accept(listener: TcpListener, allowed: AllowList, served: Served, clients: Arc<Clients>) {
    let (mut tasks, mut refused) = (JoinSet::new(), Refused::default());
    let (mut failing, mut told, mut closed) = (false, None::<Instant>, 0_u64);
    for id in 0.. {
        let accepted = loop {
            tokio::select! {
                accepted = listener.accept() => break accepted,
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => report(ended),
            }
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !failing {
                    tracing::warn!(%error, "Modbus cannot accept connections; those that stand go on");
                }
                failing = true;
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        failing = false;
        let Some(may) = allowed.may(peer.ip()) else {
            clients.refuse(peer.ip(), &mut refused);
            tokio::task::yield_now().await;
            continue; // closes it
        };
        if let Some(address) = clients.make_room() {
            closed += 1;
            if told.is_none_or(|told| told.elapsed() > TELL_EVERY) {
                told = Some(Instant::now());
                tracing::warn!(%peer, last = %address, closed, limit = MAX_CLIENTS,
                    "too many Modbus clients: the one that asked longest ago was closed for a new one");
            }
        }
        let requests = Requests::new(served.clone(), may);
        connect(&mut tasks, id, stream, peer, requests, &clients);
        // In a storm of connections each gets the chance to ask before others take its place.
        tokio::task::yield_now().await;
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        tracing::error!("a Modbus connection ended by an internal error; its client has to connect again");
    }
}

fn connect(
    tasks: &mut JoinSet<()>,
    id: u64,
    stream: TcpStream,
    peer: SocketAddr,
    requests: Requests,
    clients: &Arc<Clients>,
) {
    if let Err(error) = keep_honest(&stream) {
        tracing::warn!(%peer, %error, "a dead connection of this Modbus client would not be noticed");
    }
    let may = requests.may();
    let (seen, asked) = (requests.seen(), Arc::<AtomicU64>::default());
    let place = Place { clients: Arc::clone(clients), id, asked: Arc::clone(&asked) };
    // It stands in the list before it can end, or would stand there for ever.
    clients.lock().insert(id, Client { address: peer.ip(), seen, asked, task: None });
    let task = tasks.spawn(async move {
        match serve(stream, requests, &place).await {
            Ok(()) => tracing::info!(%peer, "Modbus client disconnected"),
            Err(error) => tracing::info!(%peer, %error, "Modbus client's connection closed"),
        }
    });
    if let Some(client) = clients.lock().get_mut(&id) {
        client.task = Some(task);
    }
    tracing::info!(%peer, writes = may == May::Write, "Modbus client connected");
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
    socket.set_send_buffer_size(SEND_BUFFER_BYTES)?;
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED))
}

/// A connection's place among the clients; dropped with its task, however that ends.
struct Place {
    clients: Arc<Clients>,
    id: u64,
    asked: Arc<AtomicU64>,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.id);
    }
}

/// Answers one client until it closes the connection.
async fn serve(mut stream: TcpStream, mut requests: Requests, place: &Place) -> Result<(), Ended> {
    let (mut arrived, mut answers) = ([0; TURN_BYTES], Vec::new());
    let mut begun = None::<Instant>;
    loop {
        let read = stream.read(&mut arrived);
        let count = match begun {
            Some(at) => timeout_at(at + REQUEST_WITHIN, read).await.map_err(|_| Ended::RequestUnfinished)?,
            None => read.await,
        }?;
        if count == 0 {
            return Ok(());
        }
        answers.clear();
        let taken = requests.take(&arrived[..count], &mut answers);
        if !answers.is_empty() {
            let turn = place.clients.requests.fetch_add(1, Ordering::Relaxed) + 1;
            place.asked.store(turn, Ordering::Relaxed);
            let sent = timeout(ANSWER_WITHIN, stream.write_all(&answers)).await;
            sent.map_err(|_| Ended::AnswersUnread)??;
        }
        let whole = taken?;
        begun = match (requests.is_begun(), begun) {
            (false, _) => None,
            (true, Some(at)) if whole == 0 => Some(at),
            (true, _) => Some(Instant::now()),
        };
        tokio::task::yield_now().await;
    }
}
