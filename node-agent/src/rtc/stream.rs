//! The two halves of a stream on a data channel. They and the link's driver share the pure
//! [`Channel`]: whoever changes it wakes the others.

use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use parking_lot::{Mutex, MutexGuard};
use ringback_protocol::PeerId;
use ringback_protocol::channel::{Channel, reset};
use ringback_protocol::stream::Opening;
use str0m::channel::ChannelId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::unread::{Entry, Unread};

/// The account of what the streams of all links hold.
pub(super) type UnreadStreams = Unread<PeerId, Weak<Shared>>;

/// Channels whose streams were used since the driver looked.
#[derive(Debug, Default)]
pub(super) struct Work {
    channels: Mutex<VecDeque<ChannelId>>,
    pub(super) appeared: Notify,
}

impl Work {
    pub(super) fn take(&self) -> VecDeque<ChannelId> {
        std::mem::take(&mut self.channels.lock())
    }
}

/// One stream, as its halves and the driver share it.
pub(super) struct Shared {
    id: ChannelId,
    work: Arc<Work>,
    caller: PeerId,
    unread: UnreadStreams,
    entry: Entry,
    /// For the account.
    own: Weak<Self>,
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) channel: Channel,
    /// The data channel is gone.
    gone: bool,
    /// Nobody reads any more: what comes is dropped.
    deaf: bool,
    /// What had come was thrown away, as there was no room for it: the end of it is not to be seen.
    is_cut: bool,
    /// In the driver's list of work.
    noted: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug)]
pub(crate) struct ChannelReader {
    shared: Arc<Shared>,
    rest: Bytes,
}

#[derive(Debug)]
pub(crate) struct ChannelWriter {
    shared: Arc<Shared>,
}

impl Shared {
    pub(super) fn new(
        id: ChannelId,
        work: Arc<Work>,
        (caller, unread): (PeerId, UnreadStreams),
    ) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            id,
            work,
            caller,
            entry: unread.entry(),
            unread,
            own: own.clone(),
            state: Mutex::new(State {
                channel: Channel::device(),
                gone: false,
                deaf: false,
                is_cut: false,
                noted: false,
                reader: None,
                writer: None,
            }),
        })
    }

    pub(super) fn halves(self: &Arc<Self>) -> (ChannelReader, ChannelWriter) {
        let shared = self.clone();
        let reader = ChannelReader {
            shared: shared.clone(),
            rest: Bytes::new(),
        };
        (reader, ChannelWriter { shared })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Tells the driver that there may be something to send.
    fn note(&self, state: &mut State) {
        if !state.noted && !state.gone {
            state.noted = true;
            let mut channels = self.work.channels.lock();
            channels.push_back(self.id);
            drop(channels);
            self.work.appeared.notify_one();
        }
    }

    /// As the driver: a message has come. True if there is something to answer.
    pub(super) fn handle_message(&self, message: &[u8]) -> bool {
        let mut state = self.lock();
        if let Err(violation) = state.channel.handle_message(message) {
            tracing::info!(%violation, "a browser does not keep to the protocol");
        }
        state.settle();
        let too_full = self.count(&state);
        state.wake();
        drop(state);
        if let Some(too_full) = too_full {
            too_full.cut_off();
        }
        self.lock().channel.has_message()
    }

    /// Puts down what the stream holds now. If there is too much, whose stream has to go: it must be
    /// told when no stream is locked.
    fn count(&self, state: &State) -> Option<Arc<Self>> {
        let bytes = state.channel.readable();
        let too_full = self.unread.set(self.caller, self.entry, &self.own, bytes);
        too_full.and_then(|stream| stream.upgrade())
    }

    /// Nobody has read what it holds, and there is no room for it any more.
    fn cut_off(&self) {
        tracing::info!(
            caller = %self.caller,
            "cut a stream off: too much of what this caller has sent is not read"
        );
        let mut state = self.lock();
        state.is_cut = true;
        state.channel.reset(reset::ABORTED);
        // Of a stream that had ended, a reset keeps what has come.
        while state.channel.read().is_some() {}
        self.count(&state);
        state.wake();
        self.note(&mut state);
    }

    /// As the driver: the next message to send.
    pub(super) fn poll_message(&self) -> Option<Vec<u8>> {
        let mut state = self.lock();
        state.noted = false;
        let message = state.channel.poll_message();
        // Its buffer may have room again, and the end of it may allow more.
        state.settle();
        if state.channel.writable() > 0
            && let Some(writer) = state.writer.take()
        {
            writer.wake();
        }
        message
    }

    pub(super) fn is_over(&self) -> bool {
        self.lock().channel.is_over()
    }

    /// As the driver: cuts the stream off; the Reset is still to be polled.
    pub(super) fn reset(&self, code: u32) {
        let mut state = self.lock();
        state.channel.reset(code);
        self.count(&state);
        state.wake();
    }

    /// As the driver: nothing comes or goes any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.gone = true;
        state.wake();
    }
}

impl State {
    /// What nobody reads is dropped; and a stream whose service has said all and listens no more is
    /// cut off, so that the caller need not go on.
    fn settle(&mut self) {
        if self.deaf {
            while self.channel.read().is_some() {}
            if self.channel.sent_end() && !self.channel.received_end() {
                self.channel.reset(reset::ABORTED);
            }
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }

    fn is_cut_off(&self) -> bool {
        self.gone || self.is_cut || self.channel.was_reset().is_some()
    }
}

impl ChannelReader {
    /// The stream header.
    pub(crate) async fn read_header(&mut self) -> io::Result<Vec<u8>> {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if let Some(header) = state.channel.header() {
                return Poll::Ready(Ok(header));
            }
            if state.is_cut_off() {
                return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
            }
            state.reader = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// As many `chunks` as have come, `None` at the end.
    pub(crate) async fn read_chunks(&mut self, chunks: &mut [Bytes]) -> io::Result<Option<usize>> {
        let Some(first) = poll_fn(|cx| self.poll_chunk(cx)).await? else {
            return Ok(None);
        };
        chunks[0] = first;
        let mut count = 1;
        let mut state = self.shared.lock();
        while count < chunks.len()
            && let Some(more) = state.channel.read()
        {
            chunks[count] = more.into();
            count += 1;
        }
        self.shared.count(&state);
        if state.channel.has_message() {
            self.shared.note(&mut state);
        }
        Ok(Some(count))
    }

    fn poll_chunk(&mut self, cx: &Context<'_>) -> Poll<io::Result<Option<Bytes>>> {
        if !self.rest.is_empty() {
            return Poll::Ready(Ok(Some(std::mem::take(&mut self.rest))));
        }
        let mut state = self.shared.lock();
        if let Some(data) = state.channel.read() {
            self.shared.count(&state);
            if state.channel.has_message() {
                self.shared.note(&mut state);
            }
            return Poll::Ready(Ok(Some(data.into())));
        }
        if state.channel.received_end() && !state.is_cut {
            return Poll::Ready(Ok(None));
        }
        if state.is_cut_off() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        state.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Wants no more.
    pub(crate) fn stop(&mut self) {
        self.rest = Bytes::new();
        let mut state = self.shared.lock();
        state.deaf = true;
        state.settle();
        self.shared.count(&state);
        self.shared.note(&mut state);
    }
}

impl ChannelWriter {
    /// The answer to the stream header.
    pub(crate) fn answer(&mut self, opening: &Opening) {
        let mut state = self.shared.lock();
        state.channel.answer(opening);
        self.shared.note(&mut state);
    }

    pub(crate) async fn write_chunk(&mut self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let written = poll_fn(|cx| self.poll_data(cx, &data)).await?;
            bytes::Buf::advance(&mut data, written);
        }
        Ok(())
    }

    fn poll_data(&mut self, cx: &Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let mut state = self.shared.lock();
        if state.is_cut_off() || state.channel.finished() {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let written = state.channel.write(data);
        if written > 0 || data.is_empty() {
            self.shared.note(&mut state);
            return Poll::Ready(Ok(written));
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Half-close.
    pub(crate) fn finish(&mut self) {
        let mut state = self.shared.lock();
        state.channel.finish();
        self.shared.note(&mut state);
    }

    /// Cuts the stream off in both directions.
    pub(crate) fn reset(&mut self, code: u32) {
        let mut state = self.shared.lock();
        state.channel.reset(code);
        self.shared.count(&state);
        state.wake();
        self.shared.note(&mut state);
    }

    /// Waits until the stream is cut off, or the peer has all of it.
    pub(crate) async fn stopped(&self) {
        poll_fn(|cx| {
            let mut state = self.shared.lock();
            if state.is_cut_off() || state.channel.sent_end() {
                return Poll::Ready(());
            }
            state.writer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Drop for ChannelWriter {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        if !state.channel.finished() {
            state.channel.reset(reset::ABORTED);
            self.shared.count(&state);
            state.wake();
            self.shared.note(&mut state);
        }
    }
}

impl AsyncRead for ChannelReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Some(mut chunk) = std::task::ready!(self.poll_chunk(cx))? else {
            return Poll::Ready(Ok(()));
        };
        let fits = chunk.len().min(buf.remaining());
        buf.put_slice(&chunk.split_to(fits));
        self.rest = chunk;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ChannelWriter {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_data(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use ringback_protocol::SecretKey;
    use ringback_protocol::channel::WINDOW;
    use ringback_protocol::rtc::MAX_CHANNELS;
    use ringback_protocol::stream::Open;
    use str0m::channel::ChannelConfig;

    use super::super::connection::{configuration, credentials};
    use super::*;

    #[tokio::test]
    async fn what_a_browser_sends_and_nobody_reads_is_bounded_over_all_its_streams() {
        let mut rtc = configuration(&credentials()).build(Instant::now());
        let caller = SecretKey::from_seed(&[1; 32]).id();
        let unread = UnreadStreams::default();
        let bound = MAX_CHANNELS * WINDOW as usize;
        let mut streams = Vec::new();
        for _ in 0..MAX_CHANNELS + 6 {
            let id = rtc
                .direct_api()
                .create_data_channel(ChannelConfig::default());
            let stream = Shared::new(id, Arc::default(), (caller, unread.clone()));
            let halves = stream.halves();
            let mut browser = Channel::caller(&Open::new("files"));
            browser.write(&vec![7; WINDOW as usize]);
            loop {
                while let Some(message) = browser.poll_message() {
                    stream.handle_message(&message);
                }
                if browser.write(&[7; 1 << 16]) == 0 {
                    break;
                }
            }
            browser.finish();
            while let Some(message) = browser.poll_message() {
                stream.handle_message(&message);
            }
            streams.push((stream, halves));
            let readable = |(stream, _): &(Arc<Shared>, _)| stream.lock().channel.readable();
            assert!(streams.iter().map(readable).sum::<usize>() <= bound);
        }
        let (mut whole, mut cut) = (0, 0);
        for (_, (mut reader, _writer)) in streams {
            reader.read_header().await.ok();
            let mut chunks = vec![Bytes::new(); 64];
            let mut bytes = 0;
            loop {
                match reader.read_chunks(&mut chunks).await {
                    Ok(Some(count)) => {
                        bytes += chunks[..count].iter().map(Bytes::len).sum::<usize>();
                    }
                    Ok(None) => {
                        assert_eq!(
                            bytes, WINDOW as usize,
                            "an end is told of what is whole only"
                        );
                        whole += 1;
                        break;
                    }
                    Err(_) => {
                        cut += 1;
                        break;
                    }
                }
            }
        }
        assert_eq!((whole, cut), (MAX_CHANNELS, 6));
        assert_eq!(unread.total(), 0);
    }
}
