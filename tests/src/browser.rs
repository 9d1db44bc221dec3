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

pub use incident::{Incident, Kind};
pub use page::{Frame, Page};
pub use picture::{Scheme, Size};

/// How long anything in a browser may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

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

    /// Starts it with an empty profile.
    pub fn start(self) -> Result<Browser> {
        let dir = TempDir::new()?;
        let (child, tools) = launch(&self, dir.path())?;
        Ok(Browser {
            child,
            tools,
            options: self,
            dir,
            checked: false,
        })
    }
<<<<<<< HEAD
=======

    /// On the loopback.
    pub fn on_loopback() -> Result<Self> {
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        let own = Candidate::udp(Kind::Host, socket.local_addr()?);
        Self::new(socket, &[own])
    }

    /// What goes into the request.
    pub fn offer(&mut self) -> Result<Description> {
        let direct = self.rtc.direct_api();
        let IceCreds { ufrag, pass } = direct.local_ice_credentials();
        let fingerprint = direct.local_dtls_fingerprint().bytes.as_slice();
        Ok(Description {
            ufrag,
            pwd: pass,
            fingerprint: fingerprint.try_into()?,
            candidates: self.candidates.clone(),
        })
    }

    /// Takes the device's description; checks go out with the next [`Browser::until`].
    pub fn answered(&mut self, device: &Description) -> Result<()> {
        for candidate in device.addresses() {
            if candidate.address.is_ipv4() == self.own.is_ipv4() {
                let remote = IceCandidate::host(candidate.address, "udp")?;
                self.rtc.add_remote_candidate(remote);
            }
        }
        let mut direct = self.rtc.direct_api();
        direct.set_remote_ice_credentials(IceCreds {
            ufrag: device.ufrag.clone(),
            pass: device.pwd.clone(),
        });
        direct.set_remote_fingerprint(Fingerprint {
            hash_func: "sha-256".into(),
            bytes: device.fingerprint.to_vec(),
        });
        direct.start_dtls(false)?;
        direct.start_sctp(false);
        Ok(())
    }

    /// Opens a stream; `Open` leaves as soon as the channel is there.
    pub fn open(&mut self, service: &str) -> ChannelId {
        let channel = Channel::caller(&Open::new(service));
        self.open_with(
            channel,
            ChannelConfig {
                label: CHANNEL_LABEL.to_owned(),
                ..ChannelConfig::default()
            },
        )
    }

    /// Opens a channel that need not be one that §19.2 allows.
    pub fn open_with(&mut self, channel: Channel, config: ChannelConfig) -> ChannelId {
        let id = self.rtc.direct_api().create_data_channel(config);
        self.streams.insert(
            id,
            Stream {
                channel,
                open: false,
                closed: false,
                held: None,
            },
        );
        id
    }

    /// The stream's pure machine: to write to, and to read from.
    pub fn stream(&mut self, id: ChannelId) -> &mut Channel {
        &mut self.streams.get_mut(&id).expect("opened here").channel
    }

    /// Is the data channel there?
    pub fn is_open(&self, id: ChannelId) -> bool {
        self.streams[&id].open && !self.streams[&id].closed
    }

    /// Has the device closed the data channel?
    pub fn is_closed(&self, id: ChannelId) -> bool {
        self.streams[&id].closed
    }

    /// Sends a message as it is, past the stream's machine.
    pub fn send_raw(&mut self, id: ChannelId, binary: bool, message: &[u8]) -> Result<()> {
        let mut channel = self.rtc.channel(id).context("the channel is not open")?;
        ensure!(channel.write(binary, message)?, "no room");
        Ok(())
    }

    /// Closes the data channel.
    pub fn close(&mut self, id: ChannelId) {
        self.rtc.direct_api().close_data_channel(id);
    }

    /// Says goodbye.
    pub fn hang_up(&mut self) -> Result<()> {
        self.rtc.close()?;
        self.drain()?;
        Ok(())
    }

    /// Drives the connection until `done`, which is asked after everything that happens.
    pub fn until(&mut self, what: &str, mut done: impl FnMut(&mut Self) -> bool) -> Result<()> {
        self.within(PATIENCE, &mut done).and_then(|done| {
            if done {
                Ok(())
            } else {
                bail!("{what} not within {PATIENCE:?}: {self:?}")
            }
        })
    }

    /// The same, for at most `patience`; says whether it came about.
    pub fn within(
        &mut self,
        patience: Duration,
        mut done: impl FnMut(&mut Self) -> bool,
    ) -> Result<bool> {
        let end = Instant::now() + patience;
        loop {
            let timeout = self.turn()?;
            if done(self) {
                // What it has written meanwhile goes out, too.
                self.turn()?;
                return Ok(true);
            }
            let now = Instant::now();
            if now >= end {
                return Ok(false);
            }
            if self.has_news() {
                continue;
            }
            let wait = timeout.min(end).saturating_duration_since(now);
            self.receive(wait.max(Duration::from_millis(1)))?;
        }
    }

    /// Has `done` written something?
    fn has_news(&self) -> bool {
        let ready = |stream: &Stream| {
            stream.open && !stream.closed && stream.held.is_none() && stream.channel.has_message()
        };
        self.streams.values().any(ready)
    }

    fn turn(&mut self) -> Result<Instant> {
        let mut timeout = self.drain()?;
        if self.hand_over()? {
            timeout = self.drain()?;
        }
        if timeout <= Instant::now() && !self.closed {
            self.rtc.handle_input(Input::Timeout(Instant::now()))?;
            timeout = self.drain()?;
        }
        Ok(timeout)
    }

    fn hand_over(&mut self) -> Result<bool> {
        let mut any = false;
        for (id, stream) in &mut self.streams {
            if !stream.open || stream.closed {
                continue;
            }
            let Some(mut channel) = self.rtc.channel(*id) else {
                continue;
            };
            while channel.buffered_amount() < BUFFERED {
                let message = stream.held.take().or_else(|| stream.channel.poll_message());
                let Some(message) = message else { break };
                if !channel.write(true, &message)? {
                    stream.held = Some(message);
                    break;
                }
                any = true;
            }
        }
        Ok(any)
    }

    fn drain(&mut self) -> Result<Instant> {
        loop {
            match self.rtc.poll_output()? {
                Output::Timeout(at) => return Ok(at),
                Output::Transmit(transmit) => {
                    match self
                        .socket
                        .send_to(&transmit.contents, transmit.destination)
                    {
                        // Some addresses lead nowhere.
                        Ok(_) | Err(_) => {}
                    }
                }
                Output::Event(event) => self.handle_event(event),
            }
        }
    }

    fn handle_event(&mut self, event: Event) {
        match event {
            Event::Connected => self.connected = true,
            Event::IceConnectionStateChange(state) => self.ice = state,
            Event::ChannelOpen(id, _) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.open = true;
                }
            }
            Event::ChannelData(data) => {
                if let Some(stream) = self.streams.get_mut(&data.id) {
                    let taken = stream.channel.handle_message(&data.data);
                    taken.expect("the device keeps to the protocol");
                }
            }
            Event::ChannelClose(id) => {
                if let Some(stream) = self.streams.get_mut(&id) {
                    stream.closed = true;
                }
            }
            Event::Closed => self.closed = true,
            _ => {}
        }
    }

    fn receive(&mut self, wait: Duration) -> Result<()> {
        let mut buffer = [0; 2048];
        self.socket.set_read_timeout(Some(wait))?;
        // A burst, then others have their turn.
        for _ in 0..64 {
            let (length, from) = match self.socket.recv_from(&mut buffer) {
                Ok(received) => received,
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) =>
                {
                    break;
                }
                // What was sent to nobody comes back so.
                Err(error) if error.kind() == ErrorKind::ConnectionRefused => continue,
                Err(error) => return Err(error.into()),
            };
            self.socket
                .set_read_timeout(Some(Duration::from_micros(1)))?;
            *self.heard.entry(from).or_default() += 1;
            let datagram = &buffer[..length];
            let Ok(received) = Receive::new(Protocol::Udp, from, self.own, datagram) else {
                continue;
            };
            let input = Input::Receive(Instant::now(), received);
            if self.rtc.accepts(&input) {
                self.rtc.handle_input(input)?;
                self.drain()?;
            }
        }
        Ok(())
    }
>>>>>>> rtc
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
            panic!("{error}");
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
