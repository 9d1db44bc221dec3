//! The device's WebSocket to the registry (PROTOCOL §6), driven by the sans-IO registration.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::{SinkExt as _, StreamExt as _};
use ringback_protocol::frame::{Frame, MAX_FRAME};
use ringback_protocol::registration::{Output, Registration, STEP_TIMEOUT, sign_upgrade};
use ringback_protocol::{Code, SecretKey};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderMap, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use super::{Problem, Registry, Stream};

/// Longest wait where no timer runs.
const IDLE: Duration = Duration::from_secs(3600);

/// The close code of a socket whose place a newer registration has taken (§6).
const REPLACED: u16 = 4001;

/// Tells this start of the agent from others with the same key (§6.1).
static INSTANCE: LazyLock<u64> = LazyLock::new(rand::random);

/// Another agent has registered with this key.
#[derive(Debug, thiserror::Error)]
#[error("another agent has registered with this device's key")]
pub(crate) struct Replaced;

/// A registration and the socket that it lives on.
pub(crate) struct RegistrySocket {
    socket: WebSocket,
    registration: Registration,
    started: Instant,
}

/// Opens the device's socket. The registration then runs by
/// [`RegistrySocket::drain`] and [`RegistrySocket::wait`].
pub(crate) async fn connect(
    registry: &Registry,
    device: &SecretKey,
    public: Option<SocketAddr>,
) -> Result<RegistrySocket> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME))
        .read_buffer_size(4096)
        .write_buffer_size(0);
    let path = format!("/v1/devices/{}/socket", device.id());
    let socket = open_websocket(registry, device, &path, config).await?;
    let agent = concat!("ringback/", env!("CARGO_PKG_VERSION")).to_owned();
    let started = Instant::now();
    let registration = Registration::new(
        device.clone(),
        registry.origin(),
        agent,
        public,
        Duration::ZERO,
    )
    .of_instance(*INSTANCE);
    Ok(RegistrySocket {
        socket,
        registration,
        started,
    })
}

/// A WebSocket to the registry, the device's or that of a relay's room.
pub(crate) type WebSocket = WebSocketStream<Box<dyn Stream>>;

/// Opens a WebSocket that speaks `ringback.1`, signed by `peer` (§5.8). Once more, if this host's
/// clock is off.
pub(crate) async fn open_websocket(
    registry: &Registry,
    peer: &SecretKey,
    path: &str,
    config: WebSocketConfig,
) -> Result<WebSocket> {
    match open_once(registry, peer, path, config).await {
        Err(error) => {
            let problem = error.downcast_ref::<Problem>();
            let stale = problem.filter(|problem| problem.code == Code::Stale);
            let Some(theirs_ms) = stale.and_then(|problem| problem.time_ms) else {
                return Err(error);
            };
            registry.set_clock(theirs_ms);
            open_once(registry, peer, path, config).await
        }
        opened => opened,
    }
}

async fn open_once(
    registry: &Registry,
    peer: &SecretKey,
    path: &str,
    config: WebSocketConfig,
) -> Result<WebSocket> {
    let stream = registry.connect().await?;
    let scheme = if registry.tls.is_some() { "wss" } else { "ws" };
    let authority = &registry.url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut request = format!("{scheme}://{authority}{path}").into_client_request()?;
    let time_ms = registry.now_ms();
    let signature = sign_upgrade(peer, &registry.origin(), path, time_ms);
    let headers = request.headers_mut();
    for (name, value) in [
        ("sec-websocket-protocol", "ringback.1".to_owned()),
        ("ringback-peer", peer.id().to_string()),
        ("ringback-time", time_ms.to_string()),
        (
            "ringback-signature",
            BASE64_URL_SAFE_NO_PAD.encode(signature),
        ),
    ] {
        headers.insert(name, HeaderValue::try_from(value)?);
    }
    let upgrade = client_async_with_config(request, stream, Some(config));
    let (socket, _) = tokio::time::timeout(STEP_TIMEOUT, upgrade)
        .await
        .context("the registry does not answer")?
        .map_err(explain)?;
    Ok(socket)
}

impl RegistrySocket {
    /// Sends what the registration wants sent and gives the next thing that the agent has to know;
    /// `None`: nothing before the next input. After [`Output::Close`] nothing comes any more. Not
    /// cancellation-safe.
    pub(crate) async fn drain(&mut self) -> Result<Option<Output>> {
        while let Some(output) = self.registration.poll_output() {
            match output {
                Output::Send(frame) => self.send(&frame).await?,
                Output::SendPing => self.send_message(Message::text("ping")).await?,
                Output::Close(_) => {
                    let _ = self.socket.close(None).await;
                    return Ok(Some(output));
                }
                output => return Ok(Some(output)),
            }
        }
        Ok(None)
    }

    /// Waits for the next input or timer. The error is the connection's end. Cancellation-safe.
    pub(crate) async fn wait(&mut self) -> Result<()> {
        let timeout = self.registration.poll_timeout().unwrap_or(IDLE);
        match tokio::time::timeout_at((self.started + timeout).into(), self.socket.next()).await {
            Err(_) => self.registration.handle_timeout(self.now()),
            Ok(None) => anyhow::bail!("the registry closed the connection"),
            Ok(Some(Err(error))) => return Err(explain(error)),
            Ok(Some(Ok(Message::Binary(bytes)))) => {
                self.registration.handle_message(&bytes, self.now());
            }
            Ok(Some(Ok(Message::Text(text)))) if text.as_str() == "pong" => {
                self.registration.handle_pong();
            }
            Ok(Some(Ok(Message::Close(Some(frame))))) if u16::from(frame.code) == REPLACED => {
                anyhow::bail!(Replaced)
            }
            Ok(Some(Ok(Message::Close(frame)))) => {
                let reason = frame
                    .map(|f| format!(" ({} {})", f.code, f.reason))
                    .unwrap_or_default();
                anyhow::bail!("the registry closed the connection{reason}");
            }
            Ok(Some(Ok(_))) => {}
        }
        Ok(())
    }

    pub(crate) async fn send(&mut self, frame: &Frame) -> Result<()> {
        self.send_message(Message::binary(frame.encode())).await
    }

    /// STUN shows this public address: tells the registry if that is news. Sent by `drain`.
    pub(crate) fn set_public(&mut self, public: SocketAddr) {
        let now = self.now();
        self.registration.set_public(public, now);
    }

    /// The network may have changed: finds out whether the socket still lives.
    pub(crate) fn check(&mut self) {
        let now = self.now();
        self.registration.check(now);
    }

    async fn send_message(&mut self, message: Message) -> Result<()> {
        self.socket.send(message).await.map_err(explain)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }
}

fn explain(error: tungstenite::Error) -> anyhow::Error {
    let tungstenite::Error::Http(response) = error else {
        return anyhow::Error::new(error).context("the connection to the registry broke off");
    };
    // Of the body there is only what came together with the head.
    let problem = response
        .body()
        .as_deref()
        .and_then(|body| serde_json::from_slice::<Problem>(body).ok());
    problem.or_else(|| in_head(response.headers())).map_or_else(
        || {
            anyhow::anyhow!(
                "this is not a Ringback registry, or it is not well: it answered HTTP {}",
                response.status()
            )
        },
        Into::into,
    )
}

/// The registry's word in the head of its answer (§5).
fn in_head(headers: &HeaderMap) -> Option<Problem> {
    let text = |name: &str| headers.get(name)?.to_str().ok();
    let code = Code::from(text("ringback-code")?);
    Some(Problem {
        detail: code.title().to_owned(),
        code,
        retry_after_s: text("retry-after").and_then(|seconds| seconds.parse().ok()),
        last_seen: None,
        time_ms: text("ringback-time").and_then(|time| time.parse().ok()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_understood_by_its_head_alone() {
        let mut headers = HeaderMap::new();
        assert!(in_head(&headers).is_none());
        headers.insert("ringback-code", HeaderValue::from_static("stale"));
        headers.insert("ringback-time", HeaderValue::from_static("1800000000000"));
        let problem = in_head(&headers).unwrap();
        assert_eq!(problem.code, Code::Stale);
        assert_eq!(problem.time_ms, Some(1_800_000_000_000));
    }
}
