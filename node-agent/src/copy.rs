//! Bytes between a local connection and a stream of the link, with half-close both ways.

use std::io::{self, IoSlice};

use anyhow::Result;
use bytes::{Buf as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::link::Opened;
use crate::stream::{RESET, Stream, StreamReader, StreamWriter};

/// Read at once from a local connection, in bytes.
const READ: usize = 128 * 1024;
/// Chunks of a stream written at once; each is about one datagram's worth.
const CHUNKS: usize = 64;

/// Copies both ways until both have ended. A failure on one side resets the other. Gives the bytes
/// sent into and received from the stream.
pub(crate) async fn both_ways(
    (reader, writer): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    mut stream: Stream,
) -> io::Result<(u64, u64)> {
    let result = tokio::try_join!(
        into_stream(reader, &mut stream.writer),
        out_of_stream(&mut stream.reader, writer)
    );
    if result.is_err() {
        stream.reset(RESET);
    }
    result
}

/// The same for a stream that the device has still to confirm: local data goes out meanwhile.
/// `confirmed` runs before the first byte is written out.
pub(crate) async fn with_opening(
    reader: impl AsyncRead + Unpin,
    writer: impl AsyncWrite + Unpin,
    opened: Opened,
    confirmed: impl Future<Output = ()>,
) -> Result<(u64, u64)> {
    let (mut send, mut answer) = opened.split();
    let result = tokio::try_join!(async { Ok(into_stream(reader, &mut send).await?) }, async {
        answer.confirm().await?;
        confirmed.await;
        Ok(out_of_stream(answer.stream(), writer).await?)
    },);
    if result.is_err() {
        send.reset(RESET);
        answer.stream().stop(RESET);
    }
    result
}

/// Makes the coming close of a local connection a reset: what broke off must not look like an end.
pub(crate) fn reset(tcp: &TcpStream) {
    // Gone already is as good.
    let _ = tcp.set_zero_linger();
}

async fn into_stream(
    mut reader: impl AsyncRead + Unpin,
    send: &mut StreamWriter,
) -> io::Result<u64> {
    let mut total = 0;
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(READ);
        let read = tokio::select! {
            read = reader.read_buf(&mut buffer) => read?,
            // The peer wants no more: a local side that still reads may go on.
            () = send.stopped() => return Ok(total),
        };
        if read == 0 {
            send.finish();
            return Ok(total);
        }
        total += read as u64;
        match send.write_chunk(buffer.split().freeze()).await {
            // The same, told while writing; why, its answer says.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(total),
            written => written?,
        }
    }
}

async fn out_of_stream(
    recv: &mut StreamReader,
    mut writer: impl AsyncWrite + Unpin,
) -> io::Result<u64> {
    let mut total = 0;
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    while let Some(count) = recv.read_chunks(&mut chunks).await? {
        total += chunks[..count]
            .iter()
            .map(|chunk| chunk.len() as u64)
            .sum::<u64>();
        write_all(&mut writer, &mut chunks[..count]).await?;
        writer.flush().await?;
    }
    match writer.shutdown().await {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(total),
    }
}

async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    mut chunks: &mut [Bytes],
) -> io::Result<()> {
    while !chunks.is_empty() {
        let mut slices = [IoSlice::new(&[]); CHUNKS];
        for (slice, chunk) in slices.iter_mut().zip(chunks.iter()) {
            *slice = IoSlice::new(chunk);
        }
        let mut written = writer.write_vectored(&slices[..chunks.len()]).await?;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        while let Some(first) = chunks.first_mut() {
            if written < first.len() {
                first.advance(written);
                break;
            }
            written -= first.len();
            *first = Bytes::new();
            chunks = &mut chunks[1..];
        }
    }
    Ok(())
}
