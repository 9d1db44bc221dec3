//! TCP paths (PROTOCOL §10.3): connections between the peers that carry their datagrams, for
//! networks that block UDP. Both ends listen on the number of their UDP port, dial each other's TCP
//! candidates, and open at the same time where both are behind NATs.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::{Buf as _, BytesMut};
use ringback_protocol::candidate::Kind;
use ringback_protocol::lan;
use ringback_protocol::path::{Class, FIRST_BYTE};
use ringback_protocol::receipt::Transport;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::attached::{Attached, attach};
use super::paths::Paths;
use super::route::DatagramSink;
use super::socket::PathSocket;
use crate::keepalive::keep_alive;
use crate::lan::Door;
use crate::nat64;
use crate::source_places::SourcePlaces;

/// Bytes of the largest datagram in a frame.
pub(crate) const MAX_DATAGRAM: usize = 2048;
/// Bytes that wait for the connection, beyond which datagrams are lost.
const QUEUE: usize = 384 * 1024;
/// Bytes that the kernel takes before they can be sent: what waits there can not be overtaken.
const NOT_SENT: u32 = 128 * 1024;
/// Unacknowledged for this long: the peer's network is gone.
const GONE: Duration = Duration::from_secs(10);
/// Written and read at once.
const BATCH: usize = 64 * 1024;
/// Connections that have not shown in this time whose they are, are closed.
const PROOF: Duration = Duration::from_secs(5);
/// Connections that have not shown it yet, at a time: from elsewhere and from the own LAN, each in all
/// and from one source.
const UNPROVEN: (usize, usize) = (64, 8);
const UNPROVEN_OF_LAN: (usize, usize) = (64, 16);

/// Takes connections until the endpoint ends. Those that do not show within [`PROOF`] that they are
/// a link's are closed without a word.
/// Requests from the LAN come in by the same `door`.
pub(super) async fn accept(
    listener: TcpListener,
    socket: Arc<PathSocket>,
    door: Arc<OnceLock<Door>>,
) {
    let [unproven, of_lan] =
        [UNPROVEN, UNPROVEN_OF_LAN].map(|(in_all, each)| SourcePlaces::new(in_all, each));
    loop {
        let accepted = listener.accept().await;
        let Ok((stream, from)) = accepted else {
            // Out of file descriptors, most likely: wait for some to come back.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let from = nat64::inward(from);
        let is_of_lan = door.get().is_some_and(|door| door.is_open_to(from.ip()));
        let places = if is_of_lan { &of_lan } else { &unproven };
        let place = places.take(from.ip());
        let (socket, door) = (socket.clone(), door.clone());
        tokio::spawn(async move {
            let proving = prove(&socket, door.get(), stream, from);
            let proven = tokio::select! {
                proven = tokio::time::timeout(PROOF, proving) => proven,
                // Its own source, or one with even more of them, has opened another one.
                () = place.lost() => return,
            };
            match proven {
                Ok(Ok(Proven::Path(carrier))) => {
                    drop(place);
                    carrier.run().await;
                }
                Ok(Ok(Proven::Request(stream, frame))) => {
                    drop(place);
                    let Some(door) = door.get() else { return };
                    if let Err(error) = door.serve_request(stream, from.ip(), &frame).await {
                        tracing::debug!("nothing for a request from the LAN: {error:#}");
                    }
                }
                _ => {}
            }
        });
    }
}

/// What the first frame of a connection shows it to be.
enum Proven {
    Path(Carrier),
    /// PROTOCOL §17; the frame without its length.
    Request(TcpStream, Vec<u8>),
}

/// The first frame of an incoming connection must be a path datagram of a link, or a request.
async fn prove(
    socket: &Arc<PathSocket>,
    door: Option<&Door>,
    mut stream: TcpStream,
    from: SocketAddr,
) -> Result<Proven> {
    let length = usize::from(stream.read_u16().await?);
    if length == 0 {
        bail!("an empty frame");
    }
    let kind = stream.read_u8().await?;
    let is_request = kind == lan::REQUEST && door.is_some_and(|door| door.is_open_to(from.ip()));
    let most = if is_request {
        lan::MAX_REQUEST
    } else {
        MAX_DATAGRAM
    };
    let is_path = kind == FIRST_BYTE;
    if !(is_request || is_path) || length > most {
        bail!("not a frame that begins anything");
    }
    let mut first = vec![kind; length];
    stream.read_exact(&mut first[1..]).await?;
    if is_request {
        return Ok(Proven::Request(stream, first));
    }
    let link = socket.link(&first).context("no such link")?;
    let (sink, halves) = split(stream)?;
    let way = (Class::Tcp, Transport::Tcp, Kind::PeerReflexive, from);
    let attached =
        attach(socket.main(), &link, way, Arc::new(sink)).context("too many connections")?;
    if !attached.receive(&first, length) {
        bail!("not authentic");
    }
    Ok(Proven::Path(Carrier { attached, halves }))
}

/// Makes `stream` a path of the link; what comes back carries its datagrams until it ends.
pub(super) fn carry(
    stream: TcpStream,
    paths: &Paths,
    kind: Kind,
    to: SocketAddr,
) -> impl Future<Output = ()> + use<> {
    let carrier = split(stream).ok().and_then(|(sink, halves)| {
        let attached = paths.attach(Class::Tcp, Transport::Tcp, kind, to, Arc::new(sink))?;
        Some(Carrier { attached, halves })
    });
    async move {
        if let Some(carrier) = carrier {
            carrier.run().await;
        }
    }
}

/// The working parts of a connection that belongs to a link.
struct Carrier {
    attached: Attached,
    halves: Halves,
}

struct Halves {
    read: OwnedReadHalf,
    write: OwnedWriteHalf,
    queue: mpsc::UnboundedReceiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// The queue of datagrams in frames.
#[derive(Debug)]
struct TcpSink {
    queue: mpsc::UnboundedSender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

fn split(stream: TcpStream) -> io::Result<(TcpSink, Halves)> {
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(&stream);
        socket.set_tcp_notsent_lowat(NOT_SENT)?;
        socket.set_tcp_user_timeout(Some(GONE))?;
    }
    let (read, write) = stream.into_split();
    let (sender, queue) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let sink = TcpSink {
        queue: sender,
        waiting: waiting.clone(),
    };
    let halves = Halves {
        read,
        write,
        queue,
        waiting,
    };
    Ok((sink, halves))
}

impl DatagramSink for TcpSink {
    fn send(&self, contents: &[u8], segment: usize) {
        let frames = frame(contents, segment);
        let waiting = self.waiting.fetch_add(frames.len(), Ordering::Relaxed);
        if waiting + frames.len() > QUEUE {
            self.waiting.fetch_sub(frames.len(), Ordering::Relaxed);
            return;
        }
        // The connection has just ended: lost like the rest.
        let _ = self.queue.send(frames);
    }
}

impl Carrier {
    async fn run(self) {
        let Self { attached, halves } = self;
        let Halves {
            mut read,
            mut write,
            mut queue,
            waiting,
        } = halves;
        let sending = async {
            let mut batch = Vec::new();
            while let Some(frames) = queue.recv().await {
                batch.clear();
                batch.extend_from_slice(&frames);
                while batch.len() < BATCH {
                    match queue.try_recv() {
                        Ok(frames) => batch.extend_from_slice(&frames),
                        Err(_) => break,
                    }
                }
                write.write_all(&batch).await?;
                waiting.fetch_sub(batch.len(), Ordering::Relaxed);
            }
            io::Result::Ok(())
        };
        let receiving = async {
            let mut frames = Frames::default();
            while read.read_buf(&mut frames.buffer).await? > 0 {
                while let Some((contents, segment)) = frames.next()? {
                    attached.receive(&contents, segment);
                }
                frames.buffer.reserve(BATCH);
            }
            io::Result::Ok(())
        };
        let result = tokio::select! {
            sent = sending => sent,
            received = receiving => received,
        };
        tracing::debug!(?result, "a TCP path ended");
    }
}

/// Each datagram behind its length in 2 bytes.
fn frame(contents: &[u8], segment: usize) -> Vec<u8> {
    let count = contents.len().div_ceil(segment);
    let mut frames = Vec::with_capacity(contents.len() + 2 * count);
    for datagram in contents.chunks(segment) {
        frames.extend_from_slice(&(datagram.len() as u16).to_be_bytes());
        frames.extend_from_slice(datagram);
    }
    frames
}

/// Takes frames apart, and datagrams of one length together.
#[derive(Debug, Default)]
struct Frames {
    buffer: BytesMut,
}

impl Frames {
    /// Whole datagrams that have arrived, all of the given length but the last, which may be
    /// shorter. A frame that is too long is an error.
    fn next(&mut self) -> io::Result<Option<(Vec<u8>, usize)>> {
        let mut contents = Vec::new();
        let mut segment = 0;
        while let Some(length) = self.length()? {
            let fits = segment == 0 || length <= segment;
            if self.buffer.len() < 2 + length || !fits {
                break;
            }
            segment = segment.max(length);
            self.buffer.advance(2);
            contents.extend_from_slice(&self.buffer.split_to(length));
            if length < segment {
                break;
            }
        }
        Ok((!contents.is_empty()).then_some((contents, segment)))
    }

    fn length(&self) -> io::Result<Option<usize>> {
        let Some((length, _)) = self.buffer.split_first_chunk::<2>() else {
            return Ok(None);
        };
        match usize::from(u16::from_be_bytes(*length)) {
            length @ 1..=MAX_DATAGRAM => Ok(Some(length)),
            _ => Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_come_apart_as_they_were_put_together() {
        let batches: [(&[u8], usize); 3] = [(&[1; 5], 5), (&[2; 7], 3), (&[3; 4], 9)];
        let stream: Vec<u8> = batches
            .iter()
            .flat_map(|(contents, segment)| frame(contents, *segment))
            .collect();
        for cut in 0..stream.len() {
            let mut frames = Frames::default();
            let mut datagrams = Vec::new();
            for part in [&stream[..cut], &stream[cut..]] {
                frames.buffer.extend_from_slice(part);
                while let Some((contents, segment)) = frames.next().unwrap() {
                    datagrams.extend(contents.chunks(segment).map(<[u8]>::to_vec));
                }
            }
            let lengths: Vec<usize> = datagrams.iter().map(Vec::len).collect();
            assert_eq!(lengths, [5, 3, 3, 1, 4], "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_of_no_or_too_many_bytes_is_refused() {
        for length in [0u16, 2049, u16::MAX] {
            let mut frames = Frames::default();
            frames.buffer.extend_from_slice(&length.to_be_bytes());
            assert!(frames.next().is_err(), "{length}");
        }
    }
}
