//! Callers that this device remembers: their key admits them without a password.

use std::collections::BTreeMap;

use anyhow::Result;
use ringback_protocol::{PeerId, UnixTime};
use serde::{Deserialize, Serialize};

use crate::profile::Profile;

const FILE: &str = "callers.json";

/// When a remembered caller came.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(crate) struct Remembered {
    pub(crate) since: UnixTime,
    pub(crate) last_call: UnixTime,
}

/// All remembered callers by key.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct RememberedCallers(pub(crate) BTreeMap<PeerId, Remembered>);

impl RememberedCallers {
    pub(crate) fn load(profile: &Profile) -> Result<Self> {
        profile.load(FILE)
    }

    pub(crate) fn store(&self, profile: &Profile) -> Result<()> {
        profile.store(FILE, self)
    }
}
