//! `callers`: who may call this device without a password.

use anyhow::{Result, bail};
use ringback_protocol::PeerId;

use super::services;
use super::terminal::{self, say};
use crate::caller::{ago, unix_time};
use crate::cli::{CallerAction, Global};
use crate::control::{Ask, Control};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use crate::remembered::{Remembered, RememberedCallers};

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
            callers.0.entry(caller).or_insert(Remembered {
                since: now,
                last_call: now,
            });
            callers.store(profile)?;
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
    }
}

fn parse(id: &str) -> Result<PeerId> {
    id.parse()
        .map_err(|error| Failure::new(Exit::Usage, format!("{error}")).into())
}
