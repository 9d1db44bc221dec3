//! The registry, as a caller uses it (PROTOCOL §5).

use ringback_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::{CallError, CallEvent, CallOptions, Link};

/// A registry at its origin. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    origin: String,
    info: RegistryInfo,
}

/// What a registry says of itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RegistryInfo {
    pub version: String,
    pub protocol_versions: Vec<u16>,
    /// The registry's clock, Unix seconds.
    pub time: u64,
    /// For the browser's `RTCPeerConnection`; never with credentials.
    #[serde(default)]
    pub ice_servers: Vec<IceServer>,
    /// Where pages of a device's network are shown; absent: the registry has no such origin.
    #[serde(default)]
    pub lan_origin: Option<String>,
    /// `open` or `closed`.
    #[serde(default)]
    pub registration: Option<String>,
}

/// An `RTCIceServer` without credentials.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct IceServer {
    pub urls: Vec<String>,
}

impl Registry {
    /// Asks the registry at `origin` (as `https://registry.example`) what it offers.
    pub async fn open(origin: &str) -> Result<Self, CallError> {
        let _ = origin;
        Err(CallError::new(
            crate::error::REGISTRY_UNREACHABLE,
            "the registry can not be reached",
        ))
    }

    pub fn origin(&self) -> &str {
        &self.origin
    }

    pub fn info(&self) -> &RegistryInfo {
        &self.info
    }

    /// The device that `name` leads to: an ID stands for itself, then this browser's contacts count,
    /// then the registry's names.
    pub async fn resolve(&self, name: &str) -> Result<PeerId, CallError> {
        let _ = name;
        Err(CallError::new(crate::error::BAD_ID, "no such device"))
    }

    /// Calls a device. Dropping the future gives the call up.
    pub async fn call(
        &self,
        options: CallOptions,
        on_event: impl FnMut(CallEvent) + 'static,
    ) -> Result<Link, CallError> {
        let _ = (options, on_event);
        Err(CallError::new(crate::error::NO_PATH, "no path"))
    }
}
