//! HTTP in, HTTP out (§5): finds the route, checks what can be checked without state, asks the
//! object that knows, and makes a response of its answer. Holds no state of its own.

use std::borrow::Borrow;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::StreamExt as _;
use ringback_protocol::relay::Room;
use ringback_protocol::{Code, PeerId, VERSION, name, registration};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::wasm_bindgen::JsValue;
use worker::{
    Context, Date, Env, Headers, Request, Response, ResponseBody, ResponseBuilder, event, js_sys,
};

use crate::calls::caller_of;
use crate::cross_origin::AllowedPage;
use crate::directory_object::{Ask, EnrolledAs, ask};
use crate::enrolment_code::EnrolmentCode;
use crate::policy::{Policy, PolicyChange};
use crate::problem::Problem;
use crate::routes::{self, Match, Operation};
use crate::{device_object, directory_object, ice, openapi, origin, owner, relay_object};

/// Bytes of the largest request body (§14).
const MAX_BODY: usize = 64 * 1024;
/// Characters of the longest origin; a host name has at most 253.
const MAX_ORIGIN: usize = 300;
/// Lifetimes of an enrolment code in seconds (§5.2).
const TTL_S: std::ops::RangeInclusive<u64> = 60..=604_800;
const USUAL_TTL_S: u64 = 3_600;
/// Milliseconds that a device's clock may be off when it signs a time (§5.4).
const MAX_CLOCK_ERROR_MS: u64 = 120_000;

#[event(fetch)]
async fn fetch(mut request: Request, env: Env, _: Context) -> worker::Result<Response> {
    let method = request.inner().method();
    let preflight = header(&request, "access-control-request-method")
        .filter(|_| method == "OPTIONS" && header(&request, "origin").is_some());
    let page = allowed_page(&request, &env, preflight.as_deref().unwrap_or(&method));
    let mut response = match respond(&mut request, &env).await {
        Ok(response) => response,
        Err(problem) => problem.into_response()?,
    };
    if let (Some(page), true) = (&page, preflight.is_some()) {
        for (name, value) in page.preflight_headers() {
            response.headers_mut().set(name, value)?;
        }
    }
    finish(response, method == "HEAD", page.as_ref())
}

fn allowed_page(request: &Request, env: &Env, method: &str) -> Option<AllowedPage> {
    let allowed = env.var("ALLOWED_ORIGINS").ok()?.to_string();
    let origin = header(request, "origin");
    AllowedPage::find(origin.as_deref(), &allowed, method, &request.path())
}

#[derive(Deserialize)]
struct EnrolBody {
    code: Option<String>,
    device: PeerId,
    name: Option<String>,
    signature: String,
}

#[derive(Deserialize)]
struct CodeBody {
    name: Option<String>,
    ttl_s: Option<u64>,
    #[serde(default)]
    role: EnrolledAs,
}

#[derive(Deserialize)]
struct RenameBody {
    name: String,
}

async fn respond(request: &mut Request, env: &Env) -> Result<Response, Problem> {
    let origin = origin::of_url(&request.inner().url())
        .filter(|origin| origin.len() <= MAX_ORIGIN)
        .ok_or_else(|| bad_request("the Host header is not usable"))?;
    if !origin::is_protected(&origin) {
        return Err(bad_request("this registry answers over https only"));
    }
    let method = request.inner().method();
    let (route, parameter) = match routes::find(&method, &request.path()) {
        Match::Route(route, parameter) => (route, parameter),
        Match::Methods(allow) if method == "OPTIONS" => return empty(204, Some(&allow)),
        Match::Methods(allow) => {
            let problem = Problem::new(Code::MethodNotAllowed, format!("this path takes {allow}"));
            return with_header(problem.into_response().map_err(fault)?, "allow", &allow);
        }
        Match::Nothing => {
            return Err(Problem::new(
                Code::NotFound,
                "no such path; GET /v1/openapi.json describes this registry",
            ));
        }
    };
    if route.owner {
        let secret = env
            .var("OWNER_SECRET")
            .map(|secret| secret.to_string())
            .ok();
        owner::authorise(
            header(request, "authorization").as_deref(),
            secret.as_deref(),
        )?;
    }
    let device = || {
        parameter
            .parse::<PeerId>()
            .map_err(|error| bad_request(error.to_string()))
    };
    match route.operation {
        Operation::Registry => registry(env).await,
        Operation::OpenApi => text(200, "application/json", openapi::DOCUMENT),
        Operation::Alias => json(
            200,
            &ask::<Value>(env, &Ask::Alias { name: parameter }).await?,
        ),
        Operation::Enrol => enrol(request, env, &origin).await,
        Operation::Socket => {
            let device = device()?;
            check_websocket(request, device_object::SUBPROTOCOL)?;
            device_object::socket(env, &device, &origin, &peer_address(request))
                .await
                .map_err(fault)
        }
        Operation::OwnerSocket => {
            check_websocket(request, directory_object::SUBPROTOCOL)?;
            directory_object::socket(env).await.map_err(fault)
        }
        Operation::Request => call(request, env, &device()?).await,
        Operation::Fetch => fetch_waiting(request, env, &device()?, &origin).await,
        Operation::Answers => answers(request, env, &device()?, &origin).await,
        Operation::Relay => {
            let room = parameter
                .parse::<Room>()
                .map_err(|error| bad_request(error.to_string()))?;
            check_websocket(request, device_object::SUBPROTOCOL)?;
            relay_object::socket(env, &room, &origin)
                .await
                .map_err(fault)
        }
        Operation::NewCode => new_code(request, env).await,
        Operation::Devices => json(200, &ask::<Value>(env, &Ask::List).await?),
        Operation::Rename => {
            let device = device()?;
            let RenameBody { name } = body_json(request).await?;
            json(
                200,
                &ask::<Value>(
                    env,
                    &Ask::Rename {
                        device,
                        name: checked_name(name)?,
                    },
                )
                .await?,
            )
        }
        Operation::Revoke => {
            ask::<()>(env, &Ask::Revoke { device: device()? }).await?;
            empty(204, None)
        }
        Operation::Policy => json(200, &ask::<Policy>(env, &Ask::Policy).await?),
        Operation::SetPolicy => {
            let change: PolicyChange = body_json(request).await?;
            change.check().map_err(bad_request)?;
            json(200, &ask::<Policy>(env, &Ask::SetPolicy(change)).await?)
        }
        Operation::Usage => json(200, &ask::<Value>(env, &Ask::Usage).await?),
    }
}

async fn registry(env: &Env) -> Result<Response, Problem> {
    let mut registry = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol_versions": [VERSION],
        "time": Date::now().as_millis() / 1000,
        "stun_servers": device_object::stun_servers(env),
        "ice_servers": ice::public(env),
    });
    if let Some(lan_origin) = ice::text(env, "LAN_ORIGIN") {
        registry["lan_origin"] = lan_origin.into();
    }
    let Value::Object(known) = ask::<Value>(env, &Ask::Registry).await? else {
        return Err(Problem::new(
            Code::Internal,
            "the registry failed; try again",
        ));
    };
    registry.as_object_mut().expect("made as one").extend(known);
    json(200, &registry)
}

async fn enrol(request: &mut Request, env: &Env, origin: &str) -> Result<Response, Problem> {
    let EnrolBody {
        code,
        device,
        name,
        signature,
    } = body_json(request).await?;
    let signature = signature_of(&signature)?;
    let name = name.map(checked_name).transpose()?;
    if !registration::verify_enrolment(
        &device,
        origin,
        code.as_deref().unwrap_or_default(),
        &signature,
    ) {
        let detail = format!("the enrolment is not signed by this device for {origin}");
        return Err(Problem::new(Code::BadSignature, detail));
    }
    // A code that can not be one goes the way of a wrong one: by a digest that no code has.
    let digest =
        code.map(|code| EnrolmentCode::parse(&code).map_or_else(String::new, |code| code.digest()));
    json(
        201,
        &ask::<Value>(
            env,
            &Ask::Enrol {
                device,
                digest,
                name,
            },
        )
        .await?,
    )
}

async fn new_code(request: &mut Request, env: &Env) -> Result<Response, Problem> {
    let CodeBody { name, ttl_s, role } = body_json(request).await?;
    let name = name.map(checked_name).transpose()?;
    let ttl_s = ttl_s.unwrap_or(USUAL_TTL_S);
    if !TTL_S.contains(&ttl_s) {
        return Err(bad_request(format!(
            "ttl_s: a code lives {} to {} seconds",
            TTL_S.start(),
            TTL_S.end()
        )));
    }
    json(
        201,
        &ask::<Value>(env, &Ask::NewCode { name, ttl_s, role }).await?,
    )
}

fn check_websocket(request: &Request, subprotocol: &str) -> Result<(), Problem> {
    if !header(request, "upgrade").is_some_and(|upgrade| upgrade.eq_ignore_ascii_case("websocket"))
    {
        return Err(bad_request("this path takes WebSocket connections only"));
    }
    let offered = header(request, "sec-websocket-protocol").unwrap_or_default();
    if !offered
        .split(',')
        .any(|protocol| protocol.trim() == subprotocol)
    {
        let detail = format!("the WebSocket must offer the subprotocol {subprotocol}");
        return Err(Problem::new(Code::BadVersion, detail));
    }
    Ok(())
}

/// A device without a socket comes for its requests. As with requests themselves, what is forged
/// costs its object nothing.
async fn fetch_waiting(
    request: &Request,
    env: &Env,
    device: &PeerId,
    origin: &str,
) -> Result<Response, Problem> {
    let (time_ms, signature) = signed_time(request)?;
    if !registration::verify_fetch(device, origin, time_ms, &signature) {
        return Err(not_signed(origin));
    }
    device_object::fetch_waiting(env, device)
        .await
        .map_err(fault)
}

async fn answers(
    request: &mut Request,
    env: &Env,
    device: &PeerId,
    origin: &str,
) -> Result<Response, Problem> {
    let (time_ms, signature) = signed_time(request)?;
    let body = body(request).await?;
    if !registration::verify_answers(device, origin, time_ms, &body, &signature) {
        return Err(not_signed(origin));
    }
    device_object::answers(env, device, &body)
        .await
        .map_err(fault)
}

/// The headers of §5.4. The time must be fresh: a device whose clock is off is told ours.
fn signed_time(request: &Request) -> Result<(u64, [u8; 64]), Problem> {
    let time_ms = header(request, "ringback-time")
        .and_then(|time| time.parse::<u64>().ok())
        .ok_or_else(|| bad_request("Ringback-Time: expected Unix milliseconds"))?;
    let signature = signature_of(&header(request, "ringback-signature").unwrap_or_default())?;
    let now_ms = Date::now().as_millis();
    if time_ms.abs_diff(now_ms) > MAX_CLOCK_ERROR_MS {
        return Err(Problem {
            time_ms: Some(now_ms),
            ..Problem::new(
                Code::Stale,
                "Ringback-Time is more than 120 s off the registry's clock",
            )
        });
    }
    Ok((time_ms, signature))
}

fn signature_of(text: &str) -> Result<[u8; 64], Problem> {
    BASE64_URL_SAFE_NO_PAD
        .decode(text)
        .ok()
        .and_then(|bytes| <[u8; 64]>::try_from(bytes).ok())
        .ok_or_else(|| bad_request("signature: expected 64 bytes in base64url without padding"))
}

fn not_signed(origin: &str) -> Problem {
    let detail = format!("this is not signed by this device for {origin}");
    Problem::new(Code::BadSignature, detail)
}

/// The signature is checked here and not in the device's object, so that forged requests cost that
/// device's object nothing.
async fn call(request: &mut Request, env: &Env, device: &PeerId) -> Result<Response, Problem> {
    let envelope = body(request).await?;
    let caller = caller_of(&envelope, device)?;
    // Browsers send it with every POST, and nobody else has a use for TURN.
    let is_browser = header(request, "origin").is_some();
    device_object::request(env, device, &caller, &envelope, is_browser)
        .await
        .map_err(fault)
}

async fn body_json<T: DeserializeOwned>(request: &mut Request) -> Result<T, Problem> {
    let bytes = body(request).await?;
    let bytes = if bytes.is_empty() {
        b"{}"
    } else {
        bytes.as_slice()
    };
    serde_json::from_slice(bytes).map_err(|error| bad_request(format!("body: {error}")))
}

/// The body, of which no more is read than may be.
async fn body(request: &mut Request) -> Result<Vec<u8>, Problem> {
    let too_large = || {
        Problem::new(
            Code::TooLarge,
            format!("a body has at most {MAX_BODY} bytes"),
        )
    };
    let announced = header(request, "content-length").and_then(|length| length.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MAX_BODY as u64) {
        return Err(too_large());
    }
    if request.inner().body().is_none() {
        return Ok(Vec::new());
    }
    let cut_off = |_| bad_request("the body ends too early");
    let mut stream = request.stream().map_err(cut_off)?;
    let mut bytes = Vec::new();
    while let Some(chunk) = stream.next().await {
        bytes.extend_from_slice(&chunk.map_err(cut_off)?);
        if bytes.len() > MAX_BODY {
            return Err(too_large());
        }
    }
    Ok(bytes)
}

fn checked_name(name: String) -> Result<String, Problem> {
    match name::check(&name) {
        Ok(_) => Ok(name),
        Err(error) => Err(bad_request(format!("name: {error}"))),
    }
}

/// The client's IP address as text: the edge gives a header, workerd alone a property. Empty if
/// neither tells.
fn peer_address(request: &Request) -> String {
    if let Some(address) = header(request, "cf-connecting-ip") {
        return address;
    }
    let property = |of: &JsValue, name: &str| js_sys::Reflect::get(of, &name.into()).ok();
    property(request.inner(), "cf")
        .and_then(|cf| {
            property(&cf, "clientIp")?
                .as_string()?
                .parse::<std::net::SocketAddr>()
                .ok()
        })
        .map_or_else(String::new, |address| address.ip().to_string())
}

fn header(request: &Request, name: &str) -> Option<String> {
    request.headers().get(name).ok().flatten()
}

fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(Code::BadRequest, detail)
}

fn fault(error: impl Borrow<worker::Error>) -> Problem {
    Problem::internal("answering a client", error.borrow())
}

fn json(status: u16, value: &impl Serialize) -> Result<Response, Problem> {
    ResponseBuilder::new()
        .with_status(status)
        .from_json(value)
        .map_err(fault)
}

fn text(status: u16, kind: &str, text: &str) -> Result<Response, Problem> {
    let builder = ResponseBuilder::new()
        .with_status(status)
        .with_header("content-type", kind)
        .map_err(fault)?;
    Ok(builder.fixed(text.as_bytes().to_vec()))
}

fn empty(status: u16, allow: Option<&str>) -> Result<Response, Problem> {
    let response = ResponseBuilder::new().with_status(status).empty();
    match allow {
        Some(allow) => with_header(response, "allow", allow),
        None => Ok(response),
    }
}

fn with_header(mut response: Response, name: &str, value: &str) -> Result<Response, Problem> {
    response.headers_mut().set(name, value).map_err(fault)?;
    Ok(response)
}

/// The headers that every response has. Only a page that the owner has listed is let in from another
/// origin: the web UI comes from this one, and programs do not ask.
fn finish(
    response: Response,
    is_head: bool,
    page: Option<&AllowedPage>,
) -> worker::Result<Response> {
    if response.status_code() == 101 {
        return Ok(response);
    }
    let headers = Headers::new();
    for (name, value) in response.headers().entries() {
        headers.set(&name, &value)?;
    }
    for (name, value) in [
        ("cache-control", "no-store"),
        (
            "content-security-policy",
            "default-src 'none'; frame-ancestors 'none'",
        ),
        ("cross-origin-resource-policy", "same-origin"),
        ("referrer-policy", "no-referrer"),
        ("strict-transport-security", "max-age=31536000"),
        ("x-content-type-options", "nosniff"),
        // What is allowed depends on who asks.
        ("vary", "origin"),
    ] {
        headers.set(name, value)?;
    }
    for (name, value) in page.iter().flat_map(|page| page.headers()) {
        headers.set(name, value)?;
    }
    let (builder, body) = response.into_parts();
    let body = if is_head { ResponseBody::Empty } else { body };
    Ok(builder.with_headers(headers).body(body))
}
