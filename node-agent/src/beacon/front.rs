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
use crate::presence::Presence;
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
                self.presence.send_replace(Presence::Registered {
                    name,
                    since: crate::clock::unix_time(0),
                    rival: None,
                });
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
            tcp::Event::Opened(source, connection) => self.connections.open(source, connection),
            tcp::Event::Datagram(source, datagram) => {
                let to = self.front.handle_datagram(source, &datagram, self.now());
                let is_member = self.front.is_member(&source);
                self.connections.set_member(&source, is_member);
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

#[cfg(test)]
mod tests {
    use ringback_protocol::beacon::RelayConfig;
    use ringback_protocol::path::Role;
    use ringback_protocol::relay::Room;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;
    use crate::relay::{OwnRelay, Relay, RelayEvent, RelayState, Seat, through_beacon};

    const PATIENCE: Duration = Duration::from_secs(20);

    /// A relay on the loopback that has the registry's word for `device`.
    async fn relay(device: &PeerId) -> (OwnRelay, tokio::task::JoinHandle<Result<()>>) {
        let key = SecretKey::from_seed(&rand::random());
        let id = key.id();
        // Nobody listens there: what is tested needs no registry once a device is known.
        let registry = Registry::new("http://127.0.0.1:1", None).unwrap();
        let mut bound = None;
        for _ in 0..20 {
            let options = Options {
                port: 0,
                public: None,
                config: Config {
                    relay: Some(RelayConfig::default()),
                    ..Config::default()
                },
            };
            // The TCP port of the same number may be taken.
            bound = BeaconServer::bind(registry.clone(), key.clone(), options)
                .await
                .ok();
            if bound.is_some() {
                break;
            }
        }
        let (mut server, _) = bound.expect("a pair of ports");
        server.front.handle_known(device, None, Duration::ZERO);
        let address = Some(format!("127.0.0.1:{}", server.listening.udp));
        let relay = OwnRelay {
            id,
            udp: address.clone(),
            tcp: address,
        };
        (relay, tokio::spawn(server.serve()))
    }

    fn seat(key: &SecretKey, role: Role, device: PeerId) -> Seat {
        Seat {
            room: Room([5; 16]),
            role,
            key: key.clone(),
            device,
        }
    }

    async fn until(relay: &mut Relay, wanted: RelayState) {
        let reached = relay.state.wait_for(|state| *state == wanted);
        tokio::time::timeout(PATIENCE, reached)
            .await
            .expect("in time")
            .expect("running");
    }

    async fn talk(one: &mut Relay, other: &mut Relay) {
        until(one, RelayState::Joined { present: true }).await;
        until(other, RelayState::Joined { present: true }).await;
        for size in [1, 1200, 2048] {
            let datagram = vec![0x40; size];
            for turn in [true, false] {
                let (from, to) = if turn {
                    (&*one, &mut *other)
                } else {
                    (&*other, &mut *one)
                };
                assert!(from.sender.send(&datagram));
                let got = tokio::time::timeout(PATIENCE, to.events.recv()).await;
                let RelayEvent::Datagram(got) = got.expect("in time").expect("running");
                assert_eq!(got, datagram);
            }
        }
        assert!(!one.sender.send(&[0x40; 2049]), "too large");
        assert!(!one.sender.send(&[]), "empty");
        assert!(!one.sender.send(&[9, 1, 2]), "the relay's own");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_ends_talk_by_udp_and_by_tcp() {
        let device = SecretKey::from_seed(&[1; 32]);
        let caller = SecretKey::from_seed(&[2; 32]);
        let (relay, serving) = relay(&device.id()).await;
        let by_tcp = OwnRelay {
            udp: None,
            ..relay.clone()
        };
        // Bound, and never answered: a network that blocks UDP.
        let silence = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let blocked = OwnRelay {
            udp: Some(silence.local_addr().unwrap().to_string()),
            ..relay.clone()
        };
        let mut called = through_beacon(relay.clone(), seat(&device, Role::Device, device.id()));
        for way in [relay.clone(), by_tcp, blocked] {
            let seat = seat(&caller, Role::Caller, device.id());
            let mut calling = through_beacon(way, seat);
            talk(&mut called, &mut calling).await;
        }
        serving.abort();
    }

    /// Sends a frame of 2,048 bytes, a byte at a time, until the connection is closed.
    async fn dribble(mut stream: TcpStream) {
        let frame = [[8, 0].as_slice(), &[0x40; 2046]].concat();
        let (mut read, mut write) = stream.split();
        let dribbling = async {
            for byte in frame.chunks(1) {
                if write.write_all(byte).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            std::future::pending::<()>().await;
        };
        let mut nothing = [0];
        tokio::select! {
            () = dribbling => {}
            _ = read.read(&mut nothing) => {}
        }
    }

    /// Whoever opens connections and joins no room keeps nobody out, not even from the same address, and
    /// is shown the door however it dribbles.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_that_join_no_room_keep_nobody_out() {
        let device = SecretKey::from_seed(&[1; 32]);
        let caller = SecretKey::from_seed(&[2; 32]);
        let (relay, serving) = relay(&device.id()).await;
        let by_tcp = OwnRelay { udp: None, ..relay };
        let address = by_tcp.tcp.clone().expect("it has one");
        let opened = std::time::Instant::now();
        let mut idle = Vec::new();
        for _ in 0..200 {
            idle.push(TcpStream::connect(&address).await.unwrap());
        }
        let mut called = through_beacon(by_tcp.clone(), seat(&device, Role::Device, device.id()));
        let mut calling = through_beacon(by_tcp, seat(&caller, Role::Caller, device.id()));
        talk(&mut called, &mut calling).await;
        let all = futures_util::future::join_all(idle.into_iter().map(dribble));
        tokio::time::timeout(PATIENCE, all)
            .await
            .expect("closed in time");
        assert!(
            opened.elapsed() > Duration::from_secs(5),
            "some had their time"
        );
        // Members are not among them.
        talk(&mut called, &mut calling).await;
        serving.abort();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_device_that_is_refused_is_told() {
        let device = SecretKey::from_seed(&[3; 32]);
        let (relay, serving) = relay(&SecretKey::from_seed(&[1; 32]).id()).await;
        // Not the device that it says it is.
        let other = SecretKey::from_seed(&[4; 32]);
        let mut wrong = through_beacon(relay.clone(), seat(&other, Role::Device, device.id()));
        let mut told = wrong.state.clone();
        let joined = told.wait_for(|state| matches!(state, RelayState::Joined { .. }));
        assert!(
            tokio::time::timeout(Duration::from_secs(1), joined)
                .await
                .is_err()
        );
        assert!(!wrong.sender.send(&[0x40; 10]), "not joined");
        wrong.events.close();
        serving.abort();
    }
}
