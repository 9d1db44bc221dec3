//! A socket of its own for one link: a search opens many of them (PROTOCOL §10.2, §19.3), and the one
//! that is heard from stays.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;

use quinn::udp::{RecvMeta, Transmit};
use quinn::{Runtime as _, TokioRuntime};

use tokio::sync::OwnedSemaphorePermit;

use super::io::Io;
use crate::nat64;

/// Received at once, in bytes: a batch of segments as the kernel merges them.
const BUFFER: usize = 64 * 1024;

/// Closed with its last clone.
#[derive(Debug, Clone)]
pub(crate) struct SearchSocket(Arc<Open>);

#[derive(Debug)]
struct Open {
    _permit: OwnedSemaphorePermit,
    io: Io,
    reader: tokio::task::AbortHandle,
}

impl SearchSocket {
    /// `sink` gets what comes in: from where, the bytes, and the bytes of each datagram in them, of
    /// which the last may be shorter. It says whether it wants more.
    pub(crate) fn open(
        permit: OwnedSemaphorePermit,
        sink: impl FnMut(SocketAddr, &[u8], usize) -> bool + Send + 'static,
    ) -> io::Result<Self> {
        // Searches are for NATs, of which IPv6 has none.
        let any: SocketAddr = match nat64::prefix() {
            None => (Ipv4Addr::UNSPECIFIED, 0).into(),
            Some(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let udp = UdpSocket::bind(any)?;
        let io = TokioRuntime.wrap_udp_socket(udp)?;
        let reader = tokio::spawn(read(io.clone(), sink)).abort_handle();
        Ok(Self(Arc::new(Open {
            _permit: permit,
            io,
            reader,
        })))
    }

    /// One datagram; lost if the socket is full. A new socket is not known to the reactor yet and
    /// takes nothing until it is: then the datagram waits for that.
    pub(crate) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        match self.try_send(&transmit(to, datagram)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let (socket, datagram) = (self.clone(), datagram.to_vec());
                tokio::spawn(async move {
                    if socket.writable().await.is_ok() {
                        let _ = socket.try_send(&transmit(to, &datagram));
                    }
                });
            }
            Err(error) => tracing::trace!(%error, "datagram not sent"),
            Ok(()) => {}
        }
    }

    pub(crate) fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.io.try_send(&Transmit {
            destination: nat64::outward(transmit.destination),
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: transmit.src_ip,
        })
    }

    /// Waits until the socket takes a datagram.
    pub(crate) async fn writable(&self) -> io::Result<()> {
        let mut poller = self.0.io.clone().create_io_poller();
        poll_fn(|cx| poller.as_mut().poll_writable(cx)).await
    }

    /// Datagrams that one transmit takes at most.
    pub(crate) fn max_transmit_segments(&self) -> usize {
        self.0.io.max_transmit_segments()
    }
}

fn transmit(to: SocketAddr, datagram: &[u8]) -> Transmit<'_> {
    Transmit {
        destination: to,
        ecn: None,
        contents: datagram,
        segment_size: None,
        src_ip: None,
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

async fn read(io: Io, mut sink: impl FnMut(SocketAddr, &[u8], usize) -> bool) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut meta = [RecvMeta::default()];
        let received = poll_fn(|cx| {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            io.poll_recv(cx, &mut slices, &mut meta)
        });
        let Ok(count) = received.await else { return };
        if count == 0 {
            continue;
        }
        let [meta] = meta;
        let contents = &buffer[..meta.len];
        if !sink(nat64::inward(meta.addr), contents, meta.stride.max(1)) {
            return;
        }
    }
}
