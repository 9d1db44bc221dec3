//! Who is to be called: from what a person typed to a device ID and a right to call.

use anyhow::{Result, bail};
use hyper::Method;
use ringback_protocol::{PeerId, UnixTime};
use serde::{Deserialize, Serialize};

use super::terminal::{self, say};
use crate::caller::{Credential, Ring};
use crate::cli::{RegistryArgs, Target};
use crate::clock::unix_time;
use crate::config::Config;
use crate::contacts::{Contact, Contacts};
use crate::failure::{Exit, Failure};
use crate::password;
use crate::profile::Profile;
use crate::registry::{Connection, Registry};
use crate::relay::OwnRelay;
use crate::short_id;

/// A target that can be called.
pub(super) struct Resolved {
    pub(super) ring: Ring,
    /// The name to note it under.
    pub(super) name: Option<String>,
}

/// The registry of the arguments, or else of the configuration.
pub(super) fn registry(args: &RegistryArgs, config: &Config) -> Result<Registry> {
    let url = args.registry.as_ref().or(config.registry.as_ref()).ok_or_else(|| {
        Failure::new(Exit::Usage, "which registry? Give --registry https://registry.example (it is remembered by `up`)")
    })?;
    let ca = args.registry_ca.as_ref().or(config.registry_ca.as_ref());
    Registry::new(url, ca.map(std::path::PathBuf::as_path))
        .map_err(|error| Failure::new(Exit::Usage, format!("{error:#}")).into())
}

/// The STUN servers of the arguments, the configuration, or the registry.
pub(super) async fn stun(
    profile: &Profile,
    args: &RegistryArgs,
    config: &Config,
    registry: &Registry,
) -> Result<Vec<String>> {
    if let Some(stun) = args.stun.clone().or_else(|| config.stun.clone()) {
        return Ok(stun);
    }
    Ok(info(profile, registry).await?.servers)
}

/// The relays of the registry's owner.
pub(super) async fn own_relays(profile: &Profile, registry: &Registry) -> Result<Vec<OwnRelay>> {
    Ok(info(profile, registry).await?.relays.unwrap_or_default())
}

/// What the registry tells everybody, at most a day old.
async fn info(profile: &Profile, registry: &Registry) -> Result<KnownServers> {
    #[derive(Deserialize)]
    struct Info {
        stun_servers: Vec<String>,
        #[serde(default)]
        beacons: Vec<Listed>,
    }
    #[derive(Deserialize)]
    struct Listed {
        id: PeerId,
        udp: String,
        tcp: Option<String>,
        relay: bool,
    }
    let known: KnownServers = profile.load(KNOWN_SERVERS)?;
    let now = unix_time(0);
    let is_fresh = now.abs_diff(known.asked_at) < SERVERS_LIFETIME_S;
    if known.registry == registry.origin() && is_fresh && known.relays.is_some() {
        return Ok(known);
    }
    let mut connection = Connection::open(registry).await?;
    let info = match connection
        .json::<Info>(Method::GET, "/v1/registry", None)
        .await?
    {
        Ok(info) => info,
        Err(problem) => bail!(problem.refusal()),
    };
    connection.keep(registry);
    let relays = info.beacons.into_iter().filter(|beacon| beacon.relay);
    let known = KnownServers {
        registry: registry.origin(),
        asked_at: now,
        servers: info.stun_servers,
        relays: Some(
            relays
                .map(|beacon| OwnRelay {
                    id: beacon.id,
                    udp: Some(beacon.udp),
                    tcp: beacon.tcp,
                })
                .collect(),
        ),
    };
    profile.store(KNOWN_SERVERS, &known)?;
    Ok(known)
}

/// The STUN servers that were last heard of, whenever that was.
pub(super) fn known_stun(profile: &Profile) -> Vec<String> {
    let known = profile.load::<KnownServers>(KNOWN_SERVERS);
    known.map(|known| known.servers).unwrap_or_default()
}

/// The registry's servers, so that not every call has to ask for them.
#[derive(Default, Serialize, Deserialize)]
struct KnownServers {
    registry: String,
    asked_at: UnixTime,
    servers: Vec<String>,
    /// `None`: written by a version that did not ask.
    relays: Option<Vec<OwnRelay>>,
}

const KNOWN_SERVERS: &str = "stun.json";
const SERVERS_LIFETIME_S: u64 = 24 * 3600;

/// Finds the device that `target` means and the right to call it.
pub(super) async fn resolve(
    profile: &Profile,
    registry: &Registry,
    target: &Target,
    device: &str,
    service: &str,
) -> Result<Resolved> {
    let mut contacts = Contacts::load(profile)?;
    let known = contacts.0.values().map(|contact| contact.id);
    let (id, name) = match short_id::pick(device, known)? {
        Some(id) => (id, None),
        None => (
            by_name(profile, &mut contacts, registry, target, device).await?,
            Some(device.to_owned()),
        ),
    };
    let contact = contacts.by_id(&id).map(|(_, contact)| contact.clone());
    let remembered = contact.as_ref().is_some_and(|contact| contact.remembered);
    let file = target.password_file.as_deref();
    let credential = match password::given(target.password.as_deref(), file)? {
        Some(password) => Credential::Password(password),
        None if remembered => Credential::Key,
        None => match terminal::ask_password(device)? {
            Some(password) => Credential::Password(password),
            None => bail!(Failure::new(
                Exit::Usage,
                "no password, and no terminal to ask for it: give --password-file or set RINGBACK_PASSWORD, or have the device remember this caller",
            )),
        },
    };
    let ring = Ring {
        device: id,
        credential,
        service: service.to_owned(),
        remember: target.remember,
        direct_only: target.no_relay,
        hints: contact.map(|contact| contact.hints).unwrap_or_default(),
        lan: !target.no_lan,
    };
    Ok(Resolved { ring, name })
}

/// The key that a name means. A contact's counts, whatever the registry says: it is not even asked,
/// which also saves a round trip. For a new name the registry's word is shown before anything is
/// asked or sent, so that the user can compare it.
async fn by_name(
    profile: &Profile,
    contacts: &mut Contacts,
    registry: &Registry,
    target: &Target,
    name: &str,
) -> Result<PeerId> {
    ringback_protocol::name::check(name).map_err(|error| {
        Failure::new(
            Exit::Usage,
            format!("'{name}' is neither a device ID nor a name: {error}"),
        )
    })?;
    let known = contacts.0.get(name).map(|contact| contact.id);
    if let Some(id) = known
        && !target.accept_new_key
    {
        return Ok(id);
    }
    let Some(id) = registry.alias(name).await? else {
        bail!(Failure::new(
            Exit::Offline,
            format!(
                "neither a contact nor a device of the registry is named '{name}'; see: ringback contacts"
            )
        ));
    };
    match known {
        None => say!("'{name}' is {id} at the registry; compare that with what the device shows"),
        Some(known) if known != id => {
            say!("'{name}' is now {id}");
            let contact = Contact {
                id,
                remembered: false,
                hints: Vec::new(),
            };
            contacts.0.insert(name.to_owned(), contact);
            contacts.store(profile)?;
        }
        Some(_) => {}
    }
    Ok(id)
}

/// A call by a contact's name found no device: asks the registry whose the name is now. Another key
/// there is a device that was set up anew, or a lie; only the user can tell which.
pub(super) async fn explain(
    error: anyhow::Error,
    registry: &Registry,
    resolved: &Resolved,
) -> anyhow::Error {
    let Some(name) = &resolved.name else {
        return error;
    };
    if Failure::exit_code(&error) != Exit::Offline as u8 {
        return error;
    }
    match registry.alias(name).await {
        Ok(Some(id)) if id != resolved.ring.device => Failure::new(
            Exit::Trust,
            format!(
                "the registry has another key for '{name}' now: {id}, and your contact {} can not be reached; \
                 if the new ID is what the device shows, call with --accept-new-key",
                resolved.ring.device
            ),
        )
        .into(),
        _ => error,
    }
}
