//! The client of a relay (PROTOCOL §15, §16.6): datagrams of a call through the registry, or
//! through a machine of the owner's. Both look the same to the path layer: a queue in, a queue out,
//! and a state. A relay is a lossy network: what does not fit a queue is dropped.

mod own;
mod pace;
mod registry;

use std::fmt;
use std::time::{Duration, Instant};

use bytes::Bytes;
use ringback_protocol::path::Role;
use ringback_protocol::relay::{MAX_DATAGRAM, Room};
use ringback_protocol::{Code, PeerId, SecretKey};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use pace::Pace;

pub(crate) use own::{OwnRelay, through_beacon};
pub(crate) use registry::through_registry;

/// Datagrams that wait in each direction: 1.5 MB of full-sized ones, 100 ms at 120 Mb/s.
const QUEUE: usize = 1024;

/// A place in a call's room, and who takes it.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    pub(crate) room: Room,
    pub(crate) role: Role,
    /// Of the peer that takes the place.
    pub(crate) key: SecretKey,
    /// The device of the call.
    pub(crate) device: PeerId,
}

/// One end of a relayed connection. It reconnects by itself, and ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Relay {
    pub(crate) sender: RelaySender,
    pub(crate) events: mpsc::Receiver<RelayEvent>,
    pub(crate) state: watch::Receiver<RelayState>,
    _task: AbortOnDropHandle<()>,
}

/// Puts datagrams on their way. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct RelaySender {
    queue: mpsc::Sender<Bytes>,
    state: watch::Receiver<RelayState>,
    /// First byte of what the relay takes for its own, where it has such.
    reserved: Option<u8>,
}

impl RelaySender {
    /// Never waits. False: dropped, as the queue is full, nobody relays now, or it is no datagram
    /// that can be relayed (1 to 2048 bytes).
    pub(crate) fn send(&self, datagram: &[u8]) -> bool {
        let fits = (1..=MAX_DATAGRAM).contains(&datagram.len())
            && self.reserved.is_none_or(|reserved| datagram[0] != reserved);
        fits && matches!(*self.state.borrow(), RelayState::Joined { .. })
            && self
                .queue
                .try_send(Bytes::copy_from_slice(datagram))
                .is_ok()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RelayEvent {
    Datagram(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RelayState {
    Connecting,
    /// `present`: the other end is in the room, too. Datagrams may be sent in any case.
    Joined {
        present: bool,
    },
    /// Away; tried again by itself.
    Lost {
        reason: String,
    },
    /// Not tried again before `retry_after`; without one never.
    Refused {
        code: Code,
        detail: String,
        retry_after: Option<Duration>,
    },
}

/// What a relay's task has in its hands.
struct Ends {
    outgoing: mpsc::Receiver<Bytes>,
    incoming: mpsc::Sender<RelayEvent>,
    state: watch::Sender<RelayState>,
}

impl Ends {
    /// A datagram from the other end; dropped if nobody takes it in time.
    fn receive(&self, datagram: Bytes) {
        let _ = self.incoming.try_send(RelayEvent::Datagram(datagram));
    }

    fn set(&self, state: RelayState) {
        self.state.send_if_modified(|known| {
            let news = *known != state;
            if news {
                tracing::debug!(?state, "relay");
                *known = state;
            }
            news
        });
    }

    /// The next datagram to send, not before the room's account allows one; never, once the senders are
    /// gone.
    async fn next(&mut self, pace: &mut Pace) -> Bytes {
        let now = Instant::now();
        let opens_at = pace.opens_at(now);
        if opens_at > now {
            tokio::time::sleep_until(opens_at.into()).await;
        }
        match self.outgoing.recv().await {
            Some(datagram) => datagram,
            None => std::future::pending().await,
        }
    }
}

fn start<F>(reserved: Option<u8>, run: impl FnOnce(Ends) -> F) -> Relay
where
    F: Future<Output = ()> + Send + 'static,
{
    let (queue, outgoing) = mpsc::channel(QUEUE);
    let (incoming, events) = mpsc::channel(QUEUE);
    let (state, seen) = watch::channel(RelayState::Connecting);
    let task = tokio::spawn(run(Ends {
        outgoing,
        incoming,
        state,
    }));
    Relay {
        sender: RelaySender {
            queue,
            state: seen.clone(),
            reserved,
        },
        events,
        state: seen,
        _task: AbortOnDropHandle::new(task),
    }
}

impl fmt::Debug for Ends {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ends({:?})", *self.state.borrow())
    }
}
