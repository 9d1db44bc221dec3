//! `expose`, `unexpose`, `services`.

use anyhow::{Result, bail};

use super::terminal::{self, say};
use crate::cli::Global;
use crate::config::Config;
use crate::control::{Ask, Control};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use crate::service::Service;

pub(super) async fn expose(profile: &Profile, name: &str, address: &str) -> Result<()> {
    ringback_protocol::name::check(name)
        .map_err(|e| Failure::new(Exit::Usage, format!("'{name}': {e}")))?;
    let service: Service = address
        .parse()
        .map_err(|e| Failure::new(Exit::Usage, format!("{e}")))?;
    Config::expose(profile, name, &service)?;
    let running = tell_agent(profile).await?;
    say!(
        "{name} → {service}{}",
        if running {
            ""
        } else {
            ", from the next `ringback up` on"
        }
    );
    Ok(())
}

pub(super) async fn unexpose(profile: &Profile, name: &str) -> Result<()> {
    if !Config::unexpose(profile, name)? {
        bail!(Failure::new(
            Exit::Usage,
            format!("no service is named '{name}'; see: ringback services")
        ));
    }
    tell_agent(profile).await?;
    say!("{name} is exposed no more; streams that are open stay open");
    Ok(())
}

pub(super) fn list(global: &Global, profile: &Profile) -> Result<()> {
    let services = Config::load(profile)?.services;
    if services.is_empty() && !global.json {
        say!("nothing is exposed; for example: ringback expose ssh 127.0.0.1:22");
    }
    terminal::data(global, &services, |services| {
        services
            .iter()
            .map(|(name, service)| format!("{name}\t{service}\n"))
            .collect()
    })
}

/// Lets a running agent read its files again. Does one run?
pub(super) async fn tell_agent(profile: &Profile) -> Result<bool> {
    match Control::connect(profile).await? {
        Some(control) => {
            control.ask(&Ask::Reload).await?;
            Ok(true)
        }
        None => Ok(false),
    }
}
