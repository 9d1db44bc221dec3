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
