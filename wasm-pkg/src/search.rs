//! The search for a path between a NAT that gives every destination another port and one that does
//! not (PROTOCOL §19.3). A page has no sockets of its own, but it can have many connections, each of
//! which has one; one of them is to get through.

use std::net::{Ipv4Addr, SocketAddrV4};

use futures_util::future::{select_all, try_join_all};
use js_sys::Array;
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::receipt::Nat;
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::{Description, Leg, candidate_line};

use crate::CallError;
use crate::clock::within;
use crate::error::{NO_PATH, UNSUPPORTED};
use crate::peer::{Peer, certificate};
use crate::ring::Ring;

/// How long a search takes at most, from the device's answer on, in milliseconds.
const LENGTH: f64 = 6_000.0;
/// How long it is waited for before another way is tried: with the request, and what comes before.
pub(crate) const PATIENCE: f64 = 7_500.0;

/// Further connections of a browser behind a symmetric NAT: each has a port there that nobody knows.
const MANY: usize = 64;
/// Further connections towards a device behind one, which opens ports for each.
const SOME: usize = 20;
/// Ports of the device that each of those tries. A browser tries one in 48 ms, and ports not tried
/// yet first.
const PORTS: usize = 64;
/// Ports from here up are tried: routers map to no lower ones.
const FIRST_PORT: u16 = 1024;

/// What the browser does.
pub(crate) enum Search {
    /// Its own NAT is the symmetric one: many connections to these addresses.
    Connections(Vec<SocketAddrV4>),
    /// The device's is: many ports at this address.
    Ports(Ipv4Addr),
}

impl Search {
    /// The search that fits the two NATs, if one does.
    pub(crate) fn plan(own: Nat, device: Nat, reached: &Description) -> Option<Self> {
        let public = reached.public();
        match (own, device) {
            _ if public.is_empty() => None,
            (Nat::EndpointDependent, Nat::EndpointIndependent) => Some(Self::Connections(public)),
            (Nat::EndpointIndependent, Nat::EndpointDependent) => {
                public.first().map(|address| Self::Ports(*address.ip()))
            }
            _ => None,
        }
    }

    /// Calls once more, with many connections, and gives the first that gets through.
    pub(crate) async fn run(self, ring: &Ring<'_>) -> Result<(Peer, Reply), CallError> {
        let certificate = certificate().await?;
        let servers = ring.registry.ice_servers(false);
        let (count, others) = match self {
            // Which ports these get is not to be told.
            Self::Connections(_) => (MANY, Array::new()),
            Self::Ports(_) => (SOME, servers.clone()),
        };
        let mut peers = vec![Peer::with_certificate(&servers, Some(&certificate))?];
        for _ in 0..count {
            peers.push(Peer::with_certificate(&others, Some(&certificate))?);
        }
        try_join_all(peers.iter().map(|peer| async {
            peer.offer().await?;
            if peer.asks_stun() {
                peer.gathered().await;
            }
            Ok(())
        }))
        .await?;
        let mut description = peers[0].description()?;
        for peer in &peers[1..] {
            let own = peer.description()?;
            let public = own.candidates.into_iter();
            description.legs.push(Leg {
                ufrag: own.ufrag,
                pwd: own.pwd,
                candidates: public.filter(|line| is_public(line)).take(1).collect(),
            });
        }
        let accepted = ring.ask(&peers[0], description).await?;
        let device = &accepted.description;
        if device.legs.is_empty() {
            return Err(nothing_found());
        }
        let mut answers = vec![device.clone()];
        for leg in &device.legs {
            answers.push(Description {
                ufrag: leg.ufrag.clone(),
                pwd: leg.pwd.clone(),
                fingerprint: device.fingerprint,
                candidates: self.candidates()?,
                legs: Vec::new(),
            });
        }
        peers.truncate(answers.len());
        let answering = peers.iter().zip(&answers);
        try_join_all(answering.map(|(peer, answer)| peer.answer(answer))).await?;
        let connecting = peers.iter().enumerate().map(|(at, peer)| {
            Box::pin(async move {
                if !peer.connected().await {
                    std::future::pending::<()>().await;
                }
                at
            })
        });
        let first = within(LENGTH, select_all(connecting)).await;
        let (at, ..) = first.ok_or_else(nothing_found)?;
        Ok((peers.swap_remove(at), accepted.reply))
    }

    /// The addresses that one further connection tries.
    fn candidates(&self) -> Result<Vec<String>, CallError> {
        let addresses = match self {
            Self::Connections(addresses) => addresses.clone(),
            Self::Ports(host) => {
                let ports = random_ports()?.into_iter();
                ports.map(|port| SocketAddrV4::new(*host, port)).collect()
            }
        };
        let lines = addresses.into_iter().enumerate().map(|(at, address)| {
            let candidate = Candidate::udp(Kind::ServerReflexive, address.into());
            candidate_line(at as u16, &candidate)
        });
        Ok(lines.collect())
    }
}

fn is_public(line: &str) -> bool {
    crate::sdp::kind(line) == Some("srflx")
}

fn random_ports() -> Result<Vec<u16>, CallError> {
    let mut bytes = [0; 2 * PORTS];
    getrandom::fill(&mut bytes)
        .map_err(|_| CallError::new(UNSUPPORTED, "this browser gives no random numbers"))?;
    let (numbers, _) = bytes.as_chunks::<2>();
    let span = u32::from(u16::MAX - FIRST_PORT) + 1;
    // Some come twice now and then, and some a little more often than others.
    let port =
        |number: &[u8; 2]| FIRST_PORT + (u32::from(u16::from_ne_bytes(*number)) % span) as u16;
    Ok(numbers.iter().map(port).collect())
}

fn nothing_found() -> CallError {
    CallError::new(NO_PATH, "many ports were tried, and none gets through")
}
