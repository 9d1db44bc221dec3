//! `beacon`: runs the UDP front of a registry until it is stopped.

use std::time::Duration;

use anyhow::{Result, bail};
use ringback_protocol::PeerId;
use ringback_protocol::beacon::{Config as FrontConfig, RelayConfig};
use serde::Serialize;
use toml_edit::value;

use super::stop::stopped;
use super::terminal::{self, say};
use super::{target, up};
use crate::beacon::front::{BeaconServer, Options};
use crate::cli::{Beacon, Global, RegistryArgs};
use crate::config::Config;
use crate::control;
use crate::enrolment::enroll;
use crate::failure::{Exit, Failure};
use crate::presence::{self, Presence};
use crate::profile::Profile;

/// For the first answer of the registry, before `beacon` says that it keeps trying.
const FIRST_ANSWER: Duration = Duration::from_secs(8);

#[derive(Serialize)]
struct Announcement {
    id: PeerId,
    name: Option<String>,
    registry: String,
    registered: bool,
    port: u16,
    udp: Option<String>,
    tcp: Option<String>,
}

pub(super) async fn run(global: &Global, profile: &Profile, beacon: Beacon) -> Result<()> {
    let Some(_lock) = profile.lock("agent.lock")? else {
        bail!(Failure::new(
            Exit::Usage,
            "an agent of this profile runs already; a beacon needs a profile of its own: give --dir"
        ));
    };
    let config = Config::load(profile)?;
    let registry_args = RegistryArgs {
        registry: beacon.registry.registry.clone(),
        registry_ca: beacon.registry.registry_ca.clone(),
        stun: None,
    };
    let registry = target::registry(&registry_args, &config)?;
    let key = profile.key()?;
    if let Some(name) = &beacon.name {
        ringback_protocol::name::check(name)
            .map_err(|e| Failure::new(Exit::Usage, format!("'{name}': {e}")))?;
    }
    // A code works once: whatever can fail on this host fails before it is used.
    profile.check_writable()?;
    let options = Options {
        port: beacon.port,
        public: beacon.public.clone(),
        config: FrontConfig {
            max_devices: beacon.max_devices,
            relay: beacon.relay.then(|| RelayConfig {
                rate: beacon.relay_rate,
                daily: beacon.relay_daily,
                ..RelayConfig::default()
            }),
        },
    };
    let bound = BeaconServer::bind(registry.clone(), key.clone(), options).await;
    let (server, handle) = bound.map_err(|error| {
        let port = beacon.port;
        Failure::new(
            Exit::Usage,
            format!(
                "can not use port {port}: {error:#}; is another beacon or STUN server using it?"
            ),
        )
    })?;
    let (listener, _socket) = control::bind(&profile.control_socket())?;
    let stop = stopped();
    tokio::pin!(stop);
    if let Some(code) = &beacon.enroll {
        tokio::select! {
            enrolled = enroll(&registry, &key, code, beacon.name.as_deref()) => say!("enrolled as {}", enrolled?),
            ended = &mut stop => bail!(ended),
        }
    }
    remember_settings(profile, &beacon, &registry.origin())?;
    tokio::spawn(control::serve_beacon(handle.clone(), listener));
    let serving = server.serve();
    tokio::pin!(serving);

    let mut presence = handle.presence.clone();
    let first = presence.wait_for(|presence| !matches!(presence, Presence::Connecting));
    let registered = tokio::select! {
        presence = tokio::time::timeout(FIRST_ANSWER, first) => match presence {
            Ok(presence) => presence?.clone(),
            Err(_) => Presence::Connecting,
        },
        ended = &mut serving => return ended,
        ended = &mut stop => bail!(ended),
    };
    if let Presence::Rejected { code, detail } = &registered {
        bail!(presence::rejection(code, detail));
    }
    // A name goes with a code: without one the beacon has the name that the registry knows.
    let wished = beacon.name.as_deref().filter(|_| beacon.enroll.is_none());
    if let Presence::Registered { name, .. } = &registered {
        up::say_kept_name(wished, name);
    }
    let announcing = async {
        if let Some(status) = handle.status().await {
            let name = match registered {
                Presence::Registered { name, .. } => Some(name),
                _ => None,
            };
            announce(
                global,
                &Announcement {
                    id: status.id,
                    registered: name.is_some(),
                    name,
                    registry: status.registry,
                    port: status.beacon.port,
                    udp: status.beacon.udp,
                    tcp: status.beacon.tcp,
                },
            )?;
        }
        watch(presence).await
    };
    tokio::select! {
        ended = &mut stop => bail!(ended),
        ended = &mut serving => ended,
        ended = announcing => ended,
    }
}

fn announce(global: &Global, announcement: &Announcement) -> Result<()> {
    if global.json {
        return terminal::data(global, announcement, |_| String::new());
    }
    match &announcement.name {
        Some(name) => say!("This beacon is in the registry as {name}.\n"),
        None => say!("This beacon can not reach the registry yet, trying again.\n"),
    }
    say!("  ID        {}", announcement.id);
    say!("  Registry  {}", announcement.registry);
    say!(
        "  UDP       port {}, told to devices as {}",
        announcement.port,
        announcement.udp.as_deref().unwrap_or("(not known yet)")
    );
    if let Some(tcp) = &announcement.tcp {
        say!("  Relay     UDP and TCP {tcp}");
    }
    Ok(())
}

/// Tells of changes of the registration.
async fn watch(mut presence: tokio::sync::watch::Receiver<Presence>) -> Result<()> {
    let mut was_registered = matches!(*presence.borrow_and_update(), Presence::Registered { .. });
    loop {
        presence.changed().await?;
        let now = presence.borrow_and_update().clone();
        let is_registered = matches!(now, Presence::Registered { .. });
        if is_registered != was_registered {
            match now {
                Presence::Registered { name, .. } => say!("registered as {name}"),
                Presence::Offline { reason } => {
                    say!("the registry is away, trying again: {reason}");
                }
                Presence::Rejected { code, detail } => {
                    say!("{}", presence::rejection(&code, &detail));
                }
                Presence::Connecting => {}
            }
        }
        was_registered = is_registered;
    }
}

/// What was given once need not be given again.
fn remember_settings(profile: &Profile, beacon: &Beacon, origin: &str) -> Result<()> {
    let ca = beacon.registry.registry_ca.as_deref();
    let ca = ca.map(std::path::absolute).transpose()?;
    Config::edit(profile, |document| {
        if beacon.registry.registry.is_some() {
            document["registry"] = value(origin);
        }
        if let Some(ca) = ca.as_deref().and_then(std::path::Path::to_str) {
            document["registry_ca"] = value(ca);
        }
    })
}
