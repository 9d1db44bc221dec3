//! Plain sockets that measure what a network does.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket},
    sync::Barrier,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use socket2::{Domain, Protocol, Socket, Type};

use super::{STUN, STUN6, namespace::Namespace, site::Site};

/// How long a datagram that must not arrive is waited for.
pub const SILENCE: Duration = Duration::from_millis(150);

/// Where `socket` appears to be, seen from a socket that answers nothing.
pub fn seen_by(socket: &UdpSocket, observer: &UdpSocket) -> Result<SocketAddr> {
    let token: [u8; 8] = fastrand::u64(..).to_be_bytes();
    socket.send_to(&token, observer.local_addr()?)?;
    let mut buffer = [0; 64];
    loop {
        let (length, from) = observer.recv_from(&mut buffer).context("nothing arrived")?;
        if buffer[..length] == token {
            return Ok(from);
        }
    }
}

/// Whether a datagram from one socket to an address arrives at another socket.
pub fn arrives(from: &UdpSocket, to: impl Into<SocketAddr>, at: &UdpSocket) -> Result<bool> {
    let token: [u8; 8] = fastrand::u64(..).to_be_bytes();
    let before = at.read_timeout()?;
    at.set_read_timeout(Some(SILENCE))?;
    match from.send_to(&token, to.into()) {
        // An earlier datagram may have come back as an ICMP error, which says nothing about this.
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
        sent => drop(sent?),
    }
    let deadline = Instant::now() + SILENCE;
    let mut arrived = false;
    let mut buffer = [0; 64];
    while !arrived && Instant::now() < deadline {
        match at.recv(&mut buffer) {
            Ok(length) => arrived = buffer[..length] == token,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                break;
            }
            Err(error) => return Err(error.into()),
        }
    }
    at.set_read_timeout(before)?;
    Ok(arrived)
}

/// The address that means "any" to the main host of a site.
pub fn any(site: &Site) -> IpAddr {
    if site.kind().is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    }
}

/// The STUN server's addresses, of the family that a site has.
pub fn servers(site: &Site) -> [IpAddr; 2] {
    if site.kind().is_ipv6() {
        STUN6.map(IpAddr::V6)
    } else {
        STUN.map(IpAddr::V4)
    }
}

/// The address that the world sees of a site's main host.
pub fn public(site: &Site) -> IpAddr {
    if site.kind().is_ipv6() {
        site.address6().into()
    } else {
        site.public().into()
    }
}

/// A TCP socket that is bound to a port which others may be bound to as well, and not connected.
pub fn tcp(namespace: &Namespace, local: SocketAddr) -> Result<Socket> {
    let socket = namespace.enter(|| {
        Socket::new(
            Domain::for_address(local),
            Type::STREAM,
            Some(Protocol::TCP),
        )
    })??;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&local.into())?;
    Ok(socket)
}

/// Connects such a socket, or gives up.
pub fn connect(socket: Socket, to: SocketAddr, timeout: Duration) -> Result<TcpStream> {
    socket
        .connect_timeout(&to.into(), timeout)
        .with_context(|| format!("no connection to {to}"))?;
    Ok(socket.into())
}

/// Connects two TCP sockets to each other's address at the same moment (RFC 9293, section 3.5:
/// both send a SYN and neither listens).
pub fn open_simultaneously(
    a: (Socket, SocketAddr),
    b: (Socket, SocketAddr),
    timeout: Duration,
) -> Result<[TcpStream; 2]> {
    let start = Barrier::new(2);
    let open = |(socket, _): (Socket, SocketAddr), to: SocketAddr| {
        start.wait();
        connect(socket, to, timeout)
    };
    let (a_seen, b_seen) = (a.1, b.1);
    std::thread::scope(|scope| {
        let at_b = scope.spawn(|| open(b, a_seen));
        let at_a = open(a, b_seen);
        Ok([at_a?, at_b.join().expect("no panic")?])
    })
}
