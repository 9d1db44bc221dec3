//! How the registry is reached, step by step, with the time that each step took.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::{HOST, USER_AGENT};
use hyper_util::rt::TokioIo;
use ringback_protocol::SecretKey;
use ringback_protocol::frame::{Frame, MAX_FRAME};
use serde::{Deserialize, Serialize};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::{Registry, Stream, tls};
use crate::clock::unix_time;
use crate::happy_eyeballs;

/// For each step.
const STEP: Duration = Duration::from_secs(3);
/// Bytes of the largest answer that is read.
const MAX_ANSWER: usize = 1 << 20;

/// What was reached, up to the step that failed.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Health {
    pub(crate) origin: String,
    /// The proxy on the way, if the environment names one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) proxy: Option<String>,
    pub(crate) addresses: Vec<SocketAddr>,
    pub(crate) dns_ms: Option<f64>,
    pub(crate) tcp_ms: Option<f64>,
    pub(crate) tls_ms: Option<f64>,
    /// One request and its answer.
    pub(crate) http_ms: Option<f64>,
    /// From the upgrade to the registry's challenge, with the connection's set-up.
    pub(crate) websocket_ms: Option<f64>,
    /// Seconds that this host's clock is ahead of the registry's.
    pub(crate) clock_ahead_s: Option<i64>,
    /// What the registry says of itself.
    pub(crate) info: Option<Info>,
    /// The first step that failed, and why.
    pub(crate) trouble: Option<String>,
    /// Calls can be made, but no device can register here.
    pub(crate) websocket_trouble: Option<String>,
}

/// `GET /v1/registry`, as far as it matters here.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Info {
    #[serde(default)]
    pub(crate) version: String,
    #[serde(default)]
    pub(crate) time: u64,
    #[serde(default)]
    pub(crate) stun_servers: Vec<String>,
    #[serde(default)]
    pub(crate) beacons: Vec<Beacon>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Beacon {
    #[serde(default)]
    pub(crate) udp: Option<String>,
    #[serde(default)]
    pub(crate) relay: bool,
    #[serde(default)]
    pub(crate) online: bool,
}

impl Health {
    /// The registry answers.
    pub(crate) fn is_well(&self) -> bool {
        self.info.is_some()
    }

    /// Asks `registry`, at most about 12 s; 3 s if nobody is there. `device`: in whose name the
    /// WebSocket is opened; nothing is registered.
    pub(crate) async fn of(registry: &Registry, device: &SecretKey) -> Self {
        let mut health = Self {
            origin: registry.origin(),
            proxy: registry.proxy(),
            ..Self::default()
        };
        if let Err(error) = health.ask(registry).await {
            health.trouble = Some(format!("{error:#}"));
            return health;
        }
        let start = Instant::now();
        match timeout(STEP, challenge(registry, device)).await {
            Ok(Ok(())) => health.websocket_ms = Some(ms(start)),
            Ok(Err(error)) => health.websocket_trouble = Some(format!("{error:#}")),
            Err(_) => health.websocket_trouble = Some("no answer in 3 s".into()),
        }
        health
    }

    async fn ask(&mut self, registry: &Registry) -> Result<()> {
        let host = registry.host();
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = match &self.proxy {
            // It looks the name up by itself.
            Some(proxy) => {
                let proxy = proxy.clone();
                let start = Instant::now();
                let tcp = match timeout(STEP, registry.dial()).await {
                    Err(_) => bail!("no connection by the proxy {proxy} in 3 s"),
                    Ok(Err(error)) => bail!("no connection by the proxy {proxy}: {error}"),
                    Ok(Ok(tcp)) => tcp,
                };
                self.tcp_ms = Some(ms(start));
                tcp
            }
            None => self.dial(registry, name).await?,
        };
        tcp.set_nodelay(true)?;

        let stream: Box<dyn Stream> = match &registry.tls {
            None => Box::new(tcp),
            Some(tls) => {
                let start = Instant::now();
                let server = rustls::pki_types::ServerName::try_from(name.to_owned())?;
                let stream = match timeout(STEP, tls.connect(server, tcp)).await {
                    Err(_) => bail!("no TLS with {} in 3 s", registry.authority()),
                    Ok(Err(error)) => bail!(tls::explain(&error, &self.origin)),
                    Ok(Ok(stream)) => stream,
                };
                self.tls_ms = Some(ms(start));
                Box::new(stream)
            }
        };

        let (mut requests, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let authority = &registry.url[url::Position::BeforeHost..url::Position::AfterPort];
        let request = hyper::Request::get("/v1/registry")
            .header(HOST, authority)
            .header(USER_AGENT, concat!("ringback/", env!("CARGO_PKG_VERSION")))
            .body(Empty::<Bytes>::new())?;
        let start = Instant::now();
        let before = unix_time(0);
        let answer = async {
            let response = requests.send_request(request).await?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER)
                .collect()
                .await
                .map_err(|error| anyhow::anyhow!("the answer broke off: {error}"))?;
            anyhow::Ok((status, body.to_bytes()))
        };
        let (status, body) = match timeout(STEP, answer).await {
            Err(_) => bail!("no HTTP answer in 3 s"),
            Ok(answer) => answer?,
        };
        self.http_ms = Some(ms(start));
        if !status.is_success() {
            bail!("this is not a Ringback registry, or it is not well: it answered HTTP {status}");
        }
        let info: Info = serde_json::from_slice(&body)
            .context("this is not a Ringback registry, or one of another version")?;
        if info.time > 0 {
            // Its second may have begun anywhere between the two.
            let between = u64::midpoint(before, unix_time(0));
            self.clock_ahead_s = Some(between.cast_signed() - info.time.cast_signed());
        }
        self.info = Some(info);
        Ok(())
    }

    async fn dial(&mut self, registry: &Registry, name: &str) -> Result<tokio::net::TcpStream> {
        let start = Instant::now();
        let found = timeout(STEP, tokio::net::lookup_host((name, registry.port()))).await;
        let found = match found {
            Err(_) => bail!("{name} can not be looked up: no answer in 3 s"),
            Ok(Err(error)) => bail!("{name} can not be looked up: {error}"),
            Ok(Ok(found)) => found,
        };
        self.addresses = found.collect();
        if self.addresses.is_empty() {
            bail!("{name} has no address");
        }
        self.dns_ms = Some(ms(start));

        let start = Instant::now();
        let dial = happy_eyeballs::connect(self.addresses.iter().copied());
        let tcp = match timeout(STEP, dial).await {
            Err(_) => bail!("no TCP connection to {} in 3 s", registry.authority()),
            Ok(Err(error)) => bail!("no TCP connection to {}: {error}", registry.authority()),
            Ok(Ok(tcp)) => tcp,
        };
        self.tcp_ms = Some(ms(start));
        Ok(tcp)
    }
}

/// The first frame on a device's socket.
async fn challenge(registry: &Registry, device: &SecretKey) -> Result<()> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_FRAME))
        .max_frame_size(Some(MAX_FRAME));
    let path = format!("/v1/devices/{}/socket", device.id());
    let mut socket = super::open_websocket(registry, device, &path, config).await?;
    let first = socket.next().await.context("closed at once")??;
    let Message::Binary(bytes) = first else {
        bail!("not what a registry says");
    };
    let Ok(Frame::Challenge(_)) = Frame::decode(&bytes) else {
        bail!("not what a registry says");
    };
    // Gone before it has ended in order is as good.
    let _ = socket.close(None).await;
    Ok(())
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
