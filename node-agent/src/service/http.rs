//! One HTTP exchange with the exposed host for a caller that has no TCP (PROTOCOL §20.4).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use anyhow::{Result, bail};
use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body, Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use ringback_protocol::service::http::{
    Header, HttpAnswer, HttpError, HttpFailed, HttpRequest, HttpResponse, MAX_HEAD, MAX_HEADERS,
    strip_hop_by_hop,
};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio_util::task::AbortOnDropHandle;

use super::Frames;
use super::address::Address;

mod trust;

/// From the request's head to the response's.
const HEAD_TIMEOUT: Duration = Duration::from_secs(60);
/// For TLS to be set up.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);
/// Read at once of a request's body, in bytes.
const READ: usize = 64 * 1024;

/// A connection to the exposed host.
pub(crate) struct Host {
    authority: String,
    connection: Connection,
}

enum Connection {
    Plain(tokio::net::TcpStream),
    Tls(Box<tokio_rustls::client::TlsStream<tokio::net::TcpStream>>),
    /// The host does not prove who it is.
    Untrusted(String),
}

type RequestBody = UnsyncBoxBody<Bytes, io::Error>;

impl Host {
    pub(crate) async fn plain(address: &Address) -> io::Result<Self> {
        Ok(Self {
            authority: address.authority(80),
            connection: Connection::Plain(address.connect().await?),
        })
    }

    pub(crate) async fn tls(address: &Address) -> io::Result<Self> {
        Self::tls_within(address, TLS_TIMEOUT).await
    }

    async fn tls_within(address: &Address, patience: Duration) -> io::Result<Self> {
        let tcp = address.connect().await?;
        let name = ServerName::try_from(address.host.clone()).map_err(io::Error::other)?;
        let connector = if address.is_private() {
            trust::anybody()
        } else {
            trust::authorities()
        };
        let handshake = connector.map_err(io::Error::other)?.connect(name, tcp);
        let connection = match tokio::time::timeout(patience, handshake).await {
            Ok(Ok(stream)) => Connection::Tls(Box::new(stream)),
            Ok(Err(error)) if trust::is_about_trust(&error) => {
                Connection::Untrusted(error.to_string())
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => {
                let error = "TLS was not set up in 10 s";
                return Err(io::Error::new(io::ErrorKind::TimedOut, error));
            }
        };
        Ok(Self {
            authority: address.authority(443),
            connection,
        })
    }

    /// Passes one request on, and its response back.
    pub(crate) async fn exchange<R, W>(self, recv: R, mut send: W) -> Result<()>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send,
    {
        let mut frames = Frames::new(recv, MAX_HEAD);
        let Some(head) = frames.first().await? else {
            bail!("no request came");
        };
        let request = match HttpRequest::decode(&head) {
            Ok(request) => request,
            Err(error) => {
                return fail(&mut send, HttpError::BadRequest, error.to_string()).await;
            }
        };
        let request = match to_hyper(request, &self.authority, frames.into_inner()) {
            Ok(request) => request,
            Err(error) => return fail(&mut send, HttpError::BadRequest, error).await,
        };
        let response = match self.connection {
            Connection::Plain(tcp) => respond(tcp, request).await,
            Connection::Tls(tls) => respond(*tls, request).await,
            Connection::Untrusted(why) => Err((HttpError::Untrusted, why)),
        };
        let (response, connection) = match response {
            Ok(response) => response,
            Err((code, detail)) => return fail(&mut send, code, detail).await,
        };
        let (head, mut body) = response.into_parts();
        if head.status == StatusCode::SWITCHING_PROTOCOLS {
            let what = "it switches protocols, which was not asked for";
            return fail(&mut send, HttpError::BadResponse, what.into()).await;
        }
        let mut headers = head
            .headers
            .iter()
            .map(|(name, value)| Header::new(name.as_str(), value.as_bytes()))
            .collect();
        strip_hop_by_hop(&mut headers);
        let answer = HttpAnswer::Response(HttpResponse {
            status: head.status.as_u16(),
            headers,
        });
        match answer.encode() {
            Ok(frame) => send.write_all(&frame).await?,
            Err(error) => {
                return fail(&mut send, HttpError::TooLarge, error.to_string()).await;
            }
        }
        // What is not ended is reset: a body that breaks off does not look like a whole one.
        while let Some(frame) = body.frame().await {
            if let Ok(data) = frame?.into_data() {
                send.write_all(&data).await?;
            }
        }
        send.shutdown().await?;
        drop(connection);
        Ok(())
    }
}

/// The connection ends with the exchange: a caller that goes away stops what the host sends.
type Answered = (Response<Incoming>, AbortOnDropHandle<()>);

async fn respond<S>(
    stream: S,
    request: Request<RequestBody>,
) -> Result<Answered, (HttpError, String)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http1::Builder::new()
        .max_headers(MAX_HEADERS + 1)
        .max_buf_size(2 * MAX_HEAD)
        .handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake
        .await
        .map_err(|error| (HttpError::Unreachable, error.to_string()))?;
    let connection = AbortOnDropHandle::new(tokio::spawn(async move {
        // Its failure is the response's too.
        if let Err(error) = connection.await {
            tracing::debug!("a connection to a service ended: {error}");
        }
    }));
    let response = tokio::time::timeout(HEAD_TIMEOUT, sender.send_request(request)).await;
    match response {
        Ok(Ok(response)) => Ok((response, connection)),
        Ok(Err(error)) if is_too_large(&error) => Err((HttpError::TooLarge, error.to_string())),
        Ok(Err(error)) if error.is_parse() => Err((HttpError::BadResponse, error.to_string())),
        Ok(Err(error)) => Err((HttpError::Unreachable, with_cause(&error))),
        Err(_) => Err((HttpError::Timeout, "no answer in 60 s".into())),
    }
}

/// hyper tells it by its text only.
fn is_too_large(error: &hyper::Error) -> bool {
    error.is_parse() && error.to_string().contains("too large")
}

fn with_cause(error: &hyper::Error) -> String {
    use std::error::Error as _;
    match error.source() {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    }
}

/// The request as it goes to the host. Whatever is no HTTP is refused here.
fn to_hyper<R>(
    request: HttpRequest,
    authority: &str,
    body: R,
) -> Result<Request<RequestBody>, String>
where
    R: AsyncRead + Unpin + Send + 'static,
{
    let HttpRequest {
        method,
        target,
        mut headers,
        body: has_body,
    } = request;
    let method = Method::from_bytes(method.as_bytes()).map_err(|error| error.to_string())?;
    if method == Method::CONNECT || !target.starts_with('/') {
        return Err("only a path of the exposed host can be asked for".into());
    }
    let uri = hyper::Uri::builder()
        .path_and_query(target)
        .build()
        .map_err(|error| error.to_string())?;
    strip_hop_by_hop(&mut headers);
    let mut request = Request::builder()
        .method(method)
        .uri(uri)
        .body(if has_body {
            Received::new(body, &headers)?.boxed_unsync()
        } else {
            Empty::new().map_err(|never| match never {}).boxed_unsync()
        })
        .map_err(|error| error.to_string())?;
    for header in &headers {
        let name = HeaderName::from_bytes(header.name().as_bytes());
        let name = name.map_err(|error| error.to_string())?;
        // The body's length is told by the body.
        if [HOST, EXPECT, CONTENT_LENGTH].contains(&name) {
            continue;
        }
        let value = HeaderValue::from_bytes(header.value()).map_err(|error| error.to_string())?;
        request.headers_mut().append(name, value);
    }
    let host = HeaderValue::from_str(authority).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, host);
    Ok(request)
}

/// A request's body as it comes out of the stream.
struct Received<R> {
    recv: R,
    buffer: BytesMut,
    /// What the caller said of its length; `None`: nothing, it goes in chunks.
    left: Option<u64>,
    ended: bool,
}

impl<R> Received<R> {
    fn new(recv: R, headers: &[Header]) -> Result<Self, String> {
        let length = headers
            .iter()
            .find(|header| header.name().eq_ignore_ascii_case("content-length"));
        let left = length
            .map(|header| {
                let text = std::str::from_utf8(header.value()).ok();
                text.and_then(|text| text.trim().parse().ok())
                    .ok_or("Content-Length is a number")
            })
            .transpose()?;
        Ok(Self {
            recv,
            buffer: BytesMut::new(),
            left,
            ended: left == Some(0),
        })
    }
}

impl<R: AsyncRead + Unpin> Body for Received<R> {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }
        this.buffer.resize(READ, 0);
        let mut buffer = ReadBuf::new(&mut this.buffer);
        std::task::ready!(Pin::new(&mut this.recv).poll_read(cx, &mut buffer))?;
        let read = buffer.filled().len();
        let data = this.buffer.split_to(read).freeze();
        if read == 0 {
            this.ended = true;
            return match this.left {
                Some(left) if left > 0 => {
                    Poll::Ready(Some(Err(io::ErrorKind::UnexpectedEof.into())))
                }
                _ => Poll::Ready(None),
            };
        }
        if let Some(left) = &mut this.left {
            *left = left
                .checked_sub(read as u64)
                .ok_or_else(|| io::Error::other("the body is longer than its Content-Length"))?;
        }
        Poll::Ready(Some(Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.ended
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.left
            .map_or_else(Default::default, hyper::body::SizeHint::with_exact)
    }
}

async fn fail(
    send: &mut (impl AsyncWrite + Unpin),
    code: HttpError,
    mut detail: String,
) -> Result<()> {
    if detail.len() > 1024 {
        detail = detail.chars().take(256).collect();
    }
    let failed = HttpAnswer::Failed(HttpFailed { code, detail });
    send.write_all(&failed.encode()?).await?;
    Ok(send.shutdown().await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(method: &str, target: &str, headers: &[(&str, &str)]) -> Result<Request<()>, String> {
        let request = HttpRequest {
            method: method.into(),
            target: target.into(),
            headers: headers
                .iter()
                .map(|(name, value)| Header::new(*name, *value))
                .collect(),
            body: false,
        };
        to_hyper(request, "nas.local", tokio::io::empty()).map(|request| request.map(|_| ()))
    }

    #[tokio::test]
    async fn a_host_that_does_not_set_up_tls_is_given_up() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = silent.local_addr().unwrap().to_string();
        let address = Address::parse(&there, None).unwrap();
        let host = Host::tls_within(&address, Duration::from_millis(50)).await;
        let error = host.map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), "TLS was not set up in 10 s");
    }

    #[test]
    fn a_request_goes_to_the_exposed_host_only() {
        let asked = ask(
            "GET",
            "/a?b",
            &[("Host", "evil"), ("X", "1"), ("TE", "gzip")],
        )
        .unwrap();
        assert_eq!(asked.uri(), "/a?b");
        assert_eq!(asked.headers()[HOST], "nas.local");
        assert_eq!(asked.headers().len(), 2, "{asked:?}");
        for (method, target) in [
            ("GET", "http://evil/"),
            ("CONNECT", "/"),
            ("CONNECT", "evil:443"),
            ("GET", ""),
            ("GET", "*"),
            ("GE T", "/"),
            ("GET", "/ HTTP/1.1\r\nHost: evil"),
        ] {
            ask(method, target, &[]).expect_err(target);
        }
        ask("GET", "/", &[("X", "1\r\nY: 2")]).unwrap_err();
        ask("GET", "/", &[("X: 1\r\nY", "2")]).unwrap_err();
    }
}
