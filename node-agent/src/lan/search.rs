//! Finds one device on the LAN.

use std::net::{IpAddr, SocketAddr, SocketAddrV6};

use anyhow::Result;
use mdns_sd::{ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent};
use ringback_protocol::{PeerId, lan};

use super::is_local;
use crate::network_watch::Network;

/// Addresses of one answer that are tried.
const MAX_ADDRESSES: usize = 8;

/// A search that goes on until it is dropped: the device may appear later.
pub(super) struct Search {
    daemon: ServiceDaemon,
    events: mdns_sd::Receiver<ServiceEvent>,
    name: String,
}

impl Search {
    pub(super) fn start(device: &PeerId) -> Result<Self> {
        let daemon = ServiceDaemon::new()?;
        let events = daemon.browse(lan::SERVICE_TYPE)?;
        let name = format!("{}.{}", lan::instance(device), lan::SERVICE_TYPE);
        Ok(Self {
            daemon,
            events,
            name,
        })
    }

    /// The next addresses at which somebody says that the device is. Only its signature will prove it.
    pub(super) async fn next(&mut self) -> Result<Vec<SocketAddr>> {
        loop {
            if let ServiceEvent::ServiceResolved(service) = self.events.recv_async().await?
                && service.fullname.eq_ignore_ascii_case(&self.name)
            {
                let addresses = addresses(&service);
                if !addresses.is_empty() {
                    return Ok(addresses);
                }
            }
        }
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        let _ = self.daemon.shutdown();
    }
}

/// IPv4 first. What is not of this LAN is left out: nobody here can send callers elsewhere.
fn addresses(service: &ResolvedService) -> Vec<SocketAddr> {
    let network = Network::read();
    let mut addresses: Vec<SocketAddr> = service
        .addresses
        .iter()
        .filter(|ip| is_local(ip.to_ip_addr(), &network))
        .map(|ip| match ip {
            ScopedIp::V6(ip) if ip.addr().is_unicast_link_local() => {
                SocketAddrV6::new(*ip.addr(), service.port, 0, ip.scope_id().index).into()
            }
            ip => SocketAddr::new(ip.to_ip_addr(), service.port),
        })
        .collect();
    addresses.sort_by_key(|address| match address.ip() {
        IpAddr::V4(_) => 0,
        IpAddr::V6(ip) if !ip.is_unicast_link_local() => 1,
        IpAddr::V6(_) => 2,
    });
    addresses.truncate(MAX_ADDRESSES);
    addresses
}
