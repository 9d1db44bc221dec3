//! The registry's HTTP interface (PROTOCOL.md, section 5), on real workerd: who may do what, what
//! is answered to bad input, and that the OpenAPI document tells the truth.

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ringback_protocol::registration::sign_enrolment;
use ringback_tests::registry::{Incident, OWNER_SECRET, Registry, Socket, envelope, new_key};
use serde_json::{Value, json};

#[tokio::test]
async fn the_registry_tells_what_it_is() {
    let registry = Registry::start();
    let reply = registry.get("/v1/registry").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.body["protocol_versions"], json!([1]));
    assert_eq!(
        reply.body["stun_servers"],
        json!(["stun.cloudflare.com:3478", "stun.l.google.com:19302"])
    );
    assert_eq!(reply.body["registration"], "closed");
    assert!(reply.body["time"].as_u64().unwrap() > 1_700_000_000);
    for (name, value) in [
        ("x-content-type-options", "nosniff"),
        ("cache-control", "no-store"),
        ("referrer-policy", "no-referrer"),
    ] {
        assert_eq!(reply.header(name), value);
    }
    assert_eq!(
        reply.header("access-control-allow-origin"),
        "",
        "the API is for its own origin"
    );
}

#[tokio::test]
async fn stun_servers_come_from_the_configuration() {
    let registry = Registry::with(|config| {
        config.bindings.insert(
            "STUN_SERVERS".into(),
            "203.0.113.1:3478, stun.example:3478,".into(),
        );
    });
    let servers = json!(["203.0.113.1:3478", "stun.example:3478"]);
    assert_eq!(
        registry.get("/v1/registry").await.body["stun_servers"],
        servers
    );
    let key = registry.enrolled("nas").await;
    let mut socket = Socket::connect(&registry, &key).await;
    socket.register(&key, &registry.origin(), None).await;
    assert_eq!(json!(socket.expect_registered().await.stun), servers);
}

#[tokio::test]
async fn only_the_owner_does_what_the_owner_does() {
    let registry = Registry::start();
    let device = new_key().id();
    let wrong = [
        "Bearer wrong",
        &format!("Basic {OWNER_SECRET}"),
        &format!("Bearer {OWNER_SECRET}x"),
        "Bearer",
    ];
    for (method, path) in [
        ("POST", "/v1/codes"),
        ("GET", "/v1/devices"),
        ("PATCH", &format!("/v1/devices/{device}")),
        ("DELETE", &format!("/v1/devices/{device}")),
        ("GET", "/v1/policy"),
        ("PUT", "/v1/policy"),
        ("GET", "/v1/usage"),
    ] {
        let reply = registry.reply(method, path, &[], "{}").await;
        assert_eq!(reply.problem(), (401, "unauthorized"), "{method} {path}");
        assert_eq!(reply.header("www-authenticate"), "Bearer");
        for authorization in wrong {
            let reply = registry
                .reply(method, path, &[("authorization", authorization)], "{}")
                .await;
            assert_eq!(
                reply.problem(),
                (401, "unauthorized"),
                "{method} {path} {authorization}"
            );
        }
    }
    let unset = Registry::with(|config| drop(config.bindings.remove("OWNER_SECRET")));
    let reply = unset.owner("GET", "/v1/devices", Value::Null).await;
    assert_eq!(reply.problem(), (503, "owner_secret_unset"));
}

#[tokio::test]
async fn a_device_is_enrolled_listed_renamed_and_revoked() {
    let registry = Registry::start();
    let key = new_key();
    let id = key.id();
    let code = registry.code(json!({})).await;
    assert_eq!(code.len(), 19, "{code}");

    let mut enrolment = registry.enrolment(&key, &code.to_lowercase().replace('-', " "));
    enrolment["name"] = json!("nas");
    enrolment["field of a later version"] = json!([1, 2]);
    let reply = registry.post("/v1/enrollments", &enrolment).await;
    assert_eq!(
        (reply.status, &reply.body),
        (201, &json!({ "device": id, "name": "nas" }))
    );

    let row = registry.row(&id).await;
    assert_eq!(row["name"], "nas");
    assert_eq!(row["online"], false);
    assert_eq!(row["revoked"], false);
    for unknown in ["public_address", "mapped_port", "last_seen", "agent"] {
        assert_eq!(row[unknown], Value::Null, "{unknown}");
    }
    assert_eq!(
        registry.get("/v1/aliases/nas").await.body,
        json!({ "device": id, "name": "nas" })
    );

    let path = format!("/v1/devices/{id}");
    let reply = registry
        .owner("PATCH", &path, json!({ "name": "attic-nas" }))
        .await;
    assert_eq!(
        (reply.status, &reply.body["name"]),
        (200, &json!("attic-nas"))
    );
    assert_eq!(
        registry.get("/v1/aliases/nas").await.problem(),
        (404, "unknown_alias")
    );
    assert_eq!(
        registry.get("/v1/aliases/attic-nas").await.body["device"],
        json!(id)
    );
    let again = registry
        .owner("PATCH", &path, json!({ "name": "attic-nas" }))
        .await;
    assert_eq!(again.status, 200, "its own name is not taken");

    let other = registry.enrolled("nas").await;
    let reply = registry
        .owner("PATCH", &path, json!({ "name": "nas" }))
        .await;
    assert_eq!(reply.problem(), (409, "name_taken"));

    assert_eq!(
        registry.owner("DELETE", &path, Value::Null).await.status,
        204
    );
    assert_eq!(
        registry.owner("DELETE", &path, Value::Null).await.status,
        204,
        "revoking again is no error"
    );
    assert_eq!(registry.row(&id).await["revoked"], true);
    assert_eq!(
        registry.get("/v1/aliases/attic-nas").await.problem(),
        (404, "unknown_alias")
    );
    let rename = registry.owner("PATCH", &path, json!({ "name": "x" })).await;
    assert_eq!(rename.problem(), (403, "revoked"));
    let other_path = format!("/v1/devices/{}", other.id());
    let reply = registry
        .owner("PATCH", &other_path, json!({ "name": "attic-nas" }))
        .await;
    assert_eq!(reply.status, 200, "its name is free");

    let stranger = format!("/v1/devices/{}", new_key().id());
    assert_eq!(
        registry
            .owner("DELETE", &stranger, Value::Null)
            .await
            .problem(),
        (404, "unknown_device")
    );
    assert_eq!(
        registry
            .owner("PATCH", &stranger, json!({ "name": "y" }))
            .await
            .problem(),
        (404, "unknown_device")
    );
}

#[tokio::test]
async fn a_code_serves_one_device_once() {
    let registry = Registry::start();
    let (first, second) = (new_key(), new_key());
    let code = registry.code(json!({ "name": "nas" })).await;
    let enrolment = registry.enrolment(&first, &code);
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.status,
        201
    );
    let again = registry.post("/v1/enrollments", &enrolment).await;
    assert_eq!(
        (again.status, &again.body["name"]),
        (201, &json!("nas")),
        "an answer that was lost is said again"
    );
    let stolen = registry
        .post("/v1/enrollments", &registry.enrolment(&second, &code))
        .await;
    assert_eq!(stolen.problem(), (403, "bad_code"));

    registry
        .owner(
            "DELETE",
            &format!("/v1/devices/{}", first.id()),
            Value::Null,
        )
        .await;
    let back = registry.post("/v1/enrollments", &enrolment).await;
    assert_eq!(
        back.problem(),
        (403, "bad_code"),
        "a revoked device does not come back on its old code"
    );
    let fresh = registry.code(Value::Null).await;
    let reply = registry
        .post("/v1/enrollments", &registry.enrolment(&first, &fresh))
        .await;
    assert_eq!(
        (reply.status, &reply.body["name"]),
        (201, &json!("nas")),
        "it does on a fresh one, under its old name"
    );
    assert_eq!(registry.row(&first.id()).await["revoked"], false);

    for wrong in [
        "0000-0000-0000-0000",
        "",
        "abc",
        "\u{fc}\u{2028}",
        "ZZZZ-ZZZZ-ZZZZ-ZZZZ-Z",
    ] {
        let reply = registry
            .post("/v1/enrollments", &registry.enrolment(&second, wrong))
            .await;
        assert_eq!(reply.problem(), (403, "bad_code"), "{wrong}");
    }
    let mut without = registry.enrolment(&second, "");
    without.as_object_mut().unwrap().remove("code");
    assert_eq!(
        registry.post("/v1/enrollments", &without).await.problem(),
        (403, "bad_code")
    );
}

#[tokio::test]
async fn a_name_is_the_codes_or_the_devices_or_made() {
    let registry = Registry::start();
    let first = new_key();
    let code = registry.code(json!({ "name": "of-the-code" })).await;
    let mut enrolment = registry.enrolment(&first, &code);
    enrolment["name"] = json!("of-the-device");
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.body["name"],
        "of-the-code"
    );

    let key = new_key();
    let code = registry.code(json!({})).await;
    let made = format!("device-{}", &key.id().to_string()[3..9]);
    assert_eq!(
        registry
            .post("/v1/enrollments", &registry.enrolment(&key, &code))
            .await
            .body["name"],
        made
    );

    let code = registry.code(json!({ "name": "of-the-code" })).await;
    let taken = registry
        .post("/v1/enrollments", &registry.enrolment(&new_key(), &code))
        .await;
    assert_eq!(taken.problem(), (409, "name_taken"));
    registry
        .owner(
            "DELETE",
            &format!("/v1/devices/{}", first.id()),
            Value::Null,
        )
        .await;
    let reply = registry
        .post("/v1/enrollments", &registry.enrolment(&new_key(), &code))
        .await;
    assert_eq!(reply.status, 201, "the refusal did not use the code up");
}

#[tokio::test]
async fn an_enrolment_is_signed_by_the_device_for_this_registry() {
    let registry = Registry::start();
    let key = new_key();
    let code = registry.code(json!({})).await;
    let signed = |signature: [u8; 64]| json!({ "code": code, "device": key.id(), "signature": BASE64_URL_SAFE_NO_PAD.encode(signature) });
    let mut flipped = sign_enrolment(&key, &registry.origin(), &code);
    flipped[7] ^= 1;
    for (what, signature) in [
        (
            "another key",
            sign_enrolment(&new_key(), &registry.origin(), &code),
        ),
        (
            "another origin",
            sign_enrolment(&key, "https://registry.example", &code),
        ),
        (
            "another code",
            sign_enrolment(&key, &registry.origin(), "0000-0000-0000-0000"),
        ),
        ("a flipped bit", flipped),
    ] {
        let reply = registry.post("/v1/enrollments", &signed(signature)).await;
        assert_eq!(reply.problem(), (403, "bad_signature"), "{what}");
    }
    let good = signed(sign_enrolment(&key, &registry.origin(), &code));
    assert_eq!(
        registry.post("/v1/enrollments", &good).await.status,
        201,
        "the code is still good"
    );
}

#[tokio::test]
async fn the_owner_opens_and_closes_registration() {
    let registry = Registry::start();
    assert_eq!(
        registry.owner("GET", "/v1/policy", Value::Null).await.body["registration"],
        "closed"
    );
    let key = new_key();
    let mut socket = Socket::connect(&registry, &key).await;
    socket.register(&key, &registry.origin(), None).await;
    assert_eq!(socket.expect_rejected().await, "not_enrolled");

    let open = registry
        .owner("PUT", "/v1/policy", json!({ "registration": "open" }))
        .await;
    assert_eq!(
        (open.status, &open.body["registration"]),
        (200, &json!("open"))
    );
    assert_eq!(
        registry.get("/v1/registry").await.body["registration"],
        "open"
    );
    registry.registered(&key).await;
    assert_eq!(
        registry.row(&key.id()).await["name"],
        format!("device-{}", &key.id().to_string()[3..9])
    );

    let other = new_key();
    let mut enrolment = registry.enrolment(&other, "");
    enrolment.as_object_mut().unwrap().remove("code");
    enrolment["name"] = json!("self-made");
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.body["name"],
        "self-made"
    );
    registry
        .owner(
            "DELETE",
            &format!("/v1/devices/{}", other.id()),
            Value::Null,
        )
        .await;
    assert_eq!(
        registry.post("/v1/enrollments", &enrolment).await.problem(),
        (403, "revoked"),
        "revoked stays revoked"
    );

    registry
        .owner("PUT", "/v1/policy", json!({ "registration": "closed" }))
        .await;
    let reply = registry
        .post("/v1/enrollments", &registry.enrolment(&new_key(), ""))
        .await;
    assert_eq!(reply.problem(), (403, "bad_code"));
    registry.registered(&key).await;
}

#[tokio::test]
async fn bad_input_gets_one_clear_line() {
    let registry = Registry::start();
    let authorization = format!("Bearer {OWNER_SECRET}");
    let owner = [("authorization", authorization.as_str())];
    let device = registry.enrolled("nas").await.id();
    let path = format!("/v1/devices/{device}");
    for (method, path, body) in [
        ("POST", "/v1/codes", "{"),
        ("POST", "/v1/codes", "[5]"),
        ("POST", "/v1/codes", "\"text\""),
        ("POST", "/v1/codes", "\u{0}\u{1}"),
        ("POST", "/v1/codes", r#"{"ttl_s": "60"}"#),
        ("POST", "/v1/codes", r#"{"ttl_s": 59}"#),
        ("POST", "/v1/codes", r#"{"ttl_s": 604801}"#),
        ("POST", "/v1/codes", r#"{"ttl_s": 1e300}"#),
        ("POST", "/v1/codes", r#"{"name": 5}"#),
        ("POST", "/v1/codes", r#"{"name": "a", "name": "b"}"#),
        ("PATCH", &path, ""),
        ("PATCH", &path, r#"{"name": null}"#),
        ("PUT", "/v1/policy", r#"{"registration": "ajar"}"#),
        ("PUT", "/v1/policy", r#"{"registration": true}"#),
        ("PUT", "/v1/policy", r#"{"relay": {"enabled": "yes"}}"#),
        ("PUT", "/v1/policy", r#"{"relay": {"rate_bytes_s": 16383}}"#),
        ("PUT", "/v1/policy", r#"{"relay": {"rate_bytes_s": -1}}"#),
        ("PUT", "/v1/policy", r#"{"relay": {"daily_bytes": 1e300}}"#),
        ("POST", "/v1/codes", r#"{"role": "owner"}"#),
        ("PATCH", "/v1/devices/rb1x", r#"{"name": "x"}"#),
        ("DELETE", "/v1/devices/nas", ""),
        ("DELETE", "/v1/devices/%00", ""),
        ("POST", "/v1/enrollments", "{}"),
        (
            "POST",
            "/v1/enrollments",
            r#"{"device": "rb1", "signature": ""}"#,
        ),
    ] {
        let reply = registry.reply(method, path, &owner, body.to_owned()).await;
        assert_eq!(
            reply.problem(),
            (400, "bad_request"),
            "{method} {path} {body}"
        );
    }
    for name in [
        "",
        "NAS",
        "n\u{e5}s",
        "n\u{430}s",
        "-nas",
        "nas-",
        "rb1x",
        "a b",
        "a.b",
        "a\u{0}b",
        &"x".repeat(64),
    ] {
        let reply = registry
            .owner("PATCH", &path, json!({ "name": name }))
            .await;
        assert_eq!(reply.problem(), (400, "bad_request"), "{name:?}");
        let reply = registry
            .owner("POST", "/v1/codes", json!({ "name": name }))
            .await;
        assert_eq!(reply.problem(), (400, "bad_request"), "{name:?}");
    }
    for alias in [
        "NAS",
        "n%C3%A5s",
        "%ff",
        "nas%20",
        "nas%00",
        "'%20OR%201=1--",
    ] {
        let reply = registry.get(&format!("/v1/aliases/{alias}")).await;
        assert_eq!(reply.problem(), (404, "unknown_alias"), "{alias}");
    }
    let mut mistyped = device.to_string();
    mistyped.replace_range(10..11, if &mistyped[10..11] == "q" { "p" } else { "q" });
    let reply = registry
        .owner("DELETE", &format!("/v1/devices/{mistyped}"), Value::Null)
        .await;
    assert!(
        reply.body["detail"].as_str().unwrap().contains("checksum"),
        "{reply:?}"
    );
    assert_eq!(
        registry.row(&device).await["name"],
        "nas",
        "nothing has changed"
    );
}

#[tokio::test]
async fn bodies_that_are_too_large_are_refused() {
    let registry = Registry::start();
    let requests = format!("/v1/devices/{}/requests", new_key().id());
    for (path, size) in [
        ("/v1/enrollments", 64 * 1024 + 1),
        (&requests, 16 * 1024 + 1),
        (&requests, 1 << 20),
    ] {
        let reply = registry.reply("POST", path, &[], vec![b' '; size]).await;
        assert_eq!(reply.problem(), (413, "too_large"), "{path} {size}");
    }
    let reply = registry
        .reply("POST", "/v1/enrollments", &[], vec![b' '; 64 * 1024])
        .await;
    assert_eq!(reply.problem(), (400, "bad_request"));
}

#[tokio::test]
async fn other_methods_and_paths_are_told_apart() {
    let registry = Registry::start();
    for path in [
        "/",
        "/v1",
        "/v1/",
        "/v1/nothing",
        "/v1/registry/",
        "/v2/registry",
        "/v1/devices/a/b",
    ] {
        assert_eq!(
            registry.get(path).await.problem(),
            (404, "not_found"),
            "{path}"
        );
    }
    let reply = registry.reply("DELETE", "/v1/registry", &[], "").await;
    assert_eq!(reply.problem(), (405, "method_not_allowed"));
    assert_eq!(reply.header("allow"), "GET, HEAD, OPTIONS");
    let reply = registry
        .reply(
            "OPTIONS",
            "/v1/policy",
            &[("origin", "https://elsewhere.example")],
            "",
        )
        .await;
    assert_eq!(
        (reply.status, reply.header("allow")),
        (204, "GET, PUT, HEAD, OPTIONS")
    );
    assert_eq!(reply.header("access-control-allow-origin"), "");
    let reply = registry.reply("HEAD", "/v1/registry", &[], "").await;
    assert_eq!((reply.status, &reply.body), (200, &Value::Null));
    let reply = registry
        .reply("GET", "/v1/registry", &[("host", "registry.example")], "")
        .await;
    assert_eq!(
        reply.problem(),
        (400, "bad_request"),
        "plain http is for loopback"
    );
}

#[tokio::test]
async fn the_openapi_document_matches_the_routes() {
    let registry = Registry::start();
    let key = registry.enrolled("nas").await;
    let document = registry.get("/v1/openapi.json").await.body;
    assert_eq!(document["openapi"], "3.1.0");
    let mut tried = 0;
    for (path, item) in document["paths"].as_object().unwrap() {
        let concrete = path
            .replace("{id}", &key.id().to_string())
            .replace("{room}", &"0".repeat(32))
            .replace("{name}", "nas");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let as_stranger = registry.reply(method, &concrete, &[], "").await;
            let operation = &item[method.to_lowercase()];
            if operation.is_null() {
                assert_eq!(
                    as_stranger.problem(),
                    (405, "method_not_allowed"),
                    "{method} {path} is not described"
                );
                continue;
            }
            tried += 1;
            assert_eq!(
                as_stranger.status == 401,
                operation.get("security").is_some(),
                "{method} {path}"
            );
            let body = json!({ "registration": "closed", "name": "nas" });
            let as_owner = registry.owner(method, &concrete, body).await;
            for reply in [as_stranger, as_owner] {
                let responses = &operation["responses"];
                let response = responses
                    .get(reply.status.to_string())
                    .unwrap_or(&responses["default"]);
                if response.get("$ref").is_some() {
                    reply.problem();
                } else if reply.status != 204 {
                    let schema = &response["content"]["application/json"]["schema"];
                    assert_eq!(
                        reply.header("content-type"),
                        "application/json",
                        "{method} {path}"
                    );
                    check_schema(&document, schema, &reply.body, &format!("{method} {path}"));
                }
            }
        }
    }
    assert_eq!(tried, 19);
}

/// As much of JSON Schema as the document uses for answers.
fn check_schema(document: &Value, schema: &Value, value: &Value, place: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        return check_schema(
            document,
            document.pointer(&reference[1..]).unwrap(),
            value,
            place,
        );
    }
    if let Some(allowed) = schema["enum"].as_array() {
        assert!(allowed.contains(value), "{place}: {value}");
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().map(|kind| kind.as_str().unwrap()).collect(),
        _ => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    assert!(kinds.contains(&kind), "{place}: {value} is not {kinds:?}");
    for required in schema["required"].as_array().into_iter().flatten() {
        assert!(
            value.get(required.as_str().unwrap()).is_some(),
            "{place}: no {required} in {value}"
        );
    }
    if let (Some(properties), Some(object)) = (schema["properties"].as_object(), value.as_object())
    {
        for (name, value) in object {
            let property = properties
                .get(name)
                .unwrap_or_else(|| panic!("{place}: {name} is not described"));
            check_schema(document, property, value, &format!("{place}.{name}"));
        }
    }
    for item in value.as_array().into_iter().flatten() {
        check_schema(document, &schema["items"], item, place);
    }
}

#[tokio::test]
async fn enrolments_are_limited_but_a_good_code_always_serves() {
    let registry = Registry::start();
    let code = registry.code(json!({})).await;
    let wrong = registry.enrolment(&new_key(), "0000-0000-0000-0000");
    for _ in 0..60 {
        assert_eq!(
            registry.post("/v1/enrollments", &wrong).await.problem(),
            (403, "bad_code")
        );
    }
    let reply = registry.post("/v1/enrollments", &wrong).await;
    assert_eq!(reply.problem(), (429, "rate_limited"));
    assert!((1..=60).contains(&reply.body["retry_after_s"].as_u64().unwrap()));
    let reply = registry
        .post("/v1/enrollments", &registry.enrolment(&new_key(), &code))
        .await;
    assert_eq!(
        reply.status, 201,
        "a stranger can not lock the owner's devices out"
    );

    registry
        .owner("PUT", "/v1/policy", json!({ "registration": "open" }))
        .await;
    let mut statuses = Vec::new();
    for _ in 0..60 {
        let mut enrolment = registry.enrolment(&new_key(), "");
        enrolment.as_object_mut().unwrap().remove("code");
        statuses.push(registry.post("/v1/enrollments", &enrolment).await.status);
    }
    assert_eq!(
        statuses[..59],
        [201; 59],
        "sixty a minute, with the one above"
    );
    assert_eq!(statuses[59], 429);
    let key = new_key();
    let mut socket = Socket::connect(&registry, &key).await;
    socket.register(&key, &registry.origin(), None).await;
    assert_eq!(socket.expect_rejected().await, "rate_limited");
}

#[tokio::test]
async fn the_list_survives_kill_9() {
    let mut registry = Registry::start();
    let (key, mut socket) = registry.online("nas").await;
    let gone = registry.enrolled("gone").await;
    let code = registry.code(json!({ "name": "later" })).await;
    registry
        .owner("DELETE", &format!("/v1/devices/{}", gone.id()), Value::Null)
        .await;
    registry.server.restart().unwrap();
    assert_eq!(socket.next().await, Incident::Closed(1006));

    let reply = registry
        .ring_refused(&key.id(), envelope(&new_key(), &key.id()))
        .await;
    assert_eq!(reply.problem(), (409, "device_offline"));
    assert!(reply.body["last_seen"].as_u64().is_some());
    assert_eq!(
        registry.row(&key.id()).await["online"],
        false,
        "the first caller has found out"
    );
    assert_eq!(registry.row(&gone.id()).await["revoked"], true);
    let later = registry
        .post("/v1/enrollments", &registry.enrolment(&new_key(), &code))
        .await;
    assert_eq!(later.body["name"], "later");
    let _socket = registry.registered(&key).await;
    assert_eq!(registry.row(&key.id()).await["online"], true);
}

#[tokio::test]
async fn the_list_finds_out_who_vanished_in_a_crash() {
    let mut registry = Registry::start();
    let (gone, socket) = registry.online("gone").await;
    let (back, _old) = registry.online("back").await;
    let seen = registry.row(&gone.id()).await["last_seen"].clone();
    registry.server.restart().unwrap();
    drop(socket);
    let mut back_socket = registry.registered(&back).await;
    let row = registry.await_row(&gone.id(), "online", json!(false)).await;
    assert!(
        row["last_seen"].as_u64() <= seen.as_u64(),
        "nothing was heard of it since"
    );
    assert_eq!(registry.row(&back.id()).await["online"], true);
    back_socket.expect_quiet().await;
}
