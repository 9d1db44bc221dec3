//! The paths of one link, as the socket sees them: the pure [`PathSet`], the sockets and connections
//! that it sends through, and what the fast path may touch without it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use quinn::AsyncUdpSocket;
use ringback_protocol::PeerId;
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::path::{Class, PathSet, Purpose, Traffic, Transmit, Via};
use ringback_protocol::receipt::{Nat, PathInUse, Transport, Tried};
use ringback_protocol::reply::Datagram;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use super::congestion::Moves;
use super::search_socket::SearchSocket;
use super::socket::PathSocket;

/// Addresses that a link's peer is remembered at; the oldest is forgotten for a new one.
const MAX_ADDRESSES: usize = 32;
/// How long the paths of a link outlive it.
const LINGER: Duration = Duration::from_secs(1);
/// How often the path set hears of the link's traffic while there is some.
const TRAFFIC_TICK: Duration = Duration::from_millis(100);
/// Shorter datagrams, in bytes, are taken for acknowledgements, which nothing follows.
const SHORT: usize = 60;

/// Where a connection's datagrams are handed over. Never waits: what does not fit is lost, as on
/// any path.
pub(crate) trait DatagramSink: Send + Sync + fmt::Debug {
    /// One datagram, or several of `segment` bytes, of which the last may be shorter.
    fn send(&self, contents: &[u8], segment: usize);
}

/// One link's paths.
pub(super) struct LinkPath {
    pub(super) tag: [u8; 8],
    pub(super) peer: PeerId,
    pub(super) virtual_address: SocketAddr,
    pub(super) paths: Mutex<PathSet>,
    /// Copy of the path set's route, for the fast path.
    pub(super) route: Mutex<Route>,
    /// Timers have changed.
    pub(super) changed: Notify,
    /// The first datagrams of the handshake have left.
    pub(super) sent_handshake: Notify,
    pub(super) marks: Marks,
    moves: Moves,
    /// The way that the route was last, while there was one.
    used: Mutex<Option<Via>>,
    connections: Mutex<HashMap<u32, Arc<dyn DatagramSink>>>,
    sockets: Mutex<HashMap<u16, SearchSocket>>,
    next_connection: AtomicU32,
    in_use: watch::Sender<InUse>,
    /// Where the peer was heard from on the agent's own socket, the newest last.
    addresses: Mutex<VecDeque<SocketAddr>>,
    named: mpsc::UnboundedSender<Vec<Candidate>>,
}

/// What a link's datagrams go by now.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(crate) struct InUse {
    /// `None` until the peer has been heard.
    pub(crate) path: Option<PathInUse>,
    /// Class of the best path that has answered.
    pub(crate) verified: Option<Class>,
    /// It has answered often enough for its round trip to be told.
    pub(crate) measured: bool,
}

/// The way to send by, with what it takes to do so.
#[derive(Clone, Debug, Default)]
pub(super) enum Route {
    #[default]
    None,
    /// From the agent's own socket.
    Main(SocketAddr),
    Search(u16, SearchSocket, SocketAddr),
    Connection(u32, Arc<dyn DatagramSink>),
}

impl Route {
    pub(super) fn via(&self) -> Option<Via> {
        match self {
            Self::None => None,
            Self::Main(to) => Some(Via::udp(*to)),
            Self::Search(socket, _, to) => Some(Via::Udp {
                socket: *socket,
                to: *to,
            }),
            Self::Connection(number, _) => Some(Via::Connection(*number)),
        }
    }
}

/// When data went and came, in microseconds since the socket was made; 0 is never.
#[derive(Debug, Default)]
pub(super) struct Marks {
    unanswered_since: AtomicU64,
    last_received: AtomicU64,
    /// Data was sent since the last tick.
    sent: AtomicBool,
    /// There was data since the last tick, or what it means is not known yet.
    active: AtomicBool,
}

impl Marks {
    /// Data is being sent. True if the driver has to be woken.
    pub(super) fn sent(&self, length: usize, now: impl FnOnce() -> Duration) -> bool {
        if length <= SHORT {
            return false;
        }
        if !self.sent.load(Ordering::Relaxed) {
            self.sent.store(true, Ordering::Relaxed);
        }
        if self.unanswered_since.load(Ordering::Relaxed) == 0 {
            self.unanswered_since
                .store(micros(now()), Ordering::Relaxed);
        }
        !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::Relaxed)
    }

    /// Data has come by the route. True if the driver has to be woken.
    pub(super) fn received(&self, now: Duration) -> bool {
        self.answered();
        self.last_received.store(micros(now), Ordering::Relaxed);
        !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::Relaxed)
    }

    /// Something has come by the route.
    pub(super) fn answered(&self) {
        self.unanswered_since.store(0, Ordering::Relaxed);
    }

    fn reset(&self) {
        self.unanswered_since.store(0, Ordering::Relaxed);
        self.last_received.store(0, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        let read = |mark: &AtomicU64| match mark.load(Ordering::Relaxed) {
            0 => None,
            at => Some(Duration::from_micros(at)),
        };
        Traffic {
            unanswered_since: read(&self.unanswered_since),
            last_received: read(&self.last_received),
            sent: self.sent.swap(false, Ordering::Relaxed),
        }
    }
}

/// Only the port is another: the same network, as far as anybody can tell (RFC 9000, 9.4).
fn is_like(old: Via, new: Via) -> bool {
    match (old.address(), new.address()) {
        (Some(old), Some(new)) => old.ip() == new.ip(),
        _ => false,
    }
}

fn micros(time: Duration) -> u64 {
    (time.as_micros() as u64).max(1)
}

impl LinkPath {
    pub(super) fn new(
        tag: [u8; 8],
        peer: PeerId,
        virtual_address: SocketAddr,
        paths: PathSet,
    ) -> (Arc<Self>, mpsc::UnboundedReceiver<Vec<Candidate>>) {
        let (named, heard) = mpsc::unbounded_channel();
        let link = Self {
            tag,
            peer,
            virtual_address,
            paths: Mutex::new(paths),
            route: Mutex::default(),
            changed: Notify::new(),
            sent_handshake: Notify::new(),
            marks: Marks::default(),
            moves: Moves::default(),
            used: Mutex::default(),
            connections: Mutex::default(),
            sockets: Mutex::default(),
            next_connection: AtomicU32::new(1),
            in_use: watch::Sender::default(),
            addresses: Mutex::default(),
            named,
        };
        (Arc::new(link), heard)
    }

    /// Where the peer says that it is now. The receiver goes with the link.
    pub(super) fn named(&self, candidates: Vec<Candidate>) {
        let _ = self.named.send(candidates);
    }

    pub(super) fn route(&self) -> Route {
        self.route.lock().clone()
    }

    /// Sends what the path set has to send and copies its route.
    pub(super) fn flush(self: &Arc<Self>, socket: &Arc<PathSocket>) {
        let mut paths = self.paths.lock();
        while let Some(transmit) = paths.poll_transmit() {
            if self.may_send(socket, &transmit) {
                self.send(socket, transmit.via, &transmit.datagram);
            }
        }
        let route = paths.route();
        let in_use = InUse {
            path: paths.in_use(),
            verified: paths.class(),
            measured: paths.is_measured(),
        };
        if !paths.is_searching() || !socket.restraint().is_searching(self.tag, Instant::now()) {
            self.close_search_sockets(&paths, route);
        }
        let mut current = self.route.lock();
        if current.via() != route {
            let before = route.and_then(|new| self.used.lock().replace(new));
            if before.is_some_and(|old| route.is_some_and(|new| !is_like(old, new))) {
                self.moves.note();
            }
            *current = self.resolve(route);
            self.marks.reset();
        }
        drop(current);
        drop(paths);
        self.in_use
            .send_if_modified(|known| std::mem::replace(known, in_use) != in_use);
        self.changed.notify_one();
    }

    fn may_send(&self, socket: &PathSocket, transmit: &Transmit) -> bool {
        let now = Instant::now();
        let restraint = socket.restraint();
        let Some(to) = transmit.via.address() else {
            return true;
        };
        match transmit.purpose {
            Purpose::Answered => true,
            Purpose::Unproven => restraint.may_send(to, now),
            Purpose::Search => {
                restraint.may_search(self.tag, self.peer, now) && restraint.may_send(to, now)
            }
        }
    }

    /// The peer has been heard from one more address. Gives one that it is not remembered at any
    /// more, if there were too many.
    pub(super) fn heard_at(&self, address: SocketAddr) -> Option<SocketAddr> {
        let mut addresses = self.addresses.lock();
        addresses.push_back(address);
        if addresses.len() <= MAX_ADDRESSES {
            return None;
        }
        let in_use = self.route.lock().via().and_then(Via::address);
        let oldest = addresses
            .iter()
            .position(|known| Some(*known) != in_use && *known != address)?;
        addresses.remove(oldest)
    }

    fn resolve(&self, via: Option<Via>) -> Route {
        match via {
            None => Route::None,
            Some(Via::Udp { socket: 0, to }) => Route::Main(to),
            Some(Via::Udp { socket, to }) => {
                let sockets = self.sockets.lock();
                let found = sockets.get(&socket).cloned();
                found.map_or(Route::None, |open| Route::Search(socket, open, to))
            }
            Some(Via::Connection(number)) => {
                let connections = self.connections.lock();
                let found = connections.get(&number).cloned();
                found.map_or(Route::None, |sink| Route::Connection(number, sink))
            }
        }
    }

    /// Sends one datagram that is not on the fast path.
    pub(super) fn send(self: &Arc<Self>, socket: &Arc<PathSocket>, via: Via, datagram: &[u8]) {
        match via {
            Via::Udp { socket: 0, to } => socket.send(to, datagram),
            Via::Udp { socket: number, to } => {
                let mut sockets = self.sockets.lock();
                let open = match sockets.get(&number) {
                    Some(open) => open,
                    None => match self.open_search_socket(socket, number) {
                        Ok(open) => sockets.entry(number).or_insert(open),
                        Err(error) => {
                            tracing::debug!(%error, "no further socket for the search");
                            return;
                        }
                    },
                };
                open.send(to, datagram);
            }
            Via::Connection(number) => {
                let connections = self.connections.lock();
                if let Some(sink) = connections.get(&number).cloned() {
                    drop(connections);
                    sink.send(datagram, datagram.len());
                }
            }
        }
    }

    fn open_search_socket(
        self: &Arc<Self>,
        socket: &Arc<PathSocket>,
        number: u16,
    ) -> io::Result<SearchSocket> {
        let permit = socket.restraint().socket();
        let permit = permit.ok_or_else(|| io::Error::other("other searches have all sockets"))?;
        let (socket, link) = (Arc::downgrade(socket), Arc::downgrade(self));
        SearchSocket::open(permit, move |to, contents, stride| {
            let (Some(socket), Some(link)) = (socket.upgrade(), link.upgrade()) else {
                return false;
            };
            let via = Via::Udp { socket: number, to };
            socket.receive(&link, via, contents, stride);
            true
        })
    }

    fn close_search_sockets(&self, paths: &PathSet, route: Option<Via>) {
        let mut sockets = self.sockets.lock();
        if sockets.is_empty() {
            return;
        }
        let in_use: Vec<u16> = paths
            .heard()
            .chain(route)
            .filter_map(|via| match via {
                Via::Udp { socket, .. } => Some(socket),
                Via::Connection(_) => None,
            })
            .collect();
        sockets.retain(|number, _| in_use.contains(number));
    }

    /// Runs the timers of the path set until the link's [`Paths`] are dropped.
    pub(super) async fn drive(self: Arc<Self>, socket: Weak<PathSocket>) {
        loop {
            let Some((started, now)) = socket.upgrade().map(|s| (s.started(), s.now())) else {
                return;
            };
            let due = self.paths.lock().poll_timeout();
            let active = self.marks.active.load(Ordering::Relaxed);
            let tick = active.then(|| now + TRAFFIC_TICK);
            let Some(at) = due.into_iter().chain(tick).min() else {
                self.changed.notified().await;
                continue;
            };
            tokio::select! {
                () = tokio::time::sleep_until((started + at).into()) => {
                    let Some(socket) = socket.upgrade() else { return };
                    let now = socket.now();
                    let mut paths = self.paths.lock();
                    if active {
                        // Before it is read: what comes meanwhile sets it again.
                        self.marks.active.store(false, Ordering::Relaxed);
                        paths.note_traffic(self.marks.traffic(), now);
                        if paths.is_watching() {
                            self.marks.active.store(true, Ordering::Relaxed);
                        }
                    } else {
                        paths.handle_timeout(now);
                    }
                    drop(paths);
                    self.flush(&socket);
                }
                () = self.changed.notified() => {}
            }
        }
    }
}

/// Keeps a link's paths open. Dropping it closes them after [`LINGER`], in which QUIC can tell the
/// peer that the link has ended.
#[derive(Clone)]
pub(crate) struct Paths {
    link: Arc<LinkPath>,
    guard: Arc<PathsGuard>,
}

struct PathsGuard {
    socket: Arc<PathSocket>,
    link: Arc<LinkPath>,
    /// What works for the link and ends with it.
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Paths {
    pub(super) fn new(socket: Arc<PathSocket>, link: Arc<LinkPath>, driver: AbortHandle) -> Self {
        Self {
            link: link.clone(),
            guard: Arc::new(PathsGuard {
                socket,
                link,
                tasks: Mutex::new(vec![driver]),
            }),
        }
    }

    /// The task works for the link and ends with it. It must not hold `Paths` itself.
    pub(crate) fn own(&self, task: AbortHandle) {
        self.guard.tasks.lock().push(task);
    }

    /// The address by which quinn knows the link.
    pub(crate) fn virtual_address(&self) -> SocketAddr {
        self.link.virtual_address
    }

    /// Counts the changes of the link's path.
    pub(super) fn moves(&self) -> Moves {
        self.link.moves.clone()
    }

    /// Changes the path set and sends what comes of it.
    fn with<T>(&self, change: impl FnOnce(&mut PathSet, Duration) -> T) -> T {
        let socket = &self.guard.socket;
        let mut paths = self.link.paths.lock();
        let result = change(&mut paths, socket.now());
        drop(paths);
        self.link.flush(socket);
        result
    }

    /// More addresses of the peer; UDP ones are pinged at once. Must be ranked.
    pub(crate) fn add_candidates(&self, candidates: &[Candidate]) {
        self.with(|paths, now| paths.add_candidates(candidates, now));
    }

    /// The peer answers pings in their length.
    pub(crate) fn set_padding(&self) {
        self.with(PathSet::set_padding);
    }

    /// What the two NATs do to ports: one that scatters them needs a search.
    pub(crate) fn set_nats(&self, own: Nat, peer: Nat) {
        self.with(|paths, now| paths.set_nats(own, peer, now));
    }

    /// Tells the peer where this end may be reached now.
    pub(crate) fn offer(&self, candidates: &[Candidate], nat: Nat) {
        self.with(|paths, now| paths.offer(candidates, nat, now));
    }

    /// The QUIC handshake is complete.
    pub(crate) fn set_established(&self) {
        self.with(|paths, _| paths.set_established());
    }

    /// A connection that carries datagrams to the peer, pinged at once. What comes by it is given
    /// to [`Attached::receive`]; it ends with that value. `None`: the link has too many.
    pub(crate) fn attach(
        &self,
        class: Class,
        transport: Transport,
        kind: Kind,
        address: SocketAddr,
        sink: Arc<dyn DatagramSink>,
    ) -> Option<Attached> {
        attach(
            &self.guard.socket,
            &self.link,
            (class, transport, kind, address),
            sink,
        )
    }

    /// The first datagrams of QUIC's handshake, as soon as they have been sent.
    pub(crate) async fn flight(&self) -> Vec<Datagram> {
        let sent_so_far = || -> Vec<Datagram> {
            let paths = self.link.paths.lock();
            paths.flight().map(|quic| quic.to_vec().into()).collect()
        };
        loop {
            let sent = self.link.sent_handshake.notified();
            let flight = sent_so_far();
            if !flight.is_empty() {
                return flight;
            }
            sent.await;
        }
    }

    /// The first datagrams of the peer's handshake, which have come with its reply.
    pub(crate) fn receive_flight(&self, flight: &[Datagram]) {
        self.guard.socket.receive_flight(&self.link, flight);
    }

    /// What the link's datagrams go by, and every change of it.
    pub(crate) fn in_use(&self) -> watch::Receiver<InUse> {
        self.link.in_use.subscribe()
    }

    /// A path answers pings at present.
    pub(crate) fn is_verified(&self) -> bool {
        self.link.in_use.borrow().verified.is_some()
    }

    /// Waits until a path has answered a ping.
    pub(crate) async fn verified(&self) {
        let mut in_use = self.in_use();
        // The sender lives as long as the link, which `self` holds.
        let _ = in_use.wait_for(|in_use| in_use.verified.is_some()).await;
    }

    /// Waits until the path's round trip can be told, at most for `limit`; can it?
    pub(crate) async fn measured(&self, limit: Duration) -> bool {
        let mut in_use = self.in_use();
        let wait = in_use.wait_for(|in_use| in_use.measured);
        matches!(tokio::time::timeout(limit, wait).await, Ok(Ok(_)))
    }

    pub(crate) fn path(&self) -> Option<PathInUse> {
        self.link.paths.lock().in_use()
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.link.paths.lock().rtt()
    }

    pub(crate) fn report(&self) -> Vec<Tried> {
        self.link.paths.lock().report()
    }

    /// The same, for somebody who must not keep the link's paths open.
    pub(crate) fn downgrade(&self) -> WeakPaths {
        WeakPaths(self.link.clone(), Arc::downgrade(&self.guard))
    }
}

/// See [`Paths::downgrade`].
#[derive(Clone)]
pub(crate) struct WeakPaths(Arc<LinkPath>, Weak<PathsGuard>);

impl WeakPaths {
    pub(crate) fn upgrade(&self) -> Option<Paths> {
        Some(Paths {
            link: self.0.clone(),
            guard: self.1.upgrade()?,
        })
    }
}

impl Drop for PathsGuard {
    fn drop(&mut self) {
        let (socket, link) = (self.socket.clone(), self.link.clone());
        let tasks = std::mem::take(&mut *self.tasks.lock());
        // Without a runtime the process is ending, and the socket with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(LINGER).await;
                tasks.iter().for_each(AbortHandle::abort);
                socket.remove(&link);
            });
        }
    }
}

/// A connection that belongs to a link.
pub(crate) struct Attached {
    socket: Arc<PathSocket>,
    link: Arc<LinkPath>,
    number: u32,
}

pub(super) fn attach(
    socket: &Arc<PathSocket>,
    link: &Arc<LinkPath>,
    (class, transport, kind, address): (Class, Transport, Kind, SocketAddr),
    sink: Arc<dyn DatagramSink>,
) -> Option<Attached> {
    let number = link.next_connection.fetch_add(1, Ordering::Relaxed);
    link.connections.lock().insert(number, sink);
    let attached = Attached {
        socket: socket.clone(),
        link: link.clone(),
        number,
    };
    let mut paths = link.paths.lock();
    let taken = paths.add_connection(number, class, transport, kind, address, socket.now());
    drop(paths);
    link.flush(socket);
    taken.then_some(attached)
}

impl Attached {
    /// Datagrams of `segment` bytes each, of which the last may be shorter, have come. False:
    /// nothing of it was the peer's.
    pub(crate) fn receive(&self, contents: &[u8], segment: usize) -> bool {
        self.socket
            .receive(&self.link, Via::Connection(self.number), contents, segment)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut connections = self.link.connections.lock();
        connections.remove(&self.number);
        drop(connections);
        let mut paths = self.link.paths.lock();
        paths.remove_connection(self.number, self.socket.now());
        drop(paths);
        self.link.flush(&self.socket);
    }
}

impl fmt::Debug for LinkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkPath({:?})", self.peer)
    }
}

impl fmt::Debug for WeakPaths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WeakPaths({:?})", self.0.peer)
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paths({:?})", self.link.peer)
    }
}

/// For [`Route`]: anything that quinn can send through.
pub(super) type Io = Arc<dyn AsyncUdpSocket>;
