//! Devices that this browser knows: names, keys, and whether they remember it.
//!
//! Where the browser stores nothing, contacts live as long as the page.

use std::cell::RefCell;

use ringback_protocol::PeerId;
use serde::{Deserialize, Serialize};
use wasm_bindgen::JsValue;

use crate::CallError;
use crate::object::{flag, number, text};
use crate::store::{self, Store};

thread_local! {
    static UNSTORED: RefCell<Vec<Contact>> = const { RefCell::new(Vec::new()) };
}

/// A device that was called or noted down.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Contact {
    pub id: PeerId,
    /// The name that it was called by, which leads to it and to nobody else.
    pub name: Option<String>,
    /// What it calls itself on the link (PROTOCOL §20.1): for people to read, and never a way to
    /// it. Any device could give itself any name.
    pub told_name: Option<String>,
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
        let mut contacts = match Store::open().await {
            Ok(store) => {
                let all = store.all(store::CONTACTS).await.map_err(failed)?;
                // What an older or newer version has left and is not understood is passed over.
                all.iter().filter_map(|value| read(&value)).collect()
            }
            Err(_) => UNSTORED.with_borrow(Clone::clone),
        };
        contacts.sort_by(|a, b| b.last_used_ms.total_cmp(&a.last_used_ms));
        Ok(contacts)
    }

    pub async fn by_id(id: &PeerId) -> Result<Option<Contact>, CallError> {
        let all = Self::list().await?;
        Ok(all.into_iter().find(|contact| contact.id == *id))
    }

    /// The contact that `name` means at this registry.
    pub async fn by_name(name: &str, registry: &str) -> Result<Option<Contact>, CallError> {
        let all = Self::list().await?;
        Ok(all
            .into_iter()
            .find(|contact| contact.has_name(name, registry)))
    }

    /// Adds or replaces the contact with this ID. Another contact of the same name and registry
    /// loses the name.
    pub async fn put(contact: &Contact) -> Result<(), CallError> {
        let mut changed = vec![contact.clone()];
        if let Some(name) = &contact.name {
            let mut all = Self::list().await?;
            all.retain(|other| other.id != contact.id && other.has_name(name, &contact.registry));
            changed.extend(all.into_iter().map(|other| Contact {
                name: None,
                ..other
            }));
        }
        let store = Store::open().await;
        for contact in changed {
            match &store {
                Ok(store) => {
                    let value = serde_wasm_bindgen::to_value(&contact)
                        .map_err(|error| failed(error.into()))?;
                    let key = contact.id.to_string();
                    let put = store.put(store::CONTACTS, &key, &value);
                    put.await.map_err(failed)?;
                }
                Err(_) => UNSTORED.with_borrow_mut(|all| {
                    all.retain(|other| other.id != contact.id);
                    all.push(contact);
                }),
            }
        }
        Ok(())
    }

    /// A device has told its name on a link.
    pub(crate) async fn told(id: &PeerId, told_name: String) -> Result<(), CallError> {
        match Self::by_id(id).await? {
            Some(contact) if contact.told_name.as_ref() != Some(&told_name) => {
                let contact = Contact {
                    told_name: Some(told_name),
                    ..contact
                };
                Self::put(&contact).await
            }
            // It was forgotten meanwhile, or nothing is new.
            _ => Ok(()),
        }
    }

    pub async fn remove(id: &PeerId) -> Result<(), CallError> {
        match Store::open().await {
            Ok(store) => {
                let key = id.to_string();
                let remove = store.remove(store::CONTACTS, &key);
                remove.await.map_err(failed)
            }
            Err(_) => {
                UNSTORED.with_borrow_mut(|all| all.retain(|other| other.id != *id));
                Ok(())
            }
        }
    }
}

impl Contact {
    fn has_name(&self, name: &str, registry: &str) -> bool {
        self.name.as_deref() == Some(name) && self.registry == registry
    }
}

fn read(of: &JsValue) -> Option<Contact> {
    Some(Contact {
        id: text(of, "id")?.parse().ok()?,
        name: text(of, "name"),
        told_name: text(of, "toldName"),
        registry: text(of, "registry")?,
        remembered: flag(of, "remembered")?,
        last_used_ms: number(of, "lastUsedMs")?,
    })
}

fn failed(_: JsValue) -> CallError {
    CallError::new(
        crate::error::UNSUPPORTED,
        "the browser's database did not take or give a contact",
    )
}
