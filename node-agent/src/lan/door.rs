//! The device's side: requests that come in by TCP from the LAN. They are decided exactly as those
//! that the registry relays; what is none gets no answer.
//!
//! Strangers have places and requests of their own, so that they keep out nobody but strangers.
//! Callers that the device knows are told by their signature. What can be sent by others in their
//! name, a request of theirs once more, is decided (and refused), but uses up nothing of theirs.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use parking_lot::Mutex;
use ringback_protocol::candidate::counted_as;
use ringback_protocol::envelope::Envelope;
use ringback_protocol::frame::{Delivered, Frame, length_prefixed};
use ringback_protocol::{PeerId, lan};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot, watch};

use super::is_local;
use crate::network_watch::Network;
use crate::source_places::{SourcePlace, SourcePlaces};

/// Requests that wait for their answer: of callers that the device knows; of strangers in all and of
/// one source, whose oldest make room.
const MAX_KNOWN: usize = 32;
const MAX_STRANGERS: usize = 32;
const MAX_OF_SOURCE: usize = 8;
/// For the answer.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests in a [`WINDOW`], of one caller; of strangers in all and of one source.
const MAX_REQUESTS_PER_CALLER: u32 = 20;
const MAX_REQUESTS: u32 = 120;
const MAX_REQUESTS_PER_SOURCE: u32 = 40;
const WINDOW: Duration = Duration::from_secs(60);

/// Who decides on envelopes.
pub(crate) trait Decide: Send + Sync {
    /// Is this caller remembered, or has it given the password?
    fn is_known(&self, caller: &PeerId) -> bool;

    fn decide(&self, envelope: &[u8], from: IpAddr) -> Decision;
}

pub(crate) struct Decision {
    pub(crate) admitted: bool,
    /// `Answered` or `Refused`.
    pub(crate) answer: oneshot::Receiver<Frame>,
}

/// What all connections from the LAN share.
#[derive(Clone)]
pub(crate) struct Door {
    device: PeerId,
    network: watch::Receiver<Network>,
    known: Arc<Semaphore>,
    strangers: SourcePlaces,
    requests: Arc<Mutex<Requests>>,
    device_decides: Arc<dyn Decide>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Door({:?})", self.device)
    }
}

impl Door {
    pub(crate) fn new(
        device: PeerId,
        network: watch::Receiver<Network>,
        decide: Arc<dyn Decide>,
    ) -> Self {
        Self {
            device,
            network,
            known: Arc::new(Semaphore::new(MAX_KNOWN)),
            strangers: SourcePlaces::new(MAX_STRANGERS, MAX_OF_SOURCE),
            requests: Arc::default(),
            device_decides: decide,
        }
    }

    /// May a request come from there?
    pub(crate) fn is_open_to(&self, peer: IpAddr) -> bool {
        is_local(peer, &self.network.borrow())
    }

    /// Takes a request whose first frame has been read already: `frame` is without its length, and
    /// starts with [`lan::REQUEST`]. An error is for the log: the peer gets no answer then.
    pub(crate) async fn serve_request(
        &self,
        stream: impl AsyncWrite + Unpin,
        peer: IpAddr,
        frame: &[u8],
    ) -> Result<()> {
        ensure!(self.is_open_to(peer), "it does not come from the LAN");
        let Some((&lan::REQUEST, envelope)) = frame.split_first() else {
            bail!("it is no request");
        };
        // Checks the signature: no limit is spent by somebody else than its caller.
        let caller = match Envelope::decode(envelope)? {
            envelope if envelope.device == self.device => envelope.caller,
            _ => bail!("it is for another device"),
        };
        let now = Instant::now();
        let (decision, place) = if self.device_decides.is_known(&caller) {
            ensure!(
                self.requests.lock().has_left(&caller, now),
                "there are too many"
            );
            let decision = self.device_decides.decide(envelope, peer);
            // Nobody else can send what is admitted in its name.
            let place = if decision.admitted {
                self.requests.lock().take_known(caller, now);
                let place = self.known.clone().try_acquire_owned();
                Place::Known(place.context("there are too many already")?)
            } else {
                Place::Stranger(self.strangers.take(peer))
            };
            (decision, place)
        } else {
            let taken = self.requests.lock().take_stranger(caller, peer, now);
            ensure!(taken, "there are too many");
            let place = Place::Stranger(self.strangers.take(peer));
            (self.device_decides.decide(envelope, peer), place)
        };
        let answering = tokio::time::timeout(LIMIT, answer(stream, decision.answer));
        tokio::select! {
            answered = answering => answered?,
            () = place.lost() => bail!("there are too many"),
        }
    }
}

/// One of the requests that wait for their answer.
enum Place {
    Known(#[expect(dead_code, reason = "held")] OwnedSemaphorePermit),
    Stranger(SourcePlace),
}

impl Place {
    /// Comes when somebody else has got the place.
    async fn lost(&self) {
        match self {
            Self::Known(_) => std::future::pending().await,
            Self::Stranger(place) => place.lost().await,
        }
    }
}

async fn answer(
    mut stream: impl AsyncWrite + Unpin,
    answer: oneshot::Receiver<Frame>,
) -> Result<()> {
    let delivered = Frame::from(Delivered { call: 0 });
    stream
        .write_all(&length_prefixed(&delivered.encode()))
        .await?;
    let answer = answer.await?;
    stream.write_all(&length_prefixed(&answer.encode())).await?;
    Ok(stream.shutdown().await?)
}

/// How many requests came in this window.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    strangers: u32,
    by_source: HashMap<IpAddr, u32>,
    by_caller: HashMap<PeerId, u32>,
}

impl Requests {
    /// Has a known caller a request left?
    fn has_left(&mut self, caller: &PeerId, now: Instant) -> bool {
        self.turn(now);
        self.by_caller.get(caller).copied().unwrap_or(0) < MAX_REQUESTS_PER_CALLER
    }

    fn take_known(&mut self, caller: PeerId, now: Instant) {
        self.turn(now);
        let own = self.by_caller.entry(caller).or_default();
        *own = own.saturating_add(1);
    }

    fn take_stranger(&mut self, caller: PeerId, peer: IpAddr, now: Instant) -> bool {
        self.turn(now);
        if self.strangers >= MAX_REQUESTS {
            return false;
        }
        let of_source = self.by_source.entry(counted_as(peer)).or_default();
        if *of_source >= MAX_REQUESTS_PER_SOURCE {
            return false;
        }
        let own = self.by_caller.entry(caller).or_default();
        if *own >= MAX_REQUESTS_PER_CALLER {
            return false;
        }
        *own += 1;
        *of_source += 1;
        self.strangers += 1;
        true
    }

    /// Begins a new window when the last one is over.
    fn turn(&mut self, now: Instant) {
        let is_over = |since| now.saturating_duration_since(since) >= WINDOW;
        if self.since.is_none_or(is_over) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;
    use ringback_protocol::envelope::{Proof, Request};
    use ringback_protocol::frame::Refused;
    use ringback_protocol::receipt::Nat;

    use super::*;

    fn key(number: u32) -> SecretKey {
        let mut seed = [5; 32];
        seed[..4].copy_from_slice(&number.to_be_bytes());
        SecretKey::from_seed(&seed)
    }

    fn address(number: u32) -> IpAddr {
        IpAddr::V4((0xc0a8_0000 + number).into())
    }

    #[test]
    fn strangers_are_limited_by_caller_by_source_and_in_all() {
        let mut requests = Requests::default();
        let now = Instant::now();
        let stranger = |number| key(number).id();
        for number in 0..6 {
            for _ in 0..MAX_REQUESTS_PER_CALLER {
                assert!(requests.take_stranger(stranger(number), address(number / 2), now));
            }
            let elsewhere = address(100);
            assert!(!requests.take_stranger(stranger(number), elsewhere, now));
            if number % 2 == 1 {
                let of_source = requests.take_stranger(stranger(50), address(number / 2), now);
                assert!(!of_source);
            }
        }
        assert!(
            !requests.take_stranger(stranger(7), address(7), now),
            "in all"
        );
        assert!(requests.has_left(&stranger(8), now), "a known caller");
        assert!(requests.take_stranger(stranger(7), address(7), now + WINDOW));
    }

    /// Admits what it is told to know, once.
    #[derive(Default)]
    struct Device {
        known: Vec<PeerId>,
        seen: Mutex<Vec<Vec<u8>>>,
        /// Answers that are not given yet.
        open: Mutex<Vec<oneshot::Sender<Frame>>>,
    }

    impl Decide for Device {
        fn is_known(&self, caller: &PeerId) -> bool {
            self.known.contains(caller)
        }

        fn decide(&self, envelope: &[u8], _: IpAddr) -> Decision {
            let (sender, answer) = oneshot::channel();
            let caller = Envelope::decode(envelope).unwrap().caller;
            let mut seen = self.seen.lock();
            let admitted = self.known.contains(&caller) && !seen.iter().any(|e| e == envelope);
            seen.push(envelope.to_vec());
            if admitted {
                let refusal = b"any answer".to_vec();
                sender.send(Refused { call: 0, refusal }.into()).unwrap();
            } else {
                self.open.lock().push(sender);
            }
            Decision { admitted, answer }
        }
    }

    fn request(caller: &SecretKey, id: u32) -> Vec<u8> {
        let mut request = Request {
            id: [0; 16],
            issued_at: 0,
            expires_at: 30,
            service: "*".into(),
            candidates: Vec::new(),
            remember: false,
            webrtc: None,
            path: 0,
            nat: Nat::Unknown,
        };
        request.id[..4].copy_from_slice(&id.to_be_bytes());
        let device = key(0).id();
        let sealed = Envelope::seal(&request, caller, &device, Proof::Key, &mut rand::rng());
        [&[lan::REQUEST][..], &sealed.unwrap().0.encode()].concat()
    }

    /// Strangers hold every place that they can get, with answers that nobody gives, and send what they
    /// have seen of the known caller; from its own network, too.
    #[tokio::test]
    async fn strangers_on_the_lan_keep_no_known_caller_out() {
        let friend = key(1);
        let device = Arc::new(Device {
            known: vec![friend.id()],
            ..Device::default()
        });
        let network = watch::Sender::new(Network::read());
        let door = Door::new(key(0).id(), network.subscribe(), device.clone());
        let mut held = tokio::task::JoinSet::new();
        let mut reached = 0;
        for round in 0..3 {
            for number in 0..100 {
                let door = door.clone();
                let frame = request(&key(1000 + round * 100 + number), number);
                let peer = address(number % 10);
                held.spawn(
                    async move { door.serve_request(tokio::io::sink(), peer, &frame).await },
                );
            }
            let replayed = request(&friend, 0);
            for number in 0..19 {
                let frame = match number {
                    0 => replayed.clone(),
                    number => request(&friend, number),
                };
                let served = door.serve_request(tokio::io::sink(), address(1), &frame);
                match served.await {
                    Ok(()) => reached += 1,
                    Err(error) => panic!("{error:#}"),
                }
                for _ in 0..5 {
                    let (door, replayed) = (door.clone(), replayed.clone());
                    held.spawn(async move {
                        door.serve_request(tokio::io::sink(), address(2), &replayed)
                            .await
                    });
                }
                tokio::task::yield_now().await;
            }
            // The next minute.
            door.requests.lock().since = None;
        }
        assert_eq!(reached, 57);
        device.open.lock().clear();
        let mut served = 0;
        while let Some(ended) = held.join_next().await {
            served += usize::from(ended.unwrap().is_ok());
        }
        assert_eq!(served, 0, "none of these is answered");
    }
}
