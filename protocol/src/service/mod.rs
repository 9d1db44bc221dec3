//! What services speak on their streams, behind the header (§20). One file per kind; a device
//! exposes each by a name of its owner's choice, and nothing that is not exposed.
//!
//! - [`listing`]: what a device exposes.
//! - [`shell`]: a terminal that outlives its stream.
//! - [`files`]: a folder.
//! - [`http`]: one HTTP exchange per stream.
//! - [`dial`]: the device calls another one on behalf of its caller.
//!
//! All frames have a 2-byte length, a tag byte and a body. [`FrameBuffer`] cuts them out of a
//! stream, whatever brings its bytes.

pub mod dial;
pub mod files;
pub mod http;
pub mod listing;
pub mod shell;

use minicbor::{Decode, Encode};

use crate::cbor::{self, Malformed};
use crate::frame::length_prefixed;

/// Bytes of the largest frame on a service's stream, without its length; HTTP heads have
/// [`http::MAX_HEAD`].
pub const MAX_FRAME: usize = 16 * 1024;

/// Collects the bytes of a stream and gives them out frame by frame, and what is behind the last
/// frame as it came.
///
/// ```
/// # use ringback_protocol::service::{FrameBuffer, shell::ToDevice};
/// let mut buffer = FrameBuffer::default();
/// let bytes = ToDevice::Input(b"ls\n".to_vec()).encode();
/// buffer.push(&bytes[..3]);
/// assert_eq!(buffer.next_frame(), Ok(None));
/// buffer.push(&bytes[3..]);
/// let frame = buffer.next_frame().unwrap().unwrap();
/// assert_eq!(ToDevice::decode(&frame).unwrap(), ToDevice::Input(b"ls\n".to_vec()));
/// ```
#[derive(Debug, Clone, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
    /// Of `bytes`, given out already.
    taken: usize,
}

impl FrameBuffer {
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.taken);
        self.taken = 0;
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame (tag and body), if it is here. An empty frame is malformed.
    pub fn next_frame(&mut self) -> Result<Option<Vec<u8>>, Malformed> {
        let rest = &self.bytes[self.taken..];
        let [high, low, rest @ ..] = rest else {
            return Ok(None);
        };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        if length == 0 {
            return Err(Malformed("a frame has a tag".into()));
        }
        let Some(frame) = rest.get(..length) else {
            return Ok(None);
        };
        let frame = frame.to_vec();
        self.taken += 2 + length;
        Ok(Some(frame))
    }

    /// What came behind the last frame; for streams that end in raw bytes.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.taken);
        self.bytes.clear();
        self.taken = 0;
        rest
    }

    /// Is there a part of a frame? At the end of a stream that means that it broke off.
    pub fn is_empty(&self) -> bool {
        self.bytes.len() == self.taken
    }
}

/// A frame with a CBOR body, with its length.
pub(crate) fn frame<T: Encode<()>>(tag: u8, body: &T) -> Vec<u8> {
    let mut out = vec![tag];
    cbor::encode_into(body, &mut out);
    length_prefixed(&out)
}

/// A frame with a raw body, with its length.
pub(crate) fn raw_frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1 + body.len());
    out.push(tag);
    out.extend_from_slice(body);
    length_prefixed(&out)
}

/// Tag and body of a frame of at most `max` bytes.
pub(crate) fn split(frame: &[u8], max: usize) -> Result<(u8, &[u8]), Malformed> {
    if frame.len() > max {
        return Err(Malformed(format!("a frame here has at most {max} bytes")));
    }
    let (tag, body) = frame
        .split_first()
        .ok_or_else(|| Malformed("a frame has a tag".into()))?;
    Ok((*tag, body))
}

/// The body of a frame that must have this tag.
pub(crate) fn expect<'b, T: Decode<'b, ()>>(
    frame: &'b [u8],
    tag: u8,
    max: usize,
) -> Result<T, Malformed> {
    match split(frame, max)? {
        (found, body) if found == tag => cbor::decode(body),
        (found, _) => Err(Malformed(format!(
            "frame {tag:#04x} is due, not {found:#04x}"
        ))),
    }
}

/// Words that programs match on, as text on the wire. A word of a later version is kept.
macro_rules! words {
    ($(#[$about:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $text:literal, $title:literal;)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$doc])* $variant,)*
            /// A word of a later version, of what can be printed at most 64 characters.
            Unknown(String),
        }

        impl $name {
            /// Every word of this version.
            pub const ALL: &'static [$name] = &[$($name::$variant),*];

            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Unknown(text) => text,
                }
            }

            /// A short sentence without a full stop.
            pub fn title(&self) -> &str {
                match self {
                    $(Self::$variant => $title,)*
                    Self::Unknown(text) => text,
                }
            }
        }

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                match text {
                    $($text => Self::$variant,)*
                    _ => Self::Unknown(
                        text.chars().filter(char::is_ascii_graphic).take(64).collect(),
                    ),
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl<C> minicbor::Encode<C> for $name {
            fn encode<W: minicbor::encode::Write>(
                &self,
                e: &mut minicbor::Encoder<W>,
                _: &mut C,
            ) -> Result<(), minicbor::encode::Error<W::Error>> {
                e.str(self.as_str())?.ok()
            }
        }

        impl<'b, C> minicbor::Decode<'b, C> for $name {
            fn decode(
                d: &mut minicbor::Decoder<'b>,
                _: &mut C,
            ) -> Result<Self, minicbor::decode::Error> {
                Ok(Self::from(d.str()?))
            }
        }
    };
}
pub(crate) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_cut_out_of_any_pieces_and_the_rest_is_kept() {
        let stream = [
            raw_frame(1, b"one"),
            raw_frame(2, b""),
            b"raw bytes".to_vec(),
        ]
        .concat();
        for piece in 1..stream.len() {
            let mut buffer = FrameBuffer::default();
            let mut frames = Vec::new();
            for bytes in stream.chunks(piece) {
                buffer.push(bytes);
                while frames.len() < 2
                    && let Some(frame) = buffer.next_frame().unwrap()
                {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [b"\x01one".to_vec(), b"\x02".to_vec()]);
            assert_eq!(buffer.take_rest(), b"raw bytes", "in pieces of {piece}");
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn a_frame_without_a_tag_is_malformed() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&[0, 0]);
        buffer.next_frame().unwrap_err();
        split(&[], MAX_FRAME).unwrap_err();
        split(&vec![0; MAX_FRAME + 1], MAX_FRAME).unwrap_err();
    }
}
