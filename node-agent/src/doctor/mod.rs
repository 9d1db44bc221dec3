//! What can be found out about this host's way to its peers, without one: everything is looked at in
//! parallel, each part has a limit of its own, and nothing of the running agent is disturbed.
//!
//! [`Examination::make`] looks; [`check`] judges; the `doctor` command shows.

pub(crate) mod check;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use ringback_protocol::SecretKey;
use ringback_protocol::diagnosis::{Filtering, Here, Mapping, Standing};
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::control::{Ask, Control, Status};
use crate::endpoint::nat_behaviour::{self, TcpBehaviour, UdpBehaviour};
use crate::nat64;
use crate::network_watch::{self, Network};
use crate::port_mapping::{Mappings, PortMapping, Settings, Trouble, is_public};
use crate::profile::Profile;
use crate::registry::{Health, Registry};

/// Backstop for each part, beyond the limits that it has itself.
const NAT_LIMIT: Duration = Duration::from_secs(4);
const MAPPING_LIMIT: Duration = Duration::from_secs(4);
const AGENT_LIMIT: Duration = Duration::from_secs(2);
const BEACON_LIMIT: Duration = Duration::from_millis(2500);
const IPV6_LIMIT: Duration = Duration::from_millis(1500);
/// Seconds that the test's port mapping lasts, should this process be killed.
const LEASE_S: u32 = 120;

/// What to look at.
pub(crate) struct Subject<'a> {
    pub(crate) profile: &'a Profile,
    /// `Err`: why there is none to ask.
    pub(crate) registry: Result<Registry, String>,
    /// In whose name the registry is asked.
    pub(crate) key: SecretKey,
    /// `None`: the registry's.
    pub(crate) stun: Option<Vec<String>>,
    /// The registry's when it was last asked, for when it does not answer.
    pub(crate) stun_known: Vec<String>,
    /// The agent may map ports.
    pub(crate) maps_ports: bool,
    pub(crate) relays: bool,
    /// The agent's port is fixed, maybe because the router forwards it.
    pub(crate) fixed_port: Option<u16>,
}

/// Everything that was found.
#[derive(Debug, Serialize)]
pub(crate) struct Examination {
    pub(crate) network: NetworkFound,
    pub(crate) udp: UdpBehaviour,
    pub(crate) udp_ipv6: UdpBehaviour,
    /// A TCP connection over IPv6 came about. `None`: nobody to try it with.
    pub(crate) tcp_ipv6: Option<bool>,
    pub(crate) tcp: TcpBehaviour,
    pub(crate) port_mapping: Mappings,
    /// The agent may use it.
    pub(crate) port_mapping_allowed: bool,
    pub(crate) relay_allowed: bool,
    pub(crate) fixed_port: Option<u16>,
    pub(crate) registry: Health,
    pub(crate) beacons: Vec<BeaconFound>,
    /// `None`: no agent runs here.
    pub(crate) agent: Option<Status>,
    /// An agent runs here, and does not answer.
    pub(crate) agent_trouble: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct NetworkFound {
    pub(crate) addresses: Vec<AddressFound>,
    pub(crate) routers: Vec<RouterFound>,
    /// The prefix under which the network translates to IPv4.
    pub(crate) nat64: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct AddressFound {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
    pub(crate) prefix: u8,
    pub(crate) up: bool,
}

#[derive(Debug, Serialize)]
pub(crate) struct RouterFound {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

#[derive(Debug, Serialize)]
pub(crate) struct BeaconFound {
    pub(crate) udp: String,
    pub(crate) relay: bool,
    pub(crate) online: bool,
    /// `None`: it does not answer.
    pub(crate) rtt_ms: Option<f64>,
}

impl Examination {
    /// Looks at everything, at most about 15 s, 5 s where all is well.
    pub(crate) async fn make(subject: Subject<'_>) -> Self {
        let network = Network::read();
        let hosts: Vec<IpAddr> = network.addresses.iter().map(|a| a.ip).collect();
        nat64::look_for(&hosts).await;
        let network_found = NetworkFound::of(&network);
        let has_ipv4 = network_found.has_ipv4();
        let health = registry(&subject).shared();
        let servers = async {
            let listed = match &subject.stun {
                Some(stun) => stun.clone(),
                None => match health.clone().await.info {
                    Some(info) => info.stun_servers,
                    None => subject.stun_known.clone(),
                },
            };
            nat_behaviour::look_up(&listed).await
        };
        let behaviour = async {
            let servers = servers.await;
            let (v4, v6): (Vec<_>, Vec<_>) = servers.into_iter().partition(SocketAddr::is_ipv4);
            tokio::join!(
                limited(NAT_LIMIT, nat_behaviour::udp(&hosts, &v4)),
                limited(NAT_LIMIT, nat_behaviour::udp(&hosts, &v6)),
                limited(
                    NAT_LIMIT,
                    nat_behaviour::tcp(&hosts, if has_ipv4 { &v4 } else { &v6 })
                ),
            )
        };
        let beacons = async { beacons(&health.clone().await).await };
        let tcp_ipv6 = async { tcp_ipv6(&health.clone().await).await };
        let (health_found, behaviour, beacons, tcp_ipv6, port_mapping, agent) = tokio::join!(
            health.clone(),
            behaviour,
            beacons,
            tcp_ipv6,
            port_mapping(),
            agent(subject.profile)
        );
        let (udp, udp_ipv6, tcp) = behaviour;
        let (agent, agent_trouble) = match agent {
            Ok(agent) => (agent, None),
            Err(why) => (None, Some(why)),
        };
        Self {
            network: network_found,
            udp,
            udp_ipv6,
            tcp_ipv6,
            tcp,
            port_mapping,
            port_mapping_allowed: subject.maps_ports,
            relay_allowed: subject.relays,
            fixed_port: subject.fixed_port,
            registry: health_found,
            beacons,
            agent,
            agent_trouble,
        }
    }

    /// What it means for calls.
    pub(crate) fn standing(&self) -> Standing {
        let mappings = self.port_mapping_allowed.then_some(&self.port_mapping);
        // What a router behind another NAT forwards, nobody finds.
        let forwards = |port: fn(&Mappings) -> Option<SocketAddr>| {
            !self.is_double_nat() && mappings.and_then(port).is_some()
        };
        Standing {
            ipv4: self.network.has_ipv4(),
            udp: !self.udp.seen.is_empty(),
            mapping: self.udp.mapping,
            filtering: self.udp.filtering,
            udp_forwarded: forwards(Mappings::udp_address),
            tcp_forwarded: forwards(Mappings::tcp_address),
            tcp: self.tcp_works(),
            tcp_mapping: self.tcp.mapping,
            ipv6_udp: !self.udp_ipv6.seen.is_empty()
                || self.udp_ipv6.asked.is_empty() && self.tcp_ipv6 == Some(true),
            ipv6_tcp: self.tcp_ipv6 == Some(true),
            double_nat: self.is_double_nat(),
            registry: self.registry.is_well(),
            relay_allowed: self.relay_allowed,
        }
    }

    /// TCP to ports other than the registry's. `None`: the servers do not tell.
    pub(crate) fn tcp_works(&self) -> Option<bool> {
        if !self.tcp.seen.is_empty() {
            Some(true)
        } else if self.tcp.asked.len() > self.tcp.refused.len() && !self.network.is_cut_off() {
            Some(false)
        } else {
            None
        }
    }

    /// The router is itself behind a NAT: the provider's, or another of the house.
    pub(crate) fn is_double_nat(&self) -> bool {
        matches!(self.port_mapping.trouble, Some(Trouble::DoubleNat { .. }))
            || self.has_carrier_address()
            || self.differs_from_router().is_some()
    }

    /// This host has an address of a carrier's NAT (RFC 6598).
    pub(crate) fn has_carrier_address(&self) -> bool {
        self.network.addresses.iter().any(|a| match a.ip {
            IpAddr::V4(ip) => ip.octets()[0] == 100 && (64..128).contains(&ip.octets()[1]),
            IpAddr::V6(_) => false,
        })
    }

    /// The router says that it has one public address, and STUN servers see another.
    pub(crate) fn differs_from_router(&self) -> Option<(Ipv4Addr, IpAddr)> {
        let external = *self.port_mapping.udp.as_ref()?.external.ip();
        let seen = &self.udp.seen;
        let agrees = seen.iter().any(|s| s.seen.ip() == external);
        let first = seen.first().filter(|_| !agrees && is_public(external))?;
        Some((external, first.seen.ip()))
    }
}

impl NetworkFound {
    fn of(network: &Network) -> Self {
        let addresses = network.addresses.iter().map(|a| AddressFound {
            interface: a.interface.clone(),
            ip: a.ip,
            prefix: a.prefix,
            up: a.up,
        });
        let routers = network.routers.iter().map(|r| RouterFound {
            interface: r.interface.clone(),
            ip: r.ip,
        });
        Self {
            addresses: addresses.collect(),
            routers: routers.collect(),
            nat64: nat64::prefix().map(nat64::Prefix::network),
        }
    }

    /// This host is on no network.
    pub(crate) fn is_down(&self) -> bool {
        !self.addresses.iter().any(|address| address.up)
    }

    /// Of its own, or by translation.
    pub(crate) fn has_ipv4(&self) -> bool {
        self.nat64.is_some() || self.addresses.iter().any(|a| a.up && a.ip.is_ipv4())
    }

    /// Nothing leads further than the LAN.
    pub(crate) fn is_cut_off(&self) -> bool {
        self.is_down() || self.routers.is_empty()
    }
}

/// What a host knows of itself when a call is explained.
pub(crate) fn here(public: Vec<IpAddr>, direct_only: bool) -> Here {
    let network = Network::read();
    Here {
        addresses: network.addresses.iter().map(|a| (a.ip, a.prefix)).collect(),
        public,
        direct_only,
    }
}

fn registry<'a>(subject: &'a Subject<'_>) -> BoxFuture<'a, Health> {
    match &subject.registry {
        Ok(registry) => Health::of(registry, &subject.key).boxed(),
        Err(why) => {
            let health = Health {
                trouble: Some(why.clone()),
                ..Health::default()
            };
            std::future::ready(health).boxed()
        }
    }
}

async fn limited<T: Default>(limit: Duration, finding: impl Future<Output = T>) -> T {
    timeout(limit, finding).await.unwrap_or_default()
}

/// Asks the router for ports as the agent does, and gives them back.
async fn port_mapping() -> Mappings {
    let ports = async {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let tcp = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let dir = tempfile::tempdir()?;
        std::io::Result::Ok((udp, tcp, dir))
    };
    let Ok((udp, tcp, dir)) = ports.await else {
        return Mappings::default();
    };
    let (Ok(udp_port), Ok(tcp_port)) = (udp.local_addr(), tcp.local_addr()) else {
        return Mappings::default();
    };
    let settings = Settings {
        udp: udp_port.port(),
        tcp: Some(tcp_port.port()),
        state_dir: Path::to_owned(dir.path()),
        lease_s: Some(LEASE_S),
    };
    let mapping = PortMapping::start(settings, network_watch::start());
    let mappings = mapping.forwarding().first(MAPPING_LIMIT).await;
    mapping.release().await;
    mappings
}

async fn beacons(health: &Health) -> Vec<BeaconFound> {
    let listed = health.info.iter().flat_map(|info| &info.beacons);
    let asking = listed.filter_map(|beacon| {
        let udp = beacon.udp.clone()?;
        Some(async move {
            let rtt = timeout(BEACON_LIMIT, nat_behaviour::round_trip(&udp)).await;
            BeaconFound {
                rtt_ms: rtt.ok().flatten().map(|rtt| rtt.as_secs_f64() * 1e3),
                udp,
                relay: beacon.relay,
                online: beacon.online,
            }
        })
    });
    futures_util::future::join_all(asking).await
}

/// The registry is the one host that is known to take TCP.
async fn tcp_ipv6(health: &Health) -> Option<bool> {
    let address = health.addresses.iter().find(|address| address.is_ipv6())?;
    let connected = timeout(IPV6_LIMIT, TcpStream::connect(address)).await;
    Some(matches!(connected, Ok(Ok(_))))
}

async fn agent(profile: &Profile) -> Result<Option<Status>, String> {
    let asking = async {
        match Control::connect(profile).await? {
            Some(control) => control.ask(&Ask::Status).await.map(Some),
            None => Ok(None),
        }
    };
    match timeout(AGENT_LIMIT, asking).await {
        Ok(Ok(status)) => Ok(status),
        Ok(Err(error)) => Err(format!("{error:#}")),
        Err(_) => Err("it does not answer".into()),
    }
}

/// A NAT's mapping and filter in the few words that people know.
pub(crate) fn nat_name(mapping: Mapping, filtering: Filtering) -> &'static str {
    match (mapping, filtering) {
        (Mapping::Unknown, _) => "unknown",
        (Mapping::None, Filtering::EndpointIndependent | Filtering::Unknown) => "no NAT",
        (Mapping::None, _) => "no NAT, but a firewall",
        (Mapping::EndpointIndependent, Filtering::EndpointIndependent) => "full cone",
        (Mapping::EndpointIndependent, Filtering::AddressDependent) => "address-restricted",
        (Mapping::EndpointIndependent, Filtering::AddressAndPortDependent) => "port-restricted",
        (Mapping::EndpointIndependent, Filtering::Unknown) => "endpoint-independent",
        _ => "symmetric",
    }
}
