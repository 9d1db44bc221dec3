//! The agent's TCP port: it listens there and connects from there, so that both ends can open at the
//! same time (PROTOCOL §10.3).

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::nat64;

const BACKLOG: u32 = 128;

/// Listens on `port`, or on any if that is taken.
pub(super) fn listen(port: u16, v6: bool) -> io::Result<TcpListener> {
    listen_on(port, v6).or_else(|_| listen_on(0, v6))
}

fn listen_on(port: u16, v6: bool) -> io::Result<TcpListener> {
    let socket = socket(v6, port)?;
    socket.listen(BACKLOG)
}

/// A socket on a local port that others of this process may use too: simultaneous open connects
/// from the port that listens.
fn socket(v6: bool, port: u16) -> io::Result<TcpSocket> {
    use std::net::{Ipv4Addr, Ipv6Addr};
    let (socket, any): (_, SocketAddr) = if v6 {
        (TcpSocket::new_v6()?, (Ipv6Addr::UNSPECIFIED, port).into())
    } else {
        (TcpSocket::new_v4()?, (Ipv4Addr::UNSPECIFIED, port).into())
    };
    socket.set_reuseaddr(true)?;
    #[cfg(unix)]
    socket.set_reuseport(true)?;
    socket.bind(any)?;
    Ok(socket)
}

/// Connects from the local port `from`, or from any if that is not possible.
pub(super) async fn connect(
    from: u16,
    to: SocketAddr,
    patience: Duration,
) -> io::Result<TcpStream> {
    let to = nat64::outward(to);
    let own = match socket(to.is_ipv6(), from) {
        Ok(own) => own,
        Err(_) => socket(to.is_ipv6(), 0)?,
    };
    match tokio::time::timeout(patience, own.connect(to)).await {
        Ok(connected) => connected,
        Err(_) => Err(io::ErrorKind::TimedOut.into()),
    }
}
