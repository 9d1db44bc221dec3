//! What keeps an endpoint's knowledge of its own addresses true while it is open.

use ringback_protocol::candidate::{Candidate, Kind};

use crate::endpoint::Endpoint;
use crate::network_watch;
use crate::port_mapping::{self, Forwarding};

/// Offers what the router maps to peers, for as long as it does.
pub(crate) async fn follow_mappings(
    endpoint: Endpoint,
    mut mappings: tokio::sync::watch::Receiver<port_mapping::Mappings>,
) {
    loop {
        let now = mappings.borrow_and_update().clone();
        let udp = now.udp_address().map(|to| Candidate::udp(Kind::Mapped, to));
        let tcp = now.tcp_address().map(|to| Candidate::tcp(Kind::Mapped, to));
        let mapped: Vec<Candidate> = udp.into_iter().chain(tcp).collect();
        endpoint.own_addresses().set_mapped(&mapped);
        if mappings.changed().await.is_err() {
            return;
        }
    }
}

/// Has the links look for their way anew whenever the host's network changes.
pub(crate) async fn follow_network(
    endpoint: Endpoint,
    mut network: tokio::sync::watch::Receiver<network_watch::Network>,
) {
    network.mark_unchanged();
    while network.changed().await.is_ok() {
        endpoint.network_changed();
    }
}

/// A new public address suggests that the router has started anew, and lost its mappings.
pub(crate) async fn check_mappings(endpoint: Endpoint, forwarding: Forwarding) {
    let mut addresses = endpoint.own_addresses().subscribe();
    let mut last = addresses.borrow_and_update().public;
    while addresses.changed().await.is_ok() {
        let public = addresses.borrow_and_update().public;
        if public != last && last.is_some() {
            forwarding.check();
        }
        last = public;
    }
}
