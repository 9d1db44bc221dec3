//! A socket of its own for one link: a search opens many of them (PROTOCOL §10.2), and the one that
//! is heard from stays.

use std::future::poll_fn;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::{Arc, Weak};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{Runtime as _, TokioRuntime};
use ringback_protocol::candidate::canonical;
use ringback_protocol::path::Via;

use super::link_path::{Io, LinkPath};
use super::socket::PathSocket;

/// Received at once, in bytes: a batch of segments as the kernel merges them.
const BUFFER: usize = 64 * 1024;

/// Closed with its last clone.
#[derive(Debug, Clone)]
pub(super) struct SearchSocket(Arc<Open>);

#[derive(Debug)]
struct Open {
    io: Io,
    reader: tokio::task::AbortHandle,
}

impl SearchSocket {
    pub(super) fn open(
        socket: &Arc<PathSocket>,
        link: &Arc<LinkPath>,
        number: u16,
    ) -> io::Result<Self> {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        let io = TokioRuntime.wrap_udp_socket(udp)?;
        let reading = read(
            io.clone(),
            Arc::downgrade(socket),
            Arc::downgrade(link),
            number,
        );
        let reader = tokio::spawn(reading).abort_handle();
        Ok(Self(Arc::new(Open { io, reader })))
    }

    /// One datagram; lost if the socket is full. A new socket is not known to the reactor yet and
    /// takes nothing until it is: then the datagram waits for that.
    pub(super) fn send(&self, to: SocketAddr, datagram: &[u8]) {
        match self.try_send(&transmit(to, datagram)) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let (io, datagram) = (self.0.io.clone(), datagram.to_vec());
                tokio::spawn(async move {
                    let mut poller = io.clone().create_io_poller();
                    if poll_fn(|cx| poller.as_mut().poll_writable(cx))
                        .await
                        .is_ok()
                    {
                        let _ = io.try_send(&transmit(to, &datagram));
                    }
                });
            }
            Err(error) => tracing::trace!(%error, "datagram not sent"),
            Ok(()) => {}
        }
    }

    pub(super) fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.0.io.try_send(transmit)
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

async fn read(io: Io, socket: Weak<PathSocket>, link: Weak<LinkPath>, number: u16) {
    let mut buffer = vec![0; BUFFER];
    loop {
        let mut meta = [RecvMeta::default()];
        let received = poll_fn(|cx| {
            let mut slices = [IoSliceMut::new(&mut buffer)];
            io.poll_recv(cx, &mut slices, &mut meta)
        });
        let Ok(count) = received.await else { return };
        let (Some(socket), Some(link)) = (socket.upgrade(), link.upgrade()) else {
            return;
        };
        if count == 0 {
            continue;
        }
        let [meta] = meta;
        let to = canonical(meta.addr);
        socket.receive(
            &link,
            Via::Udp { socket: number, to },
            &buffer[..meta.len],
            meta.stride.max(1),
        );
    }
}
