//! A stream to a service: a data channel with the device's credit, half-close and reset
//! (PROTOCOL §12, §19.2).

use std::cell::{Cell, RefCell};
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use futures_util::io::{AsyncRead, AsyncWrite};
use js_sys::Uint8Array;
use ringback_protocol::channel::{self, Channel, Reset, reset};
use ringback_protocol::stream::{Open, Opening};
use wasm_bindgen::prelude::*;
use web_sys::{MessageEvent, RtcDataChannel, RtcDataChannelState};

use crate::CallError;
use crate::clock::Signal;
use crate::error::{DEVICE_MISBEHAVED, LINK_CLOSED, STREAM_RESET};
use crate::explanation::{explain_refused_stream, explain_reset};

/// Bytes that wait in the browser's channel: above the first nothing is added, and below the second
/// it is filled again. Enough for a long round trip, and little enough that streams share fairly.
const BUFFER_HIGH: u32 = 512 * 1024;
const BUFFER_LOW: u32 = 128 * 1024;

/// A stream to a service. Cheap to clone; when the last clone is dropped, what was not finished is
/// reset, and so is what the device still sends.
///
/// It is an [`AsyncRead`] and [`AsyncWrite`], too.
#[derive(Debug, Clone)]
pub struct Stream {
    handle: Rc<Handle>,
}

#[derive(Debug)]
struct Handle {
    core: Rc<Core>,
    /// Keeps the link as long as one of its streams is in use.
    _link: Rc<dyn Carrier>,
}

/// What carries streams, and is told what becomes of them: the link.
pub(crate) trait Carrier: std::fmt::Debug {
    /// A stream is opened.
    fn keep(&self, stream: Rc<Core>);

    /// A stream's channel is closed.
    fn forget(&self, stream: &Rc<Core>);

    /// The device has reset a stream.
    fn heard_reset(&self, code: u32);
}

/// What outlives the user's handle: data that was written and finished is still sent.
pub(crate) struct Core {
    data_channel: RtcDataChannel,
    channel: RefCell<Channel>,
    opening: RefCell<Option<Result<(), CallError>>>,
    /// Why no more comes or goes, if that is not the stream's own doing.
    broken: RefCell<Option<CallError>>,
    /// Taken from the channel, and not yet from here: the data and what of it was read.
    portion: RefCell<(Vec<u8>, usize)>,
    /// Nobody will read what comes.
    unread: Cell<bool>,
    changed: Signal,
    handlers: RefCell<Option<Handlers>>,
}

/// Kept for as long as the channel may call them.
#[expect(dead_code, reason = "called by the browser")]
struct Handlers {
    message: Closure<dyn FnMut(MessageEvent)>,
    room: Closure<dyn FnMut()>,
    close: Closure<dyn FnMut()>,
}

impl Stream {
    pub(crate) fn new(data_channel: RtcDataChannel, open: &Open, link: Rc<dyn Carrier>) -> Self {
        let core = Rc::new(Core {
            data_channel,
            channel: RefCell::new(Channel::caller(open)),
            opening: RefCell::new(None),
            broken: RefCell::new(None),
            portion: RefCell::default(),
            unread: Cell::new(false),
            changed: Signal::default(),
            handlers: RefCell::new(None),
        });
        Core::listen(&core, Rc::downgrade(&link));
        link.keep(Rc::clone(&core));
        core.pump();
        Self {
            handle: Rc::new(Handle { core, _link: link }),
        }
    }

    /// Waits until the device has taken or refused the stream.
    pub async fn opened(&self) -> Result<(), CallError> {
        let core = &self.handle.core;
        core.changed
            .wait(|| {
                let opening = core.opening.borrow().clone();
                opening.or_else(|| core.failure().map(Err))
            })
            .await
    }

    /// The next bytes, at most 64 KiB; `None`: the device sends no more.
    pub async fn read(&self) -> Result<Option<Vec<u8>>, CallError> {
        std::future::poll_fn(|context| self.handle.core.poll_read(context)).await
    }

    /// Returns when the bytes are taken, which the device's reading speed decides.
    pub async fn write(&self, bytes: &[u8]) -> Result<(), CallError> {
        let mut rest = bytes;
        while !rest.is_empty() {
            let core = &self.handle.core;
            let taken = std::future::poll_fn(|context| core.poll_write(context, rest)).await?;
            rest = &rest[taken..];
        }
        Ok(())
    }

    /// No more will be written; reading goes on.
    pub fn finish(&self) {
        let core = &self.handle.core;
        core.channel.borrow_mut().finish();
        core.pump();
    }

    /// Nothing that comes is wanted any more: it is thrown away, and once this side has finished, the
    /// device is told to stop.
    pub fn stop_reading(&self) {
        let core = &self.handle.core;
        core.unread.set(true);
        core.pump();
    }

    /// Aborts both directions. Nothing happens if both have ended.
    pub fn reset(&self) {
        self.handle.core.reset(reset::ABORTED);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.core.unread.set(true);
        if !self.core.channel.borrow().finished() {
            self.core.reset(reset::ABORTED);
        }
        self.core.pump();
    }
}

impl Core {
    fn listen(core: &Rc<Self>, link: std::rc::Weak<dyn Carrier>) {
        let weak = Rc::downgrade(core);
        let told = link.clone();
        let on_message = Closure::<dyn FnMut(_)>::new(move |event: MessageEvent| {
            let Some(core) = weak.upgrade() else { return };
            core.take(&event);
            if let (Some(code), Some(link)) = (core.reset_by_device(), told.upgrade()) {
                link.heard_reset(code);
            }
        });
        let weak = Rc::downgrade(core);
        let on_room = Closure::<dyn FnMut()>::new(move || {
            if let Some(core) = weak.upgrade() {
                core.pump();
                core.changed.wake();
            }
        });
        let weak = Rc::downgrade(core);
        let on_close = Closure::<dyn FnMut()>::new(move || {
            let Some(core) = weak.upgrade() else { return };
            core.fail(CallError::new(
                STREAM_RESET,
                "the stream broke off before its end",
            ));
            if let Some(link) = link.upgrade() {
                link.forget(&core);
            }
        });
        let channel = &core.data_channel;
        channel.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        channel.set_onopen(Some(on_room.as_ref().unchecked_ref()));
        channel.set_onbufferedamountlow(Some(on_room.as_ref().unchecked_ref()));
        channel.set_buffered_amount_low_threshold(BUFFER_LOW);
        channel.set_onclose(Some(on_close.as_ref().unchecked_ref()));
        let handlers = Handlers {
            message: on_message,
            room: on_room,
            close: on_close,
        };
        core.handlers.replace(Some(handlers));
    }

    fn take(&self, event: &MessageEvent) {
        let bytes = Uint8Array::new(&event.data()).to_vec();
        let mut channel = self.channel.borrow_mut();
        if let Err(violation) = channel.handle_message(&bytes) {
            let message = format!("the device broke the protocol: {violation}");
            self.break_off(CallError::new(DEVICE_MISBEHAVED, message));
        }
        if let Some(opening) = channel.opening() {
            let result = match opening {
                Ok(Opening::Opened) => Ok(()),
                Ok(Opening::Refused(refused)) => Err(explain_refused_stream(&refused)),
                Err(malformed) => {
                    channel.reset(reset::VIOLATION);
                    let message = format!("the device broke the protocol: {malformed}");
                    Err(CallError::new(DEVICE_MISBEHAVED, message))
                }
            };
            self.opening.replace(Some(result));
        }
        drop(channel);
        self.pump();
        self.changed.wake();
    }

    /// Sends what there is to send and room for.
    fn pump(&self) {
        if self.data_channel.ready_state() != RtcDataChannelState::Open {
            return;
        }
        let mut channel = self.channel.borrow_mut();
        // The device must get its credit, or it could not hear what this side still sends.
        while self.unread.get() && !channel.finished() && channel.read().is_some() {}
        while self.data_channel.buffered_amount() < BUFFER_HIGH
            && let Some(message) = channel.poll_message()
        {
            if self.data_channel.send_with_u8_array(&message).is_err() {
                // The channel is closing; its event follows.
                return;
            }
        }
        if self.unread.get() && channel.finished() && !channel.has_message() && !channel.is_over() {
            // All that was written has gone, and nobody reads what still comes.
            channel.reset(reset::ABORTED);
            while let Some(message) = channel.poll_message() {
                let _ = self.data_channel.send_with_u8_array(&message);
            }
        }
        if channel.is_over() {
            // What was sent arrives first.
            self.data_channel.close();
        }
    }

    fn poll_read(&self, context: &Context<'_>) -> Poll<Result<Option<Vec<u8>>, CallError>> {
        let (data, read) = self.portion.take();
        if read < data.len() {
            return Poll::Ready(Ok(Some(data[read..].to_vec())));
        }
        if let Some(Err(refused)) = &*self.opening.borrow() {
            return Poll::Ready(Err(refused.clone()));
        }
        let mut channel = self.channel.borrow_mut();
        if let Some(data) = channel.read() {
            drop(channel);
            // Reading gives credit.
            self.pump();
            return Poll::Ready(Ok(Some(data)));
        }
        if channel.received_end() {
            return Poll::Ready(Ok(None));
        }
        drop(channel);
        if let Some(failure) = self.failure() {
            return Poll::Ready(Err(failure));
        }
        self.changed.register(context);
        Poll::Pending
    }

    fn poll_write(&self, context: &Context<'_>, bytes: &[u8]) -> Poll<Result<usize, CallError>> {
        if let Some(Err(refused)) = &*self.opening.borrow() {
            return Poll::Ready(Err(refused.clone()));
        }
        if let Some(failure) = self.failure() {
            return Poll::Ready(Err(failure));
        }
        if self.channel.borrow().finished() {
            return Poll::Ready(Err(CallError::new(
                STREAM_RESET,
                "nothing can be written behind the end of a stream",
            )));
        }
        let taken = self.channel.borrow_mut().write(bytes);
        self.pump();
        if taken == 0 && !bytes.is_empty() {
            self.changed.register(context);
            return Poll::Pending;
        }
        Poll::Ready(Ok(taken))
    }

    /// Why no more comes or goes, unless it is because all is done.
    fn failure(&self) -> Option<CallError> {
        if let Some(error) = &*self.broken.borrow() {
            return Some(error.clone());
        }
        let reset = self.channel.borrow().was_reset()?;
        Some(match reset {
            Reset::ByPeer(code) => explain_reset(code),
            Reset::Here(_) => CallError::new(STREAM_RESET, "the stream was cut off here"),
        })
    }

    /// How the device has cut the stream off.
    pub(crate) fn reset_by_device(&self) -> Option<u32> {
        match self.channel.borrow().was_reset() {
            Some(Reset::ByPeer(code)) => Some(code),
            _ => None,
        }
    }

    fn reset(&self, code: u32) {
        self.channel.borrow_mut().reset(code);
        self.pump();
        self.changed.wake();
    }

    /// The channel or the whole link is gone. What has come can still be read.
    pub(crate) fn fail(&self, error: CallError) {
        let is_over = {
            let channel = self.channel.borrow();
            channel.is_over() || channel.was_reset().is_some()
        };
        if !is_over {
            self.break_off(error);
        }
        self.changed.wake();
    }

    fn break_off(&self, error: CallError) {
        self.broken.borrow_mut().get_or_insert(error);
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        let channel = &self.data_channel;
        channel.set_onmessage(None);
        channel.set_onopen(None);
        channel.set_onbufferedamountlow(None);
        channel.set_onclose(None);
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let core = &self.handle.core;
        let Some(data) = ready!(core.poll_read(context)).map_err(io_error)? else {
            return Poll::Ready(Ok(0));
        };
        let taken = data.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&data[..taken]);
        core.portion.replace((data, taken));
        Poll::Ready(Ok(taken))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let core = &self.handle.core;
        core.poll_write(context, bytes).map_err(io_error)
    }

    /// Bytes are on their way when they are taken.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

fn io_error(error: CallError) -> io::Error {
    let kind = match &*error.code {
        LINK_CLOSED => io::ErrorKind::NotConnected,
        STREAM_RESET => io::ErrorKind::ConnectionReset,
        _ => io::ErrorKind::ConnectionAborted,
    };
    io::Error::new(kind, error)
}

impl std::fmt::Debug for Core {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

/// Streams that are open at a time on one link, at most (PROTOCOL §19.2).
pub const MAX_STREAMS: usize = ringback_protocol::rtc::MAX_CHANNELS;
const _: () = assert!(channel::MAX_DATA < BUFFER_LOW as usize);
