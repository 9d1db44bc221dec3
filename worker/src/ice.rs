//! The ICE servers of browsers (§5.5): STUN for everybody, TURN for callers that a device has let in.
//!
//! TURN costs whoever runs it, so its credentials are nothing that the registry tells to strangers.
//! They go out beside the device's answer, which only an admitted caller gets, and only of a device
//! that was enrolled with a code: on an open registry a stranger can bring a device along.

use std::cell::RefCell;
use std::time::Duration;

use futures_util::future::{Either, select};
use serde_json::{Value, json};
use worker::{Delay, Env, Fetch, Headers, Method, Request, RequestInit};

/// Milliseconds that the answer to a call may wait for credentials.
const PATIENCE_MS: u64 = 1_500;
/// Seconds that minted credentials are good for. A link lives on them as long as it is relayed, and
/// whoever has them can relay what they like as long: four hours are a long call.
const LIFETIME_S: u64 = 14_400;
/// Milliseconds for which one device's callers are given the same ones.
const KEPT_MS: u64 = 600_000;
/// Milliseconds for which the API is left alone after a failure.
const PAUSE_MS: u64 = 30_000;
/// Bytes of the longest list (§5.5).
const MAX_TEXT: usize = 4 * 1024;
const API: &str = "https://rtc.live.cloudflare.com";

/// What everybody may know: an array of RTCIceServer.
pub fn public(env: &Env) -> Value {
    let urls: Vec<String> = stun_servers(env)
        .iter()
        .map(|server| format!("stun:{server}"))
        .collect();
    if urls.is_empty() {
        return json!([]);
    }
    json!([{ "urls": urls }])
}

/// The text variable `STUN_SERVERS`: `host:port`, separated by commas.
pub fn stun_servers(env: &Env) -> Vec<String> {
    let listed = env
        .var("STUN_SERVERS")
        .map(|servers| servers.to_string())
        .unwrap_or_default();
    listed
        .split(',')
        .map(str::trim)
        .filter(|server| !server.is_empty())
        .map(str::to_owned)
        .collect()
}

/// The TURN servers as told last. Kept in the memory of a device's object.
#[derive(Debug, Default)]
pub struct Turn(RefCell<Option<(u64, Option<String>)>>);

impl Turn {
    /// What an admitted caller is told: a JSON array of RTCIceServer; none where no TURN is
    /// configured, or its API does not answer.
    pub async fn servers(&self, env: &Env, now_ms: u64) -> Option<String> {
        if let Some(servers) = configured(env) {
            return Some(servers);
        }
        let key = minted_by(env)?;
        if let Some((until_ms, told)) = &*self.0.borrow()
            && now_ms < *until_ms
        {
            return told.clone();
        }
        let patience = Delay::from(Duration::from_millis(PATIENCE_MS));
        let minted = match select(Box::pin(mint(&key)), patience).await {
            Either::Left((Ok(minted), _)) => minted,
            Either::Left((Err(error), _)) => {
                crate::log::fault("asking for TURN credentials", &error);
                None
            }
            Either::Right(_) => {
                let slow = worker::Error::from("no answer in time");
                crate::log::fault("asking for TURN credentials", &slow);
                None
            }
        };
        let kept_ms = if minted.is_some() { KEPT_MS } else { PAUSE_MS };
        *self.0.borrow_mut() = Some((now_ms + kept_ms, minted.clone()));
        minted
    }
}

/// Servers with one user name and credential.
fn configured(env: &Env) -> Option<String> {
    let urls = text(env, "TURN_URLS")?;
    let urls = list(&urls);
    if urls.is_empty() {
        return None;
    }
    let servers = json!([{
        "urls": urls,
        "username": text(env, "TURN_USERNAME")?,
        "credential": text(env, "TURN_CREDENTIAL")?,
    }]);
    Some(servers.to_string())
}

/// A key of Cloudflare Realtime TURN, which mints credentials.
struct Key {
    id: String,
    token: String,
    api: String,
}

fn minted_by(env: &Env) -> Option<Key> {
    Some(Key {
        id: text(env, "TURN_KEY_ID")?,
        token: text(env, "TURN_KEY_API_TOKEN")?,
        api: text(env, "TURN_KEY_API").unwrap_or_else(|| API.to_owned()),
    })
}

async fn mint(key: &Key) -> worker::Result<Option<String>> {
    let headers = Headers::new();
    headers.set("authorization", &format!("Bearer {}", key.token))?;
    headers.set("content-type", "application/json")?;
    let mut init = RequestInit::new();
    init.with_method(Method::Post)
        .with_headers(headers)
        .with_body(Some(json!({ "ttl": LIFETIME_S }).to_string().into()));
    let url = format!(
        "{}/v1/turn/keys/{}/credentials/generate-ice-servers",
        key.api, key.id
    );
    let request = Request::new_with_init(&url, &init)?;
    let mut response = Fetch::Request(request).send().await?;
    let status = response.status_code();
    if !(200..300).contains(&status) {
        return Err(format!("its API answers {status}").into());
    }
    let answer: Value = response.json().await?;
    let told = usable(&answer).ok_or("its API tells no server")?;
    Ok(Some(told))
}

/// The servers of an answer that ask for credentials. Browsers do not connect to port 53, and wait
/// for it.
fn usable(answer: &Value) -> Option<String> {
    let mut servers = Vec::new();
    for server in answer["iceServers"].as_array()? {
        let urls: Vec<&Value> = match &server["urls"] {
            Value::Array(urls) => urls.iter().collect(),
            one => vec![one],
        };
        let urls: Vec<&str> = urls
            .into_iter()
            .filter_map(Value::as_str)
            .filter(|url| url.starts_with("turn") && !is_port_53(url))
            .collect();
        if let (false, Some(username), Some(credential)) = (
            urls.is_empty(),
            server["username"].as_str(),
            server["credential"].as_str(),
        ) {
            servers.push(json!({ "urls": urls, "username": username, "credential": credential }));
        }
    }
    let told = Value::from(servers).to_string();
    (told.len() > "[]".len() && told.len() <= MAX_TEXT).then_some(told)
}

fn is_port_53(url: &str) -> bool {
    url.split('?')
        .next()
        .is_some_and(|url| url.ends_with(":53"))
}

fn list(text: &str) -> Vec<&str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
        .collect()
}

/// A variable or secret that is set and not empty.
pub fn text(env: &Env, name: &str) -> Option<String> {
    let value = env.var(name).ok()?.to_string();
    (!value.is_empty()).then_some(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_minted_servers_those_are_told_that_a_browser_can_use() {
        let answer = json!({ "iceServers": [
            { "urls": ["stun:stun.example:3478", "stun:stun.example:53"] },
            {
                "urls": [
                    "turn:turn.example:3478?transport=udp",
                    "turn:turn.example:53?transport=udp",
                    "turns:turn.example:443?transport=tcp",
                ],
                "username": "u", "credential": "c", "extra": 1,
            },
            { "urls": "turn:one.example:3478", "username": "u", "credential": "c" },
            { "urls": "turn:no.credential:3478", "username": "u" },
        ] });
        let told: Value = serde_json::from_str(&usable(&answer).unwrap()).unwrap();
        assert_eq!(
            told,
            json!([
                {
                    "urls": [
                        "turn:turn.example:3478?transport=udp",
                        "turns:turn.example:443?transport=tcp",
                    ],
                    "username": "u", "credential": "c",
                },
                { "urls": ["turn:one.example:3478"], "username": "u", "credential": "c" },
            ])
        );
    }

    #[test]
    fn an_answer_without_a_usable_server_tells_nothing() {
        let long = "x".repeat(MAX_TEXT);
        for answer in [
            json!({}),
            json!({ "iceServers": [] }),
            json!({ "iceServers": [{ "urls": "stun:a" }] }),
            json!({ "iceServers": [{ "urls": "turn:a:53", "username": "u", "credential": "c" }] }),
            json!({ "iceServers": [{ "urls": "turn:a", "username": long, "credential": "c" }] }),
        ] {
            assert_eq!(usable(&answer), None, "{answer}");
        }
    }
}
