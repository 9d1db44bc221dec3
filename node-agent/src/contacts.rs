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

    /// Notes what a call has shown of a device, under its name, or else the beginning of its ID. A name
    /// that another device has is not taken from it: two IDs may begin alike.
    pub(crate) fn note(&mut self, name: Option<&str>, id: PeerId) -> &mut Contact {
        let known = self.by_id(&id).map(|(name, _)| name.clone());
        let whole = id.to_string();
        let beginnings = (id.short().len()..=whole.len()).map(|end| whole[..end].to_owned());
        let names = known
            .into_iter()
            .chain(name.map(ToOwned::to_owned))
            .chain(beginnings);
        let is_free = |name: &String| self.0.get(name).is_none_or(|other| other.id == id);
        // The whole ID is nobody else's name.
        let name = names.into_iter().find(is_free).unwrap_or(whole);
        self.0.entry(name).or_insert(Contact {
            id,
            remembered: false,
            hints: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn a_device_whose_id_begins_like_anothers_has_a_contact_of_its_own() {
        let [one, two] = [1, 2].map(|number| SecretKey::from_seed(&[number; 32]).id());
        let mut contacts = Contacts::default();
        // As if `two` began like `one`.
        contacts.note(Some(&two.short()), one).remembered = true;
        let noted = contacts.note(None, two);
        assert_eq!((noted.id, noted.remembered), (two, false));
        let (name, _) = contacts.by_id(&two).unwrap();
        assert!(name.len() > two.short().len() && two.to_string().starts_with(name));
        assert_eq!(contacts.note(None, one).id, one);
        assert_eq!(contacts.0.len(), 2);
    }
}
