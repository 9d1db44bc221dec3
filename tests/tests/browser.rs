//! The harness itself: what a browser does wrong is seen, and what a person does is done.

use std::panic::AssertUnwindSafe;

use anyhow::{Context as _, Result};
use ringback_tests::{
    browser::{Browser, Kind, Options, PATIENCE, Size},
    lab::{Lab, registry::Registry},
};
use tempfile::TempDir;
use xtask::workerd::{Config, Workerd};

/// A page with a strict policy, on an origin of its own.
fn site(body: &str, script: &str) -> Result<(Workerd, TempDir)> {
    let dir = TempDir::new()?;
    let body = serde_json::to_string(body)?;
    let script = serde_json::to_string(script)?;
    let module = format!(
        "const page = '<!doctype html><html lang=en><title>t</title>' + {body} + \
         '<script src=/app.js></script>';\n\
         export default {{ fetch(request) {{\n\
           const {{ pathname }} = new URL(request.url);\n\
           const answer = (body, type) => new Response(body, {{ headers: {{ 'content-type': type, \
             'content-security-policy': \"default-src 'self'\" }} }});\n\
           if (pathname === '/app.js') return answer({script}, 'text/javascript');\n\
           if (pathname === '/') return answer(page, 'text/html');\n\
           return new Response('gone', {{ status: 404 }});\n\
         }} }};\n"
    );
    let server = Workerd::start(Config::script(dir.path(), module)?)?;
    Ok((server, dir))
}

#[test]
fn a_person_fills_clicks_and_saves() -> Result<()> {
    let (server, _dir) = site(
        "<label>Name <input></label><button>Greet</button><p role=status></p>\
         <button disabled>Never</button>",
        "const button = document.querySelector('button');\n\
         button.onclick = event => {\n\
           const name = document.querySelector('input').value;\n\
           document.querySelector('p').textContent = `hello ${name} ${event.isTrusted}`;\n\
           const a = document.createElement('a');\n\
           a.href = URL.createObjectURL(new Blob(['contents of ' + name]));\n\
           a.download = 'greeting.txt';\n\
           a.click();\n\
         };",
    )?;
    let browser = Browser::start()?;
    let page = browser.page()?;
    page.open(&server.url())?;
    page.fill("Name", "Ada")?;
    page.click("button", "Greet")?;
    page.until_text("hello Ada true")?;
    let saved = browser.download(PATIENCE)?;
    assert_eq!(saved.name, "greeting.txt");
    assert_eq!(std::fs::read_to_string(&saved.path)?, "contents of Ada");
    assert!(page.has("button", "Never"));
    assert!(!page.has("link", "Greet"));
    let told = page.describe()?;
    assert!(told.contains("textbox \"Name\""), "{told}");
    page.set_size(Size::Phone)?;
    let picture = page.picture("harness")?;
    let png = std::fs::read(picture)?;
    // Width and height, in pixels of the phone.
    assert_eq!(
        png[16..24],
        [
            0,
            0,
            780u16.to_be_bytes()[0],
            780u16.to_be_bytes()[1],
            0,
            0,
            6,
            152
        ]
    );
    Ok(())
}

#[test]
fn what_goes_wrong_in_a_page_fails_the_test() -> Result<()> {
    for (script, kind, part) in [
        ("throw new Error('one');", Kind::Exception, "one"),
        ("Promise.reject(new Error('two'));", Kind::Exception, "two"),
        ("console.error('three', 3);", Kind::Console, "three 3"),
        ("fetch('/nothing');", Kind::Log, "404"),
        ("eval('1');", Kind::Policy, "script-src"),
        (
            "document.body.append(Object.assign(document.createElement('img'), \
             { src: 'http://127.0.0.1:1/x' }));",
            Kind::Policy,
            "img",
        ),
    ] {
        let (server, _dir) = site("<p>x", script)?;
        let browser = Browser::start()?;
        let page = browser.page()?;
        page.open(&server.url())?;
        browser
            .await_incident(|incident| incident.kind == kind && incident.text.contains(part))
            .with_context(|| format!("{script}: {:?}", browser.incidents()))?;
        assert!(browser.check().is_err(), "{script}");
        let dropped = std::panic::catch_unwind(AssertUnwindSafe(move || drop(browser)));
        assert!(dropped.is_err(), "{script}: the test would pass");
    }
    Ok(())
}

#[test]
fn the_profile_outlives_the_browser_and_a_killed_tab_the_others() -> Result<()> {
    let (server, _dir) = site("<p>x", "")?;
    let mut browser = Browser::start()?;
    let page = browser.page()?;
    page.open(&server.url())?;
    page.eval::<()>("void localStorage.setItem('key', 'kept')")?;
    let other = browser.page()?;
    other.open(&server.url())?;
    // Is written down by itself, but not at once; a second tab sees it when it is.
    other.until("localStorage.getItem('key') === 'kept'")?;
    other.kill()?;
    assert_eq!(page.eval::<i32>("20 + 22")?, 42);
    let cookie = "document.cookie = 'kept=1; max-age=1000'";
    page.eval::<String>(cookie)?;
    page.eval::<()>(
        "new Promise((done, failed) => { const r = indexedDB.open('d'); \
         r.onupgradeneeded = () => r.result.createObjectStore('s'); r.onerror = failed; \
         r.onsuccess = () => { const t = r.result.transaction('s', 'readwrite', { durability: 'strict' }); \
         t.objectStore('s').put('kept', 'k'); t.oncomplete = () => done(null); }; })",
    )?;
    browser.restart()?;
    let page = browser.page()?;
    page.open(&server.url())?;
    let kept: String = page.eval(
        "new Promise((done, failed) => { const r = indexedDB.open('d'); r.onerror = failed; \
         r.onsuccess = () => { const g = r.result.transaction('s').objectStore('s').get('k'); \
         g.onsuccess = () => done(g.result); }; })",
    )?;
    assert_eq!(kept, "kept");
    Ok(())
}

#[test]
fn in_the_lab_it_reaches_the_registry_by_its_name_and_certificate() -> Result<()> {
    let lab = Lab::builder().build()?;
    let registry = Registry::start(&lab)?;
    let browser = Options::default()
        .inside(lab.caller().host())
        .trust(registry.spki_sha256())
        .start()?;
    let page = browser.page()?;
    page.open(&format!("{}/v1/registry", registry.url()))?;
    assert!(page.eval::<bool>("isSecureContext")?);
    assert!(page.text()?.contains("\"protocol"), "{}", page.text()?);

    // Whoever is not told to trust it does not.
    let stranger = Options::default().inside(lab.caller().host()).start()?;
    let refused = stranger.page()?.open(&registry.url());
    let error = format!("{:#}", refused.expect_err("the certificate is unknown"));
    assert!(error.contains("ERR_CERT_AUTHORITY_INVALID"), "{error}");
    Ok(())
}
