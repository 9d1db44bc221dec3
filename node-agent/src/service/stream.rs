//! Frames on a service's stream, and a stream that breaks off when it is dropped.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::stream::{RESET, StreamWriter};

/// How long a stream may take to say what it is for.
const FIRST_PATIENCE: Duration = Duration::from_secs(30);

/// Reads frames (2-byte length, tag, body) from a stream, and what is behind them.
pub(crate) struct Frames<R> {
    recv: R,
    max: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Frames over `max` bytes are an error.
    pub(crate) fn new(recv: R, max: usize) -> Self {
        Self { recv, max }
    }

    /// The first frame, which is due soon: a stream that says nothing must not hold anything.
    pub(crate) async fn first(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.first_within(FIRST_PATIENCE).await
    }

    async fn first_within(&mut self, patience: Duration) -> io::Result<Option<Vec<u8>>> {
        let frame = tokio::time::timeout(patience, self.next()).await;
        frame.unwrap_or_else(|_| {
            let error = "nothing was asked for in 30 s";
            Err(io::Error::new(io::ErrorKind::TimedOut, error))
        })
    }

    /// The next frame without its length; `None` at the end of the stream. Not to be cancelled.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut length = [0; 2];
        if self.recv.read(&mut length[..1]).await? == 0 {
            return Ok(None);
        }
        self.recv.read_exact(&mut length[1..]).await?;
        let length = usize::from(u16::from_be_bytes(length));
        if length == 0 || length > self.max {
            let error = format!(
                "a frame of {length} bytes where 1 to {} are taken",
                self.max
            );
            return Err(io::Error::new(io::ErrorKind::InvalidData, error));
        }
        let mut frame = vec![0; length];
        self.recv.read_exact(&mut frame).await?;
        Ok(Some(frame))
    }

    /// The stream behind the last frame.
    pub(crate) fn into_inner(self) -> R {
        self.recv
    }
}

/// The sending half of a stream. What is dropped before it was shut down is reset: quinn itself
/// would end it as if all had been said.
pub(crate) struct Sending {
    writer: StreamWriter,
    finished: bool,
}

impl Sending {
    pub(crate) fn new(writer: StreamWriter) -> Self {
        Self {
            writer,
            finished: false,
        }
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        if !self.finished {
            self.writer.reset(RESET);
        }
    }
}

impl AsyncWrite for Sending {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.writer).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.writer).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finished = true;
        Pin::new(&mut self.writer).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    #[tokio::test]
    async fn a_stream_that_says_nothing_or_too_much_is_over() {
        let (mut ours, theirs) = tokio::io::duplex(64);
        let mut frames = Frames::new(theirs, 16);
        // A beginning is not enough.
        ours.write_all(&[0]).await.unwrap();
        let silent = frames.first_within(Duration::from_millis(20)).await;
        assert_eq!(silent.unwrap_err().kind(), io::ErrorKind::TimedOut);
        for (frame, kind) in [
            (&[0, 17, 1][..], io::ErrorKind::InvalidData),
            (&[0, 0], io::ErrorKind::InvalidData),
            (&[0, 2, 1], io::ErrorKind::UnexpectedEof),
        ] {
            let error = Frames::new(frame, 16).first().await.unwrap_err();
            assert_eq!(error.kind(), kind, "{frame:?}");
        }
        let whole = Frames::new(&[0, 2, 7, 8][..], 16).first().await.unwrap();
        assert_eq!(whole.as_deref(), Some(&[7, 8][..]));
        assert_eq!(Frames::new(&[][..], 16).first().await.unwrap(), None);
    }
}
