//! A request on its way through the object.

use minicbor::{Decode, Encode};
use ringback_protocol::PeerId;

use crate::limits::{RequestWindow, Source, Window};
use crate::problem::Problem;

/// A request, as far as it is known before it is opened.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ringing {
    pub(super) device: PeerId,
    pub(super) caller: PeerId,
    pub(super) source: Option<Source>,
    /// The caller takes ICE servers.
    pub(super) is_browser: bool,
    /// The device has answered this caller before.
    pub(super) is_answered: bool,
}

impl Ringing {
    pub(super) fn count_in(&self, window: &mut RequestWindow, now_ms: u64) -> Result<(), Problem> {
        window
            .admit(&self.caller, self.source, self.is_answered, now_ms)
            .map_err(|exceeded| Problem::rate_limited("too many requests to this device", exceeded))
    }
}

/// A request until its caller's stream ends.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) envelope: Vec<u8>,
}

/// Fetches and answers of the last minute; memory will do, both need the device's key.
#[derive(Debug, Default, Encode, Decode)]
pub(super) struct FetchWindows {
    #[n(0)]
    pub(super) fetches: Window,
    #[n(1)]
    pub(super) answers: Window,
}
