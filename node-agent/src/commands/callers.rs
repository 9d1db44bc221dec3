//! `callers`: who may call this device without a password, and who is connected to it.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use ringback_protocol::PeerId;
use serde::Serialize;

use super::services;
use super::terminal::{self, say};
use crate::cli::{CallerAction, Global};
use crate::clock::ago;
use crate::clock::unix_time;
use crate::contacts::Contacts;
use crate::control::{AnyStatus, Ask, Control};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use crate::remembered::{RememberedBy, RememberedCallers};
use crate::serving::{AdmittedBy, LinkStatus};
use crate::short_id;

pub(super) async fn run(
    global: &Global,
    profile: &Profile,
    action: Option<CallerAction>,
) -> Result<()> {
    match action {
        None => list(global, profile).await,
        Some(CallerAction::Remember { id }) => {
            let caller = pick(profile, &id, [])?;
            RememberedCallers::edit(profile, |callers| {
                (true, callers.remember(caller, None, unix_time(0)))
            })?
            .iter()
            .for_each(|gone| say!("{gone}, which has not called for the longest time, is remembered no more: there were too many"));
            services::tell_agent(profile).await?;
            let done = serde_json::json!({ "caller": caller, "remembered": true });
            terminal::data(global, &done, |_| String::new())
        }
        Some(CallerAction::Revoke { id }) => {
            let known = RememberedCallers::load(profile)?;
            let caller = pick(profile, &id, known.0.into_keys())?;
            let was_remembered = RememberedCallers::edit(profile, |callers| {
                let removed = callers.0.remove(&caller).is_some();
                (removed, removed)
            })?;
            if !was_remembered {
                bail!(Failure::new(
                    Exit::Usage,
                    format!("{caller} is not remembered; see: ringback callers")
                ));
            }
            if let Some(control) = Control::connect(profile).await? {
                control.ask(&Ask::Disconnect { caller }).await?;
            }
            if global.json {
                let done = serde_json::json!({ "caller": caller, "remembered": false });
                return terminal::data(global, &done, |_| String::new());
            }
            say!("{caller} needs the password from now on; its links have been ended");
            Ok(())
        }
        Some(CallerAction::Disconnect { id }) => {
            let Some(control) = Control::connect(profile).await? else {
                bail!(Failure::new(
                    Exit::Usage,
                    "no agent of this profile runs, so nobody is connected; see: ringback up"
                ));
            };
            let links = control.ask(&Ask::Status).await?.links;
            let caller = pick(profile, &id, links.iter().map(|link| link.caller))?;
            let open = links.iter().filter(|link| link.caller == caller).count();
            // Also where nothing is open yet: a link may be on its way.
            if let Some(control) = Control::connect(profile).await? {
                control.ask(&Ask::Disconnect { caller }).await?;
            }
            if open == 0 {
                bail!(Failure::new(
                    Exit::Usage,
                    format!("{caller} is not connected; see: ringback callers")
                ));
            }
            let known = RememberedCallers::load(profile)?;
            let how = if known.0.contains_key(&caller) {
                "without a password; take that away by: ringback callers revoke"
            } else {
                "with the password; change it by: ringback up --password"
            };
            say!("the links of {caller} have been ended; it may call again {how}");
            Ok(())
        }
    }
}

/// What is known of one caller.
#[derive(Default, Serialize)]
struct Row {
    #[serde(flatten)]
    remembered: Option<Since>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    links: Vec<LinkStatus>,
}

#[derive(Serialize)]
struct Since {
    since: u64,
    last_call: u64,
    by: RememberedBy,
}

async fn list(global: &Global, profile: &Profile) -> Result<()> {
    let mut rows = BTreeMap::<PeerId, Row>::new();
    for (caller, remembered) in RememberedCallers::load(profile)?.0 {
        rows.entry(caller).or_default().remembered = Some(Since {
            since: remembered.since,
            last_call: remembered.last_call,
            by: remembered.by,
        });
    }
    let links = match Control::connect(profile).await? {
        Some(control) => match control.ask_any(&Ask::Status).await? {
            AnyStatus::Agent(status) => status.links,
            AnyStatus::Beacon(_) => Vec::new(),
        },
        None => Vec::new(),
    };
    for link in links {
        rows.entry(link.caller).or_default().links.push(link);
    }
    if rows.is_empty() && !global.json {
        say!("no caller is remembered; a caller asks for it by --remember");
    }
    terminal::data(global, &rows, |rows| {
        rows.iter()
            .map(|(id, row)| format!("{id}\t{}\n", row.text()))
            .collect()
    })
}

impl Row {
    fn text(&self) -> String {
        let mut parts = Vec::new();
        if let Some(caller) = &self.remembered {
            let by = match caller.by {
                RememberedBy::Password => "",
                RememberedBy::Owner => " by the owner",
            };
            parts.push(format!("remembered{by} {} ago", ago(caller.since)));
            if caller.last_call != caller.since {
                parts.push(format!("last call {} ago", ago(caller.last_call)));
            }
        }
        for link in &self.links {
            let what = if link.browser { "browser " } else { "" };
            let by = match link.by {
                Some(AdmittedBy::Password) => " by password",
                Some(AdmittedBy::Key) => " by its key",
                None => "",
            };
            parts.push(format!("{what}connected {} ago{by}", ago(link.since)));
        }
        parts.join(", ")
    }
}

/// A caller by its ID, the beginning of one of `known`, or its name in the contacts.
fn pick(profile: &Profile, text: &str, known: impl IntoIterator<Item = PeerId>) -> Result<PeerId> {
    let contacts = Contacts::load(profile)?;
    if let Some(contact) = contacts.0.get(text) {
        return Ok(contact.id);
    }
    match short_id::pick(text, known)? {
        Some(id) => Ok(id),
        None => match text.parse::<PeerId>() {
            Ok(id) => Ok(id),
            Err(error) => bail!(Failure::new(Exit::Usage, format!("'{text}': {error}"))),
        },
    }
}
