//! What routers announce to all hosts of the LAN when they have started anew or have another address
//! (RFC 6886 section 3.2.1, RFC 6887 section 14.1.1): reason enough to ask for the mappings again.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::UdpSocket;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 1);
const PORT: u16 = 5350;

/// Announcements of routers; none where the port can not be shared.
pub(super) struct Announcements(Option<UdpSocket>);

impl Announcements {
    pub(super) fn listen() -> Self {
        let open = || -> std::io::Result<UdpSocket> {
            let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
            // Others on this host listen, too.
            socket.set_reuse_address(true)?;
            #[cfg(unix)]
            socket.set_reuse_port(true)?;
            socket.set_nonblocking(true)?;
            // Bound to the group: what is sent to this host alone is nobody's announcement.
            socket.bind(&SocketAddr::from((GROUP, PORT)).into())?;
            UdpSocket::from_std(socket.into())
        };
        Self(open().ok())
    }

    /// Waits for the next announcement of `router`.
    pub(super) async fn next(&mut self, router: Option<Ipv4Addr>) {
        let (Some(socket), Some(router)) = (&self.0, router) else {
            return std::future::pending().await;
        };
        let mut buffer = [0; 64];
        loop {
            match socket.recv_from(&mut buffer).await {
                Ok((_, from)) if from.ip() == IpAddr::V4(router) => return,
                Ok(_) => {}
                Err(_) => return std::future::pending().await,
            }
        }
    }
}
