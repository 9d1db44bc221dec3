//! This host's own addresses, the useful ones first. A host with containers has dozens of bridges
//! that nobody outside can reach, and an IPv6 interface may have many addresses of one network: neither
//! may crowd out what a peer can use, as a request holds 16 candidates.

use std::collections::HashMap;
use std::net::IpAddr;

use crate::network_watch::Network;

/// Addresses that are offered at most; the rest of the candidates is for what others see of us.
const MAX: usize = 10;
/// Of these, IPv6.
const MAX_V6: usize = 4;
/// Of one IPv6 network.
const MAX_PER_NETWORK: usize = 2;
/// Of bridges and other interfaces that containers and virtual machines are on.
const MAX_INNER: usize = 2;

/// How the names of such interfaces begin.
const INNER: [&str; 12] = [
    "br-", "cali", "cni", "docker", "flannel", "kube", "lxc", "lxd", "podman", "veth", "virbr",
    "vnet",
];

/// This host's addresses, best first; loopback addresses only where `loopback` asks for them.
pub(crate) fn own_addresses(loopback: bool) -> Vec<IpAddr> {
    let flags = flags::read();
    let routed: Vec<String> = Network::read()
        .routers
        .into_iter()
        .map(|router| router.interface)
        .collect();
    let own = if_addrs::get_if_addrs()
        .unwrap_or_default()
        .into_iter()
        .filter(|interface| loopback || !interface.is_loopback())
        .map(|interface| Own {
            ip: interface.ip(),
            up: interface.is_oper_up(),
            flags: flags.get(&interface.ip()).copied().unwrap_or_default(),
            interface: interface.name,
        })
        .collect();
    choose(own, &routed)
}

struct Own {
    interface: String,
    ip: IpAddr,
    up: bool,
    flags: Flags,
}

/// What the kernel says of an IPv6 address.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Flags {
    /// Of a privacy extension (RFC 8981): what this host sends from by itself, if it has one. A
    /// firewall on the way lets answers in to the address that was sent from.
    temporary: bool,
    /// On its way out, or not proven to be ours: not to be used for anything new.
    unfit: bool,
}

impl Own {
    fn is_inner(&self) -> bool {
        INNER
            .iter()
            .any(|prefix| self.interface.starts_with(prefix))
    }

    fn is_usable(&self) -> bool {
        self.up
            && !self.flags.unfit
            && match self.ip {
                IpAddr::V4(_) => true,
                IpAddr::V6(ip) => !ip.is_unicast_link_local(),
            }
    }
}

/// Interfaces with a default route come first, those of containers last.
fn choose(mut own: Vec<Own>, routed: &[String]) -> Vec<IpAddr> {
    own.retain(Own::is_usable);
    own.sort_by_key(|own| {
        let route = routed.iter().position(|name| *name == own.interface);
        let order = match route {
            Some(at) => at,
            None if own.is_inner() => usize::MAX,
            None => routed.len(),
        };
        (order, !own.flags.temporary)
    });
    let (mut inner, mut v6) = (0, 0);
    let mut networks: HashMap<[u16; 4], usize> = HashMap::new();
    let mut chosen = Vec::new();
    for own in own {
        if own.is_inner() && !routed.contains(&own.interface) {
            inner += 1;
            if inner > MAX_INNER {
                continue;
            }
        }
        if let IpAddr::V6(ip) = own.ip {
            let [a, b, c, d, ..] = ip.segments();
            let of_network = networks.entry([a, b, c, d]).or_default();
            if *of_network == MAX_PER_NETWORK || v6 == MAX_V6 {
                continue;
            }
            *of_network += 1;
            v6 += 1;
        }
        chosen.push(own.ip);
    }
    chosen.truncate(MAX);
    chosen
}

#[cfg(target_os = "linux")]
mod flags {
    use std::collections::HashMap;
    use std::net::{IpAddr, Ipv6Addr};

    use super::Flags;

    /// IFA_F_TEMPORARY (rtnetlink(7)).
    const TEMPORARY: u32 = 0x01;
    /// IFA_F_DADFAILED, IFA_F_DEPRECATED, IFA_F_TENTATIVE.
    const UNFIT: u32 = 0x08 | 0x20 | 0x40;

    pub(super) fn read() -> HashMap<IpAddr, Flags> {
        let text = std::fs::read_to_string("/proc/thread-self/net/if_inet6").unwrap_or_default();
        text.lines().filter_map(parse).collect()
    }

    /// `address interface prefix scope flags name`, in hexadecimal.
    pub(super) fn parse(line: &str) -> Option<(IpAddr, Flags)> {
        let mut fields = line.split_whitespace();
        let ip = u128::from_str_radix(fields.next()?, 16).ok()?;
        let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
        let flags = Flags {
            temporary: flags & TEMPORARY != 0,
            unfit: flags & UNFIT != 0,
        };
        Some((IpAddr::V6(Ipv6Addr::from(ip)), flags))
    }
}

#[cfg(not(target_os = "linux"))]
mod flags {
    pub(super) fn read() -> std::collections::HashMap<std::net::IpAddr, super::Flags> {
        Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(interface: &str, ip: &str) -> Own {
        Own {
            interface: interface.into(),
            ip: ip.parse().unwrap(),
            up: true,
            flags: Flags::default(),
        }
    }

    fn chosen(own: Vec<Own>) -> Vec<String> {
        let routed = ["eth0".to_owned()];
        let chosen = choose(own, &routed);
        chosen.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn bridges_of_containers_do_not_crowd_out_the_lan() {
        let mut all: Vec<Own> = (0..40)
            .map(|n| own(&format!("br-{n:012x}"), &format!("192.168.{}.1", 100 + n)))
            .collect();
        all.push(own("wlan0", "10.1.1.7"));
        all.push(own("docker0", "172.17.0.1"));
        all.push(own("eth0", "192.168.1.3"));
        let chosen = chosen(all);
        assert_eq!(chosen[..2], ["192.168.1.3", "10.1.1.7"]);
        assert_eq!(chosen.len(), 2 + MAX_INNER);
    }

    #[test]
    fn of_many_ipv6_addresses_those_that_last_are_taken() {
        let with = |ip, temporary, unfit| Own {
            flags: Flags { temporary, unfit },
            ..own("eth0", ip)
        };
        let down = Own {
            up: false,
            ..own("eth1", "192.168.7.7")
        };
        let all = vec![
            own("eth0", "fe80::1"),
            with("2001:db8::1", false, false),
            with("2001:db8::2", true, true),
            with("2001:db8::3", true, false),
            with("2001:db8::4", true, false),
            own("eth0", "192.168.1.3"),
            down,
        ];
        assert_eq!(chosen(all), ["2001:db8::3", "2001:db8::4", "192.168.1.3"]);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_kernels_flags_are_read() {
        let line = |flags| format!("20010db8000000000000000000000003 02 40 00 {flags}     eth0");
        for (text, temporary, unfit) in [
            ("80", false, false),
            ("01", true, false),
            ("21", true, true),
            ("40", false, true),
        ] {
            let (ip, flags) = flags::parse(&line(text)).unwrap();
            assert_eq!(ip.to_string(), "2001:db8::3");
            assert_eq!(flags, Flags { temporary, unfit }, "{text}");
        }
    }
}
