//! TCP Fast Open (RFC 7413): the first bytes that are written leave in the SYN, once this host has a
//! cookie of the server's. Without one, and where the kernel has no Fast Open, it is a connection
//! like any other, which asks for a cookie.

use std::io;
use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpStream;

/// Connects; with a cookie it returns before anything has been sent.
pub(super) async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let domain = Domain::for_address(address);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    ask_for_fast_open(&socket);
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(error),
    }
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable().await?;
    match stream.take_error()? {
        Some(error) => Err(error),
        None => Ok(stream),
    }
}

#[cfg(target_os = "linux")]
fn ask_for_fast_open(socket: &Socket) {
    use nix::sys::socket::{setsockopt, sockopt::TcpFastOpenConnect};
    if let Err(error) = setsockopt(socket, TcpFastOpenConnect, &true) {
        tracing::debug!("no TCP Fast Open: {error}");
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_fast_open(_: &Socket) {}
