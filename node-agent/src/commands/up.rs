//! `up`: makes this host a device and keeps it one.

use std::time::Duration;

use anyhow::{Result, bail};
use ringback_protocol::SecretKey;
use ringback_protocol::beacon::FLOOR;
use ringback_protocol::secret::Psk;
use serde::Serialize;
use toml_edit::value;

use super::stop::stopped;
use super::target;
use super::terminal::{self, say};
use crate::beacon::{self, device::Pace};
use crate::cli::{Global, Up};
use crate::config::{Config, KEEPALIVE_S};
use crate::control;
use crate::device::Agent;
use crate::endpoint::{Endpoint, Relays};
use crate::enrolment::{ENROLLED, EnrolledAs, enroll};
use crate::failure::{Ended, Exit, Failure};
use crate::fitting;
use crate::lan;
use crate::link::close;
use crate::network_watch;
use crate::password;
use crate::password_strength;
use crate::port_mapping::{self, PortMapping};
use crate::presence::{self, Presence};
use crate::profile::Profile;
use crate::registry::Registry;
use crate::registry_session::stay_registered;
use crate::remembered::RememberedCallers;
use crate::upkeep::{check_mappings, follow_mappings, follow_network};

/// Where somebody else keeps the mapping.
const ON_DOUBT_ONLY: Duration = Duration::from_secs(24 * 3600);
/// For the first answer of the registry, before `up` says that it keeps trying.
const FIRST_ANSWER: Duration = Duration::from_secs(8);

pub(super) async fn run(global: &Global, profile: Profile, up: Up) -> Result<()> {
    let Some(_lock) = profile.lock("agent.lock")? else {
        bail!(Failure::new(
            Exit::Usage,
            "an agent of this profile runs already; see: ringback status"
        ));
    };
    let config = Config::load(&profile)?;
    let registry = target::registry(&up.registry, &config)?;
    if let Some(name) = &up.name {
        ringback_protocol::name::check(name)
            .map_err(|e| Failure::new(Exit::Usage, format!("'{name}': {e}")))?;
    }
    // A code works once: whatever can fail on this host fails before it is used.
    let key = profile.key()?;
    profile.check_writable()?;
    let password = password::given(up.password.as_deref(), up.password_file.as_deref())?;
    if let Some(password) = password {
        password_strength::check(&profile, &key, &password, up.weak_password)?;
        set_password(&profile, &key, &password)?;
    }
    // Of whoever else the old one concerns the agent tells.
    if let Some(psk) = profile.password()?.filter(|_| up.keep_callers) {
        RememberedCallers::edit(&profile, |callers| (true, callers.keep(psk.tag(&key))))?;
    }
    let port = up.port.or(config.port).unwrap_or(0);
    let endpoint = Endpoint::bind(&key, port, registry.is_loopback())
        .await
        .map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")))?;
    let (listener, _socket) = control::bind(&profile.control_socket())?;
    let stun = up
        .registry
        .stun
        .clone()
        .or_else(|| config.stun.clone())
        .unwrap_or_default();
    if !up.no_relay && config.relay.unwrap_or(true) {
        endpoint.set_relays(Relays {
            own: Vec::new(),
            registry: Some(registry.clone()),
        });
    }
    let (agent, inbound) = Agent::new(key, profile.clone(), registry, endpoint, stun)?;
    let stop = stopped();
    tokio::pin!(stop);
    if let Some(code) = &up.enroll {
        tokio::select! {
            enrolled = enroll(&agent.registry, &agent.key, code, up.name.as_deref()) => {
                // Only this answer tells it where there is no socket to register on.
                let name = enrolled?;
                say!("enrolled as {name}");
                profile.store(ENROLLED, &EnrolledAs { registry: agent.registry.origin(), name })?;
            }
            ended = &mut stop => bail!(ended),
        }
    }
    remember_settings(&profile, &up, &agent.registry)?;

    let network = network_watch::start();
    // Nobody beyond this host is called through a registry on loopback.
    let alone = agent.registry.is_loopback();
    let maps = !up.no_port_mapping && config.port_mapping.unwrap_or(true) && !alone;
    let mapping = maps.then(|| {
        let settings = port_mapping::Settings {
            udp: agent.endpoint.port(),
            tcp: Some(agent.endpoint.tcp_port()),
            state_dir: profile.state_dir().to_owned(),
            lease_s: config.port_mapping_lease_s,
        };
        let mapping = PortMapping::start(settings, network.clone());
        // This is the only place that sets it.
        let forwarding = mapping.forwarding();
        let _ = agent.forwarding.set(forwarding.clone());
        tokio::spawn(follow_mappings(
            agent.endpoint.clone(),
            mapping.forwarding().mappings(),
        ));
        tokio::spawn(check_mappings(agent.endpoint.clone(), forwarding));
        mapping
    });
    tokio::spawn(follow_network(agent.endpoint.clone(), network.clone()));
    let has_lan = !up.no_lan && config.lan.unwrap_or(true) && !alone;
    let advertisement = has_lan.then(|| open_to_lan(&agent, network)).flatten();
    let interval = Duration::from_secs(
        up.keepalive_s
            .or(config.keepalive_s)
            .unwrap_or(KEEPALIVE_S)
            .into(),
    );
    tokio::spawn(control::serve(agent.clone(), listener));
    tokio::spawn(agent.services.clone().sweep_uploads());
    let (leave, left) = tokio::sync::oneshot::channel();
    let (registering, look_again) = if up.udp_only {
        let pace = match up.keepalive_s.or(config.keepalive_s) {
            Some(_) => Pace::Fixed(interval),
            None => Pace::Adaptive {
                floor: up
                    .keepalive_floor_s
                    .map_or(FLOOR, |seconds| Duration::from_secs(seconds.into())),
            },
        };
        let on_beacon =
            beacon::device::stay_on_beacon(agent.clone(), inbound, up.beacon.clone(), pace, left);
        // The beacon keeps the mapping and sees the address; STUN servers are asked on doubt only.
        (tokio::spawn(on_beacon), ON_DOUBT_ONLY)
    } else {
        let registering = tokio::spawn(stay_registered(agent.clone(), inbound));
        (registering, interval)
    };
    let own = agent.endpoint.own_addresses().clone();
    tokio::spawn(async move {
        own.find().await;
        own.keep(look_again).await;
    });

    let served = stay(global, &profile, &agent, &up, stop).await;
    if up.udp_only {
        // The beacon hears it, unless the task has ended.
        let _ = leave.send(());
        let _ = registering.await;
    }
    // Says goodbye while the rest ends.
    drop(advertisement);
    let close = agent.endpoint.close(close::SHUTTING_DOWN, "shutting down");
    let release = async {
        if let Some(mapping) = mapping {
            mapping.release().await;
        }
    };
    tokio::join!(agent.close_browsers(), release);
    close.await;
    served
}

/// Takes requests from the LAN and tells it so. Without that the device is called as always.
fn open_to_lan(
    agent: &std::sync::Arc<Agent>,
    network: tokio::sync::watch::Receiver<network_watch::Network>,
) -> Option<lan::Advertisement> {
    let device = agent.key.id();
    let decide = std::sync::Arc::new(agent.clone());
    let open = || -> Result<lan::Advertisement> {
        let door = lan::Door::new(device, network, decide);
        agent.endpoint.open_to_lan(door);
        lan::Advertisement::start(&device, agent.endpoint.tcp_port())
    };
    open()
        .inspect_err(|error| {
            tracing::warn!(
                "this device can not be called on the LAN without the registry: {error:#}"
            );
        })
        .ok()
}

/// Announces the device and stays until it is stopped, or rejected at the start.
async fn stay(
    global: &Global,
    profile: &Profile,
    agent: &std::sync::Arc<Agent>,
    up: &Up,
    mut stop: std::pin::Pin<&mut impl Future<Output = Ended>>,
) -> Result<()> {
    let mut presence = agent.presence.subscribe();
    let first = presence.wait_for(|presence| !matches!(presence, Presence::Connecting));
    let registered = tokio::select! {
        presence = tokio::time::timeout(FIRST_ANSWER, first) => match presence {
            Ok(presence) => presence?.clone(),
            Err(_) => Presence::Connecting,
        },
        ended = &mut stop => bail!(ended),
    };
    match &registered {
        Presence::Rejected { code, detail } => bail!(presence::rejection(code, detail)),
        Presence::Registered { .. } | Presence::Connecting | Presence::Offline { .. } => {
            // Made only now: nobody would have seen it if the device had not been let in.
            let new_password = match profile.password()? {
                Some(_) => None,
                None => Some(make_password()),
            };
            if let Some(password) = &new_password {
                set_password(profile, &agent.key, password)?;
                agent.reload()?;
            }
            announce(global, agent, &registered, new_password.as_deref())?;
        }
    }
    // A name goes with a code: without one the device has the name that the registry knows.
    let wished = up.name.as_deref().filter(|_| up.enroll.is_none());
    if let Presence::Registered { name, .. } = &registered {
        say_kept_name(wished, name);
    }
    tokio::select! {
        ended = &mut stop => bail!(ended),
        ended = watch(agent.clone(), registered, wished) => ended,
    }
}

/// `--name` without a code asks for what only the registry's owner can do.
pub(super) fn say_kept_name(wished: Option<&str>, name: &str) {
    if let Some(wished) = wished.filter(|wished| *wished != name) {
        say!(
            "--name {wished} changes nothing: this key is enrolled as {name}; the registry's owner can rename it"
        );
    }
}

/// Tells of changes of the registration, until the process ends.
async fn watch(
    agent: std::sync::Arc<Agent>,
    mut last: Presence,
    wished: Option<&str>,
) -> Result<()> {
    let mut presence = agent.presence.subscribe();
    loop {
        let now = presence.borrow_and_update().clone();
        if std::mem::discriminant(&now) != std::mem::discriminant(&last) {
            match &now {
                Presence::Registered { name, rival, .. } => {
                    say!("registered as {name}");
                    say_kept_name(wished, name);
                    if let Some(rival) = rival {
                        say!("{rival}; {}", presence::CLONE_ADVICE);
                    }
                }
                Presence::Offline { reason } => {
                    say!("the registry is away, trying again: {reason}");
                }
                Presence::Rejected { code, detail } => {
                    say!("{}", presence::rejection(code, detail));
                }
                Presence::Connecting => {}
            }
            last = now;
        }
        presence.changed().await?;
    }
}

fn set_password(profile: &Profile, key: &SecretKey, password: &str) -> Result<()> {
    let psk = Psk::from_password(&password::prepared(password), &key.id())
        .map_err(|e| Failure::new(Exit::Usage, e.to_string()))?;
    if profile.password()? != Some(psk.clone()) {
        profile.set_password(&psk)?;
    }
    Ok(())
}

/// 60 random bits in three groups that are easy to read out.
fn make_password() -> String {
    const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
    let group = || -> String {
        (0..4)
            .map(|_| char::from(DIGITS[usize::from(rand::random::<u8>() % 32)]))
            .collect()
    };
    [group(), group(), group()].join("-")
}

/// What was given once need not be given again.
fn remember_settings(profile: &Profile, up: &Up, registry: &Registry) -> Result<()> {
    let ca = up
        .registry
        .registry_ca
        .as_deref()
        .map(std::path::absolute)
        .transpose()?;
    Config::edit(profile, |document| {
        if up.registry.registry.is_some() {
            document["registry"] = value(registry.origin());
        }
        if let Some(ca) = ca.as_deref().and_then(std::path::Path::to_str) {
            document["registry_ca"] = value(ca);
        }
        if let Some(stun) = &up.registry.stun {
            document["stun"] = value(stun.iter().collect::<toml_edit::Array>());
        }
        if let Some(port) = up.port {
            document["port"] = value(i64::from(port));
        }
        if let Some(seconds) = up.keepalive_s {
            document["keepalive_s"] = value(i64::from(seconds));
        }
    })
}

#[derive(Serialize)]
struct Announcement<'a> {
    id: ringback_protocol::PeerId,
    name: Option<&'a str>,
    registry: String,
    registered: bool,
    /// Only when it was made just now.
    password: Option<&'a str>,
    services: Vec<String>,
}

fn announce(
    global: &Global,
    agent: &Agent,
    presence: &Presence,
    password: Option<&str>,
) -> Result<()> {
    let (name, trouble) = match presence {
        Presence::Registered { name, .. } => (Some(name.as_str()), None),
        Presence::Offline { reason } => (None, Some(reason.clone())),
        _ => (None, Some("no answer yet".to_owned())),
    };
    let services = agent.services.exposed();
    if global.json {
        let announcement = Announcement {
            id: agent.key.id(),
            name,
            registry: agent.registry.origin(),
            registered: name.is_some(),
            password,
            services: services.keys().cloned().collect(),
        };
        return terminal::data(global, &announcement, |_| String::new());
    }
    let id = agent.key.id();
    match trouble {
        None => say!("This device can be called.\n"),
        Some(trouble) => say!("This device can not be called yet, trying again: {trouble}\n"),
    }
    say!("  ID        {id}");
    if let Some(name) = name {
        say!("  Name      {name}");
    }
    match password {
        Some(password) => say!("  Password  {password}   (shown this once)"),
        None => say!("  Password  as set before; change it with --password-file"),
    }
    say!("  Registry  {}", agent.registry.origin());
    for (name, service) in &services {
        say!("  Service   {name} → {service}");
    }
    say!("");
    terminal::qr(&format!("{}/#{id}", agent.registry.origin()));
    let target = name.map_or_else(|| id.to_string(), ToOwned::to_owned);
    let services = services.iter();
    let kinds = services.map(|(name, service)| (name.as_str(), service.kind()));
    match fitting::example(&target, &agent.registry.origin(), kinds) {
        None => {
            say!("Nothing is exposed yet. In another terminal: ringback expose ssh 127.0.0.1:22");
        }
        Some(example) => say!("From elsewhere: {example}"),
    }
    Ok(())
}
