//! The agent's one UDP socket itself, below all links: what leaves by it, what may, and what waits for
//! quinn beside it.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use quinn::udp::Transmit;

use super::inbox::Inbox;
use super::io::Io;
use super::restraint::Restraint;
use crate::nat64;

/// The socket that links, STUN and browsers' connections share.
pub(crate) struct MainSocket {
    pub(super) io: Io,
    /// The socket is IPv6 and takes IPv4 as mapped addresses.
    dual_stack: bool,
    started: Instant,
    pub(super) inbox: Inbox,
    restraint: Restraint,
}

impl MainSocket {
    pub(super) fn new(io: Io) -> io::Result<Self> {
        Ok(Self {
            dual_stack: io.local_addr()?.is_ipv6(),
            io,
            started: Instant::now(),
            inbox: Inbox::default(),
            restraint: Restraint::default(),
        })
    }

    /// Waits until the socket takes datagrams: a new one does not until the reactor has seen it.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let mut poller = self.io.clone().create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await
    }

    /// The address that the socket is bound to.
    pub(crate) fn bound(&self) -> io::Result<SocketAddr> {
        self.io.local_addr()
    }

    /// What may be sent to addresses that nobody has answered from.
    pub(crate) fn restraint(&self) -> &Restraint {
        &self.restraint
    }

    /// Sends datagrams of `segment` bytes, the last may be shorter, at once and all together.
    pub(crate) fn send_all(
        &self,
        to: SocketAddr,
        contents: &[u8],
        segment: usize,
    ) -> io::Result<()> {
        self.io.try_send(&Transmit {
            destination: self.outward(to),
            ecn: None,
            contents,
            segment_size: (segment < contents.len()).then_some(segment),
            src_ip: None,
        })
    }

    /// Datagrams that [`MainSocket::send_all`] takes at most.
    pub(crate) fn max_transmit_segments(&self) -> usize {
        self.io.max_transmit_segments()
    }

    /// Sends one datagram that is not QUIC's. Lost if the socket is full, like any datagram.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        let transmit = Transmit {
            destination: self.outward(to),
            ecn: None,
            contents: datagram,
            segment_size: None,
            src_ip: None,
        };
        if let Err(error) = self.io.try_send(&transmit) {
            tracing::trace!(%error, "datagram not sent");
        }
    }

    pub(super) fn started(&self) -> Instant {
        self.started
    }

    pub(super) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn outward(&self, address: SocketAddr) -> SocketAddr {
        let address = nat64::outward(address);
        match address.ip() {
            IpAddr::V4(ip) if self.dual_stack => (ip.to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }
}

impl fmt::Debug for MainSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MainSocket")
            .field("io", &self.io)
            .finish_non_exhaustive()
    }
}
