//! Calls that this agent makes for a caller of its own (PROTOCOL §20.5): how somebody without a
//! terminal on this device connects it to another one.

use std::time::Duration;

use anyhow::{Result, bail};
use ringback_protocol::receipt::PathKind;
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::dial::{Dial, DialEvent, DialKind, MAX_DIALS, MAX_DIALS_EACH};
use ringback_protocol::{Code, PeerId, name};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::Frames;
use super::host::Host;
use super::places::{Full, Limits, Places};
use crate::caller::{Credential, Ring};
use crate::contacts::{Contact, Contacts};
use crate::failure::{Exit, Failure};
use crate::forward::{self, Event, Listen};

/// The lowest port that a caller may have opened: an agent that runs as root could stand in for this
/// host's own services on lower ones.
const FIRST_PORT: u16 = 1024;

/// How many more calls this agent makes for its callers.
#[derive(Debug)]
pub(crate) struct Dials(Places);

impl Default for Dials {
    fn default() -> Self {
        Self(Places::new(Limits {
            all: MAX_DIALS,
            each: MAX_DIALS_EACH,
            waiting: 0,
            turn: Duration::MAX,
        }))
    }
}

/// Serves one stream: one call with one port, for as long as the stream lasts.
pub(super) async fn serve<R, W>(
    host: &dyn Host,
    dials: &Dials,
    caller: PeerId,
    recv: R,
    mut send: W,
) -> Result<()>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut frames = Frames::new(recv, MAX_FRAME);
    let Some(frame) = frames.first().await? else {
        bail!("no call was asked for");
    };
    let dial = match Dial::decode(&frame) {
        Ok(dial) => dial,
        Err(error) => {
            let failed = failed(Code::BadRequest.as_str(), error.to_string());
            send.write_all(&failed.encode()).await?;
            return Ok(send.shutdown().await?);
        }
    };
    let mut recv = frames.into_inner();
    // Its end is the end of the call, whatever it says until then.
    let mut nothing = tokio::io::sink();
    let left = tokio::io::copy(&mut recv, &mut nothing);
    tokio::select! {
        result = call(host, dials, caller, &dial, &mut send) => {
            if let Err(failed) = result {
                send.write_all(&failed.encode()).await?;
            }
        }
        _ = left => {}
    }
    Ok(send.shutdown().await?)
}

fn failed(code: &str, text: impl Into<String>) -> DialEvent {
    DialEvent {
        code: Some(code.to_owned()),
        ..DialEvent::new(DialKind::Failed, text)
    }
}

/// Calls, and tells how it goes; gives the last event.
async fn call(
    host: &dyn Host,
    dials: &Dials,
    caller: PeerId,
    dial: &Dial,
    send: &mut (impl AsyncWrite + Unpin),
) -> Result<(), DialEvent> {
    let many = |who, many| {
        failed(
            "too_many",
            format!("this device makes {many} calls{who} already"),
        )
    };
    let guest = dials.0.enter(caller);
    let guest = guest.map_err(|Full(calls)| many(" for this caller", calls))?;
    let place = guest.place_within(Duration::ZERO).await;
    let _place = place.ok_or_else(|| many("", MAX_DIALS))?;
    let Some(bind) = dial.listen() else {
        let only = "a port can be opened on the loopback only, as 127.0.0.1:8080";
        return Err(failed("bad_listen", only));
    };
    if (1..FIRST_PORT).contains(&bind.port()) {
        let low = format!("ports below {FIRST_PORT} are not opened for callers");
        return Err(failed("bad_listen", low));
    }
    if let Err(error) = name::check(&dial.service) {
        let text = format!("'{}': {error}", dial.service);
        return Err(failed(Code::UnknownService.as_str(), text));
    }
    let (ring, contact) = ring(host, dial).await?;
    let listens = [Listen {
        bind,
        service: dial.service.clone(),
    }];
    let caller = host.caller();
    let (events, mut happened) = mpsc::channel(16);
    let forwarding = forward::forward(&caller, &ring, &listens, &events);
    tokio::pin!(forwarding);
    loop {
        tokio::select! {
            result = &mut forwarding => {
                return match result {
                    Ok(()) => Ok(()),
                    Err(error) => Err(explain(host, &ring, contact.as_deref(), &error).await),
                };
            }
            Some(event) = happened.recv() => {
                if let Event::Connected { remembered, candidates, .. } = &event {
                    note(host, contact.as_deref(), &ring, *remembered, candidates);
                }
                let Some(event) = told(event) else { continue };
                if send.write_all(&event.encode()).await.is_err() {
                    return Ok(());
                }
            }
        }
    }
}

/// Whom to call: a contact's key counts, whatever the registry says.
async fn ring(host: &dyn Host, dial: &Dial) -> Result<(Ring, Option<String>), DialEvent> {
    let contacts = Contacts::load(host.profile()).unwrap_or_default();
    let (device, known, called) = match dial.device.parse::<PeerId>() {
        Ok(id) => {
            let found = contacts.by_id(&id);
            let called = found.map(|(name, _)| name.clone());
            (id, found.map(|(_, contact)| contact.clone()), called)
        }
        Err(_) => by_name(host, &contacts, &dial.device).await?,
    };
    let remembered = known.as_ref().is_some_and(|contact| contact.remembered);
    let credential = match &dial.password {
        Some(password) => Credential::Password(password.clone()),
        None if remembered => Credential::Key,
        None => {
            let text = "the far device's password is needed: it does not remember this one";
            return Err(failed("no_password", text));
        }
    };
    let ring = Ring {
        device,
        credential,
        service: dial.service.clone(),
        remember: dial.remember,
        direct_only: false,
        hints: known.map(|contact| contact.hints).unwrap_or_default(),
        lan: !host.registry().is_loopback(),
    };
    Ok((ring, called))
}

async fn by_name(
    host: &dyn Host,
    contacts: &Contacts,
    called: &str,
) -> Result<(PeerId, Option<Contact>, Option<String>), DialEvent> {
    if let Err(error) = name::check(called) {
        let text = format!("'{called}' is neither a device ID nor a name: {error}");
        return Err(failed(Code::UnknownAlias.as_str(), text));
    }
    if let Some(contact) = contacts.0.get(called) {
        return Ok((contact.id, Some(contact.clone()), Some(called.to_owned())));
    }
    match host.registry().alias(called).await {
        Ok(Some(id)) => Ok((id, None, Some(called.to_owned()))),
        Ok(None) => {
            let text = format!("no device is named '{called}' at the registry");
            Err(failed(Code::UnknownAlias.as_str(), text))
        }
        Err(error) => Err(failed(&code(&error), format!("{error:#}"))),
    }
}

/// Notes that the far device remembers this one, and where it was. Names are noted only when the
/// caller wants to be remembered: contacts are the owner's.
fn note(
    host: &dyn Host,
    called: Option<&str>,
    ring: &Ring,
    remembered: bool,
    candidates: &[ringback_protocol::candidate::Candidate],
) {
    let note = || -> Result<()> {
        let mut contacts = Contacts::load(host.profile())?;
        if !ring.remember && contacts.by_id(&ring.device).is_none() {
            return Ok(());
        }
        let contact = contacts.note(called, ring.device);
        contact.remembered |= remembered;
        contact.hints = candidates.to_vec();
        contacts.store(host.profile())
    };
    if let Err(error) = note() {
        tracing::warn!("a call for a caller could not be noted: {error:#}");
    }
}

/// What the caller is told of an event.
fn told(event: Event) -> Option<DialEvent> {
    Some(match event {
        Event::Listening { bind, service } => DialEvent {
            listen: Some(bind.to_string()),
            ..DialEvent::new(DialKind::Listening, format!("{bind} → {service}"))
        },
        Event::Connected { receipt, .. } => {
            let path = match receipt.path {
                PathKind::Direct => "direct",
                PathKind::Relay => "relay",
            };
            DialEvent {
                path: Some(path.into()),
                ..DialEvent::new(DialKind::Connected, format!("connected, {path}"))
            }
        }
        Event::Path { path } => {
            let path = match path.path {
                PathKind::Direct => "direct",
                PathKind::Relay => "relay",
            };
            DialEvent {
                path: Some(path.into()),
                ..DialEvent::new(DialKind::Step, format!("now {path}"))
            }
        }
        Event::Lost { reason } => DialEvent::new(DialKind::Lost, reason),
        Event::Refused { message } => DialEvent::new(DialKind::Refused, message),
        Event::Piping | Event::Opened | Event::Failed { .. } => return None,
    })
}

/// Why a call ended. A contact that is not there under its key, but under another one, is a device
/// that was set up anew, or a lie; only a person can tell which.
async fn explain(
    host: &dyn Host,
    ring: &Ring,
    called: Option<&str>,
    error: &anyhow::Error,
) -> DialEvent {
    if Failure::exit_code(error) == Exit::Offline as u8
        && let Some(called) = called
        && let Ok(Some(id)) = host.registry().alias(called).await
        && id != ring.device
    {
        let text = format!("the registry has another key for '{called}' now: {id}");
        return failed("key_changed", text);
    }
    failed(&code(error), format!("{error:#}"))
}

fn code(error: &anyhow::Error) -> String {
    if let Some(code) = Failure::code(error) {
        return code.as_str().to_owned();
    }
    let exit = Failure::exit_code(error);
    let word = [
        (Exit::NoPath, "no_path"),
        (Exit::Usage, "listen_in_use"),
        (Exit::Registry, Code::NoAnswer.as_str()),
        (Exit::Trust, "key_changed"),
    ];
    let word = word.iter().find(|(known, _)| *known as u8 == exit);
    word.map_or(Code::Internal.as_str(), |(_, word)| word)
        .to_owned()
}
