//! `connect` and `pipe`: a call through the agent of this host where one runs, since that has the
//! registry's line open and knows its address; from this process otherwise.

use std::net::IpAddr;

use anyhow::{Result, bail};
use ringback_protocol::candidate::Candidate;
use ringback_protocol::diagnosis::Diagnosis;
use ringback_protocol::receipt::{PathKind, Receipt, Transport};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::mpsc;

use super::doctor;
use super::page::Page;
use super::preparation::{Prepared, close_caller, own_caller, prepare};
use super::stop::stopped;
use super::target::{self, Resolved};
use super::terminal::{self, say};
use crate::caller::Ring;
use crate::cli::{Connect, Global, Pipe};
use crate::contacts::Contacts;
use crate::control::{self, Control};
use crate::endpoint::Endpoint;
use crate::failure::{Exit, Failure};
use crate::forward::{self, CallRequest, Event, Listen};
use crate::profile::Profile;
use crate::registry::Registry;

pub(super) async fn forward(global: &Global, profile: &Profile, connect: Connect) -> Result<()> {
    let Connect {
        device,
        target,
        listen,
    } = connect;
    let service = listen[0].service.clone();
    let prepared = prepare(profile, &target, &device, &service).await?;
    let mut shown = Shown {
        global,
        profile,
        name: prepared.resolved.name.clone(),
        direct_only: prepared.resolved.ring.direct_only,
        public: prepared.public,
        endpoint: None,
    };
    let Prepared {
        resolved,
        registry,
        config,
        agent,
        ..
    } = prepared;
    let result = match agent {
        Some(agent) => forward_by_agent(agent, &resolved.ring, listen, &shown).await,
        None => {
            let (caller, mapping) = own_caller(profile, &target, &registry, &config).await?;
            shown.endpoint = Some(caller.endpoint.clone());
            let (events, mut happened) = mpsc::channel(16);
            let show = async {
                while let Some(event) = happened.recv().await {
                    shown.show(event)?;
                }
                anyhow::Ok(())
            };
            let result = tokio::select! {
                result = forward::forward(&caller, &resolved.ring, &listen, &events) => result,
                shown = show => shown,
                ended = stopped() => Err(ended.into()),
            };
            close_caller(&caller, mapping).await;
            result
        }
    };
    explained(result, &registry, &resolved).await
}

pub(super) async fn pipe(global: &Global, profile: &Profile, pipe: Pipe) -> Result<()> {
    let Pipe { device, target } = pipe;
    let Some((device, service)) = device.rsplit_once(':') else {
        bail!(Failure::new(
            Exit::Usage,
            format!("'{device}' names no service; write DEVICE:SERVICE, as nas:ssh")
        ));
    };
    ringback_protocol::name::check(service)
        .map_err(|error| Failure::new(Exit::Usage, format!("'{service}': {error}")))?;
    let prepared = prepare(profile, &target, device, service).await?;
    // Standard output is the service's: the receipt goes to standard error.
    let global = Global {
        json: false,
        dir: global.dir.clone(),
        verbose: global.verbose,
    };
    let mut shown = Shown {
        global: &global,
        profile,
        name: prepared.resolved.name.clone(),
        direct_only: prepared.resolved.ring.direct_only,
        public: prepared.public,
        endpoint: None,
    };
    let Prepared {
        resolved,
        registry,
        config,
        agent,
        ..
    } = prepared;
    let result = match agent {
        Some(agent) => pipe_by_agent(agent, &resolved.ring, &shown).await,
        None => {
            let (caller, mapping) = own_caller(profile, &target, &registry, &config).await?;
            shown.endpoint = Some(caller.endpoint.clone());
            let (events, mut happened) = mpsc::channel(16);
            let piping = forward::pipe(
                &caller,
                &resolved.ring,
                true,
                tokio::io::stdin(),
                terminal::stdout(),
                &events,
            );
            let stop = stopped();
            tokio::pin!(piping, stop);
            let result = loop {
                tokio::select! {
                    result = &mut piping => break result,
                    Some(event) = happened.recv() => shown.show(event)?,
                    ended = &mut stop => break Err(ended.into()),
                }
            };
            // What was told last.
            while let Ok(event) = happened.try_recv() {
                shown.show(event)?;
            }
            close_caller(&caller, mapping).await;
            result
        }
    };
    explained(result, &registry, &resolved).await
}

async fn explained(result: Result<()>, registry: &Registry, resolved: &Resolved) -> Result<()> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => Err(target::explain(error, registry, resolved).await),
    }
}

async fn forward_by_agent(
    mut agent: Control,
    ring: &Ring,
    listens: Vec<Listen>,
    shown: &Shown<'_>,
) -> Result<()> {
    agent
        .call(CallRequest {
            ring: ring.clone(),
            listens,
            plain: true,
        })
        .await?;
    let stop = stopped();
    tokio::pin!(stop);
    loop {
        tokio::select! {
            event = control::read_event(&mut agent.reader) => shown.show(event?)?,
            ended = &mut stop => bail!(ended),
        }
    }
}

async fn pipe_by_agent(mut agent: Control, ring: &Ring, shown: &Shown<'_>) -> Result<()> {
    let call = CallRequest {
        ring: ring.clone(),
        listens: Vec::new(),
        plain: true,
    };
    agent.call(call).await?;
    loop {
        match control::read_event(&mut agent.reader).await? {
            Event::Piping => break,
            event => shown.show(event)?,
        }
    }
    let Control {
        mut reader,
        mut write,
    } = agent;
    let inward = async {
        // If the agent has ended, reading from it says so too.
        if tokio::io::copy(&mut tokio::io::stdin(), &mut write)
            .await
            .is_ok()
        {
            let _ = write.shutdown().await;
        }
        std::future::pending::<Result<()>>().await
    };
    let outward = async {
        loop {
            match control::read_event(&mut reader).await? {
                Event::Opened => break,
                event => shown.show(event)?,
            }
        }
        let mut stdout = terminal::stdout();
        tokio::io::copy_buf(&mut reader, &mut stdout).await?;
        Ok(stdout.flush().await?)
    };
    tokio::select! {
        result = outward => result,
        result = inward => result,
        ended = stopped() => Err(ended.into()),
    }
}

/// Shows what happens, and notes what a call has shown of the device.
pub(super) struct Shown<'a> {
    pub(super) global: &'a Global,
    pub(super) profile: &'a Profile,
    pub(super) name: Option<String>,
    pub(super) direct_only: bool,
    /// What the agent knows, or else the endpoint of this process.
    pub(super) public: Option<IpAddr>,
    pub(super) endpoint: Option<Endpoint>,
}

impl Shown<'_> {
    fn why_relayed(&self, receipt: &Receipt, candidates: &[Candidate]) -> String {
        let public = match &self.endpoint {
            Some(endpoint) => doctor::public(endpoint),
            None => self.public.into_iter().collect(),
        };
        let here = crate::doctor::here(public, self.direct_only);
        let mut page = Page::on_stderr();
        let diagnosis = Diagnosis::of(receipt, &here, candidates);
        page.heading(&format!("Relayed: {}", diagnosis.text));
        doctor::explain_tried(&mut page, &diagnosis);
        page.finish()
    }

    pub(super) fn show(&self, event: Event) -> Result<()> {
        match &event {
            Event::Failed {
                exit,
                message,
                code,
            } => {
                let failure = Failure::from_code(*exit, message.clone());
                bail!(match code {
                    Some(code) => failure.about(code),
                    None => failure,
                })
            }
            Event::Connected {
                receipt,
                remembered,
                candidates,
            } => {
                let mut contacts = Contacts::load(self.profile)?;
                let contact = contacts.note(self.name.as_deref(), receipt.device);
                contact.remembered |= *remembered;
                contact.hints.clone_from(candidates);
                contacts.store(self.profile)?;
                if self.global.verbose > 0 {
                    say!("{}", terminal::receipt(receipt).trim_end());
                    if receipt.path == PathKind::Relay {
                        say!("{}", self.why_relayed(receipt, candidates).trim_end());
                    }
                }
            }
            _ => {}
        }
        if self.global.json {
            return terminal::data(self.global, &event, |_| String::new());
        }
        match event {
            Event::Listening { bind, service } => say!("{bind} → {service}"),
            Event::Connected { receipt, .. } if self.global.verbose == 0 => {
                let rtt = receipt
                    .rtt_ms
                    .map_or(String::new(), |rtt| format!(", {rtt:.1} ms"));
                let how = match (receipt.path, receipt.transport) {
                    (PathKind::Direct, Transport::Tcp) => "directly, by TCP",
                    (PathKind::Direct, _) => "directly",
                    (PathKind::Relay, _) => "through the relay; looking for a direct path",
                };
                say!("connected {how}{rtt}");
            }
            Event::Path { path } => say!("now {}", terminal::path(&path)),
            Event::Lost { reason } => say!("{reason}; calling again"),
            Event::Refused { message } => say!("{message}"),
            _ => {}
        }
        Ok(())
    }
}
