//! quinn's side of a [`PathSocket`]: its datagrams leave by the route of their link, and what has come
//! for it is read.

use std::io::{self, IoSliceMut};
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};
use ringback_protocol::path::{Via, is_long_header};

use super::link_path::LinkPath;
use super::route::Route;
use super::socket::PathSocket;
use crate::nat64;

/// quinn's side of a [`PathSocket`].
#[derive(Debug)]
pub(super) struct QuinnSocket(pub(super) Arc<PathSocket>);

impl QuinnSocket {
    /// Sends by every way until the peer has been heard.
    fn send_handshake(&self, link: &Arc<LinkPath>, transmit: &Transmit<'_>) {
        let stride = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        let route = link.route().via();
        let mut bare = Vec::new();
        let mut paths = link.paths.lock();
        for segment in transmit.contents.chunks(stride) {
            match route {
                Some(via) if !is_long_header(segment) => bare.push((via, segment)),
                _ => paths.send_handshake(segment),
            }
        }
        drop(paths);
        link.sent_handshake.notify_one();
        let main = self.0.main();
        link.flush(main);
        for (via, segment) in bare {
            link.send(main, via, segment);
        }
    }

    /// Sends QUIC's datagrams by the link's route, at once and all together.
    fn send_data(&self, link: &Arc<LinkPath>, transmit: &Transmit<'_>) -> io::Result<()> {
        let main = self.0.main();
        if link.marks.sent(transmit.contents.len(), || main.now()) {
            link.changed.notify_one();
        }
        let to = |destination| Transmit {
            destination,
            ecn: transmit.ecn,
            contents: transmit.contents,
            segment_size: transmit.segment_size,
            src_ip: None,
        };
        match link.route() {
            // The caller's first data, behind its answer to a handshake that came with the reply.
            Route::None => {
                self.send_handshake(link, transmit);
                Ok(())
            }
            Route::Main(address) => main.io.try_send(&to(main.outward(address))),
            Route::Search(_, socket, address) => socket.try_send(&to(address)),
            Route::Connection(_, sink) => {
                let segment = transmit.segment_size.unwrap_or(transmit.contents.len());
                sink.send(transmit.contents, segment.max(1));
                Ok(())
            }
        }
    }
}

impl AsyncUdpSocket for QuinnSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.0.main().io.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        // The last datagrams of a link that is gone go nowhere.
        let Some(link) = self.0.link_at(&transmit.destination) else {
            return Ok(());
        };
        let stride = transmit
            .segment_size
            .unwrap_or(transmit.contents.len())
            .max(1);
        if transmit.contents.chunks(stride).any(is_long_header) {
            self.send_handshake(&link, transmit);
            return Ok(());
        }
        match self.send_data(&link, transmit) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => {
                // No route, no buffers, a firewall's word: the path set finds out what it means.
                tracing::trace!(%error, "datagram not sent");
                Ok(())
            }
            sent => sent,
        }
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        let (socket, main) = (&self.0, self.0.main());
        main.inbox.register(cx.waker());
        loop {
            let drained = main.inbox.drain(bufs, meta);
            if drained > 0 {
                return Poll::Ready(Ok(drained));
            }
            let count = match main.io.poll_recv(cx, bufs, meta) {
                Poll::Ready(Ok(count)) => count,
                other => return other,
            };
            let mut for_quinn = false;
            for (buf, meta) in bufs.iter_mut().zip(meta.iter_mut()).take(count) {
                let from = nat64::inward(meta.addr);
                let stride = meta.stride.max(1);
                meta.len = socket.sort(from, &mut buf[..meta.len], stride);
                meta.dst_ip = None;
                if meta.len > 0 {
                    match socket.link_from(from) {
                        Some(link) => {
                            meta.addr = link.virtual_address;
                            link.note_data(main, Via::udp(from));
                        }
                        None => meta.len = 0,
                    }
                }
                for_quinn |= meta.len > 0;
            }
            if for_quinn {
                return Poll::Ready(Ok(count));
            }
        }
    }

    /// Always IPv6, as the virtual addresses are.
    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok((Ipv6Addr::UNSPECIFIED, self.0.main().io.local_addr()?.port()).into())
    }

    fn max_transmit_segments(&self) -> usize {
        self.0.main().io.max_transmit_segments()
    }

    fn max_receive_segments(&self) -> usize {
        self.0.main().io.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.0.main().io.may_fragment()
    }
}
