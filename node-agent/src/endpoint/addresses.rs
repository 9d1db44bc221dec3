//! Where this agent may be reached, and what its NAT does (RFC 4787).

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringback_protocol::candidate::{self, Candidate, Kind};
use ringback_protocol::receipt::Nat;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::socket::PathSocket;
use super::stun;
use crate::interfaces::own_addresses;
use crate::nat64;

/// Longest wait for a second STUN server, beyond what the first one took.
const SECOND_ANSWER: Duration = Duration::from_millis(20);
/// Without any answer by UDP for this long, UDP is taken for blocked until the next look.
const NO_ANSWER: Duration = Duration::from_millis(900);

/// What an agent knows of its own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) candidates: Vec<Candidate>,
    /// As the first STUN server saw it.
    pub(crate) public: Option<SocketAddr>,
    pub(crate) nat: Nat,
    /// Ports that the router has been asked for, kept by whoever asked.
    pub(crate) mapped: Vec<Candidate>,
}

impl Addresses {
    /// With the ports that the router maps now.
    pub(crate) fn with_mapped(mut self, mapped: &[Candidate], loopback: bool) -> Self {
        self.candidates
            .retain(|candidate| !matches!(candidate.kind, Kind::Mapped | Kind::Static));
        self.candidates.extend_from_slice(mapped);
        self.candidates = candidate::rank(&self.candidates, loopback);
        self.mapped = mapped.to_vec();
        self
    }
}

/// The agent's local ports.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ports {
    pub(super) udp: u16,
    pub(super) tcp: u16,
    /// The user forwards this port to the agent.
    pub(super) fixed: bool,
}

pub(super) async fn find(
    socket: &Arc<PathSocket>,
    ports: Ports,
    servers: &[String],
    loopback: bool,
) -> Addresses {
    let hosts: Vec<IpAddr> = own_addresses(loopback);
    nat64::look_for(&hosts).await;
    let seen = ask_all(socket, servers).await;
    let here = |ip: &IpAddr| hosts.contains(ip);
    let mut candidates = Vec::new();
    for address in &seen {
        candidates.push(Candidate::udp(Kind::ServerReflexive, *address));
        // A router that leaves ports alone leads to the same TCP port, and maybe somebody has
        // told it to.
        if address.port() == ports.udp && !here(&address.ip()) {
            let tcp = (address.ip(), ports.tcp).into();
            candidates.push(Candidate::tcp(Kind::ServerReflexive, tcp));
        }
        if ports.fixed {
            let ip = address.ip();
            candidates.push(Candidate::udp(Kind::Static, (ip, ports.udp).into()));
            candidates.push(Candidate::tcp(Kind::Static, (ip, ports.tcp).into()));
        }
    }
    for ip in &hosts {
        candidates.push(Candidate::udp(Kind::Host, (*ip, ports.udp).into()));
        candidates.push(Candidate::tcp(Kind::Host, (*ip, ports.tcp).into()));
    }
    Addresses {
        candidates: candidate::rank(&candidates, loopback),
        public: seen.first().copied(),
        nat: classify(&seen, &hosts),
        mapped: Vec::new(),
    }
}

/// What the servers see, IPv4 before IPv6, in the order of the servers.
async fn ask_all(socket: &Arc<PathSocket>, servers: &[String]) -> Vec<SocketAddr> {
    let mut questions = JoinSet::new();
    for (at, server) in servers.iter().enumerate() {
        let (socket, server) = (socket.clone(), server.clone());
        questions.spawn(async move { (at, ask_by_name(&socket, &server).await) });
    }
    let mut seen: Vec<Vec<SocketAddr>> = vec![Vec::new(); servers.len()];
    let asked = Instant::now();
    let mut deadline = asked + NO_ANSWER;
    while let Ok(Some(answer)) =
        tokio::time::timeout_at(deadline.into(), questions.join_next()).await
    {
        if let Ok((at, addresses)) = answer {
            seen[at] = addresses;
        }
        match seen.iter().filter(|seen| !seen.is_empty()).count() {
            0 => {}
            // The second answer only tells the NAT's kind: it is given as long again.
            1 => deadline = Instant::now() + asked.elapsed() + SECOND_ANSWER,
            _ => break,
        }
    }
    let mut seen: Vec<SocketAddr> = seen.into_iter().flatten().collect();
    seen.sort_by_key(SocketAddr::is_ipv6);
    seen
}

/// The address by which a server sees the socket, for each family that both have.
pub(super) async fn ask_by_name(socket: &Arc<PathSocket>, server: &str) -> Vec<SocketAddr> {
    let mut questions = JoinSet::new();
    for server in one_of_each(&resolve(server).await) {
        let socket = socket.clone();
        questions.spawn(async move { socket.ask(server).await });
    }
    let mut seen = Vec::new();
    while let Some(answer) = questions.join_next().await {
        // The other family may lead nowhere: one answer is enough.
        if let Ok(Some(address)) = answer {
            seen.push(address);
            let patience = Duration::from_millis(20);
            while let Ok(Some(more)) = tokio::time::timeout(patience, questions.join_next()).await {
                seen.extend(more.ok().flatten());
            }
            break;
        }
    }
    seen
}

/// Asks the servers over TCP, from the port that listens: the public address of that port, if a
/// router gives one, and the connection that keeps it.
pub(super) async fn ask_by_tcp(
    ports: Ports,
    servers: &[String],
) -> Option<(SocketAddr, TcpStream)> {
    let mut questions = JoinSet::new();
    for server in servers {
        let server = server.clone();
        questions.spawn(async move {
            for server in one_of_each(&resolve(&server).await) {
                if let Ok(answer) = stun::ask_by_tcp(ports.tcp, server).await {
                    return Some(answer);
                }
            }
            None
        });
    }
    while let Some(answer) = questions.join_next().await {
        if let Ok(Some(answer)) = answer {
            return Some(answer);
        }
    }
    None
}

async fn resolve(server: &str) -> Vec<SocketAddr> {
    match tokio::net::lookup_host(server).await {
        Ok(addresses) => addresses.map(nat64::inward).collect(),
        Err(error) => {
            tracing::debug!(server, %error, "can not look up the STUN server");
            Vec::new()
        }
    }
}

fn one_of_each(addresses: &[SocketAddr]) -> impl Iterator<Item = SocketAddr> + use<> {
    let v4 = addresses.iter().copied().find(SocketAddr::is_ipv4);
    let v6 = addresses.iter().copied().find(SocketAddr::is_ipv6);
    v4.into_iter().chain(v6)
}

/// By IPv4 where there is any: only that is translated.
fn classify(seen: &[SocketAddr], hosts: &[IpAddr]) -> Nat {
    let v4: Vec<SocketAddr> = seen.iter().copied().filter(SocketAddr::is_ipv4).collect();
    let seen = if v4.is_empty() { seen } else { &v4 };
    match seen {
        [] => Nat::Unknown,
        [first, ..] if hosts.contains(&first.ip()) => Nat::None,
        [_] => Nat::Unknown,
        [first, rest @ ..] if rest.iter().all(|other| other == first) => Nat::EndpointIndependent,
        _ => Nat::EndpointDependent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nat_is_known_by_what_two_servers_see() {
        let [host, first, second, v6] = [
            "192.168.1.5:4000",
            "4.17.168.2:4000",
            "4.17.168.2:50123",
            "[2001:db8::5]:4000",
        ]
        .map(|text| text.parse::<SocketAddr>().unwrap());
        for (seen, nat) in [
            (&[][..], Nat::Unknown),
            (&[host], Nat::None),
            (&[v6], Nat::None),
            (&[first], Nat::Unknown),
            (&[first, v6], Nat::Unknown),
            (&[first, first], Nat::EndpointIndependent),
            (&[first, first, v6], Nat::EndpointIndependent),
            (&[first, second], Nat::EndpointDependent),
        ] {
            assert_eq!(classify(seen, &[host.ip(), v6.ip()]), nat, "{seen:?}");
        }
    }
}
