//! A visit to the registry's page: a registry with its page and its LAN origin, a device with
//! services, and what a person does on the page.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use xtask::workerd::{Config, Workerd};

use crate::{
    browser::{Browser, Page},
    lan_site::{Answer, LanSite},
    loopback::{Device, PASSWORD, Profile},
    registry::Registry,
};

/// The host of a shared origin. A browser has to be told to isolate it, for tests to reach its frames.
pub const SHARED_HOST: &str = "pages.lan.localhost";

/// A registry, a device and its LAN on the loopback.
#[derive(Debug)]
pub struct Stage {
    pub runtime: Runtime,
    pub registry: Registry,
    pub device: Device,
    /// What the device exposes as `web`.
    pub site: LanSite,
    /// What the device exposes as `docs`, to read and to write.
    pub files: TempDir,
    /// The origin that pages of LANs are shown on; `*` is the site.
    pub lan_origin: String,
    /// Where the registry's page is opened.
    pub page_origin: String,
    _lan: Workerd,
    _lan_dir: TempDir,
}

/// How a stage differs from the usual one.
#[derive(Debug, Default)]
pub struct Plan {
    /// The device's name at the registry.
    pub name: Option<&'static str>,
    /// What the LAN's site answers; absent: [`usual_site`].
    pub site: Option<Vec<(&'static str, Answer)>>,
    /// Further arguments of `ringback expose`.
    pub exposes: Vec<Vec<String>>,
    /// Whether all sites are shown on one origin. It then belongs to the same site as the registry's
    /// page, as on workers.dev, so that the browser keeps neither storage nor service workers apart
    /// by who frames them: what is opened beside the page meets the page's.
    pub is_shared: bool,
}

impl Stage {
    /// Registry, device `nas` with `shell`, `docs` and `web`, and its site.
    pub fn set() -> Result<Self> {
        Self::with(Plan::default())
    }

    pub fn with(plan: Plan) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let lan_dir = TempDir::new()?;
        // Names below localhost lead to the loopback, and are as good as TLS to the browser.
        let (page_host, lan_host) = if plan.is_shared {
            ("registry.lan.localhost", SHARED_HOST)
        } else {
            ("127.0.0.1", "*.lan.localhost")
        };
        let framed_by = format!("http://{page_host}:*");
        let lan = Workerd::start(Config::lan(lan_dir.path(), &framed_by)?)?;
        let lan_origin = format!("http://{lan_host}:{}", lan.addr().port());
        let registry = {
            let origin = lan_origin.clone();
            Registry::with(move |config| {
                let page = config.clone().with_page(Some(&origin));
                *config = page.expect("an origin");
                config.bindings.insert("STUN_SERVERS".into(), String::new());
            })
        };
        let site = LanSite::start(plan.site.unwrap_or_else(usual_site))?;
        let files = TempDir::new()?;
        let profile = Profile::new();
        let web = format!("http://{}", site.address());
        let docs = format!("files:{}", files.path().display());
        profile.ok(["expose", "web", &web]);
        profile.ok(["expose", "shell"]);
        profile.ok(["expose", "docs", &docs, "--writable"]);
        for expose in &plan.exposes {
            let words = ["expose"]
                .into_iter()
                .chain(expose.iter().map(String::as_str));
            profile.ok(words);
        }
        let name = plan.name.unwrap_or("nas");
        let code = runtime.block_on(registry.code(json!({ "name": name })));
        let origin = registry.origin();
        let mut up = profile.command(["up", "--json", "--registry", &origin, "--enroll", &code]);
        // Whatever the tester's own shell and its start files do.
        up.env("SHELL", "/bin/sh")
            .env("PS1", "$ ")
            .env("HOME", files.path());
        let device = Device::up(profile, &origin, up);
        let page_origin = origin.replace("127.0.0.1", page_host);
        Ok(Self {
            runtime,
            registry,
            device,
            site,
            files,
            lan_origin,
            page_origin,
            _lan: lan,
            _lan_dir: lan_dir,
        })
    }

    /// What the device's owner gives to somebody: ID and password.
    pub fn link(&self) -> String {
        device_link(&self.page_origin, &self.device.id, PASSWORD)
    }

    /// Starts the device's agent again with the same profile and environment.
    pub fn restart_device(&mut self) -> Result<()> {
        self.device.process.kill9()?;
        let origin = self.registry.origin();
        let profile = std::mem::take(&mut self.device.profile);
        let mut up = profile.command(["up", "--json", "--registry", &origin]);
        up.env("SHELL", "/bin/sh")
            .env("PS1", "$ ")
            .env("HOME", self.files.path());
        self.device = Device::up(profile, &origin, up);
        Ok(())
    }

    /// A tab of this browser that is linked to the device.
    pub fn linked(&self, browser: &Browser) -> Result<Visit> {
        let visit = Visit::open(browser, &self.link())?;
        visit.call()?;
        Ok(visit)
    }
}

/// The address of a device on the page; what follows `#` is not sent to the registry.
pub fn device_link(registry: &str, device: &str, password: &str) -> String {
    format!("{registry}/d/{device}#p={password}")
}

/// A site with two pages, a picture, a script, a form, a cookie and a redirect.
pub fn usual_site() -> Vec<(&'static str, Answer)> {
    const PIXEL: &[u8] = b"<svg xmlns='http://www.w3.org/2000/svg' width='40' height='40'>\
        <circle cx='20' cy='20' r='18' fill='seagreen'/></svg>";
    let front = "<!doctype html><html lang=en><title>Printer</title>\
        <link rel=stylesheet href=/style.css>\
        <h1>The printer in the attic</h1><img src=/ink.svg alt='Ink level' width=40>\
        <p id=said></p><a href=/queue>Queue</a> <a href=/old>Old address</a>\
        <form method=post action=/print><input name=page value=7><button>Print</button></form>\
        <script src=/app.js></script>";
    vec![
        (
            "/",
            Answer::html(front).header("Set-Cookie", "seen=yes; Path=/"),
        ),
        (
            "/queue",
            Answer::html(
                "<!doctype html><title>Queue</title><h1>Nothing to print</h1><a href=/>Back</a>",
            ),
        ),
        ("/old", Answer::redirect("/queue")),
        (
            "/style.css",
            Answer::of(
                "text/css",
                "h1 { color: seagreen; font-family: sans-serif }",
            ),
        ),
        ("/ink.svg", Answer::of("image/svg+xml", PIXEL)),
        (
            "/app.js",
            Answer::of(
                "text/javascript",
                "fetch('/status.json').then(r => r.json()).then(status => {\
                 document.querySelector('#said').textContent = 'Ink: ' + status.ink + ' %'; });",
            ),
        ),
        (
            "/status.json",
            Answer::of("application/json", r#"{"ink":73}"#),
        ),
    ]
}

/// A tab with the registry's page.
#[derive(Debug)]
pub struct Visit {
    pub page: Page,
}

impl Visit {
    pub fn open(browser: &Browser, url: &str) -> Result<Self> {
        let page = browser.page()?;
        page.open(url)?;
        Ok(Self { page })
    }

    /// Rings the device whose link was opened, and waits until there is a link.
    pub fn call(&self) -> Result<()> {
        self.page.click("button", "Call")?;
        self.until_linked()
    }

    pub fn until_linked(&self) -> Result<()> {
        self.page.until_role("button", "Hang up").context("no link")
    }

    /// Gives a password and rings.
    pub fn call_with(&self, password: &str) -> Result<()> {
        self.page.fill("Password of the device", password)?;
        self.page.click("button", "Call")
    }

    /// The sentence that a failure is told in.
    pub fn failure(&self) -> Result<String> {
        self.page
            .until("document.querySelector('[role=alert] .note-title')")?;
        self.page
            .eval("document.querySelector('[role=alert]').innerText")
    }

    /// Brings a service's tile up, wherever one is.
    pub fn service(&self, name: &str) -> Result<()> {
        self.page.click("button", "Services")?;
        self.page.click("button", &format!("{name} "))
    }

    /// What the terminal in front shows.
    pub fn terminal(&self) -> Result<String> {
        self.page.eval(&format!("{TERMINAL}?.text() ?? ''"))
    }

    pub fn until_terminal(&self, text: &str) -> Result<()> {
        let text = Value::from(text);
        self.page
            .until(&format!("({TERMINAL}?.text() ?? '').includes({text})"))
            .with_context(|| {
                format!(
                    "the terminal shows:\n{}",
                    self.terminal().unwrap_or_default()
                )
            })
    }

    /// Waits until the shell in front asks for a command.
    pub fn until_prompt(&self) -> Result<()> {
        let ends = format!("/[$#] ?$/.test({TERMINAL}?.text().trimEnd() ?? '')");
        self.page.until(&ends).with_context(|| {
            format!(
                "the terminal shows:\n{}",
                self.terminal().unwrap_or_default()
            )
        })
    }

    /// Types a line into the terminal in front.
    pub fn type_line(&self, line: &str) -> Result<()> {
        self.page.until(&format!(
            "document.activeElement.closest('.terminal') && {TERMINAL}"
        ))?;
        self.page.type_text(line)?;
        self.page.press("Enter")
    }

    /// Chooses a file for upload, as by the button.
    pub fn upload(&self, file: &Path) -> Result<()> {
        self.upload_all(&[file])
    }

    /// Chooses several files for upload.
    pub fn upload_all(&self, files: &[&Path]) -> Result<()> {
        self.page.until_role("button", "Upload")?;
        self.page
            .choose_files("input[type=file]:not([hidden] *)", files)
    }

    /// Waits until a transfer says so, such as `verified`.
    pub fn until_transfer(&self, name: &str, text: &str, timeout: Duration) -> Result<()> {
        let (name, text) = (Value::from(name), Value::from(text));
        self.page.until_within(
            timeout,
            &format!(
                "[...document.querySelectorAll('.transfer')].some(t => \
                 t.querySelector('.name').textContent === {name} && t.innerText.includes({text}))"
            ),
        )
    }

    /// Bytes of a transfer that are done, as a part of 1.
    pub fn transfer_part(&self, name: &str) -> Result<f64> {
        let name = Value::from(name);
        self.page.eval(&format!(
            "[...document.querySelectorAll('.transfer')].find(t => \
             t.querySelector('.name').textContent === {name})?.querySelector('progress').value ?? 0"
        ))
    }
}

/// The terminal that is seen.
const TERMINAL: &str = "[...document.querySelectorAll('.terminal:not([hidden] *)')]\
     .find(place => place.terminal)?.terminal";
