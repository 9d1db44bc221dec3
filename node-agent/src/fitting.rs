//! Which command a service is for, by its kind: a port carries bytes, and a terminal, a folder and
//! `dial` speak protocols of their own (PROTOCOL §20).

use std::time::Duration;

use anyhow::Result;
use ringback_protocol::PeerId;
use ringback_protocol::service::listing::{Kind, LISTING, Listing, MAX_LISTING};
use tokio::io::AsyncReadExt as _;

use crate::failure::{Exit, Failure};
use crate::link::{Link, printable};

/// For the device's list of services; one that does not come says nothing against a service.
const PATIENCE: Duration = Duration::from_secs(10);

/// How the first of these services is used from elsewhere; those that a port leads to come first.
pub(crate) fn example<'a>(
    target: &str,
    registry: &str,
    services: impl Iterator<Item = (&'a str, Kind)> + Clone,
) -> Option<String> {
    let rank = |kind: &Kind| match kind {
        Kind::Tcp | Kind::Http => 0,
        Kind::Shell => 1,
        Kind::Files => 2,
        Kind::Udp | Kind::Dial | Kind::Unknown(_) => 3,
    };
    let (service, kind) = services.min_by_key(|(_, kind)| rank(kind))?;
    let command = match kind {
        Kind::Tcp | Kind::Http => format!("ringback connect {target} -L 8000:{service}"),
        kind => match command(target, service, &kind) {
            Some(command) => command,
            None => return Some(format!("call it on {registry}")),
        },
    };
    Some(format!("{command} --registry {registry}"))
}

/// Resolves when the device says that one of `services` can not be used as bytes, with what to use
/// instead.
pub(crate) async fn misfit(link: &Link, services: &[&str]) -> Failure {
    match check(link, services).await {
        Err(failure) => failure,
        Ok(()) => std::future::pending().await,
    }
}

/// Asks the device whether all of `services` can be used as bytes.
pub(crate) async fn check(link: &Link, services: &[&str]) -> Result<(), Failure> {
    let listing = tokio::time::timeout(PATIENCE, listing(link)).await;
    match listing {
        Ok(Ok(listing)) => {
            let of = |service: &&str| {
                let info = listing.services.iter().find(|info| info.name == *service)?;
                unfit(&link.peer, service, &info.kind)
            };
            if let Some(failure) = services.iter().find_map(of) {
                return Err(failure);
            }
        }
        Ok(Err(error)) => tracing::debug!("the device's services are not known: {error:#}"),
        Err(_) => tracing::debug!("the device does not list its services"),
    }
    Ok(())
}

/// The names of the device's services, for a person.
pub(crate) async fn names(link: &Link) -> Result<Vec<String>> {
    let services = listing(link).await?.services;
    Ok(services.iter().map(|info| printable(&info.name)).collect())
}

async fn listing(link: &Link) -> Result<Listing> {
    let (mut send, mut answer) = link.open(LISTING).await?.split();
    send.finish();
    answer.confirm().await?;
    let mut json = Vec::new();
    let limit = MAX_LISTING as u64;
    answer
        .into_stream()
        .take(limit)
        .read_to_end(&mut json)
        .await?;
    Listing::from_json(&json).map_err(anyhow::Error::msg)
}

fn unfit(device: &PeerId, service: &str, kind: &Kind) -> Option<Failure> {
    let what = match kind {
        Kind::Tcp | Kind::Http | Kind::Unknown(_) => return None,
        Kind::Udp => "is a UDP service",
        Kind::Shell => "is a terminal",
        Kind::Files => "is a folder",
        Kind::Dial => "has the device call others",
    };
    let instead = command(&device.to_string(), service, kind).map_or_else(
        || "use it on the registry's page".to_owned(),
        |command| format!("use: {command}"),
    );
    Some(Failure::new(
        Exit::Usage,
        format!("'{service}' {what}: it is not for ports and pipes; {instead}"),
    ))
}

/// The command that is made for a kind of service, if there is one.
fn command(target: &str, service: &str, kind: &Kind) -> Option<String> {
    match kind {
        Kind::Shell if service == "shell" => Some(format!("ringback shell {target}")),
        Kind::Shell => Some(format!("ringback shell {target}:{service}")),
        Kind::Files => Some(format!("ringback get {target}:{service}/FILE")),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(services: &[(&str, Kind)]) -> Option<String> {
        let services = services.iter().map(|(name, kind)| (*name, kind.clone()));
        example("nas", "https://registry.example", services)
    }

    #[test]
    fn the_example_is_a_command_that_works() {
        let registry = "--registry https://registry.example";
        for (services, command) in [
            (
                &[("dial", Kind::Dial), ("shell", Kind::Shell)][..],
                "ringback shell nas",
            ),
            (&[("root", Kind::Shell)], "ringback shell nas:root"),
            (
                &[
                    ("docs", Kind::Files),
                    ("web", Kind::Http),
                    ("shell", Kind::Shell),
                ],
                "ringback connect nas -L 8000:web",
            ),
            (&[("docs", Kind::Files)], "ringback get nas:docs/FILE"),
        ] {
            assert_eq!(shown(services), Some(format!("{command} {registry}")));
        }
        assert_eq!(
            shown(&[("dial", Kind::Dial)]).as_deref(),
            Some("call it on https://registry.example")
        );
        assert_eq!(shown(&[]), None);
    }

    #[test]
    fn what_no_port_can_carry_names_its_command() {
        let device = ringback_protocol::SecretKey::from_seed(&[7; 32]).id();
        let said = |service: &str, kind: Kind| {
            unfit(&device, service, &kind).map(|failure| failure.to_string())
        };
        assert_eq!(
            said("shell", Kind::Shell),
            Some(format!(
                "'shell' is a terminal: it is not for ports and pipes; use: ringback shell {device}"
            ))
        );
        assert!(said("docs", Kind::Files).unwrap().contains(":docs/FILE"));
        assert!(
            said("dial", Kind::Dial)
                .unwrap()
                .contains("registry's page")
        );
        for kind in [Kind::Tcp, Kind::Http, Kind::Unknown("ipp".into())] {
            assert_eq!(said("web", kind), None);
        }
    }
}
