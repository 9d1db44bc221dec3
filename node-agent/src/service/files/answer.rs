//! The answer to an operation: worked out on a thread that may wait for the disk, and sent in one frame.

use anyhow::Result;
use ringback_protocol::service::files::{FileAnswer, FileError};
use tokio::io::{AsyncWrite, AsyncWriteExt as _};

use super::fault::{Fault, Outcome};

pub(super) async fn answer(
    send: &mut (impl AsyncWrite + Unpin),
    answer: &FileAnswer,
) -> Result<()> {
    send.write_all(&answer.encode()).await?;
    Ok(send.shutdown().await?)
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Outcome<T> + Send + 'static,
) -> Outcome<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Fault::new(FileError::Io, "the agent is ending")),
    }
}

pub(super) trait IntoAnswer {
    fn into_answer(self) -> FileAnswer;
}

impl IntoAnswer for Outcome<FileAnswer> {
    fn into_answer(self) -> FileAnswer {
        self.unwrap_or_else(FileAnswer::from)
    }
}
