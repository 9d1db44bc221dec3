//! A stream to a service: a data channel with the device's credit, half-close and reset.

use crate::CallError;

/// What travels on a stream behind its header (PROTOCOL §12).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Mode {
    /// The service's own bytes.
    #[default]
    Raw,
    /// One HTTP exchange.
    Http,
}

/// A stream to a service. Cheap to clone; what is dropped without [`Self::finish`] is reset.
///
/// It is a [`futures_util::io::AsyncRead`] and `AsyncWrite`, too.
#[derive(Debug, Clone)]
pub struct Stream {}

impl Stream {
    /// Waits until the device has taken or refused the stream.
    pub async fn opened(&self) -> Result<(), CallError> {
        Err(reset())
    }

    /// The next bytes, at most 64 KiB; `None`: the device sends no more.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, CallError> {
        Err(reset())
    }

    /// Returns when the bytes are taken, which the device's reading speed decides.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), CallError> {
        let _ = bytes;
        Err(reset())
    }

    /// No more will be written; reading goes on.
    pub fn finish(&self) {}

    /// Aborts both directions.
    pub fn reset(&self) {}
}

fn reset() -> CallError {
    CallError::new(crate::error::STREAM_RESET, "the stream was reset")
}
