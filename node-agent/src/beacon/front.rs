//! The task in which everything that reaches the beacon meets.

use std::time::{Duration, Instant};

use anyhow::Result;
use ringback_protocol::beacon::{Config, Counters, Front, Report, Source};
use ringback_protocol::frame::Beacon;
use ringback_protocol::{PeerId, SecretKey};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot, watch};

use super::registry::{self, Listening};
use super::udp::{Received, Sender, Udp};
use super::{stun, tcp};
use crate::device::Presence;
use crate::registry::Registry;

/// Frames that wait for the registry's socket.
const REPORTS: usize = 64;
const EVENTS: usize = 1024;
/// Longest wait where no timer runs.
const IDLE: Duration = Duration::from_secs(3600);

/// What `ringback beacon` was told.
pub(crate) struct Options {
    pub(crate) port: u16,
    /// `host:port`
    pub(crate) public: Option<String>,
    pub(crate) config: Config,
}

/// What `ringback status` shows of a beacon.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BeaconStatus {
    pub(crate) id: PeerId,
    pub(crate) registry: String,
    pub(crate) presence: Presence,
    pub(crate) beacon: BeaconNumbers,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct BeaconNumbers {
    pub(crate) udp: Option<String>,
    pub(crate) tcp: Option<String>,
    pub(crate) port: u16,
    pub(crate) devices: usize,
    pub(crate) rooms: usize,
    #[serde(flatten)]
    pub(crate) counters: Counters,
}

/// A beacon whose ports are open, not yet running.
pub(crate) struct BeaconServer {
    front: Front,
    udp: Udp,
    connections: tcp::Connections,
    tcp_events: mpsc::Receiver<tcp::Event>,
    registry: Registry,
    key: SecretKey,
    listening: Listening,
    told: Option<Beacon>,
    presence: watch::Sender<Presence>,
    asked: mpsc::Receiver<oneshot::Sender<BeaconStatus>>,
    started: Instant,
}

/// Asks a running beacon.
#[derive(Clone)]
pub(crate) struct Handle {
    pub(crate) presence: watch::Receiver<Presence>,
    asking: mpsc::Sender<oneshot::Sender<BeaconStatus>>,
}

impl Handle {
    /// `None` when the beacon has ended.
    pub(crate) async fn status(&self) -> Option<BeaconStatus> {
        let (sender, status) = oneshot::channel();
        self.asking.send(sender).await.ok()?;
        status.await.ok()
    }
}

impl BeaconServer {
    /// Opens the ports.
    pub(crate) async fn bind(
        registry: Registry,
        key: SecretKey,
        options: Options,
    ) -> Result<(Self, Handle)> {
        let udp = Udp::bind(options.port).await?;
        let port = udp.port()?;
        let (events, tcp_events) = mpsc::channel(EVENTS);
        let mut tcp_port = None;
        if options.config.relay.is_some() {
            let listener = tcp::listen(port).await?;
            tcp_port = Some(tcp::port(&listener)?);
            tokio::spawn(tcp::accept(listener, events));
        }
        let (asking, asked) = mpsc::channel(8);
        let presence = watch::Sender::new(Presence::Connecting);
        let handle = Handle {
            presence: presence.subscribe(),
            asking,
        };
        let server = Self {
            front: Front::new(key.clone(), &options.config, &rand::random()),
            udp,
            connections: tcp::Connections::default(),
            tcp_events,
            registry,
            key,
            listening: Listening {
                public: options.public,
                udp: port,
                tcp: tcp_port,
            },
            told: None,
            presence,
            asked,
            started: Instant::now(),
        };
        Ok((server, handle))
    }

    /// Runs until the future is dropped.
    pub(crate) async fn serve(mut self) -> Result<()> {
        let (events, mut registry_events) = mpsc::channel(EVENTS);
        let (reports, queue) = mpsc::channel(REPORTS);
        tokio::spawn(registry::stay_registered(
            self.registry.clone(),
            self.key.clone(),
            self.listening.clone(),
            events,
            queue,
        ));
        let sender = self.udp.sender();
        loop {
            while let Some((to, datagram)) = self.front.poll_send() {
                send(&sender, &self.connections, &to, &datagram, datagram.len());
            }
            self.report(&reports);
            let now = self.now();
            let due = [
                self.front.poll_timeout(),
                self.front.poll_report_timeout(now),
            ];
            let due = due.into_iter().flatten().min().unwrap_or(now + IDLE);
            tokio::select! {
                received = self.udp.receive(|sender, received| {
                    let now = self.started.elapsed();
                    handle_batch(&mut self.front, &self.connections, sender, &received, now);
                }) => received?,
                Some(event) = registry_events.recv() => self.handle_registry(event),
                Some(event) = self.tcp_events.recv() => self.handle_tcp(event, &sender),
                Some(asking) = self.asked.recv() => {
                    // Whoever asked may have gone.
                    let _ = asking.send(self.status());
                }
                () = tokio::time::sleep_until((self.started + due).into()) => {}
            }
            let now = self.now();
            if self.front.poll_timeout().is_some_and(|due| due <= now) {
                self.front.handle_timeout(now);
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn report(&mut self, reports: &mpsc::Sender<Report>) {
        let now = self.now();
        while let Ok(place) = reports.try_reserve()
            && let Some(report) = self.front.poll_report(now)
        {
            place.send(report);
        }
    }

    fn handle_registry(&mut self, event: registry::Event) {
        match event {
            registry::Event::Registered { name, beacon } => {
                tracing::info!(name, udp = beacon.udp, relay = beacon.relay, "registered");
                self.told = Some(beacon);
                self.front.set_registry(true);
                self.presence.send_replace(Presence::Registered { name });
            }
            registry::Event::Lost { reason } => {
                self.front.set_registry(false);
                self.presence.send_replace(Presence::Offline { reason });
            }
            registry::Event::Rejected { code, detail } => {
                self.front.set_registry(false);
                self.presence
                    .send_replace(Presence::Rejected { code, detail });
            }
            registry::Event::Known { device, code } => {
                tracing::debug!(?device, ?code, "the registry's word about a device");
                self.front.handle_known(&device, code.as_ref(), self.now());
            }
            registry::Event::Notify { device } => {
                let is_here = self.front.handle_notify(&device, self.now());
                tracing::info!(?device, is_here, "somebody rings");
            }
        }
    }

    fn handle_tcp(&mut self, event: tcp::Event, sender: &Sender) {
        match event {
            tcp::Event::Opened(source, queue) => self.connections.open(source, queue),
            tcp::Event::Datagram(source, datagram) => {
                let to = self.front.handle_datagram(source, &datagram, self.now());
                if let Some(to) = to {
                    send(sender, &self.connections, &to, &datagram, datagram.len());
                }
            }
            tcp::Event::Closed(source) => {
                self.connections.close(&source);
                self.front.handle_closed(source);
            }
        }
    }

    fn status(&self) -> BeaconStatus {
        BeaconStatus {
            id: self.key.id(),
            registry: self.registry.origin(),
            presence: self.presence.borrow().clone(),
            beacon: BeaconNumbers {
                udp: self.told.as_ref().map(|told| told.udp.clone()),
                tcp: self.told.as_ref().and_then(|told| told.tcp.clone()),
                port: self.listening.udp,
                devices: self.front.devices(),
                rooms: self.front.rooms(),
                counters: self.front.counters().clone(),
            },
        }
    }
}

/// Datagrams of one source. What goes on to one member of a room leaves as one batch.
fn handle_batch(
    front: &mut Front,
    connections: &tcp::Connections,
    sender: &Sender,
    received: &Received<'_>,
    now: Duration,
) {
    let &Received {
        from,
        batch,
        stride,
    } = received;
    // Where the run of datagrams that go the same way starts, and that way.
    let mut run: Option<(usize, Source)> = None;
    let mut at = 0;
    while at < batch.len() {
        let datagram = &batch[at..(at + stride).min(batch.len())];
        let to = if stun::is_stun(datagram) {
            answer_stun(front, sender, from, datagram, now);
            None
        } else {
            front.handle_datagram(from, datagram, now)
        };
        if let Some((start, target)) = run
            && to != Some(target)
        {
            send(sender, connections, &target, &batch[start..at], stride);
            run = None;
        }
        if let (None, Some(to)) = (run, to) {
            run = Some((at, to));
        }
        at += datagram.len();
    }
    if let Some((start, target)) = run {
        send(sender, connections, &target, &batch[start..], stride);
    }
    while let Some((to, datagram)) = front.poll_send() {
        send(sender, connections, &to, &datagram, datagram.len());
    }
}

fn answer_stun(front: &mut Front, sender: &Sender, from: Source, datagram: &[u8], now: Duration) {
    if !front.allow_stun(from.address(), datagram.len(), now) {
        return;
    }
    if let Some(answer) = stun::answer(datagram, from.address()) {
        front.count_out(answer.len());
        if let Source::Udp { remote, local } = from {
            sender.send(remote, local, &answer, answer.len());
        }
    }
}

fn send(sender: &Sender, connections: &tcp::Connections, to: &Source, batch: &[u8], stride: usize) {
    match to {
        Source::Udp { remote, local } => sender.send(*remote, *local, batch, stride),
        Source::Tcp(..) => {
            for datagram in batch.chunks(stride) {
                connections.send(to, datagram);
            }
        }
    }
}
