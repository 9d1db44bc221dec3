//! Ports that the router forwards to this host, asked for by PCP (RFC 6887), NAT-PMP (RFC 6886) or
//! UPnP-IGD, for IPv4.
//!
//! A task of its own: nobody waits for it unless they want to. It gives a mapping back when it is
//! [released](PortMapping::release); one that a killed process has left is deleted by the next start
//! of the same profile ([`journal`]), and what nobody deletes ends with its lease.

mod announcement;
mod journal;
mod leftovers;
mod mapping;
mod router;
mod ssdp;
mod upnp;

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ringback_protocol::candidate::{self, Candidate, Kind};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use crate::network_watch::{self, Network};
use announcement::Announcements;
use journal::{Entry, Journal};
use leftovers::Leftovers;
use mapping::{Place, Transport};
use router::{Asked, Held, Refusal};

pub(crate) use mapping::{Mapping, Mappings, Settings, Trouble, is_public};

/// A mapping is asked for again at least this often: a router that has started anew has lost it, and
/// not every router says so.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// Until the next try where no router answered.
const NEXT_TRY: Duration = Duration::from_secs(600);
/// Until the next try where a router that did answer is silent, or a mapping was not renewed.
const RETRY: Duration = Duration::from_secs(30);
/// For all deletions of one start, and of one end, together.
const DELETION_LIMIT: Duration = Duration::from_secs(1);
/// After a sign that the router has started anew: it may not be ready at once.
const SETTLE: Duration = Duration::from_millis(500);

/// Ports mapped on the router, until they are released.
#[derive(Debug)]
pub(crate) struct PortMapping {
    forwarding: Forwarding,
    release: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

/// A view of the mappings, for everybody who needs to know them.
#[derive(Debug, Clone)]
pub(crate) struct Forwarding {
    mappings: watch::Receiver<Mappings>,
    checks: mpsc::Sender<()>,
}

impl PortMapping {
    /// Starts to map. `network` is where changes of this host's network are seen.
    pub(crate) fn start(settings: Settings, network: watch::Receiver<Network>) -> Self {
        let (sender, mappings) = watch::channel(Mappings::default());
        let (checks, checks_in) = mpsc::channel(1);
        let (release, released) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut task = Task {
                settings,
                network,
                mappings: sender,
                journal: None,
                held: Vec::new(),
                asked: Asked::default(),
                answered_at: None,
                patient: false,
            };
            tokio::select! {
                () = task.run(checks_in) => {}
                _ = released => {}
            }
            task.release().await;
        });
        Self {
            forwarding: Forwarding { mappings, checks },
            release,
            task,
        }
    }

    pub(crate) fn forwarding(&self) -> Forwarding {
        self.forwarding.clone()
    }

    /// Takes the mappings off the router again, within 1 s. What can not be deleted by then is left
    /// to the next start, or to the end of its lease.
    pub(crate) async fn release(self) {
        let _ = self.release.send(());
        // An error is a panic, which has been reported.
        let _ = self.task.await;
    }
}

impl Forwarding {
    /// What is mapped, and every change of it.
    pub(crate) fn mappings(&self) -> watch::Receiver<Mappings> {
        self.mappings.clone()
    }

    /// What is mapped now.
    pub(crate) fn now(&self) -> Mappings {
        self.mappings.borrow().clone()
    }

    /// The mappings as soon as the first try is over, or what is known after `limit`.
    pub(crate) async fn first(&self, limit: Duration) -> Mappings {
        let mut mappings = self.mappings.clone();
        let tried = mappings.wait_for(|mappings| mappings.tried);
        // Without an answer in time, what is known is nothing.
        let _ = tokio::time::timeout(limit, tried).await;
        self.now()
    }

    /// `found` and what is mapped after at most `patience`, ranked and capped as the protocol wants it.
    pub(crate) async fn add_to(&self, found: &[Candidate], patience: Duration) -> Vec<Candidate> {
        let mappings = self.first(patience).await;
        let Some(address) = mappings.udp_address() else {
            return found.to_vec();
        };
        let mapped = Candidate::udp(Kind::Mapped, address);
        let all: Vec<Candidate> = [mapped].into_iter().chain(found.iter().cloned()).collect();
        // There is no router on the way where loopback addresses are used.
        candidate::rank(&all, false)
    }

    /// Something suggests that the router has changed or lost the mapping (as a new public address):
    /// asks for it anew at once.
    pub(crate) fn check(&self) {
        // Full: a check is coming anyway.
        let _ = self.checks.try_send(());
    }
}

struct Task {
    settings: Settings,
    network: watch::Receiver<Network>,
    mappings: watch::Sender<Mappings>,
    /// Opened with the first mapping that is to be made.
    journal: Option<Journal>,
    held: Vec<Held>,
    asked: Asked,
    answered_at: Option<Instant>,
    /// The next attempt may take longer.
    patient: bool,
}

impl Task {
    async fn run(&mut self, mut checks: mpsc::Receiver<()>) {
        let mut announcements = Announcements::listen();
        loop {
            let network = self.network.borrow_and_update().clone();
            let pause = self.attempt(&network).await;
            tokio::select! {
                () = tokio::time::sleep(pause) => continue,
                Some(()) = checks.recv() => {}
                () = announcements.next(network.router()) => {
                    tracing::debug!("the router announces a change");
                }
                () = uplink_changed(&mut self.network, &network) => {}
            }
            // Whatever has changed may not be ready at the first moment.
            tokio::time::sleep(SETTLE).await;
        }
    }

    /// Makes or renews the mappings; gives the time until the next attempt.
    async fn attempt(&mut self, network: &Network) -> Duration {
        let place = match place(network) {
            Ok(place) => place,
            Err(trouble) => {
                // Mappings of another network can not be deleted from here.
                self.held.clear();
                self.tell(None, Some(trouble));
                return NEXT_TRY;
            }
        };
        if self.held.iter().any(|held| held.entry.place != place) {
            self.forget_other_places(place);
        }
        let mut leftovers = Leftovers::find(&self.settings.state_dir);
        if !leftovers.is_empty() {
            let deleted = leftovers.delete(place, &self.asked);
            if tokio::time::timeout(DELETION_LIMIT, deleted).await.is_err() {
                tracing::debug!("the router does not delete the mappings of an earlier run");
            }
        }
        let was_patient = self.patient;
        match self.map(place).await {
            Ok(()) => {
                self.answered_at = Some(Instant::now());
                let double = self.held.iter().find_map(|held| {
                    let external = *held.mapping.external.ip();
                    let public = is_public(external);
                    let external = Some(external);
                    (!public).then_some(Trouble::DoubleNat { external })
                });
                self.tell(Some(place.router), double);
                self.pause()
            }
            Err(refusal) => {
                self.held.retain(|held| !held.is_over());
                let trouble = match &refusal {
                    Refusal::Silent => Trouble::Silent,
                    Refusal::NoAddress => Trouble::DoubleNat { external: None },
                    Refusal::Refused(reason) => Trouble::Refused {
                        reason: reason.clone(),
                    },
                };
                let trouble = self.held.is_empty().then_some(trouble);
                self.tell(Some(place.router), trouble);
                tracing::debug!(?refusal, "no port mapping");
                let known = self
                    .answered_at
                    .is_some_and(|at| at.elapsed() < 2 * NEXT_TRY);
                match refusal {
                    Refusal::Silent if !known && !was_patient => {
                        self.patient = true;
                        Duration::ZERO
                    }
                    _ if known => RETRY,
                    _ => NEXT_TRY,
                }
            }
        }
    }

    /// Half of the shortest lease.
    fn pause(&self) -> Duration {
        let shortest = self
            .held
            .iter()
            .filter(|held| held.mapping.lease_s > 0)
            .map(|held| Duration::from_secs(held.mapping.lease_s.into()) / 2)
            .min();
        shortest
            .unwrap_or(LONGEST_PAUSE)
            .clamp(Duration::from_millis(500), LONGEST_PAUSE)
    }

    /// Renews what is held; asks anew, by every protocol, where nothing is or the renewal fails.
    async fn map(&mut self, place: Place) -> Result<(), Refusal> {
        if let Some(journal) = &mut self.journal
            && !self.held.is_empty()
        {
            let mut renewed = Vec::new();
            for held in &self.held {
                match router::renew(&self.asked, held, &self.settings, journal).await {
                    Ok(held) => renewed.push(held),
                    Err(refusal) => {
                        tracing::debug!(?refusal, "a mapping is not renewed");
                        break;
                    }
                }
            }
            if renewed.len() == self.held.len() {
                self.held = renewed;
                return Ok(());
            }
        }
        let previous: Vec<Entry> = self.held.iter().map(|held| held.entry.clone()).collect();
        if self.journal.is_none() {
            self.journal = Some(Journal::create(&self.settings.state_dir).map_err(|error| {
                Refusal::Refused(format!("no port is mapped without a note of it: {error}"))
            })?);
        }
        let journal = self.journal.as_mut().expect("just made");
        let patient = std::mem::take(&mut self.patient);
        let held = router::map(&mut self.asked, place, &self.settings, journal, patient).await?;
        for entry in previous {
            if held.iter().all(|held| !held.entry.is_same_mapping(&entry)) {
                journal.note_gone(&entry);
            }
        }
        for held in &held {
            tracing::info!(
                method = ?held.mapping.method,
                transport = ?held.entry.transport,
                lease_s = held.mapping.lease_s,
                "the router forwards a port"
            );
        }
        self.held = held;
        Ok(())
    }

    /// What another router forwards to another address of this host is out of reach; the notes stay
    /// for a start that is back there.
    fn forget_other_places(&mut self, place: Place) {
        self.held.retain(|held| held.entry.place == place);
        self.asked = Asked::default();
        self.answered_at = None;
        self.patient = false;
        if self.held.is_empty() {
            self.tell(Some(place.router), None);
        }
    }

    fn tell(&self, router: Option<Ipv4Addr>, trouble: Option<Trouble>) {
        let mapping = |transport| {
            let of = |held: &&Held| held.entry.transport == transport;
            self.held.iter().find(of).map(|held| held.mapping.clone())
        };
        let now = Mappings {
            tried: true,
            router,
            found: self.asked.found.clone(),
            udp: mapping(Transport::Udp),
            tcp: mapping(Transport::Tcp),
            trouble,
        };
        self.mappings.send_if_modified(|mappings| {
            let news = *mappings != now;
            *mappings = now;
            news
        });
    }

    async fn release(mut self) {
        let Some(journal) = self.journal.take() else {
            return;
        };
        // What was being made when the end came is only in the journal.
        let mut leftover = Leftovers::of(journal);
        let place = place(&self.network.borrow().clone());
        // A router that has never answered is not waited for, and most likely has nothing.
        let has_answered = !(self.held.is_empty() && self.asked.found.is_empty());
        let limit = if has_answered {
            DELETION_LIMIT
        } else {
            DELETION_LIMIT / 10
        };
        if let Ok(place) = place {
            let deleted = leftover.delete(place, &self.asked);
            if tokio::time::timeout(limit, deleted).await.is_err() {
                tracing::debug!("the router does not delete the mappings");
            }
            if !has_answered {
                leftover.forget(place);
            }
        }
    }
}

/// Waits until the way to the router is another one than in `before`.
async fn uplink_changed(network: &mut watch::Receiver<Network>, before: &Network) {
    let mut last = before.clone();
    loop {
        if network.changed().await.is_err() {
            return std::future::pending().await;
        }
        let now = network.borrow_and_update().clone();
        if now.uplink() != last.uplink() {
            return;
        }
        last = now;
    }
}

fn place(network: &Network) -> Result<Place, Trouble> {
    let router = network.router().ok_or(Trouble::NoRouter)?;
    let local = network_watch::address_towards(router).ok_or(Trouble::NoRouter)?;
    if is_public(local) {
        return Err(Trouble::NotNeeded);
    }
    Ok(Place { router, local })
}
