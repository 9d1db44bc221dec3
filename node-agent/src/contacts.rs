//! Contacts: the names that this user knows devices by, and what makes the next call quick. An
//! alias of the registry that points to another key than the contact is refused.

use std::collections::BTreeMap;

use anyhow::Result;
use ringback_protocol::PeerId;
use ringback_protocol::candidate::Candidate;
use serde::{Deserialize, Serialize};

use crate::profile::Profile;

const FILE: &str = "contacts.json";

/// A device that was called or noted down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Contact {
    pub(crate) id: PeerId,
    /// The device remembers this caller's key: no password is needed.
    #[serde(default)]
    pub(crate) remembered: bool,
    /// Where the device was reached last: the next call knocks there before the answer has come.
    #[serde(default)]
    pub(crate) hints: Vec<Candidate>,
}

/// All contacts by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Contacts(pub(crate) BTreeMap<String, Contact>);

impl Contacts {
    pub(crate) fn load(profile: &Profile) -> Result<Self> {
        profile.load(FILE)
    }

    pub(crate) fn store(&self, profile: &Profile) -> Result<()> {
        profile.store(FILE, self)
    }

    pub(crate) fn by_id(&self, id: &PeerId) -> Option<(&String, &Contact)> {
        self.0.iter().find(|(_, contact)| contact.id == *id)
    }

    /// Notes what a call has shown of a device, under its name, or its short ID if it has none.
    pub(crate) fn note(&mut self, name: Option<&str>, id: PeerId) -> &mut Contact {
        let known = self.by_id(&id).map(|(name, _)| name.clone());
        let name = known.unwrap_or_else(|| name.map_or_else(|| id.short(), ToOwned::to_owned));
        self.0.entry(name).or_insert(Contact {
            id,
            remembered: false,
            hints: Vec::new(),
        })
    }
}
