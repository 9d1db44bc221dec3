//! The registry, as a caller uses it (PROTOCOL §5).

use std::cell::RefCell;
use std::rc::Rc;

use js_sys::{JSON, Promise, Uint8Array};
use ringback_protocol::frame::{Failed, Frame, FrameReader};
use ringback_protocol::{Code, PeerId, VERSION, name};
use serde::Serialize;
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;
use web_sys::{AbortController, ReadableStreamDefaultReader, RequestInit, Response};

use crate::clock::within;
use crate::error::{BAD_ID, REGISTRY_UNREACHABLE};
use crate::explanation::explain_failed;
use crate::object::{self, list, member, number, text};
use crate::{CallError, Contacts, origin};

/// For the beginning of an answer, in milliseconds.
const PATIENCE: f64 = 15_000.0;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_name = fetch)]
    fn fetch(url: &str, init: &RequestInit) -> Promise;
}

/// A registry at its origin. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Registry {
    inner: Rc<Inner>,
}

#[derive(Debug)]
struct Inner {
    origin: String,
    info: RegistryInfo,
    /// TURN servers with credentials, as JSON, that an admitted call has brought.
    turn: RefCell<Option<String>>,
}

/// What a registry says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RegistryInfo {
    pub version: String,
    pub protocol_versions: Vec<u16>,
    /// The registry's clock, Unix seconds.
    pub time: u64,
    /// `host:port` each.
    pub stun_servers: Vec<String>,
    /// For the browser's `RTCPeerConnection`; never with credentials.
    pub ice_servers: Vec<IceServer>,
    /// Where pages of a device's network are shown; absent: the registry has no such origin.
    pub lan_origin: Option<String>,
    /// `open` or `closed`.
    pub registration: Option<String>,
}

/// An `RTCIceServer` without credentials.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct IceServer {
    pub urls: Vec<String>,
}

/// RFC 9457 with the members of §5.
struct Problem {
    code: Code,
    detail: String,
    retry_after_s: Option<u32>,
    last_seen: Option<u64>,
}

impl RegistryInfo {
    fn read(of: &JsValue) -> Option<Self> {
        let ice_server = |server: &JsValue| {
            let urls = list(server, "urls", JsValue::as_string)?;
            Some(IceServer { urls })
        };
        Some(Self {
            version: text(of, "version")?,
            protocol_versions: list(of, "protocol_versions", |version| {
                version.as_f64().map(|version| version as u16)
            })?,
            time: number(of, "time")? as u64,
            stun_servers: list(of, "stun_servers", JsValue::as_string).unwrap_or_default(),
            ice_servers: list(of, "ice_servers", ice_server).unwrap_or_default(),
            lan_origin: text(of, "lan_origin"),
            registration: text(of, "registration"),
        })
    }
}

impl Registry {
    /// Asks the registry at `address` (as `https://registry.example`) what it offers.
    pub async fn open(address: &str) -> Result<Self, CallError> {
        let origin = origin::parse(address)?;
        let info = match ask(&origin, "/v1/registry").await? {
            Ok(info) => RegistryInfo::read(&info).ok_or_else(|| no_registry(&origin))?,
            Err(problem) => return Err(problem.into_error()),
        };
        if !info.protocol_versions.contains(&VERSION) {
            return Err(CallError::new(
                Code::BadVersion.as_str().to_owned(),
                format!("the registry at {origin} and this page speak different versions"),
            ));
        }
        Ok(Self {
            inner: Rc::new(Inner {
                origin,
                info,
                turn: RefCell::new(None),
            }),
        })
    }

    #[cfg(all(test, target_arch = "wasm32"))]
    pub(crate) fn for_tests() -> Self {
        let info = RegistryInfo {
            version: String::new(),
            protocol_versions: vec![VERSION],
            time: 0,
            stun_servers: Vec::new(),
            ice_servers: Vec::new(),
            lan_origin: None,
            registration: None,
        };
        Self {
            inner: Rc::new(Inner {
                origin: "https://registry.example".to_owned(),
                info,
                turn: RefCell::new(None),
            }),
        }
    }

    pub fn origin(&self) -> &str {
        &self.inner.origin
    }

    pub fn info(&self) -> &RegistryInfo {
        &self.inner.info
    }

    /// The device that `name` leads to: an ID stands for itself, then this browser's contacts count,
    /// then the registry's names.
    pub async fn resolve(&self, name: &str) -> Result<PeerId, CallError> {
        let name = name.trim();
        if looks_like_an_id(name) {
            return parse_id(name);
        }
        match Contacts::by_name(name, self.origin()).await? {
            Some(contact) => Ok(contact.id),
            None => self.look_up(name).await,
        }
    }

    /// The device that `target` means, if it is to be had as far as the registry tells strangers: an
    /// ID is asked for, and a name. What is among this browser's contacts is not asked for.
    pub async fn look_for(&self, target: &str) -> Result<PeerId, CallError> {
        let target = target.trim();
        if !looks_like_an_id(target) {
            return self.resolve(target).await;
        }
        let device = parse_id(target)?;
        if Contacts::by_id(&device).await?.is_some() {
            return Ok(device);
        }
        match ask(self.origin(), &format!("/v1/devices/{device}")).await? {
            Err(problem) if problem.code != Code::MethodNotAllowed => Err(problem.into_error()),
            // A registry of before this question does not answer it.
            _ => Ok(device),
        }
    }

    /// The registry's own word on whose `name` is.
    pub(crate) async fn look_up(&self, name: &str) -> Result<PeerId, CallError> {
        name::check(name).map_err(|error| {
            CallError::new(BAD_ID, format!("neither a device ID nor a name: {error}"))
        })?;
        match ask(self.origin(), &format!("/v1/aliases/{name}")).await? {
            Ok(alias) => text(&alias, "device")
                .and_then(|device| device.parse().ok())
                .ok_or_else(|| no_registry(self.origin())),
            Err(problem) if problem.code == Code::UnknownAlias => Err(CallError::new(
                Code::UnknownAlias.as_str().to_owned(),
                format!("the registry knows no device called {name}"),
            )),
            Err(problem) => Err(problem.into_error()),
        }
    }

    /// Hands a request over; the frames that answer it.
    pub(crate) async fn place(
        &self,
        device: &PeerId,
        envelope: &[u8],
    ) -> Result<Result<Answers, Failed>, CallError> {
        let url = format!("{}/v1/devices/{device}/requests", self.origin());
        let init = RequestInit::new();
        init.set_method("POST");
        // Without a type, which would make a browser ask for permission first when the page is from
        // another origin: a round trip more.
        init.set_body(&Uint8Array::from(envelope));
        let exchange = Exchange::begin(&url, &init).await?;
        if exchange.response.status() != 200 {
            let problem = exchange.problem(self.origin()).await?;
            return Ok(Err(Failed {
                call: 0,
                code: problem.code,
                detail: problem.detail,
                retry_after_s: problem.retry_after_s,
                last_seen: problem.last_seen,
            }));
        }
        let body = exchange.response.body().ok_or_else(broken_off)?;
        let reader = ReadableStreamDefaultReader::new(&body).map_err(|_| broken_off())?;
        Ok(Ok(Answers {
            reader,
            frames: FrameReader::default(),
            _exchange: exchange,
        }))
    }

    pub(crate) fn keep_turn(&self, servers: String) {
        self.inner.turn.replace(Some(servers));
    }

    /// `RTCIceServer`s: the registry's own, and TURN servers where a call has brought them.
    pub(crate) fn ice_servers(&self, with_turn: bool) -> js_sys::Array {
        let servers = serde_wasm_bindgen::to_value(&self.inner.info.ice_servers)
            .map_or_else(|_| js_sys::Array::new(), |list| js_sys::Array::from(&list));
        let turn = self.inner.turn.borrow();
        if let (true, Some(turn)) = (with_turn, turn.as_deref())
            && let Ok(list) = JSON::parse(turn)
        {
            return servers.concat(&js_sys::Array::from(&list));
        }
        servers
    }
}

/// The frames that answer a request, as they come. Dropping it ends the request.
pub(crate) struct Answers {
    reader: ReadableStreamDefaultReader,
    frames: FrameReader,
    _exchange: Exchange,
}

impl Answers {
    /// The next frame. The end before an outcome is an error: the registry has died.
    pub(crate) async fn next(&mut self) -> Result<Frame, CallError> {
        loop {
            if let Some(frame) = self.frames.next_bytes() {
                return Frame::decode_answer(&frame).map_err(|_| {
                    CallError::new(
                        REGISTRY_UNREACHABLE,
                        "the registry's answer is none of this protocol",
                    )
                });
            }
            let chunk = JsFuture::from(self.reader.read())
                .await
                .map_err(|_| broken_off())?;
            if member(&chunk, "done").is_truthy() {
                return Err(broken_off());
            }
            let bytes = Uint8Array::new(&member(&chunk, "value"));
            self.frames.push(&bytes.to_vec());
        }
    }
}

/// A request and its response. Dropping it ends both.
struct Exchange {
    response: Response,
    abort: AbortOnDrop,
}

struct AbortOnDrop(AbortController);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Exchange {
    async fn begin(url: &str, init: &RequestInit) -> Result<Self, CallError> {
        let abort = AbortController::new().map_err(|_| unreachable(url))?;
        init.set_signal(Some(&abort.signal()));
        let abort = AbortOnDrop(abort);
        match within(PATIENCE, JsFuture::from(fetch(url, init))).await {
            Some(Ok(response)) => Ok(Self {
                response: response.unchecked_into(),
                abort,
            }),
            Some(Err(_)) => Err(unreachable(url)),
            None => Err(CallError::new(
                REGISTRY_UNREACHABLE,
                "the registry does not answer",
            )),
        }
    }

    async fn json(self) -> Option<JsValue> {
        let text = JsFuture::from(self.response.text().ok()?).await.ok()?;
        drop(self.abort);
        object::parse(&text.as_string()?)
    }

    async fn problem(self, origin: &str) -> Result<Problem, CallError> {
        let status = self.response.status();
        let problem = self.json().await;
        problem.as_ref().and_then(Problem::read).ok_or_else(|| {
            let message = format!("what answers at {origin} is no registry (status {status})");
            CallError::new(REGISTRY_UNREACHABLE, message)
        })
    }
}

impl Problem {
    fn read(of: &JsValue) -> Option<Self> {
        Some(Self {
            code: Code::from(&*text(of, "code")?),
            detail: text(of, "detail").unwrap_or_default(),
            retry_after_s: number(of, "retry_after_s").map(|seconds| seconds as u32),
            last_seen: number(of, "last_seen").map(|seen| seen as u64),
        })
    }

    fn into_error(self) -> CallError {
        explain_failed(&Failed {
            call: 0,
            code: self.code,
            detail: self.detail,
            retry_after_s: self.retry_after_s,
            last_seen: self.last_seen,
        })
    }
}

async fn ask(origin: &str, path: &str) -> Result<Result<JsValue, Problem>, CallError> {
    let exchange = Exchange::begin(&format!("{origin}{path}"), &RequestInit::new()).await?;
    let status = exchange.response.status();
    if status != 200 {
        return exchange.problem(origin).await.map(Err);
    }
    exchange
        .json()
        .await
        .map(Ok)
        .ok_or_else(|| no_registry(origin))
}

fn no_registry(origin: &str) -> CallError {
    CallError::new(
        REGISTRY_UNREACHABLE,
        format!("what answers at {origin} is no registry"),
    )
}

pub(crate) fn looks_like_an_id(text: &str) -> bool {
    text.get(..3)
        .is_some_and(|start| start.eq_ignore_ascii_case("rb1"))
}

pub(crate) fn parse_id(text: &str) -> Result<PeerId, CallError> {
    text.parse()
        .map_err(|error: ringback_protocol::id::IdError| CallError::new(BAD_ID, error.to_string()))
}

/// Browsers do not tell a page why: for its own registry it is the network, for another one it may
/// be that the owner has not allowed this page.
fn unreachable(url: &str) -> CallError {
    let own = text(&member(&js_sys::global(), "location"), "origin");
    let hint = match own {
        Some(own) if !url.starts_with(&format!("{own}/")) => {
            format!("; if it is there, its owner has to allow pages of {own} by ALLOWED_ORIGINS")
        }
        _ => String::new(),
    };
    CallError::new(
        REGISTRY_UNREACHABLE,
        format!("the registry can not be reached{hint}"),
    )
}

fn broken_off() -> CallError {
    CallError::new(
        REGISTRY_UNREACHABLE,
        "the registry broke off before the device had answered",
    )
}
