//! The beacon's socket to the registry (PROTOCOL §6.3): a device's socket, on which it also tells
//! of the devices that it sees, and hears whom to notify.

use anyhow::{Result, bail};
use ringback_protocol::beacon::Report;
use ringback_protocol::frame::{Beacon, Frame, Gone, Seen};
use ringback_protocol::registration::{CloseReason, Output};
use ringback_protocol::{Code, PeerId, SecretKey};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::link::printable;
use crate::presence::how_it_ended;
use crate::reconnect::{self, Ended, Reconnect};
use crate::registry::{Registry, connect_socket};

/// What the front hears of the registry.
#[derive(Debug)]
pub(super) enum Event {
    /// Registered under this name, with the addresses that others are told.
    Registered {
        name: String,
        beacon: Beacon,
    },
    Lost {
        reason: String,
    },
    Rejected {
        code: Code,
        detail: String,
    },
    Known {
        device: PeerId,
        code: Option<Code>,
    },
    Notify {
        device: PeerId,
    },
}

/// Where this beacon is reached.
#[derive(Debug, Clone)]
pub(super) struct Listening {
    /// `host:port` as the owner says; without it the address that the registry sees.
    pub(super) public: Option<String>,
    pub(super) udp: u16,
    pub(super) tcp: Option<u16>,
}

impl Listening {
    /// `seen`: the address that the registry's socket comes from.
    fn tell(&self, seen: &str) -> Result<Beacon> {
        let host = match &self.public {
            Some(public) => public
                .rsplit_once(':')
                .map_or("", |(host, _)| host)
                .to_owned(),
            None => match seen.parse::<std::net::IpAddr>() {
                Ok(std::net::IpAddr::V6(ip)) => format!("[{ip}]"),
                Ok(ip) => ip.to_string(),
                Err(_) => bail!(
                    "the registry can not tell this beacon's address; give it with --public HOST:PORT"
                ),
            },
        };
        let udp = match &self.public {
            Some(public) => public.clone(),
            None => format!("{host}:{}", self.udp),
        };
        // A router that maps the one port maps the other: both have one number.
        let tcp = self.tcp.map(|tcp| match &self.public {
            Some(public) if tcp == self.udp => public.clone(),
            _ => format!("{host}:{tcp}"),
        });
        Ok(Beacon {
            udp,
            relay: tcp.is_some(),
            tcp,
        })
    }
}

/// Keeps the beacon registered until the front is gone.
pub(super) async fn stay_registered(
    registry: Registry,
    key: SecretKey,
    listening: Listening,
    events: mpsc::Sender<Event>,
    mut reports: mpsc::Receiver<Report>,
) {
    let mut reconnect = Reconnect::new(Instant::now());
    while !events.is_closed() {
        let session = Session {
            registry: &registry,
            key: &key,
            listening: &listening,
            events: &events,
        };
        let mut registered = None;
        let Err(error) = session.run(&mut reports, &mut registered).await;
        let ended = match error.downcast_ref::<Rejection>() {
            Some(rejection) if rejection.code == Code::KeyInUse => Ended::KeyInUse,
            Some(_) => Ended::Refused,
            None => how_it_ended(&error),
        };
        let pause = reconnect.pause(ended, registered, Instant::now());
        tracing::info!("the registry's connection ended: {error:#}");
        let event = match error.downcast::<Rejection>() {
            Ok(Rejection { code, detail }) => Event::Rejected { code, detail },
            Err(error) => Event::Lost {
                reason: format!("{error:#}"),
            },
        };
        if events.send(event).await.is_err() {
            return;
        }
        // Told to a registry that is gone: the next one is told everything.
        while reports.try_recv().is_ok() {}
        tokio::time::sleep(reconnect::jittered(pause)).await;
    }
}

/// The registry will not have this beacon.
#[derive(Debug, thiserror::Error)]
#[error("{detail}")]
struct Rejection {
    code: Code,
    detail: String,
}

struct Session<'a> {
    registry: &'a Registry,
    key: &'a SecretKey,
    listening: &'a Listening,
    events: &'a mpsc::Sender<Event>,
}

impl Session<'_> {
    async fn run(
        &self,
        reports: &mut mpsc::Receiver<Report>,
        since: &mut Option<Instant>,
    ) -> Result<std::convert::Infallible> {
        let mut socket = connect_socket(self.registry, self.key, None).await?;
        loop {
            while let Some(output) = socket.drain().await? {
                match output {
                    Output::Registered(registered) => {
                        let beacon = self.listening.tell(&registered.seen)?;
                        socket.send(&beacon.clone().into()).await?;
                        *since = Some(Instant::now());
                        let name = registered.name;
                        self.events.send(Event::Registered { name, beacon }).await?;
                    }
                    Output::Beacon(Frame::Known(known)) => {
                        let (device, code) = (known.device, known.code);
                        self.events.send(Event::Known { device, code }).await?;
                    }
                    Output::Beacon(Frame::Notify(notify)) => {
                        let device = notify.device;
                        self.events.send(Event::Notify { device }).await?;
                    }
                    Output::Close(CloseReason::Rejected(rejected)) => bail!(Rejection {
                        code: rejected.code,
                        detail: printable(&rejected.detail),
                    }),
                    Output::Close(CloseReason::Dead) => {
                        bail!("the registry does not answer any more")
                    }
                    Output::Close(CloseReason::Misbehaved(what)) => {
                        bail!("the registry does not keep to the protocol: {what}")
                    }
                    // Nobody calls a beacon: whoever tries gets no answer.
                    _ => {}
                }
            }
            tokio::select! {
                ended = socket.wait() => ended?,
                report = reports.recv() => match report {
                    Some(report) => socket.send(&frame(report)).await?,
                    None => bail!("the beacon is going away"),
                },
            }
        }
    }
}

fn frame(report: Report) -> Frame {
    match report {
        Report::Seen { device, public } => Seen {
            device,
            public: Some(public),
        }
        .into(),
        Report::Check { device } => Seen {
            device,
            public: None,
        }
        .into(),
        Report::Gone { device } => Gone { device }.into(),
    }
}
