//! A browser's link as the device sees it.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use ringback_protocol::PeerId;
use ringback_protocol::channel::reset;
use ringback_protocol::receipt::{PathInUse, PathKind, Transport};
use tokio::sync::{mpsc, watch};

use crate::stream::Stream;

/// A browser's link. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct BrowserLink {
    pub(crate) peer: PeerId,
    shared: Arc<LinkShared>,
    streams: Arc<tokio::sync::Mutex<mpsc::Receiver<Stream>>>,
}

/// Why this end closes a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    Revoked,
    ShuttingDown,
}

#[derive(Debug, Clone, Default)]
enum State {
    #[default]
    Connecting,
    Connected,
    Ended(String),
}

/// What the link and its driver share.
#[derive(Debug, Default)]
pub(super) struct LinkShared {
    state: watch::Sender<State>,
    closing: watch::Sender<Option<Ending>>,
    path: Mutex<(Option<SocketAddr>, Option<Duration>)>,
    sent: AtomicU64,
    received: AtomicU64,
}

impl BrowserLink {
    pub(super) fn new(
        peer: PeerId,
        shared: Arc<LinkShared>,
        streams: mpsc::Receiver<Stream>,
    ) -> Self {
        Self {
            peer,
            shared,
            streams: Arc::new(tokio::sync::Mutex::new(streams)),
        }
    }

    /// Waits until ICE has found a path and DTLS has shown the pinned certificates.
    pub(crate) async fn established(&self) -> Result<()> {
        let mut state = self.shared.state.subscribe();
        let decided = state.wait_for(|state| !matches!(state, State::Connecting));
        match &*decided.await? {
            State::Ended(reason) => bail!("{reason}"),
            _ => Ok(()),
        }
    }

    /// The next stream that the browser opens; `None` when the link has ended.
    pub(crate) async fn accept(&self) -> Option<Stream> {
        self.streams.lock().await.recv().await
    }

    /// Ends the link. Returns at once; see [`BrowserLink::closed`].
    pub(crate) fn close(&self, ending: Ending) {
        self.shared.closing.send_replace(Some(ending));
    }

    /// Waits until the link has ended, and gives the reason for a person.
    pub(crate) async fn closed(&self) -> String {
        let mut state = self.shared.state.subscribe();
        let ended = state.wait_for(|state| matches!(state, State::Ended(_)));
        match ended.await.as_deref() {
            Ok(State::Ended(reason)) => reason.clone(),
            _ => String::new(),
        }
    }

    pub(crate) fn path(&self) -> Option<PathInUse> {
        let (remote, _) = *self.shared.path.lock();
        remote.map(|remote| PathInUse {
            path: PathKind::Direct,
            transport: Transport::Udp,
            remote,
        })
    }

    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.shared.path.lock().1
    }

    /// Bytes sent and received, in UDP.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (read(&self.shared.sent), read(&self.shared.received))
    }

    /// Are both of the same link?
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }
}

impl LinkShared {
    pub(super) fn connected(&self) {
        self.state.send_replace(State::Connected);
    }

    pub(super) fn is_connected(&self) -> bool {
        matches!(*self.state.borrow(), State::Connected)
    }

    pub(super) fn ended(&self, reason: String) {
        self.state.send_replace(State::Ended(reason));
    }

    /// Waits until this end wants to close.
    pub(super) async fn closing(&self) -> Ending {
        let mut closing = self.closing.subscribe();
        let wanted = closing.wait_for(Option::is_some).await;
        // The sender is a field of this.
        wanted
            .ok()
            .and_then(|ending| *ending)
            .unwrap_or(Ending::ShuttingDown)
    }

    pub(super) fn note_path(&self, remote: SocketAddr, rtt: Option<Duration>) {
        *self.path.lock() = (Some(remote), rtt);
    }

    pub(super) fn note_bytes(&self, sent: u64) {
        self.sent.store(sent, Ordering::Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl Ending {
    pub(super) fn reset_code(self) -> u32 {
        match self {
            Self::Revoked => reset::REVOKED,
            Self::ShuttingDown => reset::SHUTTING_DOWN,
        }
    }
}

impl fmt::Display for Ending {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Revoked => "the caller was revoked",
            Self::ShuttingDown => "this device is shutting down",
        })
    }
}
