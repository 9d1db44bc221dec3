//! Where this agent may be reached, and what its NAT does (RFC 4787).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::receipt::Nat;

use super::socket::PathSocket;
use super::stun;
use crate::interfaces::own_addresses;

/// Longest wait for a second STUN server, beyond what the first one took.
const SECOND_ANSWER: Duration = Duration::from_millis(20);

/// What an agent knows of its own addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Addresses {
    pub(crate) candidates: Vec<Candidate>,
    /// As the first STUN server saw it.
    pub(crate) public: Option<SocketAddr>,
    pub(crate) nat: Nat,
}

pub(super) async fn find(
    socket: &Arc<PathSocket>,
    servers: &[String],
    loopback: bool,
) -> Addresses {
    let port = socket.bound().map_or(0, |address| address.port());
    let hosts: Vec<SocketAddr> = own_addresses(loopback)
        .into_iter()
        .map(|ip| (ip, port).into())
        .collect();
    let mut questions = tokio::task::JoinSet::new();
    for (at, server) in servers.iter().enumerate() {
        let (socket, server) = (socket.clone(), server.clone());
        questions.spawn(async move { (at, ask_by_name(&socket, &server).await) });
    }
    let mut seen: Vec<Option<SocketAddr>> = vec![None; servers.len()];
    let asked = Instant::now();
    let mut deadline = asked + Duration::from_secs(60);
    while let Ok(Some(answer)) =
        tokio::time::timeout_at(deadline.into(), questions.join_next()).await
    {
        if let Ok((at, address)) = answer {
            seen[at] = address;
        }
        match seen.iter().flatten().count() {
            0 => {}
            // The second answer only tells the NAT's kind: it is given as long again.
            1 => deadline = Instant::now() + asked.elapsed() + SECOND_ANSWER,
            _ => break,
        }
    }
    let seen: Vec<SocketAddr> = seen.into_iter().flatten().collect();
    let mut candidates: Vec<Candidate> = seen
        .iter()
        .map(|address| Candidate::udp(Kind::ServerReflexive, *address))
        .collect();
    candidates.extend(
        hosts
            .iter()
            .map(|address| Candidate::udp(Kind::Host, *address)),
    );
    Addresses {
        candidates: ringback_protocol::candidate::rank(&candidates, loopback),
        public: seen.first().copied(),
        nat: classify(&seen, &hosts),
    }
}

pub(super) async fn ask_by_name(socket: &Arc<PathSocket>, server: &str) -> Option<SocketAddr> {
    let server = tokio::net::lookup_host(server).await.ok()?.next()?;
    stun::ask(socket, server).await
}

fn classify(seen: &[SocketAddr], hosts: &[SocketAddr]) -> Nat {
    match seen {
        [] => Nat::Unknown,
        [first, ..] if hosts.contains(first) => Nat::None,
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
        let [host, first, second] = ["192.168.1.5:4000", "4.17.168.2:4000", "4.17.168.2:50123"]
            .map(|text| text.parse::<SocketAddr>().unwrap());
        for (seen, nat) in [
            (&[][..], Nat::Unknown),
            (&[host], Nat::None),
            (&[first], Nat::Unknown),
            (&[first, first], Nat::EndpointIndependent),
            (&[first, second], Nat::EndpointDependent),
        ] {
            assert_eq!(classify(seen, &[host]), nat, "{seen:?}");
        }
    }
}
