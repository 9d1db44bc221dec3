//! The registry on a local workerd: fast to start, safe to kill, the same state after a restart.
//!
//! Not `wrangler dev`: that puts proxies and a file watcher around workerd, takes seconds to
//! start, and dies differently from the thing it stands for.

mod config;
mod pages;

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, OpenOptions},
    io::{self, BufRead, BufReader, PipeReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};

use config::Parts;

pub use config::Keypair;

use crate::{pages::Pages, place, wrangler::Wrangler};

/// How long workerd may take until its socket listens. It needs 60 ms on an idle machine.
const START_LIMIT: Duration = Duration::from_secs(30);

/// The code that a [`Workerd`] runs.
#[derive(Clone, Debug)]
pub enum Code {
    /// A directory that `cargo xtask worker` wrote.
    Build(PathBuf),
    /// An ES module, for measuring beside.
    Script(String),
    /// None: there are only pages.
    None,
}

/// What to run, where, and with which bindings.
#[derive(Clone, Debug)]
pub struct Config {
    pub code: Code,
    pub wrangler: Wrangler,
    pub workerd: PathBuf,
    /// Everything this server writes: its configuration, `workerd.log`, and `storage/`.
    pub dir: PathBuf,
    /// `address:port`; with port 0 the system chooses one, and a restart keeps it.
    pub listen: SocketAddr,
    pub tls: Option<Keypair>,
    /// Text bindings: secrets and variables, over those of `wrangler.toml`.
    pub bindings: BTreeMap<String, String>,
    /// Served where the code does not answer first.
    pub pages: Option<Pages>,
    /// Lets the code connect to private addresses, too, as tests need that stand in for a server
    /// on the internet.
    pub private_network: bool,
    /// What the command is put behind, such as `ip netns exec NAME`. It has to end in an exec,
    /// so that the process ID is that of workerd.
    pub prefix: Vec<OsString>,
}

impl Config {
    /// The registry as this checkout built it, on a free port of the loopback, keeping its state
    /// in `dir`.
    pub fn registry(dir: impl Into<PathBuf>, owner_secret: impl Into<String>) -> Result<Self> {
        Ok(Self {
            code: Code::Build(place::worker_output()),
            wrangler: Wrangler::read(&place::workspace().join("worker/wrangler.toml"))?,
            workerd: place::workerd()?,
            dir: dir.into(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            bindings: BTreeMap::from([("OWNER_SECRET".to_owned(), owner_secret.into())]),
            pages: None,
            private_network: false,
            prefix: Vec::new(),
        })
    }

    /// The same with the page, as it is deployed. Pages of LANs are framed from `lan_origin`, if
    /// there is one ([`Config::lan`]).
    pub fn with_page(mut self, lan_origin: Option<&str>) -> Result<Self> {
        let assets = self.wrangler.assets.clone().unwrap_or_default();
        self.pages = Some(Pages::registry(assets, lan_origin)?);
        if let Some(origin) = lan_origin {
            let _ = self.bindings.insert("LAN_ORIGIN".into(), origin.into());
        }
        Ok(self)
    }

    /// The LAN origin, on a free port of the loopback, for a registry at `registry` (an origin;
    /// `:*` is any port).
    pub fn lan(dir: impl Into<PathBuf>, registry: &str) -> Result<Self> {
        let wrangler = Wrangler::read(&place::workspace().join("worker/lan/wrangler.toml"))?;
        let assets = wrangler.assets.clone().unwrap_or_default();
        Ok(Self {
            code: Code::None,
            pages: Some(Pages::lan(assets, registry)?),
            wrangler,
            ..Self::registry(dir, "")?
        })
    }

    /// A worker of one JavaScript module and no Durable Objects.
    pub fn script(dir: impl Into<PathBuf>, module: impl Into<String>) -> Result<Self> {
        let mut config = Self::registry(dir, "")?;
        config.code = Code::Script(module.into());
        config.wrangler.durable_objects.bindings.clear();
        config.bindings.clear();
        Ok(config)
    }
}

/// A running workerd. Dropping it kills the process; its state stays in [`Config::dir`].
#[derive(Debug)]
pub struct Workerd {
    config: Config,
    addr: SocketAddr,
    child: Child,
}

impl Workerd {
    /// Starts the server and returns when its socket listens.
    pub fn start(config: Config) -> Result<Self> {
        let (child, port) = spawn(&config, config.listen)?;
        let addr = SocketAddr::new(config.listen.ip(), port);
        Ok(Self {
            config,
            addr,
            child,
        })
    }

    /// The address it listens on, with the port the system chose.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// `http://address:port`, or `https` where a certificate was given.
    pub fn url(&self) -> String {
        let scheme = if self.config.tls.is_some() {
            "https"
        } else {
            "http"
        };
        format!("{scheme}://{}", self.addr)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What workerd and the worker's `console` wrote, over all restarts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.config.dir.join("workerd.log")).unwrap_or_default()
    }

    /// Whether it has ended by itself, and how.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Kills the process as `kill -9` does and waits until it is gone.
    pub fn kill9(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Kills the process if it runs, and starts it again on the same port with the same storage.
    ///
    /// The code is read again, so this is also what a deploy looks like from outside: every
    /// socket drops, the state stays.
    pub fn restart(&mut self) -> Result<()> {
        self.kill9();
        let (child, _) = spawn(&self.config, self.addr)?;
        self.child = child;
        Ok(())
    }
}

impl Drop for Workerd {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// Writes the configuration, starts the process and waits for the port it reports.
fn spawn(config: &Config, listen: SocketAddr) -> Result<(Child, u16)> {
    let file = write_config(config, listen)?;
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(config.dir.join("workerd.log"))
        .with_context(|| format!("opening {}/workerd.log", config.dir.display()))?;
    // workerd reports its ports as lines of JSON on a descriptor we name. Standard output belongs
    // to the worker's console, so the unused standard input carries them, as a pipe it writes to.
    let (reports, writer) = io::pipe()?;
    let mut words = config
        .prefix
        .iter()
        .map(OsString::as_os_str)
        .chain([config.workerd.as_os_str()]);
    let program = words.next().expect("there is at least workerd itself");
    let mut child = Command::new(program)
        .args(words)
        .args(["serve", "--control-fd=0"])
        .arg(&file)
        .stdin(Stdio::from(writer))
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("starting {}", program.to_string_lossy()))?;
    match await_port(reports) {
        Ok(port) => Ok((child, port)),
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            Err(error.context(last_words(&config.dir)))
        }
    }
}

fn write_config(config: &Config, listen: SocketAddr) -> Result<PathBuf> {
    let storage = config.dir.join("storage");
    fs::create_dir_all(&storage).with_context(|| format!("creating {}", storage.display()))?;
    let modules = copy_modules(config)?;
    let mut bindings: BTreeMap<String, String> = config
        .wrangler
        .vars
        .iter()
        .map(|(name, value)| {
            (
                name.clone(),
                value
                    .as_str()
                    .map_or_else(|| value.to_string(), str::to_owned),
            )
        })
        .collect();
    bindings.extend(config.bindings.clone());
    let storage = storage.canonicalize()?;
    let served = match &config.pages {
        Some(pages) => Some(pages::put(pages, &config.wrangler, &config.dir)?),
        None => None,
    };
    let text = config::render(&Parts {
        wrangler: &config.wrangler,
        modules: &modules,
        bindings: &bindings,
        pages: served.as_ref(),
        listen: &listen.to_string(),
        tls: config.tls.as_ref(),
        storage: &storage.to_string_lossy(),
        private_network: config.private_network,
    });
    let path = config.dir.join("workerd.capnp");
    fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?;
    Ok(path)
}

/// Copies the code beside the configuration (workerd embeds only from there) and lists it, the
/// entry first.
fn copy_modules(config: &Config) -> Result<Vec<String>> {
    let build = match &config.code {
        Code::Script(text) => {
            fs::write(config.dir.join("index.js"), text)?;
            return Ok(vec!["index.js".to_owned()]);
        }
        Code::Build(dir) => dir,
        Code::None => return Ok(Vec::new()),
    };
    let entry = Path::new(&config.wrangler.main)
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .ok_or_else(|| anyhow!("wrangler.toml: main names no file"))?;
    if !build.join(&entry).exists() {
        bail!(
            "no built worker in {}: run `cargo xtask worker`",
            build.display()
        );
    }
    let mut modules = vec![entry];
    for file in fs::read_dir(build)? {
        let name = file?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".wasm") {
            modules.push(name);
        }
    }
    for name in &modules {
        fs::copy(build.join(name), config.dir.join(name))
            .with_context(|| format!("copying {name} to {}", config.dir.display()))?;
    }
    Ok(modules)
}

#[derive(serde::Deserialize)]
struct Report {
    event: String,
    #[serde(default)]
    port: u16,
}

fn await_port(reports: PipeReader) -> Result<u16> {
    let (sender, ports) = mpsc::channel();
    // The thread ends with the process: then the pipe has no writer left.
    thread::spawn(move || {
        for line in BufReader::new(reports).lines().map_while(Result::ok) {
            match serde_json::from_str::<Report>(&line) {
                Ok(report) if report.event == "listen" => drop(sender.send(report.port)),
                _ => {}
            }
        }
    });
    match ports.recv_timeout(START_LIMIT) {
        Ok(port) => Ok(port),
        Err(mpsc::RecvTimeoutError::Timeout) => {
            bail!("workerd did not listen within {} s", START_LIMIT.as_secs())
        }
        Err(mpsc::RecvTimeoutError::Disconnected) => bail!("workerd ended before it listened"),
    }
}

fn last_words(dir: &Path) -> String {
    let log = File::open(dir.join("workerd.log"))
        .and_then(io::read_to_string)
        .unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let tail = &lines[lines.len().saturating_sub(10)..];
    format!("starting the registry; workerd said:\n{}", tail.join("\n"))
}
