//! HTTPS to the registry (PROTOCOL §5), one connection at a time: it can be opened before the
//! request is ready, so that TLS is set up while addresses are gathered.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Response};
use hyper_util::rt::TokioIo;
use ringback_protocol::frame::{Frame, FrameReader};
use ringback_protocol::{Code, PeerId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::{Registry, Stream};
use crate::failure::{Exit, Failure};

/// From a request to the head of its answer. The registry itself gives up after 5 s.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of the largest JSON answer that is read.
const MAX_ANSWER: usize = 4 << 20;

/// An open HTTP/1.1 connection to the registry.
pub(crate) struct Connection {
    requests: SendRequest<Full<Bytes>>,
    host: String,
}

/// The registry says no (RFC 9457).
#[derive(Debug, Clone, Deserialize, thiserror::Error)]
#[error("{detail}")]
pub(crate) struct Problem {
    pub(crate) code: Code,
    pub(crate) detail: String,
    pub(crate) retry_after_s: Option<u32>,
    pub(crate) last_seen: Option<u64>,
    /// The registry's clock, where the device's is off.
    #[serde(default)]
    pub(crate) time_ms: Option<u64>,
}

impl Problem {
    /// For the person at the keyboard.
    pub(crate) fn refusal(&self) -> Failure {
        let text = format!("the registry refuses: {}", self.code.title());
        Failure::new(Exit::Registry, text).about(&self.code)
    }
}

/// The frames that answer a request, as they come.
pub(crate) struct Frames {
    body: Incoming,
    reader: FrameReader,
}

/// All errors here are [`Exit::Registry`]: nothing else than the registry can be at fault.
impl Connection {
    /// A new connection, or one that [`keep`](Self::keep) was given.
    pub(crate) async fn open(registry: &Registry) -> Result<Self> {
        let spare = registry.spare.lock().take();
        if let Some(mut spare) = spare
            && spare.requests.ready().await.is_ok()
        {
            return Ok(spare);
        }
        Self::dial(registry).await.map_err(fault)
    }

    /// A new connection in as few round trips as there can be.
    pub(crate) async fn open_quickly(registry: &Registry) -> Result<Self> {
        let stream = registry.connect_quickly().await.map_err(fault)?;
        Self::over(stream, registry).await.map_err(fault)
    }

    async fn dial(registry: &Registry) -> Result<Self> {
        let stream = registry.connect().await?;
        Self::over(stream, registry).await
    }

    async fn over(stream: Box<dyn Stream>, registry: &Registry) -> Result<Self> {
        let (requests, connection) = handshake(TokioIo::new(stream)).await?;
        // Ends by itself when the requests are dropped.
        tokio::spawn(connection);
        let host = match registry.url.port() {
            Some(port) => format!("{}:{port}", registry.host()),
            None => registry.host().to_owned(),
        };
        Ok(Self { requests, host })
    }

    /// Saves the next call the round trips of TCP and TLS.
    pub(crate) fn keep(self, registry: &Registry) {
        *registry.spare.lock() = Some(self);
    }

    /// Hands `envelope` to the registry (§5.3). The outer error is the connection's.
    pub(crate) async fn request(
        &mut self,
        device: &PeerId,
        envelope: Vec<u8>,
    ) -> Result<Result<Frames, Problem>> {
        let path = format!("/v1/devices/{device}/requests");
        let response = self
            .send(
                Method::POST,
                &path,
                "application/octet-stream",
                envelope,
                &[],
            )
            .await
            .map_err(fault)?;
        if response.status().is_success() {
            return Ok(Ok(Frames {
                body: response.into_body(),
                reader: FrameReader::default(),
            }));
        }
        Ok(Err(problem(response).await.map_err(fault)?))
    }

    /// A JSON call. The outer error is the connection's.
    pub(crate) async fn json<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Result<T, Problem>> {
        self.json_call(method, path, body).await.map_err(fault)
    }

    /// A call of a device without a socket (§5.4), with its proof; gives the answer's body.
    pub(crate) async fn signed(
        &mut self,
        method: Method,
        path: &str,
        body: Vec<u8>,
        time_ms: u64,
        signature: &[u8; 64],
    ) -> Result<Result<Bytes, Problem>> {
        let headers = [
            ("Ringback-Time", time_ms.to_string()),
            (
                "Ringback-Signature",
                BASE64_URL_SAFE_NO_PAD.encode(signature),
            ),
        ];
        let call = async {
            let kind = "application/octet-stream";
            let response = self.send(method, path, kind, body, &headers).await?;
            if !response.status().is_success() {
                return Ok(Err(problem(response).await?));
            }
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await;
            let body =
                body.map_err(|error| anyhow::anyhow!("the registry's answer broke off: {error}"))?;
            Ok(Ok(body.to_bytes()))
        };
        call.await.map_err(fault)
    }

    async fn json_call<T: DeserializeOwned>(
        &mut self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Result<T, Problem>> {
        let body = body.map_or_else(Vec::new, |body| body.to_string().into_bytes());
        let response = self
            .send(method, path, "application/json", body, &[])
            .await?;
        if !response.status().is_success() {
            return Ok(Err(problem(response).await?));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| anyhow::anyhow!("the registry's answer broke off: {error}"))?
            .to_bytes();
        serde_json::from_slice(&body)
            .map(Ok)
            .context("this is not a Ringback registry, or one of another version")
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
        headers: &[(&str, String)],
    ) -> Result<Response<Incoming>> {
        let mut request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, &self.host)
            .header(USER_AGENT, concat!("ringback/", env!("CARGO_PKG_VERSION")));
        if !body.is_empty() {
            request = request.header(CONTENT_TYPE, content_type);
        }
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let request = request.body(Full::new(Bytes::from(body)))?;
        match tokio::time::timeout(HEAD_TIMEOUT, self.requests.send_request(request)).await {
            Ok(response) => response.context("the connection to the registry broke off"),
            Err(_) => bail!("the registry does not answer; try again later"),
        }
    }
}

impl Frames {
    /// The next frame; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Frame>> {
        self.read().await.map_err(fault)
    }

    async fn read(&mut self) -> Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.reader.next_frame() {
                return Ok(Some(
                    frame.context("the registry's answer is not in the protocol")?,
                ));
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(part) => {
                    let part = part.context("the connection to the registry broke off")?;
                    if let Some(data) = part.data_ref() {
                        self.reader.push(data);
                    }
                }
            }
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "as map_err gives it")]
fn fault(error: anyhow::Error) -> anyhow::Error {
    Failure::new(Exit::Registry, format!("{error:#}")).into()
}

async fn problem(response: Response<Incoming>) -> Result<Problem> {
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_ANSWER)
        .collect()
        .await
        .map(|body| body.to_bytes());
    let parsed = body
        .ok()
        .and_then(|body| serde_json::from_slice(&body).ok());
    parsed.with_context(|| {
        format!("this is not a Ringback registry, or it is not well: it answered HTTP {status}")
    })
}
