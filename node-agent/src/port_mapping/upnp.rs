//! UPnP-IGD: a control point of the router, asked by SOAP. [`super::ssdp`] finds it.

use std::net::{IpAddr, Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use igd_next::aio::Gateway;
use igd_next::aio::tokio::Tokio;
use igd_next::{
    AddPortError, GetExternalIpError, PortMappingEntry, PortMappingProtocol, RequestError,
};

use super::journal::{Entry, Journal, expiry};
use super::mapping::{Method, Place, Settings, Transport};

/// What routers show beside the mapping.
const DESCRIPTION: &str = "ringback";
/// External ports that are tried, the local one first.
const ATTEMPTS: usize = 6;
/// Where the others are drawn from.
const PORTS: std::ops::Range<u16> = 20_000..60_000;
/// Entries of the router's table that are read, and the time for it: some routers have thousands.
const TABLE_LIMIT: u32 = 128;
const TABLE_TIME: Duration = Duration::from_millis(500);

/// The router's control point.
#[derive(Debug, Clone)]
pub(super) struct Igd(Gateway<Tokio>);

impl Igd {
    pub(super) fn new(gateway: Gateway<Tokio>) -> Self {
        Self(gateway)
    }

    /// The router's own address outside; `None` if it says that it has none.
    pub(super) async fn external_address(&self) -> Result<Option<Ipv4Addr>, String> {
        match self.0.get_external_ip().await {
            Ok(IpAddr::V4(ip)) => Ok(Some(ip)),
            Ok(IpAddr::V6(_)) => Err("its external address is not IPv4".into()),
            Err(GetExternalIpError::RequestError(RequestError::InvalidResponse(text)))
                if text.contains("NewExternalIPAddress") =>
            {
                Ok(None)
            }
            Err(error) => Err(brief(&error)),
        }
    }

    /// The router's mappings, as many as it shows in a short time.
    pub(super) async fn table(&self) -> Option<Vec<PortMappingEntry>> {
        let mut table = Vec::new();
        let read = async {
            for index in 0..TABLE_LIMIT {
                match self.0.get_generic_port_mapping_entry(index).await {
                    Ok(entry) => table.push(entry),
                    Err(_) => break,
                }
            }
        };
        let _ = tokio::time::timeout(TABLE_TIME, read).await;
        // One of ours is in it whenever it is asked for: an empty one is not to be believed.
        (!table.is_empty()).then_some(table)
    }

    /// Makes a mapping on an external port that nobody has; gives its note and the lease.
    pub(super) async fn map(
        &self,
        place: Place,
        transport: Transport,
        port: u16,
        settings: &Settings,
        taken: &[PortMappingEntry],
        journal: &mut Journal,
    ) -> Result<(Entry, u32), String> {
        let local = SocketAddrV4::new(place.local, port);
        let mut lease_s = settings.lease(Method::Upnp);
        let mut refusal = String::from("all ports are taken");
        let mut attempts = 0;
        let mut external_port = port;
        while attempts < ATTEMPTS {
            attempts += 1;
            // Many routers let a host replace a mapping of its own: that may be another agent's.
            let is_others = taken.iter().any(|other| {
                other.external_port == external_port
                    && other.protocol == protocol(transport)
                    && !leads_to(other, local)
            });
            if !is_others {
                let entry = Entry {
                    method: Method::Upnp,
                    place,
                    transport,
                    port,
                    external_port,
                    nonce: [0; 3],
                    expires_at: expiry(lease_s),
                };
                journal
                    .note_making(&entry)
                    .map_err(|error| error.to_string())?;
                match self.add(&entry, lease_s).await {
                    Ok(()) => return Ok((entry, lease_s)),
                    Err(AddPortError::OnlyPermanentLeasesSupported) if lease_s > 0 => {
                        journal.note_gone(&entry);
                        lease_s = 0;
                        continue;
                    }
                    Err(error @ AddPortError::PortInUse) => {
                        journal.note_gone(&entry);
                        refusal = brief(&error);
                    }
                    Err(error) => {
                        journal.note_gone(&entry);
                        return Err(brief(&error));
                    }
                }
            }
            external_port = rand::random_range(PORTS);
        }
        Err(refusal)
    }

    /// Asks for a mapping again. A router that takes its own entry for another's is asked to delete
    /// it first.
    pub(super) async fn renew(&self, entry: &Entry, lease_s: u32) -> Result<(), String> {
        match self.add(entry, lease_s).await {
            Err(AddPortError::PortInUse) => {
                self.delete(entry).await?;
                self.add(entry, lease_s).await.map_err(|e| brief(&e))
            }
            result => result.map_err(|error| brief(&error)),
        }
    }

    /// Deletes a mapping unless the router shows that it is another's by now, or none; says whether
    /// it was there.
    pub(super) async fn delete(&self, entry: &Entry) -> Result<bool, String> {
        let protocol = protocol(entry.transport);
        let local = SocketAddrV4::new(entry.place.local, entry.port);
        if let Some(table) = self.table().await {
            let at_port = |other: &&PortMappingEntry| {
                other.external_port == entry.external_port && other.protocol == protocol
            };
            match table.iter().find(at_port) {
                Some(other) if !leads_to(other, local) => return Ok(false),
                None if table.len() < TABLE_LIMIT as usize => return Ok(false),
                _ => {}
            }
        }
        self.0
            .remove_port(protocol, entry.external_port)
            .await
            .map(|()| true)
            .map_err(|error| brief(&error))
    }

    async fn add(&self, entry: &Entry, lease_s: u32) -> Result<(), AddPortError> {
        let local = SocketAddrV4::new(entry.place.local, entry.port);
        self.0
            .add_port(
                protocol(entry.transport),
                entry.external_port,
                local.into(),
                lease_s,
                DESCRIPTION,
            )
            .await
    }
}

/// Without the router's XML.
fn brief(error: &impl std::fmt::Display) -> String {
    let text = error.to_string();
    text.split('<').next().unwrap_or_default().trim().to_owned()
}

fn leads_to(entry: &PortMappingEntry, local: SocketAddrV4) -> bool {
    entry.internal_port == local.port() && entry.internal_client == local.ip().to_string()
}

fn protocol(transport: Transport) -> PortMappingProtocol {
    match transport {
        Transport::Udp => PortMappingProtocol::UDP,
        Transport::Tcp => PortMappingProtocol::TCP,
    }
}
