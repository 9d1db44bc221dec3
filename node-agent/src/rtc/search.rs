//! The device's part of a browser's search (PROTOCOL §19.3): where one of the two NATs gives every
//! destination another port, the browser offers many connections, and one of them is to get through
//! by chance. As in the search of native callers (§10.2), one end has many ports, and the other
//! tries many.
//!
//! Of each connection nothing exists here but its name until a check of it has come.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::candidate::{self, Candidate, Kind};
use ringback_protocol::receipt::Nat;
use ringback_protocol::rtc::{Description, Leg};
use str0m::ice::IceCreds;
use stun_types::message::{
    BINDING, Message, MessageClass, MessageType, MessageWriteVec, TransactionId,
};
use stun_types::prelude::MessageWrite as _;
use tokio::sync::{Notify, mpsc};

use super::connection::{Pinned, connection, credentials};
use super::driver::Driver;
use super::inlet::{Inlet, check_name};
use super::link::BrowserLink;
use super::transmit::Way;
use crate::endpoint::{PathSocket, SearchSocket};

/// How long a search takes.
const LENGTH: Duration = Duration::from_secs(6);
const TICK: Duration = Duration::from_millis(20);

/// Sockets of a device behind a symmetric NAT.
const SOCKETS: usize = 256;
/// Connections of the browser that each of them is opened for.
const MAX_TARGETS: usize = 20;
/// Datagrams in a tick, and how often all of it is sent, in case of loss.
const OPENINGS_PER_TICK: usize = 64;
const ROUNDS: u32 = 2;
const ROUND: Duration = Duration::from_millis(2_000);

/// Ports tried of a browser behind a symmetric NAT: with 64 connections one of them is hit in 99 of
/// 100 searches.
const PROBES: usize = 5_000;
const PROBES_PER_TICK: usize = 24;
/// Ports from here up are tried: routers map to no lower ones.
const FIRST_PORT: u16 = 1024;

/// What the device does.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Its own NAT is the symmetric one: it opens many ports for each of these addresses.
    Sockets(Vec<SocketAddr>),
    /// The browser's is: it tries many ports of these.
    Ports(Vec<Ipv4Addr>),
}

impl Part {
    /// What there is to do for this offer between these NATs.
    pub(super) fn of(own: Nat, theirs: Nat, offer: &Description, loopback: bool) -> Option<Self> {
        if offer.legs.is_empty() {
            return None;
        }
        let sendable = |public: Vec<SocketAddrV4>| {
            let named = public.into_iter().map(SocketAddr::from);
            let named = named.map(|address| Candidate::udp(Kind::ServerReflexive, address));
            let mut named: Vec<Candidate> = named.collect();
            named
                .retain(|named| !candidate::rank(std::slice::from_ref(named), loopback).is_empty());
            named
        };
        match (own, theirs) {
            (Nat::EndpointDependent, Nat::EndpointIndependent) => {
                let legs = offer.legs.iter().take(MAX_TARGETS);
                let named = sendable(legs.filter_map(Leg::public).collect());
                let to: Vec<_> = named.iter().map(|named| named.address).collect();
                (!to.is_empty()).then_some(Self::Sockets(to))
            }
            (Nat::EndpointIndependent, Nat::EndpointDependent) => {
                let mut hosts: Vec<Ipv4Addr> = sendable(offer.public())
                    .iter()
                    .filter_map(|named| match named.address {
                        SocketAddr::V4(address) => Some(*address.ip()),
                        SocketAddr::V6(_) => None,
                    })
                    .collect();
                hosts.sort_unstable();
                hosts.dedup();
                (!hosts.is_empty()).then_some(Self::Ports(hosts))
            }
            _ => None,
        }
    }
}

struct Search {
    socket: Arc<PathSocket>,
    caller: PeerId,
    pinned: Pinned,
    connections: Vec<Connection>,
    sockets: Mutex<Vec<SearchSocket>>,
    /// One of the connections is established.
    found: Notify,
    links: mpsc::Sender<BrowserLink>,
}

struct Connection {
    own: IceCreds,
    theirs: IceCreds,
    inlet: Arc<Inlet>,
    /// Which of the sockets it was first heard on, if it was one of those. It keeps to that one.
    socket: OnceLock<usize>,
}

/// Begins a search beside the `first` connection, and gives the device's side of each further one.
/// Those that become links come by `links`.
pub(super) fn begin(
    socket: &Arc<PathSocket>,
    caller: PeerId,
    offer: &Description,
    part: Part,
    pinned: Pinned,
    first: BrowserLink,
    links: mpsc::Sender<BrowserLink>,
) -> Vec<Leg> {
    if !socket
        .main()
        .restraint()
        .may_search(rand::random(), caller, Instant::now())
    {
        tracing::info!(?caller, "no search for a path: there are as many as may be");
        return Vec::new();
    }
    let connections = offer.legs.iter().map(|leg| {
        let own = credentials();
        Connection {
            inlet: socket.browsers().open_awaited(&own.ufrag),
            own,
            theirs: IceCreds {
                ufrag: leg.ufrag.clone(),
                pass: leg.pwd.clone(),
            },
            socket: OnceLock::new(),
        }
    });
    let search = Arc::new(Search {
        socket: socket.clone(),
        caller,
        pinned,
        connections: connections.collect(),
        sockets: Mutex::default(),
        found: Notify::new(),
        links,
    });
    for at in 0..search.connections.len() {
        tokio::spawn(search.clone().attend(at));
    }
    let legs = search.connections.iter().map(|connection| Leg {
        ufrag: connection.own.ufrag.clone(),
        pwd: connection.own.pass.clone(),
        candidates: Vec::new(),
    });
    let legs = legs.collect();
    tokio::spawn(search.run(part, first));
    legs
}

impl Search {
    async fn run(self: Arc<Self>, part: Part, first: BrowserLink) {
        let begun = Instant::now();
        let sending = async {
            match &part {
                Part::Sockets(to) => self.open_ports(to).await,
                Part::Ports(hosts) => self.try_ports(hosts).await,
            }
            std::future::pending::<()>().await;
        };
        let found = tokio::select! {
            () = self.found.notified() => true,
            Ok(()) = first.established() => true,
            _ = tokio::time::timeout(LENGTH, sending) => false,
        };
        let took = begun.elapsed();
        tracing::debug!(found, ?took, "the search for a path to a browser is over");
        // Who has found something has kept its own.
        self.sockets.lock().clear();
    }

    /// Has the own router open ports for the browser's addresses, each of which will try some.
    async fn open_ports(self: &Arc<Self>, to: &[SocketAddr]) {
        let opening = opening();
        let mut ticks = tokio::time::interval(TICK);
        for _ in 0..ROUNDS {
            let next = tokio::time::Instant::now() + ROUND;
            let targets = to.len();
            for sent in 0..SOCKETS * targets {
                if sent % OPENINGS_PER_TICK == 0 {
                    ticks.tick().await;
                }
                let to = to[sent % to.len()];
                self.permitted(to, &mut ticks).await;
                match self.numbered(sent / targets) {
                    Ok(socket) => socket.send(to, &opening),
                    Err(error) => {
                        tracing::debug!(%error, "no further socket for the search");
                        break;
                    }
                }
            }
            tokio::time::sleep_until(next).await;
        }
    }

    /// Has the own router let in what comes from ports that may be the browser's.
    async fn try_ports(&self, hosts: &[Ipv4Addr]) {
        let opening = opening();
        let ports = usize::from(u16::MAX - FIRST_PORT) + 1;
        let chosen = rand::seq::index::sample(&mut rand::rng(), ports, PROBES);
        let mut ticks = tokio::time::interval(TICK);
        for (sent, offset) in chosen.into_iter().enumerate() {
            if sent % PROBES_PER_TICK == 0 {
                ticks.tick().await;
            }
            let host = hosts[sent % hosts.len()];
            let port = FIRST_PORT + offset as u16;
            let to = (host, port).into();
            self.permitted(to, &mut ticks).await;
            self.socket.main().send(to, &opening);
        }
    }

    /// Waits until the budget of what is sent to strangers has a datagram left.
    async fn permitted(&self, to: SocketAddr, ticks: &mut tokio::time::Interval) {
        while !self.socket.main().restraint().may_send(to, Instant::now()) {
            ticks.tick().await;
        }
    }

    /// The socket of that number; opens it if it is the next one.
    fn numbered(self: &Arc<Self>, number: usize) -> std::io::Result<SearchSocket> {
        let mut sockets = self.sockets.lock();
        if let Some(open) = sockets.get(number) {
            return Ok(open.clone());
        }
        let search = Arc::downgrade(self);
        let mut inlet: Option<Arc<Inlet>> = None;
        let permit = self.socket.main().restraint().socket();
        let permit =
            permit.ok_or_else(|| std::io::Error::other("other searches have all sockets"))?;
        let socket = SearchSocket::open(permit, move |from, contents, stride| {
            if inlet.is_none() {
                let Some(search) = search.upgrade() else {
                    return false;
                };
                inlet = search.claim(number, contents);
            }
            if let Some(inlet) = &inlet {
                inlet.push(from, contents, stride);
            }
            true
        })?;
        sockets.push(socket.clone());
        Ok(socket)
    }

    /// The connection that this check is of, if it has been heard on no other socket.
    fn claim(&self, number: usize, datagram: &[u8]) -> Option<Arc<Inlet>> {
        let name = check_name(datagram)?;
        let mut connections = self.connections.iter();
        let connection = connections.find(|connection| connection.inlet.name() == name)?;
        connection.socket.set(number).ok()?;
        Some(connection.inlet.clone())
    }

    /// Waits for a check of one connection, and makes it one.
    async fn attend(self: Arc<Self>, at: usize) {
        let Connection {
            own,
            theirs,
            inlet,
            socket,
        } = &self.connections[at];
        let heard = tokio::time::timeout(LENGTH, inlet.arrived()).await;
        let way = match socket.get() {
            None => Some(Way::Main(self.socket.clone())),
            Some(number) => {
                let sockets = self.sockets.lock();
                sockets.get(*number).cloned().map(Way::Own)
            }
        };
        let (Ok(()), Some(way)) = (heard, way) else {
            self.socket.browsers().remove(inlet);
            return;
        };
        let rtc = match connection(&self.pinned, own, theirs.clone(), &[]) {
            Ok(rtc) => rtc,
            Err(error) => {
                tracing::warn!("a browser's connection can not be made: {error:#}");
                self.socket.browsers().remove(inlet);
                return;
            }
        };
        inlet.is_heard();
        let link = Driver::start(self.socket.clone(), self.caller, rtc, inlet.clone(), way);
        // Nobody is there to serve it only if the agent ends.
        let _ = self.links.send(link.clone()).await;
        if link.established().await.is_ok() {
            self.found.notify_one();
        }
    }
}

/// What is sent to have a router open a port: a Binding indication (RFC 8489), which asks for
/// nothing and is answered by nobody.
fn opening() -> Vec<u8> {
    let kind = MessageType::from_class_method(MessageClass::Indication, BINDING);
    Message::builder(kind, TransactionId::generate(), MessageWriteVec::new()).finish()
}

#[cfg(test)]
mod tests {
    use ringback_protocol::rtc::MAX_LEGS;

    use super::*;

    fn offer(legs: usize) -> Description {
        let line = |port: usize| {
            format!("candidate:1 1 udp 5 4.17.168.2 {port} typ srflx raddr 0.0.0.0 rport 0")
        };
        let leg = |at| Leg {
            ufrag: "abcd".into(),
            pwd: "p".repeat(24),
            candidates: vec![line(2_000 + at)],
        };
        Description {
            ufrag: "abcd".into(),
            pwd: "p".repeat(24),
            fingerprint: [1; 32],
            candidates: vec![line(1_999)],
            legs: (0..legs).map(leg).collect(),
        }
    }

    #[test]
    fn each_end_has_its_part_where_one_nat_is_symmetric() {
        use Nat::{EndpointDependent, EndpointIndependent, None, Unknown};
        let part = |own, theirs| Part::of(own, theirs, &offer(MAX_LEGS), false);
        let Some(Part::Sockets(to)) = part(EndpointDependent, EndpointIndependent) else {
            panic!("no sockets")
        };
        assert_eq!(to.len(), MAX_TARGETS);
        assert_eq!(to[1], "4.17.168.2:2001".parse().unwrap());
        assert_eq!(
            part(EndpointIndependent, EndpointDependent),
            Some(Part::Ports(vec![[4, 17, 168, 2].into()]))
        );
        for nat in [EndpointDependent, Unknown, None] {
            assert_eq!(part(nat, nat), Option::None);
        }
        let none = Part::of(EndpointIndependent, EndpointDependent, &offer(0), false);
        assert_eq!(none, Option::None);
    }

    #[test]
    fn nothing_is_sent_where_nobody_can_be_meant() {
        let mut hostile = offer(1);
        for address in ["224.0.0.1", "255.255.255.255", "127.0.0.1", "0.0.0.0"] {
            let line = format!("candidate:1 1 udp 5 {address} 5000 typ srflx");
            hostile.candidates = vec![line.clone()];
            hostile.legs[0].candidates = vec![line];
            let part = |own, theirs| Part::of(own, theirs, &hostile, false);
            assert_eq!(part(Nat::EndpointDependent, Nat::EndpointIndependent), None);
            assert_eq!(part(Nat::EndpointIndependent, Nat::EndpointDependent), None);
        }
    }

    #[test]
    fn an_opening_is_no_check() {
        let opening = opening();
        assert_eq!(opening.len(), 20);
        assert_eq!(check_name(&opening), None);
    }
}
