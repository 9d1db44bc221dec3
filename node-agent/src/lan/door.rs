//! The device's side: requests that come in by TCP from the LAN. They are decided exactly as those
//! that the registry relays; what is none gets no answer.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use parking_lot::Mutex;
use ringback_protocol::candidate::counted_as;
use ringback_protocol::envelope::Envelope;
use ringback_protocol::frame::{Delivered, Frame, length_prefixed};
use ringback_protocol::{PeerId, lan};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{oneshot, watch};

use super::is_local;
use crate::network_watch::Network;
use crate::places::Places;

/// Requests that wait for their answer, in all and from one source.
const MAX_WAITING: usize = 32;
const MAX_WAITING_PER_SOURCE: usize = 8;
/// For a connection, from its first byte to its last.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests in a [`WINDOW`] of all callers that the device does not know, of those from one source, and
/// of one caller, known or not: as the registry's (PROTOCOL §14).
const MAX_OF_STRANGERS: u32 = 120;
const MAX_OF_STRANGERS_PER_SOURCE: u32 = 40;
const MAX_OF_ONE_CALLER: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// Decides on an envelope: the answer is `Answered` or `Refused`.
pub(crate) type Ask = Arc<dyn Fn(Vec<u8>) -> oneshot::Receiver<Frame> + Send + Sync>;
/// Is it a caller that nothing which strangers do keeps waiting?
pub(crate) type Knows = Arc<dyn Fn(&PeerId) -> bool + Send + Sync>;

/// What all connections from the LAN share.
#[derive(Clone)]
pub(crate) struct Door {
    device: PeerId,
    network: watch::Receiver<Network>,
    places: Places,
    requests: Arc<Mutex<Requests>>,
    ask: Ask,
    knows: Knows,
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
        ask: Ask,
        knows: Knows,
    ) -> Self {
        Self {
            device,
            network,
            places: Places::new(MAX_WAITING, MAX_WAITING_PER_SOURCE),
            requests: Arc::default(),
            ask,
            knows,
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
        mut stream: impl AsyncWrite + Unpin,
        peer: IpAddr,
        frame: &[u8],
    ) -> Result<()> {
        ensure!(self.is_open_to(peer), "it does not come from the LAN");
        let place = self.places.take(peer);
        let answering = self.answer(&mut stream, peer, frame);
        tokio::select! {
            answered = tokio::time::timeout(LIMIT, answering) => answered?,
            () = place.lost() => bail!("there are too many"),
        }
    }

    async fn answer(
        &self,
        stream: &mut (impl AsyncWrite + Unpin),
        peer: IpAddr,
        frame: &[u8],
    ) -> Result<()> {
        let Some((&lan::REQUEST, envelope)) = frame.split_first() else {
            bail!("it is no request");
        };
        // Checks the signature: no limit is spent by somebody else than its caller.
        let caller = match Envelope::decode(envelope)? {
            envelope if envelope.device == self.device => envelope.caller,
            _ => bail!("it is for another device"),
        };
        let from = if (self.knows)(&caller) {
            From::Known
        } else {
            From::Stranger(counted_as(peer))
        };
        let digest = Sha256::digest(envelope).into();
        let taken = self
            .requests
            .lock()
            .take(caller, from, digest, Instant::now());
        ensure!(taken, "there are too many");
        let answer = (self.ask)(envelope.to_vec());
        let delivered = Frame::from(Delivered { call: 0 });
        stream
            .write_all(&length_prefixed(&delivered.encode()))
            .await?;
        let answer = answer.await?;
        stream.write_all(&length_prefixed(&answer.encode())).await?;
        Ok(stream.shutdown().await?)
    }
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
enum From {
    Known,
    /// As limits count where it comes from.
    Stranger(IpAddr),
}

/// How many requests came in this window.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    strangers: u32,
    by_source: HashMap<IpAddr, u32>,
    by_caller: HashMap<PeerId, u32>,
    /// Of those that counted: what somebody has listened to and sends again is not the caller's.
    seen: HashSet<[u8; 32]>,
}

impl Requests {
    fn take(&mut self, caller: PeerId, from: From, digest: [u8; 32], now: Instant) -> bool {
        let over = |since: Instant| now.saturating_duration_since(since) >= WINDOW;
        if self.since.is_none_or(over) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        if self.seen.contains(&digest) {
            return false;
        }
        let own = self.by_caller.get(&caller).copied().unwrap_or(0);
        if own >= MAX_OF_ONE_CALLER {
            return false;
        }
        if let From::Stranger(source) = from {
            let here = self.by_source.get(&source).copied().unwrap_or(0);
            if self.strangers >= MAX_OF_STRANGERS || here >= MAX_OF_STRANGERS_PER_SOURCE {
                return false;
            }
            self.strangers += 1;
            self.by_source.insert(source, here + 1);
        }
        self.by_caller.insert(caller, own + 1);
        self.seen.insert(digest);
        true
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    struct World {
        requests: Requests,
        sent: u64,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            Self {
                requests: Requests::default(),
                sent: 0,
                now: Instant::now(),
            }
        }

        fn take(&mut self, caller: u8, from: From) -> bool {
            self.sent += 1;
            let mut digest = [0; 32];
            digest[..8].copy_from_slice(&self.sent.to_be_bytes());
            let caller = SecretKey::from_seed(&[caller; 32]).id();
            self.requests.take(caller, from, digest, self.now)
        }
    }

    fn stranger(host: u8) -> From {
        From::Stranger([192, 168, 1, host].into())
    }

    #[test]
    fn strangers_are_limited_by_caller_by_source_and_in_all() {
        let mut world = World::new();
        for caller in 1..=2 {
            for _ in 0..MAX_OF_ONE_CALLER {
                assert!(world.take(caller, stranger(1)));
            }
            assert!(!world.take(caller, stranger(2)), "20 of one caller");
        }
        assert!(!world.take(3, stranger(1)), "40 from one source");
        for host in 2..=3 {
            for caller in [2 * host, 2 * host + 1] {
                for _ in 0..MAX_OF_ONE_CALLER {
                    assert!(world.take(caller, stranger(host)));
                }
            }
        }
        assert!(!world.take(99, stranger(9)), "120 in all");
        world.now += WINDOW;
        assert!(world.take(99, stranger(9)));
    }

    #[test]
    fn whatever_strangers_send_a_known_caller_is_let_through() {
        let mut world = World::new();
        for caller in 1..=20 {
            for _ in 0..10 {
                world.take(caller, stranger(caller));
            }
        }
        assert!(!world.take(99, stranger(99)));
        for _ in 0..MAX_OF_ONE_CALLER {
            assert!(world.take(200, From::Known));
        }
        assert!(!world.take(200, From::Known));
        assert!(world.take(201, From::Known), "each has a window of its own");
    }

    #[test]
    fn a_request_that_is_sent_again_costs_its_caller_nothing() {
        let mut world = World::new();
        let caller = SecretKey::from_seed(&[1; 32]).id();
        assert!(world.requests.take(caller, From::Known, [7; 32], world.now));
        for _ in 0..1000 {
            assert!(!world.requests.take(caller, From::Known, [7; 32], world.now));
        }
        assert!(world.take(1, From::Known));
    }
}
