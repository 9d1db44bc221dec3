//! A device's object from outside: what the frontend and the other objects ask of it.
//! [`crate::device_object`] answers.

use ringback_protocol::PeerId;
use serde::{Deserialize, Serialize};
use worker::wasm_bindgen::JsValue;
use worker::{Env, Headers, Method, Request, RequestInit, Response, js_sys};

pub const BINDING: &str = "DEVICES";
/// The WebSocket subprotocol of §6.
pub const SUBPROTOCOL: &str = "ringback.1";

/// Close codes of §6.
pub(crate) mod close {
    pub(crate) const REPLACED: u16 = 4001;
    pub(crate) const REJECTED: u16 = 4003;
    pub(crate) const DEAD: u16 = 4008;
}

/// Headers between the frontend and the object; the frontend builds these requests from nothing, so
/// none comes from outside.
pub(crate) mod header {
    pub(crate) const DEVICE: &str = "ringback-device";
    pub(crate) const CALLER: &str = "ringback-caller";
    /// The caller takes ICE servers.
    pub(crate) const BROWSER: &str = "ringback-browser";
    pub(crate) const ORIGIN: &str = "ringback-origin";
    pub(crate) const FROM: &str = "ringback-from";
    /// The device that a beacon is told of.
    pub(crate) const SUBJECT: &str = "ringback-subject";
}

/// A device's registered socket, for the directory's list.
#[derive(Debug, Serialize, Deserialize)]
pub struct Presence {
    pub session: u64,
    /// Unix time of the last sign of life.
    pub seen: u64,
}

/// Opens a socket for the device, which `from` (an address as text, or empty) has dialed at `origin`.
pub async fn socket(
    env: &Env,
    device: &PeerId,
    origin: &str,
    from: &str,
) -> worker::Result<Response> {
    let headers = headers_for(device)?;
    headers.set("upgrade", "websocket")?;
    headers.set(header::ORIGIN, origin)?;
    headers.set(header::FROM, from)?;
    fetch(env, device, Method::Get, "socket", headers, None).await
}

/// Relays an envelope whose signature by `caller` is verified, and which has come from there (an
/// address as text; empty if another device has placed it). The answer is a stream (§5.3) or a
/// problem. A browser that is admitted is told of TURN servers.
pub async fn request(
    env: &Env,
    device: &PeerId,
    caller: &PeerId,
    from: &str,
    envelope: &[u8],
    is_browser: bool,
) -> worker::Result<Response> {
    let headers = headers_for(device)?;
    headers.set(header::CALLER, &caller.to_string())?;
    headers.set(header::FROM, from)?;
    if is_browser {
        headers.set(header::BROWSER, "1")?;
    }
    let body = js_sys::Uint8Array::from(envelope);
    fetch(
        env,
        device,
        Method::Post,
        "requests",
        headers,
        Some(body.into()),
    )
    .await
}

/// Is the device there? Closes a socket that has been silent for too long.
pub async fn presence(env: &Env, device: &PeerId) -> worker::Result<Option<Presence>> {
    fetch(
        env,
        device,
        Method::Get,
        "presence",
        headers_for(device)?,
        None,
    )
    .await?
    .json()
    .await
}

/// The requests that wait for a device without a socket, as length-prefixed frames (§5.4). Its
/// signature is verified.
pub async fn fetch_waiting(env: &Env, device: &PeerId) -> worker::Result<Response> {
    fetch(
        env,
        device,
        Method::Get,
        "waiting",
        headers_for(device)?,
        None,
    )
    .await
}

/// The answers of a device without a socket. Their signature is verified.
pub async fn answers(env: &Env, device: &PeerId, body: &[u8]) -> worker::Result<Response> {
    let body = js_sys::Uint8Array::from(body);
    fetch(
        env,
        device,
        Method::Post,
        "answers",
        headers_for(device)?,
        Some(body.into()),
    )
    .await
}

/// Asks a beacon to notify `device`; false if the beacon has no socket.
pub async fn notify(env: &Env, beacon: &PeerId, device: &PeerId) -> worker::Result<bool> {
    let headers = headers_for(beacon)?;
    headers.set(header::SUBJECT, &device.to_string())?;
    fetch(env, beacon, Method::Post, "notify", headers, None)
        .await?
        .json()
        .await
}

/// Tells a beacon that the directory has revoked `device`.
pub async fn disown(env: &Env, beacon: &PeerId, device: &PeerId) -> worker::Result<()> {
    let headers = headers_for(beacon)?;
    headers.set(header::SUBJECT, &device.to_string())?;
    fetch(env, beacon, Method::Post, "disown", headers, None)
        .await
        .map(drop)
}

/// Closes the sockets of a device that the directory has revoked.
pub async fn revoke(env: &Env, device: &PeerId) -> worker::Result<()> {
    fetch(
        env,
        device,
        Method::Post,
        "revoke",
        headers_for(device)?,
        None,
    )
    .await
    .map(drop)
}

fn headers_for(device: &PeerId) -> worker::Result<Headers> {
    let headers = Headers::new();
    headers.set(header::DEVICE, &device.to_string())?;
    Ok(headers)
}

async fn fetch(
    env: &Env,
    device: &PeerId,
    method: Method,
    what: &str,
    headers: Headers,
    body: Option<JsValue>,
) -> worker::Result<Response> {
    let mut init = RequestInit::new();
    init.with_method(method)
        .with_headers(headers)
        .with_body(body);
    let request = Request::new_with_init(&format!("https://device/{what}"), &init)?;
    env.durable_object(BINDING)?
        .get_by_name(&device.to_string())?
        .fetch_with_request(request)
        .await
}
