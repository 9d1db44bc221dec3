//! What a device, its LAN and its files say is text to the page: nothing of it runs in the
//! registry's origin, where the browser's keys are.

use anyhow::{Context as _, Result};
use ringback_tests::{
    browser::{Browser, PATIENCE, Page},
    lan_site::Answer,
    registry::OWNER_SECRET,
    visit::{Plan, Stage},
};
use serde_json::Value;

/// Runs, if anything of it does.
const SCRIPT: &str =
    "<img src=x onerror=\"globalThis.owned=1\"><script>globalThis.owned=1</script>";

fn is_untouched(page: &Page) -> Result<()> {
    assert!(page.eval::<bool>("globalThis.owned === undefined")?);
    assert!(page.eval::<bool>("document.querySelector('img[src=x], [onerror]') === null")?);
    Ok(())
}

/// Runs as the user on the LAN's own origin and tries what it can against the page that frames it.
const ATTACK: &str = r"<!doctype html><title>attack</title><script>
const tried = {};
const registry = new URLSearchParams(location.search).get('r');
const attempt = (name, what) => { try { tried[name] = String(what()); } catch (e) { tried[name] = e.name; } };
attempt('top document', () => top.document.title);
attempt('top storage', () => top.localStorage.length);
attempt('parent owned', () => { parent.parent.owned = 1; });
attempt('navigate top', () => { top.location = 'https://attacker.example/'; });
attempt('own cookie of registry', () => document.cookie);
const asynchronous = {
  'registry api': () => fetch(registry + '/v1/registry').then(r => r.text()),
  'registry page': () => fetch(registry).then(r => r.text()),
  'databases': async () => (await indexedDB.databases()).map(d => d.name).join(),
  'outer worker': () => navigator.serviceWorker.register('/evil-worker.js').then(() => 'registered'),
};
Promise.all(Object.entries(asynchronous).map(async ([name, what]) => {
  try { tried[name] = await what(); } catch (e) { tried[name] = e.name; }
})).then(() => {
  for (const to of [parent, top]) for (const word of ['ready', 'port', 'go', 'failed', 'taken'])
    to.postMessage({ ringback: word, reason: '<img src=x onerror=owned=1>', id: 1, status: 200 }, '*');
  globalThis.tried = tried;
});
</script>";

#[test]
fn a_hostile_lan_page_reaches_nothing_of_the_registrys_origin() -> Result<()> {
    let stage = Stage::with(Plan {
        site: Some(vec![
            ("/", Answer::html("<!doctype html><title>front</title>")),
            ("/attack", Answer::html(ATTACK)),
            (
                "/evil-worker.js",
                Answer::of(
                    "text/javascript",
                    "onfetch = e => e.respondWith(new Response('evil'))",
                )
                .header("Service-Worker-Allowed", "/"),
            ),
        ]),
        ..Plan::default()
    })?;
    let browser = Browser::start()?;
    // It is the attack that fails, audibly.
    browser.allow("lan.localhost");
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("web")?;
    let host = stage.lan_origin.replace("http://*.", "");
    let frame = page.frame(|url| url.contains(&host))?;
    let inner = "document.querySelector('iframe')";
    frame.until(&format!("{inner}?.contentDocument?.title === 'front'"))?;
    let registry = stage.registry.origin();
    frame.eval::<Value>(&format!(
        "void ({inner}.contentWindow.location = '/attack?r={registry}')"
    ))?;
    frame.until(&format!("{inner}?.contentWindow?.tried"))?;
    let tried: serde_json::Map<String, Value> =
        frame.eval(&format!("{inner}.contentWindow.tried"))?;
    for (name, outcome) in &tried {
        let outcome = outcome.as_str().unwrap_or_default();
        let harmless = match name.as_str() {
            "top document" | "top storage" | "parent owned" | "navigate top" => {
                outcome == "SecurityError"
            }
            "registry api" | "registry page" => outcome == "TypeError",
            "databases" | "own cookie of registry" => outcome.is_empty(),
            _ => outcome != "registered",
        };
        assert!(harmless, "{name}: {outcome}\n{tried:#?}");
    }
    is_untouched(page)?;
    assert!(page.eval::<String>("location.origin")? == registry);
    // The link works as before.
    visit.service("shell")?;
    visit.until_prompt()
}

#[test]
fn hostile_file_names_are_text() -> Result<()> {
    let stage = Stage::set()?;
    let names = [
        "<img src=x onerror=globalThis.owned=1>.txt",
        "\"><script>globalThis.owned=1<\u{2215}script>.txt",
        "javascript:globalThis.owned=1",
        "{{constructor}}.html",
        "invoice\u{202e}gpj.exe",
    ];
    for name in names {
        std::fs::write(stage.files.path().join(name), SCRIPT)?;
    }
    let svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' onload='globalThis.owned=1'>{SCRIPT}</svg>"
    );
    std::fs::write(stage.files.path().join("picture.svg"), svg)?;
    std::fs::write(stage.files.path().join("picture.png"), SCRIPT)?;
    let browser = Browser::start()?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("docs")?;
    page.until_text("picture.svg")?;
    for name in names {
        if name.contains('\u{202e}') {
            // What turns the line around is shown, not obeyed.
            assert!(!page.text()?.contains(name));
        } else {
            assert!(page.text()?.contains(name), "{name}");
        }
    }
    for name in [names[0], "picture.svg", "picture.png"] {
        page.click("button", name)?;
        page.until("document.querySelector('.preview')")?;
        page.until("!document.querySelector('.preview .spinner')")?;
        is_untouched(page)?;
        page.press("Escape")?;
        page.until("!document.querySelector('.preview')")?;
    }
    page.click("button", &format!("Download {}", names[0]))?;
    visit.until_transfer(names[0], "verified", PATIENCE)?;
    let saved = browser.download(PATIENCE)?;
    assert!(!saved.name.contains(['<', '>', '/']), "{}", saved.name);
    assert_eq!(std::fs::read_to_string(saved.path)?, SCRIPT);
    is_untouched(page)
}

#[test]
fn hostile_terminal_output_is_text() -> Result<()> {
    let stage = Stage::set()?;
    // A script, a link that runs one, a title, and requests to answer, paste and open things.
    let bytes = format!(
        "{SCRIPT}\r\n\x1b]8;;javascript:globalThis.owned=1\x07click me\x1b]8;;\x07\r\n\
         \x1b]0;{SCRIPT}\x07\x1b]52;c;b3duZWQ=\x07\x1b[c\x1b]10;?\x07\x1bP$qm\x1b\\the end\r\n"
    );
    std::fs::write(stage.files.path().join("hostile"), bytes)?;
    let browser = Browser::start()?;
    browser.permit(&stage.registry.origin(), "clipboard-read")?;
    browser.permit(&stage.registry.origin(), "clipboard-write")?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    let title: String = page.eval("document.title")?;
    page.eval::<Value>("navigator.clipboard.writeText('before').then(() => null)")?;
    visit.service("shell")?;
    visit.until_prompt()?;
    visit.type_line(&format!("cat {}/hostile", stage.files.path().display()))?;
    visit.until_terminal("the end")?;
    visit.until_terminal("onerror")?;
    page.eval::<Value>(
        "void document.querySelectorAll('.service:not([hidden]) a').forEach(a => a.click())",
    )?;
    is_untouched(page)?;
    let now: String = page.eval("document.title")?;
    assert!(!now.contains("owned"), "{now}, before: {title}");
    let clipboard: String = page.eval("navigator.clipboard.readText()")?;
    assert_eq!(clipboard, "before");
    assert!(
        page.eval::<String>("location.href")?
            .starts_with(&stage.registry.origin())
    );
    Ok(())
}

/// Names are letters, digits and dashes to an honest registry; what an agent calls itself is not
/// looked at by any. Here the registry lies about both, on the way into the page.
#[test]
fn a_script_in_a_devices_name_is_text() -> Result<()> {
    let stage = Stage::set()?;
    let browser = Browser::start()?;
    let page = browser.page()?;
    let name = Value::from(SCRIPT).to_string();
    page.on_new_document(&format!(
        "const Honest = WebSocket; globalThis.WebSocket = class extends Honest {{\
           constructor(...rest) {{ super(...rest); this.addEventListener('message', event => {{\
             if (!String(event.data).startsWith('{{')) return;\
             const value = JSON.parse(event.data);\
             for (const device of value.devices ?? [value.device]) {{\
               device.name = {name}; device.agent = {name}; }}\
             Object.defineProperty(event, 'data', {{ value: JSON.stringify(value) }}); }}); }} }};"
    ))?;
    page.open(&format!("{}/#", stage.registry.origin()))?;
    page.click("link", "Sign in as its owner")?;
    page.fill("Owner secret", OWNER_SECRET)?;
    page.press("Enter")?;
    page.until_text("onerror")
        .context("the hostile name is not shown")?;
    is_untouched(&page)?;
    page.pictures("hostile-name").map(drop)
}
