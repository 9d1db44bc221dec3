//! What this host's NAT does to UDP and TCP (RFC 5780): found out from sockets of its own, so that
//! no mapping of the agent's is touched. Everything together takes at most about 4 s.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use ringback_protocol::candidate::canonical;
use ringback_protocol::diagnosis::{Filtering, Mapping, Ports, Sighting};
use serde::Serialize;
use stun_types::attribute::{AttributeType, MappedSocketAddr, RawAttribute, XorMappedAddress};
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec};
use stun_types::prelude::{MessageWrite as _, MessageWriteExt as _};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{stun, tcp};

/// RFC 5780, 7.2 and 7.4; the second under its name of RFC 3489, which older servers use.
const CHANGE_REQUEST: AttributeType = AttributeType::new(0x0003);
const OTHER_ADDRESS: AttributeType = AttributeType::new(0x802C);
const CHANGED_ADDRESS: AttributeType = AttributeType::new(0x0005);
const CHANGE_IP: u8 = 4;
const CHANGE_PORT: u8 = 2;

/// Pauses after each transmission of a request. 1.3 s in all.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(250),
    Duration::from_millis(400),
    Duration::from_millis(650),
];
/// Sockets that show how the ports of new mappings follow each other.
const SOCKETS: usize = 4;
/// For a name to be looked up.
const LOOK_UP: Duration = Duration::from_millis(1200);
/// Servers that are asked, of each address family.
const SERVERS: usize = 4;

/// What was found out for one address family.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct UdpBehaviour {
    /// Servers that were asked.
    pub(crate) asked: Vec<SocketAddr>,
    /// What each destination saw of one socket; a server's second address is a destination, too.
    pub(crate) seen: Vec<Sighting>,
    /// Round trip of the fastest server, in milliseconds.
    pub(crate) rtt_ms: Option<f64>,
    pub(crate) mapping: Mapping,
    pub(crate) filtering: Filtering,
    /// A server offers what the test of the filter takes.
    pub(crate) rfc5780: bool,
    pub(crate) ports: Ports,
    /// Local and public ports of several sockets.
    pub(crate) port_pairs: Vec<(u16, u16)>,
    /// A socket is reached by its public address from inside. `None`: not tested, or there is no
    /// NAT.
    pub(crate) hairpin: Option<bool>,
}

/// The same of TCP.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct TcpBehaviour {
    pub(crate) asked: Vec<SocketAddr>,
    pub(crate) seen: Vec<Sighting>,
    /// Servers that refuse TCP: their word says nothing of this network.
    pub(crate) refused: Vec<SocketAddr>,
    pub(crate) mapping: Mapping,
}

/// The addresses of STUN servers, given as `host:port`.
pub(crate) async fn look_up(servers: &[String]) -> Vec<SocketAddr> {
    let mut questions = JoinSet::new();
    for (at, server) in servers.iter().enumerate() {
        let server = server.clone();
        questions.spawn(async move {
            let found = timeout(LOOK_UP, tokio::net::lookup_host(server)).await;
            let all: Vec<SocketAddr> = match found {
                Ok(Ok(found)) => found.map(canonical).collect(),
                _ => Vec::new(),
            };
            (at, all)
        });
    }
    let mut found: Vec<(usize, Vec<SocketAddr>)> = questions.join_all().await;
    found.sort_by_key(|(at, _)| *at);
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found.into_iter().flat_map(|(_, all)| all) {
        if !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// UDP over the address family of the servers, which must be one.
pub(crate) async fn udp(hosts: &[IpAddr], servers: &[SocketAddr]) -> UdpBehaviour {
    let asked: Vec<SocketAddr> = servers.iter().copied().take(SERVERS).collect();
    let mut behaviour = UdpBehaviour {
        asked: asked.clone(),
        ..UdpBehaviour::default()
    };
    let Some(first) = asked.first() else {
        return behaviour;
    };
    let Ok(prober) = Prober::bind(first.is_ipv6()) else {
        return behaviour;
    };
    let answers = prober.ask_each(&asked).await;
    behaviour.seen = answers.iter().map(Answer::sighting).collect();
    let Some(nearest) = answers.iter().min_by_key(|answer| answer.rtt) else {
        return behaviour;
    };
    // Of each server that has a second address: all four ways to it (RFC 5780, 4.3).
    let known = |address: &SocketAddr| asked.contains(address);
    let others: Vec<SocketAddr> = answers
        .iter()
        .find_map(|answer| Some((answer.server, answer.other?)))
        .into_iter()
        .flat_map(|(server, other)| {
            [
                SocketAddr::new(other.ip(), server.port()),
                other,
                SocketAddr::new(server.ip(), other.port()),
            ]
        })
        .filter(|address| !known(address))
        .collect();
    let changing: Vec<SocketAddr> = answers
        .iter()
        .filter(|answer| answer.other.is_some())
        .map(|answer| answer.server)
        .collect();
    let (more, filtering, (pairs, hairpin)) = tokio::join!(
        prober.ask_each(&others),
        filtering(&changing),
        neighbours(&prober, nearest)
    );
    behaviour.seen.extend(more.iter().map(Answer::sighting));
    let rtts = answers.iter().chain(&more).map(|answer| answer.rtt);
    behaviour.rtt_ms = rtts.min().map(|rtt| rtt.as_secs_f64() * 1e3);
    behaviour.mapping = Mapping::of(hosts, &behaviour.seen);
    behaviour.rfc5780 = filtering.is_some();
    behaviour.filtering = filtering.unwrap_or_default();
    behaviour.ports = Ports::of(&pairs);
    behaviour.port_pairs = pairs;
    behaviour.hairpin = hairpin.filter(|_| behaviour.mapping != Mapping::None);
    behaviour
}

/// RFC 5780, 4.4, by the first server that does as it is told. From fresh sockets: nobody but that
/// server's first address must have been written to. `None`: no server does.
async fn filtering(servers: &[SocketAddr]) -> Option<Filtering> {
    let mut tests = JoinSet::new();
    for server in servers.iter().copied() {
        tests.spawn(async move {
            let change = |flags: u8| async move {
                let prober = Prober::bind(server.is_ipv6()).ok()?;
                // The mapping exists, and the server answers, before it is asked to do so from
                // elsewhere.
                prober.ask(server, 0).await?;
                Some(prober.ask(server, flags).await)
            };
            let (address, port) =
                tokio::join!(change(CHANGE_IP | CHANGE_PORT), change(CHANGE_PORT));
            // One that answers from where it was asked has not understood.
            let came =
                |answer: &Option<Answer>, moved: fn(SocketAddr, SocketAddr) -> bool| match answer {
                    None => Some(false),
                    Some(answer) if moved(answer.from, server) => Some(true),
                    Some(_) => None,
                };
            let address = came(&address?, |from, server| from.ip() != server.ip())?;
            let port = came(&port?, |from, server| from.port() != server.port())?;
            Some(Filtering::of(address, port))
        });
    }
    let mut best = None;
    while let Some(test) = tests.join_next().await {
        let Ok(Some(found)) = test else { continue };
        // Silence may also be a lost datagram or a server's: the more open finding is the proof.
        let openness = |filtering: &Filtering| match filtering {
            Filtering::EndpointIndependent => 2,
            Filtering::AddressDependent => 1,
            _ => 0,
        };
        if best
            .as_ref()
            .is_none_or(|best| openness(&found) > openness(best))
        {
            best = Some(found);
        }
    }
    best
}

/// Local and public ports of more sockets, in the order in which their mappings were made, and
/// whether one of them reaches `prober` by its public address.
async fn neighbours(prober: &Prober, nearest: &Answer) -> (Vec<(u16, u16)>, Option<bool>) {
    let mut pairs = Vec::new();
    if let Some(local) = prober.local() {
        pairs.push((local.port(), nearest.mapped.port()));
    }
    let mut last = None;
    for _ in 1..SOCKETS {
        let Ok(socket) = Prober::bind(nearest.server.is_ipv6()) else {
            break;
        };
        let asking = timeout(Duration::from_millis(600), socket.ask(nearest.server, 0));
        let Ok(Some(answer)) = asking.await else {
            break;
        };
        if let Some(local) = socket.local() {
            pairs.push((local.port(), answer.mapped.port()));
        }
        last = Some((socket, answer));
    }
    let Some((other, answer)) = last else {
        return (pairs, None);
    };
    // Both write: a router may filter what comes by this way, too.
    let (there, here) = tokio::join!(
        other.ask_peer(nearest.mapped, prober),
        prober.ask_peer(answer.mapped, &other)
    );
    (pairs, Some(there || here))
}

/// TCP over IPv4, from one port to several servers. At most about 3 s.
pub(crate) async fn tcp(hosts: &[IpAddr], servers: &[SocketAddr]) -> TcpBehaviour {
    let asked: Vec<SocketAddr> = servers.iter().copied().take(SERVERS).collect();
    let mut behaviour = TcpBehaviour {
        asked: asked.clone(),
        ..TcpBehaviour::default()
    };
    let Some(first) = asked.first() else {
        return behaviour;
    };
    // Held, so that nobody else gets the port.
    let Ok(held) = tcp::listen(0, first.is_ipv6()) else {
        return behaviour;
    };
    let Ok(port) = held.local_addr().map(|address| address.port()) else {
        return behaviour;
    };
    let mut questions = JoinSet::new();
    for server in asked {
        questions.spawn(async move { (server, stun::ask_by_tcp(port, server).await) });
    }
    let mut open = Vec::new();
    while let Some(Ok((server, answer))) = questions.join_next().await {
        match answer {
            Ok((seen, stream)) => {
                behaviour.seen.push(Sighting { server, seen });
                // The mapping lasts while all are asked.
                open.push(stream);
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                behaviour.refused.push(server);
            }
            Err(_) => {}
        }
    }
    behaviour.mapping = Mapping::of(hosts, &behaviour.seen);
    behaviour
}

/// The round trip of a STUN request to `server` (`host:port`), from a socket of its own.
pub(crate) async fn round_trip(server: &str) -> Option<Duration> {
    let address = *look_up(&[server.to_owned()]).await.first()?;
    let prober = Prober::bind(address.is_ipv6()).ok()?;
    Some(prober.ask(address, 0).await?.rtt)
}

/// A socket that asks STUN servers.
struct Prober {
    socket: Arc<UdpSocket>,
    waiting: Arc<Mutex<Waiting>>,
    reader: tokio::task::AbortHandle,
}

#[derive(Default)]
struct Waiting {
    answers: HashMap<u128, oneshot::Sender<(SocketAddr, Parsed)>>,
    /// Requests that have come, as they do from a neighbour by the way through the router.
    heard: Vec<u128>,
}

struct Parsed {
    mapped: SocketAddr,
    other: Option<SocketAddr>,
}

struct Answer {
    server: SocketAddr,
    /// Where it came from.
    from: SocketAddr,
    mapped: SocketAddr,
    /// The server's second address (RFC 5780, 7.4).
    other: Option<SocketAddr>,
    rtt: Duration,
}

impl Answer {
    fn sighting(&self) -> Sighting {
        Sighting {
            server: self.server,
            seen: self.mapped,
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

impl Prober {
    fn bind(v6: bool) -> io::Result<Self> {
        let any: SocketAddr = if v6 {
            (Ipv6Addr::UNSPECIFIED, 0).into()
        } else {
            (Ipv4Addr::UNSPECIFIED, 0).into()
        };
        let socket = std::net::UdpSocket::bind(any)?;
        socket.set_nonblocking(true)?;
        let socket = Arc::new(UdpSocket::from_std(socket)?);
        let waiting = Arc::<Mutex<Waiting>>::default();
        let reader = tokio::spawn(read(socket.clone(), waiting.clone())).abort_handle();
        Ok(Self {
            socket,
            waiting,
            reader,
        })
    }

    fn local(&self) -> Option<SocketAddr> {
        self.socket.local_addr().ok()
    }

    async fn ask_each(&self, servers: &[SocketAddr]) -> Vec<Answer> {
        let questions = servers.iter().map(|server| self.ask(*server, 0));
        let answers = futures_util::future::join_all(questions).await;
        answers.into_iter().flatten().collect()
    }

    /// `change`: flags of what is to be different about the answer's source.
    async fn ask(&self, server: SocketAddr, change: u8) -> Option<Answer> {
        let (request, key) = request(change)?;
        let (sender, mut answer) = oneshot::channel();
        self.lock().answers.insert(key, sender);
        let mut found = None;
        for pause in PAUSES {
            let sent = Instant::now();
            // A way that is closed now may be open at the next attempt.
            let _ = self.socket.send_to(&request, server).await;
            if let Ok(Ok((from, parsed))) = timeout(pause, &mut answer).await {
                let rtt = sent.elapsed();
                // Only a server that was told to may answer from elsewhere.
                if from == server || change != 0 {
                    found = Some(Answer {
                        server,
                        from,
                        mapped: parsed.mapped,
                        other: parsed.other,
                        rtt,
                    });
                }
                break;
            }
        }
        self.lock().answers.remove(&key);
        found
    }

    /// Does a request to `public`, which is `peer`'s address, reach it?
    async fn ask_peer(&self, public: SocketAddr, peer: &Self) -> bool {
        let Some((request, key)) = request(0) else {
            return false;
        };
        for _ in 0..4 {
            let _ = self.socket.send_to(&request, public).await;
            tokio::time::sleep(Duration::from_millis(120)).await;
            if peer.lock().heard.contains(&key) {
                return true;
            }
        }
        false
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().expect("not poisoned")
    }
}

/// Requests that a socket remembers: as many as a test sends, and not what strangers send.
const HEARD: usize = 16;

async fn read(socket: Arc<UdpSocket>, waiting: Arc<Mutex<Waiting>>) {
    let mut buffer = [0; 1500];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // A closed port somewhere; the socket is as good as before.
            Err(_) => {
                tokio::task::yield_now().await;
                continue;
            }
        };
        let Ok(message) = Message::from_bytes(&buffer[..length]) else {
            continue;
        };
        let key = message.transaction_id().into();
        let mut waiting = waiting.lock().expect("not poisoned");
        if message.class() == MessageClass::Request {
            if waiting.heard.len() < HEARD {
                waiting.heard.push(key);
            }
        } else if let Some(parsed) = parse(&message)
            && let Some(answer) = waiting.answers.remove(&key)
        {
            // The asker may have given up.
            let _ = answer.send((canonical(from), parsed));
        }
    }
}

fn parse(message: &Message<'_>) -> Option<Parsed> {
    if message.class() != MessageClass::Success || message.method() != BINDING {
        return None;
    }
    let mapped = message.attribute::<XorMappedAddress>().ok()?;
    let other = [OTHER_ADDRESS, CHANGED_ADDRESS]
        .into_iter()
        .find_map(|kind| message.raw_attribute(kind))
        .and_then(|raw| MappedSocketAddr::from_raw(&raw).ok())
        .map(|other| canonical(other.addr()));
    Some(Parsed {
        mapped: canonical(mapped.addr(message.transaction_id())),
        other,
    })
}

/// A binding request and its transaction.
fn request(change: u8) -> Option<(Vec<u8>, u128)> {
    let mut request = Message::builder_request(BINDING, MessageWriteVec::new());
    if change != 0 {
        let flags = [0, 0, 0, change];
        request
            .add_attribute(&RawAttribute::new(CHANGE_REQUEST, &flags))
            .ok()?;
    }
    let bytes = request.finish();
    let key = Message::from_bytes(&bytes).ok()?.transaction_id().into();
    Some((bytes, key))
}
