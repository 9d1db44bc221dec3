//! A connection that carries datagrams of a link, for as long as it lasts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use ringback_protocol::candidate::Kind;
use ringback_protocol::path::{Class, Via};
use ringback_protocol::receipt::Transport;

use super::link_path::LinkPath;
use super::main_socket::MainSocket;
use super::route::DatagramSink;

/// A connection that belongs to a link.
pub(crate) struct Attached {
    main: Arc<MainSocket>,
    link: Arc<LinkPath>,
    number: u32,
}

pub(super) fn attach(
    main: &Arc<MainSocket>,
    link: &Arc<LinkPath>,
    (class, transport, kind, address): (Class, Transport, Kind, SocketAddr),
    sink: Arc<dyn DatagramSink>,
) -> Option<Attached> {
    let number = link.next_connection.fetch_add(1, Ordering::Relaxed);
    link.connections.lock().insert(number, sink);
    let attached = Attached {
        main: main.clone(),
        link: link.clone(),
        number,
    };
    let mut paths = link.paths.lock();
    let taken = paths.add_connection(number, class, transport, kind, address, main.now());
    drop(paths);
    link.flush(main);
    taken.then_some(attached)
}

impl Attached {
    /// Datagrams of `segment` bytes each, of which the last may be shorter, have come. False:
    /// nothing of it was the peer's.
    pub(crate) fn receive(&self, contents: &[u8], segment: usize) -> bool {
        let via = Via::Connection(self.number);
        self.link.receive(&self.main, via, contents, segment)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        let mut connections = self.link.connections.lock();
        connections.remove(&self.number);
        drop(connections);
        let mut paths = self.link.paths.lock();
        paths.remove_connection(self.number, self.main.now());
        drop(paths);
        self.link.flush(&self.main);
    }
}
