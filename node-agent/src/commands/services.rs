//! `expose`, `unexpose`, `services`.

use anyhow::{Result, bail};
use serde::Serialize;

use super::terminal::{self, say};
use crate::cli::{Expose, Global};
use crate::config::Config;
use crate::control::{Ask, Control};
use crate::failure::{Exit, Failure};
use crate::profile::Profile;
use crate::service::{Folder, Service};

pub(super) async fn expose(global: &Global, profile: &Profile, expose: &Expose) -> Result<()> {
    let Expose {
        name,
        service,
        writable,
        quota,
        caller_quota,
    } = expose;
    let usage = |message: String| Failure::new(Exit::Usage, message);
    ringback_protocol::name::check(name).map_err(|e| usage(format!("'{name}': {e}")))?;
    let service = match service {
        Some(service) => read(service)?,
        None if ["shell", "dial"].contains(&name.as_str()) => read(name)?,
        None => bail!(usage(format!(
            "what is '{name}'? Give an address as 127.0.0.1:22, http://192.168.1.5 or files:/srv/docs"
        ))),
    };
    let service = match service {
        Service::Files(folder) => {
            if !folder.path.is_dir() {
                bail!(usage(format!(
                    "'{}' is not a folder",
                    folder.path.display()
                )));
            }
            Service::Files(Folder {
                writable: *writable,
                quota: *quota,
                caller_quota: *caller_quota,
                ..folder
            })
        }
        _ if *writable => bail!(usage("only files can be --writable".into())),
        service => service,
    };
    Config::expose(profile, name, &service)?;
    let running = tell_agent(profile).await?;
    if global.json {
        let exposed = Exposed {
            name,
            service: Some(service),
            running,
        };
        return terminal::data(global, &exposed, |_| String::new());
    }
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

/// What `expose` and `unexpose` have done, as `--json` tells it.
#[derive(Serialize)]
struct Exposed<'a> {
    name: &'a str,
    /// Absent: it is exposed no more.
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<Service>,
    /// An agent runs here, and has taken it over.
    running: bool,
}

/// As a person writes it: a folder may be relative to where they are.
fn read(text: &str) -> Result<Service> {
    let absolute = match text.strip_prefix("files:") {
        Some(path) if !path.is_empty() => {
            let path = std::path::absolute(path)?;
            format!("files:{}", path.display())
        }
        _ => text.to_owned(),
    };
    let service = absolute.parse::<Service>();
    Ok(service.map_err(|error| Failure::new(Exit::Usage, error.to_string()))?)
}

pub(super) async fn unexpose(global: &Global, profile: &Profile, name: &str) -> Result<()> {
    if !Config::unexpose(profile, name)? {
        bail!(Failure::new(
            Exit::Usage,
            format!("no service is named '{name}'; see: ringback services")
        ));
    }
    let running = tell_agent(profile).await?;
    if global.json {
        let gone = Exposed {
            name,
            service: None,
            running,
        };
        return terminal::data(global, &gone, |_| String::new());
    }
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
