//! `contacts`: names that this user gives to devices.

use anyhow::{Result, bail};
use ringback_protocol::PeerId;

use super::terminal::{self, say};
use crate::cli::{ContactAction, Global};
use crate::contacts::{Contact, Contacts};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;

pub(super) fn run(global: &Global, profile: &Profile, action: Option<ContactAction>) -> Result<()> {
    let mut contacts = Contacts::load(profile)?;
    match action {
        None => {
            if contacts.0.is_empty() && !global.json {
                say!(
                    "no contacts yet; a device is noted when it is called by name, or by: ringback contacts add NAME ID"
                );
            }
            list(global, &contacts)
        }
        Some(ContactAction::Add { name, id }) => {
            ringback_protocol::name::check(&name)
                .map_err(|e| Failure::new(Exit::Usage, format!("'{name}': {e}")))?;
            let id: PeerId = id
                .parse()
                .map_err(|e| Failure::new(Exit::Usage, format!("{e}")))?;
            if let Some(known) = contacts.0.get(&name).filter(|known| known.id != id) {
                let other = known.id;
                bail!(Failure::new(
                    Exit::Usage,
                    format!("'{name}' is {other} already; remove that contact first")
                ));
            }
            contacts.0.entry(name.clone()).or_insert(Contact {
                id,
                remembered: false,
                hints: Vec::new(),
            });
            contacts.store(profile)?;
            done(global, &serde_json::json!({ "name": name, "id": id }))
        }
        Some(ContactAction::Remove { name }) => {
            if contacts.0.remove(&name).is_none() {
                bail!(Failure::new(
                    Exit::Usage,
                    format!("no contact is named '{name}'; see: ringback contacts")
                ));
            }
            contacts.store(profile)?;
            done(
                global,
                &serde_json::json!({ "name": name, "removed": true }),
            )
        }
    }
}

/// Said to scripts only: a person sees that nothing went wrong.
fn done(global: &Global, what: &serde_json::Value) -> Result<()> {
    terminal::data(global, what, |_| String::new())
}

fn list(global: &Global, contacts: &Contacts) -> Result<()> {
    terminal::data(global, contacts, |contacts| {
        let line = |(name, contact): (&String, &Contact)| {
            let note = if contact.remembered {
                "\tremembers this caller"
            } else {
                ""
            };
            format!("{name}\t{}{note}\n", contact.id)
        };
        contacts.0.iter().map(line).collect()
    })
}
