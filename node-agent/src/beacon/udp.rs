//! The beacon's UDP socket: batches in, with the address that each was sent to, and batches out.

use std::io::{self, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use anyhow::Result;
use quinn::udp::{BATCH_SIZE, RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime as _, TokioRuntime};
use ringback_protocol::beacon::Source;
use ringback_protocol::candidate::canonical;

/// Bytes kept of one datagram. Larger ones are none of ours and count as oversized.
const MAX_DATAGRAM: usize = 2304;

pub(super) struct Udp {
    io: Arc<dyn AsyncUdpSocket>,
    dual_stack: bool,
    buffers: Vec<Vec<u8>>,
}

/// Datagrams of one source, all of one length but for the last.
pub(super) struct Received<'a> {
    pub(super) from: Source,
    pub(super) batch: &'a [u8],
    pub(super) stride: usize,
}

impl Udp {
    /// On all addresses of this host.
    pub(super) async fn bind(port: u16) -> Result<Self> {
        let io = TokioRuntime.wrap_udp_socket(crate::endpoint::bind(port)?)?;
        let mut poller = io.clone().create_io_poller();
        std::future::poll_fn(|cx| poller.as_mut().poll_writable(cx)).await?;
        let buffer = vec![0; MAX_DATAGRAM * io.max_receive_segments()];
        Ok(Self {
            dual_stack: io.local_addr()?.is_ipv6(),
            buffers: vec![buffer; BATCH_SIZE],
            io,
        })
    }

    pub(super) fn port(&self) -> Result<u16> {
        Ok(self.io.local_addr()?.port())
    }

    /// Waits for datagrams and hands them over; a socket to send by comes with them.
    pub(super) async fn receive(
        &mut self,
        mut handle: impl FnMut(&Sender, Received<'_>),
    ) -> io::Result<()> {
        let mut metas = [RecvMeta::default(); BATCH_SIZE];
        let sender = self.sender();
        let mut slices: Vec<IoSliceMut<'_>> = self
            .buffers
            .iter_mut()
            .map(|buffer| IoSliceMut::new(buffer))
            .collect();
        let count =
            std::future::poll_fn(|cx| self.io.poll_recv(cx, &mut slices, &mut metas)).await?;
        for (buffer, meta) in slices.iter().zip(&metas).take(count) {
            let from = Source::Udp {
                remote: canonical(meta.addr),
                local: meta.dst_ip.map(|ip| ip.to_canonical()),
            };
            handle(
                &sender,
                Received {
                    from,
                    batch: &buffer[..meta.len],
                    stride: meta.stride.max(1),
                },
            );
        }
        Ok(())
    }

    pub(super) fn sender(&self) -> Sender {
        Sender {
            io: self.io.clone(),
            dual_stack: self.dual_stack,
        }
    }
}

/// Sends; what the socket does not take is lost, like any datagram.
pub(super) struct Sender {
    io: Arc<dyn AsyncUdpSocket>,
    dual_stack: bool,
}

impl Sender {
    /// `stride`: the length of all datagrams in `batch` but the last.
    pub(super) fn send(
        &self,
        remote: SocketAddr,
        local: Option<IpAddr>,
        batch: &[u8],
        stride: usize,
    ) {
        // Otherwise the kernel would have to cut what it can not.
        let most = self.io.max_transmit_segments().max(1) * stride;
        for part in batch.chunks(most) {
            let transmit = Transmit {
                destination: self.outward(remote),
                ecn: None,
                contents: part,
                segment_size: (part.len() > stride).then_some(stride),
                src_ip: local.map(|ip| self.outward((ip, 0).into()).ip()),
            };
            if let Err(error) = self.io.try_send(&transmit) {
                tracing::trace!(%error, "datagram not sent");
            }
        }
    }

    fn outward(&self, address: SocketAddr) -> SocketAddr {
        match address.ip() {
            IpAddr::V4(ip) if self.dual_stack => (ip.to_ipv6_mapped(), address.port()).into(),
            _ => address,
        }
    }
}
