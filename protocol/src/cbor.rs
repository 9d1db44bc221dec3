//! CBOR in and out: whole inputs only, one error type (§1).

use minicbor::{Decode, Encode};

/// The bytes are not the structure that they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed: {0}")]
pub struct Malformed(pub String);

pub(crate) fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    let mut out = Vec::new();
    encode_into(value, &mut out);
    out
}

pub(crate) fn encode_into<T: Encode<()>>(value: &T, out: &mut Vec<u8>) {
    minicbor::encode(value, out).expect("writing to a Vec does not fail");
}

/// Decodes `bytes`, all of them: trailing bytes are malformed.
pub(crate) fn decode<'b, T: Decode<'b, ()>>(bytes: &'b [u8]) -> Result<T, Malformed> {
    let mut decoder = minicbor::Decoder::new(bytes);
    let value = decoder.decode().map_err(|e| Malformed(e.to_string()))?;
    if decoder.position() != bytes.len() {
        return Err(Malformed(format!(
            "{} bytes too many",
            bytes.len() - decoder.position()
        )));
    }
    Ok(value)
}

pub(crate) fn bounded_str<'b>(text: &'b str, max: usize, what: &str) -> Result<&'b str, Malformed> {
    if text.len() > max {
        Err(Malformed(format!("{what} is over {max} bytes")))
    } else {
        Ok(text)
    }
}
