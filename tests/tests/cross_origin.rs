//! Pages of other origins at the registry (PROTOCOL.md, section 5.7), on real workerd.

use ringback_tests::registry::{Registry, Reply, envelope, new_key};

const PAGE: &str = "https://app.example";

fn allowing(origins: &str) -> Registry {
    Registry::with(|config| {
        config
            .bindings
            .insert("ALLOWED_ORIGINS".into(), origins.into());
    })
}

fn allowed(reply: &Reply) -> &str {
    assert_eq!(reply.header("vary"), "origin");
    reply.header("access-control-allow-origin")
}

#[tokio::test]
async fn a_listed_page_may_call() {
    let registry = allowing("https://other.example, https://app.example");
    let reply = registry
        .reply("GET", "/v1/registry", &[("origin", PAGE)], "")
        .await;
    assert_eq!((reply.status, allowed(&reply)), (200, PAGE));
    assert_eq!(
        reply.header("access-control-allow-credentials"),
        "",
        "there are no cookies here"
    );

    let device = new_key().id();
    let path = format!("/v1/devices/{device}/requests");
    let preflight = registry
        .reply(
            "OPTIONS",
            &path,
            &[("origin", PAGE), ("access-control-request-method", "POST")],
            "",
        )
        .await;
    assert_eq!((preflight.status, allowed(&preflight)), (204, PAGE));
    assert!(
        preflight
            .header("access-control-allow-methods")
            .contains("POST")
    );
    assert_eq!(
        preflight.header("access-control-allow-headers"),
        "content-type"
    );

    // A refusal can be read, too.
    let reply = registry
        .reply(
            "POST",
            &path,
            &[("origin", PAGE)],
            envelope(&new_key(), &device),
        )
        .await;
    assert_eq!(reply.problem(), (404, "unknown_device"));
    assert_eq!(allowed(&reply), PAGE);
}

#[tokio::test]
async fn other_pages_and_other_routes_stay_closed() {
    for registry in [Registry::start(), allowing("https://other.example")] {
        let reply = registry
            .reply("GET", "/v1/registry", &[("origin", PAGE)], "")
            .await;
        assert_eq!((reply.status, allowed(&reply)), (200, ""));
    }
    let registry = allowing("*");
    for (method, path) in [
        ("GET", "/v1/devices"),
        ("PUT", "/v1/policy"),
        ("POST", "/v1/enrollments"),
        ("POST", "/v1/codes"),
    ] {
        let reply = registry.reply(method, path, &[("origin", PAGE)], "").await;
        assert_eq!(allowed(&reply), "", "{method} {path}");
        let asked = [("origin", PAGE), ("access-control-request-method", method)];
        let preflight = registry.reply("OPTIONS", path, &asked, "").await;
        assert_eq!(allowed(&preflight), "", "{method} {path}");
        assert_eq!(preflight.header("access-control-allow-methods"), "");
    }
    let reply = registry
        .reply("GET", "/v1/aliases/nas", &[("origin", PAGE)], "")
        .await;
    assert_eq!(reply.problem(), (404, "unknown_alias"));
    assert_eq!(allowed(&reply), PAGE);
}
