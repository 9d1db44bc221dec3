//! Web pages of a device's LAN: sites that share an origin, other sites of the web, and a browser
//! that keeps nothing (SECURITY.md, "Pages of the LAN"). Real Chromium, real workerd, a real agent.

use anyhow::Result;
use ringback_tests::{
    browser::{Browser, Frame, Options},
    lan_site::{Answer, Asked, LanSite},
    visit::{Plan, SHARED_HOST, Stage, Visit},
};
use serde_json::{Value, json};

/// Site A: when told to, it does what it can to be there, and to be believed, when B is opened.
const HOSTILE: &str = r"<!doctype html><title>A</title><script>
const told = {};
const attempt = async (name, what) => { try { told[name] = String(await what()); } catch (e) { told[name] = e.name; } };
const opened = (url, name) => window.open(url, name) ? 'opened' : 'refused';
globalThis.attack = async () => {
  await attempt('window', () => opened('/stay', 'stay'));
  await attempt('empty window', () => opened('about:blank', 'empty'));
  await attempt('boot page as a window', () => opened('/.ringback/boot.html', 'boot'));
  await attempt('named window', () => opened('/stay', '_blank'));
  await attempt('worker of its own', () => navigator.serviceWorker.register('/evil.js').then(() => 'registered'));
  await attempt('worker for a part', () => navigator.serviceWorker.register('/.ringback/sw.js', { scope: '/part' }).then(() => 'registered'));
  await attempt('shared worker', () => new Promise(r => {
    const w = new SharedWorker('/shared.js'); w.onerror = () => r('refused'); w.port.onmessage = () => r('runs'); }));
  localStorage.planted = 'A'; sessionStorage.planted = 'A';
  for (const path of ['/', '/secret']) document.cookie = 'planted=A; max-age=9999; path=' + path;
  await (await caches.open('planted')).put('/secret', new Response('A'));
  await new Promise((r, f) => { const o = indexedDB.open('planted'); o.onsuccess = r; o.onerror = f; });
  const files = await navigator.storage.getDirectory();
  await files.getFileHandle('planted', { create: true });
  new BroadcastChannel('gossip').onmessage = e => fetch('/stolen?' + e.data);
  const frame = document.body.appendChild(document.createElement('iframe'));
  frame.srcdoc = '<script>setInterval(() => fetch(`/stolen?srcdoc`), 50)<' + '/script>';
  addEventListener('pagehide', () => { for (const go of [navigator.sendBeacon.bind(navigator), u => fetch(u, { method: 'POST', keepalive: true })]) go('/stolen?bye'); });
  globalThis.told = told;
};
</script>";

/// What stays: it asks for B's secrets as soon as somebody answers.
const STAYING: &str = r"<!doctype html><title>stay</title><script>
setInterval(async () => {
  const text = await fetch('/secret', { cache: 'no-store' }).then(r => r.text()).catch(() => '');
  if (text.includes('of B')) fetch('/stolen?' + encodeURIComponent(text));
}, 50);
</script>";

/// Site B, or A when it is opened again: what has it found, and what does it leave?
const FINDING: &str = r"
globalThis.look = async () => {
  const found = {
    local: localStorage.length, session: sessionStorage.length, cookie: document.cookie,
    caches: (await caches.keys()).filter(n => n !== 'ringback').join(),
    databases: (await indexedDB.databases()).map(d => d.name).join(),
    workers: (await navigator.serviceWorker.getRegistrations()).length,
    files: 0, opener: String(window.opener),
  };
  for await (const name of (await navigator.storage.getDirectory()).keys()) found.files++;
  localStorage.left = document.title; sessionStorage.left = document.title;
  document.cookie = 'left=' + document.title + '; path=/secret';
  new BroadcastChannel('gossip').postMessage('gossip of ' + document.title);
  await new Promise((r, f) => { const o = indexedDB.open('left'); o.onsuccess = r; o.onerror = f; });
  return found;
};";

fn finding(title: &str) -> Answer {
    Answer::html(format!(
        "<!doctype html><title>{title}</title><script>{FINDING}</script>"
    ))
}

/// The document of the site in the boot page's frame.
const INNER: &str = "document.querySelector('iframe')";

fn isolated() -> Result<Browser> {
    let browser = Options::default()
        .argument(format!("--isolate-origins=http://{SHARED_HOST}"))
        .start()?;
    // It is the attacks that fail, audibly.
    browser.allow("lan.localhost");
    Ok(browser)
}

/// The boot page's frame in this tab, once the site is in it; none of those of before.
fn site_in(visit: &Visit, stage: &Stage, title: &str, before: &[&Frame]) -> Result<Frame> {
    let boot = stage.lan_origin.replacen("*", "", 1);
    let boot = boot.trim_start_matches("http://").to_owned() + "/.ringback/boot.html";
    let frame = visit.page.frame_after(before, |url| url.contains(&boot))?;
    let title = format!("{INNER}?.contentDocument?.title === '{title}'");
    frame.until(&title)?;
    Ok(frame)
}

fn asked_for(asked: &[Asked], part: &str) -> usize {
    let asked = asked.iter();
    asked.filter(|asked| asked.target.contains(part)).count()
}

#[test]
fn sites_on_one_origin_are_kept_apart() -> Result<()> {
    let secret = finding("the secret of B").header("Set-Cookie", "session=B; Path=/; HttpOnly");
    let other = LanSite::start([("/", finding("B")), ("/secret", secret)])?;
    let stage = Stage::with(Plan {
        site: Some(vec![
            (
                "/",
                Answer::html(format!("{HOSTILE}<script>{FINDING}</script>")),
            ),
            ("/stay", Answer::html(STAYING)),
            (
                "/shared.js",
                Answer::of(
                    "text/javascript",
                    "onconnect = e => e.ports[0].postMessage(1)",
                ),
            ),
            (
                "/evil.js",
                Answer::of(
                    "text/javascript",
                    "onfetch = e => e.respondWith(new Response('evil'))",
                ),
            ),
        ]),
        exposes: vec![vec!["other".into(), format!("http://{}", other.address())]],
        is_shared: true,
        ..Plan::default()
    })?;
    let browser = isolated()?;
    let visit = stage.linked(&browser)?;
    let page = &visit.page;
    visit.service("web")?;
    let hostile = site_in(&visit, &stage, "A", &[])?;
    hostile.eval::<Value>(&format!("{INNER}.contentWindow.attack().then(() => 1)"))?;
    let told: Value = hostile.eval(&format!("{INNER}.contentWindow.told"))?;

    page.to_front()?;
    visit.service("other")?;
    // A's frame is taken away; B begins when it is gone, and with nothing of A's.
    let frame = site_in(&visit, &stage, "B", &[&hostile])?;
    let found: Value = frame.eval(&format!("{INNER}.contentWindow.look()"))?;
    frame.eval::<Value>(&format!(
        "void ({INNER}.contentWindow.location = '/secret')"
    ))?;
    frame.until(&format!(
        "{INNER}?.contentDocument?.title === 'the secret of B'"
    ))?;
    let deeper: String = frame.eval(&format!("{INNER}.contentDocument.cookie"))?;

    // Windows of the shared origin, whoever has opened them, with all that a script in them can do.
    let lan = &stage.lan_origin;
    let secrets = asked_for(&other.asked(), "/secret");
    let window = browser.page()?;
    window.open(&format!("{lan}/secret"))?;
    let shown = window.text()?;
    window.open(&format!("{lan}/.ringback/boot.html"))?;
    let answered: String = window.eval(
        "(async () => {\
           const given = new MessageChannel();\
           given.port1.onmessage = ({ data }) => given.port1.postMessage({ id: data.id, status: 200, headers: [] });\
           const worker = (await navigator.serviceWorker.getRegistration('/'))?.active;\
           if (!worker) return 'no worker';\
           worker.postMessage({ ringback: 'begin' }, [new MessageChannel().port2]);\
           worker.postMessage({ ringback: 'port' }, [given.port2]);\
           return fetch('/secret').then(r => r.text());\
         })()",
    )?;
    let asked = other.asked();
    assert_eq!(
        asked_for(&asked, "/stolen") + asked_for(&stage.site.asked(), "/stolen?gossip"),
        0,
        "A did: {told}\nB was asked: {asked:#?}"
    );
    for (what, outcome) in told.as_object().into_iter().flatten() {
        // The worker for a part is ours; what counts is that it is gone (below).
        let harmless = what == "worker for a part"
            || !["opened", "registered", "runs"].contains(&outcome.as_str().unwrap_or_default());
        assert!(harmless, "{what}: {told}");
    }
    let nothing = json!({
        "local": 0, "session": 0, "cookie": "", "caches": "", "databases": "", "workers": 1,
        "files": 0, "opener": "null",
    });
    assert_eq!(found, nothing);
    assert_eq!(deeper, "left=B");
    assert!(shown.contains("registry’s page"), "{shown}");
    assert!(!answered.contains("of B"), "{answered}");
    assert_eq!(asked_for(&asked, "/secret"), secrets);
    // B is still answered by B.
    frame.eval::<Value>(&format!("void ({INNER}.contentWindow.location = '/')"))?;
    frame.until(&format!("{INNER}?.contentDocument?.title === 'B'"))?;

    // While that window is there, no other site begins.
    page.to_front()?;
    visit.service("web")?;
    page.click("button", "Show it here")?;
    page.until_text("still open in another tab or window")?;
    window.close()?;
    page.click("button", "Try again")?;
    let again = site_in(&visit, &stage, "A", &[&hostile, &frame])?;
    let found: Value = again.eval(&format!("{INNER}.contentWindow.look()"))?;
    assert_eq!(found, nothing);

    // Another tab takes it over, and this one lets go.
    let second = stage.linked(&browser)?;
    second.service("other")?;
    page.until_text("was opened elsewhere in this browser")?;
    page.until("!document.querySelector('.lan iframe')")?;
    Ok(())
}

/// Does to the LAN's page what a page of the web can.
const FOREIGN: &str = r"<!doctype html><title>foreign</title><script>
const lan = new URLSearchParams(location.search).get('lan');
const form = (more, target) => {
  const form = document.body.appendChild(document.createElement('form'));
  Object.assign(form, { method: 'post', action: lan + '/delete?' + more, target, rel: more });
  return form;
};
const framed = (set) => new Promise(resolve => {
  const frame = document.createElement('iframe');
  frame.name = 'f' + document.querySelectorAll('iframe').length;
  document.body.append(frame);
  frame.onload = resolve;
  set(frame);
});
globalThis.attack = async () => {
  for (const method of ['GET', 'POST'])
    await fetch(lan + '/delete?fetch', { method, mode: 'no-cors', credentials: 'include' }).catch(() => 0);
  navigator.sendBeacon(lan + '/delete?beacon', 'x');
  await new Promise(r => { const i = new Image(); i.onload = i.onerror = r; i.src = lan + '/delete?image'; });
  for (const policy of ['no-referrer', 'unsafe-url', 'origin'])
    await framed(frame => { frame.referrerPolicy = policy; frame.src = lan + '/delete?frame'; });
  for (const rel of ['noreferrer', 'opener'])
    await framed(frame => form(rel, frame.name).submit());
  await framed(frame => { frame.src = lan + '/.ringback/boot.html'; });
  form('opener', '_self').submit();
};
</script><body>";

#[test]
fn other_sites_neither_post_nor_read() -> Result<()> {
    let own = "<!doctype html><title>A</title><form method=post action=/print><button></button></form>\
        <form method=post action=/quiet><input name=page value=7></form>\
        <form action=/found></form>";
    let stage = Stage::with(Plan {
        site: Some(vec![
            (
                "/",
                Answer::html(own)
                    .header("Set-Cookie", "session=1; Path=/; SameSite=Strict")
                    .header("Referrer-Policy", "no-referrer"),
            ),
            (
                "/found",
                Answer::html("<!doctype html><title>found</title>"),
            ),
        ]),
        is_shared: true,
        ..Plan::default()
    })?;
    let foreign = LanSite::start([("/", Answer::html(FOREIGN))])?;
    let browser = isolated()?;
    browser.allow("/delete");
    browser.allow("127.0.0.1");
    let visit = stage.linked(&browser)?;
    visit.service("web")?;
    let frame = site_in(&visit, &stage, "A", &[])?;
    let port = foreign.address().port();
    // Of another site, and of the same site as the registry's page and the LAN's.
    for host in ["127.0.0.1", "foreign.lan.localhost"] {
        let page = browser.page()?;
        page.open(&format!("http://{host}:{port}/?lan={}", stage.lan_origin))?;
        // The last form takes the page, and its script, with it.
        page.eval::<Value>("void attack()")?;
        page.until(&format!("location.origin === '{}'", stage.lan_origin))?;
        page.until("document.readyState === 'complete'")?;
        let asked = stage.site.asked();
        assert_eq!(asked_for(&asked, "/delete"), 0, "{host}: {asked:#?}");
        page.close()?;
    }
    // What the page itself sends says so, as if it were open at its own address.
    let address = stage.site.address();
    let send = |form: &str, then: &str| -> Result<()> {
        if form != "/print" {
            frame.eval::<Value>(&format!(
                "void {INNER}.contentDocument.head.insertAdjacentHTML('beforeend', \
                 '<meta name=referrer content=no-referrer>')"
            ))?;
        }
        frame.eval::<Value>(&format!(
            "void {INNER}.contentDocument.querySelector('[action=\"{form}\"]').submit()"
        ))?;
        frame.until(&format!("{INNER}?.contentDocument?.{then}"))?;
        frame.eval::<Value>(&format!("void ({INNER}.contentWindow.location = '/')"))?;
        frame.until(&format!("{INNER}?.contentDocument?.title === 'A'"))
    };
    send("/print", "title === ''")?;
    send("/quiet", "body?.textContent === 'page=7'")?;
    send("/found", "title === 'found'")?;
    let asked = stage.site.asked();
    let one = |method: &str, path: &str| {
        let found: Vec<_> = asked
            .iter()
            .filter(|asked| asked.method == method && asked.target.starts_with(path))
            .collect();
        assert_eq!(found.len(), 1, "{asked:#?}");
        let of = |name| found[0].header(name).map(str::to_owned);
        (of("origin"), of("referer"), of("cookie"))
    };
    let (origin, cookie) = (
        Some(format!("http://{address}")),
        Some("session=1".to_owned()),
    );
    let referer = Some(format!("http://{address}/"));
    assert_eq!(
        one("POST", "/print"),
        (origin.clone(), referer, cookie.clone())
    );
    assert_eq!(one("POST", "/quiet"), (origin, None, cookie.clone()));
    assert_eq!(one("GET", "/found"), (None, None, cookie));
    Ok(())
}

#[test]
fn a_browser_that_keeps_nothing_is_told_so() -> Result<()> {
    let stage = Stage::set()?;
    let denied = json!({ "profile": { "content_settings": { "exceptions": { "cookies": {
        "[*.]lan.localhost,*": { "setting": 2 },
    } } } } });
    let browser = Options::default().preferences(denied).start()?;
    browser.allow("lan.localhost");
    let visit = stage.linked(&browser)?;
    visit.service("web")?;
    visit
        .page
        .until_text("The page can not be shown in this browser.")?;
    assert!(
        !visit.page.text()?.contains("opened"),
        "{}",
        visit.page.text()?
    );
    Ok(())
}
