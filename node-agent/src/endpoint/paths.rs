//! What holds a link's paths open, and what the link does with them.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::path::{Class, PathKeys, PathSet, Role};
use ringback_protocol::receipt::{Nat, PathInUse, Transport, Tried};
use ringback_protocol::reply::Datagram;
use tokio::sync::{mpsc, watch};
use tokio::task::AbortHandle;

use super::attached::{Attached, attach};
use super::congestion::Moves;
use super::link_path::{InUse, LinkPath};
use super::route::DatagramSink;
use super::socket::PathSocket;

/// How long the paths of a link outlive it.
const LINGER: Duration = Duration::from_secs(1);

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
    /// Opens the paths of a new link to `peer`. `candidates` must be ranked. The receiver gives what
    /// the peer says later of its addresses.
    pub(super) fn open(
        socket: &Arc<PathSocket>,
        peer: PeerId,
        role: Role,
        keys: &PathKeys,
        candidates: &[Candidate],
    ) -> (Self, mpsc::UnboundedReceiver<Vec<Candidate>>) {
        let (link, named) = socket.add_link(peer, role, keys, candidates);
        let main = socket.main();
        let driver = tokio::spawn(link.clone().drive(Arc::downgrade(main))).abort_handle();
        link.flush(main);
        let guard = PathsGuard {
            socket: socket.clone(),
            link: link.clone(),
            tasks: Mutex::new(vec![driver]),
        };
        let guard = Arc::new(guard);
        (Self { link, guard }, named)
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
        let main = self.guard.socket.main();
        let mut paths = self.link.paths.lock();
        let result = change(&mut paths, main.now());
        drop(paths);
        self.link.flush(main);
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
            self.guard.socket.main(),
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
        self.link.receive_flight(self.guard.socket.main(), flight);
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
