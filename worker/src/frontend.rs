//! HTTP in, HTTP out (§5): finds the route, checks what can be checked without state, asks the
//! object that knows, and makes a response of its answer. What it keeps in memory is copies and counts,
//! so that no stranger wakes an object for nothing (§5.8).

use std::borrow::Borrow;

use futures_util::StreamExt as _;
use ringback_protocol::relay::Room;
use ringback_protocol::{Code, PeerId, VERSION, name, registration};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::wasm_bindgen::JsValue;
use worker::{
    Context, Env, Headers, Request, Response, ResponseBody, ResponseBuilder, event, js_sys,
};

use crate::allowance::{self, Class};
use crate::calls::caller_of;
use crate::clock::now_ms;
use crate::cross_origin::AllowedPage;
use crate::directory::{Ask, ask};
use crate::enrolment_code::EnrolmentCode;
use crate::limits::Source;
use crate::policy::{Policy, PolicyChange};
use crate::problem::Problem;
use crate::role::EnrolledAs;
use crate::routes::{self, Match, Operation};
use crate::signed::{self, Upgrade};
use crate::{
    device, directory, directory_object, ice, openapi, origin, owner, relay_object, roster, tally,
};

/// Bytes of the largest request body (§14).
const MAX_BODY: usize = 64 * 1024;
/// Characters of the longest origin; a host name has at most 253.
const MAX_ORIGIN: usize = 300;
/// Lifetimes of an enrolment code in seconds (§5.2).
const TTL_S: std::ops::RangeInclusive<u64> = 60..=604_800;
const USUAL_TTL_S: u64 = 3_600;

#[event(fetch)]
async fn fetch(mut request: Request, env: Env, context: Context) -> worker::Result<Response> {
    let method = request.inner().method();
    let preflight = header(&request, "access-control-request-method")
        .filter(|_| method == "OPTIONS" && header(&request, "origin").is_some());
    let page = allowed_page(&request, &env, preflight.as_deref().unwrap_or(&method));
    let mut response = match respond(&mut request, &env).await {
        Ok(response) => response,
        Err(problem) => problem.into_response()?,
    };
    let is_call = method == "POST" && request.path().ends_with("/requests");
    let status = response.status_code();
    if let Some(counted) = tally::count(status, is_call && status == 200, now_ms()) {
        let env = env.clone();
        context.wait_until(async move {
            if ask::<()>(&env, &Ask::Counted(counted)).await.is_err() {
                tally::give_back(counted);
            }
        });
    }
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
    let client = Client::of(request);
    if !client.is_loopback {
        allowance::admit(env, Class::Any, client.source).await?;
    }
    let method = request.inner().method();
    let path = request.path();
    let (route, parameter) = match routes::find(&method, &path) {
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
    let owner_secret = || ice::text(env, "OWNER_SECRET");
    if route.owner {
        let authorization = header(request, "authorization");
        owner::authorise(authorization.as_deref(), owner_secret().as_deref())?;
    }
    let unproven = || allowance::admit(env, Class::Unproven, client.source);
    let device = || {
        parameter
            .parse::<PeerId>()
            .map_err(|error| bad_request(error.to_string()))
    };
    match route.operation {
        Operation::Registry => registry(env).await,
        Operation::OpenApi => text(200, "application/json", openapi::DOCUMENT),
        Operation::Alias => json(200, &roster::alias(env, &parameter).await?),
        Operation::Device => {
            let device = device()?;
            roster::check(env, &device).await?;
            json(200, &json!({ "device": device }))
        }
        Operation::Enrol => enrol(request, env, &client, &origin).await,
        Operation::Socket => {
            let device = device()?;
            check_websocket(request, device::SUBPROTOCOL)?;
            let signer = upgrade(request).signer(&origin, &path, Some(&device), now_ms())?;
            if signer.is_none() || !roster::is_enrolled(env, &device).await {
                unproven().await?;
            }
            device::socket(env, &device, &origin, &client.address)
                .await
                .map_err(fault)
        }
        Operation::OwnerSocket => {
            let offered = check_websocket(request, directory_object::SUBPROTOCOL)?;
            let secret = owner_secret().unwrap_or_default();
            match signed::has_ticket(&offered, &secret, &origin, now_ms() / 1000) {
                Some(true) => {}
                Some(false) => {
                    let detail = "this ticket is not good, or not any more";
                    return Err(Problem::new(Code::Unauthorized, detail));
                }
                None => unproven().await?,
            }
            directory::socket(env).await.map_err(fault)
        }
        Operation::NewTicket => {
            let expires_at = now_ms() / 1000 + signed::TICKET_S;
            let secret = owner_secret().unwrap_or_default();
            let ticket = signed::ticket(&secret, &origin, expires_at);
            json(201, &json!({ "ticket": ticket, "expires_at": expires_at }))
        }
        Operation::Request => {
            let device = device()?;
            let (caller, envelope) = checked_call(request, &device).await?;
            if !roster::is_enrolled(env, &device).await {
                unproven().await?;
            }
            // Browsers send it with every POST, and nobody else has a use for TURN.
            let is_browser = header(request, "origin").is_some();
            let from = &client.address;
            device::request(env, &device, &caller, from, &envelope, is_browser)
                .await
                .map_err(fault)
        }
        Operation::Fetch => {
            let device = device()?;
            check_fetch(request, &device, &origin)?;
            if !roster::is_enrolled(env, &device).await {
                unproven().await?;
            }
            device::fetch_waiting(env, &device).await.map_err(fault)
        }
        Operation::Answers => {
            let device = device()?;
            let body = checked_answers(request, &device, &origin).await?;
            if !roster::is_enrolled(env, &device).await {
                unproven().await?;
            }
            device::answers(env, &device, &body).await.map_err(fault)
        }
        Operation::Relay => {
            let room = parameter
                .parse::<Room>()
                .map_err(|error| bad_request(error.to_string()))?;
            check_websocket(request, device::SUBPROTOCOL)?;
            match upgrade(request).signer(&origin, &path, None, now_ms())? {
                Some(peer) if roster::is_enrolled(env, &peer).await => {}
                Some(_) => allowance::admit(env, Class::Signed, client.source).await?,
                None => unproven().await?,
            }
            relay_object::socket(env, &room, &origin)
                .await
                .map_err(fault)
        }
        Operation::NewCode => new_code(request, env).await,
        Operation::Devices => json(200, &ask::<Value>(env, &Ask::List).await?),
        Operation::Rename => {
            let device = device()?;
            let RenameBody { name } = body_json(request).await?;
            let name = checked_name(name)?;
            changed(200, env, &Ask::Rename { device, name }).await
        }
        Operation::Revoke => {
            ask::<()>(env, &Ask::Revoke { device: device()? }).await?;
            roster::forget();
            empty(204, None)
        }
        Operation::Policy => json(200, &ask::<Policy>(env, &Ask::Policy).await?),
        Operation::SetPolicy => {
            let change: PolicyChange = body_json(request).await?;
            change.check().map_err(bad_request)?;
            changed(200, env, &Ask::SetPolicy(change)).await
        }
        Operation::Usage => json(
            200,
            &ask::<Value>(env, &Ask::Usage(tally::pending())).await?,
        ),
    }
}

/// A change that the directory makes, after which what is kept of it is old.
async fn changed(status: u16, env: &Env, change: &Ask) -> Result<Response, Problem> {
    let answer = ask::<Value>(env, change).await?;
    roster::forget();
    json(status, &answer)
}

async fn registry(env: &Env) -> Result<Response, Problem> {
    let mut registry = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "protocol_versions": [VERSION],
        "time": now_ms() / 1000,
        "stun_servers": ice::stun_servers(env),
        "ice_servers": ice::public(env),
    });
    if let Some(lan_origin) = ice::text(env, "LAN_ORIGIN") {
        registry["lan_origin"] = lan_origin.into();
    }
    let Value::Object(known) = roster::registry(env).await? else {
        return Err(Problem::new(
            Code::Internal,
            "the registry failed; try again",
        ));
    };
    registry.as_object_mut().expect("made as one").extend(known);
    json(200, &registry)
}

async fn enrol(
    request: &mut Request,
    env: &Env,
    client: &Client,
    origin: &str,
) -> Result<Response, Problem> {
    let EnrolBody {
        code,
        device,
        name,
        signature,
    } = body_json(request).await?;
    let signature = signed::signature(&signature)?;
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
    allowance::admit(env, Class::Signed, client.source).await?;
    // A code that can not be one goes the way of a wrong one: by a digest that no code has.
    let digest =
        code.map(|code| EnrolmentCode::parse(&code).map_or_else(String::new, |code| code.digest()));
    let enrol = Ask::Enrol {
        device,
        digest,
        name,
    };
    changed(201, env, &enrol).await
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

/// The subprotocols that are offered, this one among them.
fn check_websocket(request: &Request, subprotocol: &str) -> Result<String, Problem> {
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
    Ok(offered)
}

fn upgrade(request: &Request) -> Upgrade {
    Upgrade {
        peer: header(request, "ringback-peer"),
        time: header(request, "ringback-time"),
        signature: header(request, "ringback-signature"),
    }
}

/// A device without a socket comes for its requests. As with requests themselves, what is forged
/// costs its object nothing.
fn check_fetch(request: &Request, device: &PeerId, origin: &str) -> Result<(), Problem> {
    let (time_ms, signature) = signed_time(request)?;
    if !registration::verify_fetch(device, origin, time_ms, &signature) {
        return Err(signed::not_signed(origin));
    }
    Ok(())
}

async fn checked_answers(
    request: &mut Request,
    device: &PeerId,
    origin: &str,
) -> Result<Vec<u8>, Problem> {
    let (time_ms, signature) = signed_time(request)?;
    let body = body(request).await?;
    if !registration::verify_answers(device, origin, time_ms, &body, &signature) {
        return Err(signed::not_signed(origin));
    }
    Ok(body)
}

fn signed_time(request: &Request) -> Result<(u64, [u8; 64]), Problem> {
    let time = header(request, "ringback-time");
    let signature = header(request, "ringback-signature").unwrap_or_default();
    signed::time(time.as_deref(), &signature, now_ms())
}

/// The signature is checked here and not in the device's object, so that forged requests cost that
/// device's object nothing.
async fn checked_call(
    request: &mut Request,
    device: &PeerId,
) -> Result<(PeerId, Vec<u8>), Problem> {
    let envelope = body(request).await?;
    let caller = caller_of(&envelope, device)?;
    Ok((caller, envelope))
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

/// Whoever sends a request.
struct Client {
    /// Its IP address as text; empty if that can not be told.
    address: String,
    source: Option<Source>,
    /// It is on this machine, or behind a proxy that is and does not say for whom it asks.
    is_loopback: bool,
}

impl Client {
    /// The edge tells the address in a header, workerd alone in a property; then a header is
    /// believed from a proxy on the same machine only.
    fn of(request: &Request) -> Self {
        let is_loopback = |address: &str| {
            let ip = address.parse::<std::net::IpAddr>();
            ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
        };
        let direct = direct_address(request).filter(|address| !is_loopback(address));
        let address = direct
            .or_else(|| header(request, "cf-connecting-ip"))
            .or_else(|| direct_address(request))
            .unwrap_or_default();
        Self {
            source: Source::parse(&address),
            is_loopback: is_loopback(&address),
            address,
        }
    }
}

fn direct_address(request: &Request) -> Option<String> {
    let property = |of: &JsValue, name: &str| js_sys::Reflect::get(of, &name.into()).ok();
    let address = property(&property(request.inner(), "cf")?, "clientIp")?.as_string()?;
    let address = address.parse::<std::net::SocketAddr>().ok()?;
    Some(address.ip().to_string())
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
