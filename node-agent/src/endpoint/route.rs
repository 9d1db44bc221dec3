//! The way that a link's data takes now, and what it is sent through.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use ringback_protocol::path::Via;

use super::search_socket::SearchSocket;

/// Where a connection's datagrams are handed over. Never waits: what does not fit is lost, as on
/// any path.
pub(crate) trait DatagramSink: Send + Sync + fmt::Debug {
    /// One datagram, or several of `segment` bytes, of which the last may be shorter.
    fn send(&self, contents: &[u8], segment: usize);
}

/// The way to send by, with what it takes to do so.
#[derive(Clone, Debug, Default)]
pub(super) enum Route {
    #[default]
    None,
    /// From the agent's own socket.
    Main(SocketAddr),
    Search(u16, SearchSocket, SocketAddr),
    Connection(u32, Arc<dyn DatagramSink>),
}

impl Route {
    pub(super) fn via(&self) -> Option<Via> {
        match self {
            Self::None => None,
            Self::Main(to) => Some(Via::udp(*to)),
            Self::Search(socket, _, to) => Some(Via::Udp {
                socket: *socket,
                to: *to,
            }),
            Self::Connection(number, _) => Some(Via::Connection(*number)),
        }
    }
}
