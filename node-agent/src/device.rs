//! The agent that `up` runs: registers the device, admits requests, dials back, serves streams;
//! and places calls for the commands of this host over the socket that it has open.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use ringback_protocol::admission::{Admission, Admitted, Arrival, Seen};
use ringback_protocol::envelope::PADS;
use ringback_protocol::frame::{Answer, Answered, Deliver, Frame, Refuse, Refused};
use ringback_protocol::refusal::Refusal;
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::{Description, MAX_CHANNELS};
use ringback_protocol::secret::PASSWORD_ID;
use ringback_protocol::{Code, PeerId, SecretKey, UnixTime};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::caller::{Caller, Location, OpenLinks};
use crate::clock::{moment, unix_time};
use crate::contacts::Contacts;
use crate::endpoint::Endpoint;
use crate::lan;
use crate::link::Link;
use crate::link_places::{LinkPlace, LinkPlaces};
use crate::port_mapping::Forwarding;
use crate::presence::{OnBeacon, Presence};
use crate::profile::Profile;
use crate::refusals::{self, RefusalLog};
use crate::registry::Registry;
use crate::remembered::RememberedCallers;
use crate::rtc::{BrowserLink, Ending};
use crate::seen_requests::SeenRequests;
use crate::service::{Host, Services};
use crate::serving::{AdmittedBy, LinkStatus, ServedLink};
use crate::signalling::{Placement, Signalling};

/// From the device's yes to the established link.
const DIAL_TIMEOUT: Duration = Duration::from_secs(15);
/// When a caller may try again that came while there were too many links.
const LINKS_RETRY_S: u32 = 15;

/// What the agent's tasks share.
pub(crate) struct Agent {
    pub(crate) key: SecretKey,
    pub(crate) profile: Profile,
    pub(crate) registry: Registry,
    pub(crate) endpoint: Endpoint,
    pub(crate) presence: watch::Sender<Presence>,
    admission: Mutex<Admission>,
    pub(crate) services: Arc<Services>,
    /// The beacon that this device lives on, if it does.
    pub(crate) beacon: watch::Sender<Option<OnBeacon>>,
    /// The requests that were admitted, as they are kept on disk.
    seen: Mutex<SeenRequests>,
    /// Links that callers have to this device.
    links: Mutex<Links>,
    places: LinkPlaces,
    /// Links that this host has to other devices.
    pub(crate) calls: Arc<OpenLinks>,
    refusals: Mutex<RefusalLog>,
    frames: mpsc::Sender<Frame>,
    /// Set once port mapping has been started.
    pub(crate) forwarding: OnceLock<Forwarding>,
    pub(crate) placements: mpsc::Sender<Placement>,
}

/// The ends of the agent's channels that its registry task reads.
pub(crate) struct Inbound {
    pub(crate) frames: mpsc::Receiver<Frame>,
    pub(crate) placements: mpsc::Receiver<Placement>,
}

/// Where a request came from, and its answer goes to.
enum AnswerTo {
    /// The number of the registry's call.
    Registry(u64),
    Lan(oneshot::Sender<Frame>),
}

/// A link that a caller has to this device.
struct Serving {
    link: ServedLink,
    since: u64,
    right: Right,
}

/// When a caller was admitted, and by what.
#[derive(Debug, Clone, Copy)]
struct Right {
    at: Instant,
    by: AdmittedBy,
}

#[derive(Default)]
struct Links {
    open: Vec<Serving>,
    /// Callers that were disconnected lately, and when: what is being dialled for them comes to
    /// nothing.
    disconnected: HashMap<PeerId, Instant>,
    /// The same for all that came by a password that is another one now.
    password_changed: Option<Instant>,
}

/// A call that is to be answered.
struct Call {
    admitted: Admitted,
    right: Right,
    /// Its link's.
    _place: LinkPlace,
}

impl Agent {
    pub(crate) fn new(
        key: SecretKey,
        profile: Profile,
        registry: Registry,
        endpoint: Endpoint,
        stun: Vec<String>,
    ) -> Result<(Arc<Self>, Inbound)> {
        let (seen, before) = SeenRequests::open(&profile.seen_requests())?;
        let mut admission = Admission::new(key.clone(), moment());
        admission.restore(before);
        if let Some(psk) = profile.password()? {
            admission.set_secret(PASSWORD_ID, psk);
        }
        let (frames, frames_in) = mpsc::channel(64);
        let (placements, placements_in) = mpsc::channel(16);
        // Configured, or else the registry's.
        endpoint.own_addresses().stun_servers().send_replace(stun);
        let agent = Self {
            key,
            profile,
            registry,
            endpoint,
            presence: watch::Sender::new(Presence::Connecting),
            admission: Mutex::new(admission),
            services: Arc::default(),
            beacon: watch::Sender::default(),
            seen: Mutex::new(seen),
            links: Mutex::default(),
            places: LinkPlaces::default(),
            calls: Arc::default(),
            refusals: Mutex::default(),
            frames,
            forwarding: OnceLock::new(),
            placements,
        };
        agent.reload()?;
        Ok((
            Arc::new(agent),
            Inbound {
                frames: frames_in,
                placements: placements_in,
            },
        ))
    }

    /// Takes over what the files say now: services, password, remembered callers. Who was remembered
    /// under another password is forgotten; its links end, and those of callers that came by it. Links
    /// of callers that are remembered no more stay otherwise: they were admitted.
    pub(crate) fn reload(&self) -> Result<()> {
        let config = crate::config::Config::load(&self.profile)?;
        let password = self.profile.password()?;
        let (changed, gone) = RememberedCallers::edit(&self.profile, |callers| {
            let (noted, gone) = match &password {
                Some(psk) => callers.follow_password(psk.tag(&self.key)),
                None => (false, Vec::new()),
            };
            let mut admission = self.admission.lock();
            admission.set_remembered(callers.0.keys().copied());
            let changed = password.is_some_and(|psk| admission.set_secret(PASSWORD_ID, psk));
            if changed {
                self.links.lock().password_changed = Some(Instant::now());
            }
            (noted, (changed, gone))
        })?;
        self.services.expose(config.services);
        let gone: BTreeSet<PeerId> = gone.into_iter().collect();
        if changed || !gone.is_empty() {
            let links = self.end_links_of_the_old_password(changed, &gone);
            self.say_who_must_give_the_new_password(&gone, links);
        }
        Ok(())
    }

    /// Those that are being dialled, too. Tells how many there were.
    fn end_links_of_the_old_password(&self, changed: bool, gone: &BTreeSet<PeerId>) -> usize {
        gone.iter().for_each(|caller| self.disconnect(caller));
        let links = self.links.lock();
        let ended = links.open.iter().filter(|serving| {
            let by_old = changed && serving.right.by == AdmittedBy::Password;
            by_old || gone.contains(&serving.link.peer())
        });
        ended.map(|serving| serving.link.revoke()).count()
    }

    fn say_who_must_give_the_new_password(&self, gone: &BTreeSet<PeerId>, links: usize) {
        let contacts = Contacts::load(&self.profile).unwrap_or_default();
        let who: Vec<String> = gone
            .iter()
            .map(|id| match contacts.by_id(id) {
                Some((name, _)) => format!("{name} ({id})"),
                None => id.to_string(),
            })
            .collect();
        if !who.is_empty() {
            tracing::warn!(
                "the password has changed; these callers were remembered under the old one and need the new one now: {}",
                who.join(", ")
            );
        }
        if links > 0 {
            tracing::warn!(
                "the password has changed; {links} links that the old one gave have been ended"
            );
        }
    }

    /// What calls of this agent's own are made with.
    pub(crate) fn caller(&self) -> Caller {
        Caller {
            key: self.key.clone(),
            endpoint: self.endpoint.clone(),
            signalling: Signalling::Agent(self.placements.clone()),
            location: Location::Known,
            forwarding: self.forwarding.get().cloned(),
            links: self.calls.clone(),
        }
    }

    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let links = self.links.lock();
        links
            .open
            .iter()
            .map(|serving| serving.link.status(serving.since, serving.right.by))
            .collect()
    }

    /// Ends the links of a caller, those that are being dialled too, and its shells.
    pub(crate) fn disconnect(&self, caller: &PeerId) {
        self.services.end_shells(caller);
        let now = Instant::now();
        let mut links = self.links.lock();
        links
            .disconnected
            .retain(|_, at| now.duration_since(*at) < 2 * DIAL_TIMEOUT);
        links.disconnected.insert(*caller, now);
        let theirs = links.open.iter().filter(|s| s.link.peer() == *caller);
        theirs.for_each(|serving| serving.link.revoke());
    }

    /// Tells all browsers that this end is going away, and waits until they know or have had their
    /// time.
    pub(crate) async fn close_browsers(&self) {
        let browsers: Vec<_> = {
            let links = self.links.lock();
            let browsers = links.open.iter().filter_map(|serving| match &serving.link {
                ServedLink::Browser(link) => Some(link.clone()),
                ServedLink::Agent(_) => None,
            });
            browsers.collect()
        };
        for link in &browsers {
            link.close(Ending::ShuttingDown);
        }
        for link in browsers {
            link.closed().await;
        }
    }

    /// A request has come, over the registry's socket or fetched: it is decided now, so that of two
    /// that are the same the first counts, and answered in [`Inbound::frames`].
    pub(crate) fn deliver(self: &Arc<Self>, deliver: &Deliver) {
        let decision = self.admit(&deliver.envelope, Arrival::Registry);
        let to = AnswerTo::Registry(deliver.call);
        tokio::spawn(self.clone().handle_request(to, decision));
    }

    /// A request has come, and this is the decision on it: dials, or refuses.
    async fn handle_request(self: Arc<Self>, to: AnswerTo, decision: Result<Call, Refusal>) {
        let call = match decision {
            Ok(call) => call,
            Err(refusal) => {
                self.answer(to, Err(refusal)).await;
                return;
            }
        };
        let admitted = &call.admitted;
        tracing::info!(caller = ?admitted.caller, service = admitted.request.service, "admitted a request");
        let remembered = admitted.by_key
            || (admitted.request.remember && self.remember(admitted.caller, call.right));
        if let Some(offer) = &admitted.request.webrtc {
            return self.answer_browser(to, &call, offer, remembered).await;
        }
        let addresses = self.endpoint.own_addresses().known();
        // The first datagrams leave before the answer does.
        let dialling = match self
            .endpoint
            .dial(admitted.caller, &admitted.keys, &admitted.request)
        {
            Ok(dialling) => dialling,
            Err(error) => {
                tracing::warn!("can not dial: {error:#}");
                return;
            }
        };
        let reply = Reply {
            request_id: admitted.request.id,
            candidates: addresses.candidates,
            remembered,
            webrtc: None,
            nat: addresses.nat,
            flight: dialling.flight().await,
            path: PADS,
        };
        let reply = admitted.keys.reply.clone().seal(&reply);
        let dial = dialling.established();
        let answer = self.answer(to, Ok(reply));
        let (dialled, ()) = tokio::join!(tokio::time::timeout(DIAL_TIMEOUT, dial), answer);
        match dialled {
            Ok(Ok((connection, paths))) => {
                let window = self
                    .endpoint
                    .link_windows()
                    .add(admitted.caller, &connection);
                let link = Link::new(admitted.caller, connection, paths, window);
                self.serve(ServedLink::Agent(link), call.right).await;
            }
            Ok(Err(error)) => {
                tracing::info!(caller = ?admitted.caller, "the dial-back failed: {error:#}");
            }
            Err(_) => {
                tracing::info!(caller = ?admitted.caller, "the dial-back found no path in 15 s");
            }
        }
    }

    /// The caller is a browser: the dial-back is ICE's checks (PROTOCOL §19).
    async fn answer_browser(
        self: &Arc<Self>,
        to: AnswerTo,
        call: &Call,
        offer: &Description,
        remembered: bool,
    ) {
        let (admitted, right) = (&call.admitted, call.right);
        let caller = admitted.caller;
        let nat = admitted.request.nat;
        let (description, mut links) = match self.endpoint.dial_browser(caller, offer, nat) {
            Ok(dialled) => dialled,
            Err(error) => {
                tracing::warn!("a browser can not be answered: {error:#}");
                return;
            }
        };
        let reply = Reply {
            request_id: admitted.request.id,
            candidates: Vec::new(),
            remembered,
            webrtc: Some(description),
            nat: self.endpoint.own_addresses().known().nat,
            flight: Vec::new(),
            path: 0,
        };
        let reply = admitted.keys.reply.clone().seal(&reply);
        let mut serving = tokio::task::JoinSet::new();
        let serving = async {
            while let Some(link) = links.recv().await {
                serving.spawn(self.clone().serve_browser(link, right));
            }
            // The call has its place for as long as one of its links lives.
            while serving.join_next().await.is_some() {}
        };
        tokio::join!(serving, self.answer(to, Ok(reply)));
    }

    async fn serve_browser(self: Arc<Self>, link: BrowserLink, right: Right) {
        let caller = link.peer;
        match link.established().await {
            Ok(()) => self.serve(ServedLink::Browser(link), right).await,
            Err(error) => {
                tracing::info!(
                    ?caller,
                    "no connection with the browser came about: {error:#}"
                );
            }
        }
    }

    fn admit(&self, envelope: &[u8], from: Arrival) -> Result<Call, Refusal> {
        self.decide(envelope, from).inspect_err(|refusal| {
            // How often anybody can have this done is the registry's and the LAN door's to bound.
            let caller = refusals::caller(envelope);
            let mut log = self.refusals.lock();
            for line in log.note(caller, &refusal.code, std::time::Instant::now()) {
                tracing::warn!("{line}");
            }
        })
    }

    fn decide(&self, envelope: &[u8], from: Arrival) -> Result<Call, Refusal> {
        let now = moment();
        // Read before the decision: whatever takes the right away comes after it.
        let at = Instant::now();
        let admitted = self.admission.lock().admit_from(envelope, from, now)?;
        // Before anything is answered, so that no restart makes a second answer possible.
        let seen = Seen {
            id: admitted.request.id,
            expires_at: admitted.request.expires_at,
        };
        if let Err(error) = self.seen.lock().add(seen) {
            tracing::warn!("a request that was admitted cannot be noted on disk: {error}");
            // After a restart it would be taken for new. One whose caller's clock is not ahead is older
            // than the next start: the caller is told the time, and asks once more.
            if admitted.request.issued_at > now.unix {
                let stale = Code::Stale;
                return Err(Refusal::sign(&self.key, envelope, stale, None, now.unix));
            }
        }
        let now = now.unix;
        if admitted.by_key {
            self.note_call(&admitted.caller, now);
        }
        let service = &admitted.request.service;
        let refuse = |code, retry| Err(Refusal::sign(&self.key, envelope, code, retry, now));
        if service != ringback_protocol::name::NO_SERVICE
            && !self.services.exposed().contains_key(service)
        {
            refuse(Code::UnknownService, None)
        } else if admitted.request.webrtc.is_some() && self.endpoint.is_full_of_browsers() {
            refuse(Code::RateLimited, Some(LINKS_RETRY_S))
        } else if let Some(place) = self.places.take(admitted.caller) {
            Ok(Call {
                right: Right {
                    at,
                    by: if admitted.by_key {
                        AdmittedBy::Key
                    } else {
                        AdmittedBy::Password
                    },
                },
                admitted,
                _place: place,
            })
        } else {
            tracing::warn!(caller = ?admitted.caller, "a call was refused: there are too many links");
            refuse(Code::RateLimited, Some(LINKS_RETRY_S))
        }
    }

    /// A remembered caller has called.
    fn note_call(&self, caller: &PeerId, now: UnixTime) {
        let noted = RememberedCallers::edit(&self.profile, |callers| {
            (callers.note_call(caller, now), ())
        });
        if let Err(error) = noted {
            tracing::warn!("the time of a call cannot be noted: {error:#}");
        }
    }

    /// Not if its right has been taken away since it was admitted.
    fn remember(&self, caller: PeerId, right: Right) -> bool {
        let note = || -> Result<Option<Vec<PeerId>>> {
            RememberedCallers::edit(&self.profile, |callers| {
                let mut admission = self.admission.lock();
                let Some(secret) = admission.secret(PASSWORD_ID) else {
                    return (false, None);
                };
                let tag = secret.tag(&self.key);
                if self
                    .links
                    .lock()
                    .password_changed
                    .is_some_and(|at| at >= right.at)
                {
                    return (false, None);
                }
                let gone = callers.remember(caller, Some(tag), unix_time(0));
                gone.iter().for_each(|gone| admission.forget(gone));
                admission.remember(caller);
                (true, Some(gone))
            })
        };
        match note() {
            Ok(None) => false,
            Ok(Some(gone)) => {
                for gone in gone {
                    tracing::warn!(
                        "too many callers are remembered; {gone} has not called for the longest and needs the password from now on"
                    );
                }
                true
            }
            Err(error) => {
                tracing::warn!("a caller asked to be remembered and could not be: {error:#}");
                false
            }
        }
    }

    /// Serves a link of a call that was admitted then.
    async fn serve(self: &Arc<Self>, link: ServedLink, right: Right) {
        let caller = link.peer();
        let browser = matches!(link, ServedLink::Browser(_));
        {
            let mut links = self.links.lock();
            let disconnected = links.disconnected.get(&caller).copied();
            let changed = links
                .password_changed
                .filter(|_| right.by == AdmittedBy::Password);
            if disconnected.max(changed).is_some_and(|at| at >= right.at) {
                tracing::info!(?caller, "the caller was disconnected while it was dialled");
                link.revoke();
                return;
            }
            links.open.push(Serving {
                link: link.clone(),
                since: unix_time(0),
                right,
            });
        }
        tracing::info!(?caller, browser, "link established");
        let channels = browser.then(|| Arc::new(Semaphore::new(MAX_CHANNELS)));
        while let Some(stream) = link.accept().await {
            let (agent, caller, channels) = (self.clone(), link.peer(), channels.clone());
            tokio::spawn(async move {
                let serving = agent.services.serve(&*agent, caller, channels, stream);
                if let Err(error) = serving.await {
                    tracing::debug!("a stream ended: {error:#}");
                }
            });
        }
        let mut links = self.links.lock();
        links.open.retain(|serving| !serving.link.is(&link));
        drop(links);
        self.endpoint.link_windows().share_out();
        link.log_statistics();
        tracing::info!(?caller, "link ended");
    }

    /// Sends the sealed reply, or the refusal.
    async fn answer(&self, to: AnswerTo, answer: Result<Vec<u8>, Refusal>) {
        match (to, answer) {
            (AnswerTo::Registry(call), Ok(reply)) => self.send(Answer { call, reply }).await,
            (AnswerTo::Registry(call), Err(refusal)) => {
                let refusal = refusal.encode();
                self.send(Refuse { call, refusal }).await;
            }
            (AnswerTo::Lan(sender), answer) => {
                let frame = match answer {
                    Ok(reply) => Answered {
                        call: 0,
                        reply,
                        ice: None,
                    }
                    .into(),
                    Err(refusal) => Refused {
                        call: 0,
                        refusal: refusal.encode(),
                    }
                    .into(),
                };
                // The caller may have gone; the device dials all the same.
                let _ = sender.send(frame);
            }
        }
    }

    async fn send(&self, frame: impl Into<Frame>) {
        // Fails only at shutdown.
        let _ = self.frames.send(frame.into()).await;
    }
}

impl Host for Agent {
    fn id(&self) -> PeerId {
        self.key.id()
    }

    fn name(&self) -> Option<String> {
        match &*self.presence.borrow() {
            Presence::Registered { name, .. } => Some(name.clone()),
            _ => None,
        }
    }

    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn registry(&self) -> &Registry {
        &self.registry
    }

    fn caller(&self) -> Caller {
        Agent::caller(self)
    }
}

impl lan::Decide for Arc<Agent> {
    fn is_known(&self, caller: &PeerId) -> bool {
        self.admission.lock().is_known(caller)
    }

    fn decide(&self, envelope: &[u8], from: IpAddr) -> lan::Decision {
        let (sender, answer) = oneshot::channel();
        let decision = self.admit(envelope, Arrival::Lan(from));
        let admitted = decision.is_ok();
        tokio::spawn(self.clone().handle_request(AnswerTo::Lan(sender), decision));
        lan::Decision { admitted, answer }
    }
}
