//! The caller: seals a request, hands it to the registry, and takes the dial-back (PROTOCOL §5.3, §7, §8).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::candidate::Candidate;
use ringback_protocol::envelope::{DIRECT_ONLY, LIFETIME, PADS, Proof, Request};
use ringback_protocol::name::NO_SERVICE;
use ringback_protocol::receipt::{Nat, Receipt, Step};
use ringback_protocol::reply::Reply;
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::{Code, PeerId, SecretKey, UnixTime};
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::clock::{lasting, unix_time};
use crate::delivery::Delivery;
use crate::endpoint::{Addresses, Endpoint, Expecting, OwnAddresses};
use crate::explanation::explain;
use crate::failure::{Exit, Failure};
use crate::fitting;
use crate::link::{Link, WeakLink};
use crate::password;
use crate::port_mapping::Forwarding;
use crate::signalling::Signalling;

/// From the device's yes to the first authentic datagram.
const PATH_TIMEOUT: Duration = Duration::from_secs(15);
/// The registry's own limits are 5 s and 15 s; then it is the registry that is silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// For the router's answer about a port, where much depends on it. Elsewhere it is not waited for.
const MAPPING_PATIENCE: Duration = Duration::from_millis(300);
/// After a call for a service that there is not: how long its device may take to say which there are.
const NAMES_PATIENCE: Duration = Duration::from_secs(8);
/// For the first ping of the path to come back, before the receipt is written.
const RTT_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom to call, and with what right.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Ring {
    pub(crate) device: PeerId,
    pub(crate) credential: Credential,
    /// The first service wanted.
    pub(crate) service: String,
    pub(crate) remember: bool,
    /// No relay, not even at first.
    #[serde(default)]
    pub(crate) direct_only: bool,
    /// Where the device was last time.
    pub(crate) hints: Vec<Candidate>,
    /// The device may be looked for on the LAN.
    pub(crate) lan: bool,
}

/// What proves the right to call.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Credential {
    Password(String),
    /// A password that is not prepared (PROTOCOL §3.1): for devices whose key is of before.
    AsGiven(String),
    /// This caller's key, which the device remembers.
    Key,
}

/// What calls are made with.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    pub(crate) key: SecretKey,
    pub(crate) endpoint: Endpoint,
    pub(crate) signalling: Signalling,
    pub(crate) location: Location,
    /// Ports of the router that lead here, unless that is switched off.
    pub(crate) forwarding: Option<Forwarding>,
    /// Links of earlier calls that are still open.
    pub(crate) links: Arc<OpenLinks>,
}

/// The links that this process has to devices: a second call to a device uses the first one's.
#[derive(Debug, Default)]
pub(crate) struct OpenLinks(Mutex<HashMap<PeerId, (WeakLink, Completed)>>);

impl OpenLinks {
    fn find(&self, device: &PeerId) -> Option<Dialled> {
        let links = self.0.lock();
        let (link, completed) = links.get(device)?;
        // One without any path that answers is as good as lost.
        let link = link.upgrade().filter(|link| link.paths.is_verified())?;
        let (sender, receiver) = oneshot::channel();
        // The receiver is right here.
        let _ = sender.send(Ok(completed.clone()));
        Some(Dialled {
            link,
            completed: receiver,
        })
    }

    fn keep(&self, link: &Link, completed: &Completed) {
        let mut links = self.0.lock();
        links.retain(|_, (link, _)| link.upgrade().is_some());
        links.insert(link.peer, (link.downgrade(), completed.clone()));
    }
}

/// How the caller learns its own addresses.
#[derive(Debug, Clone)]
pub(crate) enum Location {
    /// By asking these STUN servers, once it is known which.
    Stun(tokio::sync::watch::Receiver<Option<Vec<String>>>),
    /// The agent keeps them.
    Known,
}

/// A link that can be used, and the receipt that follows when the call is complete.
pub(crate) struct Dialled {
    pub(crate) link: Link,
    pub(crate) completed: oneshot::Receiver<Result<Completed>>,
}

/// What is known once both sides are proven and a path is verified.
#[derive(Debug, Clone)]
pub(crate) struct Completed {
    pub(crate) receipt: Receipt,
    /// The device's candidates, as hints for the next call.
    pub(crate) candidates: Vec<Candidate>,
    /// The device will know this caller's key.
    pub(crate) remembered: bool,
}

impl Completed {
    /// Takes the round trip anew, once it is the path's own: the first one has the handshake in it.
    /// Says whether it is; after `limit` it is what there is.
    pub(crate) async fn measure(&mut self, link: &Link, limit: Duration) -> bool {
        let measured = link.paths.measured(limit).await;
        self.receipt.rtt_ms = link.paths.rtt().map(|rtt| rtt.as_secs_f64() * 1e3);
        self.receipt.paths = link.paths.report();
        measured
    }
}

/// When the steps of a call were done.
#[derive(Debug, Clone)]
struct Log {
    started: Instant,
    steps: Vec<Step>,
}

impl Log {
    fn note(&mut self, step: &str) {
        let at_ms = self.started.elapsed().as_secs_f64() * 1e3;
        tracing::debug!(step, at_ms);
        self.steps.push(Step {
            step: step.to_owned(),
            at_ms,
        });
    }
}

impl Caller {
    /// Calls; gives the link as soon as streams can be opened on it, which is before the device's
    /// certificate has come (0.5-RTT, PROTOCOL §11).
    pub(crate) async fn call(&self, ring: &Ring) -> Result<Dialled> {
        let error = match self.call_once(ring).await {
            Ok(dialled) => return Ok(dialled),
            Err(error) => error,
        };
        match &ring.credential {
            Credential::Password(given)
                if Failure::code(&error) == Some(Code::WrongPassword)
                    && password::prepared(given) != *given =>
            {
                let as_given = Ring {
                    credential: Credential::AsGiven(given.clone()),
                    ..ring.clone()
                };
                self.call_once(&as_given).await.map_err(|_| error)
            }
            _ if Failure::code(&error) == Some(Code::UnknownService) => {
                Err(self.with_names(ring, error).await)
            }
            _ => Err(error),
        }
    }

    /// The device has no such service; which it has, it says on a link only, as a refusal can be read
    /// by the registry.
    async fn with_names(&self, ring: &Ring, error: anyhow::Error) -> anyhow::Error {
        let listing = Ring {
            service: NO_SERVICE.to_owned(),
            remember: false,
            ..ring.clone()
        };
        let names = async {
            let dialled = self.call_once(&listing).await?;
            fitting::names(&dialled.link).await
        };
        let names = match tokio::time::timeout(NAMES_PATIENCE, names).await {
            Ok(Ok(names)) => names,
            _ => return error,
        };
        let names = match names.is_empty() {
            true => "it exposes nothing yet".to_owned(),
            false => format!("it has: {}", names.join(", ")),
        };
        let told = format!("the device exposes no service of this name; {names}");
        Failure::new(Exit::Refused, told)
            .about(&Code::UnknownService)
            .into()
    }

    async fn call_once(&self, ring: &Ring) -> Result<Dialled> {
        if let Some(dialled) = self.links.find(&ring.device) {
            return Ok(dialled);
        }
        let mut log = Log {
            started: Instant::now(),
            steps: Vec::new(),
        };
        let mut delivery = self.deliver(ring);
        let found_on_lan = delivery.found_on_lan();
        let addresses = async {
            tokio::select! {
                biased;
                addresses = self.location.find(self.endpoint.own_addresses()) => addresses,
                // Who is on the LAN needs no public address, and STUN may not answer.
                () = found_on_lan => Ok(self.endpoint.own_addresses().find_of_host().await),
            }
        };
        let (by_lan, addresses, psk) = tokio::try_join!(delivery.ready(), addresses, derive(ring))?;
        log.note(if by_lan {
            "found on the LAN"
        } else {
            "registry reached"
        });
        let mut clock_offset = 0;
        for attempt in 0..2 {
            match self
                .attempt(ring, psk.as_ref(), delivery, &addresses, clock_offset, log)
                .await?
            {
                Attempt::Dialled(dialled) => return Ok(dialled),
                Attempt::Stale {
                    device_time,
                    log: so_far,
                } if attempt == 0 => {
                    clock_offset = i128::from(device_time) - i128::from(unix_time(0));
                    let direction = if clock_offset > 0 {
                        "behind"
                    } else {
                        "ahead of"
                    };
                    let off = u64::try_from(clock_offset.unsigned_abs()).unwrap_or(u64::MAX);
                    tracing::warn!(
                        "this host's clock is {} {direction} the device's; one of them has to be set (NTP)",
                        lasting(off)
                    );
                    log = so_far;
                    delivery = self.deliver(ring);
                    delivery.ready().await?;
                }
                Attempt::Stale { .. } => break,
            }
        }
        bail!(Failure::new(
            Exit::Refused,
            "the device takes the request for an old one: it may have just started, or its clock jumps; try again",
        ))
    }

    fn deliver(&self, ring: &Ring) -> Delivery {
        Delivery::start(self.signalling.clone(), ring.device, ring.lan)
    }

    async fn attempt(
        &self,
        ring: &Ring,
        psk: Option<&Psk>,
        mut delivery: Delivery,
        addresses: &Addresses,
        clock_offset: i128,
        mut log: Log,
    ) -> Result<Attempt> {
        let issued_at = unix_time(clock_offset);
        let request = Request {
            id: rand::random(),
            issued_at,
            expires_at: issued_at + LIFETIME,
            service: ring.service.clone(),
            candidates: match &self.forwarding {
                Some(forwarding) => {
                    // Behind such a NAT it may be the only address that leads here.
                    let patience = match addresses.nat {
                        Nat::EndpointDependent => MAPPING_PATIENCE,
                        _ => Duration::ZERO,
                    };
                    forwarding.add_to(&addresses.candidates, patience).await
                }
                None => addresses.candidates.clone(),
            },
            remember: ring.remember,
            webrtc: None,
            path: PADS | if ring.direct_only { DIRECT_ONLY } else { 0 },
            nat: addresses.nat,
        };
        let proof = match psk {
            Some(psk) => Proof::Secret {
                psk_id: PASSWORD_ID,
                psk,
            },
            None => Proof::Key,
        };
        let mut call = Call::seal(&request, &self.key, ring.device, proof, &mut rand::rng())?;
        // From here on the device may dial: that can be sooner than its answer arrives.
        let mut expecting =
            self.endpoint
                .expect(ring.device, call.keys(), &ring.hints, ring.direct_only)?;
        delivery.hand_over(call.envelope());
        log.note("request sent");

        let mut reply = None;
        let mut deadline = Instant::now() + ANSWER_TIMEOUT;
        loop {
            tokio::select! {
                frame = delivery.next(&call), if reply.is_none() => {
                    let progress = call.handle_frame(frame?);
                    match progress {
                        None => {}
                        Some(Progress::Delivered) => log.note("delivered"),
                        Some(Progress::Ended(Outcome::Accepted(accepted))) => {
                            log.note("accepted");
                            expecting.answered(&accepted);
                            deadline = Instant::now() + PATH_TIMEOUT;
                            reply = Some(accepted);
                        }
                        Some(Progress::Ended(Outcome::Refused(refusal))) if refusal.code == Code::Stale => {
                            return Ok(Attempt::Stale { device_time: refusal.time, log });
                        }
                        Some(Progress::Ended(outcome)) => return Err(explain(outcome)),
                    }
                }
                connecting = expecting.connecting() => {
                    log.note("device dialled back");
                    let Ok((connection, established)) = connecting?.into_0rtt() else {
                        bail!("the link could not be opened");
                    };
                    let paths = expecting.paths.clone();
                    let window = self.endpoint.link_windows().add(ring.device, &connection);
                    let link = Link::new(ring.device, connection, paths, window);
                    let (sender, completed) = oneshot::channel();
                    let caller_nat = addresses.nat;
                    let rest = Rest { link: link.clone(), expecting, call, delivery, reply, log, caller_nat };
                    let (links, established_link) = (self.links.clone(), link.clone());
                    tokio::spawn(async move {
                        let completed = rest.complete(established).await;
                        if let Ok(completed) = &completed {
                            links.keep(&established_link, completed);
                        }
                        // Nobody may want the receipt.
                        let _ = sender.send(completed);
                    });
                    return Ok(Attempt::Dialled(Dialled { link, completed }));
                }
                () = tokio::time::sleep_until(deadline.into()) => {
                    return Err(if reply.is_some() { no_path(&expecting, addresses).into() } else {
                        Failure::new(Exit::Registry, "the registry did not answer in 25 s").into()
                    });
                }
            }
        }
    }
}

enum Attempt {
    Dialled(Dialled),
    Stale { device_time: UnixTime, log: Log },
}

/// A call whose link is usable, on its way to being complete.
struct Rest {
    link: Link,
    expecting: Expecting,
    call: Call,
    delivery: Delivery,
    reply: Option<Reply>,
    log: Log,
    caller_nat: ringback_protocol::receipt::Nat,
}

impl Rest {
    async fn complete(mut self, established: quinn::ZeroRttAccepted) -> Result<Completed> {
        tokio::pin!(established);
        let mut proven = false;
        while !proven || self.reply.is_none() {
            tokio::select! {
                () = async { established.as_mut().await; }, if !proven => {
                    if let Some(reason) = self.link.connection.close_reason() {
                        bail!(Failure::new(Exit::Trust, format!("the device could not prove its key: {reason}")));
                    }
                    self.link.paths.set_established();
                    self.log.note("link established");
                    proven = true;
                }
                frame = self.delivery.next(&self.call), if self.reply.is_none() => {
                    // The registry died after the request was delivered: the link is what counts.
                    let Ok(frame) = frame else { self.reply = Some(unanswered()); continue };
                    match self.call.handle_frame(frame) {
                        Some(Progress::Ended(Outcome::Accepted(reply))) => {
                            self.log.note("accepted");
                            self.expecting.answered(&reply);
                            self.reply = Some(reply);
                        }
                        // The link is to the right key all the same; but with a registry that is
                        // caught lying a call ends as it does when the lie comes before the link.
                        Some(Progress::Ended(outcome @ Outcome::RegistryMisbehaved(_))) => {
                            return Err(explain(outcome));
                        }
                        Some(Progress::Ended(_)) => self.reply = Some(unanswered()),
                        _ => {}
                    }
                }
            }
        }
        let reply = self.reply.unwrap_or_else(unanswered);
        let rtt = tokio::time::timeout(RTT_TIMEOUT, self.link.paths.verified()).await;
        if rtt.is_ok() {
            self.log.note("path verified");
        }
        let in_use = self.link.paths.path().context("the link has no path")?;
        let receipt = Receipt {
            device: self.link.peer,
            path: in_use.path,
            transport: in_use.transport,
            remote: in_use.remote,
            rtt_ms: self.link.paths.rtt().map(|rtt| rtt.as_secs_f64() * 1e3),
            caller_nat: self.caller_nat,
            device_nat: reply.nat,
            steps: self.log.steps,
            paths: self.link.paths.report(),
        };
        Ok(Completed {
            receipt,
            candidates: reply.candidates,
            remembered: reply.remembered,
        })
    }
}

/// Stands for a reply that the registry lost on its way, after the device had dialled already.
fn unanswered() -> Reply {
    Reply {
        request_id: [0; 16],
        candidates: Vec::new(),
        remembered: false,
        webrtc: None,
        nat: Default::default(),
        flight: Vec::new(),
        path: 0,
    }
}

impl Location {
    async fn find(&self, own: &OwnAddresses) -> Result<Addresses> {
        Ok(match self {
            Self::Stun(servers) => {
                let servers = servers.clone().wait_for(Option::is_some).await?.clone();
                own.stun_servers().send_replace(servers.unwrap_or_default());
                own.find().await
            }
            Self::Known => own.known(),
        })
    }
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password([redacted])",
            Self::AsGiven(_) => "AsGiven([redacted])",
            Self::Key => "Key",
        })
    }
}

async fn derive(ring: &Ring) -> Result<Option<Psk>> {
    let password = match &ring.credential {
        Credential::Key => return Ok(None),
        Credential::Password(password) => password::prepared(password),
        Credential::AsGiven(password) => password.clone(),
    };
    let device = ring.device;
    let derived =
        tokio::task::spawn_blocking(move || Psk::from_password(&password, &device)).await?;
    derived
        .map(Some)
        .map_err(|error| Failure::new(Exit::Usage, error.to_string()).into())
}

fn no_path(expecting: &Expecting, addresses: &Addresses) -> Failure {
    let tried: Vec<SocketAddr> = expecting
        .paths
        .report()
        .iter()
        .map(|tried| tried.address)
        .collect();
    let own = if addresses.public.is_some() {
        ""
    } else {
        "; no STUN server answered here, is UDP blocked?"
    };
    Failure::new(
        Exit::NoPath,
        format!(
            "the device is willing, but no datagram gets through: {} of its addresses tried{own}",
            tried.len()
        ),
    )
}
