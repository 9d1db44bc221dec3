//! The device's side: requests that come in by TCP from the LAN. They are decided exactly as those
//! that the registry relays; what is none gets no answer.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use ringback_protocol::envelope::Envelope;
use ringback_protocol::frame::{Delivered, Frame, length_prefixed};
use ringback_protocol::{PeerId, lan};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};

use super::is_local;
use crate::network_watch::Network;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 16;
/// For a connection, from its first byte to its last.
const LIMIT: Duration = Duration::from_secs(5);
/// Requests in a [`WINDOW`], in all and of one caller: as the registry's (PROTOCOL §14).
const MAX_REQUESTS: u32 = 120;
const MAX_REQUESTS_PER_CALLER: u32 = 20;
const WINDOW: Duration = Duration::from_secs(60);

/// Decides on an envelope: the answer is `Answered` or `Refused`.
pub(crate) type Ask = Arc<dyn Fn(Vec<u8>) -> oneshot::Receiver<Frame> + Send + Sync>;

/// What all connections from the LAN share.
#[derive(Clone)]
pub(crate) struct Door {
    device: PeerId,
    network: watch::Receiver<Network>,
    places: Arc<Semaphore>,
    requests: Arc<Mutex<Requests>>,
    ask: Ask,
}

impl Door {
    pub(crate) fn new(device: PeerId, network: watch::Receiver<Network>, ask: Ask) -> Self {
        Self {
            device,
            network,
            places: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            requests: Arc::default(),
            ask,
        }
    }

    /// May a request come from there?
    pub(crate) fn is_open_to(&self, peer: IpAddr) -> bool {
        is_local(peer, &self.network.borrow())
    }

    /// Takes a request whose first frame has been read already: `frame` is without its length, and
    /// starts with [`lan::REQUEST`]. An error is for the log: the peer gets no answer then.
    pub(crate) async fn serve_request(
        &self,
        mut stream: impl AsyncWrite + Unpin,
        peer: IpAddr,
        frame: &[u8],
    ) -> Result<()> {
        ensure!(self.is_open_to(peer), "it does not come from the LAN");
        let Ok(_place) = self.places.try_acquire() else {
            bail!("there are {MAX_CONNECTIONS} already");
        };
        let answering = self.answer(&mut stream, frame);
        tokio::time::timeout(LIMIT, answering).await?
    }

    async fn answer(&self, stream: &mut (impl AsyncWrite + Unpin), frame: &[u8]) -> Result<()> {
        let Some((&lan::REQUEST, envelope)) = frame.split_first() else {
            bail!("it is no request");
        };
        // Checks the signature: no limit is spent by somebody else than its caller.
        let caller = match Envelope::decode(envelope)? {
            envelope if envelope.device == self.device => envelope.caller,
            _ => bail!("it is for another device"),
        };
        let taken = self
            .requests
            .lock()
            .expect("not poisoned")
            .take(caller, Instant::now());
        ensure!(taken, "there are too many");
        let answer = (self.ask)(envelope.to_vec());
        let delivered = Frame::from(Delivered { call: 0 });
        stream
            .write_all(&length_prefixed(&delivered.encode()))
            .await?;
        let answer = answer.await?;
        stream.write_all(&length_prefixed(&answer.encode())).await?;
        Ok(stream.shutdown().await?)
    }

    /// A whole connection, from its first byte.
    async fn serve(&self, mut stream: TcpStream, peer: IpAddr) -> Result<()> {
        ensure!(self.is_open_to(peer), "it does not come from the LAN");
        let reading = tokio::time::timeout(LIMIT, read_frame(&mut stream));
        let frame = reading.await??;
        self.serve_request(stream, peer, &frame).await
    }
}

/// The first frame of a connection, without its length.
async fn read_frame(stream: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>> {
    let length = usize::from(stream.read_u16().await?);
    ensure!((1..=lan::MAX_REQUEST).contains(&length), "it is too large");
    let mut frame = vec![0; length];
    // Whoever says something else than a request is not listened to any longer.
    stream.read_exact(&mut frame[..1]).await?;
    ensure!(frame[0] == lan::REQUEST, "it is no request");
    stream.read_exact(&mut frame[1..]).await?;
    Ok(frame)
}

/// Takes requests on a TCP port of its own, this one if it is free, until the process ends. Gives the
/// port.
pub(crate) fn listen(door: Door, port: u16) -> Result<u16> {
    let listener = bind(port).or_else(|_| bind(0))?;
    let port = listener.local_addr()?.port();
    // Those whose first frame is still being read.
    let reading = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    tokio::spawn(async move {
        loop {
            let (stream, peer) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "can not accept requests from the LAN");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let Ok(place) = reading.clone().try_acquire_owned() else {
                continue;
            };
            let door = door.clone();
            tokio::spawn(async move {
                let _place = place;
                if let Err(error) = door.serve(stream, peer.ip()).await {
                    tracing::debug!("a connection from the LAN got no answer: {error:#}");
                }
            });
        }
    });
    Ok(port)
}

fn bind(port: u16) -> std::io::Result<TcpListener> {
    let bind_to = |address: SocketAddr| -> std::io::Result<TcpListener> {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        // Connections of an earlier run do not hold the port.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(64)?;
        TcpListener::from_std(socket.into())
    };
    match bind_to((Ipv6Addr::UNSPECIFIED, port).into()) {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            bind_to((Ipv4Addr::UNSPECIFIED, port).into())
        }
        result => result,
    }
}

/// How many requests came in this window.
#[derive(Default)]
struct Requests {
    since: Option<Instant>,
    all: u32,
    by_caller: HashMap<PeerId, u32>,
}

impl Requests {
    fn take(&mut self, caller: PeerId, now: Instant) -> bool {
        if self.since.is_none_or(|since| now - since >= WINDOW) {
            *self = Self {
                since: Some(now),
                ..Self::default()
            };
        }
        if self.all == MAX_REQUESTS {
            return false;
        }
        let own = self.by_caller.entry(caller).or_default();
        if *own == MAX_REQUESTS_PER_CALLER {
            return false;
        }
        *own += 1;
        self.all += 1;
        true
    }
}

#[cfg(test)]
mod tests {
    use ringback_protocol::SecretKey;

    use super::*;

    #[test]
    fn requests_are_limited_by_caller_and_in_all() {
        let mut requests = Requests::default();
        let now = Instant::now();
        let caller = |seed: u8| SecretKey::from_seed(&[seed; 32]).id();
        for seed in 1..=6 {
            for _ in 0..MAX_REQUESTS_PER_CALLER {
                assert!(requests.take(caller(seed), now));
            }
            assert!(!requests.take(caller(seed), now));
        }
        assert!(!requests.take(caller(7), now), "120 in all");
        assert!(requests.take(caller(7), now + WINDOW));
    }

    #[tokio::test]
    async fn what_is_no_request_is_not_read_to_its_end() {
        for (sent, enough) in [
            (&b"\x00\x03\x0a\x01\x02"[..], true),
            // The rest never comes, and is not waited for.
            (b"\x20\x00\x08", false),
            (b"\xff\xff\x0a", false),
            (b"\x00\x00", false),
        ] {
            let (mut ours, mut theirs) = tokio::io::duplex(64);
            ours.write_all(sent).await.unwrap();
            let read = read_frame(&mut theirs).await;
            assert_eq!(read.is_ok(), enough, "{sent:?}");
        }
    }
}
