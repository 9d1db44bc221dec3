//! A terminal on the device (§20.2). The shell outlives its stream for [`KEPT_FOR`]: a caller whose
//! link broke attaches again and misses neither output nor input.
//!
//! ```text
//! caller                                   device
//!   Start ──────────────────────────────────►
//!   ◄────────────────────────────── Started, or Failed and the end
//!   Input, Resize, Received … ───────────────►
//!   ◄────────────────────────────── Output, Taken …
//!   ◄────────────────────────────── Exited, and the end
//! ```

use std::time::Duration;

use minicbor::{Decode, Encode};

use super::{MAX_FRAME, frame, raw_frame, split, words};
use crate::cbor::{self, Malformed, bounded_str};

/// How long a shell without a stream is kept.
pub const KEPT_FOR: Duration = Duration::from_secs(60);
/// Bytes of output that a device keeps for a caller that attaches again; and that it sends at most
/// before the caller says [`ToDevice::Received`].
pub const KEPT_OUTPUT: usize = 256 * 1024;
/// Bytes of input that a caller keeps for the same reason, and sends at most before the device says
/// [`ToCaller::Taken`].
pub const KEPT_INPUT: usize = 64 * 1024;
/// Bytes after which either end confirms at the latest.
pub const CONFIRM_EACH: usize = 16 * 1024;
/// Shells of one device at a time.
pub const MAX_SHELLS: usize = 16;
/// And of these of one caller.
pub const MAX_SHELLS_EACH: usize = 12;
/// Bytes of one Input or Output frame.
pub const MAX_CHUNK: usize = MAX_FRAME - 1;

const START: u8 = 0x71;
const INPUT: u8 = 0x72;
const RESIZE: u8 = 0x73;
const RECEIVED: u8 = 0x74;
const STARTED: u8 = 0x79;
const OUTPUT: u8 = 0x7a;
const EXITED: u8 = 0x7b;
const FAILED: u8 = 0x7c;
const TAKEN: u8 = 0x7d;

/// The terminal in characters; 0 counts as unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Size {
    #[n(0)]
    pub cols: u16,
    #[n(1)]
    pub rows: u16,
}

/// The first frame: a new shell, or one that is there already.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Start {
    #[n(0)]
    pub cols: u16,
    #[n(1)]
    pub rows: u16,
    /// The terminal's kind, as in `$TERM`; at most 64 of the characters `A-Z a-z 0-9 + - . _`.
    #[n(2)]
    pub term: String,
    /// The shell to attach to. If the device has it no more, it starts a new one.
    #[cbor(n(3), with = "minicbor::bytes", default, skip_if = "Option::is_none")]
    pub session: Option<[u8; 16]>,
    /// With `session`: bytes of output that the caller has of it.
    #[cbor(n(4), default)]
    pub received: u64,
}

/// The device's first frame.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Started {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub session: [u8; 16],
    /// It is the session that was asked for.
    #[cbor(n(1), default)]
    pub resumed: bool,
    /// The number of the first byte of output that follows. Over what the caller has: the bytes
    /// between are lost.
    #[cbor(n(2), default)]
    pub from: u64,
    /// Bytes of input that the device has. The caller sends what is behind them (again).
    #[cbor(n(3), default)]
    pub input: u64,
}

/// How many bytes of a direction have been dealt with since the start of the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
struct Count {
    #[n(0)]
    bytes: u64,
}

/// How the shell ended.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Exited {
    /// The exit code; absent after a signal.
    #[n(0)]
    pub code: Option<i32>,
    /// The signal that ended it.
    #[n(1)]
    pub signal: Option<i32>,
}

words! {
    /// Why there is no shell.
    ShellError {
        TooMany = "too_many", "too many shells are open on the device";
        CanNotStart = "can_not_start", "the device can not start a shell";
        TakenOver = "taken_over", "another stream has attached to this shell";
        BadFrame = "bad_frame", "the frames on the stream are out of place";
    }
}

/// The last frame of a stream without a shell.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Failed {
    #[n(0)]
    pub code: ShellError,
    #[cbor(n(1), default)]
    pub detail: String,
}

/// Caller → device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToDevice {
    Start(Start),
    /// At most [`MAX_CHUNK`] bytes.
    Input(Vec<u8>),
    Resize(Size),
    /// Bytes of output that the caller has shown, counted from the start of the session. Without it
    /// the device stops after [`KEPT_OUTPUT`].
    Received(u64),
    /// Of a later version: to be ignored.
    Unknown(u8),
}

/// Device → caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToCaller {
    Started(Started),
    /// At most [`MAX_CHUNK`] bytes.
    Output(Vec<u8>),
    Exited(Exited),
    Failed(Failed),
    /// Bytes of input that the shell has got, counted from the start of the session.
    Taken(u64),
    /// Of a later version: to be ignored.
    Unknown(u8),
}

impl ToDevice {
    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Start(start) => frame(START, start),
            Self::Input(bytes) => raw_frame(INPUT, bytes),
            Self::Resize(size) => frame(RESIZE, size),
            Self::Received(bytes) => frame(RECEIVED, &Count { bytes: *bytes }),
            Self::Unknown(tag) => raw_frame(*tag, &[]),
        }
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        Ok(match split(frame, MAX_FRAME)? {
            (START, body) => {
                let start: Start = cbor::decode(body)?;
                let fits = |b: u8| b.is_ascii_alphanumeric() || b"+-._".contains(&b);
                if !bounded_str(&start.term, 64, "a terminal's kind")?
                    .bytes()
                    .all(fits)
                {
                    return Err(Malformed("not a terminal's kind".into()));
                }
                Self::Start(start)
            }
            (INPUT, body) => Self::Input(body.to_vec()),
            (RESIZE, body) => Self::Resize(cbor::decode(body)?),
            (RECEIVED, body) => Self::Received(cbor::decode::<Count>(body)?.bytes),
            (tag, _) => Self::Unknown(tag),
        })
    }
}

impl ToCaller {
    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Started(started) => frame(STARTED, started),
            Self::Output(bytes) => raw_frame(OUTPUT, bytes),
            Self::Exited(exited) => frame(EXITED, exited),
            Self::Failed(failed) => frame(FAILED, failed),
            Self::Taken(bytes) => frame(TAKEN, &Count { bytes: *bytes }),
            Self::Unknown(tag) => raw_frame(*tag, &[]),
        }
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        Ok(match split(frame, MAX_FRAME)? {
            (STARTED, body) => Self::Started(cbor::decode(body)?),
            (OUTPUT, body) => Self::Output(body.to_vec()),
            (EXITED, body) => Self::Exited(cbor::decode(body)?),
            (FAILED, body) => Self::Failed(cbor::decode(body)?),
            (TAKEN, body) => Self::Taken(cbor::decode::<Count>(body)?.bytes),
            (tag, _) => Self::Unknown(tag),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back() {
        let start = Start {
            cols: 80,
            rows: 24,
            term: "xterm-256color".into(),
            session: Some([7; 16]),
            received: 1 << 40,
        };
        for said in [
            ToDevice::Start(start.clone()),
            ToDevice::Start(Start {
                session: None,
                received: 0,
                ..start.clone()
            }),
            ToDevice::Input(vec![3; MAX_CHUNK]),
            ToDevice::Resize(Size { cols: 1, rows: 2 }),
            ToDevice::Received(1 << 40),
            ToDevice::Unknown(0x7f),
        ] {
            assert_eq!(ToDevice::decode(&said.encode()[2..]), Ok(said));
        }
        for said in [
            ToCaller::Started(Started {
                session: [9; 16],
                resumed: true,
                from: 5,
                input: 6,
            }),
            ToCaller::Output(b"\x1b[2J".to_vec()),
            ToCaller::Taken(3),
            ToCaller::Exited(Exited {
                code: Some(3),
                signal: None,
            }),
            ToCaller::Failed(Failed {
                code: ShellError::TooMany,
                detail: "16".into(),
            }),
        ] {
            assert_eq!(ToCaller::decode(&said.encode()[2..]), Ok(said));
        }
        let wrong = Start {
            term: "xterm; reboot".into(),
            ..start
        };
        ToDevice::decode(&ToDevice::Start(wrong).encode()[2..]).unwrap_err();
        ToDevice::decode(&[]).unwrap_err();
        ToDevice::decode(&vec![INPUT; MAX_FRAME + 1]).unwrap_err();
    }

    #[test]
    fn the_bytes_are_those_of_the_document() {
        let start = ToDevice::Start(Start {
            cols: 80,
            rows: 24,
            term: "xterm".into(),
            session: None,
            received: 0,
        });
        let head = [0, 17, 0x71, 0xa4, 0, 0x18, 80, 1, 0x18, 24, 2, 0x65];
        assert_eq!(start.encode(), [&head[..], b"xterm", &[4, 0]].concat());
        assert_eq!(
            ToDevice::Input(b"ls\n".to_vec()).encode(),
            [0, 4, 0x72, b'l', b's', b'\n']
        );
    }
}
