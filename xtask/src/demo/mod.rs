//! `cargo xtask demo`: registry, device and caller on this machine, a call between them, and a
//! file fetched through it.

mod agent;
mod site;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use xtask::{
    http, place,
    workerd::{Config, Workerd},
};

use self::{
    agent::{Agent, ringback},
    site::{FILE_LENGTH, Hash, Site},
};
use crate::{child, entropy, lab, say, setup, site as pages, web, worker};

/// Said where something is built for the first time.
const FIRST_TIME: &str =
    "the first build takes about ten minutes on two cores, later ones take seconds";
/// How long an agent may take to register, or a call to go through, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    /// End after the call instead of staying up to be tried
    #[arg(long)]
    once: bool,
    /// Print the result as one JSON object on standard output
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let start = Instant::now();
    setup::ensure(setup::WORKER)?;
    let setup = start.elapsed();
    say::heading("build");
    if !place::page().join("index.html").exists()
        || !lab::target_dir().join("debug/ringback").exists()
    {
        say::note(FIRST_TIME);
    }
    let binary = build()?;
    let build = start.elapsed() - setup;
    let stop = stop_flag()?;

    let scratch = Scratch::new()?;
    let stage = Stage::open(&scratch.0, &binary, &stop)?;
    let call = stage.call(&stop)?;
    let mut result = call.result();
    result["page"] = stage.registry.url().into();
    result["device_link"] = stage.link().into();
    result["setup_s"] = seconds(setup);
    result["build_s"] = seconds(build);
    report(&call, &result);
    if arguments.json {
        println!("{result}");
    }
    if !arguments.once {
        invite(&stage, &call, &binary);
        stay(stage, call, &stop)?;
    }
    Ok(())
}

/// Builds registry, page and agent. The agent's build fills the cores while the others are in a step that
/// has one only. It is the one of the tests: built sooner than what is shipped, and somewhat slower.
fn build() -> Result<PathBuf> {
    thread::scope(|scope| {
        let agent = scope.spawn(|| -> Result<()> {
            let mut cargo = child::command("cargo");
            cargo.current_dir(place::workspace()).args([
                "build",
                "--package",
                "ringback",
                "--bin",
                "ringback",
            ]);
            let log = place::cache()?.join("log/agent.log");
            child::run_logged(&mut cargo, "agent", &log)
        });
        worker::build()?;
        web::build()?;
        pages::run()?;
        match agent.join() {
            Ok(built) => built?,
            Err(panic) => std::panic::resume_unwind(panic),
        }
        Ok(lab::target_dir().join("debug/ringback"))
    })
}

/// The directory that everything here writes to, gone at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("ringback-demo-{}", std::process::id()));
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(Self(dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Set by Ctrl-C and by `kill`.
fn stop_flag() -> Result<Arc<AtomicBool>> {
    use signal_hook::{consts, flag};
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [consts::SIGINT, consts::SIGTERM, consts::SIGHUP] {
        flag::register(signal, stop.clone())?;
    }
    Ok(stop)
}

/// What has to run before anybody can call. Fields end in this order: the device takes its leave
/// from a registry that is still there.
struct Stage {
    device: Agent,
    password: String,
    device_id: String,
    owner_secret: String,
    registry: Workerd,
    _lan: Workerd,
    site: Site,
    dir: PathBuf,
    binary: PathBuf,
}

impl Stage {
    fn open(dir: &Path, binary: &Path, stop: &Arc<AtomicBool>) -> Result<Self> {
        say::heading("registry, device, call");
        let owner_secret = entropy::hex(16)?;
        // Pages of the device's LAN get an origin of their own: another name of this host.
        let mut config = Config::lan(dir.join("lan"), "http://127.0.0.1:*")?;
        config.prefix = vec!["setsid".into()];
        let lan = Workerd::start(config)?;
        let lan_origin = format!("http://*.lan.localhost:{}", lan.addr().port());
        let mut config =
            Config::registry(dir.join("registry"), &owner_secret)?.with_page(Some(&lan_origin))?;
        // All of it is on this machine: nobody outside has to be asked for an address.
        config.bindings.insert("STUN_SERVERS".into(), String::new());
        config.prefix = vec!["setsid".into()];
        let registry = Workerd::start(config)?;
        say::note(&format!(
            "registry   {} (workerd, process {})",
            registry.url(),
            registry.pid()
        ));

        let site = Site::start()?;
        say::note(&format!(
            "service    web → http://{} (a page and a file)",
            site.addr
        ));

        let code = enrolment_code(registry.addr(), &owner_secret)?;
        let password = entropy::hex(8)?;
        let device_dir = dir.join("device");
        let target = format!("http://{}", site.addr);
        let docs = dir.join("docs");
        site::write_files(&docs)?;
        let docs = format!("files:{}", docs.display());
        for words in [
            &["expose", "web", &target][..],
            &["expose", "docs", &docs, "--writable"],
            &["expose", "shell"],
        ] {
            child::output(ringback(binary, &device_dir).args(words))?;
        }
        say::note("services   shell, docs (a folder to read and to write)");
        let device = Agent::start(
            ringback(binary, &device_dir)
                .args([
                    "up",
                    "--json",
                    "--name",
                    "demo",
                    "--registry",
                    &registry.url(),
                ])
                .args(["--enroll", &code])
                .env("RINGBACK_PASSWORD", &password),
            dir.join("device.log"),
            stop,
        )?;
        let up = device.report(PATIENCE, |report| report["id"].is_string())?;
        let device_id = up["id"].as_str().unwrap_or_default().to_owned();
        say::note(&format!("device     {device_id}, registered as \"demo\""));
        let (dir, binary) = (dir.to_owned(), binary.to_owned());
        Ok(Self {
            device,
            password,
            device_id,
            owner_secret,
            registry,
            _lan: lan,
            site,
            dir,
            binary,
        })
    }

    /// The device's address on the page, with its password behind the `#`.
    fn link(&self) -> String {
        let (registry, device, password) = (self.registry.url(), &self.device_id, &self.password);
        format!("{registry}/d/{device}#p={password}")
    }

    /// Calls the device from a second process, and fetches the page and the file through the link.
    fn call(&self, stop: &Arc<AtomicBool>) -> Result<Call> {
        let local = free_port()?;
        let start = Instant::now();
        let agent = Agent::start(
            ringback(&self.binary, &self.dir.join("caller"))
                .args([
                    "connect",
                    "demo",
                    "--json",
                    "-v",
                    "--registry",
                    &self.registry.url(),
                ])
                .args(["-L", &format!("{local}:web")])
                .env("RINGBACK_PASSWORD", &self.password),
            self.dir.join("caller.log"),
            stop,
        )?;
        agent.report(PATIENCE, |report| report["event"] == "listening")?;
        let page = http::get(local, "/").context("fetching the page through the link")?;
        let first_byte = start.elapsed();
        if page.text() != self.site.page {
            bail!("the page that came through the link is not the one that was served");
        }
        let mut connected = agent.report(PATIENCE, |report| report["event"] == "connected")?;
        let mut received = Hash::default();
        let start = Instant::now();
        http::download(local, "/file", &mut received).context("fetching the file")?;
        let transfer = start.elapsed();
        let length = received.length;
        let (sent, received) = (site::file_hash(), received.hex());
        if sent != received || length != FILE_LENGTH {
            bail!("the file is not what was sent: {length} bytes, SHA-256 {received}, not {sent}");
        }
        let receipt = connected["receipt"].take();
        Ok(Call {
            agent,
            local,
            first_byte,
            transfer,
            sent,
            received,
            receipt,
        })
    }
}

/// A link that is up, and how it came to be.
struct Call {
    agent: Agent,
    local: SocketAddr,
    first_byte: Duration,
    transfer: Duration,
    sent: String,
    received: String,
    receipt: Value,
}

impl Call {
    fn result(&self) -> Value {
        json!({
            "path": self.receipt["path"],
            "verified": self.sent == self.received,
            "bytes": FILE_LENGTH,
            "sha256": { "sent": self.sent, "received": self.received },
            "first_byte_ms": (self.first_byte.as_secs_f64() * 1e4).round() / 10.0,
            "throughput_mb_s": (self.throughput() * 10.0).round() / 10.0,
            "receipt": self.receipt,
        })
    }

    /// Megabytes (10⁶) a second.
    fn throughput(&self) -> f64 {
        FILE_LENGTH as f64 / 1e6 / self.transfer.as_secs_f64()
    }
}

fn report(call: &Call, result: &Value) {
    say::heading("the connection receipt");
    for line in call.agent.said().lines() {
        say::note(line);
    }
    say::heading("what was measured");
    say::note(&format!(
        "first byte   {:.0} ms after `ringback connect` was started, registry and dial-back included",
        call.first_byte.as_secs_f64() * 1e3
    ));
    say::note(&format!(
        "throughput   {:.0} MB/s for {} over {}",
        call.throughput(),
        say::size(FILE_LENGTH),
        result["path"].as_str().unwrap_or("an unknown path")
    ));
    say::note(&format!("SHA-256      {} on both sides", call.received));
}

fn invite(stage: &Stage, call: &Call, binary: &Path) {
    say::heading("try it; Ctrl-C ends everything");
    let (ringback, dir) = (binary.display(), stage.dir.display());
    for line in [
        "in a browser: terminal, files and a web page of this device".to_owned(),
        format!("  {}", stage.link()),
        format!(
            "the same page for the registry's owner (the secret is {}):",
            stage.owner_secret
        ),
        format!("  {}", stage.registry.url()),
        "the device's web server, through the link:".to_owned(),
        format!("  curl http://{}/", call.local),
        "what the device's agent is doing:".to_owned(),
        format!("  {ringback} --dir {dir}/device status"),
        "another call, with another service of this machine:".to_owned(),
        format!("  {ringback} --dir {dir}/device expose ssh 127.0.0.1:22"),
        format!(
            "  RINGBACK_PASSWORD={} {ringback} --dir {dir}/caller connect demo -v --registry {} -L 2222:ssh",
            stage.password,
            stage.registry.url()
        ),
        format!(
            "the link without its registry: kill -9 {}, then curl again",
            stage.registry.pid()
        ),
    ] {
        say::note(&line);
    }
}

/// Until Ctrl-C, or until an agent ends by itself.
fn stay(mut stage: Stage, mut call: Call, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        for (name, agent) in [("device", &mut stage.device), ("caller", &mut call.agent)] {
            if agent.ended() {
                bail!("the {name} ended: {}", agent.said());
            }
        }
        thread::sleep(Duration::from_millis(100));
    }
    say::note("ending");
    drop(call);
    Ok(())
}

/// A single-use code by which the owner lets one device in.
fn enrolment_code(registry: SocketAddr, owner_secret: &str) -> Result<String> {
    let bearer = format!("Bearer {owner_secret}");
    let headers = [
        ("Authorization", bearer.as_str()),
        ("Content-Type", "application/json"),
    ];
    let response = http::request(
        registry,
        "POST",
        "/v1/codes",
        &headers,
        b"{\"name\":\"demo\"}",
    )
    .context("asking the registry for an enrolment code")?;
    let body: Value = serde_json::from_slice(&response.body).unwrap_or_default();
    match body["code"].as_str() {
        Some(code) if response.status == 201 => Ok(code.to_owned()),
        _ => bail!(
            "the registry gave no enrolment code: {} {}",
            response.status,
            response.text()
        ),
    }
}

fn free_port() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn seconds(elapsed: Duration) -> Value {
    json!((elapsed.as_secs_f64() * 10.0).round() / 10.0)
}
