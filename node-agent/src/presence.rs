//! How the device stands with its registry: in its list, away, or rejected.

use ringback_protocol::Code;
use serde::{Deserialize, Serialize};

use crate::clock::{ago, unix_time};
use crate::failure::{Exit, Failure};
use crate::link;
use crate::reconnect::Ended;
use crate::registry::{Problem, Replaced};

/// Is the device in the registry's list?
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "state")]
pub(crate) enum Presence {
    Connecting,
    Registered {
        name: String,
        /// Unix seconds.
        since: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        rival: Option<Rival>,
    },
    Offline {
        reason: String,
    },
    /// The registry will not have this device.
    Rejected {
        code: Code,
        detail: String,
    },
}

/// Another agent that registers with this device's key, as after a disk was cloned.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rival {
    /// Where it registers from; empty if the registry can not tell.
    address: String,
    /// Unix seconds: when this agent took the place from it.
    seen: u64,
}

/// What to do about an agent with the same key.
pub(crate) const CLONE_ADVICE: &str = "two hosts can not be one device: remove the file `key` from the profile of one and enrol it with a code of its own";

impl Rival {
    pub(crate) fn seen(address: &str) -> Self {
        Self {
            address: link::printable(address),
            seen: unix_time(0),
        }
    }
}

impl std::fmt::Display for Rival {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let seen = ago(self.seen);
        if self.address.is_empty() {
            write!(
                f,
                "another agent with this device's key was registered {seen} ago"
            )
        } else {
            let address = &self.address;
            write!(
                f,
                "another agent with this device's key was registered from {address} {seen} ago"
            )
        }
    }
}

/// What `ringback status` shows of a device that lives on a beacon.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct OnBeacon {
    pub(crate) id: ringback_protocol::PeerId,
    pub(crate) address: std::net::SocketAddr,
    /// Between two keepalives.
    pub(crate) interval_s: u64,
    /// A search for a longer interval is under way.
    pub(crate) searching: bool,
}

/// How a registry's connection ended, by its error.
pub(crate) fn how_it_ended(error: &anyhow::Error) -> Ended {
    match rejection_in(error) {
        Some(rejection) if rejection.code == Code::KeyInUse => Ended::KeyInUse,
        Some(_) => Ended::Refused,
        None if error.is::<Replaced>() => Ended::Replaced,
        None => Ended::Lost,
    }
}

/// The registry will not have this device.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Rejection {
    pub(crate) code: Code,
    pub(crate) detail: String,
}

/// Said on the socket, or before it has opened (§5.8).
pub(crate) fn rejection_in(error: &anyhow::Error) -> Option<Rejection> {
    if let Some(rejection) = error.downcast_ref::<Rejection>() {
        return Some(rejection.clone());
    }
    let problem = error.downcast_ref::<Problem>()?;
    let is_for_good = matches!(
        problem.code,
        Code::BadSignature | Code::NotEnrolled | Code::Revoked
    );
    is_for_good.then(|| Rejection {
        code: problem.code.clone(),
        detail: link::printable(&problem.detail),
    })
}

/// The rejection that ends `up` at its start.
pub(crate) fn rejection(code: &Code, detail: &str) -> Failure {
    let message = match code {
        Code::NotEnrolled => {
            "the registry does not know this device; ask its owner for a code and run: ringback up --enroll CODE".into()
        }
        Code::Revoked => "the registry's owner has revoked this device; a new code enrols it again".into(),
        // What is signed names the address: a registry can not pass its challenge to another one.
        Code::BadSignature => format!(
            "the registry does not take this device's signature: it goes by another address than the one given here ({})",
            link::printable(detail)
        ),
        Code::KeyInUse => format!("{}; {CLONE_ADVICE}", link::printable(detail)),
        code => format!("the registry refuses this device: {} ({})", code.title(), link::printable(detail)),
    };
    Failure::new(Exit::Registry, message)
}
