//! The device's side: requests that come in by TCP from the LAN. They are decided exactly as those
//! that the registry relays; what is none gets no answer.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use parking_lot::Mutex;
use ringback_protocol::envelope::Envelope;
use ringback_protocol::frame::{Delivered, Frame, length_prefixed};
use ringback_protocol::{PeerId, lan};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{Semaphore, oneshot, watch};

use super::is_local;
use crate::network_watch::Network;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;
/// For a connection, from its first byte to its last.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests in a [`WINDOW`], in all and of one caller: as the registry's (PROTOCOL §14).
const MAX_REQUESTS: u32 = 120;
const MAX_REQUESTS_PER_CALLER: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// Decides on an envelope: the answer is `Answered` or `Refused`.
pub(crate) type Ask = Arc<dyn Fn(Vec<u8>) -> oneshot::Receiver<Frame> + Send + Sync>;

/// What all connections from the LAN share.
#[derive(Clone)]
pub(crate) struct Door {
    device: PeerId,
    network: watch::Receiver<Network>,
    places: Arc<Semaphore>,
    requests: Arc<Mutex<Requests>>,
    ask: Ask,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Door({:?})", self.device)
    }
}

impl Door {
    pub(crate) fn new(device: PeerId, network: watch::Receiver<Network>, ask: Ask) -> Self {
        Self {
            device,
            network,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            requests: Arc::default(),
            ask,
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
        let Ok(_place) = self.places.try_acquire() else {
            bail!("there are {MAX_CONNECTIONS} already");
        };
        let answering = self.answer(&mut stream, frame);
        tokio::time::timeout(LIMIT, answering).await?
    }

    async fn answer(&self, stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<()> {
        let Some((&lan::REQUEST, envelope)) = frame.split_first() else {
            bail!("it is no request");
        };
        // Checks the signature: no limit is spent by somebody else than its caller.
        let caller = match Envelope::decode(envelope)? {
            envelope if envelope.device == self.device => envelope.caller,
            _ => bail!("it is for another device"),
        };
        let taken = self.requests.lock().take(caller, Instant::now());
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

/// How many requests came in this window.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    all: u32,
    by_caller: HashMap<PeerId, u32>,
}

impl Requests {
    fn take(&mut self, caller: PeerId, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= WINDOW) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        if self.all == MAX_REQUESTS {
            return false;
        }
        let own = self.by_caller.entry(caller).or_default();
        if *own == MAX_REQUESTS_PER_CALLER {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn requests_are_limited_by_caller_and_in_all() {
        let mut requests = Requests::default();
        let now = Instant::now();
        let caller = |seed: u8| SecretKey::from_seed(&[seed; 32]).id();
        for seed in 1..=6 {
            for _ in 0..MAX_REQUESTS_PER_CALLER {
                assert!(requests.take(caller(seed), now));
            }
            assert!(!requests.take(caller(seed), now));
        }
        assert!(!requests.take(caller(7), now), "120 in all");
        assert!(requests.take(caller(7), now + WINDOW));
    }
}
