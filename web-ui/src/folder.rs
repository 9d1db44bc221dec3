//! Operations on a device's files (PROTOCOL.md, section 20.3), one stream each.

use ringback_protocol::service::{
    FrameBuffer,
    files::{Entries, Entry, FileAnswer, FileError, FileRequest, Op},
};
use ringback_wasm::{Link, Mode, Stream};

use crate::sentence::Failure;

/// Entries of one folder that are shown at most: more would only freeze the page.
const MAX_ENTRIES: usize = 20_000;

/// A stream behind the device's answer.
pub(crate) struct Answered {
    pub(crate) answer: FileAnswer,
    pub(crate) stream: Stream,
    buffer: FrameBuffer,
}

/// A folder as it was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    pub(crate) writable: bool,
    /// There are more than are shown.
    pub(crate) cut: bool,
}

/// Sends a request on a new stream, and nothing behind it yet.
pub(crate) async fn begin(
    link: &Link,
    service: &str,
    request: &FileRequest,
) -> Result<Stream, Failure> {
    let stream = link.open(service, Mode::Raw)?;
    stream.write(&request.encode()).await?;
    Ok(stream)
}

/// Reads the device's answer; a code in it is a failure.
pub(crate) async fn answered(stream: Stream) -> Result<Answered, Failure> {
    let mut buffer = FrameBuffer::default();
    let frame = next_frame(&stream, &mut buffer)
        .await?
        .ok_or_else(|| Failure::new("stream_reset", "the answer broke off"))?;
    let answer = FileAnswer::decode(&frame).map_err(misbehaved)?;
    if let Some(code) = &answer.code {
        return Err(refused(code, &answer.detail));
    }
    Ok(Answered {
        answer,
        stream,
        buffer,
    })
}

/// An operation that takes nothing but its request.
pub(crate) async fn operate(
    link: &Link,
    service: &str,
    request: &FileRequest,
) -> Result<Answered, Failure> {
    let stream = begin(link, service, request).await?;
    stream.finish();
    answered(stream).await
}

pub(crate) async fn list(link: &Link, service: &str, path: &str) -> Result<Listing, Failure> {
    let request = FileRequest::new(Op::List, path);
    let Answered {
        answer,
        stream,
        mut buffer,
    } = operate(link, service, &request).await?;
    let mut listing = Listing {
        entries: Vec::new(),
        writable: answer.writable,
        cut: false,
    };
    while let Some(frame) = next_frame(&stream, &mut buffer).await? {
        let more = Entries::decode(&frame).map_err(misbehaved)?;
        listing.entries.extend(more.entries);
        if listing.entries.len() > MAX_ENTRIES {
            listing.entries.truncate(MAX_ENTRIES);
            listing.cut = true;
            stream.reset();
            break;
        }
    }
    Ok(listing)
}

impl Answered {
    /// The next raw bytes behind the answer.
    pub(crate) async fn read(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let rest = self.buffer.take_rest();
        if !rest.is_empty() {
            return Ok(Some(rest));
        }
        Ok(self.stream.read().await?)
    }
}

/// The first `limit` bytes of a file.
pub(crate) async fn head(
    link: &Link,
    service: &str,
    path: &str,
    limit: u64,
) -> Result<Vec<u8>, Failure> {
    let request = FileRequest {
        length: Some(limit),
        ..FileRequest::new(Op::Read, path)
    };
    let mut answered = operate(link, service, &request).await?;
    let mut bytes = Vec::new();
    while let Some(more) = answered.read().await? {
        bytes.extend(more);
        if bytes.len() as u64 > limit {
            return Err(Failure::new("device_misbehaved", "more than was asked for"));
        }
    }
    Ok(bytes)
}

/// The failure of a code of section 20.3; those that other codes could be mistaken for are told
/// apart by a prefix.
pub(crate) fn refused(code: &FileError, detail: &str) -> Failure {
    let code = match code {
        FileError::NotFound => "file_not_found",
        FileError::Mismatch => "hash_differs",
        other => other.as_str(),
    };
    Failure::new(code, detail)
}

/// `folder/name`, or `name` at the top.
pub(crate) fn join(folder: &str, name: &str) -> String {
    if folder.is_empty() {
        name.to_owned()
    } else {
        format!("{folder}/{name}")
    }
}

async fn next_frame(stream: &Stream, buffer: &mut FrameBuffer) -> Result<Option<Vec<u8>>, Failure> {
    loop {
        if let Some(frame) = buffer.next_frame().map_err(misbehaved)? {
            return Ok(Some(frame));
        }
        match stream.read().await? {
            Some(bytes) => buffer.push(&bytes),
            None if buffer.is_empty() => return Ok(None),
            None => return Err(Failure::new("stream_reset", "an answer broke off")),
        }
    }
}

fn misbehaved(error: impl std::fmt::Display) -> Failure {
    Failure::new("device_misbehaved", error.to_string())
}
