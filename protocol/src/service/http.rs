//! One HTTP exchange on one stream (§20.4), for a service of kind `http` opened with
//! [`Mode::Http`](crate::stream::Mode): a head, then the body as raw bytes up to the end of the
//! direction.

use minicbor::bytes::ByteVec;
use minicbor::{Decode, Encode};

use super::{expect, frame, split, words};
use crate::cbor::{self, Malformed};

/// Bytes of the largest head frame.
pub const MAX_HEAD: usize = 65_535;
/// Headers of one head.
pub const MAX_HEADERS: usize = 128;

const REQUEST: u8 = 0x91;
const RESPONSE: u8 = 0x92;
const FAILED: u8 = 0x93;

/// A header: its name, and its value as it is on the wire.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(array)]
pub struct Header(#[n(0)] pub String, #[n(1)] pub ByteVec);

/// Caller → device. The device sets `Host`, follows no redirect, and talks to no host but the
/// exposed one.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HttpRequest {
    #[n(0)]
    pub method: String,
    /// Path and query; starts with `/`.
    #[n(1)]
    pub target: String,
    #[n(2)]
    pub headers: Vec<Header>,
    /// A body follows. Without it the caller ends its direction behind the head.
    #[cbor(n(3), default)]
    pub body: bool,
}

/// Device → caller.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HttpResponse {
    #[n(0)]
    pub status: u16,
    #[n(1)]
    pub headers: Vec<Header>,
}

words! {
    /// Why there is no response.
    HttpError {
        BadRequest = "bad_request", "not an HTTP request";
        Unreachable = "unreachable", "the host does not answer";
        Untrusted = "untrusted", "the host's certificate is not valid for its name";
        Timeout = "timeout", "the host takes too long";
        BadResponse = "bad_response", "the host does not answer with HTTP";
        TooLarge = "too_large", "the head is over the limit";
    }
}

/// Device → caller, instead of a response.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct HttpFailed {
    #[n(0)]
    pub code: HttpError,
    #[cbor(n(1), default)]
    pub detail: String,
}

/// The device's head frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HttpAnswer {
    Response(HttpResponse),
    Failed(HttpFailed),
}

impl Header {
    pub fn new(name: impl Into<String>, value: impl Into<Vec<u8>>) -> Self {
        Self(name.into(), ByteVec::from(value.into()))
    }

    pub fn name(&self) -> &str {
        &self.0
    }

    pub fn value(&self) -> &[u8] {
        &self.1
    }
}

impl HttpRequest {
    /// With the 2-byte length before it. Fails if it is over [`MAX_HEAD`] or [`MAX_HEADERS`].
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        bounded(REQUEST, self, self.headers.len())
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        let request: Self = expect(frame, REQUEST, MAX_HEAD)?;
        if request.headers.len() > MAX_HEADERS {
            return Err(Malformed(format!("over {MAX_HEADERS} headers")));
        }
        Ok(request)
    }
}

impl HttpAnswer {
    /// With the 2-byte length before it. Fails if it is over [`MAX_HEAD`] or [`MAX_HEADERS`].
    pub fn encode(&self) -> Result<Vec<u8>, TooLarge> {
        match self {
            Self::Response(response) => bounded(RESPONSE, response, response.headers.len()),
            Self::Failed(failed) => bounded(FAILED, failed, 0),
        }
    }

    /// Reads a frame without its length.
    pub fn decode(frame: &[u8]) -> Result<Self, Malformed> {
        match split(frame, MAX_HEAD)? {
            (RESPONSE, body) => cbor::decode(body).map(Self::Response),
            (FAILED, body) => cbor::decode(body).map(Self::Failed),
            (tag, _) => Err(Malformed(format!("no answer to a request is {tag:#04x}"))),
        }
    }
}

/// A head that does not fit into its frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an HTTP head is at most {MAX_HEAD} bytes and {MAX_HEADERS} headers")]
pub struct TooLarge;

fn bounded<T: Encode<()>>(tag: u8, head: &T, headers: usize) -> Result<Vec<u8>, TooLarge> {
    if headers > MAX_HEADERS || cbor::encode(head).len() + 1 > MAX_HEAD {
        return Err(TooLarge);
    }
    Ok(frame(tag, head))
}

/// Headers that belong to one connection and are not passed on (RFC 9110, 7.6.1), beside those
/// that `Connection` names.
pub const HOP_BY_HOP: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Takes the headers of one connection out, and those that `Connection` names.
pub fn strip_hop_by_hop(headers: &mut Vec<Header>) {
    let named: Vec<String> = headers
        .iter()
        .filter(|header| header.name().eq_ignore_ascii_case("connection"))
        .flat_map(|header| {
            String::from_utf8_lossy(header.value())
                .split(',')
                .map(|name| name.trim().to_ascii_lowercase())
                .collect::<Vec<_>>()
        })
        .collect();
    headers.retain(|header| {
        let name = header.name().to_ascii_lowercase();
        !HOP_BY_HOP.contains(&name.as_str()) && !named.contains(&name)
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_comes_back() {
        let request = HttpRequest {
            method: "POST".into(),
            target: "/a?b=c".into(),
            headers: vec![Header::new("accept", "*/*"), Header::new("x", [0xff, 0])],
            body: true,
        };
        let bytes = request.encode().unwrap();
        assert_eq!(HttpRequest::decode(&bytes[2..]), Ok(request.clone()));
        for answer in [
            HttpAnswer::Response(HttpResponse {
                status: 200,
                headers: vec![Header::new("content-type", "text/html")],
            }),
            HttpAnswer::Failed(HttpFailed {
                code: HttpError::Timeout,
                detail: "10 s".into(),
            }),
        ] {
            let bytes = answer.encode().unwrap();
            assert_eq!(HttpAnswer::decode(&bytes[2..]), Ok(answer));
        }
        HttpAnswer::decode(&bytes[2..]).unwrap_err();
    }

    #[test]
    fn heads_have_a_limit() {
        let request = |headers| HttpRequest {
            method: "GET".into(),
            target: "/".into(),
            headers,
            body: false,
        };
        let large = vec![0; MAX_HEAD - 30];
        request(vec![Header::new("a", large)]).encode().unwrap();
        let larger = vec![0; MAX_HEAD];
        let error = request(vec![Header::new("a", larger)]).encode();
        assert_eq!(error, Err(TooLarge));
        let many = vec![Header::new("a", ""); MAX_HEADERS + 1];
        assert_eq!(request(many.clone()).encode(), Err(TooLarge));
        HttpRequest::decode(&frame(REQUEST, &request(many))[2..]).unwrap_err();
    }

    #[test]
    fn headers_of_one_connection_go_no_further() {
        let mut headers = vec![
            Header::new("Connection", "close, X-Private"),
            Header::new("x-private", "1"),
            Header::new("Transfer-Encoding", "chunked"),
            Header::new("Upgrade", "h2c"),
            Header::new("Accept", "*/*"),
        ];
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers, [Header::new("Accept", "*/*")]);
    }
}
