//! An upload: pieces of a file of this computer over several streams, then a commit with the hash of
//! the whole. The device keeps the parts; an upload has the same name for the same file, so that it
//! goes on after whatever happened.

use std::{
    cell::{Cell, RefCell},
    rc::Rc,
};

use futures::future::{Either, select, try_join_all};
use js_sys::Uint8Array;
use ringback_protocol::service::files::{FileRequest, Op, UploadId};
use ringback_wasm::Link;
use sha2::{Digest, Sha256};
use wasm_bindgen_futures::JsFuture;
use web_sys::File;

use super::{
    name::name_of,
    progress::{Progress, State},
};
use crate::{
    folder,
    pieces::{self, PIECE, Pieces, Range},
    queue::STREAMS,
    sentence::Failure,
};

/// Bytes that are read of the file at a time.
const READ: u64 = 256 << 10;

#[derive(Clone)]
pub(super) struct Upload {
    path: String,
    file: File,
    replace: bool,
    id: UploadId,
    /// Kept from one run to the next: the file is hashed once.
    sha256: Rc<Cell<Option<[u8; 32]>>>,
}

impl Upload {
    pub(super) fn new(path: &str, file: File, replace: bool) -> Self {
        let id = name_of(&[
            path,
            &file.name(),
            &(file.size() as u64).to_string(),
            &(file.last_modified() as i64).to_string(),
        ]);
        Self {
            path: path.to_owned(),
            file,
            replace,
            id,
            sha256: Rc::default(),
        }
    }

    pub(super) async fn run(
        &self,
        progress: Progress,
        link: &Link,
        service: &str,
    ) -> Result<(), Failure> {
        let size = self.file.size() as u64;
        let have = self.received(link, service).await?;
        let sent = Cell::new(pieces::total(&have));
        progress.note(sent.get());
        let todo = RefCell::new(Pieces::new(size, &have, PIECE));
        let carrying = async {
            if size == 0 {
                // Without any part there would be nothing to commit.
                self.piece(progress, link, service, size, (0, 0), &sent)
                    .await?;
            }
            let streams = (0..STREAMS).map(|_| async {
                while let Some(piece) = { todo.borrow_mut().take() } {
                    self.piece(progress, link, service, size, piece, &sent)
                        .await?;
                }
                Ok::<_, Failure>(())
            });
            try_join_all(streams).await?;
            progress.turn_to(State::Checking);
            Ok::<_, Failure>(())
        };
        let (_, sha256) = futures::try_join!(carrying, self.hash())?;
        let request = FileRequest {
            size: Some(size),
            sha256: Some(sha256),
            upload: Some(self.id),
            keep: !self.replace,
            modified_ms: Some(self.file.last_modified().max(0.0) as u64),
            ..FileRequest::new(Op::Commit, &self.path)
        };
        folder::operate(link, service, &request).await?;
        Ok(())
    }

    /// What of this upload is on the device's disk.
    async fn received(&self, link: &Link, service: &str) -> Result<Vec<Range>, Failure> {
        let request = FileRequest {
            upload: Some(self.id),
            ..FileRequest::new(Op::Stat, &self.path)
        };
        match folder::operate(link, service, &request).await {
            Ok(answered) => Ok(answered
                .answer
                .received
                .unwrap_or_default()
                .into_iter()
                .map(|range| (range.0, range.1))
                .collect()),
            Err(failure) if failure.is("file_not_found") => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    async fn piece(
        &self,
        progress: Progress,
        link: &Link,
        service: &str,
        size: u64,
        (start, end): Range,
        sent: &Cell<u64>,
    ) -> Result<(), Failure> {
        let request = FileRequest {
            offset: start,
            size: Some(size),
            upload: Some(self.id),
            ..FileRequest::new(Op::Write, &self.path)
        };
        let stream = folder::begin(link, service, &request).await?;
        let sending = async {
            let mut at = start;
            while at < end {
                let until = end.min(at + READ);
                let bytes = self.read(at, until).await?;
                stream.write(&bytes).await?;
                at = until;
                sent.set(sent.get() + bytes.len() as u64);
                progress.note(sent.get());
            }
            stream.finish();
            Ok::<_, Failure>(())
        };
        // An error may come while bytes are still sent: the disk is full, say.
        let answer = folder::answered(stream.clone());
        match select(Box::pin(sending), Box::pin(answer)).await {
            Either::Left((Ok(()), answer)) => answer.await.map(drop),
            Either::Left((Err(failure), answer)) => match answer.await {
                // What the device says is the reason; that the stream broke is what follows.
                Err(reason) if !reason.is("stream_reset") => Err(reason),
                _ => Err(failure),
            },
            Either::Right((Ok(_), _)) => Err(Failure::new(
                "device_misbehaved",
                "an answer came too early",
            )),
            Either::Right((Err(failure), _)) => Err(failure),
        }
    }

    async fn hash(&self) -> Result<[u8; 32], Failure> {
        const AT_ONCE: u64 = 1 << 20;
        if let Some(known) = self.sha256.get() {
            return Ok(known);
        }
        let size = self.file.size() as u64;
        let mut hash = Sha256::new();
        let mut at = 0;
        while at < size {
            let until = size.min(at + AT_ONCE);
            hash.update(self.read(at, until).await?);
            at = until;
        }
        let sha256 = hash.finalize().into();
        self.sha256.set(Some(sha256));
        Ok(sha256)
    }

    async fn read(&self, start: u64, end: u64) -> Result<Vec<u8>, Failure> {
        let unreadable = |error| Failure::new("unreadable", format!("{error:?}"));
        let part = self
            .file
            .slice_with_f64_and_f64(start as f64, end as f64)
            .map_err(unreadable)?;
        let buffer = JsFuture::from(part.array_buffer())
            .await
            .map_err(unreadable)?;
        let bytes = Uint8Array::new(&buffer).to_vec();
        if bytes.len() as u64 != end - start {
            return Err(Failure::new("unreadable", "the file has become shorter"));
        }
        Ok(bytes)
    }

    /// Tells the device to forget the parts.
    pub(super) async fn abandon(&self, link: &Link, service: &str) {
        let request = FileRequest {
            upload: Some(self.id),
            ..FileRequest::new(Op::Abandon, &self.path)
        };
        let _ = folder::operate(link, service, &request).await;
    }
}
