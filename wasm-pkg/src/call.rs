//! One call, from the offer to the link (PROTOCOL §4, §19).

use std::cell::RefCell;

use futures_util::future::{LocalBoxFuture, join, join3, select_ok};
use ringback_protocol::reply::Reply;
use ringback_protocol::{Code, PeerId};

use crate::clock::{sleep, unix_ms, within};
use crate::error::{KEY_CHANGED, LOCAL_NETWORK_DENIED, NO_PATH, WRONG_CERTIFICATE};
use crate::link::Made;
use crate::peer::{Gathered, Peer};
use crate::proof::{Proof, prove};
use crate::ring::Ring;
use crate::search::{self, Search};
use crate::step::{CallEvent, Log, Step};
use crate::{CallError, Contact, Contacts, Identity, Link, Registry, permission, registry};

/// From the device's yes to a path, in milliseconds.
const PATH_PATIENCE: f64 = 15_000.0;
/// The same, before a TURN server is tried beside, where there is one.
const DIRECT_PATIENCE: f64 = 3_000.0;
/// The same, before many ports are tried, where the two NATs need that.
const SEARCH_AFTER: f64 = 300.0;

/// Whom to call, and with what right.
#[derive(Debug, Clone)]
pub struct CallOptions {
    /// A device ID, or a name: a contact's first, then the registry's.
    pub device: String,
    pub proof: Proof,
    /// The first service wanted; `*`: the link alone.
    pub service: String,
    /// Asks the device to remember this browser.
    pub remember: bool,
    /// The name may lead to another key than it did: the contact is changed to it.
    pub accept_new_key: bool,
}

/// Whom `options` mean.
struct Target {
    device: PeerId,
    /// The name that was given, if one was.
    name: Option<String>,
    contact: Option<Contact>,
}

impl Registry {
    /// Calls a device. Dropping the future gives the call up.
    pub async fn call(
        &self,
        options: CallOptions,
        on_event: impl FnMut(CallEvent) + 'static,
    ) -> Result<Link, CallError> {
        call(self, options, Box::new(on_event)).await
    }
}

impl Link {
    /// Calls the same device again with the same right, for a link that is lost or was interrupted by
    /// a change of network. This one is closed once the new one is there.
    pub async fn restart(
        &self,
        on_event: impl FnMut(CallEvent) + 'static,
    ) -> Result<Self, CallError> {
        let made = self.made();
        let options = CallOptions {
            device: made.device.to_string(),
            proof: made.proof.clone().map_or(Proof::Remembered, Proof::Derived),
            service: made.service.clone(),
            remember: false,
            accept_new_key: false,
        };
        let link = made.registry.call(options, on_event).await?;
        self.close();
        Ok(link)
    }
}

async fn call(
    registry: &Registry,
    options: CallOptions,
    listener: Box<dyn FnMut(CallEvent)>,
) -> Result<Link, CallError> {
    let log = Log::new(listener);
    let peer = Peer::new(&registry.ice_servers(true))?;
    let finding = find(registry, &options);
    let (found, offered, identity) = join3(finding, peer.offer(), Identity::load()).await;
    let target = found?;
    offered?;
    let identity = identity?;
    log.note(Step::Registry, None);
    log.note(Step::Gathering, None);
    let as_given = options.proof.as_given();
    let proving = prove(options.proof, target.device);
    let (gathered, proof) = join(peer.gathered(), proving).await;
    log.note(Step::Gathered, Some(gathered.to_string()));
    let ring = Ring {
        registry,
        identity,
        device: target.device,
        proof: RefCell::new(proof?),
        as_given: RefCell::new(as_given),
        service: options.service,
        remember: options.remember,
        log,
    };
    match ring.call(peer, gathered).await {
        Ok(link) => {
            note_contact(registry, &target, &link).await;
            Ok(link)
        }
        Err(error) => Err(second_thoughts(registry, &target, error).await),
    }
}

impl Ring<'_> {
    async fn call(&self, peer: Peer, gathered: Gathered) -> Result<Link, CallError> {
        let accepted = self.ask(&peer, peer.description()?).await?;
        peer.answer(&accepted.description).await?;
        self.log.note(Step::Checking, None);
        let soon = within(SEARCH_AFTER, peer.connected()).await;
        if soon == Some(true) {
            return Ok(self.link(peer, &accepted.reply));
        }
        // A failed connection has failed for all ways.
        let search = match soon {
            None => Search::plan(peer.nat(), accepted.reply.nat, &accepted.description),
            Some(_) => None,
        };
        let mut ways: Vec<LocalBoxFuture<'_, Result<(Peer, Reply), CallError>>> = Vec::new();
        // The last to fail is the one that is told of.
        let addresses = accepted.description.candidates.len();
        let turn_after = match (soon, &search) {
            (Some(_), _) => 0.0,
            (None, None) => DIRECT_PATIENCE - SEARCH_AFTER,
            (None, Some(_)) => search::PATIENCE,
        };
        if let Some(search) = search {
            self.log.note(Step::Checking, Some("many ports".to_owned()));
            ways.push(Box::pin(search.run(self)));
        }
        // A TURN server's address can not be added to an offer that was made without it, so the call
        // is made once more with it, beside the direct one, and the first to get through wins.
        let has_turn = accepted.turn.is_some();
        if let Some(turn) = accepted.turn {
            self.registry.keep_turn(turn);
            ways.push(Box::pin(async move {
                sleep(turn_after).await;
                self.by_turn(addresses).await
            }));
        }
        let reply = accepted.reply;
        ways.push(Box::pin(async move {
            match within(PATH_PATIENCE, peer.connected()).await {
                Some(true) => Ok((peer, reply)),
                _ => Err(no_path(&peer, gathered, addresses, has_turn).await),
            }
        }));
        let ((peer, reply), _) = select_ok(ways).await?;
        Ok(self.link(peer, &reply))
    }

    /// The call made with an address at a TURN server.
    async fn by_turn(&self, addresses: usize) -> Result<(Peer, Reply), CallError> {
        let peer = Peer::new(&self.registry.ice_servers(true))?;
        peer.offer().await?;
        let gathered = peer.gathered_with_turn().await;
        let accepted = self.ask(&peer, peer.description()?).await?;
        peer.answer(&accepted.description).await?;
        self.log.note(Step::Checking, Some("by TURN".to_owned()));
        match within(PATH_PATIENCE, peer.connected()).await {
            Some(true) => Ok((peer, accepted.reply)),
            _ => Err(no_path(&peer, gathered, addresses, true).await),
        }
    }

    fn link(&self, peer: Peer, reply: &Reply) -> Link {
        self.log.note(Step::Connected, None);
        Link::new(
            peer,
            Made {
                registry: self.registry.clone(),
                device: self.device,
                service: self.service.clone(),
                proof: self.proof.borrow().clone(),
                remembered: reply.remembered,
                device_nat: reply.nat,
                steps: self.log.steps(),
            },
        )
    }
}

/// Which device is meant. A contact's key counts, and the registry is not asked.
async fn find(registry: &Registry, options: &CallOptions) -> Result<Target, CallError> {
    let name = options.device.trim();
    if registry::looks_like_an_id(name) {
        let device = registry::parse_id(name)?;
        return Ok(Target {
            device,
            name: None,
            contact: Contacts::by_id(&device).await?,
        });
    }
    let contact = Contacts::by_name(name, registry.origin()).await?;
    let device = match &contact {
        Some(contact) if !options.accept_new_key => contact.id,
        _ => registry.look_up(name).await?,
    };
    Ok(Target {
        device,
        name: Some(name.to_owned()),
        contact: contact.filter(|contact| contact.id == device),
    })
}

/// Writes down what a call has shown of a device. That it can not be written is no reason to end it.
async fn note_contact(registry: &Registry, target: &Target, link: &Link) {
    let known = target.contact.as_ref();
    let contact = Contact {
        id: target.device,
        name: target
            .name
            .clone()
            .or_else(|| known.and_then(|contact| contact.name.clone())),
        told_name: known.and_then(|contact| contact.told_name.clone()),
        registry: registry.origin().to_owned(),
        // A call by key has shown that it is, too.
        remembered: link.remembered() || link.proof().is_none(),
        last_used_ms: unix_ms(),
    };
    let _ = Contacts::put(&contact).await;
}

/// What a failed call says about contacts: a device that is not to be found may have a new key, and
/// one that does not know this browser has forgotten it.
async fn second_thoughts(registry: &Registry, target: &Target, error: CallError) -> CallError {
    let Some(contact) = &target.contact else {
        return error;
    };
    if error.code == Code::UnknownCaller.as_str() && contact.remembered {
        let forgotten = Contact {
            remembered: false,
            ..contact.clone()
        };
        let _ = Contacts::put(&forgotten).await;
    }
    let is_gone = [Code::UnknownDevice, Code::DeviceOffline, Code::Revoked]
        .iter()
        .any(|code| error.code == code.as_str());
    let Some(name) = target.name.as_deref().filter(|_| is_gone) else {
        return error;
    };
    match registry.look_up(name).await {
        Ok(device) if device != target.device => CallError {
            new_device: Some(device),
            ..CallError::new(
                KEY_CHANGED,
                format!(
                    "{name} is another device than it was, or has a new key: accept it only if you know why"
                ),
            )
        },
        _ => error,
    }
}

async fn no_path(peer: &Peer, gathered: Gathered, addresses: usize, turn: bool) -> CallError {
    if peer.has_wrong_certificate() {
        return CallError::new(
            WRONG_CERTIFICATE,
            "who answers on the path is not the device: somebody on the way poses as it; nothing was sent",
        );
    }
    if permission::is_local_network_denied().await {
        return CallError::new(
            LOCAL_NETWORK_DENIED,
            "no path to the device was found, and this page may not use the local network: allow it in the site's settings",
        );
    }
    let own = if gathered.public {
        ""
    } else {
        "; no STUN server answered here, is UDP blocked?"
    };
    let relayed = if turn {
        ", and the TURN server did not help"
    } else {
        ""
    };
    CallError::new(
        NO_PATH,
        format!(
            "the device is willing, but nothing gets through: {addresses} of its addresses tried{relayed}{own}"
        ),
    )
}
