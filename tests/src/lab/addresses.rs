//! The addresses of the lab's picture.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The registry's address; its certificate and every namespace's hosts file say [`REGISTRY_NAME`].
pub const REGISTRY: Ipv4Addr = Ipv4Addr::new(130, 74, 23, 6);
/// The registry's IPv6 address.
pub const REGISTRY6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0x23, 0, 0, 0, 0, 6);
/// The name that stands for [`REGISTRY`] and [`REGISTRY6`] in the hosts file of every namespace.
pub const REGISTRY_NAME: &str = "registry.test";
/// The addresses of the STUN server (two, so that NAT behaviour can be discovered).
pub const STUN: [Ipv4Addr; 2] = [Ipv4Addr::new(130, 74, 23, 7), Ipv4Addr::new(130, 74, 23, 8)];
/// The IPv6 addresses of the STUN server.
pub const STUN6: [Ipv6Addr; 2] = [
    Ipv6Addr::new(0x2001, 0xdb8, 0x23, 0, 0, 0, 0, 7),
    Ipv6Addr::new(0x2001, 0xdb8, 0x23, 0, 0, 0, 0, 8),
];
/// The port of the STUN server on all addresses.
pub const STUN_PORT: u16 = 3478;
/// The public address of the caller's router at the start.
pub const CALLER_PUBLIC: Ipv4Addr = Ipv4Addr::new(4, 17, 168, 2);
/// The caller's address on its LAN.
pub const CALLER_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 11);
/// The public address of the device's router at the start.
pub const DEVICE_PUBLIC: Ipv4Addr = Ipv4Addr::new(202, 204, 16, 13);
/// The device's address on its LAN.
pub const DEVICE_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 3);

/// The caller's address on the second segment behind the device's router; see
/// [`Topology::Hairpin`](super::Topology).
pub const SEGMENT_HOST: Ipv4Addr = Ipv4Addr::new(192, 168, 2, 11);

pub(super) const REGISTRY_ADDRESSES: [IpAddr; 2] = [IpAddr::V4(REGISTRY), IpAddr::V6(REGISTRY6)];
pub(super) const STUN_ADDRESSES: [IpAddr; 4] = [
    IpAddr::V4(STUN[0]),
    IpAddr::V4(STUN[1]),
    IpAddr::V6(STUN6[0]),
    IpAddr::V6(STUN6[1]),
];

/// The near end of every leg, in `inet`; the same on all, as each is a point-to-point link.
pub(super) const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);
/// The far end of a leg that leads to a router.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 2);

/// The same for IPv6: the near end of a leg, and the far end.
pub(super) const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
pub(super) const ROUTER6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);
