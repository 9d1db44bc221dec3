//! Everything about a call but where its bytes go: whom to call and with what, and a caller in this
//! process where no agent runs.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::sync::watch;

use super::target::{self, Resolved};
use crate::caller::{Caller, Location};
use crate::cli::Target;
use crate::config::Config;
use crate::control::{Ask, Control};
use crate::endpoint::{Endpoint, Relays};
use crate::failure::{Exit, Failure};
use crate::link::close;
use crate::network_watch;
use crate::port_mapping::{self, PortMapping};
use crate::profile::Profile;
use crate::registry::Registry;
use crate::signalling::Signalling;
use crate::upkeep::{follow_mappings, follow_network};

/// Between two looks at the own address while a call lasts.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(25);
/// How long a call waits for the registry's list of STUN servers before it goes on beside that.
const STUN_PATIENCE: Duration = Duration::from_secs(1);

/// Everything about a call but where its bytes go.
pub(super) struct Prepared {
    pub(super) resolved: Resolved,
    pub(super) registry: Registry,
    pub(super) config: Config,
    pub(super) agent: Option<Control>,
    /// As the agent knows it.
    pub(super) public: Option<IpAddr>,
}

pub(super) async fn prepare(
    profile: &Profile,
    target: &Target,
    device: &str,
    service: &str,
) -> Result<Prepared> {
    let config = Config::load(profile)?;
    let registry = target::registry(&target.registry, &config)?;
    let mut resolved = target::resolve(profile, &registry, target, device, service).await?;
    resolved.ring.lan &= config.lan.unwrap_or(true) && !registry.is_loopback();
    let mut public = None;
    let agent = match Control::connect(profile).await? {
        Some(control) => {
            let status = control.ask(&Ask::Status).await?;
            if status.registry == registry.origin() {
                public = status.public_address.map(|address| address.ip());
                Control::connect(profile).await?
            } else {
                None
            }
        }
        None => None,
    };
    Ok(Prepared {
        resolved,
        registry,
        config,
        agent,
        public,
    })
}

/// A caller in this very process, with a socket of its own.
pub(super) async fn own_caller(
    profile: &Profile,
    target: &Target,
    registry: &Registry,
    config: &Config,
) -> Result<(Caller, Option<PortMapping>)> {
    let stun = stun_servers(profile, target, registry, config).await;
    let key = profile.key()?;
    let endpoint = Endpoint::bind(&key, 0, registry.is_loopback())
        .await
        .map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
    if !target.no_relay {
        endpoint.set_relays(Relays {
            own: Vec::new(),
            registry: Some(registry.clone()),
        });
        // Beside the call: a relay is asked for only when no direct path forms.
        let (profile, registry) = (profile.clone(), registry.clone());
        let endpoint = endpoint.clone();
        tokio::spawn(async move {
            if let Ok(own) = target::own_relays(&profile, &registry).await {
                endpoint.set_own_relays(own);
            }
        });
    }
    let network = network_watch::start();
    tokio::spawn(follow_network(endpoint.clone(), network.clone()));
    let own = endpoint.own_addresses().clone();
    tokio::spawn(async move { own.keep(ADDRESS_INTERVAL).await });
    let maps =
        !target.no_port_mapping && config.port_mapping.unwrap_or(true) && !registry.is_loopback();
    let mapping = maps.then(|| {
        let settings = port_mapping::Settings {
            udp: endpoint.port(),
            tcp: Some(endpoint.tcp_port()),
            state_dir: profile.state_dir().to_owned(),
            lease_s: config.port_mapping_lease_s,
        };
        let mapping = PortMapping::start(settings, network);
        tokio::spawn(follow_mappings(
            endpoint.clone(),
            mapping.forwarding().mappings(),
        ));
        mapping
    });
    let caller = Caller {
        key,
        endpoint,
        signalling: Signalling::Https(registry.clone()),
        location: Location::Stun(stun),
        forwarding: mapping.as_ref().map(PortMapping::forwarding),
        links: std::sync::Arc::default(),
    };
    Ok((caller, mapping))
}

/// Tells the peers and the router that it is over.
pub(super) async fn close_caller(caller: &Caller, mapping: Option<PortMapping>) {
    let release = async {
        if let Some(mapping) = mapping {
            mapping.release().await;
        }
    };
    tokio::join!(caller.endpoint.close(close::DONE, "done"), release);
}

/// The STUN servers to ask. A registry that does not tell them at once is not waited for: the device
/// may be on the LAN. Why it does not is told by the call itself.
async fn stun_servers(
    profile: &Profile,
    target: &Target,
    registry: &Registry,
    config: &Config,
) -> watch::Receiver<Option<Vec<String>>> {
    let (sender, mut receiver) = watch::channel(None);
    let (profile, args) = (profile.clone(), target.registry.clone());
    let (registry, config) = (registry.clone(), config.clone());
    tokio::spawn(async move {
        let servers = target::stun(&profile, &args, &config, &registry).await;
        let servers = servers
            .inspect_err(|error| tracing::debug!("no STUN servers are known: {error:#}"))
            .unwrap_or_default();
        sender.send_replace(Some(servers));
        // The value outlives its sender.
    });
    // The call's own request goes by the same connection then.
    let _ = tokio::time::timeout(STUN_PATIENCE, receiver.wait_for(Option::is_some)).await;
    receiver
}
