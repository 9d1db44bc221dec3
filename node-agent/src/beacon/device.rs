//! A device that lives on a beacon (PROTOCOL §16.3): no connection while nobody calls, a datagram
//! each interval from the socket that QUIC uses, and a search for how long that interval may be.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use hyper::Method;
use ringback_protocol::beacon::{
    Device, DeviceOutput, MAX_INTERVAL, Search, SearchAction, Standing,
};
use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use tokio::net::UdpSocket;
use tokio::sync::{Notify, mpsc, oneshot};

use super::gateway::network;
use super::requests;
use crate::backoff::Backoff;
use crate::cli::BeaconChoice;
use crate::clock::unix_time;
use crate::device::{Agent, Inbound};
use crate::enrolment::{ENROLLED, EnrolledAs};
use crate::nat64;
use crate::presence::{OnBeacon, Presence};
use crate::registry::Connection;
use crate::signalling::Placement;

/// The file that keeps the intervals which were found.
const KEPT: &str = "keepalive.json";
/// How long one is believed.
const KEPT_FOR_S: u64 = 14 * 86_400;
/// Networks that are remembered.
const MAX_KEPT: usize = 64;
/// A beacon that does not answer for this long is looked up again: there may be another.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a search that the beacon did not answer.
const SEARCH_LATER: Duration = Duration::from_secs(3600);
const IDLE: Duration = Duration::from_secs(3600);

/// How the time between two keepalives is chosen.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    Fixed(Duration),
    /// The longest that the NAT bears, and never less than this.
    Adaptive {
        floor: Duration,
    },
}

/// An interval that was found on a network.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Kept {
    interval_s: u64,
    found_at: u64,
}

/// Keeps the device registered at a beacon until `stop`, whatever happens to the beacon.
pub(crate) async fn stay_on_beacon(
    agent: Arc<Agent>,
    inbound: Inbound,
    choice: Option<BeaconChoice>,
    pace: Pace,
    mut stop: oneshot::Receiver<()>,
) {
    let Inbound { frames, placements } = inbound;
    let notified = Arc::new(Notify::new());
    tokio::spawn(requests::serve(agent.clone(), notified.clone(), frames));
    let mut line = Line {
        datagrams: agent.endpoint.listen_to_beacon(),
        agent,
        placements,
        notified,
        choice,
        pace,
    };
    let mut backoff = Backoff::default();
    loop {
        tokio::select! {
            ended = line.run(&mut backoff) => {
                let Err(error) = ended;
                tracing::info!("the beacon: {error:#}");
                line.agent.beacon.send_replace(None);
                let offline = Presence::Offline { reason: format!("{error:#}") };
                // Who was refused stays so until something else is known.
                if !matches!(*line.agent.presence.borrow(), Presence::Rejected { .. }) {
                    line.agent.presence.send_replace(offline);
                }
            }
            // The session says goodbye itself when it is dropped.
            _ = &mut stop => return,
        }
        tokio::select! {
            () = backoff.wait() => {}
            _ = &mut stop => return,
        }
    }
}

/// What a device needs to live on a beacon, whichever that is.
struct Line {
    agent: Arc<Agent>,
    datagrams: mpsc::Receiver<(SocketAddr, Vec<u8>)>,
    placements: mpsc::Receiver<Placement>,
    notified: Arc<Notify>,
    choice: Option<BeaconChoice>,
    pace: Pace,
}

/// A beacon that was found.
struct Found {
    id: PeerId,
    address: SocketAddr,
}

#[derive(Deserialize)]
struct Info {
    stun_servers: Vec<String>,
    #[serde(default)]
    beacons: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    id: PeerId,
    udp: String,
    online: bool,
}

impl Line {
    /// One beacon, for as long as it answers.
    async fn run(&mut self, backoff: &mut Backoff) -> Result<std::convert::Infallible> {
        let found = self.find().await?;
        tracing::info!(beacon = ?found.id, "registering by UDP");
        let session = Session::new(self, &found);
        session.run(self, backoff).await
    }

    /// Asks the registry for its beacons. That also leaves a TLS ticket and a TCP Fast Open cookie
    /// behind, which the first fetch then has.
    async fn find(&self) -> Result<Found> {
        let registry = &self.agent.registry;
        let mut connection = Connection::open_quickly(registry).await?;
        let info: Info = match connection.json(Method::GET, "/v1/registry", None).await? {
            Ok(info) => info,
            Err(problem) => bail!(problem),
        };
        drop(connection);
        let stun = self.agent.endpoint.own_addresses().stun_servers();
        if stun.borrow().is_empty() {
            stun.send_replace(info.stun_servers);
        }
        let (id, address) = match &self.choice {
            Some(BeaconChoice {
                id: Some(id),
                address,
            }) => (*id, address.clone()),
            Some(BeaconChoice { id: None, address }) => {
                let listed = info.beacons.iter().find(|beacon| beacon.udp == *address);
                let listed = listed.with_context(|| {
                    format!("the registry knows no beacon at {address}; give --beacon ID@{address} if it is reached there")
                })?;
                (listed.id, address.clone())
            }
            None => {
                let online = info.beacons.iter().find(|beacon| beacon.online);
                let listed = online.or(info.beacons.first()).context(
                    "the registry has no beacon, which --udp-only needs; run one with: ringback beacon",
                )?;
                (listed.id, listed.udp.clone())
            }
        };
        let mut addresses = tokio::net::lookup_host(&address)
            .await
            .with_context(|| format!("can not find the beacon {address}"))?;
        let address = addresses
            .next()
            .with_context(|| format!("the beacon {address} has no address"))?;
        let address = nat64::inward(address);
        Ok(Found { id, address })
    }
}

/// One registration at one beacon.
struct Session {
    device: Device,
    started: Instant,
    beacon: PeerId,
    address: SocketAddr,
    agent: Arc<Agent>,
    pace: Pace,
    interval: Duration,
    public: Option<SocketAddr>,
    search: Option<Searching>,
    search_at: Option<Instant>,
    lost_since: Option<Instant>,
}

/// A search for a longer interval, on a socket of its own.
struct Searching {
    search: Search,
    socket: Option<UdpSocket>,
    network: String,
}

impl Session {
    fn new(line: &Line, found: &Found) -> Self {
        let interval = match line.pace {
            Pace::Fixed(interval) => interval,
            Pace::Adaptive { floor } => floor,
        };
        let agent = line.agent.clone();
        let key = agent.key.clone();
        Self {
            device: Device::new(key, found.id, interval, rand::random(), Duration::ZERO),
            started: Instant::now(),
            beacon: found.id,
            address: found.address,
            agent,
            pace: line.pace,
            interval,
            public: None,
            search: None,
            search_at: None,
            lost_since: Some(Instant::now()),
        }
    }

    async fn run(
        mut self,
        line: &mut Line,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible> {
        let mut buffer = [0; 256];
        loop {
            self.drain(&line.notified, backoff);
            if self
                .lost_since
                .is_some_and(|since| since.elapsed() > PATIENCE)
            {
                bail!("it does not answer");
            }
            let probes = self
                .search
                .as_ref()
                .and_then(|search| search.socket.as_ref());
            let deadline = self.deadline();
            tokio::select! {
                Some((from, datagram)) = line.datagrams.recv() => {
                    if from == self.address {
                        let now = self.now();
                        self.device.handle_datagram(&datagram, now);
                    }
                }
                received = receive(probes, &mut buffer) => {
                    let now = self.now();
                    self.device.handle_datagram(&buffer[..received], now);
                }
                Some(placement) = line.placements.recv() => {
                    tokio::spawn(requests::place(self.agent.clone(), placement));
                }
                () = tokio::time::sleep_until(deadline.into()) => self.handle_timeout().await,
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn deadline(&self) -> Instant {
        let search = self.search.as_ref().and_then(|s| s.search.poll_timeout());
        let timers = [self.device.poll_timeout(), search].into_iter().flatten();
        let first = timers.min().unwrap_or(IDLE);
        let others = [
            self.search_at,
            self.lost_since
                .map(|since| since + PATIENCE + Duration::from_millis(1)),
        ];
        others
            .into_iter()
            .flatten()
            .fold(self.started + first, Instant::min)
    }

    fn drain(&mut self, notified: &Notify, backoff: &mut Backoff) {
        while let Some(output) = self.device.poll_output() {
            match output {
                DeviceOutput::Send(datagram) => {
                    self.agent.endpoint.send_datagram(self.address, &datagram);
                }
                DeviceOutput::Registered { public, standing } => {
                    backoff.reset();
                    self.lost_since = None;
                    self.registered(public, standing);
                }
                DeviceOutput::Notified => {
                    tracing::info!("somebody rings");
                    notified.notify_one();
                }
                DeviceOutput::Probed { id, late } => {
                    let now = self.now();
                    if let Some(searching) = &mut self.search {
                        searching.search.handle_answer(id, late, now);
                    }
                }
                DeviceOutput::Lost => {
                    self.lost_since.get_or_insert_with(Instant::now);
                    self.agent.presence.send_replace(Presence::Offline {
                        reason: format!("the beacon {} does not answer", self.address),
                    });
                }
            }
        }
    }

    async fn handle_timeout(&mut self) {
        let now = self.now();
        if self.device.poll_timeout().is_some_and(|due| due <= now) {
            self.device.handle_timeout(now);
        }
        if self.search_at.is_some_and(|at| at <= Instant::now()) {
            self.search_at = None;
            self.start_search();
        }
        while let Some(action) = self
            .search
            .as_mut()
            .and_then(|searching| searching.search.handle_timeout(now))
        {
            self.act(action).await;
        }
    }

    async fn act(&mut self, action: SearchAction) {
        match action {
            SearchAction::Probe { id, delay, fresh } => {
                let Some(datagram) = self.device.probe(id, delay) else {
                    return;
                };
                let Some(searching) = &mut self.search else {
                    return;
                };
                if fresh {
                    // A new socket is a new mapping.
                    searching.socket = bind(self.address).await.ok();
                }
                if let Some(socket) = &searching.socket {
                    // Lost, like any datagram, if the network does not take it.
                    let _ = socket.send(&datagram).await;
                }
            }
            SearchAction::Found(interval) => {
                if let Some(Searching { network, .. }) = self.search.take() {
                    tracing::info!(
                        ?interval,
                        "the NAT keeps mappings long enough for this interval"
                    );
                    self.keep(&network, Some(interval));
                    self.set_interval(interval);
                }
            }
            SearchAction::GivenUp => {
                self.search = None;
                self.search_at = Some(Instant::now() + SEARCH_LATER);
                self.show();
            }
        }
    }

    fn registered(&mut self, public: SocketAddr, standing: Standing) {
        let before = self.public.replace(public);
        self.agent.presence.send_replace(self.presence(standing));
        if before != Some(public) {
            tracing::info!("registered; the public address is new");
            tracing::debug!(%public, "public address");
            self.publish(public);
            self.choose_interval(before, public);
        }
        self.show();
    }

    fn presence(&self, standing: Standing) -> Presence {
        match standing {
            Standing::Good => Presence::Registered {
                name: self.name(),
                since: unix_time(0),
                rival: None,
            },
            Standing::NotEnrolled | Standing::Revoked => Presence::Rejected {
                code: if standing == Standing::Revoked {
                    Code::Revoked
                } else {
                    Code::NotEnrolled
                },
                detail: "by the beacon's word".into(),
            },
            Standing::RegistryAway => Presence::Offline {
                reason: "the beacon has lost the registry".into(),
            },
            _ => Presence::Connecting,
        }
    }

    /// The name that the enrolment gave; the registry does not tell it to a beacon.
    fn name(&self) -> String {
        let enrolled: EnrolledAs = self.agent.profile.load(ENROLLED).unwrap_or_default();
        if enrolled.registry == self.agent.registry.origin() && !enrolled.name.is_empty() {
            enrolled.name
        } else {
            self.agent.key.id().short()
        }
    }

    /// What callers are told: at once the beacon's word, and soon what STUN servers tell of the
    /// NAT's kind. They are asked once, and not to keep a mapping.
    fn publish(&self, public: SocketAddr) {
        let own = self.agent.endpoint.own_addresses();
        own.reflect(public);
        let beacon = self.address.to_string();
        own.stun_servers().send_if_modified(|servers| {
            let news = !servers.contains(&beacon);
            if news {
                servers.insert(0, beacon);
            }
            news
        });
        own.doubt();
    }

    /// Another network has another interval; and a mapping that is lost has been kept for too long.
    fn choose_interval(&mut self, before: Option<SocketAddr>, public: SocketAddr) {
        let Pace::Adaptive { floor } = self.pace else {
            return;
        };
        let network = network(public);
        let is_lost =
            self.interval > floor && before.is_some_and(|before| before.ip() == public.ip());
        if is_lost {
            self.keep(&network, None);
        }
        let kept: BTreeMap<String, Kept> = self.agent.profile.load(KEPT).unwrap_or_default();
        let known = kept
            .get(&network)
            .filter(|kept| !is_lost && unix_time(0).saturating_sub(kept.found_at) < KEPT_FOR_S);
        match known {
            Some(kept) => {
                self.search = None;
                let interval = Duration::from_secs(kept.interval_s);
                self.set_interval(interval.clamp(floor, MAX_INTERVAL.max(floor)));
            }
            None => {
                self.set_interval(floor);
                self.start_search();
            }
        }
    }

    fn start_search(&mut self) {
        let (Pace::Adaptive { floor }, Some(public)) = (self.pace, self.public) else {
            return;
        };
        self.search = Some(Searching {
            search: Search::new(floor, self.now()),
            socket: None,
            network: network(public),
        });
        self.show();
    }

    fn set_interval(&mut self, interval: Duration) {
        self.interval = interval;
        let now = self.now();
        self.device.set_interval(interval, now);
        self.show();
    }

    /// Notes an interval, or forgets it.
    fn keep(&self, network: &str, interval: Option<Duration>) {
        let mut kept: BTreeMap<String, Kept> = self.agent.profile.load(KEPT).unwrap_or_default();
        match interval {
            Some(interval) => {
                let found = Kept {
                    interval_s: interval.as_secs(),
                    found_at: unix_time(0),
                };
                kept.insert(network.to_owned(), found);
            }
            None => {
                kept.remove(network);
            }
        }
        while kept.len() > MAX_KEPT {
            let oldest = kept.iter().min_by_key(|(_, kept)| kept.found_at);
            let Some(oldest) = oldest.map(|(network, _)| network.clone()) else {
                break;
            };
            kept.remove(&oldest);
        }
        if let Err(error) = self.agent.profile.store(KEPT, &kept) {
            tracing::warn!("the interval can not be kept: {error:#}");
        }
    }

    fn show(&self) {
        self.agent.beacon.send_replace(Some(OnBeacon {
            id: self.beacon,
            address: self.address,
            interval_s: self.interval.as_secs(),
            searching: self.search.is_some(),
        }));
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.device.leave();
        while let Some(output) = self.device.poll_output() {
            if let DeviceOutput::Send(datagram) = output {
                self.agent.endpoint.send_datagram(self.address, &datagram);
            }
        }
    }
}

/// A socket that sends to the beacon.
async fn bind(beacon: SocketAddr) -> Result<UdpSocket> {
    let beacon = nat64::outward(beacon);
    let local: SocketAddr = match beacon {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(beacon).await?;
    Ok(socket)
}

/// The next datagram of the probes' socket; never, without one.
async fn receive(socket: Option<&UdpSocket>, buffer: &mut [u8]) -> usize {
    let Some(socket) = socket else {
        return std::future::pending().await;
    };
    loop {
        match socket.recv(buffer).await {
            Ok(received) => return received,
            // An ICMP error, which anybody can forge.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
