//! Notices when this host's network changes: an interface, an address, or a default route.
//!
//! The kernel says *that* something has changed (netlink on Linux); *what* is read anew and compared,
//! so that messages about nothing new (router advertisements, container traffic) wake nobody. Where
//! the kernel does not say it, the network is read every [`POLL`].

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use tokio::sync::watch;

/// Changes come in bursts; they are told once, when none has followed for this long.
const QUIET: Duration = Duration::from_millis(100);
/// A burst that does not end is told all the same.
const LONGEST_BURST: Duration = Duration::from_millis(500);
/// How often the network is read where nobody tells of changes.
const POLL: Duration = Duration::from_secs(5);

/// What the host's network looks like.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Network {
    /// Counts the changes: an interface that went and came back looks as before.
    pub(crate) changes: u64,
    /// Without loopback and IPv6 link-local addresses.
    pub(crate) addresses: BTreeSet<Address>,
    /// Best first.
    pub(crate) routers: Vec<Router>,
}

/// An address of an interface.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
    /// Bits of the subnet that it is in.
    pub(crate) prefix: u8,
    /// The interface is up and has a carrier.
    pub(crate) up: bool,
}

/// The next hop of a default route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Router {
    pub(crate) metric: u32,
    pub(crate) ip: IpAddr,
    pub(crate) interface: String,
}

impl Network {
    /// The network as it is now.
    pub(crate) fn read() -> Self {
        let interfaces = if_addrs::get_if_addrs().unwrap_or_default();
        let addresses = interfaces
            .into_iter()
            .filter(|interface| !interface.is_loopback())
            .map(|interface| Address {
                ip: interface.ip(),
                prefix: match &interface.addr {
                    if_addrs::IfAddr::V4(address) => address.prefixlen,
                    if_addrs::IfAddr::V6(address) => address.prefixlen,
                },
                up: interface.is_oper_up(),
                interface: interface.name,
            })
            .filter(|address| match address.ip {
                IpAddr::V4(_) => true,
                IpAddr::V6(ip) => !ip.is_unicast_link_local(),
            })
            .collect();
        Self {
            changes: 0,
            addresses,
            routers: routers::read(),
        }
    }

    /// The IPv4 router that the default route leads to.
    pub(crate) fn router(&self) -> Option<Ipv4Addr> {
        self.routers.iter().find_map(|router| match router.ip {
            IpAddr::V4(ip) if !ip.is_unspecified() => Some(ip),
            _ => None,
        })
    }

    /// Is `ip` on a subnet that this host has an address in?
    pub(crate) fn is_neighbour(&self, ip: IpAddr) -> bool {
        self.addresses
            .iter()
            .any(|own| in_subnet(own.ip, own.prefix, ip))
    }

    fn differs(&self, other: &Self) -> bool {
        self.addresses != other.addresses || self.routers != other.routers
    }
}

/// The address that this host uses towards `router`. Nothing is sent.
pub(crate) fn address_towards(router: Ipv4Addr) -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect(SocketAddrV4::new(router, 5351)).ok()?;
    match socket.local_addr().ok()? {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    }
}

fn in_subnet(own: IpAddr, prefix: u8, ip: IpAddr) -> bool {
    match (own, ip) {
        (IpAddr::V4(own), IpAddr::V4(ip)) => {
            let differing = u32::from(own) ^ u32::from(ip);
            differing.leading_zeros() >= u32::from(prefix)
        }
        (IpAddr::V6(own), IpAddr::V6(ip)) => {
            let differing = u128::from(own) ^ u128::from(ip);
            differing.leading_zeros() >= u32::from(prefix)
        }
        _ => false,
    }
}

/// Starts to watch; the receiver has the network as it is now, and sees each change. The watch ends
/// when the last receiver is dropped.
pub(crate) fn start() -> watch::Receiver<Network> {
    // Before the first reading, so that no change falls between the two.
    let mut kernel = kernel::Changes::subscribe();
    let (sender, receiver) = watch::channel(Network::read());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = sender.closed() => return,
                () = kernel.next() => {}
            }
            // What was there for a moment only counts as well.
            let mut changed = Network::read().differs(&sender.borrow());
            let deadline = tokio::time::Instant::now() + LONGEST_BURST;
            while tokio::time::Instant::now() < deadline
                && tokio::time::timeout(QUIET, kernel.next()).await.is_ok()
            {
                changed |= Network::read().differs(&sender.borrow());
            }
            let now = Network::read();
            if changed || now.differs(&sender.borrow()) {
                tracing::debug!(?now, "the network has changed");
                sender.send_modify(|network| {
                    let changes = network.changes + 1;
                    *network = Network { changes, ..now };
                });
            }
        }
    });
    receiver
}

#[cfg(target_os = "linux")]
mod kernel {
    use std::io;

    use rustix::net::netlink::SocketAddrNetlink;
    use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, socket_with};
    use tokio::net::UdpSocket;

    /// RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV4_ROUTE, RTMGRP_IPV6_IFADDR, RTMGRP_IPV6_ROUTE
    /// (rtnetlink(7)).
    const GROUPS: u32 = 0x1 | 0x10 | 0x40 | 0x100 | 0x400;

    /// The kernel's messages, of which only the coming counts.
    pub(super) struct Changes(Option<UdpSocket>);

    impl Changes {
        pub(super) fn subscribe() -> Self {
            let open = || -> io::Result<UdpSocket> {
                let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                // NETLINK_ROUTE is protocol 0, which is what no protocol stands for.
                let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, flags, None)?;
                bind(&socket, &SocketAddrNetlink::new(0, GROUPS))?;
                // The type says UDP; what it does with a socket, reading datagrams, fits this one.
                UdpSocket::from_std(socket.into())
            };
            let socket = open().inspect_err(|error| {
                tracing::debug!(%error, "the kernel does not tell of changes of the network");
            });
            Self(socket.ok())
        }

        /// Something may have changed.
        pub(super) async fn next(&mut self) {
            let Some(socket) = &self.0 else {
                return tokio::time::sleep(super::POLL).await;
            };
            let mut buffer = [0; 8192];
            let mut read = socket.recv(&mut buffer).await;
            // All messages that are there count once.
            loop {
                match read {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                    // Messages were lost: that is news, too.
                    Err(error) if error.raw_os_error() == Some(NOBUFS) => {}
                    Err(_) => return tokio::time::sleep(super::POLL).await,
                }
                read = socket.try_recv(&mut buffer);
            }
        }
    }

    const NOBUFS: i32 = rustix::io::Errno::NOBUFS.raw_os_error();
}

#[cfg(not(target_os = "linux"))]
mod kernel {
    pub(super) struct Changes;

    impl Changes {
        pub(super) fn subscribe() -> Self {
            Self
        }

        pub(super) async fn next(&mut self) {
            tokio::time::sleep(super::POLL).await;
        }
    }
}

#[cfg(target_os = "linux")]
mod routers {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    use super::Router;

    /// RTF_UP (route(8)).
    const UP: u32 = 1;

    pub(super) fn read() -> Vec<Router> {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        parse(
            &read("/proc/thread-self/net/route"),
            &read("/proc/thread-self/net/ipv6_route"),
        )
    }

    pub(super) fn parse(v4: &str, v6: &str) -> Vec<Router> {
        let mut routers: Vec<Router> = v4
            .lines()
            .filter_map(parse_v4)
            .chain(v6.lines().filter_map(parse_v6))
            .collect();
        routers.sort();
        routers.dedup();
        routers
    }

    /// `Iface Destination Gateway Flags RefCnt Use Metric Mask …`; addresses in the machine's order.
    fn parse_v4(line: &str) -> Option<Router> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        if hex(1)? != 0 || hex(7)? != 0 || hex(3)? & UP == 0 {
            return None;
        }
        Some(Router {
            metric: fields.get(6)?.parse().ok()?,
            ip: IpAddr::V4(Ipv4Addr::from(hex(2)?.to_ne_bytes())),
            interface: fields[0].to_owned(),
        })
    }

    /// `destination length source length next-hop metric references use flags interface`.
    fn parse_v6(line: &str) -> Option<Router> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let hex = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        let interface = *fields.get(9)?;
        if hex(1)? != 0 || hex(8)? & UP == 0 || interface == "lo" {
            return None;
        }
        let ip = u128::from_str_radix(fields.get(4)?, 16).ok()?;
        Some(Router {
            metric: hex(5)?,
            ip: IpAddr::V6(Ipv6Addr::from(ip)),
            interface: interface.to_owned(),
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod routers {
    pub(super) fn read() -> Vec<super::Router> {
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn default_routes_are_read_best_first() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth0\t00000000\tFE01A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        let v6 = "00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003     eth0\n\
            00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo\n";
        let network = Network {
            routers: routers::parse(v4, v6),
            ..Network::default()
        };
        let seen: Vec<_> = network
            .routers
            .iter()
            .map(|router| (router.ip.to_string(), router.interface.as_str()))
            .collect();
        assert_eq!(
            seen,
            [
                ("192.168.1.254".to_owned(), "eth0"),
                ("192.168.1.1".to_owned(), "wlan0"),
                ("fe80::1".to_owned(), "eth0"),
            ]
        );
        assert_eq!(network.router(), Some(Ipv4Addr::new(192, 168, 1, 254)));
    }

    #[test]
    fn a_neighbour_is_on_an_own_subnet() {
        let address = |ip: &str, prefix| Address {
            interface: "eth0".into(),
            ip: ip.parse().unwrap(),
            prefix,
            up: true,
        };
        let network = Network {
            addresses: [address("192.168.1.3", 24), address("2001:db8::3", 64)].into(),
            ..Network::default()
        };
        for (ip, is) in [
            ("192.168.1.77", true),
            ("192.168.2.77", false),
            ("2001:db8::77", true),
            ("2001:db8:1::77", false),
        ] {
            assert_eq!(network.is_neighbour(ip.parse().unwrap()), is, "{ip}");
        }
    }
}
