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

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use ringback_protocol::PeerId;
use ringback_protocol::beacon;
use ringback_protocol::candidate::Candidate;
use ringback_protocol::path::{self, PathKeys, PathSet, Role, Via, is_long_header};
use tokio::sync::mpsc;

use super::first_byte::{is_dtls, is_quic};
use super::io::Io;
use super::link_path::LinkPath;
use super::main_socket::MainSocket;
use super::stun::Stun;
use crate::rtc::Inlets;

/// fd72:6262::/64: unique local addresses that stand for links inside this process.
const VIRTUAL_PREFIX: [u16; 4] = [0xfd72, 0x6262, 0, 0];
const VIRTUAL_PORT: u16 = 1;

/// The socket under quinn. Shared by the endpoint, the links and STUN.
pub(crate) struct PathSocket {
    main: Arc<MainSocket>,
    /// The registry is on loopback: peers may be, too.
    loopback: bool,
    links: RwLock<Links>,
    stun: Stun,
    /// Who takes the beacon's datagrams (PROTOCOL §16).
    beacon: Mutex<Option<BeaconQueue>>,
    /// Who takes those of browsers (PROTOCOL §19).
    browsers: Inlets,
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
            main: Arc::new(MainSocket::new(io)?),
            loopback,
            links: RwLock::default(),
            stun: Stun::default(),
            beacon: Mutex::default(),
            browsers: Inlets::default(),
        })
    }

    /// The socket itself, by which its datagrams leave.
    pub(crate) fn main(&self) -> &Arc<MainSocket> {
        &self.main
    }

    /// A new link to `peer`. `candidates` must be ranked. The receiver gives what the peer says later
    /// of its addresses.
    pub(super) fn add_link(
        &self,
        peer: PeerId,
        role: Role,
        keys: &PathKeys,
        candidates: &[Candidate],
    ) -> (Arc<LinkPath>, mpsc::UnboundedReceiver<Vec<Candidate>>) {
        let mut paths = PathSet::new(role, keys, rand::random(), candidates, self.main.now());
        if self.loopback {
            paths.allow_loopback();
        }
        let mut links = self.links.write();
        links.next += 1;
        let address = virtual_address(links.next);
        let (link, named) = LinkPath::new(keys.tag(), peer, address, paths);
        links.by_virtual.insert(link.virtual_address, link.clone());
        links.by_tag.insert(link.tag, link.clone());
        (link, named)
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

    /// Where the datagrams of browsers' links go.
    pub(crate) fn browsers(&self) -> &Inlets {
        &self.browsers
    }

    /// Asks a STUN server for this socket's public address. `None` if it does not answer in about 3 s.
    pub(super) async fn ask(&self, server: SocketAddr) -> Option<SocketAddr> {
        let send = |request: &[u8]| self.main.send(server, request);
        self.stun.ask(server, send).await
    }

    /// The link by the address that quinn knows it by.
    pub(super) fn link_at(&self, virtual_address: &SocketAddr) -> Option<Arc<LinkPath>> {
        self.links.read().by_virtual.get(virtual_address).cloned()
    }

    /// A link whose peer is at this address.
    pub(super) fn link_from(&self, from: SocketAddr) -> Option<Arc<LinkPath>> {
        let links = self.links.read();
        links.by_address.get(&from)?.first().cloned()
    }

    /// The link that a path datagram is for, by its tag.
    pub(super) fn link(&self, datagram: &[u8]) -> Option<Arc<LinkPath>> {
        let tag = path::link_tag(datagram)?;
        let links = self.links.read();
        links.by_tag.get(&tag).cloned()
    }

    /// Every link that is open now.
    pub(super) fn each_link(&self, change: impl Fn(&mut PathSet, Duration)) {
        let links = self.links.read();
        let all: Vec<Arc<LinkPath>> = links.by_tag.values().cloned().collect();
        drop(links);
        for link in all {
            change(&mut link.paths.lock(), self.main.now());
            link.flush(&self.main);
        }
    }

    /// Takes out of a received batch what is not QUIC's and returns how many bytes are left. All
    /// segments of a batch come from one address and have one length, but for the last.
    pub(super) fn sort(&self, from: SocketAddr, batch: &mut [u8], stride: usize) -> usize {
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
                    self.handle_path_datagram(&link, from, segment);
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

    fn handle_path_datagram(&self, link: &Arc<LinkPath>, from: SocketAddr, datagram: &[u8]) {
        let via = Via::udp(from);
        if let Some(received) = link.handle_datagram(&self.main, via, datagram) {
            self.note_address(from, link);
            link.take_in(&self.main, via, received);
        }
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
        !self.main.inbox.is_empty() || self.links.read().by_address.get(&from).is_some_and(several)
    }

    /// Puts a datagram with a short header into the inbox if it must go that way.
    fn divert(&self, from: SocketAddr, quic: &[u8]) -> bool {
        if !self.must_divert(from) {
            return false;
        }
        let links = self.links.read();
        let known = links.by_address.get(&from).cloned().unwrap_or_default();
        drop(links);
        for link in known {
            link.note_data(&self.main, Via::udp(from));
            let inbox = &self.main.inbox;
            inbox.push(link.virtual_address, quic.to_vec(), quic.len());
        }
        true
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

impl fmt::Debug for PathSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PathSocket")
            .field("io", &self.main.io)
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
