//! IPv4 from a host that has only IPv6, behind a router that translates (NAT64, RFC 6146): an IPv4
//! address is written into an IPv6 address of the router's prefix (RFC 6052), on the way out, and
//! read from it on the way in. Everything else of the agent speaks of the IPv4 address that it is.
//!
//! Names need no such thing, as the network's name server answers with translated addresses (DNS64);
//! the addresses of peers do, which come as they are. The prefix is found by asking for a name
//! that is known to have only IPv4 addresses (RFC 7050). A host has one network, so this is one
//! for the process.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use parking_lot::RwLock;
use ringback_protocol::address_scope::Scope;
use ringback_protocol::candidate::canonical;
use tokio::time::timeout;

/// The name whose addresses are known (RFC 7050, 8.2).
const NAME: &str = "ipv4only.arpa";
const KNOWN: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 0, 170), Ipv4Addr::new(192, 0, 0, 171)];
/// Bytes that prefixes may have (RFC 6052, 2.2), the most likely first.
const LENGTHS: [usize; 6] = [12, 8, 7, 6, 5, 4];
/// The byte that is zero in each such address, whatever the prefix.
const RESERVED: usize = 8;
/// For the name server to answer.
const PATIENCE: Duration = Duration::from_secs(1);

static PREFIX: RwLock<Option<Prefix>> = RwLock::new(None);

/// The prefix of translated addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Prefix {
    /// What is behind the prefix is zero.
    octets: [u8; 16],
    length: usize,
}

impl Prefix {
    /// The one that makes one of the known addresses into `address`.
    fn of_known(address: Ipv6Addr) -> Option<Self> {
        LENGTHS.into_iter().find_map(|length| {
            let mut octets = [0; 16];
            octets[..length].copy_from_slice(&address.octets()[..length]);
            let prefix = Self { octets, length };
            let known = |known: &Ipv4Addr| prefix.synthesize(*known) == address;
            KNOWN.iter().any(known).then_some(prefix)
        })
    }

    /// Where the bytes of the IPv4 address are.
    fn places(self) -> impl Iterator<Item = usize> {
        (self.length..16).filter(|at| *at != RESERVED).take(4)
    }

    fn synthesize(self, address: Ipv4Addr) -> Ipv6Addr {
        let mut octets = self.octets;
        for (at, octet) in self.places().zip(address.octets()) {
            octets[at] = octet;
        }
        octets.into()
    }

    /// `None`: it is not of this prefix.
    fn extract(self, address: Ipv6Addr) -> Option<Ipv4Addr> {
        let octets = address.octets();
        let mut found = [0; 4];
        for (octet, at) in found.iter_mut().zip(self.places()) {
            *octet = octets[at];
        }
        let found = Ipv4Addr::from(found);
        (self.synthesize(found) == address).then_some(found)
    }

    pub(crate) fn network(self) -> String {
        format!("{}/{}", Ipv6Addr::from(self.octets), self.length * 8)
    }
}

/// The prefix of the network that this host is in, if it translates and the host needs it to.
pub(crate) fn prefix() -> Option<Prefix> {
    *PREFIX.read()
}

/// Looks for the prefix, at most 1 s, where `hosts`, the addresses of this host, have no IPv4 way
/// out of their own. Takes no time where they have.
pub(crate) async fn look_for(hosts: &[IpAddr]) {
    let found = if needs_it(hosts) {
        // A name server that is silent for once does not take away what links are using; without
        // IPv4 there is nothing that an old prefix could be in the way of.
        ask().await.unwrap_or_else(prefix)
    } else {
        None
    };
    let mut prefix = PREFIX.write();
    if *prefix != found {
        tracing::info!(prefix = ?found.map(Prefix::network), "the network's NAT64");
        *prefix = found;
    }
}

fn needs_it(hosts: &[IpAddr]) -> bool {
    let is_global = |ip: &IpAddr| ip.is_ipv6() && Scope::of(*ip).is_global();
    hosts.iter().any(is_global) && hosts.iter().all(|ip| ip.is_ipv6() || ip.is_loopback())
}

/// `None`: there was no answer.
async fn ask() -> Option<Option<Prefix>> {
    let found = timeout(PATIENCE, tokio::net::lookup_host((NAME, 0))).await;
    let mut addresses = found.ok()?.ok()?;
    Some(addresses.find_map(|address| match address.ip() {
        IpAddr::V6(ip) => Prefix::of_known(ip),
        IpAddr::V4(_) => None,
    }))
}

/// Where datagrams for `address` and connections to it go.
pub(crate) fn outward(address: SocketAddr) -> SocketAddr {
    match address.ip() {
        // What means another host in each network is not for the router to translate (RFC 6052, 3.1).
        IpAddr::V4(ip) if Scope::of(ip.into()) == Scope::Global => match prefix() {
            Some(prefix) => (prefix.synthesize(ip), address.port()).into(),
            None => address,
        },
        _ => address,
    }
}

/// Whom they come from; IPv4 as such.
pub(crate) fn inward(address: SocketAddr) -> SocketAddr {
    let address = canonical(address);
    match (address.ip(), prefix()) {
        (IpAddr::V6(ip), Some(prefix)) => match prefix.extract(ip) {
            Some(ip) => (ip, address.port()).into(),
            None => address,
        },
        _ => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_of_every_length_are_found_and_used() {
        // RFC 6052, 2.4.
        for (known, network, address) in [
            ("2001:db8:c000:aa::", "2001:db8::/32", "2001:db8:c000:221::"),
            (
                "2001:db8:1c0:0:aa::",
                "2001:db8:100::/40",
                "2001:db8:1c0:2:21::",
            ),
            (
                "2001:db8:122:c000:0:aa00::",
                "2001:db8:122::/48",
                "2001:db8:122:c000:2:2100::",
            ),
            (
                "2001:db8:122:3c0:0:aa::",
                "2001:db8:122:300::/56",
                "2001:db8:122:3c0:0:221::",
            ),
            (
                "2001:db8:122:344:c0:0:aa00::",
                "2001:db8:122:344::/64",
                "2001:db8:122:344:c0:2:2100::",
            ),
            (
                "2001:db8:122:344::192.0.0.171",
                "2001:db8:122:344::/96",
                "2001:db8:122:344::192.0.2.33",
            ),
            (
                "64:ff9b::192.0.0.170",
                "64:ff9b::/96",
                "64:ff9b::192.0.2.33",
            ),
        ] {
            let prefix = Prefix::of_known(known.parse().unwrap()).unwrap();
            assert_eq!(prefix.network(), network);
            let v4 = Ipv4Addr::new(192, 0, 2, 33);
            let v6: Ipv6Addr = address.parse().unwrap();
            assert_eq!(prefix.synthesize(v4), v6, "{network}");
            assert_eq!(prefix.extract(v6), Some(v4), "{network}");
            assert_eq!(prefix.extract("2001:db9::1".parse().unwrap()), None);
        }
        // An answer of somebody who knows another address.
        assert_eq!(
            Prefix::of_known("64:ff9b::192.0.2.33".parse().unwrap()),
            None
        );
    }

    #[test]
    fn only_a_host_without_ipv4_needs_it() {
        for (hosts, needs) in [
            (&["2001:db8::5"][..], true),
            (&["2001:db8::5", "127.0.0.1", "::1"], true),
            (&["2001:db8::5", "192.168.1.5"], false),
            // The translator on the host itself (464XLAT, RFC 6877).
            (&["2001:db8::5", "192.0.0.4"], false),
            (&["fd00::5", "fe80::5"], false),
            (&[], false),
        ] {
            let hosts: Vec<IpAddr> = hosts.iter().map(|ip| ip.parse().unwrap()).collect();
            assert_eq!(needs_it(&hosts), needs, "{hosts:?}");
        }
    }
}
