//! Bytes between a stream and the disk. A thread does the disk's part; a short queue between holds
//! either one up until the other has caught up.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bytes::{Bytes, BytesMut};
use ringback_protocol::service::files::{FileAnswer, FileError, FileRequest};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::folder::{Fault, Outcome, Root, check_unchanged};
use super::upload::{Part, Uploads};
use super::{answer, blocking};
use crate::service::Folder;

/// Bytes that go through the queue at once, and places in it.
const PIECE: usize = 256 * 1024;
const QUEUE: usize = 4;
/// An upload is synced when so many bytes or so much time has come together: what is lost when the
/// agent is killed.
const SYNC_EACH: u64 = 16 * 1024 * 1024;
const SYNC_INTERVAL: Duration = Duration::from_secs(2);

pub(super) async fn read(
    folder: Folder,
    request: FileRequest,
    send: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let FileRequest {
        path,
        version,
        offset,
        length,
        ..
    } = request;
    let opened = blocking(move || Root::open(&folder)?.open_file(&path, version.as_deref())).await;
    let (file, entry) = match opened {
        Ok(opened) => opened,
        Err(fault) => return answer(send, &fault.into()).await,
    };
    let end = offset
        .saturating_add(length.unwrap_or(u64::MAX))
        .min(entry.size);
    let head = FileAnswer {
        entry: Some(entry.clone()),
        ..FileAnswer::default()
    };
    send.write_all(&head.encode()).await?;
    let (sender, mut pieces) = mpsc::channel::<Bytes>(QUEUE);
    let reading = tokio::task::spawn_blocking(move || -> Outcome<()> {
        let mut at = offset;
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
        check_unchanged(&file, &entry)
    });
    while let Some(piece) = pieces.recv().await {
        send.write_all(&piece).await?;
    }
    // Without the end: bytes of two versions must not look like a file.
    reading
        .await?
        .context("the file could not be read to its end")?;
    Ok(send.shutdown().await?)
}

/// Takes the bytes of one part of an upload. What came before a failure is kept.
pub(super) async fn write(
    uploads: Arc<Uploads>,
    folder: Folder,
    request: FileRequest,
    recv: &mut (impl AsyncRead + Unpin),
) -> Outcome<FileAnswer> {
    let part = blocking(move || uploads.open(&Root::open(&folder)?, &request)).await?;
    let (sender, pieces) = mpsc::channel::<Bytes>(QUEUE);
    let writing = tokio::task::spawn_blocking(move || write_pieces(part, pieces));
    let mut buffer = BytesMut::new();
    let received = loop {
        buffer.reserve(PIECE);
        match recv.read_buf(&mut buffer).await {
            Ok(0) => break Ok(()),
            Ok(_) => {
                // The thread has ended: it tells why.
                if sender.send(buffer.split().freeze()).await.is_err() {
                    break Ok(());
                }
            }
            Err(error) => break Err(error),
        }
    };
    drop(sender);
    let written = match writing.await {
        Ok(written) => written,
        Err(_) => Err(Fault::new(FileError::Io, "the agent is ending")),
    };
    written?;
    received?;
    Ok(FileAnswer::default())
}

fn write_pieces(mut part: Part, mut pieces: mpsc::Receiver<Bytes>) -> Outcome<()> {
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

/// The SHA-256 of a whole file.
pub(super) fn hash(file: &File) -> io::Result<[u8; 32]> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let mut at = 0;
    loop {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(hasher.finalize().into()),
            read => {
                hasher.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
}
