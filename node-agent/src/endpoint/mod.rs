//! An agent's end of all its links: the UDP socket, QUIC on it, and what is known of its own
//! addresses.

mod addresses;
mod attached;
mod congestion;
mod first_byte;
mod inbox;
mod io;
mod link_path;
mod main_socket;
mod marks;
pub(crate) mod nat_behaviour;
mod own_addresses;
mod paths;
mod prober;
mod quinn_socket;
mod reach;
mod relayed;
mod restraint;
mod route;
mod search_socket;
mod socket;
mod stun;
mod tcp;
mod tcp_port;
mod tls;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::lan::Door;
use crate::link_windows::LinkWindows;
use crate::relay::{OwnRelay, Seat};
use crate::rtc::{self, BrowserLink};
use anyhow::{Context as _, Result, bail};
use parking_lot::Mutex;
use quinn::{Connecting, Runtime as _, TokioRuntime};
use ringback_protocol::candidate::{self, Candidate};
use ringback_protocol::envelope::{CallKeys, DIRECT_ONLY, PADS, Request};
use ringback_protocol::path::{PathSet, Role};
use ringback_protocol::receipt::Nat;
use ringback_protocol::reply::{Datagram, Reply};
use ringback_protocol::rtc::Description;
use ringback_protocol::{PeerId, SecretKey};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};

pub(crate) use addresses::Addresses;
use addresses::Ports;
use congestion::Moves;
pub(crate) use link_path::InUse;
pub(crate) use own_addresses::OwnAddresses;
pub(crate) use paths::Paths;
use quinn_socket::QuinnSocket;
use reach::Reach;
pub(crate) use relayed::Relays;
pub(crate) use search_socket::SearchSocket;
pub(crate) use socket::PathSocket;
#[cfg(fuzzing)]
pub(crate) use stun::read_answer as read_stun_answer;
use tls::Credentials;

/// Kernel buffer of the UDP socket in each direction, in bytes; what the kernel grants may be less.
const SOCKET_BUFFER: usize = 4 << 20;
/// For QUIC to make the first datagrams of a dial-back.
const FLIGHT_PATIENCE: Duration = Duration::from_millis(20);

/// Shared by everything that calls or is called.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    quic: quinn::Endpoint,
    socket: Arc<PathSocket>,
    key: SecretKey,
    credentials: Credentials,
    expected: Arc<Mutex<ExpectedCalls>>,
    own_addresses: Arc<OwnAddresses>,
    relays: Arc<Mutex<Relays>>,
    door: Arc<OnceLock<Door>>,
    link_windows: LinkWindows,
    /// Counts the changes of the host's network.
    network: Arc<watch::Sender<u64>>,
}

/// Calls whose device is expected to dial, by the link's virtual address.
type ExpectedCalls = HashMap<SocketAddr, Expected>;

#[derive(Debug)]
struct Expected {
    config: Arc<quinn::ServerConfig>,
    connecting: mpsc::Sender<Connecting>,
}

impl Endpoint {
    /// Binds the UDP port (0: any) on all addresses, and the TCP port of the same number if it is
    /// free. `loopback`: the registry is on loopback, so loopback addresses may be used for links
    /// too.
    pub(crate) async fn bind(key: &SecretKey, port: u16, loopback: bool) -> Result<Self> {
        let udp = bind(port).with_context(|| match port {
            0 => "can not open a UDP socket".to_owned(),
            port => format!("can not use UDP port {port}: is another agent using it?"),
        })?;
        let io = TokioRuntime.wrap_udp_socket(udp)?;
        let socket = Arc::new(PathSocket::new(io, loopback)?);
        socket.main().writable().await?;
        let bound = socket.main().bound()?;
        let listener =
            tcp_port::listen(bound.port(), bound.is_ipv6()).context("can not listen on TCP")?;
        let ports = Ports {
            udp: bound.port(),
            tcp: listener.local_addr()?.port(),
            fixed: port != 0,
        };
        let door = Arc::default();
        tokio::spawn(tcp::accept(listener, socket.clone(), Arc::clone(&door)));
        let credentials = Credentials::new(key)?;
        let mut config = quinn::EndpointConfig::default();
        config.grease_quic_bit(false);
        // Any server configuration opens the door; each call brings its own, with the pinned key.
        let server = credentials.server(key.id(), Moves::default())?;
        let quic = quinn::Endpoint::new_with_abstract_socket(
            config,
            Some(server),
            Arc::new(QuinnSocket(socket.clone())),
            Arc::new(TokioRuntime),
        )?;
        let expected = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(accept(quic.clone(), expected.clone()));
        Ok(Self {
            quic,
            own_addresses: Arc::new(OwnAddresses::new(socket.clone(), ports, loopback)),
            socket,
            key: key.clone(),
            credentials,
            expected,
            relays: Arc::default(),
            door,
            link_windows: LinkWindows::default(),
            network: Arc::default(),
        })
    }

    /// The UDP port in use.
    pub(crate) fn port(&self) -> u16 {
        self.own_addresses.ports.udp
    }

    /// Takes requests from the LAN by the TCP port, from now on.
    pub(crate) fn open_to_lan(&self, door: Door) {
        // Opened once, when the agent starts.
        let _ = self.door.set(door);
    }

    /// What the links of this process share.
    pub(crate) fn link_windows(&self) -> &LinkWindows {
        &self.link_windows
    }

    /// The TCP port that takes paths.
    pub(crate) fn tcp_port(&self) -> u16 {
        self.own_addresses.ports.tcp
    }

    /// What is known of the own addresses.
    pub(crate) fn own_addresses(&self) -> &Arc<OwnAddresses> {
        &self.own_addresses
    }

    /// The relays that links may use from now on; none at first.
    pub(crate) fn set_relays(&self, relays: Relays) {
        *self.relays.lock() = relays;
    }

    /// Machines of the registry's owner that relay, as the registry lists them now.
    pub(crate) fn set_own_relays(&self, own: Vec<OwnRelay>) {
        self.relays.lock().own = own;
    }

    /// Has the link take its place at the relays.
    fn use_relays(&self, paths: &Paths, keys: &CallKeys, role: Role, device: PeerId) {
        let relays = self.relays.clone();
        let seat = Seat {
            room: keys.relay,
            role,
            key: self.key.clone(),
            device,
        };
        let task = tokio::spawn(relayed::run(
            paths.downgrade(),
            relays,
            seat,
            self.network.subscribe(),
        ));
        paths.own(task.abort_handle());
    }

    /// The host's network has changed: all links look for their way anew.
    pub(crate) fn network_changed(&self) {
        self.network.send_modify(|changes| *changes += 1);
        self.socket.each_link(PathSet::network_changed);
        self.own_addresses.doubt();
    }

    /// The beacon's datagrams on the main socket, from now on.
    pub(crate) fn listen_to_beacon(&self) -> mpsc::Receiver<(SocketAddr, Vec<u8>)> {
        self.socket.listen_to_beacon()
    }

    /// Sends one datagram from the main socket.
    pub(crate) fn send_datagram(&self, to: SocketAddr, datagram: &[u8]) {
        self.socket.main().send(to, datagram);
    }

    /// As the device: dials the caller of an admitted request on all its candidates at once.
    pub(crate) fn dial(
        &self,
        caller: PeerId,
        keys: &CallKeys,
        request: &Request,
    ) -> Result<Dialling> {
        let candidates = candidate::rank(&request.candidates, self.own_addresses.loopback);
        let (paths, named) = Paths::open(&self.socket, caller, Role::Device, &keys.path, &[]);
        if request.path & PADS != 0 {
            paths.set_padding();
        }
        paths.add_candidates(&candidates);
        paths.set_nats(self.own_addresses.known().nat, request.nat);
        let mut reach = Reach::new(self.own_addresses.clone(), &paths, named);
        reach.set_candidates(&candidates);
        paths.own(tokio::spawn(reach.run()).abort_handle());
        if request.path & DIRECT_ONLY == 0 {
            self.use_relays(&paths, keys, Role::Device, self.key.id());
        }
        let config = self.credentials.client(caller, paths.moves())?;
        let connecting = self
            .quic
            .connect_with(config, paths.virtual_address(), "ringback")?;
        Ok(Dialling { connecting, paths })
    }

    /// As the device: the answer to a browser's description, and the links of which one may come
    /// about. Checks go out at once.
    pub(crate) fn dial_browser(
        &self,
        caller: PeerId,
        offer: &Description,
        nat: Nat,
    ) -> Result<(Description, mpsc::Receiver<BrowserLink>)> {
        let own = self.own_addresses.known();
        rtc::answer(
            &self.socket,
            caller,
            (offer, nat),
            &own,
            self.own_addresses.loopback,
        )
    }

    /// Are there as many browsers' links as there may be?
    pub(crate) fn is_full_of_browsers(&self) -> bool {
        self.socket.browsers().count() >= rtc::MAX_LINKS
    }

    /// As the caller: opens the paths on which `device` will dial.
    pub(crate) fn expect(
        &self,
        device: PeerId,
        keys: &CallKeys,
        hints: &[Candidate],
        direct_only: bool,
    ) -> Result<Expecting> {
        let hints = candidate::rank(hints, self.own_addresses.loopback);
        let (paths, named) = Paths::open(&self.socket, device, Role::Caller, &keys.path, &hints);
        let reach = Reach::new(self.own_addresses.clone(), &paths, named);
        let (sender, connecting) = mpsc::channel(1);
        let config = Arc::new(self.credentials.server(device, paths.moves())?);
        let address = paths.virtual_address();
        let expected = Expected {
            config,
            connecting: sender,
        };
        let mut all = self.expected.lock();
        all.insert(address, expected);
        drop(all);
        Ok(Expecting {
            endpoint: self.clone(),
            paths,
            reach: Some(reach),
            keys: keys.clone(),
            device,
            direct_only,
            connecting,
        })
    }

    /// Tells all peers that this end is going away, and waits until they know or 1 s has passed.
    pub(crate) async fn close(&self, code: u32, reason: &str) {
        self.quic.close(code.into(), reason.as_bytes());
        let _ = tokio::time::timeout(Duration::from_secs(1), self.quic.wait_idle()).await;
    }
}

/// A device's dial-back.
#[derive(Debug)]
pub(crate) struct Dialling {
    connecting: Connecting,
    paths: Paths,
}

impl Dialling {
    /// The datagrams with which it begins. Empty if QUIC is slow to make them: they are on their
    /// way by themselves, and the answer must not wait.
    pub(crate) async fn flight(&self) -> Vec<Datagram> {
        tokio::time::timeout(FLIGHT_PATIENCE, self.paths.flight())
            .await
            .unwrap_or_default()
    }

    /// The link's connection, once both keys are proven.
    pub(crate) async fn established(self) -> Result<(quinn::Connection, Paths)> {
        let connection = self.connecting.await?;
        self.paths.set_established();
        Ok((connection, self.paths))
    }
}

/// A caller's wait for the dial-back.
#[derive(Debug)]
pub(crate) struct Expecting {
    endpoint: Endpoint,
    pub(crate) paths: Paths,
    /// Until the device has answered.
    reach: Option<Reach>,
    keys: CallKeys,
    device: PeerId,
    direct_only: bool,
    connecting: mpsc::Receiver<Connecting>,
}

impl Expecting {
    /// The device has replied: where it is, its NAT, and how it dials.
    pub(crate) fn answered(&mut self, reply: &Reply) {
        let (nat, candidates) = (reply.nat, &reply.candidates);
        let candidates = candidate::rank(candidates, self.endpoint.own_addresses.loopback);
        if reply.path & PADS != 0 {
            self.paths.set_padding();
        }
        self.paths.add_candidates(&candidates);
        self.paths.receive_flight(&reply.flight);
        self.paths
            .set_nats(self.endpoint.own_addresses.known().nat, nat);
        if let Some(mut reach) = self.reach.take() {
            reach.set_candidates(&candidates);
            self.paths.own(tokio::spawn(reach.run()).abort_handle());
            if !self.direct_only {
                let endpoint = &self.endpoint;
                endpoint.use_relays(&self.paths, &self.keys, Role::Caller, self.device);
            }
        }
    }

    /// The device's next attempt.
    pub(crate) async fn connecting(&mut self) -> Result<Connecting> {
        self.connecting
            .recv()
            .await
            .context("the endpoint is closed")
    }
}

impl Drop for Expecting {
    fn drop(&mut self) {
        let mut all = self.endpoint.expected.lock();
        all.remove(&self.paths.virtual_address());
    }
}

/// Takes incoming connections from peers that are expected and drops all others silently.
async fn accept(quic: quinn::Endpoint, expected: Arc<Mutex<ExpectedCalls>>) {
    while let Some(incoming) = quic.accept().await {
        let expected = expected.lock();
        let Some(call) = expected.get(&incoming.remote_address()) else {
            incoming.ignore();
            continue;
        };
        match incoming.accept_with(call.config.clone()) {
            Ok(mut connecting) => {
                // Closed: the call was given up this very moment.
                if let Ok(place) = call.connecting.clone().try_reserve_owned() {
                    // The ClientHello fills two datagrams. Before the second one nothing is known
                    // of the device's limits, and a stream that is opened then waits for ever.
                    tokio::spawn(async move {
                        if connecting.handshake_data().await.is_ok() {
                            place.send(connecting);
                        }
                    });
                }
            }
            Err(error) => tracing::debug!(%error, "a dial-back broke off"),
        }
    }
}

/// Both address families on one socket where the host has IPv6, IPv4 alone otherwise.
pub(crate) fn bind(port: u16) -> Result<UdpSocket> {
    match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            Ok(bind_to((Ipv4Addr::UNSPECIFIED, port).into())?)
        }
        Err(error) => bail!(error),
        Ok(socket) => Ok(socket),
    }
}

fn bind_to(address: SocketAddr) -> std::io::Result<UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::DGRAM,
        Some(Protocol::UDP),
    )?;
    if address.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    // The kernel caps these; a smaller buffer is slower and nothing else.
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    Ok(socket.into())
}
