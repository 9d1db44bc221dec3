//! A leg: the line between the core and a router or a server.

use std::net::Ipv6Addr;

use anyhow::Result;

use super::{
    addresses::{GATEWAY, GATEWAY6},
    namespace::Namespace,
};

/// The far end of a leg in IPv6, and its way out.
pub(super) fn wan_addresses(own: Ipv6Addr) -> String {
    format!("addr replace {own}/64 dev wan nodad\nroute replace default via {GATEWAY6} dev wan\n")
}

/// Makes the veth pair of a leg: named after the leg in the core, `wan` at the far end.
pub(super) fn link(inet: &Namespace, far: &Namespace, leg: &str) -> Result<()> {
    inet.ip(&format!(
        "link add name {leg} type veth peer name wan netns {}\naddr add {GATEWAY}/32 dev {leg}\n\
         link set {leg} up\n",
        far.name()
    ))?;
    far.ip("link set wan up\n")?;
    inet.await_link(leg)?;
    far.await_link("wan")
}

/// A router's rules for dropping what it would say of packets that are too long, and for the segments of
/// TCP to be of so many bytes at most.
pub(super) fn silence(segment: Option<u16>) -> String {
    let clamp = segment.map_or(String::new(), |segment| {
        format!(
            "chain clamp {{\n type filter hook forward priority mangle\n \
             tcp flags syn tcp option maxseg size set {segment}\n }}\n"
        )
    });
    format!(
        "table inet silence\ndelete table inet silence\ntable inet silence {{\n{clamp}\
         chain out {{\n type filter hook output priority 0\n \
         icmp type destination-unreachable icmp code frag-needed drop\n \
         icmpv6 type packet-too-big drop\n }}\n}}\n"
    )
}
