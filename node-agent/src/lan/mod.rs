//! Calls on the LAN without the registry (PROTOCOL §17): the device advertises itself by mDNS and
//! takes requests on a TCP port; the caller looks for it and hands over the sealed envelope.

mod advertisement;
mod door;
mod search;
mod way;

use std::net::IpAddr;

use ringback_protocol::address_scope::Scope;
use ringback_protocol::candidate::canonical;

pub(crate) use advertisement::Advertisement;
pub(crate) use door::{Decide, Decision, Door};
pub(crate) use way::Way;

use crate::network_watch::Network;

/// May `ip` be an end of a request on the LAN? Private and link-local addresses, and those of the
/// subnets that this host is in.
pub(crate) fn is_local(ip: IpAddr, network: &Network) -> bool {
    let ip = canonical((ip, 0).into()).ip();
    Scope::of(ip).is_local() || network.is_neighbour(ip)
}
