//! What this host's NAT does to UDP and TCP (RFC 5780): found out from sockets of its own, so that
//! no mapping of the agent's is touched. Everything together takes at most about 4 s.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use ringback_protocol::diagnosis::{Filtering, Mapping, Ports, Sighting};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::prober::{Answer, CHANGE_IP, CHANGE_PORT, Prober};
use super::{stun, tcp_port};
use crate::nat64;

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
                Ok(Ok(found)) => found.map(nat64::inward).collect(),
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

/// TCP from one port to several servers of one address family. At most about 3 s.
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
    let Ok(held) = tcp_port::listen(0, nat64::outward(*first).is_ipv6()) else {
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
