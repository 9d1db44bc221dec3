//! The `ringback` binary on this host's loopback: each agent with a directory of its own and an
//! environment without settings.

use std::{
    io::Write as _,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{agent, lab::process::Process};

/// How long anything may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The files of one agent.
#[derive(Debug)]
pub struct Profile {
    dir: TempDir,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Ended {
    /// The exit code; -1 after a signal.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Default for Profile {
    fn default() -> Self {
        Self::new()
    }
}

impl Profile {
    pub fn new() -> Self {
        Self {
            dir: TempDir::new().expect("a temporary directory"),
        }
    }

    pub fn path(&self) -> PathBuf {
        self.dir.path().join("profile")
    }

    /// A file of this profile.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file of this profile as a person would, with mode 0600.
    pub fn write(&self, name: &str, contents: impl AsRef<[u8]>) {
        use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(self.path())
            .expect("a directory");
        std::fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(self.file(name))
            .and_then(|mut file| file.write_all(contents.as_ref()))
            .expect("a file");
    }

    /// The names of the files in it, sorted.
    pub fn files(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.path()) else {
            return Vec::new();
        };
        let mut names: Vec<String> = entries
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .into_string()
                    .expect("UTF-8")
            })
            .collect();
        names.sort();
        names
    }

    /// `ringback` with this profile.
    pub fn command<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Command {
        let mut command = bare();
        command.arg("--dir").arg(self.path()).args(arguments);
        command
    }

    /// Runs a command to its end.
    pub fn run<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Ended {
        run(&mut self.command(arguments))
    }

    /// Runs a command that must succeed, and gives its standard output.
    #[track_caller]
    pub fn ok<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> String {
        let ended = self.run(arguments);
        assert_eq!(ended.code, 0, "{ended:?}");
        ended.stdout
    }

    /// This profile's ID.
    pub fn id(&self) -> String {
        self.ok(["id"]).trim().to_owned()
    }

    /// Starts a command that goes on.
    pub fn spawn<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Process {
        self.start(self.command(arguments))
    }

    /// Starts a command made by [`Profile::command`].
    pub fn start(&self, command: Command) -> Process {
        let name = format!("ringback-{:08x}", fastrand::u32(..));
        Process::spawn(&name, command, self.dir.path()).expect("it starts")
    }

    /// What the running agent of this profile says of itself.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.ok(["status", "--json"])).expect("JSON")
    }
}

/// `ringback` without settings from outside.
pub fn bare() -> Command {
    let mut command = Command::new(agent::binary().expect("built"));
    for name in agent::settings() {
        command.env_remove(name);
    }
    command
}

/// The same command in a session without a terminal, where nobody can be asked.
pub fn without_terminal(command: &Command) -> Command {
    let mut alone = Command::new("setsid");
    alone.arg("--wait").arg(command.get_program());
    alone.args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => alone.env(name, value),
            None => alone.env_remove(name),
        };
    }
    alone
}

/// Runs a command to its end, with nothing on its standard input. It is ended after [`PATIENCE`].
pub fn run(command: &mut Command) -> Ended {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let (sender, done) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let output = child.wait_with_output().expect("its output");
        let _ = sender.send(());
        output
    });
    let in_time = done.recv_timeout(PATIENCE).is_ok();
    if !in_time {
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
    let ended = Ended::from(reader.join().expect("no panic"));
    assert!(
        in_time,
        "{command:?} does not end within {PATIENCE:?}: {ended:?}"
    );
    ended
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// A service that says a word to everybody who connects, and closes.
#[derive(Debug)]
pub struct Greeter {
    pub address: SocketAddr,
}

impl Greeter {
    pub fn start(word: &'static str) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("an address");
        // Ends with the process.
        std::thread::spawn(move || {
            for mut stream in listener.incoming().map_while(Result::ok) {
                // Whoever has gone already does not hear it.
                let _ = stream.write_all(word.as_bytes());
            }
        });
        Self { address }
    }
}

/// A device on the loopback: `ringback up`.
#[derive(Debug)]
pub struct Device {
    pub profile: Profile,
    pub id: String,
    pub process: Process,
    registry: String,
}

/// The password of every device here.
pub const PASSWORD: &str = "open-please";

impl Device {
    /// Enrols a new device, which exposes a [`Greeter`] as `hello`, and waits until it is
    /// registered.
    pub fn start(registry: &str, code: &str, word: &'static str) -> Self {
        let profile = Profile::new();
        let greeter = Greeter::start(word).address.to_string();
        profile.ok(["expose", "hello", &greeter]);
        let up = profile.command(["up", "--json", "--registry", registry, "--enroll", code]);
        Self::up(profile, registry, up)
    }

    /// Starts it again after its end.
    #[must_use]
    pub fn restart(mut self) -> Self {
        self.process.kill9().expect("it ends");
        let up = self
            .profile
            .command(["up", "--json", "--registry", &self.registry]);
        Self::up(self.profile, &self.registry, up)
    }

    /// A command that is `up` for this profile, waited for.
    pub fn up(profile: Profile, registry: &str, mut up: Command) -> Self {
        up.args(["--password", PASSWORD]);
        Self::up_as_is(profile, registry, up)
    }

    /// The same, with the password that the command or the profile has.
    pub fn up_as_is(profile: Profile, registry: &str, up: Command) -> Self {
        let process = profile.start(up);
        let line = process
            .stdout_line(PATIENCE, |line| line.starts_with('{'))
            .expect("up tells what it is");
        let told: Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!(told["registered"], true, "{line}");
        Self {
            id: told["id"].as_str().expect("an ID").to_owned(),
            registry: registry.to_owned(),
            process,
            profile,
        }
    }

    /// The IDs of the callers that have a link to this device.
    pub fn callers(&self) -> Vec<String> {
        let status = self.profile.status();
        let links = status["links"].as_array().expect("a list");
        links
            .iter()
            .map(|link| link["caller"].as_str().expect("an ID").to_owned())
            .collect()
    }
}

/// Calls `device` (an ID or a name) for its service `hello`, and gives what the service said.
pub fn call(caller: &Profile, registry: &str, device: &str, more: &[&str]) -> Ended {
    let target = format!("{device}:hello");
    let arguments = ["pipe", &target, "--registry", registry];
    let mut command = caller.command(arguments);
    command
        .env("RINGBACK_PASSWORD", PASSWORD)
        .args(more)
        .current_dir(Path::new("/"));
    run(&mut command)
}
