//! A stream of a link (PROTOCOL §12): the same for whoever serves or uses it, whatever carries it.
//! Both halves are tokio's `AsyncRead` and `AsyncWrite`; shutting the writer down is half-close, and
//! a writer that is dropped before resets the stream.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use quinn::{RecvStream, SendStream, VarInt};
use ringback_protocol::stream::{MAX_HEADER, Open, Opening};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf};

use crate::rtc::{ChannelReader, ChannelWriter};

/// Stream error codes (PROTOCOL §12): what is behind the stream was reset; it does not start as it
/// must.
pub(crate) const RESET: u32 = 1;
pub(crate) const BAD_HEADER: u32 = 2;

/// Both halves of a stream.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) reader: StreamReader,
    pub(crate) writer: StreamWriter,
}

#[derive(Debug)]
pub(crate) enum StreamReader {
    Quic(RecvStream),
    /// Of a browser's link.
    Channel(ChannelReader),
}

#[derive(Debug)]
pub(crate) enum StreamWriter {
    Quic(SendStream),
    Channel(ChannelWriter),
}

impl Stream {
    pub(crate) fn quic((send, recv): (SendStream, RecvStream)) -> Self {
        Self {
            reader: StreamReader::Quic(recv),
            writer: StreamWriter::Quic(send),
        }
    }

    pub(crate) fn channel((reader, writer): (ChannelReader, ChannelWriter)) -> Self {
        Self {
            reader: StreamReader::Channel(reader),
            writer: StreamWriter::Channel(writer),
        }
    }

    /// As the device: reads the `Open` of a stream that the peer has opened. A wrong start resets
    /// the stream.
    pub(crate) async fn read_open(&mut self) -> Result<Open> {
        let open = async { Ok(Open::decode(&self.reader.read_header().await?)?) }.await;
        if open.is_err() {
            self.reset(BAD_HEADER);
        }
        open
    }

    /// As the device: the answer to `Open`, before anything else is written.
    pub(crate) async fn answer(&mut self, opening: &Opening) -> io::Result<()> {
        match &mut self.writer {
            StreamWriter::Quic(send) => Ok(send.write_all(&opening.encode()).await?),
            StreamWriter::Channel(writer) => {
                writer.answer(opening);
                Ok(())
            }
        }
    }

    /// Cuts the stream off in both directions.
    pub(crate) fn reset(&mut self, code: u32) {
        self.writer.reset(code);
        self.reader.stop(code);
    }
}

impl StreamReader {
    /// The next header frame, without its length.
    pub(crate) async fn read_header(&mut self) -> Result<Vec<u8>> {
        match self {
            Self::Quic(_) => self.read_frame().await,
            Self::Channel(reader) => reader.read_header().await.context("the stream ended early"),
        }
    }

    /// A frame with a 2-byte length before it, of at most [`MAX_HEADER`] bytes.
    async fn read_frame(&mut self) -> Result<Vec<u8>> {
        let length = self
            .read_u16()
            .await
            .context("the stream ended early")?
            .into();
        if length > MAX_HEADER {
            bail!("a stream header of {length} bytes is over {MAX_HEADER}");
        }
        let mut frame = vec![0; length];
        self.read_exact(&mut frame)
            .await
            .context("the stream ended early")?;
        Ok(frame)
    }

    /// What has come, without copying it: as many `chunks` as were filled, `None` at the end.
    pub(crate) async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> io::Result<Option<usize>> {
        match self {
            Self::Quic(recv) => Ok(recv.read_chunks(chunks).await?),
            Self::Channel(reader) => reader.read_chunks(chunks).await,
        }
    }

    /// Wants no more.
    pub(crate) fn stop(&mut self, code: u32) {
        match self {
            // Gone already is as good.
            Self::Quic(recv) => drop(recv.stop(VarInt::from_u32(code))),
            Self::Channel(reader) => reader.stop(),
        }
    }
}

impl StreamWriter {
    pub(crate) async fn write_chunk(&mut self, chunk: Bytes) -> io::Result<()> {
        match self {
            Self::Quic(send) => Ok(send.write_chunk(chunk).await?),
            Self::Channel(writer) => writer.write_chunk(chunk).await,
        }
    }

    /// Half-close. The peer may have stopped the stream meanwhile, which ends it too.
    pub(crate) fn finish(&mut self) {
        match self {
            Self::Quic(send) => drop(send.finish()),
            Self::Channel(writer) => writer.finish(),
        }
    }

    /// Cuts this direction off; a browser's stream in both.
    pub(crate) fn reset(&mut self, code: u32) {
        match self {
            // Gone already is as good.
            Self::Quic(send) => drop(send.reset(VarInt::from_u32(code))),
            Self::Channel(writer) => writer.reset(code),
        }
    }

    /// Waits until the peer wants no more of this stream, or has all of it.
    pub(crate) async fn stopped(&self) {
        match self {
            Self::Quic(send) => drop(send.stopped().await),
            Self::Channel(writer) => writer.stopped().await,
        }
    }
}

impl AsyncRead for StreamReader {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(recv) => AsyncRead::poll_read(Pin::new(recv), cx, buf),
            Self::Channel(reader) => Pin::new(reader).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for StreamWriter {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Quic(send) => AsyncWrite::poll_write(Pin::new(send), cx, data),
            Self::Channel(writer) => Pin::new(writer).poll_write(cx, data),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(send) => AsyncWrite::poll_flush(Pin::new(send), cx),
            Self::Channel(writer) => Pin::new(writer).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Quic(send) => AsyncWrite::poll_shutdown(Pin::new(send), cx),
            Self::Channel(writer) => Pin::new(writer).poll_shutdown(cx),
        }
    }
}
