//! A real Chromium, driven through its developer tools.
//!
//! The tools speak over a pipe: no port is opened, so the browser can be in any network namespace
//! of the lab while the test stays outside. What a page does wrong (uncaught exceptions, console
//! errors, failed loads, violations of its Content-Security-Policy) is collected from every target
//! with its frames and workers, and fails the test when the [`Browser`] is dropped, unless it was
//! allowed by [`Browser::allow`].
//!
//! The calls block. In tests that are asynchronous use `tokio::task::block_in_place`, or a runtime
//! with more than one thread.

mod devtools;
mod element;
mod incident;
mod page;
mod picture;
mod window;

use std::{
    ffi::OsString,
    fs::File,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::json;
use tempfile::TempDir;
use xtask::place;

use crate::lab::namespace::Namespace;
use devtools::DevTools;

pub use devtools::PATIENCE;
pub use incident::{Incident, Kind};
pub use page::{Frame, Page};
pub use window::{Scheme, Size};

/// A browser with an empty profile. Dropping it ends it.
#[derive(Debug)]
pub struct Browser {
    child: Child,
    tools: Arc<DevTools>,
    options: Options,
    dir: TempDir,
    checked: bool,
}

/// How a browser is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    prefix: Vec<String>,
    trusted: Vec<String>,
    arguments: Vec<String>,
    preferences: Option<serde_json::Value>,
}

/// A file that a page gave to be saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The name that the page wanted.
    pub name: String,
    /// Where its contents are.
    pub path: PathBuf,
}

impl Options {
    /// Runs it in a namespace of the lab.
    #[must_use]
    pub fn inside(mut self, namespace: &Namespace) -> Self {
        self.prefix = namespace.prefix();
        self
    }

    /// Accepts the certificate whose public key has this SHA-256, in base64: see
    /// [`Authority`](crate::lab::certificate::Authority).
    #[must_use]
    pub fn trust(mut self, spki_sha256: &str) -> Self {
        self.trusted.push(spki_sha256.to_owned());
        self
    }

    /// With a further argument.
    #[must_use]
    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// With settings of the person, as they stand in a profile's `Preferences`.
    #[must_use]
    pub fn preferences(mut self, preferences: serde_json::Value) -> Self {
        self.preferences = Some(preferences);
        self
    }

    /// Starts it with an empty profile.
    pub fn start(self) -> Result<Browser> {
        let dir = TempDir::new()?;
        if let Some(preferences) = &self.preferences {
            let profile = dir.path().join("profile/Default");
            std::fs::create_dir_all(&profile)?;
            std::fs::write(profile.join("Preferences"), preferences.to_string())?;
        }
        let (child, tools) = launch(&self, dir.path())?;
        Ok(Browser {
            child,
            tools,
            options: self,
            dir,
            checked: false,
        })
    }
}

impl Browser {
    /// Starts one on this host.
    pub fn start() -> Result<Self> {
        Options::default().start()
    }

    /// Opens an empty tab.
    pub fn page(&self) -> Result<Page> {
        let made = self.tools.call(
            None,
            "Target.createTarget",
            &json!({ "url": "about:blank" }),
        )?;
        let target = made["targetId"].as_str().context("no target ID")?;
        Page::of(&self.tools, target)
    }

    /// A tab that a page has opened, once its address is accepted.
    pub fn page_at(&self, accept: impl Fn(&str) -> bool) -> Result<Page> {
        let target = self
            .tools
            .await_target(PATIENCE, |target| {
                target.kind == "page" && accept(&target.url)
            })
            .context("no such tab was opened")?;
        Page::of(&self.tools, &target)
    }

    /// Lets a page of that origin use what it would have to ask the person for, such as
    /// `local-network-access`, `clipboard-read` and `clipboard-write`.
    pub fn permit(&self, origin: &str, name: &str) -> Result<()> {
        self.set_permission(origin, name, "granted")
    }

    /// The person says no.
    pub fn deny(&self, origin: &str, name: &str) -> Result<()> {
        self.set_permission(origin, name, "denied")
    }

    fn set_permission(&self, origin: &str, name: &str, setting: &str) -> Result<()> {
        let parameters = json!({
            "permission": { "name": name }, "setting": setting, "origin": origin,
        });
        self.tools
            .call(None, "Browser.setPermission", &parameters)
            .map(drop)
    }

    /// Waits for the next file that was saved whole; each is given once.
    pub fn download(&self, timeout: Duration) -> Result<Download> {
        let (id, name) = self.tools.await_download(timeout)?;
        let path = self.downloads().join(id);
        ensure!(
            path.is_file(),
            "{name}: was not saved at {}",
            path.display()
        );
        Ok(Download { name, path })
    }

    /// From now on, what goes wrong and has this in its text (or the address it came from) does
    /// not fail the test.
    pub fn allow(&self, part: &str) {
        self.tools.allow(part);
    }

    /// What went wrong so far, what was allowed included.
    pub fn incidents(&self) -> Vec<Incident> {
        self.tools.incidents()
    }

    /// Waits until something goes wrong that is accepted, past ones included. A test that provokes
    /// it allows it, too.
    pub fn await_incident(&self, accept: impl Fn(&Incident) -> bool) -> Result<Incident> {
        self.tools.await_incident(PATIENCE, accept)
    }

    /// Fails if anything went wrong that was not allowed.
    pub fn check(&self) -> Result<()> {
        let unexpected = self.tools.unexpected();
        if unexpected.is_empty() {
            return Ok(());
        }
        let lines: Vec<_> = unexpected.iter().map(ToString::to_string).collect();
        bail!("in the browser:\n{}", lines.join("\n"))
    }

    /// The process ID of the browser itself.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Kills the browser with all tabs and starts it again with the same profile.
    pub fn restart(&mut self) -> Result<()> {
        let seen = self.tools.close();
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its children end with it, but not at the same moment.
        let lock = self.dir.path().join("profile/SingletonLock");
        let _ = std::fs::remove_file(lock);
        (self.child, self.tools) = launch(&self.options, self.dir.path())?;
        self.tools.take_over(seen);
        Ok(())
    }

    fn downloads(&self) -> PathBuf {
        downloads(self.dir.path())
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let outcome = self.check();
        let troubles = self.tools.troubles();
        if std::thread::panicking() || outcome.is_err() {
            picture::keep_last_sight(&self.tools);
        }
        self.tools.close();
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking()
            && !std::mem::replace(&mut self.checked, true)
            && let Err(error) = outcome
        {
            panic!("{error}\n{}", troubles.join("\n"));
        }
    }
}

fn downloads(dir: &Path) -> PathBuf {
    dir.join("downloads")
}

/// The browser that is tested: `RINGBACK_CHROMIUM`, or the system's `chromium`.
fn binary() -> Result<PathBuf> {
    std::env::var_os("RINGBACK_CHROMIUM")
        .map(PathBuf::from)
        .or_else(|| place::command("chromium"))
        .context("there is no chromium: run `cargo xtask setup`")
}

fn launch(options: &Options, dir: &Path) -> Result<(Child, Arc<DevTools>)> {
    let profile = dir.join("profile");
    std::fs::create_dir_all(&profile)?;
    std::fs::create_dir_all(downloads(dir))?;
    // Chromium wants the pipes as descriptors 3 and 4, which only a shell hands over without
    // unsafe code; it replaces itself, so that the process ID is the browser's.
    let mut words: Vec<OsString> = options.prefix.iter().map(OsString::from).collect();
    words.extend(["sh", "-c", "exec \"$@\" 3<&0 4>&1 </dev/null >&2", "sh"].map(OsString::from));
    words.push(binary()?.into());
    words.extend(arguments(options, &profile).into_iter().map(OsString::from));
    let log = File::options()
        .create(true)
        .append(true)
        .open(dir.join("chromium.log"))?;
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .env_remove("DISPLAY")
        .env_remove("DBUS_SESSION_BUS_ADDRESS")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .context("starting chromium")?;
    let to = child.stdin.take().expect("piped");
    let from = child.stdout.take().expect("piped");
    let tools = DevTools::over(to, from)?;
    let ready = tools.prepare(&downloads(dir));
    if let Err(error) = ready {
        let _ = child.kill();
        let _ = child.wait();
        let said = std::fs::read_to_string(dir.join("chromium.log")).unwrap_or_default();
        return Err(error.context(format!("chromium does not start; it said:\n{said}")));
    }
    Ok((child, tools))
}

fn arguments(options: &Options, profile: &Path) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--headless",
        "--disable-gpu",
        "--no-first-run",
        "--no-default-browser-check",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-sync",
        "--disable-search-engine-choice-screen",
        // A tab that nobody looks at works as one that is looked at.
        "--disable-background-timer-throttling",
        "--disable-backgrounding-occluded-windows",
        "--disable-renderer-backgrounding",
        "--hide-scrollbars",
        "--force-color-profile=srgb",
        "--lang=en",
        "--password-store=basic",
        "--remote-debugging-pipe",
    ]
    .map(str::to_owned)
    .to_vec();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    if nix::unistd::geteuid().is_root() {
        // Chromium's sandbox refuses to be started by root, which the lab needs.
        arguments.push("--no-sandbox".to_owned());
    }
    if !options.trusted.is_empty() {
        let list = options.trusted.join(",");
        arguments.push(format!("--ignore-certificate-errors-spki-list={list}"));
    }
    arguments.extend(options.arguments.iter().cloned());
    arguments.push("about:blank".to_owned());
    arguments
}
