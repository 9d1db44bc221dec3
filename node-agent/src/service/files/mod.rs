//! A folder of this host for callers (PROTOCOL §20.3): one operation per stream. `folder` is the
//! only way to the disk and does not lead out of what is exposed.

mod answer;
mod fault;
mod folder;
mod hash;
mod space;
mod transfer;
mod upload;
mod upload_files;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use ringback_protocol::PeerId;
use ringback_protocol::service::MAX_FRAME;
use ringback_protocol::service::files::{Entries, FileAnswer, FileError, FileRequest, Op};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::places::{Full, Guest};
use super::{Folder, Frames};
use answer::{IntoAnswer as _, answer, blocking};
use fault::{Fault, Outcome};
use folder::Root;
use hash::hash;
pub(crate) use space::sweep;
pub(crate) use upload::Uploads;

/// After an early answer to an upload: how long what is still on its way is taken.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// A list that is too long to be kept, and of which nothing is taken for this long, is cut off.
const LIST_PATIENCE: Duration = Duration::from_secs(10);
/// Parts of a list that wait for a caller who does not read; the thread has ended by then, mostly.
const LIST_QUEUE: usize = 16;

/// Serves one stream.
pub(super) async fn serve<R, W>(
    uploads: &Arc<Uploads>,
    caller: PeerId,
    folder: &Folder,
    recv: R,
    mut send: W,
) -> Result<()>
where
    R: AsyncRead + Unpin + Send,
    W: AsyncWrite + Unpin + Send,
{
    let mut frames = Frames::new(recv, MAX_FRAME);
    let Some(frame) = frames.first().await? else {
        bail!("no request came");
    };
    let request = match FileRequest::decode(&frame) {
        Ok(request) => request,
        Err(error) => {
            let fault = Fault::new(FileError::BadRequest, error.to_string());
            return answer(&mut send, &fault.into()).await;
        }
    };
    tracing::debug!(op = %request.op, path = request.path, "files");
    let mut recv = frames.into_inner();
    // Blocking threads are many, and not endless.
    let guest = match uploads.places.enter(caller) {
        Ok(guest) => guest,
        Err(Full(many)) => {
            let many = format!("{many} operations of this caller are under way or wait");
            let fault = Fault::new(FileError::TooMany, many);
            return answer(&mut send, &fault.into()).await;
        }
    };
    let folder = folder.clone();
    match request.op {
        Op::List => list(&guest, folder, request, &mut send).await,
        Op::Read => transfer::read(&guest, uploads.patience, folder, request, &mut send).await,
        Op::Write => {
            let upload = transfer::Upload {
                uploads: uploads.clone(),
                caller,
                folder,
                request,
            };
            let written = transfer::write(&guest, upload, &mut recv).await;
            answer(&mut send, &written.into_answer()).await?;
            // The caller is told before it has sent all: what is on its way must not turn the
            // answer into a reset.
            let mut nowhere = tokio::io::sink();
            let drain = tokio::io::copy(&mut recv, &mut nowhere);
            let _ = tokio::time::timeout(DRAIN_PATIENCE, drain).await;
            Ok(())
        }
        _ => {
            let (uploads, place) = (uploads.clone(), guest.place().await);
            let done = blocking(move || {
                let _place = place;
                at_once(&uploads, &folder, &request)
            });
            let done = done.await;
            answer(&mut send, &done.into_answer()).await
        }
    }
}

/// Operations that are one question and one answer.
fn at_once(uploads: &Uploads, folder: &Folder, request: &FileRequest) -> Outcome<FileAnswer> {
    let root = Root::open(folder)?;
    let path = request.path_as_bytes();
    let entry = |entry| FileAnswer {
        entry: Some(entry),
        writable: folder.writable,
        ..FileAnswer::default()
    };
    match &request.op {
        Op::Stat => match request.upload {
            Some(_) => uploads.received(&root, request).map(|received| FileAnswer {
                received: Some(received),
                writable: folder.writable,
                ..FileAnswer::default()
            }),
            None => root.stat(path).map(entry),
        },
        Op::Commit => uploads.commit(&root, request).map(entry),
        Op::Abandon => uploads
            .abandon(&root, request)
            .map(|()| FileAnswer::default()),
        Op::Mkdir => root.mkdir(path).map(entry),
        Op::Remove => root.remove(path).map(|()| FileAnswer::default()),
        Op::Rename => {
            let to = request.to_as_bytes();
            let to = to.ok_or_else(|| Fault::new(FileError::BadRequest, "rename to what?"))?;
            root.rename(path, to).map(entry)
        }
        Op::Hash => {
            let may_grow = request.size.is_some();
            let (file, entry) = root.open_file(path, request.version.as_deref(), may_grow)?;
            let sha256 = hash(&file, request.size)?;
            folder::check_unchanged(&file, &entry, may_grow)?;
            Ok(FileAnswer {
                entry: Some(root.with_own_name(path, entry)?),
                sha256: Some(sha256),
                ..FileAnswer::default()
            })
        }
        op => Err(Fault::new(
            FileError::BadRequest,
            format!("what is '{op}'?"),
        )),
    }
}

async fn list(
    guest: &Guest,
    folder: Folder,
    request: FileRequest,
    send: &mut (impl AsyncWrite + Unpin),
) -> Result<()> {
    let (sender, mut batches) = mpsc::channel::<Entries>(LIST_QUEUE);
    let writable = folder.writable;
    let place = guest.place().await;
    let opened = blocking(move || Root::open(&folder)?.list(request.path_as_bytes())).await;
    let listing = match opened {
        Ok(listing) => listing,
        Err(fault) => return answer(send, &fault.into()).await,
    };
    let head = FileAnswer {
        writable,
        ..FileAnswer::default()
    };
    // The place is the thread's: what is short has been read before the caller takes a byte of it.
    let reading = tokio::task::spawn_blocking(move || {
        let _place = place;
        listing.run(|entries| sender.blocking_send(Entries { entries }).is_ok())
    });
    let has_place = || !reading.is_finished();
    send_part(send, &head.encode(), has_place).await?;
    while let Some(entries) = batches.recv().await {
        send_part(send, &entries.encode(), has_place).await?;
    }
    // A list that could not be read to its end is reset.
    reading.await??;
    Ok(send.shutdown().await?)
}

/// Sends a part of a list. As long as reading it has a place, the caller has to take it.
async fn send_part(
    send: &mut (impl AsyncWrite + Unpin),
    part: &[u8],
    has_place: impl Fn() -> bool,
) -> Result<()> {
    let sending = send.write_all(part);
    tokio::pin!(sending);
    loop {
        match tokio::time::timeout(LIST_PATIENCE, &mut sending).await {
            Ok(sent) => return Ok(sent?),
            Err(_) if has_place() => bail!("the caller does not take the list"),
            Err(_) => {}
        }
    }
}

#[cfg(test)]
mod tests;
