//! The one UDP socket of an agent (DESIGN: one socket serves QUIC, STUN and path probes).
//!
//! quinn sees one made-up IPv6 address per link and never learns which path its datagrams take:
//! [`PathSocket`] maps that *virtual address* to the current path on the way out, and real
//! addresses back to it on the way in. Datagrams are told apart by their first byte (RFC 9443);
//! with receive offload every segment of a batch is looked at. Two agents that call each other
//! have two links between the same two sockets: then quinn gets a datagram once for each, knows
//! the connection by its ID, and drops the copy that comes from the wrong address.
//!
//! The fast path (QUIC datagrams with a short header) costs one hash look-up per batch and keeps
//! segmentation offload; everything else goes through the link's [`PathSet`].

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, RwLock, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use ringback_protocol::PeerId;
use ringback_protocol::beacon;
use ringback_protocol::candidate::{Candidate, canonical};
use ringback_protocol::path::{self, PathKeys, PathSet, Received, Role};
use ringback_protocol::receipt::Tried;
use tokio::sync::{Notify, mpsc, watch};

use super::stun::Stun;

/// fd72:6262::/64: unique local addresses that stand for links inside this process.
const VIRTUAL_PREFIX: [u16; 4] = [0xfd72, 0x6262, 0, 0];
const VIRTUAL_PORT: u16 = 1;
/// QUIC: set in the first byte of long headers (RFC 9000, 17.2).
const LONG_HEADER: u8 = 0x80;
/// How long the paths of a link outlive it.
const LINGER: Duration = Duration::from_secs(1);

/// The socket under quinn. Shared by the endpoint, the links and STUN.
pub(crate) struct PathSocket {
    io: Arc<dyn AsyncUdpSocket>,
    /// The socket is IPv6 and takes IPv4 as mapped addresses.
    dual_stack: bool,
    started: Instant,
    links: RwLock<Links>,
    /// Opened handshake datagrams for quinn, and what came behind them. Emptied before more is read
    /// from the socket, so it never holds more than one read's worth.
    inbox: Mutex<VecDeque<(SocketAddr, Vec<u8>)>>,
    pub(crate) stun: Stun,
    /// Who takes the beacon's datagrams (PROTOCOL §16).
    beacon: Mutex<Option<BeaconQueue>>,
}

/// Datagrams of a beacon on the main socket, and where they came from.
type BeaconQueue = mpsc::Sender<(SocketAddr, Vec<u8>)>;

#[derive(Default)]
struct Links {
    next: u64,
    by_virtual: HashMap<SocketAddr, Arc<LinkPath>>,
    by_tag: HashMap<[u8; 8], Arc<LinkPath>>,
    /// Virtual addresses of the links whose peer is at a real address: one, as a rule.
    by_address: HashMap<SocketAddr, Vec<SocketAddr>>,
}

/// The paths of one link, as the socket sees them.
struct LinkPath {
    tag: [u8; 8],
    peer: PeerId,
    virtual_address: SocketAddr,
    paths: Mutex<PathSet>,
    /// Copy of the path set's route, for the fast path.
    route: Mutex<Option<SocketAddr>>,
    /// Timers have changed.
    changed: Notify,
    /// Some path has answered a ping.
    verified: watch::Sender<bool>,
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
    driver: tokio::task::AbortHandle,
}

impl PathSocket {
    pub(crate) fn new(io: Arc<dyn AsyncUdpSocket>) -> io::Result<Self> {
        Ok(Self {
            dual_stack: io.local_addr()?.is_ipv6(),
            io,
            started: Instant::now(),
            links: RwLock::default(),
            inbox: Mutex::default(),
            stun: Stun::default(),
            beacon: Mutex::default(),
        })
    }

    /// Waits until the socket takes datagrams: a new one does not until the reactor has seen it.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let mut poller = self.io.clone().create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await
    }

    /// The address that the socket is bound to.
    pub(crate) fn bound(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// Opens the paths of a new link to `peer`. `candidates` must be ranked.
    pub(crate) fn open(
        self: &Arc<Self>,
        peer: PeerId,
        role: Role,
        keys: &PathKeys,
        candidates: &[Candidate],
    ) -> Paths {
        let paths = PathSet::new(role, keys, rand::random(), candidates, self.now());
        let mut links = self.links.write().expect("not poisoned");
        links.next += 1;
        let link = Arc::new(LinkPath {
            tag: keys.tag(),
            peer,
            virtual_address: virtual_address(links.next),
            paths: Mutex::new(paths),
            route: Mutex::new(None),
            changed: Notify::new(),
            verified: watch::Sender::new(false),
        });
        links.by_virtual.insert(link.virtual_address, link.clone());
        links.by_tag.insert(link.tag, link.clone());
        drop(links);
        let driver = tokio::spawn(drive(Arc::downgrade(self), link.clone())).abort_handle();
        self.flush(&link);
        Paths {
            link: link.clone(),
            guard: Arc::new(PathsGuard {
                socket: self.clone(),
                link,
                driver,
            }),
        }
    }

    /// From now on the beacon's datagrams come here.
    pub(crate) fn listen_to_beacon(&self) -> mpsc::Receiver<(SocketAddr, Vec<u8>)> {
        let (sender, receiver) = mpsc::channel(64);
        *self.beacon.lock().expect("not poisoned") = Some(sender);
        receiver
    }

    /// Sends one datagram that is not QUIC's. Lost if the socket is full, like any datagram.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let transmit = Transmit {
            destination: self.outward(to),
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: None,
        };
        if let Err(error) = self.io.try_send(&transmit) {
            tracing::trace!(%error, "datagram not sent");
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Sends what the link's path set has to send and copies its route.
    fn flush(&self, link: &LinkPath) {
        let mut paths = link.paths.lock().expect("not poisoned");
        while let Some(transmit) = paths.poll_transmit() {
            self.send(transmit.to, &transmit.datagram);
        }
        let verified = paths.rtt().is_some();
        *link.route.lock().expect("not poisoned") = paths.route();
        drop(paths);
        link.verified
            .send_if_modified(|known| std::mem::replace(known, verified) != verified);
        link.changed.notify_one();
    }

    fn outward(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.dual_stack => (ip.to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }

    /// Takes out of a received batch what is not QUIC's and returns how many bytes are left. All
    /// segments of a batch come from one address and have one length, but for the last.
    fn sort(&self, from: SocketAddr, batch: &mut [u8], stride: usize) -> usize {
        let plain = batch
            .chunks(stride)
            .all(|segment| is_quic(segment) && !is_long_header(segment));
        if plain && !self.must_divert(from) {
            return batch.len();
        }
        let mut kept = 0;
        let mut at = 0;
        while at < batch.len() {
            let end = (at + stride).min(batch.len());
            let segment = &batch[at..end];
            if is_quic(segment) {
                // A bare long header starts no handshake here: those come sealed.
                if !is_long_header(segment) && !self.divert(from, segment) {
                    batch.copy_within(at..end, kept);
                    kept += end - at;
                }
            } else if segment.first() == Some(&path::FIRST_BYTE) {
                self.handle_path_datagram(from, segment);
            } else if segment.first().is_some_and(|first| *first < 4) {
                self.stun.handle(from, segment);
            } else if segment.first() == Some(&beacon::FIRST_BYTE)
                && let Some(queue) = &*self.beacon.lock().expect("not poisoned")
            {
                // What does not fit is lost, like any datagram.
                let _ = queue.try_send((from, segment.to_vec()));
            }
            at = end;
        }
        kept
    }

    fn handle_path_datagram(&self, from: SocketAddr, datagram: &[u8]) {
        let Some(tag) = path::link_tag(datagram) else {
            return;
        };
        let Some(link) = self
            .links
            .read()
            .expect("not poisoned")
            .by_tag
            .get(&tag)
            .cloned()
        else {
            return;
        };
        let received =
            link.paths
                .lock()
                .expect("not poisoned")
                .handle_datagram(from, datagram, self.now());
        if received == Received::Nothing {
            return;
        }
        self.note_address(from, link.virtual_address);
        if let Received::Handshake(quic) = received {
            self.inbox
                .lock()
                .expect("not poisoned")
                .push_back((link.virtual_address, quic));
        }
        self.flush(&link);
    }

    /// The link's peer has been heard from `from`.
    fn note_address(&self, from: SocketAddr, virtual_address: SocketAddr) {
        let knows = |links: &Links| {
            let known = links.by_address.get(&from);
            known.is_some_and(|known| known.contains(&virtual_address))
        };
        if !knows(&self.links.read().expect("not poisoned")) {
            let mut links = self.links.write().expect("not poisoned");
            links
                .by_address
                .entry(from)
                .or_default()
                .push(virtual_address);
        }
    }

    /// Must datagrams from `from` be handed to quinn one by one? Behind an opened handshake datagram
    /// the order must stay: a datagram that overtakes the last of the handshake can not be decrypted
    /// yet, counts as lost, and ends slow start. And a batch of two links must be taken apart.
    fn must_divert(&self, from: SocketAddr) -> bool {
        let several = |known: &Vec<SocketAddr>| known.len() > 1;
        !self.inbox.lock().expect("not poisoned").is_empty()
            || self
                .links
                .read()
                .expect("not poisoned")
                .by_address
                .get(&from)
                .is_some_and(several)
    }

    /// Puts a datagram with a short header into the inbox if it must go that way.
    fn divert(&self, from: SocketAddr, quic: &[u8]) -> bool {
        if !self.must_divert(from) {
            return false;
        }
        let links = self.links.read().expect("not poisoned");
        let mut inbox = self.inbox.lock().expect("not poisoned");
        for virtual_address in links.by_address.get(&from).into_iter().flatten() {
            inbox.push_back((*virtual_address, quic.to_vec()));
        }
        true
    }

    /// Hands opened handshake datagrams to quinn, one per buffer.
    fn drain_inbox(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut inbox = self.inbox.lock().expect("not poisoned");
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some((from, quic)) = inbox.pop_front() else {
                break;
            };
            buf[..quic.len()].copy_from_slice(&quic);
            *meta = RecvMeta {
                addr: from,
                len: quic.len(),
                stride: quic.len(),
                ecn: None,
                dst_ip: None,
            };
            count += 1;
        }
        count
    }

    fn send_handshake(&self, link: &LinkPath, transmit: &Transmit<'_>) {
        let stride = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        for segment in transmit.contents.chunks(stride) {
            if is_long_header(segment) {
                link.paths
                    .lock()
                    .expect("not poisoned")
                    .send_handshake(segment);
                self.flush(link);
            } else if let Some(route) = link.route() {
                self.send(route, segment);
            }
        }
    }
}

impl Links {
    fn remove(&mut self, link: &LinkPath) {
        let gone = link.virtual_address;
        self.by_tag.remove(&link.tag);
        self.by_virtual.remove(&gone);
        self.by_address.retain(|_, known| {
            known.retain(|known| *known != gone);
            !known.is_empty()
        });
    }
}

impl LinkPath {
    fn route(&self) -> Option<SocketAddr> {
        *self.route.lock().expect("not poisoned")
    }
}

impl AsyncUdpSocket for PathSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.io.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let link = self
            .links
            .read()
            .expect("not poisoned")
            .by_virtual
            .get(&transmit.destination)
            .cloned();
        // The last datagrams of a link that is gone go nowhere.
        let Some(link) = link else { return Ok(()) };
        let stride = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        if transmit.contents.chunks(stride).any(is_long_header) {
            self.send_handshake(&link, transmit);
            return Ok(());
        }
        let Some(route) = link.route() else {
            return Ok(());
        };
        self.io.try_send(&Transmit {
            destination: self.outward(route),
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        })
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        loop {
            let drained = self.drain_inbox(bufs, meta);
            if drained > 0 {
                return Poll::Ready(Ok(drained));
            }
            let count = match self.io.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(count)) => count,
                other => return other,
            };
            let mut for_quinn = false;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                let from = canonical(meta.addr);
                let stride = meta.stride.max(1);
                meta.len = self.sort(from, &mut buf[..meta.len], stride);
                meta.dst_ip = None;
                if meta.len > 0 {
                    let links = self.links.read().expect("not poisoned");
                    match links.by_address.get(&from).and_then(|known| known.first()) {
                        Some(virtual_address) => meta.addr = *virtual_address,
                        None => meta.len = 0,
                    }
                }
                for_quinn |= meta.len > 0;
            }
            if for_quinn {
                return Poll::Ready(Ok(count));
            }
        }
    }

    /// Always IPv6, as the virtual addresses are.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv6Addr::UNSPECIFIED, self.io.local_addr()?.port()).into())
    }

    fn max_transmit_segments(&self) -> usize {
        self.io.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.io.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.io.may_fragment()
    }
}

impl Paths {
    /// The address by which quinn knows the link.
    pub(crate) fn virtual_address(&self) -> SocketAddr {
        self.link.virtual_address
    }

    /// More addresses of the peer; they are pinged at once. Must be ranked.
    pub(crate) fn add_candidates(&self, candidates: &[Candidate]) {
        let socket = &self.guard.socket;
        self.link
            .paths
            .lock()
            .expect("not poisoned")
            .add_candidates(candidates, socket.now());
        socket.flush(&self.link);
    }

    /// The QUIC handshake is complete.
    pub(crate) fn set_established(&self) {
        self.link
            .paths
            .lock()
            .expect("not poisoned")
            .set_established();
    }

    /// Waits until a path has answered a ping.
    pub(crate) async fn verified(&self) {
        // The sender lives as long as the link, which `self` holds.
        let _ = self
            .link
            .verified
            .subscribe()
            .wait_for(|verified| *verified)
            .await;
    }

    pub(crate) fn route(&self) -> Option<SocketAddr> {
        self.link.paths.lock().expect("not poisoned").route()
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.link.paths.lock().expect("not poisoned").rtt()
    }

    pub(crate) fn report(&self) -> Vec<Tried> {
        self.link.paths.lock().expect("not poisoned").report()
    }
}

impl Drop for PathsGuard {
    fn drop(&mut self) {
        self.driver.abort();
        let (socket, link) = (self.socket.clone(), self.link.clone());
        // Without a runtime the process is ending, and the socket with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                tokio::time::sleep(LINGER).await;
                socket.links.write().expect("not poisoned").remove(&link);
            });
        }
    }
}

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSocket")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Paths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Paths({:?})", self.link.peer)
    }
}

/// Runs the timers of a link's path set until its [`Paths`] are dropped.
async fn drive(socket: Weak<PathSocket>, link: Arc<LinkPath>) {
    loop {
        let Some(started) = socket.upgrade().map(|socket| socket.started) else {
            return;
        };
        let timeout = link.paths.lock().expect("not poisoned").poll_timeout();
        match timeout {
            Some(at) => tokio::select! {
                () = tokio::time::sleep_until((started + at).into()) => {
                    let Some(socket) = socket.upgrade() else { return };
                    link.paths.lock().expect("not poisoned").handle_timeout(socket.now());
                    socket.flush(&link);
                }
                () = link.changed.notified() => {}
            },
            None => link.changed.notified().await,
        }
    }
}

fn virtual_address(number: u64) -> SocketAddr {
    let [a, b, c, d] = VIRTUAL_PREFIX;
    let n = number.to_be_bytes();
    let word = |i: usize| u16::from_be_bytes([n[i], n[i + 1]]);
    (
        Ipv6Addr::new(a, b, c, d, word(0), word(2), word(4), word(6)),
        VIRTUAL_PORT,
    )
        .into()
}

fn is_quic(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| matches!(first, 64..=127 | 192..=255))
}

fn is_long_header(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| first & LONG_HEADER != 0)
}
