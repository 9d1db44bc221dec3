//! The registry as curl sees it: TLS by a private authority, the owner's API, its state over a
//! restart.

use anyhow::Result;
use ringback_tests::lab::{Lab, kind::Kind, registry::Registry};
use serde_json::{Value, json};

/// curl without the owner's secret, or with a wrong one.
fn stranger(lab: &Lab, registry: &Registry, path: &str, token: Option<&str>) -> Result<Value> {
    let mut curl = lab.caller().command("curl");
    curl.args(["-sS", "--max-time", "20", "--cacert"])
        .arg(registry.ca());
    curl.args([
        "-w",
        "\n{\"status\":%{http_code},\"type\":\"%{content_type}\"}",
    ]);
    if let Some(token) = token {
        curl.args(["-H", &format!("Authorization: Bearer {token}")]);
    }
    let output = curl.arg(format!("{}{path}", registry.url())).output()?;
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout)?;
    Ok(serde_json::from_str(
        text.lines().last().unwrap_or_default(),
    )?)
}

#[test]
fn the_registry_is_reached_from_behind_every_kind_of_nat() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    for kind in Kind::ALL {
        for site in [lab.caller(), lab.device()] {
            site.set_kind(kind)?;
            let (status, body) = registry.call(site.host(), "GET", "/v1/registry", None)?;
            assert_eq!(status, 200, "{kind}: {body}");
        }
    }
    Ok(())
}

#[test]
fn only_the_private_authority_vouches_for_it() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    let url = format!("{}/v1/registry", registry.url());
    let output = lab.caller().command("curl").args(["-sS", &url]).output()?;
    // 60: the peer's certificate can not be authenticated.
    assert_eq!(output.status.code(), Some(60), "{output:?}");
    Ok(())
}

#[test]
fn the_owners_routes_want_the_owners_secret() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    for token in [None, Some("guess"), Some("")] {
        for path in ["/v1/devices", "/v1/policy"] {
            let answer = stranger(&lab, &registry, path, token)?;
            assert_eq!(answer["status"], 401, "{token:?} {path}");
            assert_eq!(
                answer["type"], "application/problem+json",
                "{token:?} {path}"
            );
        }
    }
    let answer = stranger(
        &lab,
        &registry,
        "/v1/devices",
        Some(registry.owner_secret()),
    )?;
    assert_eq!(answer["status"], 200);
    Ok(())
}

#[test]
fn what_the_owner_set_survives_kill_9() -> Result<()> {
    let lab = Lab::builder().build()?;
    let mut registry = Registry::start(&lab)?;
    let host = lab.registry();
    let (_, before) = registry.call(host, "GET", "/v1/policy", None)?;
    let policy = json!({ "registration": "open" });
    assert_eq!(
        before["registration"], "closed",
        "a registry is closed until the owner opens it"
    );
    let (status, said) = registry.call(host, "PUT", "/v1/policy", Some(&policy))?;
    assert!((200..300).contains(&status), "{status} {said}");
    let code = registry.enrolment_code(&lab, "nas")?;
    assert!(!code.is_empty());
    registry.workerd().restart()?;
    let (_, after) = registry.call(host, "GET", "/v1/policy", None)?;
    assert_eq!(after["registration"], "open");
    // What was not named stays as it was.
    assert_eq!(after["relay"], before["relay"]);
    Ok(())
}
