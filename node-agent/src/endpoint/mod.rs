//! An agent's end of all its links: the UDP socket, QUIC on it, and what is known of its own
//! addresses.

mod addresses;
mod socket;
mod stun;
mod tls;

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Mutex};

use anyhow::{Context as _, Result, bail};
use quinn::{Connecting, Runtime as _, TokioRuntime};
use ringback_protocol::candidate::{self, Candidate};
use ringback_protocol::path::{PathKeys, Role};
use ringback_protocol::{PeerId, SecretKey};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::mpsc;

pub(crate) use addresses::Addresses;
use socket::PathSocket;
pub(crate) use socket::Paths;
use tls::Credentials;

/// Kernel buffer of the UDP socket in each direction, in bytes; what the kernel grants may be less.
const SOCKET_BUFFER: usize = 4 << 20;

/// Shared by everything that calls or is called.
#[derive(Debug, Clone)]
pub(crate) struct Endpoint {
    quic: quinn::Endpoint,
    socket: Arc<PathSocket>,
    credentials: Credentials,
    expected: Arc<Mutex<ExpectedCalls>>,
    loopback: bool,
}

/// Calls whose device is expected to dial, by the link's virtual address.
type ExpectedCalls = HashMap<SocketAddr, Expected>;

#[derive(Debug)]
struct Expected {
    config: Arc<quinn::ServerConfig>,
    connecting: mpsc::Sender<Connecting>,
}

impl Endpoint {
    /// Binds the UDP port (0: any) on all addresses. `loopback`: the registry is on loopback, so
    /// loopback addresses may be used for links too.
    pub(crate) async fn bind(key: &SecretKey, port: u16, loopback: bool) -> Result<Self> {
        let udp = bind(port).with_context(|| match port {
            0 => "can not open a UDP socket".to_owned(),
            port => format!("can not use UDP port {port}: is another agent using it?"),
        })?;
        let io = TokioRuntime.wrap_udp_socket(udp)?;
        let socket = Arc::new(PathSocket::new(io)?);
        socket.writable().await?;
        let credentials = Credentials::new(key)?;
        let mut config = quinn::EndpointConfig::default();
        config.grease_quic_bit(false);
        // Any server configuration opens the door; each call brings its own, with the pinned key.
        let server = credentials.server(key.id())?;
        let quic = quinn::Endpoint::new_with_abstract_socket(
            config,
            Some(server),
            socket.clone(),
            Arc::new(TokioRuntime),
        )?;
        let expected = Arc::new(Mutex::new(HashMap::new()));
        tokio::spawn(accept(quic.clone(), expected.clone()));
        Ok(Self {
            quic,
            socket,
            credentials,
            expected,
            loopback,
        })
    }

    /// The UDP port in use.
    pub(crate) fn port(&self) -> u16 {
        self.socket.bound().map_or(0, |address| address.port())
    }

    /// Finds this host's own and public addresses; at most about 3 s, with all `stun` servers
    /// asked at the same time.
    pub(crate) async fn find_addresses(&self, stun: &[String]) -> Addresses {
        addresses::find(&self.socket, stun, self.loopback).await
    }

    /// Asks one STUN server for the public address, which keeps the NAT's mapping open too.
    pub(crate) async fn public_address(&self, server: &str) -> Option<SocketAddr> {
        addresses::ask_by_name(&self.socket, server).await
    }

    /// The beacon's datagrams on the main socket, from now on.
    pub(crate) fn listen_to_beacon(&self) -> mpsc::Receiver<(SocketAddr, Vec<u8>)> {
        self.socket.listen_to_beacon()
    }

    /// Sends one datagram from the main socket.
    pub(crate) fn send_datagram(&self, to: SocketAddr, datagram: &[u8]) {
        self.socket.send(to, datagram);
    }

    /// As the device: dials `caller` on all its candidates at once and gives the link's
    /// connection once both keys are proven.
    pub(crate) async fn dial(
        &self,
        caller: PeerId,
        keys: &PathKeys,
        candidates: &[Candidate],
    ) -> Result<(quinn::Connection, Paths)> {
        let candidates = candidate::rank(candidates, self.loopback);
        let paths = self.socket.open(caller, Role::Device, keys, &candidates);
        let config = self.credentials.client(caller)?;
        let connection = self
            .quic
            .connect_with(config, paths.virtual_address(), "ringback")?
            .await?;
        paths.set_established();
        Ok((connection, paths))
    }

    /// As the caller: opens the paths on which `device` will dial.
    pub(crate) fn expect(
        &self,
        device: PeerId,
        keys: &PathKeys,
        hints: &[Candidate],
    ) -> Result<Expecting> {
        let hints = candidate::rank(hints, self.loopback);
        let paths = self.socket.open(device, Role::Caller, keys, &hints);
        let (sender, connecting) = mpsc::channel(1);
        let config = Arc::new(self.credentials.server(device)?);
        let address = paths.virtual_address();
        let expected = Expected {
            config,
            connecting: sender,
        };
        let mut all = self.expected.lock().expect("not poisoned");
        all.insert(address, expected);
        drop(all);
        Ok(Expecting {
            endpoint: self.clone(),
            paths,
            connecting,
        })
    }

    /// Tells all peers that this end is going away, and waits until they know or 1 s has passed.
    pub(crate) async fn close(&self, code: u32, reason: &str) {
        self.quic.close(code.into(), reason.as_bytes());
        let _ =
            tokio::time::timeout(std::time::Duration::from_secs(1), self.quic.wait_idle()).await;
    }
}

/// A caller's wait for the dial-back.
#[derive(Debug)]
pub(crate) struct Expecting {
    endpoint: Endpoint,
    pub(crate) paths: Paths,
    connecting: mpsc::Receiver<Connecting>,
}

impl Expecting {
    /// The device's candidates, from its reply.
    pub(crate) fn add_candidates(&self, candidates: &[Candidate]) {
        self.paths
            .add_candidates(&candidate::rank(candidates, self.endpoint.loopback));
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
        let mut all = self.endpoint.expected.lock().expect("not poisoned");
        all.remove(&self.paths.virtual_address());
    }
}

/// Takes incoming connections from peers that are expected and drops all others silently.
async fn accept(quic: quinn::Endpoint, expected: Arc<Mutex<ExpectedCalls>>) {
    while let Some(incoming) = quic.accept().await {
        let expected = expected.lock().expect("not poisoned");
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
