//! Datagrams of one link on their way out: those of one size to one address leave together, with
//! segmentation offload where the kernel has it.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use quinn::udp::Transmit;

use crate::endpoint::{PathSocket, SearchSocket};

/// Bytes that one call to the kernel takes at most.
const MAX_BATCH: usize = 65_000;

/// Collects datagrams and sends them.
#[derive(Debug)]
pub(super) struct Outlet {
    way: Way,
    contents: Vec<u8>,
    to: Option<SocketAddr>,
    segment: usize,
    count: usize,
    /// The last one was shorter: nothing can follow it.
    full: bool,
    pub(super) bytes: u64,
}

/// Where a link's datagrams go out.
#[derive(Debug)]
pub(super) enum Way {
    /// The agent's one socket.
    Main(Arc<PathSocket>),
    /// The socket on which a search has found the browser.
    Own(SearchSocket),
}

impl Way {
    fn max_transmit_segments(&self) -> usize {
        match self {
            Self::Main(socket) => socket.main().max_transmit_segments(),
            Self::Own(socket) => socket.max_transmit_segments(),
        }
    }

    fn send_all(&self, to: SocketAddr, contents: &[u8], segment: usize) -> io::Result<()> {
        match self {
            Self::Main(socket) => socket.main().send_all(to, contents, segment),
            Self::Own(socket) => socket.try_send(&Transmit {
                destination: to,
                ecn: None,
                contents,
                segment_size: (segment < contents.len()).then_some(segment),
                src_ip: None,
            }),
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Self::Main(socket) => socket.main().writable().await,
            Self::Own(socket) => socket.writable().await,
        }
    }
}

impl Outlet {
    pub(super) fn new(way: Way) -> Self {
        Self {
            way,
            contents: Vec::with_capacity(MAX_BATCH),
            to: None,
            segment: 0,
            count: 0,
            full: false,
            bytes: 0,
        }
    }

    /// Sends `datagram` with those before it, now or with [`Outlet::flush`].
    pub(super) async fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        let fits = self.to == Some(to)
            && !self.full
            && datagram.len() <= self.segment
            && self.count < self.way.max_transmit_segments()
            && self.contents.len() + datagram.len() <= MAX_BATCH;
        if !fits {
            self.flush().await;
            self.to = Some(to);
            self.segment = datagram.len();
        }
        self.full = datagram.len() < self.segment;
        self.contents.extend_from_slice(datagram);
        self.count += 1;
    }

    /// Sends what has been collected. Waits while the socket's buffer is full; any other trouble
    /// loses the datagrams, as the network might.
    pub(super) async fn flush(&mut self) {
        if let Some(to) = self.to.take() {
            self.bytes += self.contents.len() as u64;
            loop {
                match self.way.send_all(to, &self.contents, self.segment) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        if self.way.writable().await.is_err() {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::trace!(%error, "datagram not sent");
                        break;
                    }
                    Ok(()) => break,
                }
            }
            self.contents.clear();
            self.count = 0;
            self.full = false;
        }
    }
}
