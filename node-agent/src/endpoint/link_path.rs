//! The paths of one link, as the socket sees them: the pure [`PathSet`], the sockets and connections
//! that it sends through, and what the fast path may touch without it.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::candidate::Candidate;
use ringback_protocol::path::{
    self, Class, PathSet, Purpose, Received, Transmit, Via, is_long_header,
};
use ringback_protocol::receipt::PathInUse;
use ringback_protocol::reply::Datagram;
use tokio::sync::{Notify, mpsc, watch};

use super::congestion::Moves;
use super::first_byte::is_quic;
use super::main_socket::MainSocket;
use super::marks::Marks;
use super::route::{DatagramSink, Route};
use super::search_socket::SearchSocket;

/// Addresses that a link's peer is remembered at; the oldest is forgotten for a new one.
const MAX_ADDRESSES: usize = 32;
/// How often the path set hears of the link's traffic while there is some.
const TRAFFIC_TICK: Duration = Duration::from_millis(100);

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
    pub(super) moves: Moves,
    /// The way that the route was last, while there was one.
    used: Mutex<Option<Via>>,
    pub(super) connections: Mutex<HashMap<u32, Arc<dyn DatagramSink>>>,
    sockets: Mutex<HashMap<u16, SearchSocket>>,
    pub(super) next_connection: AtomicU32,
    pub(super) in_use: watch::Sender<InUse>,
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

/// Only the port is another: the same network, as far as anybody can tell (RFC 9000, 9.4).
fn is_like(old: Via, new: Via) -> bool {
    match (old.address(), new.address()) {
        (Some(old), Some(new)) => old.ip() == new.ip(),
        _ => false,
    }
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
    pub(super) fn flush(self: &Arc<Self>, main: &Arc<MainSocket>) {
        let mut paths = self.paths.lock();
        while let Some(transmit) = paths.poll_transmit() {
            if self.may_send(main, &transmit) {
                self.send(main, transmit.via, &transmit.datagram);
            }
        }
        let route = paths.route();
        let in_use = InUse {
            path: paths.in_use(),
            verified: paths.class(),
            measured: paths.is_measured(),
        };
        if !paths.is_searching() || !main.restraint().is_searching(self.tag, Instant::now()) {
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

    fn may_send(&self, main: &MainSocket, transmit: &Transmit) -> bool {
        let now = Instant::now();
        let restraint = main.restraint();
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

    /// Datagrams for the link that came by another socket or a connection. False if nothing of it was
    /// the peer's for certain: QUIC can not be judged here.
    pub(super) fn receive(
        self: &Arc<Self>,
        main: &Arc<MainSocket>,
        via: Via,
        contents: &[u8],
        segment: usize,
    ) -> bool {
        let mut authentic = false;
        let mut quic = Vec::new();
        for datagram in contents.chunks(segment.max(1)) {
            if is_quic(datagram) && !is_long_header(datagram) {
                quic.extend_from_slice(datagram);
            } else if datagram.first() == Some(&path::FIRST_BYTE)
                && path::link_tag(datagram) == Some(self.tag)
                && let Some(received) = self.handle_datagram(main, via, datagram)
            {
                authentic = true;
                self.take_in(main, via, received);
            }
        }
        if !quic.is_empty() && self.is_way(via) {
            self.note_data(main, via);
            main.inbox.push(self.virtual_address, quic, segment);
        }
        main.inbox.wake();
        authentic
    }

    /// Bare QUIC is taken only from where the peer has proven itself.
    fn is_way(&self, via: Via) -> bool {
        let paths = self.paths.lock();
        paths.heard().any(|heard| heard == via)
    }

    /// Data of the link came by `via`.
    pub(super) fn note_data(self: &Arc<Self>, main: &Arc<MainSocket>, via: Via) {
        let now = main.now();
        if self.route.lock().via() == Some(via) {
            if self.marks.received(now) {
                self.changed.notify_one();
            }
        } else {
            let mut paths = self.paths.lock();
            paths.heard_data(via, now);
            drop(paths);
            self.flush(main);
        }
    }

    /// A path datagram of the link has come by `via`. `None` if it is not the peer's.
    pub(super) fn handle_datagram(
        &self,
        main: &MainSocket,
        via: Via,
        datagram: &[u8],
    ) -> Option<Received> {
        let mut paths = self.paths.lock();
        let received = paths.handle_datagram(via, datagram, main.now());
        drop(paths);
        (received != Received::Nothing).then_some(received)
    }

    /// Passes on what a path datagram was that has come by `via`, and sends the answer.
    pub(super) fn take_in(self: &Arc<Self>, main: &Arc<MainSocket>, via: Via, received: Received) {
        if self.route.lock().via() == Some(via) {
            self.marks.answered();
        }
        match received {
            Received::Handshake(quic) => {
                let segment = quic.len();
                main.inbox.push(self.virtual_address, quic, segment);
            }
            Received::Candidates(candidates) => self.named(candidates),
            Received::Authentic | Received::Nothing => {}
        }
        self.flush(main);
    }

    /// The device's first datagrams, which came with its reply.
    pub(super) fn receive_flight(&self, main: &MainSocket, flight: &[Datagram]) {
        for datagram in flight.iter().filter(|datagram| is_long_header(datagram)) {
            main.inbox
                .push(self.virtual_address, datagram.to_vec(), datagram.len());
        }
        main.inbox.wake();
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
    pub(super) fn send(self: &Arc<Self>, main: &Arc<MainSocket>, via: Via, datagram: &[u8]) {
        match via {
            Via::Udp { socket: 0, to } => main.send(to, datagram),
            Via::Udp { socket: number, to } => {
                let mut sockets = self.sockets.lock();
                let open = match sockets.get(&number) {
                    Some(open) => open,
                    None => match self.open_search_socket(main, number) {
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
        main: &Arc<MainSocket>,
        number: u16,
    ) -> io::Result<SearchSocket> {
        let permit = main.restraint().socket();
        let permit = permit.ok_or_else(|| io::Error::other("other searches have all sockets"))?;
        let (main, link) = (Arc::downgrade(main), Arc::downgrade(self));
        SearchSocket::open(permit, move |to, contents, stride| {
            let (Some(main), Some(link)) = (main.upgrade(), link.upgrade()) else {
                return false;
            };
            let via = Via::Udp { socket: number, to };
            link.receive(&main, via, contents, stride);
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

    /// Runs the timers of the path set until the link's paths are closed.
    pub(super) async fn drive(self: Arc<Self>, main: Weak<MainSocket>) {
        loop {
            let Some((started, now)) = main.upgrade().map(|s| (s.started(), s.now())) else {
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
                    let Some(main) = main.upgrade() else { return };
                    let now = main.now();
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
                    self.flush(&main);
                }
                () = self.changed.notified() => {}
            }
        }
    }
}

impl fmt::Debug for LinkPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LinkPath({:?})", self.peer)
    }
}
