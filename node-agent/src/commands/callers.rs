//! `callers`: who may call this device without a password.

use anyhow::{Result, bail};
use ringback_protocol::PeerId;

use super::services;
use super::terminal::{self, say};
use crate::caller::ago;
use crate::cli::{CallerAction, Global};
use crate::clock::unix_time;
use crate::control::{Ask, Control};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use crate::remembered::{RememberedBy, RememberedCallers};

pub(super) async fn run(
    global: &Global,
    profile: &Profile,
    action: Option<CallerAction>,
) -> Result<()> {
    let mut callers = RememberedCallers::load(profile)?;
    match action {
        None => {
            if callers.0.is_empty() && !global.json {
                say!("no caller is remembered; a caller asks for it by --remember");
            }
            terminal::data(global, &callers, |callers| {
                callers
                    .0
                    .iter()
                    .map(|(id, caller)| format!("{id}\tremembered {} ago\n", ago(caller.since)))
                    .collect()
            })
        }
        Some(CallerAction::Remember { id }) => {
            let now = unix_time(0);
            let caller = parse(&id)?;
            let forgotten = callers.add(caller, RememberedBy::Owner, now);
            callers.store(profile)?;
            if let Some(forgotten) = forgotten {
                say!("{forgotten} has not called for the longest and is remembered no more");
            }
            services::tell_agent(profile).await?;
            let done = serde_json::json!({ "caller": caller, "remembered": true });
            terminal::data(global, &done, |_| String::new())
        }
        Some(CallerAction::Revoke { id }) => {
            let caller = parse(&id)?;
            if callers.0.remove(&caller).is_none() {
                bail!(Failure::new(
                    Exit::Usage,
                    format!("{caller} is not remembered; see: ringback callers")
                ));
            }
            callers.store(profile)?;
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
            let caller = parse(&id)?;
            let Some(control) = Control::connect(profile).await? else {
                bail!(Failure::new(
                    Exit::Usage,
                    "no agent of this profile is running, so nobody is connected"
                ));
            };
            control.ask(&Ask::Disconnect { caller }).await?;
            let how = if callers.0.contains_key(&caller) {
                "without a password; take that away by: ringback callers revoke"
            } else {
                "with the password; change it by: ringback up --password"
            };
            say!("the links of {caller} have been ended; it may call again {how}");
            Ok(())
        }
    }
}

fn parse(id: &str) -> Result<PeerId> {
    id.parse()
        .map_err(|error| Failure::new(Exit::Usage, format!("{error}")).into())
}
