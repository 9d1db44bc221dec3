//! The registry's owner: its HTTP API (PROTOCOL.md, section 5) and the socket of live presence.

use futures::channel::mpsc;
use ringback_wasm::object::{self, flag, list, member, number, text};
use serde::Serialize;
use wasm_bindgen::{JsCast, JsValue, closure::Closure};
use wasm_bindgen_futures::JsFuture;
use web_sys::{Headers, MessageEvent, RequestInit, Response, WebSocket};

use crate::{browser, json, sentence::Failure};

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Device {
    pub(crate) id: String,
    pub(crate) name: Option<String>,
    pub(crate) role: String,
    pub(crate) online: bool,
    /// It has a line to the registry, and was not heard of for a while.
    pub(crate) silent: bool,
    pub(crate) via: Option<String>,
    pub(crate) public_address: Option<String>,
    pub(crate) last_seen: Option<f64>,
    pub(crate) enrolled_at: Option<f64>,
    pub(crate) agent: Option<String>,
    pub(crate) revoked: bool,
}

impl Device {
    fn read(of: &JsValue) -> Option<Self> {
        Some(Self {
            id: text(of, "id")?,
            name: text(of, "name"),
            role: text(of, "role").unwrap_or_default(),
            online: flag(of, "online").unwrap_or_default(),
            silent: flag(of, "silent").unwrap_or_default(),
            via: text(of, "via"),
            public_address: text(of, "public_address"),
            last_seen: number(of, "last_seen"),
            enrolled_at: number(of, "enrolled_at"),
            agent: text(of, "agent"),
            revoked: flag(of, "revoked").unwrap_or_default(),
        })
    }

    pub(crate) fn title(&self) -> String {
        self.name
            .clone()
            .unwrap_or_else(|| crate::figures::short_id(&self.id))
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Code {
    pub(crate) code: String,
    pub(crate) name: Option<String>,
    pub(crate) expires_at: f64,
}

#[derive(Serialize)]
struct Named<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
}

#[derive(Serialize)]
struct Hello<'a> {
    owner: &'a str,
}

pub(crate) async fn devices(secret: &str) -> Result<Vec<Device>, Failure> {
    let answer = call(secret, "GET", "/v1/devices", None).await?;
    list(&answer, "devices", Device::read).ok_or_else(not_understood)
}

pub(crate) async fn enrolment_code(secret: &str, name: Option<&str>) -> Result<Code, Failure> {
    let answer = call(secret, "POST", "/v1/codes", Some(Named { name })).await?;
    let code = || {
        Some(Code {
            code: text(&answer, "code")?,
            name: text(&answer, "name"),
            expires_at: number(&answer, "expires_at")?,
        })
    };
    code().ok_or_else(not_understood)
}

pub(crate) async fn rename(secret: &str, device: &str, name: &str) -> Result<(), Failure> {
    let path = format!("/v1/devices/{device}");
    let named = Named { name: Some(name) };
    call(secret, "PATCH", &path, Some(named)).await.map(drop)
}

pub(crate) async fn revoke(secret: &str, device: &str) -> Result<(), Failure> {
    let path = format!("/v1/devices/{device}");
    call(secret, "DELETE", &path, None).await.map(drop)
}

/// The answer, read as JSON; an empty one is `null`.
async fn call(
    secret: &str,
    method: &str,
    path: &str,
    body: Option<Named<'_>>,
) -> Result<JsValue, Failure> {
    let unreachable = |_: JsValue| Failure::new("registry_unreachable", "");
    let headers = Headers::new().map_err(unreachable)?;
    // Bytes that a header can not hold are no owner secret.
    headers
        .set("authorization", &format!("Bearer {secret}"))
        .map_err(|_| Failure::new("unauthorized", ""))?;
    let init = RequestInit::new();
    init.set_method(method);
    if let Some(body) = body {
        headers
            .set("content-type", "application/json")
            .map_err(unreachable)?;
        init.set_body(&json::text(&body).into());
    }
    init.set_headers(&headers);
    let response = JsFuture::from(browser::window().fetch_with_str_and_init(path, &init))
        .await
        .map_err(unreachable)?
        .dyn_into::<Response>()
        .map_err(unreachable)?;
    let body = JsFuture::from(response.text().map_err(unreachable)?)
        .await
        .map_err(unreachable)?
        .as_string()
        .unwrap_or_default();
    let body = if body.is_empty() { "null" } else { &body };
    let answer = object::parse(body);
    if !response.ok() {
        let problem = answer.unwrap_or_default();
        return Err(Failure {
            code: text(&problem, "code").unwrap_or_default(),
            detail: text(&problem, "detail").unwrap_or_default(),
            retry_after_s: number(&problem, "retry_after_s"),
            last_seen: number(&problem, "last_seen"),
            new_device: None,
        });
    }
    answer.ok_or_else(not_understood)
}

fn not_understood() -> Failure {
    Failure::new("bad_version", "not the answer of a registry")
}

/// News from the socket of live presence.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum News {
    All(Vec<Device>),
    One(Device),
    Removed(String),
    Refused(Failure),
    Closed,
}

/// The socket `GET /v1/devices/socket`. Dropping it closes it.
pub(crate) struct Presence {
    socket: WebSocket,
    _handlers: Vec<Closure<dyn FnMut(MessageEvent)>>,
    pub(crate) news: mpsc::UnboundedReceiver<News>,
}

impl Presence {
    /// By a ticket, for which the registry wakes nobody. Where there is none, the socket itself says
    /// why.
    pub(crate) async fn open(secret: &str) -> Result<Self, Failure> {
        let ticket = call(secret, "POST", "/v1/tickets", None).await.ok();
        let offered = js_sys::Array::of1(&"ringback.owner.1".into());
        if let Some(ticket) = ticket.and_then(|ticket| text(&ticket, "ticket")) {
            offered.push(&format!("ringback.ticket.{ticket}").into());
        }
        let unreachable = |_: JsValue| Failure::new("registry_unreachable", "");
        let url = format!(
            "{}/v1/devices/socket",
            browser::origin().replacen("http", "ws", 1)
        );
        let socket = WebSocket::new_with_str_sequence(&url, &offered).map_err(unreachable)?;
        let (sender, news) = mpsc::unbounded();
        let hello = json::text(&Hello { owner: secret });
        let opened = socket.clone();
        let on_open = Closure::<dyn FnMut(MessageEvent)>::new(move |_| {
            let _ = opened.send_with_str(&hello);
        });
        let told = sender.clone();
        let on_message = Closure::<dyn FnMut(MessageEvent)>::new(move |event: MessageEvent| {
            if let Some(item) = event.data().as_string().and_then(|text| parse(&text)) {
                let _ = told.unbounded_send(item);
            }
        });
        let on_close = Closure::<dyn FnMut(MessageEvent)>::new(move |_| {
            let _ = sender.unbounded_send(News::Closed);
        });
        socket.set_onopen(Some(on_open.as_ref().unchecked_ref()));
        socket.set_onmessage(Some(on_message.as_ref().unchecked_ref()));
        socket.set_onclose(Some(on_close.as_ref().unchecked_ref()));
        Ok(Self {
            socket,
            _handlers: vec![on_open, on_message, on_close],
            news,
        })
    }

    /// Keeps middleboxes from closing an idle connection; the registry's runtime answers. While
    /// somebody looks, the list is asked for instead, which shows who has fallen silent.
    pub(crate) fn ping(&self) {
        let is_seen = browser::document().has_focus().unwrap_or_default();
        let _ = self
            .socket
            .send_with_str(if is_seen { "{}" } else { "ping" });
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.socket.set_onopen(None);
        self.socket.set_onmessage(None);
        self.socket.set_onclose(None);
        let _ = self.socket.close();
    }
}

fn parse(message: &str) -> Option<News> {
    let message = object::parse(message)?;
    if let Some(devices) = list(&message, "devices", Device::read) {
        return Some(News::All(devices));
    }
    if let Some(device) = Device::read(&member(&message, "device")) {
        return Some(News::One(device));
    }
    if let Some(id) = text(&message, "removed") {
        return Some(News::Removed(id));
    }
    text(&message, "error").map(|code| News::Refused(Failure::new(code, "")))
}
