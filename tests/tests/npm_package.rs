//! The npm package as it is published: packed, installed from the tarball into an empty project, and
//! used by a page that Chromium has from another origin than the registry's, to call a real agent
//! through the real registry.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use ringback_protocol::frame::{Answered, Frame};
use ringback_tests::{
    browser::{Browser, Page},
    liar::Liar,
    loopback::{Device, PASSWORD, PATIENCE},
    registry::Registry,
    static_site::StaticSite,
    turn::TurnServer,
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tempfile::TempDir;
use xtask::place;

/// What the page may do: run its own script and WebAssembly, and reach registries of this host.
const POLICY: &str = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
    connect-src 'self' http://127.0.0.1:*";
const APP: &str = r#"
import * as ringback from "./node_modules/ringback/index.js";
await ringback.init();
/** The outcome of something that may fail, as a value. */
globalThis.outcome = async (work) => {
    try {
        return { ok: await work() };
    } catch (error) {
        if (!(error instanceof ringback.RingbackError)) throw error;
        return { ...error, message: error.message };
    }
};
globalThis.all = async (readable) => {
    const chunks = [];
    for await (const chunk of readable) chunks.push(chunk);
    return new Blob(chunks).bytes();
};
globalThis.text = async (readable) => new TextDecoder().decode(await all(readable));
globalThis.digest = async (bytes) =>
    [...new Uint8Array(await crypto.subtle.digest("SHA-256", bytes))]
        .map((byte) => byte.toString(16).padStart(2, "0"))
        .join("");
globalThis.ringback = ringback;
"#;

/// A project with the package in it and nothing else.
fn project() -> Result<TempDir> {
    let dir = TempDir::new()?;
    std::fs::write(
        dir.path().join("package.json"),
        r#"{ "name": "page", "private": true, "type": "module" }"#,
    )?;
    let installed = Command::new("npm")
        .args(["install", "--offline", "--no-audit", "--no-fund"])
        .arg(place::npm_package()?)
        .env("npm_config_cache", dir.path().join("cache"))
        .current_dir(dir.path())
        .output()
        .context("starting npm")?;
    ensure!(
        installed.status.success(),
        "npm install: {}",
        String::from_utf8_lossy(&installed.stderr)
    );
    std::fs::write(dir.path().join("app.js"), APP)?;
    std::fs::write(
        dir.path().join("index.html"),
        "<!doctype html><html lang=en><title>page</title><script type=module src=app.js></script>",
    )?;
    Ok(dir)
}

/// A registry that lets the page in, a device that exposes `hello`, and a page with the package.
struct Place {
    page: Page,
    browser: Browser,
    device: Device,
    registry: Registry,
    site: StaticSite,
    runtime: tokio::runtime::Runtime,
    project: TempDir,
}

impl Place {
    fn new() -> Result<Self> {
        Self::with(&[])
    }

    fn with(bindings: &[(String, String)]) -> Result<Self> {
        let project = project()?;
        let site = StaticSite::start(project.path(), POLICY)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let registry = runtime.block_on(async {
            Registry::with(|config| {
                let origin = site.origin();
                config.bindings.insert("ALLOWED_ORIGINS".into(), origin);
                // Nothing leaves this host.
                config.bindings.insert("STUN_SERVERS".into(), String::new());
                config.bindings.extend(bindings.iter().cloned());
            })
        });
        let code = runtime.block_on(registry.code(json!({ "name": "nas" })));
        let device = Device::start(&registry.origin(), &code, "hello, page");
        let browser = Browser::start()?;
        let place = Self {
            page: browser.page()?,
            browser,
            device,
            registry,
            site,
            runtime,
            project,
        };
        place.open()?;
        Ok(place)
    }

    /// Opens the page, also again.
    fn open(&self) -> Result<()> {
        self.page.open(&self.site.origin())?;
        self.page.until("globalThis.ringback")?;
        let password = json!(PASSWORD);
        let device = json!(self.device.id);
        self.run::<Value>(&format!(
            "globalThis.password = {password}; globalThis.device = {device};
             globalThis.registry = await ringback.Registry.open({})",
            json!(self.registry.origin())
        ))?;
        Ok(())
    }

    /// Runs statements in the page, and gives what they return.
    fn run<T: DeserializeOwned>(&self, statements: &str) -> Result<T> {
        let script = format!("(async () => {{ {statements}; return null }})()");
        self.page.eval(&script)
    }

    /// The code that an expression fails with, and what it says.
    fn failure(&self, expression: &str) -> Result<(String, String)> {
        let outcome: Value = self.run(&format!(
            "return await outcome(async () => {{ await ({expression}) }})"
        ))?;
        let member = |name: &str| outcome[name].as_str().map(str::to_owned);
        let code = member("code").with_context(|| format!("{expression} did not fail"))?;
        Ok((code, member("message").context("a sentence")?))
    }

    fn expose(&self, name: &str, address: SocketAddr) {
        let profile = &self.device.profile;
        profile.ok(["expose", name, &address.to_string()]);
    }
}

/// A TCP service that sends back what it gets, to the end.
fn echo() -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || reflect(stream));
        }
    });
    Ok(address)
}

fn reflect(mut stream: TcpStream) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            len => stream.write_all(&buffer[..len])?,
        }
    }
}

#[test]
fn a_page_calls_a_device_and_uses_its_services() -> Result<()> {
    let place = Place::new()?;
    let called: Value = place.run(
        "globalThis.steps = [];
         globalThis.link = await registry.call({
             device: 'nas', password, service: 'hello', onEvent: event => steps.push(event),
         });
         const stream = link.open('hello');
         await stream.opened;
         return { device: link.device, said: await text(stream.readable), state: link.state,
                  services: await link.services(), receipt: await link.receipt(),
                  stats: await link.stats(), steps }",
    )?;
    assert_eq!(called["device"], place.device.id.as_str());
    assert_eq!(called["said"], "hello, page");
    assert_eq!(called["state"], "connected");
    assert_eq!(called["services"][0]["name"], "hello", "{called}");
    assert_eq!(called["services"][0]["kind"], "tcp");
    let steps: Vec<&str> = called["steps"]
        .as_array()
        .context("steps")?
        .iter()
        .filter_map(|step| step["step"].as_str())
        .collect();
    let expected = [
        "registry",
        "gathering",
        "gathered",
        "sealed",
        "delivered",
        "accepted",
        "checking",
        "connected",
    ];
    assert_eq!(steps, expected);
    let receipt = &called["receipt"];
    assert_eq!(receipt["path"], "direct");
    assert_eq!(receipt["steps"], called["steps"]);
    let pairs = receipt["pairs"].as_array().context("pairs")?;
    assert_eq!(pairs.iter().filter(|pair| pair["won"] == true).count(), 1);
    assert!(
        called["stats"]["bytesDown"].as_f64() > Some(100.0),
        "{called}"
    );
    assert_eq!(place.device.callers().len(), 1);

    let end: Value = place.run("link.close(); return await link.closed")?;
    assert_eq!(end["code"], "closed");
    let (code, _) = place.failure("(async () => link.open('hello'))()")?;
    assert_eq!(code, "link_closed");
    Ok(())
}

#[test]
fn a_remembered_page_needs_no_password_any_more() -> Result<()> {
    let place = Place::new()?;
    let (code, message) = place.failure("registry.call({ device })")?;
    assert_eq!(code, "unknown_caller", "{message}");
    let first: Value = place.run(
        "const link = await registry.call({ device: 'nas', password, remember: true });
         const identity = await ringback.Identity.load();
         return { remembered: link.remembered, id: identity.id, persistent: identity.persistent,
                  contacts: await ringback.Contacts.list() }",
    )?;
    assert_eq!(first["remembered"], true);
    assert_eq!(first["persistent"], true);
    let contact = &first["contacts"][0];
    assert_eq!(contact["id"], place.device.id.as_str());
    assert_eq!(contact["name"], "nas");
    assert_eq!(contact["remembered"], true);
    assert_eq!(contact["registry"], place.registry.origin());
    let callers = place.device.profile.ok(["--json", "callers"]);
    let id = first["id"].as_str().context("an ID")?;
    assert!(callers.contains(id), "{callers}");

    // Another time: from the database.
    place.open()?;
    place.expose("echo", echo()?);
    let said: String = place.run(
        "globalThis.link = await registry.call({ device: 'nas' });
         globalThis.stream = link.open('echo');
         await stream.opened;
         return await text(link.open('hello').readable)",
    )?;
    assert_eq!(said, "hello, page");
    place.device.profile.ok(["callers", "revoke", id]);
    let ended: Value = place.run(
        "const read = await outcome(() => all(stream.readable));
         return { read: read.code, end: await link.closed }",
    )?;
    assert_eq!(ended["read"], "revoked", "{ended}");
    assert_eq!(ended["end"]["code"], "revoked", "{ended}");
    let (code, _) = place.failure("registry.call({ device: 'nas' })")?;
    assert_eq!(code, "unknown_caller");
    let contacts: Value = place.run("return await ringback.Contacts.list()")?;
    assert_eq!(contacts[0]["remembered"], false);
    Ok(())
}

#[test]
fn pipes_carry_megabytes_both_ways() -> Result<()> {
    let place = Place::new()?;
    place.expose("echo", echo()?);
    let result: Value = place.run(
        "const link = await registry.call({ device, password });
         const bytes = new Uint8Array(8 * 1024 * 1024);
         for (let at = 0; at < bytes.length; at += 65536)
             crypto.getRandomValues(bytes.subarray(at, at + 65536));
         const stream = link.open('echo');
         const sending = new Blob([bytes]).stream().pipeTo(stream.writable);
         const got = await all(stream.readable);
         await sending;
         return { sent: await digest(bytes), got: await digest(got), length: got.length }",
    )?;
    assert_eq!(result["length"], 8 * 1024 * 1024);
    assert_eq!(result["got"], result["sent"]);
    Ok(())
}

#[test]
fn each_failure_has_its_code_and_its_sentence() -> Result<()> {
    let place = Place::new()?;
    place.browser.allow("the server responded with a status of");
    let unknown = ringback_tests::registry::new_key().id();
    for (expression, code, sentence) in [
        (
            "registry.call({ device, password: 'wrong' })",
            "wrong_password",
            "wrong password",
        ),
        (
            "registry.call({ device: device.slice(0, -1) + (device.endsWith('q') ? 'p' : 'q'), password })",
            "bad_id",
            "mistyped",
        ),
        (
            "registry.call({ device: 'No Name', password })",
            "bad_id",
            "name",
        ),
        (
            "registry.call({ device: 'other', password })",
            "unknown_alias",
            "other",
        ),
        (
            "registry.call({ device, password: '' })",
            "bad_password",
            "1 to 256",
        ),
        (
            "registry.call({ device: unknown, password })",
            "unknown_device",
            "does not know",
        ),
        (
            "registry.call({ device, password, signal: AbortSignal.abort() })",
            "cancelled",
            "given up",
        ),
        (
            "ringback.Registry.open('http://registry.example')",
            "registry_unreachable",
            "https",
        ),
    ] {
        let expression = expression.replace("unknown", &json!(unknown.to_string()).to_string());
        let (got, message) = place.failure(&expression)?;
        assert_eq!(got, code, "{expression}: {message}");
        assert!(message.contains(sentence), "{expression}: {message}");
    }
    let (code, _) = place.failure(
        "(async () => {
             globalThis.link = await registry.call({ device, password });
             const stream = link.open('nothing');
             await stream.opened;
         })()",
    )?;
    assert_eq!(code, "unknown_service");
    let wrong: String = place.run(
        "return await registry.call({ password }).then(() => 'called', error => error.name)",
    )?;
    assert_eq!(wrong, "TypeError");
    Ok(())
}

#[test]
fn the_end_of_the_device_is_noticed_and_the_link_made_anew() -> Result<()> {
    let mut place = Place::new()?;
    place.run::<Value>(
        "globalThis.link = await registry.call({ device: 'nas', password, service: 'hello' });
         globalThis.states = [];
         link.onState(state => states.push(state));
         link.closed.then(end => { globalThis.end = end })",
    )?;
    place.device.process.interrupt(PATIENCE)?;
    place.page.until("globalThis.end")?;
    let end: Value = place.run("return { end, states }")?;
    assert!(
        ["closed_by_device", "shutting_down"].contains(&end["end"]["code"].as_str().unwrap_or("")),
        "{end}"
    );
    assert_eq!(end["states"], json!(["ended"]));
    place.browser.allow("the server responded with a status of");
    let (code, message) = place.failure("link.restart()")?;
    assert_eq!(code, "device_offline");
    assert!(message.contains("offline, last seen"), "{message}");

    place.device = place.device.restart();
    // The password is not asked for: the link keeps what was derived from it.
    let said: String = place.run(
        "globalThis.link = await link.restart();
         return await text(link.open('hello').readable)",
    )?;
    assert_eq!(said, "hello, page");
    Ok(())
}

#[test]
fn a_page_with_a_wrong_clock_calls_all_the_same() -> Result<()> {
    let place = Place::new()?;
    place
        .page
        .on_new_document("{ const now = Date.now; Date.now = () => now() - 7_200_000 }")?;
    place.open()?;
    let steps: Value = place.run(
        "const steps = [];
         const link = await registry.call({ device, password, onEvent: e => steps.push(e.step) });
         return [await text(link.open('hello').readable), steps.includes('clock_corrected')]",
    )?;
    assert_eq!(steps, json!(["hello, page", true]));
    Ok(())
}

#[test]
fn a_name_that_leads_to_another_key_is_not_called() -> Result<()> {
    let place = Place::new()?;
    let other = "rb1genz04f8w0yatndxer7j3633a3aefe524r2zu2knrf6aerfya5rsxxn6ew";
    place.browser.allow("the server responded with a status of");
    place.run::<Value>(&format!(
        "await ringback.Contacts.put({{
             id: {}, name: 'nas', registry: registry.origin, remembered: false, lastUsedMs: 1,
         }})",
        json!(other)
    ))?;
    let outcome: Value =
        place.run("return await outcome(() => registry.call({ device: 'nas', password }))")?;
    assert_eq!(outcome["code"], "key_changed", "{outcome}");
    assert_eq!(outcome["newDevice"], place.device.id.as_str());
    let accepted: Value = place.run(
        "const link = await registry.call({ device: 'nas', password, acceptNewKey: true });
         return [link.device, (await ringback.Contacts.list()).map(contact => contact.name ?? null)]",
    )?;
    assert_eq!(accepted, json!([place.device.id, ["nas", null]]));
    Ok(())
}

#[test]
fn a_registry_that_changes_the_answer_is_caught() -> Result<()> {
    let place = Place::new()?;
    let liar = place.runtime.block_on(Liar::start(&place.registry));
    liar.lie(|frame| match frame {
        Frame::Answered(answered) => {
            let mut reply = answered.reply.clone();
            *reply.last_mut().expect("not empty") ^= 1;
            vec![Answered { reply, ..answered }.into()]
        }
        frame => vec![frame],
    });
    let call = format!(
        "(await ringback.Registry.open({})).call({{ device, password }})",
        json!(liar.url())
    );
    let (code, message) = place.failure(&call)?;
    assert_eq!(code, "registry_lies", "{message}");
    liar.be_honest();
    let said: String = place.run(&format!(
        "const link = await {call}; return await text(link.open('hello').readable)"
    ))?;
    assert_eq!(said, "hello, page");
    Ok(())
}

#[test]
fn a_page_that_is_not_listed_is_told_what_to_do() -> Result<()> {
    let place = Place::new()?;
    for refused in ["blocked by CORS policy", "net::ERR_FAILED"] {
        place.browser.allow(refused);
    }
    let closed = place.runtime.block_on(async { Registry::start() });
    let open = format!("ringback.Registry.open({})", json!(closed.origin()));
    let (code, message) = place.failure(&open)?;
    assert_eq!(code, "registry_unreachable");
    assert!(message.contains("ALLOWED_ORIGINS"), "{message}");
    Ok(())
}

#[test]
fn without_a_direct_path_the_call_goes_by_turn() -> Result<()> {
    let dir = TempDir::new()?;
    let turn = TurnServer::on_loopback(dir.path())?;
    let place = Place::with(&turn.bindings())?;
    // A browser that is kept from every direct path.
    place.page.on_new_document(
        "{
             const Direct = RTCPeerConnection;
             globalThis.RTCPeerConnection = class extends Direct {
                 constructor(configuration) {
                     super({ ...configuration, iceTransportPolicy: 'relay' });
                 }
             };
         }",
    )?;
    place.open()?;
    let result: Value = place.run(
        "const link = await registry.call({ device, password });
         return [await text(link.open('hello').readable), (await link.receipt()).path,
                 (await link.stats()).path]",
    )?;
    assert_eq!(result, json!(["hello, page", "turn", "turn"]));
    Ok(())
}

#[test]
fn node_does_what_needs_no_webrtc() -> Result<()> {
    let place = Place::new()?;
    let script = r#"
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import * as ringback from "ringback";
const wasm = createRequire(import.meta.url).resolve("ringback/ringback_bg.wasm");
await ringback.init(await readFile(wasm));
const [origin, device] = process.argv.slice(2);
assert.equal(ringback.parseDeviceId(` ${device.toUpperCase()} `), device);
const link = { registry: "https://registry.example", device, password: "a b#c" };
const written = ringback.formatDeviceLink(link);
assert.equal(written, `https://registry.example/d/${device}#p=a%20b%23c`);
assert.deepEqual(ringback.parseDeviceLink(written), link);
assert.throws(() => ringback.parseDeviceId("rb1nonsense"), (error) =>
    error instanceof ringback.RingbackError && error instanceof Error && error.code === "bad_id");
const registry = await ringback.Registry.open(origin + "/any/path");
assert.equal(registry.origin, origin);
assert.deepEqual(registry.info.protocol_versions, [1]);
assert.equal(await registry.resolve("nas"), device);
await assert.rejects(registry.resolve("other"), { name: "RingbackError", code: "unknown_alias" });
await assert.rejects(registry.call({ device, password: "x" }), { code: "unsupported" });
const identity = await ringback.Identity.load();
assert.equal(identity.persistent, false);
assert.equal(ringback.parseDeviceId(identity.id), identity.id);
console.log("all is well");
"#;
    let file = place.project.path().join("check.mjs");
    std::fs::write(&file, script)?;
    let output = Command::new("node")
        .arg(&file)
        .args([&place.registry.origin(), &place.device.id])
        .current_dir(place.project.path())
        .output()?;
    ensure!(
        String::from_utf8_lossy(&output.stdout).trim() == "all is well",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

#[test]
fn the_package_has_what_it_says_and_nothing_else() -> Result<()> {
    let project = project()?;
    let package = project.path().join("node_modules/ringback");
    let read = |name: &str| std::fs::read_to_string(package.join(name));
    let manifest: Value = serde_json::from_str(&read("package.json")?)?;
    assert_eq!(manifest["name"], "ringback");
    assert_eq!(manifest["type"], "module");
    assert!(manifest.get("dependencies").is_none());
    let mut files: Vec<String> = std::fs::read_dir(&package)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    files.sort();
    let expected = [
        "LICENSE-APACHE",
        "LICENSE-MIT",
        "README.md",
        "index.d.ts",
        "index.js",
        "package.json",
        "ringback.d.ts",
        "ringback.js",
        "ringback_bg.wasm",
        "ringback_bg.wasm.d.ts",
    ];
    assert_eq!(files, expected);
    let types = read("ringback.d.ts")?;
    for name in [
        "export interface CallOptions",
        "export class Link",
        "Promise<Receipt>",
    ] {
        assert!(types.contains(name), "{name}");
    }
    assert!(
        !types.contains("function __setErrorClass"),
        "it is nobody's business"
    );
    // Nothing is loaded by eval, which a page's policy forbids.
    for file in ["index.js", "ringback.js"] {
        assert!(!read(file)?.contains("new Function"), "{file}");
    }
    assert!(Path::new(&package.join("ringback_bg.wasm")).exists());
    Ok(())
}
