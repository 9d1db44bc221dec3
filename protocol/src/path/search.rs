//! The search for a path between a NAT that gives every destination another port ("symmetric") and
//! one that does not (§10.2): a bounded birthday search.
//!
//! The end behind the symmetric NAT opens many sockets and pings the other end's address from each:
//! its router makes as many mappings, at ports that nobody knows. The other end pings random ports
//! at that router's address. With 256 mappings among the 64,512 ports from 1024 up, a probe hits
//! with probability 1/252: after 760 probes in 95 of 100 searches, after 2,000 in all but one of
//! 2,800. Probes are pings like any: what hits is answered, and takes part as a path from then on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::via::Via;
use crate::receipt::Nat;

/// Sockets of the end behind the symmetric NAT, beside its own.
pub const SOCKETS: u16 = 256;
/// Ports probed in one search, in all.
pub const PROBES: u32 = 2_500;
/// Other paths have this long before a search begins.
const PATIENCE: Duration = Duration::from_millis(300);
/// One tick of the search, and what it sends.
const TICK: Duration = Duration::from_millis(20);
const SOCKETS_PER_TICK: u16 = 32;
const PROBES_PER_TICK: u32 = 12;
/// Each socket pings again after this time, in case its first datagram was lost.
const ROUND: Duration = Duration::from_millis(1500);
/// The length of a search, and the pauses before the next ones.
const LENGTH: Duration = Duration::from_secs(6);
const PAUSES: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(120)];
/// Ports from here up are probed: routers map to no lower ones.
const FIRST_PORT: u16 = 1024;

/// A search of one link; what it sends is asked for with [`tick`](Self::tick).
#[derive(Debug)]
pub(super) struct Search {
    part: Part,
    begin: Duration,
    next: Duration,
    ports: Ports,
    runs: usize,
    sent: u32,
}

/// What this end does in it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// Ours is the symmetric NAT: many sockets to these addresses.
    Sockets(Vec<SocketAddr>),
    /// Theirs is: many ports at these hosts.
    Ports(Vec<IpAddr>),
}

impl Search {
    /// The search that fits the two NATs, if one does. `public` are the peer's addresses as STUN
    /// servers saw them.
    pub(super) fn plan(
        own: Nat,
        peer: Nat,
        public: &[SocketAddr],
        seed: u64,
        now: Duration,
    ) -> Option<Self> {
        let v4: Vec<SocketAddr> = public.iter().copied().filter(|a| a.is_ipv4()).collect();
        let part = match (own, peer) {
            _ if v4.is_empty() => return None,
            (Nat::EndpointDependent, Nat::EndpointIndependent) => Part::Sockets(v4),
            (Nat::EndpointIndependent, Nat::EndpointDependent) => {
                let mut hosts: Vec<IpAddr> = v4.iter().map(SocketAddr::ip).collect();
                hosts.sort();
                hosts.dedup();
                Part::Ports(hosts)
            }
            _ => return None,
        };
        Some(Self {
            part,
            begin: now + PATIENCE,
            next: now + PATIENCE,
            ports: Ports::new(seed),
            runs: 0,
            sent: 0,
        })
    }

    /// Do the peer's addresses still fit? A search is planned anew only when they do not.
    pub(super) fn fits(&self, other: &Self) -> bool {
        self.part == other.part
    }

    pub(super) fn next(&self) -> Option<Duration> {
        (self.runs <= PAUSES.len()).then_some(self.next)
    }

    /// The ways to ping now.
    pub(super) fn tick(&mut self, now: Duration) -> Vec<Via> {
        if self.next().is_none_or(|next| next > now) {
            return Vec::new();
        }
        if now >= self.begin + LENGTH {
            let pause = PAUSES.get(self.runs).copied().unwrap_or_default();
            self.runs += 1;
            self.begin = now + pause;
            self.next = self.begin;
            self.sent = 0;
            return Vec::new();
        }
        self.next = now + TICK;
        match &self.part {
            Part::Sockets(addresses) => {
                let ticks = SOCKETS.div_ceil(SOCKETS_PER_TICK);
                let tick = self.sent;
                self.sent += 1;
                let at = (tick % u32::from(ticks)) as u16;
                if at == ticks - 1 {
                    let round = tick / u32::from(ticks) + 1;
                    self.next = self.begin + ROUND * round;
                }
                let first = 1 + at * SOCKETS_PER_TICK;
                let sockets = first..(first + SOCKETS_PER_TICK).min(SOCKETS + 1);
                sockets
                    .flat_map(|socket| addresses.iter().map(move |to| Via::Udp { socket, to: *to }))
                    .collect()
            }
            Part::Ports(hosts) => {
                let left = PROBES.saturating_sub(self.sent);
                let count = PROBES_PER_TICK.min(left);
                self.sent += count;
                if left == 0 {
                    self.next = self.begin + LENGTH;
                }
                let hosts = hosts.clone();
                (0..count)
                    .map(|n| {
                        let host = hosts[n as usize % hosts.len()];
                        Via::udp((host, self.ports.next()).into())
                    })
                    .collect()
            }
        }
    }
}

/// Every port from [`FIRST_PORT`] up once, in an order that depends on the seed: a full-period
/// linear congruential sequence modulo 2¹⁶, with the lower ports left out.
#[derive(Debug)]
struct Ports {
    at: u16,
    step: u16,
}

impl Ports {
    fn new(seed: u64) -> Self {
        let [a, b, c, d, ..] = seed.to_be_bytes();
        Self {
            at: u16::from_be_bytes([a, b]),
            // Odd: the sequence has the full period.
            step: u16::from_be_bytes([c, d]) | 1,
        }
    }

    fn next(&mut self) -> u16 {
        loop {
            self.at = self.at.wrapping_mul(0x9e35).wrapping_add(self.step);
            if self.at >= FIRST_PORT {
                return self.at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_port_comes_once() {
        for seed in [0, 1, u64::MAX, 0x1234_5678_9abc_def0] {
            let mut ports = Ports::new(seed);
            let all: HashSet<u16> = (0..64_512).map(|_| ports.next()).collect();
            assert_eq!(all.len(), 64_512, "{seed}");
        }
    }

    #[test]
    fn a_search_is_bounded_and_repeated_twice() {
        let public: SocketAddr = "4.17.168.2:20000".parse().unwrap();
        for (own, peer) in [
            (Nat::EndpointDependent, Nat::EndpointIndependent),
            (Nat::EndpointIndependent, Nat::EndpointDependent),
        ] {
            let mut search = Search::plan(own, peer, &[public], 7, Duration::ZERO).unwrap();
            let (mut sent, mut last) = (0, Duration::ZERO);
            while let Some(now) = search.next() {
                assert!(now >= last, "time goes on");
                last = now;
                sent += search.tick(now).len();
            }
            assert!((3_000..=7_500).contains(&sent), "{own:?}: {sent}");
            assert!(last < Duration::from_secs(180), "{last:?}");
        }
        for (own, peer) in [
            (Nat::EndpointDependent, Nat::EndpointDependent),
            (Nat::EndpointIndependent, Nat::EndpointIndependent),
            (Nat::Unknown, Nat::EndpointDependent),
        ] {
            assert!(Search::plan(own, peer, &[public], 7, Duration::ZERO).is_none());
        }
    }
}
