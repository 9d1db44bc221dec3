//! The one UDP socket of an agent for QUIC, STUN, path datagrams and WebRTC (RFC 7983).
//!
//! quinn sees one made-up IPv6 address per link and never learns which path its datagrams take:
//! [`PathSocket`] maps that *virtual address* to the link's current path on the way out, and the way
//! that a datagram came by back to it on the way in. Datagrams are told apart by their first byte
//! (RFC 9443); with receive offload every segment of a batch is looked at. Two agents that call each
//! other have two links between the same two sockets: then quinn gets a datagram once for each,
//! knows the connection by its ID, and drops the copy that comes from the wrong address.
//!
//! The fast path (QUIC datagrams with a short header on the agent's own socket) costs one hash
//! look-up per batch and keeps segmentation offload. What comes by other sockets and by connections
//! goes through an inbox, a batch at a time; everything that is not QUIC goes through the link's
//! path set.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, RwLock};
use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use ringback_protocol::PeerId;
use ringback_protocol::beacon;
use ringback_protocol::candidate::Candidate;
use ringback_protocol::path::{self, PathKeys, PathSet, Received, Role, Via, is_long_header};
use ringback_protocol::reply::Datagram;
use tokio::sync::mpsc;

use super::link_path::{Io, LinkPath, Paths, Route};
use super::restraint::Restraint;
use super::stun::Stun;
use crate::nat64;
use crate::rtc::Inlets;

/// fd72:6262::/64: unique local addresses that stand for links inside this process.
const VIRTUAL_PREFIX: [u16; 4] = [0xfd72, 0x6262, 0, 0];
const VIRTUAL_PORT: u16 = 1;
/// Bytes that wait for quinn beside the socket's own buffer, at most.
const INBOX: usize = 8 << 20;

/// The socket under quinn. Shared by the endpoint, the links and STUN.
pub(crate) struct PathSocket {
    io: Io,
    /// The socket is IPv6 and takes IPv4 as mapped addresses.
    dual_stack: bool,
    started: Instant,
    /// The registry is on loopback: peers may be, too.
    loopback: bool,
    links: RwLock<Links>,
    inbox: Mutex<Inbox>,
    /// quinn waits for datagrams.
    reader: AtomicWaker,
    pub(crate) stun: Stun,
    /// Who takes the beacon's datagrams (PROTOCOL §16).
    beacon: Mutex<Option<BeaconQueue>>,
    /// Who takes those of browsers (PROTOCOL §19).
    browsers: Inlets,
    restraint: Restraint,
}

/// Opened handshake datagrams for quinn and what came behind them, and what came by other sockets
/// and connections.
#[derive(Default)]
struct Inbox {
    batches: VecDeque<Batch>,
    bytes: usize,
}

/// Datagrams of one link: `segment` bytes each, the last may be shorter.
struct Batch {
    from: SocketAddr,
    contents: Vec<u8>,
    segment: usize,
}

impl Inbox {
    fn push(&mut self, from: SocketAddr, contents: Vec<u8>, segment: usize) {
        // What does not fit is lost, as in the socket's buffer.
        if !contents.is_empty() && self.bytes + contents.len() <= INBOX {
            self.bytes += contents.len();
            self.batches.push_back(Batch {
                from,
                contents,
                segment,
            });
        }
    }
}

/// Datagrams of a beacon on the main socket, and where they came from.
type BeaconQueue = mpsc::Sender<(SocketAddr, Vec<u8>)>;

#[derive(Default)]
struct Links {
    next: u64,
    by_virtual: HashMap<SocketAddr, Arc<LinkPath>>,
    by_tag: HashMap<[u8; 8], Arc<LinkPath>>,
    /// The links whose peer is at an address of the agent's own socket: one, as a rule.
    by_address: HashMap<SocketAddr, Vec<Arc<LinkPath>>>,
}

impl PathSocket {
    pub(crate) fn new(io: Io, loopback: bool) -> io::Result<Self> {
        Ok(Self {
            dual_stack: io.local_addr()?.is_ipv6(),
            io,
            started: Instant::now(),
            loopback,
            links: RwLock::default(),
            inbox: Mutex::default(),
            reader: AtomicWaker::new(),
            stun: Stun::default(),
            beacon: Mutex::default(),
            browsers: Inlets::default(),
            restraint: Restraint::default(),
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

    /// Opens the paths of a new link to `peer`. `candidates` must be ranked. The receiver gives what
    /// the peer says later of its addresses.
    pub(crate) fn open(
        self: &Arc<Self>,
        peer: PeerId,
        role: Role,
        keys: &PathKeys,
        candidates: &[Candidate],
    ) -> (Paths, mpsc::UnboundedReceiver<Vec<Candidate>>) {
        let mut paths = PathSet::new(role, keys, rand::random(), candidates, self.now());
        if self.loopback {
            paths.allow_loopback();
        }
        let mut links = self.links.write();
        links.next += 1;
        let address = virtual_address(links.next);
        let (link, named) = LinkPath::new(keys.tag(), peer, address, paths);
        links.by_virtual.insert(link.virtual_address, link.clone());
        links.by_tag.insert(link.tag, link.clone());
        drop(links);
        let driver = tokio::spawn(link.clone().drive(Arc::downgrade(self))).abort_handle();
        link.flush(self);
        (Paths::new(self.clone(), link, driver), named)
    }

    pub(super) fn remove(&self, link: &LinkPath) {
        self.links.write().remove(link);
    }

    /// From now on the beacon's datagrams come here.
    pub(crate) fn listen_to_beacon(&self) -> mpsc::Receiver<(SocketAddr, Vec<u8>)> {
        let (sender, receiver) = mpsc::channel(64);
        *self.beacon.lock() = Some(sender);
        receiver
    }

    /// What may be sent to addresses that nobody has answered from.
    pub(crate) fn restraint(&self) -> &Restraint {
        &self.restraint
    }

    /// Where the datagrams of browsers' links go.
    pub(crate) fn browsers(&self) -> &Inlets {
        &self.browsers
    }

    /// Sends datagrams of `segment` bytes, the last may be shorter, at once and all together.
    pub(crate) fn send_all(
        &self,
        to: SocketAddr,
        contents: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        self.io.try_send(&Transmit {
            destination: self.outward(to),
            ecn: None,
            contents,
            segment_size: (segment < contents.len()).then_some(segment),
            src_ip: None,
        })
    }

    /// Datagrams that [`PathSocket::send_all`] takes at most.
    pub(crate) fn max_transmit_segments(&self) -> usize {
        self.io.max_transmit_segments()
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

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// The link that a path datagram is for, by its tag.
    pub(super) fn link(&self, datagram: &[u8]) -> Option<Arc<LinkPath>> {
        let tag = path::link_tag(datagram)?;
        let links = self.links.read();
        links.by_tag.get(&tag).cloned()
    }

    /// Every link that is open now.
    pub(super) fn each_link(self: &Arc<Self>, change: impl Fn(&mut PathSet, Duration)) {
        let links = self.links.read();
        let all: Vec<Arc<LinkPath>> = links.by_tag.values().cloned().collect();
        drop(links);
        for link in all {
            change(&mut link.paths.lock(), self.now());
            link.flush(self);
        }
    }

    fn outward(&self, address: SocketAddr) -> SocketAddr {
        let address = nat64::outward(address);
        match address.ip() {
            IpAddr::V4(ip) if self.dual_stack => (ip.to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }

    /// Datagrams for `link` that came by another socket or a connection. False if nothing of it was
    /// the peer's for certain: QUIC can not be judged here.
    pub(super) fn receive(
        self: &Arc<Self>,
        link: &Arc<LinkPath>,
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
                && path::link_tag(datagram) == Some(link.tag)
            {
                authentic |= self.handle_path_datagram(link, via, datagram);
            }
        }
        if !quic.is_empty() && self.is_way_of(link, via) {
            self.note_data(link, via);
            let mut inbox = self.inbox.lock();
            inbox.push(link.virtual_address, quic, segment);
        }
        self.reader.wake();
        authentic
    }

    /// Bare QUIC is taken only from where the peer has proven itself.
    fn is_way_of(&self, link: &LinkPath, via: Via) -> bool {
        let paths = link.paths.lock();
        paths.heard().any(|heard| heard == via)
    }

    /// Data of the link came by `via`.
    fn note_data(self: &Arc<Self>, link: &Arc<LinkPath>, via: Via) {
        let now = self.now();
        if link.route.lock().via() == Some(via) {
            if link.marks.received(now) {
                link.changed.notify_one();
            }
        } else {
            let mut paths = link.paths.lock();
            paths.heard_data(via, now);
            drop(paths);
            link.flush(self);
        }
    }

    /// Takes out of a received batch what is not QUIC's and returns how many bytes are left. All
    /// segments of a batch come from one address and have one length, but for the last.
    fn sort(self: &Arc<Self>, from: SocketAddr, batch: &mut [u8], stride: usize) -> usize {
        let plain = batch
            .chunks(stride)
            .all(|segment| is_quic(segment) && !is_long_header(segment));
        if plain && !self.must_divert(from) {
            return batch.len();
        }
        if batch.chunks(stride).all(is_dtls) {
            self.browsers.receive(from, batch, stride);
            return 0;
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
                if let Some(link) = self.link(segment) {
                    self.handle_path_datagram(&link, Via::udp(from), segment);
                }
            } else if segment.first().is_some_and(|first| *first < 4) {
                // Answers that the agent itself has asked for come first: a browser may name the
                // address of a STUN server.
                if !self.browsers.receive_check(from, segment) && !self.stun.handle(from, segment) {
                    self.browsers.receive(from, segment, segment.len());
                }
            } else if is_dtls(segment) {
                self.browsers.receive(from, segment, segment.len());
            } else if segment.first() == Some(&beacon::FIRST_BYTE)
                && let Some(queue) = &*self.beacon.lock()
            {
                // What does not fit is lost, like any datagram.
                let _ = queue.try_send((from, segment.to_vec()));
            }
            at = end;
        }
        kept
    }

    fn handle_path_datagram(
        self: &Arc<Self>,
        link: &Arc<LinkPath>,
        via: Via,
        datagram: &[u8],
    ) -> bool {
        let mut paths = link.paths.lock();
        let received = paths.handle_datagram(via, datagram, self.now());
        drop(paths);
        if received == Received::Nothing {
            return false;
        }
        if let Via::Udp { socket: 0, to } = via {
            self.note_address(to, link);
        }
        if link.route.lock().via() == Some(via) {
            link.marks.answered();
        }
        match received {
            Received::Handshake(quic) => {
                let segment = quic.len();
                let mut inbox = self.inbox.lock();
                inbox.push(link.virtual_address, quic, segment);
            }
            Received::Candidates(candidates) => link.named(candidates),
            Received::Authentic | Received::Nothing => {}
        }
        link.flush(self);
        true
    }

    /// The link's peer has been heard from `from`.
    fn note_address(&self, from: SocketAddr, link: &Arc<LinkPath>) {
        let knows = |links: &Links| {
            let known = links.by_address.get(&from);
            known.is_some_and(|known| known.iter().any(|known| Arc::ptr_eq(known, link)))
        };
        if !knows(&self.links.read()) {
            let given_up = link.heard_at(from);
            let mut links = self.links.write();
            links.by_address.entry(from).or_default().push(link.clone());
            if let Some(old) = given_up {
                links.forget_address(old, link);
            }
        }
    }

    /// Must datagrams from `from` be handed to quinn one by one? Behind an opened handshake datagram
    /// the order must stay: a datagram that overtakes the last of the handshake can not be decrypted
    /// yet, counts as lost, and ends slow start. And a batch of two links must be taken apart.
    fn must_divert(&self, from: SocketAddr) -> bool {
        let several = |known: &Vec<Arc<LinkPath>>| known.len() > 1;
        !self.inbox.lock().batches.is_empty()
            || self.links.read().by_address.get(&from).is_some_and(several)
    }

    /// Puts a datagram with a short header into the inbox if it must go that way.
    fn divert(self: &Arc<Self>, from: SocketAddr, quic: &[u8]) -> bool {
        if !self.must_divert(from) {
            return false;
        }
        let links = self.links.read();
        let known = links.by_address.get(&from).cloned().unwrap_or_default();
        drop(links);
        for link in known {
            self.note_data(&link, Via::udp(from));
            let mut inbox = self.inbox.lock();
            inbox.push(link.virtual_address, quic.to_vec(), quic.len());
        }
        true
    }

    /// Hands what waits in the inbox to quinn.
    fn drain_inbox(&self, bufs: &mut [IoSliceMut<'_>], meta: &mut [RecvMeta]) -> usize {
        let mut inbox = self.inbox.lock();
        let mut count = 0;
        for (buf, meta) in bufs.iter_mut().zip(meta) {
            let Some(mut batch) = inbox.batches.pop_front() else {
                break;
            };
            let fits = (buf.len() / batch.segment * batch.segment).min(batch.contents.len());
            if fits == 0 {
                // Larger than any datagram that quinn takes.
                inbox.bytes -= batch.contents.len();
                continue;
            }
            buf[..fits].copy_from_slice(&batch.contents[..fits]);
            *meta = RecvMeta {
                addr: batch.from,
                len: fits,
                stride: batch.segment.min(fits),
                ecn: None,
                dst_ip: None,
            };
            inbox.bytes -= fits;
            if fits < batch.contents.len() {
                batch.contents.drain(..fits);
                inbox.batches.push_front(batch);
            }
            count += 1;
        }
        count
    }

    /// Sends by every way until the peer has been heard.
    fn send_handshake(self: &Arc<Self>, link: &Arc<LinkPath>, transmit: &Transmit<'_>) {
        let stride = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        let route = link.route().via();
        let mut bare = Vec::new();
        let mut paths = link.paths.lock();
        for segment in transmit.contents.chunks(stride) {
            match route {
                Some(via) if !is_long_header(segment) => bare.push((via, segment)),
                _ => paths.send_handshake(segment),
            }
        }
        drop(paths);
        link.sent_handshake.notify_one();
        link.flush(self);
        for (via, segment) in bare {
            link.send(self, via, segment);
        }
    }

    /// The device's first datagrams, which came with its reply.
    pub(super) fn receive_flight(&self, link: &LinkPath, flight: &[Datagram]) {
        let mut inbox = self.inbox.lock();
        for datagram in flight.iter().filter(|datagram| is_long_header(datagram)) {
            inbox.push(link.virtual_address, datagram.to_vec(), datagram.len());
        }
        drop(inbox);
        self.reader.wake();
    }

    /// Sends QUIC's datagrams by the link's route, at once and all together.
    fn send_data(
        self: &Arc<Self>,
        link: &Arc<LinkPath>,
        transmit: &Transmit<'_>,
    ) -> io::Result<()> {
        if link
            .marks
            .sent(transmit.contents.len(), || self.started.elapsed())
        {
            link.changed.notify_one();
        }
        let to = |destination| Transmit {
            destination,
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        match link.route() {
            // The caller's first data, behind its answer to a handshake that came with the reply.
            Route::None => {
                self.send_handshake(link, transmit);
                Ok(())
            }
            Route::Main(address) => self.io.try_send(&to(self.outward(address))),
            Route::Search(_, socket, address) => socket.try_send(&to(address)),
            Route::Connection(_, sink) => {
                let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
                sink.send(transmit.contents, segment.max(1));
                Ok(())
            }
        }
    }
}

impl Links {
    /// The link's peer is at that address no more, as far as this socket remembers.
    fn forget_address(&mut self, address: SocketAddr, link: &Arc<LinkPath>) {
        if let Some(known) = self.by_address.get_mut(&address) {
            known.retain(|known| !Arc::ptr_eq(known, link));
            if known.is_empty() {
                self.by_address.remove(&address);
            }
        }
    }

    fn remove(&mut self, link: &LinkPath) {
        let gone = link.virtual_address;
        self.by_tag.remove(&link.tag);
        self.by_virtual.remove(&gone);
        self.by_address.retain(|_, known| {
            known.retain(|known| known.virtual_address != gone);
            !known.is_empty()
        });
    }
}

/// quinn's side of a [`PathSocket`].
#[derive(Debug)]
pub(super) struct QuinnSocket(pub(super) Arc<PathSocket>);

impl AsyncUdpSocket for QuinnSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.0.io.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let socket = &self.0;
        let link = socket
            .links
            .read()
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
            socket.send_handshake(&link, transmit);
            return Ok(());
        }
        match socket.send_data(&link, transmit) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                // No route, no buffers, a firewall's word: the path set finds out what it means.
                tracing::trace!(%error, "datagram not sent");
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let socket = &self.0;
        socket.reader.register(cx.waker());
        loop {
            let drained = socket.drain_inbox(bufs, meta);
            if drained > 0 {
                return Poll::Ready(Ok(drained));
            }
            let count = match socket.io.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(count)) => count,
                other => return other,
            };
            let mut for_quinn = false;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                let from = nat64::inward(meta.addr);
                let stride = meta.stride.max(1);
                meta.len = socket.sort(from, &mut buf[..meta.len], stride);
                meta.dst_ip = None;
                if meta.len > 0 {
                    let links = socket.links.read();
                    let known = links.by_address.get(&from).and_then(|known| known.first());
                    match known.cloned() {
                        Some(link) => {
                            drop(links);
                            meta.addr = link.virtual_address;
                            socket.note_data(&link, Via::udp(from));
                        }
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
        Ok((Ipv6Addr::UNSPECIFIED, self.0.io.local_addr()?.port()).into())
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.io.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.io.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.io.may_fragment()
    }
}

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSocket")
            .field("io", &self.io)
            .finish_non_exhaustive()
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

fn is_dtls(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| matches!(first, 20..=63))
}
