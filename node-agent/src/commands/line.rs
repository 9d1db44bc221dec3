//! Streams to one device for `shell`, `get` and `send`: through the agent of this host where one
//! runs, from this process otherwise. A stream that is wanted after the link was lost calls again.

use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Mutex;

use super::connect::Shown;
use super::preparation::{self, Prepared};
use super::target;
use crate::caller::{Caller, Dialled, Ring};
use crate::cli::{Global, Target};
use crate::control::{self, Control};
use crate::failure::{Exit, Failure};
use crate::forward::{CallRequest, Event};
use crate::link::Link;
use crate::port_mapping::PortMapping;
use crate::profile::Profile;
use crate::registry::Registry;
use crate::service::Sending;

/// How long the round trip may take to be measured: what is to be done waits for it, so on a long path
/// none is told.
const MEASURING: Duration = Duration::from_millis(100);

pub(super) type Reader = Box<dyn AsyncRead + Send + Unpin>;
pub(super) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

pub(super) struct Line {
    resolved: target::Resolved,
    registry: Registry,
    way: Way,
    global: Global,
    profile: Profile,
    public: Option<std::net::IpAddr>,
}

enum Way {
    /// Each stream is a connection to the agent, which keeps one link for all.
    Agent,
    Own {
        caller: Box<Caller>,
        mapping: Mutex<Option<PortMapping>>,
        link: Mutex<Option<Link>>,
    },
}

impl Line {
    /// Finds out whom to call; the call itself comes with the first stream.
    pub(super) async fn new(
        global: &Global,
        profile: &Profile,
        target: &Target,
        device: &str,
        service: &str,
    ) -> Result<Self> {
        let prepared = preparation::prepare(profile, target, device, service).await?;
        let Prepared {
            resolved,
            registry,
            config,
            agent,
            public,
        } = prepared;
        let way = match agent {
            Some(_) => Way::Agent,
            None => {
                let (caller, mapping) =
                    preparation::own_caller(profile, target, &registry, &config).await?;
                Way::Own {
                    caller: Box::new(caller),
                    mapping: Mutex::new(mapping),
                    link: Mutex::default(),
                }
            }
        };
        // Standard output is the command's.
        let global = Global {
            json: false,
            dir: global.dir.clone(),
            verbose: global.verbose,
        };
        Ok(Self {
            resolved,
            registry,
            way,
            global,
            profile: profile.clone(),
            public,
        })
    }

    /// A stream to a service, confirmed by the device.
    pub(super) async fn open(&self, service: &str) -> Result<(Reader, Writer)> {
        let opened = match &self.way {
            Way::Agent => self.open_by_agent(service).await,
            Way::Own { caller, link, .. } => self.open_here(caller, link, service).await,
        };
        match opened {
            Ok(opened) => Ok(opened),
            Err(error) => Err(target::explain(error, &self.registry, &self.resolved).await),
        }
    }

    /// The device, for texts.
    pub(super) fn device(&self) -> String {
        let id = || self.resolved.ring.device.short();
        self.resolved.name.clone().unwrap_or_else(id)
    }

    /// The device's ID.
    pub(super) fn id(&self) -> ringback_protocol::PeerId {
        self.resolved.ring.device
    }

    /// Ends the calls.
    pub(super) async fn close(&self) {
        if let Way::Own {
            caller, mapping, ..
        } = &self.way
        {
            preparation::close_caller(caller, mapping.lock().await.take()).await;
        }
    }

    async fn open_here(
        &self,
        caller: &Caller,
        current: &Mutex<Option<Link>>,
        service: &str,
    ) -> Result<(Reader, Writer)> {
        let link = {
            let mut current = current.lock().await;
            match current.as_ref() {
                Some(link) if link.connection.close_reason().is_none() => link.clone(),
                _ => {
                    let link = self.call(caller).await?;
                    *current = Some(link.clone());
                    link
                }
            }
        };
        let (send, mut answer) = link.open(service).await?.split();
        let send = Sending::new(send);
        answer.confirm().await?;
        Ok((Box::new(answer.into_stream()), Box::new(send)))
    }

    async fn call(&self, caller: &Caller) -> Result<Link> {
        let Dialled { link, completed } = caller.call(&self.resolved.ring).await?;
        match completed.await {
            Ok(Ok(mut completed)) => {
                if !completed.measure(&link, MEASURING).await {
                    completed.receipt.rtt_ms = None;
                }
                self.shown().show(Event::Connected {
                    receipt: completed.receipt,
                    remembered: completed.remembered,
                    candidates: completed.candidates,
                })?;
            }
            Ok(Err(error)) if Failure::exit_code(&error) != Exit::Other as u8 => return Err(error),
            _ => {}
        }
        Ok(link)
    }

    async fn open_by_agent(&self, service: &str) -> Result<(Reader, Writer)> {
        let Some(mut agent) = Control::connect(&self.profile).await? else {
            return Err(Failure::new(Exit::Other, "the agent of this host has ended").into());
        };
        let ring = Ring {
            service: service.to_owned(),
            ..self.resolved.ring.clone()
        };
        let listens = Vec::new();
        let plain = false;
        agent
            .call(CallRequest {
                ring,
                listens,
                plain,
            })
            .await?;
        let shown = self.shown();
        loop {
            match control::read_event(&mut agent.reader).await? {
                Event::Opened => break,
                event => shown.show(event)?,
            }
        }
        Ok((Box::new(agent.reader), Box::new(agent.write)))
    }

    fn shown(&self) -> Shown<'_> {
        let endpoint = match &self.way {
            Way::Agent => None,
            Way::Own { caller, .. } => Some(caller.endpoint.clone()),
        };
        Shown {
            global: &self.global,
            profile: &self.profile,
            name: self.resolved.name.clone(),
            direct_only: self.resolved.ring.direct_only,
            public: self.public,
            endpoint,
        }
    }
}
