//! Relayed paths: a link's place at the relays that its registry offers, taken when no direct path
//! forms at once, and kept as a standby that costs nothing while it is not used.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use ringback_protocol::candidate::Kind;
use ringback_protocol::path::Class;
use ringback_protocol::receipt::Transport;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::attached::Attached;
use super::link_path::InUse;
use super::paths::WeakPaths;
use super::route::DatagramSink;
use crate::nat64;
use crate::registry::Registry;
use crate::relay::{self, OwnRelay, Relay, RelayEvent, RelaySender, RelayState, Seat};

/// Direct paths have this long before a relay is asked for.
const DIRECT_FIRST: Duration = Duration::from_millis(300);
/// A link that lives this long gets its standby. Shorter ones cost the registry no more than their
/// request.
const STANDBY_AFTER: Duration = Duration::from_millis(1500);
/// An owner's relay has this long to bring both ends together before the registry's is used.
const OWN_FIRST: Duration = Duration::from_millis(1000);
/// When nothing answers any more, the connection to the relay is made anew, at most this often.
const ANEW: Duration = Duration::from_secs(2);
/// Datagrams handed on at once.
const BATCH: usize = 64;

/// The relays that an agent may use.
#[derive(Debug, Clone, Default)]
pub(crate) struct Relays {
    /// Machines of the registry's owner; preferred.
    pub(crate) own: Vec<OwnRelay>,
    /// `None`: relaying is switched off here.
    pub(crate) registry: Option<Registry>,
}

/// Takes the link's place at the relays, and keeps it until the task is aborted.
/// `network` tells when the host's network changes: what was connected before is gone then.
pub(super) async fn run(
    weak: WeakPaths,
    relays: Arc<Mutex<Relays>>,
    seat: Seat,
    network: watch::Receiver<u64>,
) {
    let Some(mut in_use) = weak.upgrade().map(|paths| paths.in_use()) else {
        return;
    };
    let begin = Instant::now();
    let is_direct = |in_use: &InUse| in_use.verified.is_some_and(|class| !class.is_relay());
    let forms = tokio::time::timeout_at(begin + DIRECT_FIRST, in_use.wait_for(is_direct));
    if forms.await.is_ok() {
        // Until the link is old enough, or the path is lost.
        let lost = in_use.wait_for(|in_use| !is_direct(in_use));
        let _ = tokio::time::timeout_at(begin + STANDBY_AFTER, lost).await;
    }
    // Only now: what the registry lists may have come meanwhile.
    let relays = relays.lock().clone();
    let Some(registry) = relays.registry else {
        return;
    };
    let mut own = tokio::task::JoinSet::new();
    let mut meetings = Vec::new();
    for beacon in relays.own {
        let address = look_up(beacon.udp.as_deref().or(beacon.tcp.as_deref())).await;
        let (meets, meeting) = watch::channel(false);
        meetings.push(meeting);
        let seat = seat.clone();
        let line = Line {
            weak: weak.clone(),
            connect: move || relay::through_beacon(beacon.clone(), seat.clone()),
            class: Class::OwnRelay,
            transport: Transport::Udp,
            address,
            meets,
        };
        own.spawn(line.carry(network.clone()));
    }
    if !meetings.is_empty() {
        any_meets(&mut meetings, OWN_FIRST).await;
        while meetings
            .iter()
            .any(|meets| *meets.borrow() && meets.has_changed().is_ok())
        {
            // The registry's relay is for when the owner's is gone.
            let gone = meetings.iter_mut().map(|meets| {
                Box::pin(async move {
                    let _ = meets.wait_for(|meets| !meets).await;
                })
            });
            futures_util::future::select_all(gone).await;
        }
    }
    let address = look_up(Some(&registry.authority())).await;
    let line = Line {
        weak,
        connect: move || relay::through_registry(&registry, seat.clone()),
        class: Class::Relay,
        transport: Transport::WebSocket,
        address,
        meets: watch::Sender::new(false),
    };
    line.carry(network).await;
}

/// Waits until both ends are at one of these relays, all have given up, or `patience` is over.
async fn any_meets(meetings: &mut [watch::Receiver<bool>], patience: Duration) {
    let mut waiting: Vec<_> = meetings
        .iter_mut()
        .map(|meets| Box::pin(async move { meets.wait_for(|meets| *meets).await.is_ok() }))
        .collect();
    let meet = async {
        while !waiting.is_empty() {
            let (meets, _, others) = futures_util::future::select_all(waiting).await;
            if meets {
                break;
            }
            waiting = others;
        }
    };
    // When it is over, it is over.
    let _ = tokio::time::timeout(patience, meet).await;
}

/// For people; the relay's client looks it up for itself.
async fn look_up(address: Option<&str>) -> SocketAddr {
    let nowhere = (Ipv4Addr::UNSPECIFIED, 0).into();
    let Some(address) = address else {
        return nowhere;
    };
    let found = tokio::net::lookup_host(address).await;
    found
        .ok()
        .and_then(|mut all| all.next())
        .map_or(nowhere, nat64::inward)
}

/// One relay of a link.
struct Line<F> {
    weak: WeakPaths,
    connect: F,
    class: Class,
    transport: Transport,
    address: SocketAddr,
    /// Both ends are there.
    meets: watch::Sender<bool>,
}

impl<F: Fn() -> Relay> Line<F> {
    /// Makes the relay a path of the link whenever the other end is there.
    async fn carry(self, mut network: watch::Receiver<u64>) {
        let Some(mut in_use) = self.weak.upgrade().map(|paths| paths.in_use()) else {
            return;
        };
        let mut relay = (self.connect)();
        let mut connected_at = Instant::now();
        let mut attached: Option<Attached> = None;
        // Not even the relay: its connection is made anew once, and then it tries by itself.
        let mut nothing_answers = false;
        loop {
            tokio::select! {
                changed = relay.state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let present = matches!(
                        *relay.state.borrow_and_update(),
                        RelayState::Joined { present: true }
                    );
                    match (present, &attached) {
                        (true, None) => attached = self.attach(&relay),
                        (false, Some(_)) => attached = None,
                        _ => {}
                    }
                    self.meets.send_replace(present);
                    continue;
                }
                event = relay.events.recv() => {
                    let Some(RelayEvent::Datagram(first)) = event else { return };
                    if attached.is_none() {
                        // It is faster than the word that its sender is there.
                        attached = self.attach(&relay);
                    }
                    if let Some(attached) = &attached {
                        receive(attached, &first, &mut relay);
                    }
                    continue;
                }
                // Connections of the old network are dead, and do not know it.
                Ok(()) = network.changed() => {}
                Ok(()) = in_use.changed() => {
                    nothing_answers = in_use.borrow_and_update().verified.is_none();
                    continue;
                }
                () = sleep_until(connected_at + ANEW), if nothing_answers => {}
            }
            nothing_answers = false;
            attached = None;
            relay = (self.connect)();
            connected_at = Instant::now();
            self.meets.send_replace(false);
        }
    }

    fn attach(&self, relay: &Relay) -> Option<Attached> {
        let sink = Arc::new(RelaySink(relay.sender.clone()));
        let paths = self.weak.upgrade()?;
        paths.attach(
            self.class,
            self.transport,
            Kind::Relayed,
            self.address,
            sink,
        )
    }
}

/// Hands datagrams of one length on together.
fn receive(attached: &Attached, first: &[u8], relay: &mut Relay) {
    let mut batch = first.to_vec();
    let mut segment = first.len();
    for _ in 0..BATCH {
        let Ok(RelayEvent::Datagram(next)) = relay.events.try_recv() else {
            break;
        };
        let whole = batch.len().is_multiple_of(segment);
        if !whole || next.len() > segment {
            attached.receive(&batch, segment);
            batch.clear();
            segment = next.len();
        }
        batch.extend_from_slice(&next);
    }
    attached.receive(&batch, segment);
}

#[derive(Debug)]
struct RelaySink(RelaySender);

impl DatagramSink for RelaySink {
    fn send(&self, contents: &[u8], segment: usize) {
        for datagram in contents.chunks(segment) {
            self.0.send(datagram);
        }
    }
}
