//! The relay's TCP listener, for peers whose network blocks UDP: the same datagrams, framed. Whoever is
//! in no room has one of a few places, and not for long; members are as many as there may be rooms for.

use std::collections::HashMap;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use ringback_protocol::beacon::Source;
use ringback_protocol::candidate::canonical;
use ringback_protocol::relay::{Item, StreamReader, framed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::keepalive::keep_alive;
use crate::source_places::SourcePlaces;

/// Connections that are in no room: in all, and of one source.
const OUTSIDE: (usize, usize) = (1024, 64);
/// How long they may be.
const JOIN: Duration = Duration::from_secs(10);
/// A connection on which no datagram came for this long is closed; members ping every 20 s.
const SILENT: Duration = Duration::from_secs(65);
/// A write that takes this long has no reader.
const WRITE_TIMEOUT: Duration = Duration::from_secs(5);
/// Datagrams that wait for a connection.
const QUEUE: usize = 512;
const READ: usize = 64 * 1024;

/// What the front hears of connections.
pub(super) enum Event {
    Opened(Source, Connection),
    Datagram(Source, Bytes),
    Closed(Source),
}

/// A connection as the front knows it.
pub(super) struct Connection {
    queue: mpsc::Sender<Bytes>,
    is_member: watch::Sender<bool>,
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
    let outside = SourcePlaces::new(OUTSIDE.0, OUTSIDE.1);
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
        number += 1;
        let source = Source::Tcp(number, canonical(remote));
        let (events, outside) = (events.clone(), outside.clone());
        let (is_member, membership) = watch::channel(false);
        // Taken here, so that what is accepted is counted at once.
        let leaving = stays_outside(outside, source, membership);
        tokio::spawn(async move {
            let ended = tokio::select! {
                ended = serve(stream, source, is_member, &events) => ended,
                reason = leaving => Err(anyhow::anyhow!(reason)),
            };
            if let Err(error) = ended {
                tracing::debug!("a relay connection ended: {error:#}");
            }
            let _ = events.send(Event::Closed(source)).await;
        });
    }
}

/// Comes with a reason when the connection has been in no room for too long, or another one has got its
/// place.
fn stays_outside(
    outside: SourcePlaces,
    source: Source,
    mut is_member: watch::Receiver<bool>,
) -> impl Future<Output = &'static str> {
    let take = move || outside.take(source.address().ip());
    let mut place = Some(take());
    async move {
        // The sender is the front's; when it is gone, the connection ends by itself.
        loop {
            let own = place.take().unwrap_or_else(&take);
            let joins = async { is_member.wait_for(|is| *is).await.is_ok() };
            tokio::select! {
                joined = joins => if !joined {
                    std::future::pending::<()>().await;
                },
                () = tokio::time::sleep(JOIN) => return "it has not joined a room",
                () = own.lost() => return "there are too many that have not joined a room",
            }
            drop(own);
            let left = is_member.wait_for(|is| !*is).await.is_ok();
            if !left {
                std::future::pending::<()>().await;
            }
        }
    }
}

async fn serve(
    mut stream: TcpStream,
    source: Source,
    is_member: watch::Sender<bool>,
    events: &mpsc::Sender<Event>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    let (mut read, mut write) = stream.split();
    let (queue, mut outgoing) = mpsc::channel::<Bytes>(QUEUE);
    let connection = Connection { queue, is_member };
    events.send(Event::Opened(source, connection)).await?;
    let reading = async {
        let mut reader = StreamReader::default();
        let mut buffer = vec![0; READ];
        let mut silent_at = Instant::now() + SILENT;
        loop {
            let len = tokio::time::timeout_at(silent_at, read.read(&mut buffer))
                .await
                .context("it fell silent")??;
            if len == 0 {
                return Ok(());
            }
            reader.push(&buffer[..len]);
            while let Some(item) = reader.next_item()? {
                if let Item::Datagram(datagram) = item {
                    // Whole ones count: a byte now and then is no sign of life.
                    silent_at = Instant::now() + SILENT;
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
pub(super) struct Connections(HashMap<Source, Connection>);

impl Connections {
    pub(super) fn open(&mut self, source: Source, connection: Connection) {
        self.0.insert(source, connection);
    }

    /// Is the connection in a room now?
    pub(super) fn set_member(&self, source: &Source, is_member: bool) {
        if let Some(connection) = self.0.get(source) {
            let changes = |known: &mut bool| std::mem::replace(known, is_member) != is_member;
            connection.is_member.send_if_modified(changes);
        }
    }

    pub(super) fn close(&mut self, source: &Source) {
        self.0.remove(source);
    }

    /// Dropped if the connection does not take more, as a socket would.
    pub(super) fn send(&self, to: &Source, datagram: &[u8]) {
        if let Some(connection) = self.0.get(to) {
            let _ = connection.queue.try_send(Bytes::copy_from_slice(datagram));
        }
    }
}

/// The address and port of what listens.
pub(super) fn port(listener: &TcpListener) -> Result<u16> {
    Ok(listener
        .local_addr()
        .map(|address: SocketAddr| address.port())?)
}
