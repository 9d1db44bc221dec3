//! The relay's TCP listener, for peers whose network blocks UDP: the same datagrams, framed.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use parking_lot::Mutex;
use ringback_protocol::beacon::Source;
use ringback_protocol::candidate::{canonical, counted_as};
use ringback_protocol::relay::{Item, StreamReader, framed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::keepalive::keep_alive;

/// Connections in all, and of one address.
const MAX_CONNECTIONS: usize = 4096;
const MAX_PER_ADDRESS: usize = 64;
/// A connection on which nothing came for this long is closed; members ping every 20 s.
const SILENT: Duration = Duration::from_secs(65);
/// For the first datagram.
const FIRST: Duration = Duration::from_secs(10);
/// A write that takes this long has no reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Datagrams that wait for a connection.
const QUEUE: usize = 512;
const READ: usize = 64 * 1024;

/// What the front hears of connections.
pub(super) enum Event {
    Opened(Source, mpsc::Sender<Bytes>),
    Datagram(Source, Bytes),
    Closed(Source),
}

/// On all addresses of this host.
pub(super) async fn listen(port: u16) -> Result<TcpListener> {
    match TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).await {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?)
        }
        other => Ok(other?),
    }
}

/// Accepts until the front is gone.
pub(super) async fn accept(listener: TcpListener, events: mpsc::Sender<Event>) {
    let open = Arc::<Mutex<HashMap<IpAddr, usize>>>::default();
    let mut number = 0;
    while !events.is_closed() {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No file descriptors, for instance: that passes.
                tracing::warn!("can not accept a connection: {error}");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let remote = canonical(remote);
        let Some(place) = Place::take(&open, counted_as(remote.ip())) else {
            tracing::debug!("a connection more than allowed was closed");
            continue;
        };
        number += 1;
        let source = Source::Tcp(number, remote);
        let events = events.clone();
        tokio::spawn(async move {
            if let Err(error) = serve(stream, source, &events).await {
                tracing::debug!("a relay connection ended: {error:#}");
            }
            let _ = events.send(Event::Closed(source)).await;
            drop(place);
        });
    }
}

/// One of the connections that are allowed.
struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    of: IpAddr,
}

impl Place {
    fn take(open: &Arc<Mutex<HashMap<IpAddr, usize>>>, of: IpAddr) -> Option<Self> {
        let mut counts = open.lock();
        let in_all: usize = counts.values().sum();
        let own = counts.get(&of).copied().unwrap_or(0);
        if in_all >= MAX_CONNECTIONS || own >= MAX_PER_ADDRESS {
            return None;
        }
        counts.insert(of, own + 1);
        drop(counts);
        Some(Self {
            open: open.clone(),
            of,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.open.lock();
        if let Some(count) = counts.get_mut(&self.of) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.of);
            }
        }
    }
}

async fn serve(mut stream: TcpStream, source: Source, events: &mpsc::Sender<Event>) -> Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    let (mut read, mut write) = stream.split();
    let (queue, mut outgoing) = mpsc::channel::<Bytes>(QUEUE);
    events.send(Event::Opened(source, queue)).await?;
    let reading = async {
        let mut reader = StreamReader::default();
        let mut buffer = vec![0; READ];
        let mut patience = FIRST;
        loop {
            let len = tokio::time::timeout(patience, read.read(&mut buffer))
                .await
                .context("it fell silent")??;
            if len == 0 {
                return Ok(());
            }
            patience = SILENT;
            reader.push(&buffer[..len]);
            while let Some(item) = reader.next_item()? {
                if let Item::Datagram(datagram) = item {
                    let datagram = Bytes::copy_from_slice(datagram);
                    events.send(Event::Datagram(source, datagram)).await?;
                }
            }
        }
    };
    let writing = async {
        let mut out = Vec::with_capacity(READ);
        while let Some(first) = outgoing.recv().await {
            let mut next = Some(first);
            while let Some(datagram) = next {
                out.extend(framed(&datagram).unwrap_or_default());
                next = (out.len() < READ / 2)
                    .then(|| outgoing.try_recv().ok())
                    .flatten();
            }
            tokio::time::timeout(WRITE_TIMEOUT, write.write_all(&out))
                .await
                .context("nobody reads it")??;
            out.clear();
        }
        bail!("the beacon is going away")
    };
    tokio::select! {
        ended = reading => ended,
        ended = writing => ended,
    }
}

/// The connections, as the front sends by them.
#[derive(Default)]
pub(super) struct Connections(HashMap<Source, mpsc::Sender<Bytes>>);

impl Connections {
    pub(super) fn open(&mut self, source: Source, queue: mpsc::Sender<Bytes>) {
        self.0.insert(source, queue);
    }

    pub(super) fn close(&mut self, source: &Source) {
        self.0.remove(source);
    }

    /// Dropped if the connection does not take more, as a socket would.
    pub(super) fn send(&self, to: &Source, datagram: &[u8]) {
        if let Some(queue) = self.0.get(to) {
            let _ = queue.try_send(Bytes::copy_from_slice(datagram));
        }
    }
}

/// The address and port of what listens.
pub(super) fn port(listener: &TcpListener) -> Result<u16> {
    Ok(listener
        .local_addr()
        .map(|address: SocketAddr| address.port())?)
}
