//! A network namespace: made by `ip netns`, entered by threads and by programs.

use std::{
    fs::{self, File},
    io::Write as _,
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use socket2::{Domain, Socket, Type};

use super::{
    addresses::{REGISTRY, REGISTRY_NAME, REGISTRY6},
    counter::Counter,
};

const PREFIX: &str = "rblab";

/// A network namespace of a lab. Dropping it ends the programs in it and removes it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes `rblab-PID-NUMBER-ROLE` with loopback up, IPv6 off, no reverse-path filter, and a
    /// hosts file that knows the registry by both families, as a name server would.
    pub(super) fn create(number: u32, role: &str) -> Result<Self> {
        let name = format!("{PREFIX}-{}-{number}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let namespace = Self { name };
        let etc = etc(&namespace.name);
        fs::create_dir_all(&etc).with_context(|| format!("{}: can not create", etc.display()))?;
        namespace.set_hosts("")?;
        // Other names fail at once instead of after a resolver's timeout.
        fs::write(
            etc.join("resolv.conf"),
            "nameserver 127.0.0.1\noptions attempts:1 timeout:1\n",
        )?;
        for (key, value) in [
            ("net/ipv6/conf/all/disable_ipv6", "1"),
            ("net/ipv6/conf/default/disable_ipv6", "1"),
            ("net/ipv4/conf/all/rp_filter", "0"),
            ("net/ipv4/conf/default/rp_filter", "0"),
        ] {
            namespace.set_sysctl(key, value)?;
        }
        namespace.ip("link set lo up\n")?;
        Ok(namespace)
    }

    /// The name that `ip netns` knows it by.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What to write before a command so that it runs here.
    pub fn prefix(&self) -> Vec<String> {
        ["ip", "netns", "exec", &self.name]
            .map(str::to_owned)
            .to_vec()
    }

    /// A command that runs here. Its pid is the program's own: `ip netns exec` does not fork.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command
            .args(["netns", "exec", &self.name])
            .arg(program.as_ref());
        command
    }

    /// Runs a closure on a thread of its own that has entered this namespace. Sockets made there
    /// belong to the namespace for good, and can be used from any thread afterwards.
    pub fn enter<T: Send>(&self, inside: impl FnOnce() -> T + Send) -> Result<T> {
        let path = Path::new("/run/netns").join(&self.name);
        let file =
            File::open(&path).with_context(|| format!("{}: can not open", path.display()))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(|| -> Result<T> {
                setns(file, CloneFlags::CLONE_NEWNET).context("can not enter the namespace")?;
                Ok(inside())
            });
            thread
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// A UDP socket here. Reads give up after 5 s, so that a test can not hang on a lost datagram.
    pub fn udp(&self, local: impl Into<SocketAddr>) -> Result<UdpSocket> {
        let local = local.into();
        let socket = self.enter(|| UdpSocket::bind(local))?;
        let socket = socket.with_context(|| format!("{}: can not bind UDP {local}", self.name))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        Ok(socket)
    }

    /// A TCP listener here.
    pub fn listen(&self, local: impl Into<SocketAddr>) -> Result<TcpListener> {
        let local = local.into();
        self.enter(|| TcpListener::bind(local))?
            .with_context(|| format!("{}: can not listen on {local}", self.name))
    }

    /// A TCP connection from here, given up after 10 s.
    ///
    /// It blocks in one call, as one that is polled for reports a reset that came after the
    /// connection was made as a failure to make it.
    pub fn connect(&self, remote: impl Into<SocketAddr>) -> Result<TcpStream> {
        let remote = remote.into();
        let connect = || -> std::io::Result<TcpStream> {
            let socket = Socket::new(Domain::for_address(remote), Type::STREAM, None)?;
            // On Linux it is the limit for connecting too.
            socket.set_write_timeout(Some(Duration::from_secs(10)))?;
            socket.connect(&remote.into())?;
            socket.set_write_timeout(None)?;
            Ok(socket.into())
        };
        self.enter(connect)?
            .with_context(|| format!("{}: can not connect to {remote}", self.name))
    }

    /// What an interface has carried since it was made.
    pub fn counter(&self, interface: &str) -> Result<Counter> {
        let mut command = Command::new("ip");
        command.args([
            "-n", &self.name, "-s", "-j", "link", "show", "dev", interface,
        ]);
        Counter::parse(&run(&mut command)?)
    }

    /// What the hosts file says beside what all of them say.
    pub(super) fn set_hosts(&self, further: &str) -> Result<()> {
        let hosts = format!(
            "127.0.0.1 localhost\n{REGISTRY} {REGISTRY_NAME}\n{REGISTRY6} {REGISTRY_NAME}\n{further}"
        );
        // In place: programs that run see the file that was there when they were started.
        fs::write(etc(&self.name).join("hosts"), hosts)?;
        Ok(())
    }

    /// What the hosts file says now.
    pub(super) fn hosts(&self) -> Result<String> {
        Ok(fs::read_to_string(etc(&self.name).join("hosts"))?)
    }

    /// Whether this host's way into the internet is IPv6. (No host of the lab has two.)
    pub fn has_ipv6(&self) -> Result<bool> {
        let mut command = Command::new("ip");
        command.args(["-n", &self.name, "-6", "route", "show", "default"]);
        Ok(!run(&mut command)?.is_empty())
    }

    /// Runs lines of `ip` commands here, all or up to the first that fails.
    pub(super) fn ip(&self, script: &str) -> Result<()> {
        ip(Some(&self.name), script)
    }

    /// Waits until the kernel has noticed that an interface's link is up; it drops what is sent
    /// before, and takes up to a second for it where links have come and gone.
    pub(super) fn await_link(&self, interface: &str) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let mut command = Command::new("ip");
            command.args(["-n", &self.name, "-br", "link", "show", "dev", interface]);
            let shown = run(&mut command)?;
            let shown = String::from_utf8_lossy(&shown);
            if shown.split_whitespace().nth(1) == Some("UP") {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "{}: {interface} does not come up",
                self.name
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Switches IPv6 on or off on an interface. Addresses are usable at once: nobody else can have
    /// them, so nothing is asked (no duplicate address detection).
    pub(super) fn set_ipv6(&self, interface: &str, on: bool) -> Result<()> {
        let conf = format!("net/ipv6/conf/{interface}");
        self.set_sysctl(&format!("{conf}/accept_dad"), "0")?;
        self.set_sysctl(&format!("{conf}/disable_ipv6"), if on { "0" } else { "1" })
    }

    /// Loads an nftables script here, as one transaction.
    pub(super) fn nft(&self, script: &str) -> Result<()> {
        feed(self.command("nft").args(["-f", "-"]), script)
    }

    /// Forgets every connection that this namespace tracks.
    pub(super) fn flush_connections(&self) -> Result<()> {
        run(self.command("conntrack").arg("-F"))?;
        Ok(())
    }

    /// Writes a setting below `/proc/sys` as this namespace sees it.
    pub fn set_sysctl(&self, key: &str, value: &str) -> Result<()> {
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| fs::write(&path, value))?
            .with_context(|| format!("{}: can not set {}", self.name, path.display()))
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.name) {
            eprintln!("{}: {error:#}", self.name);
        }
    }
}

/// Removes the namespaces, and ends the programs in them, whose lab's process is gone.
pub(super) fn remove_stale() -> Result<()> {
    let Ok(entries) = fs::read_dir("/run/netns") else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let mut parts = name.split('-');
        if parts.next() != Some(PREFIX) {
            continue;
        }
        let Some(pid) = parts.next().and_then(|pid| pid.parse::<u32>().ok()) else {
            continue;
        };
        if !Path::new("/proc").join(pid.to_string()).exists() {
            // Another lab may be doing the same; whoever comes second finds nothing, which is fine.
            let _ = remove(&name);
            if let Some(number) = parts.next() {
                let dir = std::env::temp_dir().join(format!("ringback-lab-{pid}-{number}"));
                let _ = fs::remove_dir_all(dir);
            }
        }
    }
    Ok(())
}

/// Runs lines of `ip` commands in the namespace of that name, or in the one this thread is in.
pub(super) fn ip(name: Option<&str>, script: &str) -> Result<()> {
    batch(name, &[], script)
}

/// Does so for commands that tell the families apart by nothing else, such as `rule`.
pub(super) fn ip6(name: Option<&str>, script: &str) -> Result<()> {
    batch(name, &["-6"], script)
}

fn batch(name: Option<&str>, options: &[&str], script: &str) -> Result<()> {
    let mut command = Command::new("ip");
    if let Some(name) = name {
        command.args(["-n", name]);
    }
    feed(command.args(options).args(["-batch", "-"]), script)
}

/// Runs a command to its end and gives its output, or an error with what it said.
pub(super) fn run(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{command:?}: can not be run"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{command:?}: {}: {}",
        output.status,
        said.trim()
    );
    Ok(output.stdout)
}

fn feed(command: &mut Command, script: &str) -> Result<()> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("{command:?}: can not be run"))?;
    let written = child
        .stdin
        .take()
        .expect("piped")
        .write_all(script.as_bytes());
    let output = child.wait_with_output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}\n{script}", output.status, said.trim());
    }
    written.with_context(|| format!("{command:?}: did not read its input"))
}

fn remove(name: &str) -> Result<()> {
    let pids = run(Command::new("ip").args(["netns", "pids", name]))?;
    for pid in String::from_utf8_lossy(&pids)
        .lines()
        .filter_map(|line| line.trim().parse().ok())
    {
        if pid != std::process::id() as i32 {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
    run(Command::new("ip").args(["netns", "del", name]))?;
    let _ = fs::remove_dir_all(etc(name));
    Ok(())
}

fn etc(name: &str) -> PathBuf {
    Path::new("/etc/netns").join(name)
}
