//! Stream headers (§12): the first bytes of every stream on a link name the service.

use minicbor::{Decode, Encode};

use crate::cbor::{self, Malformed};
use crate::{Code, frame::length_prefixed};

/// Bytes of the largest header frame.
pub const MAX_HEADER: usize = 4096;

const OPEN: u8 = 0x61;
const OPENED: u8 = 0x62;
const REFUSED: u8 = 0x63;

/// Caller → device: which service this stream is for.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Open {
    #[n(0)]
    pub service: String,
    #[cbor(n(1), default, skip_if = "Mode::is_raw")]
    pub mode: Mode,
}

/// How the stream is used behind its header.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// As the service's kind says: bytes as they are for TCP, frames for others (§20).
    #[default]
    Raw,
    /// One HTTP exchange (§20.4).
    Http,
    /// Of a later version; refused.
    Unknown(u64),
}

/// Device → caller: no.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct StreamRefused {
    #[n(0)]
    pub code: Code,
    #[n(1)]
    pub detail: String,
}

#[derive(Encode, Decode)]
#[cbor(map)]
struct Empty {}

/// The device's first frame on a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opening {
    Opened,
    Refused(StreamRefused),
}

impl Open {
    /// A stream of the service's own kind.
    pub fn new(service: impl Into<String>) -> Self {
        Self {
            service: service.into(),
            mode: Mode::Raw,
        }
    }

    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed(&tagged(OPEN, self))
    }

    /// Reads the frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        match bounded(frame)?.split_first() {
            Some((&OPEN, body)) => cbor::decode(body),
            _ => Err(Malformed("a stream starts with Open".into())),
        }
    }
}

impl Mode {
    fn number(self) -> u64 {
        match self {
            Self::Raw => 0,
            Self::Http => 1,
            Self::Unknown(number) => number,
        }
    }

    fn is_raw(&self) -> bool {
        *self == Self::Raw
    }
}

impl<C> Encode<C> for Mode {
    fn encode<W: minicbor::encode::Write>(
        &self,
        e: &mut minicbor::Encoder<W>,
        _: &mut C,
    ) -> Result<(), minicbor::encode::Error<W::Error>> {
        e.u64(self.number())?.ok()
    }
}

impl<'b, C> Decode<'b, C> for Mode {
    fn decode(d: &mut minicbor::Decoder<'b>, _: &mut C) -> Result<Self, minicbor::decode::Error> {
        Ok(match d.u64()? {
            0 => Self::Raw,
            1 => Self::Http,
            number => Self::Unknown(number),
        })
    }
}

impl Opening {
    /// With the 2-byte length before it.
    pub fn encode(&self) -> Vec<u8> {
        length_prefixed(&match self {
            Self::Opened => tagged(OPENED, &Empty {}),
            Self::Refused(refused) => tagged(REFUSED, refused),
        })
    }

    /// Reads the frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        match bounded(frame)?.split_first() {
            Some((&OPENED, body)) => cbor::decode::<Empty>(body).map(|_| Self::Opened),
            Some((&REFUSED, body)) => cbor::decode(body).map(Self::Refused),
            _ => Err(Malformed(
                "a stream is answered with Opened or StreamRefused".into(),
            )),
        }
    }
}

fn bounded(frame: &[u8]) -> Result<&[u8], Malformed> {
    if frame.len() > MAX_HEADER {
        return Err(Malformed(format!(
            "a stream header has at most {MAX_HEADER} bytes"
        )));
    }
    Ok(frame)
}

fn tagged<T: Encode<()>>(tag: u8, body: &T) -> Vec<u8> {
    let mut out = vec![tag];
    cbor::encode_into(body, &mut out);
    out
}
