//! One stream on one data channel (§19.2). A data channel has messages, but neither half-close nor
//! a window of its own; this adds both. The same machine runs in the agent and in the browser.
//!
//! Feed it what the channel receives with [`Channel::handle_message`], and send what
//! [`Channel::poll_message`] gives for as long as the transport's own buffer has room. After each
//! call of any other method, poll again.

use std::collections::VecDeque;

use crate::cbor::Malformed;
use crate::stream::{MAX_HEADER, Open, Opening};

/// Bytes of data that either end may have sent before it hears of more, and that a receiver keeps
/// for an application that does not read.
pub const WINDOW: u64 = 1 << 20;
/// Bytes of data in one message, at most.
pub const MAX_DATA: usize = 65_535;
/// Bytes of data that one message is filled with. Messages of a connection go out one after the
/// other: longer ones would hold the other streams up.
const FILL: usize = 32 * 1024;
/// Bytes of data that wait to be polled, at most.
const SEND_BUFFER: usize = 256 * 1024;

const DATA: u8 = 0x00;
const HEADER: u8 = 0x01;
const END: u8 = 0x02;
const RESET: u8 = 0x03;
const CREDIT: u8 = 0x04;

/// Codes of Reset (§19.2).
pub mod reset {
    /// What is behind the stream broke off, or nobody wants it any more.
    pub const ABORTED: u32 = 1;
    /// The other end did not keep to section 19.2.
    pub const VIOLATION: u32 = 2;
    /// The device has revoked this caller.
    pub const REVOKED: u32 = 3;
    /// The device is shutting down.
    pub const SHUTTING_DOWN: u32 = 4;
}

/// The other end did not keep to §19.2. The stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    #[error("more data came than there was credit for")]
    OverCredit,
    #[error("a message is out of form")]
    Malformed,
    #[error("a message came out of order")]
    OutOfOrder,
}

/// One end of a stream.
#[derive(Debug)]
pub struct Channel {
    sending: Sending,
    receiving: Receiving,
    /// Reset by this end, and not polled yet.
    reset_to_send: Option<u32>,
    reset: Option<Reset>,
}

/// How a stream was cut off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    Here(u32),
    ByPeer(u32),
}

#[derive(Debug)]
struct Sending {
    header: Option<Vec<u8>>,
    header_queued: bool,
    /// Whole messages, kind byte included.
    messages: VecDeque<Vec<u8>>,
    /// Bytes of data in `messages`.
    queued: usize,
    /// Bytes of data that were taken from the application since the start.
    total: u64,
    credit: u64,
    finished: bool,
    end_polled: bool,
}

#[derive(Debug)]
struct Receiving {
    header: Option<Vec<u8>>,
    header_seen: bool,
    data: VecDeque<Vec<u8>>,
    /// Bytes of data since the start: received, and read by the application.
    total: u64,
    read: u64,
    /// What the other end was told, and when more is worth a message.
    granted: u64,
    ended: bool,
}

impl Channel {
    /// The caller's end: opens the stream. Data may follow at once.
    pub fn caller(open: &Open) -> Self {
        let mut channel = Self::new();
        channel.send_header(&open.encode());
        channel
    }

    /// The device's end. It answers with [`Channel::answer`] before it writes.
    pub fn device() -> Self {
        Self::new()
    }

    fn new() -> Self {
        Self {
            sending: Sending {
                header: None,
                header_queued: false,
                messages: VecDeque::new(),
                queued: 0,
                total: 0,
                credit: WINDOW,
                finished: false,
                end_polled: false,
            },
            receiving: Receiving {
                header: None,
                header_seen: false,
                data: VecDeque::new(),
                total: 0,
                read: 0,
                granted: WINDOW,
                ended: false,
            },
            reset_to_send: None,
            reset: None,
        }
    }

    /// As the device: the answer to the caller's Open.
    pub fn answer(&mut self, opening: &Opening) {
        self.send_header(&opening.encode());
    }

    /// A channel has messages: the 2-byte length of section 12 is not needed.
    fn send_header(&mut self, with_length: &[u8]) {
        if !self.sending.header_queued && self.reset.is_none() {
            self.sending.header_queued = true;
            self.sending.header = Some(message(HEADER, &with_length[2..]));
        }
    }

    /// Takes a message of the channel. After an error the stream is reset, and further messages are
    /// ignored.
    pub fn handle_message(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        if self.reset.is_some() {
            return Ok(());
        }
        let handled = self.take(bytes);
        if let Err(violation) = handled {
            self.reset(match violation {
                Violation::OverCredit => reset::ABORTED,
                Violation::Malformed | Violation::OutOfOrder => reset::VIOLATION,
            });
        }
        handled
    }

    fn take(&mut self, bytes: &[u8]) -> Result<(), Violation> {
        let (&kind, body) = bytes.split_first().ok_or(Violation::Malformed)?;
        let receiving = &mut self.receiving;
        match kind {
            DATA => {
                if body.is_empty() || body.len() > MAX_DATA {
                    return Err(Violation::Malformed);
                }
                if receiving.ended || !receiving.header_seen {
                    return Err(Violation::OutOfOrder);
                }
                receiving.total += body.len() as u64;
                if receiving.total > receiving.granted {
                    return Err(Violation::OverCredit);
                }
                // Many small messages must not cost more memory than the window says.
                match receiving.data.back_mut() {
                    Some(last) if last.len() + body.len() <= FILL => last.extend_from_slice(body),
                    _ => receiving.data.push_back(body.to_vec()),
                }
            }
            HEADER => {
                if body.is_empty() || body.len() > MAX_HEADER {
                    return Err(Violation::Malformed);
                }
                if receiving.header_seen || receiving.ended {
                    return Err(Violation::OutOfOrder);
                }
                receiving.header_seen = true;
                receiving.header = Some(body.to_vec());
            }
            END => {
                if receiving.ended || !receiving.header_seen {
                    return Err(Violation::OutOfOrder);
                }
                receiving.ended = true;
            }
            RESET => {
                let code = body.try_into().map_err(|_| Violation::Malformed)?;
                self.drop_all(Reset::ByPeer(u32::from_be_bytes(code)));
            }
            CREDIT => {
                let credit = body.try_into().map_err(|_| Violation::Malformed)?;
                // It never shrinks.
                self.sending.credit = self.sending.credit.max(u64::from_be_bytes(credit));
            }
            // Of a later version.
            _ => {}
        }
        Ok(())
    }

    /// The next message to send.
    pub fn poll_message(&mut self) -> Option<Vec<u8>> {
        if let Some(code) = self.reset_to_send.take() {
            return Some(message(RESET, &code.to_be_bytes()));
        }
        if self.reset.is_some() {
            return None;
        }
        if let Some(header) = self.sending.header.take() {
            return Some(header);
        }
        if let Some(credit) = self.receiving.more_credit() {
            return Some(message(CREDIT, &credit.to_be_bytes()));
        }
        if let Some(data) = self.sending.messages.pop_front() {
            self.sending.queued -= data.len() - 1;
            return Some(data);
        }
        if self.sending.finished && !self.sending.end_polled {
            self.sending.end_polled = true;
            return Some(vec![END]);
        }
        None
    }

    /// Is anything left to poll?
    pub fn has_message(&self) -> bool {
        self.reset_to_send.is_some()
            || self.reset.is_none()
                && (self.sending.header.is_some()
                    || !self.sending.messages.is_empty()
                    || (self.sending.finished && !self.sending.end_polled)
                    || self.receiving.may_grant().is_some())
    }

    /// The header frame that the other end has sent, without a length: once, when it has come.
    pub fn header(&mut self) -> Option<Vec<u8>> {
        self.receiving.header.take()
    }

    /// As the caller: the device's answer, once, when it has come.
    pub fn opening(&mut self) -> Option<Result<Opening, Malformed>> {
        self.header().map(|frame| Opening::decode(&frame))
    }

    /// Takes as much of `data` as credit and the buffer allow, and says how much that was.
    pub fn write(&mut self, data: &[u8]) -> usize {
        let room = self.writable().min(data.len());
        let mut rest = &data[..room];
        let sending = &mut self.sending;
        while !rest.is_empty() {
            let last = sending.messages.back_mut().filter(|m| m.len() <= FILL);
            let (into, space) = match last {
                Some(last) => {
                    let space = FILL + 1 - last.len();
                    (last, space)
                }
                None => {
                    let mut fresh = Vec::with_capacity(FILL.min(rest.len()) + 1);
                    fresh.push(DATA);
                    sending.messages.push_back(fresh);
                    (sending.messages.back_mut().expect("just pushed"), FILL)
                }
            };
            let (now, later) = rest.split_at(space.min(rest.len()));
            into.extend_from_slice(now);
            rest = later;
        }
        sending.queued += room;
        sending.total += room as u64;
        room
    }

    /// Bytes that [`Channel::write`] would take now.
    pub fn writable(&self) -> usize {
        let sending = &self.sending;
        if sending.finished || !sending.header_queued || self.reset.is_some() {
            return 0;
        }
        let credit = usize::try_from(sending.credit - sending.total).unwrap_or(usize::MAX);
        (SEND_BUFFER - sending.queued).min(credit)
    }

    /// Nothing more will be written: half-close. What was written is still sent.
    pub fn finish(&mut self) {
        self.sending.finished = true;
    }

    /// Has [`Channel::finish`] been called?
    pub fn finished(&self) -> bool {
        self.sending.finished
    }

    /// All that was written has been polled, and the end of it, too.
    pub fn sent_end(&self) -> bool {
        self.sending.end_polled
    }

    /// Cuts the stream off in both directions. What waits to be sent is not sent any more.
    pub fn reset(&mut self, code: u32) {
        if self.reset.is_none() && !self.is_over() {
            self.drop_all(Reset::Here(code));
            self.reset_to_send = Some(code);
        }
    }

    /// How the stream was cut off, if it was.
    pub fn was_reset(&self) -> Option<Reset> {
        self.reset
    }

    /// The next data that has come; how it is cut into portions means nothing. Reading is what
    /// gives the other end more credit. After a reset by the peer, what came whole before it can
    /// still be read.
    pub fn read(&mut self) -> Option<Vec<u8>> {
        let data = self.receiving.data.pop_front()?;
        self.receiving.read += data.len() as u64;
        Some(data)
    }

    /// Bytes of data that wait to be read.
    pub fn readable(&self) -> usize {
        (self.receiving.total - self.receiving.read) as usize
    }

    /// All that the other end will ever send has been read.
    pub fn received_end(&self) -> bool {
        self.receiving.ended && self.receiving.data.is_empty()
    }

    /// The data channel can be closed: both directions have ended, or the stream is cut off, and
    /// nothing is left to poll. What has come can still be read.
    pub fn is_over(&self) -> bool {
        self.reset_to_send.is_none()
            && (self.reset.is_some() || (self.receiving.ended && self.sending.end_polled))
    }

    fn drop_all(&mut self, reset: Reset) {
        self.reset = Some(reset);
        self.sending.messages.clear();
        self.sending.queued = 0;
        self.sending.header = None;
        if !self.receiving.ended {
            self.receiving.data.clear();
            self.receiving.read = self.receiving.total;
        }
    }
}

impl Receiving {
    /// What the other end is worth being told: a quarter of the window has become free.
    fn may_grant(&self) -> Option<u64> {
        let credit = self.read + WINDOW;
        (!self.ended && credit - self.granted >= WINDOW / 4).then_some(credit)
    }

    fn more_credit(&mut self) -> Option<u64> {
        let credit = self.may_grant()?;
        self.granted = credit;
        Some(credit)
    }
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + body.len());
    message.push(kind);
    message.extend_from_slice(body);
    message
}
