//! One call, from the offer to the link (PROTOCOL §4, §19).

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use futures_util::future::{LocalBoxFuture, join, join3, select_ok};
use hpke::rand_core::UnwrapErr;
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::envelope::{LIFETIME, Proof as Right, Request};
use ringback_protocol::frame::{Failed, Frame};
use ringback_protocol::receipt::Nat;
use ringback_protocol::refusal::Refusal;
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::Description;
use ringback_protocol::secret::{PASSWORD_ID, Psk, opaque};
use ringback_protocol::{Code, PeerId, UnixTime};
use serde::Serialize;

use crate::clock::{now_ms, sleep, unix_ms, unix_time, within};
use crate::error::{
    BAD_PASSWORD, KEY_CHANGED, LOCAL_NETWORK_DENIED, NO_PATH, REGISTRY_LIES, REGISTRY_UNREACHABLE,
    UNSUPPORTED, WRONG_CERTIFICATE,
};
use crate::link::Made;
use crate::peer::{Gathered, Peer};
use crate::search::{self, Search};
use crate::{CallError, Contact, Contacts, Identity, Link, Registry, permission, registry};

/// From the device's yes to a path, in milliseconds.
const PATH_PATIENCE: f64 = 15_000.0;
/// The same, before a TURN server is tried beside, where there is one.
const DIRECT_PATIENCE: f64 = 3_000.0;
/// The same, before many ports are tried, where the two NATs need that.
const SEARCH_AFTER: f64 = 300.0;
/// The registry's own limits are 5 s and 15 s; then it is the registry that is silent.
const ANSWER_PATIENCE: f64 = 25_000.0;

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

/// What proves the right to call.
#[derive(Clone)]
pub enum Proof {
    Password(String),
    /// This browser's key, which the device remembers.
    Remembered,
    /// What an earlier link was proven with ([`crate::Link::proof`]): derived from the password, and
    /// good for the same device only.
    Derived(DerivedProof),
}

/// The key that a password makes for one device. Kept in memory only.
#[derive(Debug, Clone)]
pub struct DerivedProof {
    device: PeerId,
    psk_id: Vec<u8>,
    psk: Psk,
}

/// What has just happened, or begun.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CallEvent {
    pub step: Step,
    /// Milliseconds since the call began.
    pub at_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// The steps of a call, in the order in which they come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// It is known which device is meant.
    Registry,
    /// The browser looks for its own addresses.
    Gathering,
    /// It has them, or waits no longer; `detail` says how many.
    Gathered,
    /// The request is sealed with the proof, and sent.
    Sealed,
    /// The device has the request.
    Delivered,
    /// The device's clock differs from this one; the request is made anew.
    ClockCorrected,
    /// The device admits the call and dials.
    Accepted,
    /// Addresses are tried.
    Checking,
    /// A path is found, and the device has proven its certificate.
    Connected,
}

impl Step {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::Gathering => "gathering",
            Self::Gathered => "gathered",
            Self::Sealed => "sealed",
            Self::Delivered => "delivered",
            Self::ClockCorrected => "clock_corrected",
            Self::Accepted => "accepted",
            Self::Checking => "checking",
            Self::Connected => "connected",
        }
    }
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password([redacted])",
            Self::Remembered => "Remembered",
            Self::Derived(_) => "Derived([redacted])",
        })
    }
}

/// The steps so far, told as they come.
struct Log {
    started: f64,
    steps: RefCell<Vec<CallEvent>>,
    listener: RefCell<Box<dyn FnMut(CallEvent)>>,
}

impl Log {
    fn note(&self, step: Step, detail: Option<String>) {
        let event = CallEvent {
            step,
            at_ms: now_ms() - self.started,
            detail,
        };
        self.steps.borrow_mut().push(event.clone());
        // A listener that does not end before the next step would be one that calls itself.
        if let Ok(mut listener) = self.listener.try_borrow_mut() {
            listener(event);
        }
    }
}

/// Whom `options` mean.
struct Target {
    device: PeerId,
    /// The name that was given, if one was.
    name: Option<String>,
    contact: Option<Contact>,
}

/// One call, with everything that its attempts share.
pub(crate) struct Ring<'a> {
    pub(crate) registry: &'a Registry,
    identity: Identity,
    device: PeerId,
    proof: RefCell<Option<DerivedProof>>,
    /// The password as it was given, where that is not what `proof` is derived from.
    as_given: RefCell<Option<String>>,
    service: String,
    remember: bool,
    log: Rc<Log>,
}

/// The device's yes.
pub(crate) struct Accepted {
    pub(crate) reply: Reply,
    pub(crate) description: Description,
    /// TURN servers for this call, as JSON.
    turn: Option<String>,
}

pub(crate) async fn call(
    registry: &Registry,
    options: CallOptions,
    listener: Box<dyn FnMut(CallEvent)>,
) -> Result<Link, CallError> {
    let log = Rc::new(Log {
        started: now_ms(),
        steps: RefCell::default(),
        listener: RefCell::new(listener),
    });
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
                steps: self.log.steps.borrow().clone(),
            },
        )
    }

    /// Sends the request. A device whose key was made before passwords were prepared (PROTOCOL §3.1)
    /// is asked once more with the password as it was given.
    pub(crate) async fn ask(
        &self,
        peer: &Peer,
        description: Description,
    ) -> Result<Accepted, CallError> {
        let error = match self.ask_once(peer, &description).await {
            Ok(accepted) => return Ok(accepted),
            Err(error) => error,
        };
        if error.code != Code::WrongPassword.as_str() {
            return Err(error);
        }
        let Some(as_given) = self.as_given.take() else {
            return Err(error);
        };
        let Ok(earlier) = derive(&as_given, self.device) else {
            return Err(error);
        };
        let prepared = self.proof.replace(Some(earlier));
        let again = self.ask_once(peer, &description).await;
        again.map_err(|_| {
            self.proof.replace(prepared);
            error
        })
    }

    /// Sends the request, and once more if the device's clock is another.
    async fn ask_once(
        &self,
        peer: &Peer,
        description: &Description,
    ) -> Result<Accepted, CallError> {
        let mut clock_offset = 0;
        for attempt in 0..2 {
            match self.attempt(description, peer.nat(), clock_offset).await? {
                Ok(accepted) => return Ok(accepted),
                Err(device_time) if attempt == 0 => {
                    clock_offset = device_time.cast_signed() - unix_time(0).cast_signed();
                    let direction = if clock_offset > 0 { "ahead" } else { "behind" };
                    let off = clock_offset.unsigned_abs();
                    let detail = format!("the device's clock is {off} s {direction}");
                    self.log.note(Step::ClockCorrected, Some(detail));
                }
                Err(_) => break,
            }
        }
        Err(CallError::new(
            Code::Stale.as_str().to_owned(),
            "the device takes the request for an old one: it may have just started, or its clock jumps; try again",
        ))
    }

    /// One request; the device's time, if it takes it for stale.
    async fn attempt(
        &self,
        description: &Description,
        nat: Nat,
        clock_offset: i64,
    ) -> Result<Result<Accepted, UnixTime>, CallError> {
        let mut rng = UnwrapErr(getrandom::SysRng);
        let issued_at = unix_time(clock_offset);
        let mut id = [0; 16];
        getrandom::fill(&mut id)
            .map_err(|_| CallError::new(UNSUPPORTED, "this browser gives no random numbers"))?;
        let request = Request {
            id,
            issued_at,
            expires_at: issued_at + LIFETIME,
            service: self.service.clone(),
            candidates: Vec::new(),
            remember: self.remember,
            webrtc: Some(description.clone()),
            path: 0,
            nat,
        };
        let proof = self.proof.borrow().clone();
        let right = match &proof {
            Some(DerivedProof { psk_id, psk, .. }) => Right::Secret { psk_id, psk },
            None => Right::Key,
        };
        let key = self.identity.key();
        let mut call = Call::seal(&request, key, self.device, right, &mut rng)
            .map_err(|error| CallError::new(UNSUPPORTED, error.to_string()))?;
        self.log.note(Step::Sealed, None);
        let exchange = async {
            let mut answers = match self.registry.place(&self.device, call.envelope()).await? {
                Ok(answers) => answers,
                Err(failed) => return Err(explain_failed(&failed)),
            };
            loop {
                let frame = answers.next().await?;
                let turn = turn_of(&frame);
                match call.handle_frame(frame) {
                    None => {}
                    Some(Progress::Delivered) => self.log.note(Step::Delivered, None),
                    Some(Progress::Ended(Outcome::Accepted(reply))) => {
                        self.log.note(Step::Accepted, None);
                        return accepted(reply, turn).map(Ok);
                    }
                    Some(Progress::Ended(Outcome::Refused(refusal)))
                        if refusal.code == Code::Stale =>
                    {
                        return Ok(Err(refusal.time));
                    }
                    Some(Progress::Ended(Outcome::Refused(refusal))) => {
                        return Err(explain_refusal(&refusal));
                    }
                    Some(Progress::Ended(Outcome::Failed(failed))) => {
                        return Err(explain_failed(&failed));
                    }
                    Some(Progress::Ended(Outcome::RegistryMisbehaved(what))) => {
                        return Err(registry_lies(&what));
                    }
                }
            }
        };
        within(ANSWER_PATIENCE, exchange).await.unwrap_or_else(|| {
            Err(CallError::new(
                REGISTRY_UNREACHABLE,
                "the registry did not answer in 25 s",
            ))
        })
    }
}

fn accepted(mut reply: Reply, turn: Option<String>) -> Result<Accepted, CallError> {
    let Some(description) = reply.webrtc.take() else {
        return Err(CallError::new(
            UNSUPPORTED,
            "the device's agent can not be reached from a browser: it has to be updated",
        ));
    };
    Ok(Accepted {
        reply,
        description,
        turn,
    })
}

fn turn_of(frame: &Frame) -> Option<String> {
    match frame {
        Frame::Answered(answered) => answered.ice.clone(),
        _ => None,
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

async fn prove(proof: Proof, device: PeerId) -> Result<Option<DerivedProof>, CallError> {
    match proof {
        Proof::Remembered => Ok(None),
        Proof::Derived(proof) if proof.device == device => Ok(Some(proof)),
        Proof::Derived(_) => Err(CallError::new(
            BAD_PASSWORD,
            "this proof is for another device",
        )),
        Proof::Password(password) => {
            // It takes the page's only thread for a while: what was drawn until now is shown before.
            sleep(0.0).await;
            derive(&prepared(&password), device).map(Some)
        }
    }
}

fn derive(password: &str, device: PeerId) -> Result<DerivedProof, CallError> {
    let psk = Psk::from_password(password, &device)
        .map_err(|error| CallError::new(BAD_PASSWORD, error.to_string()))?;
    Ok(DerivedProof {
        device,
        psk_id: PASSWORD_ID.to_vec(),
        psk,
    })
}

/// As every end takes a password (PROTOCOL §3.1), with the browser's tables of Unicode.
pub(crate) fn prepared(password: &str) -> String {
    opaque(password, |text| {
        js_sys::JsString::from(text).normalize("NFC").into()
    })
}

impl Proof {
    /// The password, if preparing changes it.
    fn as_given(&self) -> Option<String> {
        match self {
            Self::Password(password) if prepared(password) != *password => Some(password.clone()),
            _ => None,
        }
    }
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

fn registry_lies(what: &str) -> CallError {
    CallError::new(
        REGISTRY_LIES,
        format!("the registry is not to be trusted: {what}"),
    )
}

fn explain_refusal(refusal: &Refusal) -> CallError {
    let message = match &refusal.code {
        Code::WrongPassword => "wrong password".to_owned(),
        // It was sent once: somebody between has sent it again.
        Code::Replayed => return registry_lies("it has delivered the request twice"),
        Code::UnknownCaller => {
            "the device does not remember this browser (any more): give its password".to_owned()
        }
        Code::RateLimited => format!(
            "the device takes no more attempts for now; try again in {}",
            duration(refusal.retry_after_s)
        ),
        Code::UnknownService => "the device exposes no service of this name".to_owned(),
        code => format!("the device refuses: {}", code.title()),
    };
    CallError {
        retry_after_s: refusal.retry_after_s,
        ..CallError::new(refusal.code.as_str().to_owned(), message)
    }
}

/// The registry's own word.
pub(crate) fn explain_failed(failed: &Failed) -> CallError {
    let message = match &failed.code {
        Code::DeviceOffline => {
            let since = failed
                .last_seen
                .map_or(String::new(), |at| format!(", last seen {} ago", ago(at)));
            format!("the device is offline{since}")
        }
        Code::UnknownDevice => "the registry does not know this device".to_owned(),
        Code::Revoked => "the registry's owner has revoked this device".to_owned(),
        Code::NoAnswer => "the device has the request but did not answer in time".to_owned(),
        Code::RateLimited => format!(
            "the registry takes no more requests for now; try again in {}",
            duration(failed.retry_after_s)
        ),
        code => format!("the registry refuses: {}", code.title()),
    };
    CallError {
        retry_after_s: failed.retry_after_s,
        last_seen: failed.last_seen,
        ..CallError::new(failed.code.as_str().to_owned(), message)
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

impl fmt::Display for Gathered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let public = if self.public {
            ""
        } else {
            ", none of them public"
        };
        write!(f, "{} addresses{public}", self.addresses)
    }
}

fn duration(seconds: Option<u32>) -> String {
    match seconds {
        None => "a while".into(),
        Some(s @ 0..120) => format!("{s} s"),
        Some(s) => format!("{} min", s.div_ceil(60)),
    }
}

fn ago(at: UnixTime) -> String {
    match unix_time(0).saturating_sub(at) {
        s @ 0..120 => format!("{s} s"),
        s @ 120..7200 => format!("{} min", s / 60),
        s @ 7200..172_800 => format!("{} h", s / 3600),
        s => format!("{} days", s / 86_400),
    }
}
