//! Datagrams on their way through a relay or a byte stream (§15): the room that the two ends meet
//! in, and the framing. Nothing here allocates by what a length says, only by what has come.
//!
//! A datagram is 2 bytes of length, then that many bytes. Length 0 is the escape to a control
//! frame: 2 bytes of length and the frame follow. In WebSocket messages a control frame has the
//! message to itself, so a relay that forwards whole messages by their first two bytes can not be
//! made to pass on a frame that it has not sent.

use std::fmt;
use std::str::FromStr;

use crate::frame::{Frame, Malformed};

/// Bytes of the largest datagram, and of the largest control frame.
pub const MAX_DATAGRAM: usize = 2048;
/// Bytes of the largest WebSocket message.
pub const MAX_BATCH: usize = 64 * 1024;

/// Where two ends of a call meet on a relay: `Export("ringback/1 relay", 16)`. Whoever knows it may
/// knock, so it is shown only where it goes on the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Room(pub [u8; 16]);

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Room([redacted])")
    }
}

/// As in URLs: 32 lower-case hexadecimal digits.
impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Room {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        let mut room = [0; 16];
        let digits = text.as_bytes();
        let is_hex = |b: &u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if digits.len() != 32 || !digits.iter().all(is_hex) {
            return Err(Malformed("a room is 32 lower-case hex digits".into()));
        }
        for (byte, two) in room.iter_mut().zip(digits.chunks_exact(2)) {
            let two = std::str::from_utf8(two).expect("ASCII");
            *byte = u8::from_str_radix(two, 16).expect("two hexadecimal digits");
        }
        Ok(Self(room))
    }
}

/// What comes out of the framing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Item<'a> {
    Datagram(&'a [u8]),
    /// An encoded [`Frame`].
    Control(&'a [u8]),
}

/// Datagrams that leave in one WebSocket message: as many as wait, because messages are what a
/// relay pays for.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
}

impl Batch {
    /// Adds a datagram; `false` if it does not fit any more, is empty, or is over
    /// [`MAX_DATAGRAM`] and would never fit.
    #[must_use]
    pub fn push(&mut self, datagram: &[u8]) -> bool {
        let fits = (1..=MAX_DATAGRAM).contains(&datagram.len())
            && self.bytes.len() + 2 + datagram.len() <= MAX_BATCH;
        if fits {
            push_framed(datagram, &mut self.bytes);
        }
        fits
    }

    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Bytes of the message so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The message; the batch is empty again.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// A datagram with its length, for a byte stream. `None` if it is empty or too large.
pub fn framed(datagram: &[u8]) -> Option<Vec<u8>> {
    if !(1..=MAX_DATAGRAM).contains(&datagram.len()) {
        return None;
    }
    let mut out = Vec::with_capacity(2 + datagram.len());
    push_framed(datagram, &mut out);
    Some(out)
}

/// A control frame behind its escape: a WebSocket message, or a piece of a byte stream.
///
/// # Panics
/// If the frame has more than [`MAX_DATAGRAM`] bytes; none that belongs on a relay has.
pub fn control(frame: &Frame) -> Vec<u8> {
    let frame = frame.encode();
    assert!(frame.len() <= MAX_DATAGRAM, "control frames are short");
    let mut out = Vec::with_capacity(4 + frame.len());
    out.extend_from_slice(&[0, 0]);
    push_framed(&frame, &mut out);
    out
}

fn push_framed(bytes: &[u8], out: &mut Vec<u8>) {
    let len = u16::try_from(bytes.len()).expect("at most MAX_DATAGRAM bytes");
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// Is this WebSocket message a control frame? Any other is datagrams.
pub fn is_control(message: &[u8]) -> bool {
    message.starts_with(&[0, 0])
}

/// What a WebSocket message holds: one control frame, or datagrams. Ends at the first thing that
/// is out of form: what came before it is as good as what a lossy network leaves.
pub fn items(message: &[u8]) -> impl Iterator<Item = Item<'_>> {
    let mut rest = if message.len() > MAX_BATCH {
        &[]
    } else {
        message
    };
    let is_control = is_control(message);
    std::iter::from_fn(move || match next(rest) {
        // A control frame is the whole message.
        Ok(Some((item @ Item::Control(_), []))) if is_control => {
            rest = &[];
            Some(item)
        }
        Ok(Some((item @ Item::Datagram(_), after))) if !is_control => {
            rest = after;
            Some(item)
        }
        _ => {
            rest = &[];
            None
        }
    })
}

/// Bytes of the longest beginning of a message of datagrams that has whole datagrams only and
/// fits `budget`.
pub fn prefix_within(message: &[u8], budget: usize) -> usize {
    let mut end = 0;
    while let Ok(Some((Item::Datagram(datagram), _))) = next(&message[end..]) {
        let with_this = end + 2 + datagram.len();
        if with_this > budget {
            break;
        }
        end = with_this;
    }
    end
}

/// The framing on a byte stream (TCP): bytes in, items out. Holds one unfinished item at most
/// when it is drained after every `push`.
#[derive(Debug, Default)]
pub struct StreamReader {
    buffer: Vec<u8>,
    start: usize,
}

impl StreamReader {
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.drain(..self.start);
        self.start = 0;
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole item. After an error nothing in this stream can be found any more: close it.
    pub fn next_item(&mut self) -> Result<Option<Item<'_>>, Malformed> {
        let from = self.start;
        let Some((_, after)) = next(&self.buffer[from..])? else {
            return Ok(None);
        };
        self.start = self.buffer.len() - after.len();
        Ok(next(&self.buffer[from..self.start])?.map(|(item, _)| item))
    }
}

/// The item at the beginning of `bytes` and what follows it; `None` if it is not whole.
fn next(bytes: &[u8]) -> Result<Option<(Item<'_>, &[u8])>, Malformed> {
    let Some((len, rest)) = length(bytes)? else {
        return Ok(None);
    };
    if len > 0 {
        return Ok(rest
            .split_at_checked(len)
            .map(|(datagram, after)| (Item::Datagram(datagram), after)));
    }
    let Some((len, rest)) = length(rest)? else {
        return Ok(None);
    };
    if len == 0 {
        return Err(Malformed("an empty control frame".into()));
    }
    Ok(rest
        .split_at_checked(len)
        .map(|(frame, after)| (Item::Control(frame), after)))
}

fn length(bytes: &[u8]) -> Result<Option<(usize, &[u8])>, Malformed> {
    let Some((len, rest)) = bytes.split_first_chunk::<2>() else {
        return Ok(None);
    };
    let len = usize::from(u16::from_be_bytes(*len));
    if len > MAX_DATAGRAM {
        return Err(Malformed(format!("a datagram of {len} bytes")));
    }
    Ok(Some((len, rest)))
}
