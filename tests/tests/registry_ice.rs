//! ICE servers (§5.5): STUN for everybody, TURN for browsers that a device has let in.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use anyhow::Result;
use ringback_protocol::frame::{Answer, Frame, Refuse};
use ringback_tests::{
    browser::Options,
    registry::{Registry, Ring, Socket, envelope, new_key},
    turn::TurnServer,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

const BROWSER: &[(&str, &str)] = &[("origin", "https://registry.example.org")];

/// Rings and answers, or refuses; the frame that the caller gets last.
async fn rung(registry: &Registry, headers: &[(&str, &str)], admits: bool) -> Frame {
    let name = format!("n{:x}", fastrand::u64(..));
    let (_, mut socket) = registry.online(&name).await;
    rung_at(registry, &mut socket, headers, admits).await
}

async fn rung_at(
    registry: &Registry,
    socket: &mut Socket,
    headers: &[(&str, &str)],
    admits: bool,
) -> Frame {
    let device = socket.device;
    let path = format!("/v1/devices/{device}/requests");
    let envelope = envelope(&new_key(), &device);
    let response = registry.http("POST", &path, headers, envelope).await;
    let mut ring = Ring::of(response);
    let call = socket.expect_deliver().await.call;
    if admits {
        let reply = vec![1];
        socket.send(Answer { call, reply }).await;
    } else {
        let refusal = vec![1];
        socket.send(Refuse { call, refusal }).await;
    }
    assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
    ring.next().await.expect("an end")
}

fn ice(frame: &Frame) -> Option<Value> {
    match frame {
        Frame::Answered(answered) => {
            assert_eq!(answered.reply, [1]);
            let text = answered.ice.as_ref()?;
            Some(serde_json::from_str(text).expect("JSON"))
        }
        other => panic!("not answered: {other:?}"),
    }
}

#[tokio::test]
async fn everybody_is_told_of_stun_and_of_the_lan_origin() {
    let registry = Registry::with(|config| {
        let mut set = |name: &str, value: &str| config.bindings.insert(name.into(), value.into());
        set("STUN_SERVERS", "stun.example:3478, 192.0.2.1:3478");
        set("LAN_ORIGIN", "https://*.lan.example.org");
        set("TURN_URLS", "turn:turn.example:3478");
        set("TURN_USERNAME", "someone");
        set("TURN_CREDENTIAL", "a secret");
    });
    let told = registry.get("/v1/registry").await.body;
    assert_eq!(
        told["ice_servers"],
        json!([{ "urls": ["stun:stun.example:3478", "stun:192.0.2.1:3478"] }])
    );
    assert_eq!(told["lan_origin"], "https://*.lan.example.org");
    assert!(!told.to_string().contains("turn"), "{told}");

    let bare = Registry::with(|config| {
        config.bindings.insert("STUN_SERVERS".into(), String::new());
    });
    let told = bare.get("/v1/registry").await.body;
    assert_eq!(
        (&told["ice_servers"], told.get("lan_origin")),
        (&json!([]), None)
    );
}

#[tokio::test]
async fn admitted_browsers_alone_are_told_of_turn() {
    let registry = Registry::with(|config| {
        let mut set = |name: &str, value: &str| config.bindings.insert(name.into(), value.into());
        set(
            "TURN_URLS",
            "turn:turn.example:3478, turns:turn.example:5349",
        );
        set("TURN_USERNAME", "someone");
        set("TURN_CREDENTIAL", "a secret");
    });
    assert_eq!(
        ice(&rung(&registry, BROWSER, true).await),
        Some(json!([{
            "urls": ["turn:turn.example:3478", "turns:turn.example:5349"],
            "username": "someone",
            "credential": "a secret",
        }]))
    );
    assert_eq!(ice(&rung(&registry, &[], true).await), None);
    let refused = rung(&registry, BROWSER, false).await;
    assert!(matches!(refused, Frame::Refused(_)), "{refused:?}");

    // Half a configuration is none.
    let half = Registry::with(|config| {
        let url = "turn:turn.example:3478";
        config.bindings.insert("TURN_URLS".into(), url.into());
    });
    assert_eq!(ice(&rung(&half, BROWSER, true).await), None);
}

/// Stands in for the API that mints credentials: answers each request, and counts them.
#[tokio::test]
async fn a_stranger_does_not_bring_a_device_along_to_be_told_of_turn() {
    let registry = Registry::with(|config| {
        let mut set = |name: &str, value: &str| config.bindings.insert(name.into(), value.into());
        set("TURN_URLS", "turn:turn.example:3478");
        set("TURN_USERNAME", "someone");
        set("TURN_CREDENTIAL", "a secret");
    });
    let open = json!({ "registration": "open" });
    registry.owner("PUT", "/v1/policy", open).await;
    let key = new_key();
    let mut socket = registry.registered(&key).await;
    let frame = rung_at(&registry, &mut socket, BROWSER, true).await;
    assert_eq!(ice(&frame), None, "it has enrolled itself");
    // With a code it is the owner's.
    let code = registry.code(json!({})).await;
    let enrolment = registry.enrolment(&key, &code);
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.status,
        201
    );
    let mut socket = registry.registered(&key).await;
    let frame = rung_at(&registry, &mut socket, BROWSER, true).await;
    assert!(ice(&frame).is_some());
}

async fn mint(status: &'static str, body: Value) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("an address");
    let count = Arc::new(AtomicUsize::new(0));
    let asked = Arc::clone(&count);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !request.ends_with(b"}") {
                match stream.read(&mut buffer).await {
                    Ok(length @ 1..) => request.extend_from_slice(&buffer[..length]),
                    _ => break,
                }
            }
            let text = String::from_utf8_lossy(&request).to_lowercase();
            let asks = "post /v1/turn/keys/the-key/credentials/generate-ice-servers ";
            let is_right = text.starts_with(asks)
                && text.contains("authorization: bearer the token\r\n")
                && text.ends_with(r#"{"ttl":14400}"#);
            let (status, body) = if is_right {
                (status, body.to_string())
            } else {
                ("400 Bad Request", format!("not asked for: {text}"))
            };
            asked.fetch_add(1, Ordering::Relaxed);
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\n\
                 Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (format!("http://{addr}"), count)
}

fn minting(api: &str) -> Registry {
    Registry::with(|config| {
        config.private_network = true;
        let mut set = |name: &str, value: &str| config.bindings.insert(name.into(), value.into());
        set("TURN_KEY_ID", "the-key");
        set("TURN_KEY_API_TOKEN", "the token");
        set("TURN_KEY_API", api);
    })
}

#[tokio::test]
async fn credentials_are_minted_for_a_call_and_kept_for_the_next() {
    let servers = json!({ "iceServers": [
        { "urls": ["stun:turn.example:3478"] },
        {
            "urls": ["turn:turn.example:3478?transport=udp", "turn:turn.example:53?transport=udp"],
            "username": "minted", "credential": "once",
        },
    ] });
    let (api, asked) = mint("201 Created", servers).await;
    let registry = minting(&api);
    let expected = json!([{
        "urls": ["turn:turn.example:3478?transport=udp"],
        "username": "minted", "credential": "once",
    }]);
    let (device, mut socket) = registry.online("nas").await;
    for _ in 0..2 {
        let path = format!("/v1/devices/{}/requests", device.id());
        let envelope = envelope(&new_key(), &device.id());
        let mut ring = Ring::of(registry.http("POST", &path, BROWSER, envelope).await);
        let call = socket.expect_deliver().await.call;
        let reply = vec![1];
        socket.send(Answer { call, reply }).await;
        assert!(matches!(ring.next().await, Some(Frame::Delivered(_))));
        let end = ring.next().await.expect("an end");
        assert_eq!(ice(&end), Some(expected.clone()));
    }
    assert_eq!(asked.load(Ordering::Relaxed), 1);
    assert_eq!(ice(&rung(&registry, &[], true).await), None);
    rung(&registry, BROWSER, false).await;
    assert_eq!(
        asked.load(Ordering::Relaxed),
        1,
        "nobody else has them minted"
    );
}

#[tokio::test]
async fn a_call_goes_through_without_the_api() {
    let (api, asked) = mint("500 Internal Server Error", json!({})).await;
    let registry = minting(&api);
    assert_eq!(ice(&rung(&registry, BROWSER, true).await), None);
    assert_eq!(asked.load(Ordering::Relaxed), 1);

    // Takes the connection and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let api = format!("http://{}", silent.local_addr().expect("an address"));
    let registry = minting(&api);
    let start = std::time::Instant::now();
    assert_eq!(ice(&rung(&registry, BROWSER, true).await), None);
    assert!(start.elapsed().as_secs() < 4, "{:?}", start.elapsed());
}

/// Two connections of a page that may use relayed addresses only, and what one says to the other.
const RELAYED: &str = r"(async servers => {
    const configuration = { iceServers: servers, iceTransportPolicy: 'relay' };
    const [one, two] = [1, 2].map(() => new RTCPeerConnection(configuration));
    const kinds = [];
    for (const [from, to] of [[one, two], [two, one]]) {
        from.onicecandidate = event => {
            if (!event.candidate?.candidate) return;
            kinds.push(event.candidate.type);
            to.addIceCandidate(event.candidate);
        };
    }
    const heard = new Promise(done => {
        two.ondatachannel = event => event.channel.onmessage = message => done(message.data);
    });
    const channel = one.createDataChannel('x');
    channel.onopen = () => channel.send('by way of the relay');
    await one.setLocalDescription();
    await two.setRemoteDescription(one.localDescription);
    await two.setLocalDescription();
    await one.setRemoteDescription(two.localDescription);
    return [await heard, [...new Set(kinds)]];
})";

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_gets_through_by_the_turn_server_that_it_is_told_of() -> Result<()> {
    let dir = TempDir::new()?;
    let turn = TurnServer::on_loopback(dir.path())?;
    let registry = Registry::with(|config| config.bindings.extend(turn.bindings()));
    let servers = ice(&rung(&registry, BROWSER, true).await).expect("TURN servers");
    let url = format!("{}/v1/registry", registry.origin());
    tokio::task::spawn_blocking(move || {
        let browser = Options::default()
            .argument("--allow-loopback-in-peer-connection")
            .start()?;
        let page = browser.page()?;
        page.open(&url)?;
        let told: Value = page.eval(&format!("{RELAYED}({servers})"))?;
        assert_eq!(told, json!(["by way of the relay", ["relay"]]));

        // Nobody else gets in.
        let wrong = servers.to_string().replace("the credential", "another");
        let gathered: Value = page.eval(&format!(
            "new Promise(async done => {{ \
               const c = new RTCPeerConnection({{ iceServers: {wrong}, iceTransportPolicy: 'relay' }}); \
               const errors = []; \
               c.onicecandidateerror = event => errors.push(event.errorCode); \
               c.onicecandidate = event => event.candidate?.candidate || done(errors); \
               c.createDataChannel('x'); await c.setLocalDescription(); }})"
        ))?;
        let errors = gathered.as_array().map_or(0, Vec::len);
        assert!(errors > 0 && gathered.as_array().into_iter().flatten().all(|e| *e == 401), "{gathered}");
        Ok(())
    })
    .await?
}
