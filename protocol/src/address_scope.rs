//! How far an address reaches: the one table of special-purpose addresses (RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How far an address reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The internet.
    Global,
    /// The internet of examples and of test networks (RFC 5737, RFC 3849). Nobody outside has one.
    Documentation,
    /// A network between a carrier and its customers (RFC 6598).
    Shared,
    /// A private network (RFC 1918), or IPv6's unique local addresses (RFC 4193).
    Private,
    /// One link (RFC 3927; RFC 4291, 2.5.6).
    LinkLocal,
    /// This host (RFC 1122, RFC 4291).
    Loopback,
    /// Nowhere, or to more than one host: unspecified, broadcast, multicast, "this network".
    NoHost,
}

impl Scope {
    /// The scope of an address. An IPv4-mapped IPv6 address has that of the IPv4 one.
    pub fn of(ip: IpAddr) -> Self {
        match ip.to_canonical() {
            IpAddr::V4(ip) => Self::of_ipv4(ip),
            IpAddr::V6(ip) => Self::of_ipv6(ip),
        }
    }

    fn of_ipv4(ip: Ipv4Addr) -> Self {
        match ip.octets() {
            [0, ..] | [224..=239, ..] | [255, 255, 255, 255] => Self::NoHost,
            [127, ..] => Self::Loopback,
            [169, 254, ..] => Self::LinkLocal,
            [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Self::Private,
            [100, 64..=127, ..] => Self::Shared,
            [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Self::Documentation,
            _ => Self::Global,
        }
    }

    fn of_ipv6(ip: Ipv6Addr) -> Self {
        match ip.segments() {
            [0, 0, 0, 0, 0, 0, 0, 0] | [0xff00..=0xffff, ..] => Self::NoHost,
            [0, 0, 0, 0, 0, 0, 0, 1] => Self::Loopback,
            [0xfe80..=0xfebf, ..] => Self::LinkLocal,
            [0xfc00..=0xfdff, ..] => Self::Private,
            [0x2001, 0x0db8, ..] => Self::Documentation,
            _ => Self::Global,
        }
    }

    /// Is it the internet, be it that of a test network?
    pub fn is_global(self) -> bool {
        matches!(self, Self::Global | Self::Documentation)
    }

    /// Is it a network that is not the internet, or this host? A carrier's network is not meant: what is
    /// there is not the user's.
    pub fn is_local(self) -> bool {
        matches!(self, Self::Private | Self::LinkLocal | Self::Loopback)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_range_ends_where_its_rfc_says() {
        for (scope, addresses) in [
            (
                Scope::NoHost,
                "0.0.0.0 0.1.2.3 224.0.0.1 239.255.255.255 255.255.255.255 :: ff02::1",
            ),
            (
                Scope::Loopback,
                "127.0.0.1 127.255.255.255 ::1 ::ffff:127.0.0.1",
            ),
            (
                Scope::LinkLocal,
                "169.254.0.0 169.254.255.255 fe80::1 febf:ffff::1",
            ),
            (
                Scope::Private,
                "10.0.0.1 172.16.0.0 172.31.255.255 192.168.0.0 ::ffff:192.168.1.1 fc00::1 fdff::1",
            ),
            (Scope::Shared, "100.64.0.0 100.127.255.255"),
            (
                Scope::Documentation,
                "192.0.2.1 198.51.100.1 203.0.113.255 2001:db8::1",
            ),
            (
                Scope::Global,
                "1.0.0.0 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 169.253.255.255 \
                 192.167.255.255 192.169.0.0 11.0.0.0 126.255.255.255 128.0.0.0 2001:db7::1 \
                 2001:db9::1 fbff::1 fec0::1 64:ff9b::1",
            ),
        ] {
            for address in addresses.split(' ') {
                let ip = address.parse().expect(address);
                assert_eq!(Scope::of(ip), scope, "{address}");
            }
        }
    }
}
