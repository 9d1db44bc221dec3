//! Bytes between a stream and the disk. A thread does the disk's part; a short queue between holds
//! either one up until the other has caught up.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use ringback_protocol::PeerId;
use ringback_protocol::service::files::{Entry, FileAnswer, FileError, FileRequest};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::answer::{answer, blocking};
use super::fault::{Fault, Outcome};
use super::folder::{Root, check_unchanged};
use super::upload::{Part, Uploads};
use crate::service::Folder;
use crate::service::places::{Guest, Place};

/// Bytes that go through the queue at once, and places in it.
const PIECE: usize = 256 * 1024;
const QUEUE: usize = 4;
/// Bytes that a transfer keeps while it has no place.
const WITHOUT_A_PLACE: usize = 16 * 1024;
/// And one that still does not is ended.
const GIVE_UP: Duration = Duration::from_secs(600);
/// An upload is synced when so many bytes or so much time has come together: what is lost when the
/// agent is killed.
const SYNC_EACH: u64 = 16 * 1024 * 1024;
const SYNC_INTERVAL: Duration = Duration::from_secs(2);

/// Sends a file or a part of it. A caller that does not take it, or has had its turn while others
/// wait, gives its place up, and goes on where it was when it has one again.
pub(super) async fn read(
    guest: &Guest,
    patience: Duration,
    folder: Folder,
    request: FileRequest,
    send: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let path = request.path_as_bytes().to_owned();
    let FileRequest {
        mut version,
        offset: mut at,
        length,
        size,
        ..
    } = request;
    let may_grow = size.is_some();
    let mut end = None;
    loop {
        let place = guest.place().await;
        let (folder, path, wanted) = (folder.clone(), path.clone(), version.clone());
        let opened =
            blocking(move || Root::open(&folder)?.open_file(&path, wanted.as_deref(), may_grow));
        let (file, entry) = match opened.await {
            Ok(opened) => opened,
            Err(fault) if end.is_none() => return answer(send, &fault.into()).await,
            Err(fault) => return Err(fault).context("the file could not be read to its end"),
        };
        let first = end.is_none();
        let upto = *end.get_or_insert_with(|| {
            at.saturating_add(length.unwrap_or(u64::MAX))
                .min(entry.size)
        });
        version.get_or_insert_with(|| entry.version.clone());
        let (sender, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
        let head = FileAnswer {
            entry: Some(entry.clone()),
            ..FileAnswer::default()
        };
        let reading = tokio::task::spawn_blocking(move || {
            read_pieces(&file, &entry, may_grow, at, upto, &sender)
        });
        let mut rest = Bytes::new();
        if first {
            rest = send_piece(send, head.encode().into(), &place, patience).await?;
        }
        let mut is_all = false;
        while rest.is_empty() && !place.is_wanted() {
            let Some(piece) = pieces.recv().await else {
                is_all = true;
                break;
            };
            at += piece.len() as u64;
            rest = send_piece(send, piece, &place, patience).await?;
            if rest.len() > WITHOUT_A_PLACE {
                // Read again when it is wanted.
                at -= (rest.len() - WITHOUT_A_PLACE) as u64;
                rest = Bytes::copy_from_slice(&rest[..WITHOUT_A_PLACE]);
            }
        }
        drop(pieces);
        // Without the end: bytes of two versions must not look like a file.
        reading
            .await?
            .context("the file could not be read to its end")?;
        drop(place);
        tokio::time::timeout(GIVE_UP, send.write_all(&rest))
            .await
            .context("the caller takes nothing")??;
        if is_all {
            return Ok(send.shutdown().await?);
        }
    }
}

/// Sends as much as the caller takes while the place may be kept; gives the rest.
async fn send_piece(
    send: &mut (impl AsyncWrite + Unpin),
    mut piece: Bytes,
    place: &Place,
    patience: Duration,
) -> io::Result<Bytes> {
    while !piece.is_empty() {
        match tokio::time::timeout(patience, send.write(&piece)).await {
            Ok(Ok(0)) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => piece.advance(written?),
            Err(_) => break,
        }
        if place.is_wanted() {
            break;
        }
    }
    Ok(piece)
}

/// Reads until the end, or until nobody takes it any more.
fn read_pieces(
    file: &File,
    entry: &Entry,
    may_grow: bool,
    mut at: u64,
    end: u64,
    sender: &mpsc::Sender<Bytes>,
) -> Outcome<()> {
    while at < end {
        let mut piece = BytesMut::zeroed(PIECE.min(usize::try_from(end - at).unwrap_or(PIECE)));
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            return Err(Fault::new(
                FileError::Changed,
                "the file has become shorter",
            ));
        }
        piece.truncate(read);
        at += read as u64;
        if sender.blocking_send(piece.freeze()).is_err() {
            return Ok(());
        }
    }
    check_unchanged(file, entry, may_grow)
}

/// One part of an upload, as it was asked for.
pub(super) struct Upload {
    pub(super) uploads: Arc<Uploads>,
    pub(super) caller: PeerId,
    pub(super) folder: Folder,
    pub(super) request: FileRequest,
}

/// Takes the bytes of one part of an upload. What came before a failure is kept. A caller that
/// sends nothing has no place meanwhile.
pub(super) async fn write(
    guest: &Guest,
    upload: Upload,
    recv: &mut (impl AsyncRead + Unpin),
) -> Outcome<FileAnswer> {
    let Upload {
        uploads,
        caller,
        folder,
        mut request,
    } = upload;
    let begin = request.offset;
    let mut buffer = BytesMut::new();
    loop {
        let place = guest.place().await;
        let (all, folder, asked) = (uploads.clone(), folder.clone(), request.clone());
        let begun = request.offset > begin;
        let open = move || all.open(&Root::open(&folder)?, caller, &asked, begun);
        let part = blocking(open).await?;
        let (sender, pieces) = mpsc::channel::<Bytes>(QUEUE);
        let all = uploads.clone();
        let writing = tokio::task::spawn_blocking(move || write_pieces(&all, part, pieces));
        let taken = take(
            recv,
            &mut buffer,
            &mut request.offset,
            &sender,
            (&place, uploads.patience),
        )
        .await;
        drop(sender);
        let written = match writing.await {
            Ok(written) => written,
            Err(_) => Err(Fault::new(FileError::Io, "the agent is ending")),
        };
        drop(place);
        written?;
        if taken? == Taken::All {
            return Ok(FileAnswer::default());
        }
        buffer = BytesMut::with_capacity(WITHOUT_A_PLACE);
        match tokio::time::timeout(GIVE_UP, recv.read_buf(&mut buffer)).await {
            Ok(Ok(0)) => return Ok(FileAnswer::default()),
            Ok(read) => drop(read?),
            Err(_) => return Err(Fault::new(FileError::Io, "nothing has come for 10 minutes")),
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Taken {
    All,
    /// The place is to be given up.
    Some,
}

/// Passes on what comes, as long as it comes and the place may be kept.
async fn take(
    recv: &mut (impl AsyncRead + Unpin),
    buffer: &mut BytesMut,
    offset: &mut u64,
    sender: &mpsc::Sender<Bytes>,
    (place, patience): (&Place, Duration),
) -> io::Result<Taken> {
    loop {
        if !buffer.is_empty() {
            let piece = buffer.split().freeze();
            let length = piece.len() as u64;
            // The thread has ended: it tells why.
            if sender.send(piece).await.is_err() {
                return Ok(Taken::All);
            }
            *offset = offset.saturating_add(length);
        }
        if place.is_wanted() {
            return Ok(Taken::Some);
        }
        buffer.reserve(PIECE);
        match tokio::time::timeout(patience, recv.read_buf(buffer)).await {
            Ok(Ok(0)) => return Ok(Taken::All),
            Ok(read) => drop(read?),
            Err(_) => return Ok(Taken::Some),
        }
    }
}

fn write_pieces(
    uploads: &Uploads,
    mut part: Part,
    mut pieces: mpsc::Receiver<Bytes>,
) -> Outcome<()> {
    let written = write_all_pieces(&mut part, &mut pieces);
    uploads.leave(&part);
    written
}

fn write_all_pieces(part: &mut Part, pieces: &mut mpsc::Receiver<Bytes>) -> Outcome<()> {
    let mut synced_at = Instant::now();
    while let Some(piece) = pieces.blocking_recv() {
        if let Err(fault) = part.write(&piece) {
            // What came before is as good as it was, if it can still be noted.
            let _ = part.sync();
            return Err(fault);
        }
        if part.unsynced() >= SYNC_EACH || synced_at.elapsed() >= SYNC_INTERVAL {
            part.sync()?;
            synced_at = Instant::now();
        }
    }
    part.sync()
}
