//! A link: an authenticated WebRTC connection to a device, and the streams on it.

use ringback_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::call::DerivedProof;
use crate::{CallError, CallEvent, Mode, Receipt, Stats, Stream};

/// A link to a device. Cheap to clone; it ends when the last clone is dropped, or by
/// [`Self::close`].
#[derive(Debug, Clone)]
pub struct Link {
    device: PeerId,
}

/// Whether data flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LinkState {
    Connected,
    /// Nothing has come for some seconds; it may come back by itself.
    Interrupted,
    Ended,
}

/// Why a link has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LinkEnd {
    /// `closed` (by this side), `closed_by_device`, `revoked`, `shutting_down` or `lost`.
    pub code: String,
    /// A sentence for a person.
    pub message: String,
}

/// A service that the device exposes to this caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub name: String,
    /// `tcp`, `udp`, `http`, `shell`, `files` or `dial`.
    pub kind: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

impl Link {
    pub fn device(&self) -> PeerId {
        self.device
    }

    /// What happened until the link was there, and the paths as they are now.
    pub async fn receipt(&self) -> Result<Receipt, CallError> {
        Err(closed())
    }

    pub async fn stats(&self) -> Result<Stats, CallError> {
        Err(closed())
    }

    pub async fn services(&self) -> Result<Vec<Service>, CallError> {
        Err(closed())
    }

    /// Opens a stream to a service. The stream can be written to at once; whether the device takes it
    /// is known by [`Stream::opened`], or by the first read.
    pub fn open(&self, service: &str, mode: Mode) -> Result<Stream, CallError> {
        let _ = (service, mode);
        Err(closed())
    }

    pub fn state(&self) -> LinkState {
        LinkState::Ended
    }

    /// Calls `on_state` at each change of [`Self::state`], until the link ends.
    pub fn on_state(&self, on_state: impl FnMut(LinkState) + 'static) {
        let _ = on_state;
    }

    /// Waits for the end of the link.
    pub async fn closed(&self) -> LinkEnd {
        std::future::pending().await
    }

    /// Ends the link: streams that are open are reset.
    pub fn close(&self) {}

    /// What this link was proven with, for a call to the same device without its password; `None` if
    /// it was the browser's key, with which [`crate::Proof::Remembered`] does the same.
    pub fn proof(&self) -> Option<DerivedProof> {
        None
    }

    /// Calls the same device again with the same right, for a link that is lost or was interrupted by
    /// a change of network. This one is closed once the new one is there.
    pub async fn restart(
        &self,
        on_event: impl FnMut(CallEvent) + 'static,
    ) -> Result<Self, CallError> {
        let _ = on_event;
        Err(closed())
    }
}

fn closed() -> CallError {
    CallError::new(crate::error::LINK_CLOSED, "the link is closed")
}
