//! The agent's control socket: how the commands of this host talk to the agent that `up` runs.
//! JSON lines over a Unix socket that only the agent's user and root may use, whatever the modes of
//! its folder; a call without local ports turns into its raw bytes after the [`Event::Piping`] line.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result, bail};
use ringback_protocol::PeerId;
use ringback_protocol::receipt::Nat;
use serde::{Deserialize, Serialize};
use socket2::{Domain, SockAddr, Socket, Type};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::beacon::front::{BeaconStatus, Handle};
use crate::caller::{Caller, Ring};
use crate::device::Agent;
use crate::failure::{Exit, Failure};
use crate::forward::{self, CallRequest, Event};
use crate::port_mapping::{Forwarding, Mappings};
use crate::presence::{OnBeacon, Presence};
use crate::profile::Profile;
use crate::serving::LinkStatus;

/// Commands that may wait for the agent to accept them.
const BACKLOG: i32 = 128;
/// Bytes of the longest line.
const MAX_LINE: usize = 64 * 1024;

/// What a command asks of the agent.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "ask")]
pub(crate) enum Ask {
    Status,
    /// The files have changed.
    Reload,
    /// A caller's right to call was taken away.
    Disconnect {
        caller: PeerId,
    },
    Call(CallRequest),
}

/// The agent's answer to everything but a call.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) id: PeerId,
    pub(crate) registry: String,
    pub(crate) presence: Presence,
    pub(crate) udp_port: u16,
    pub(crate) public_address: Option<std::net::SocketAddr>,
    pub(crate) nat: Nat,
    /// Absent: switched off.
    #[serde(default)]
    pub(crate) port_mapping: Option<Mappings>,
    pub(crate) services: std::collections::BTreeMap<String, String>,
    pub(crate) links: Vec<LinkStatus>,
    /// Instead of a connection to the registry.
    #[serde(default)]
    pub(crate) beacon: Option<OnBeacon>,
}

/// What runs on a profile.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(crate) enum AnyStatus {
    Agent(Box<Status>),
    Beacon(Box<BeaconStatus>),
}

/// Serves the control socket of a beacon, which only has a status to tell.
pub(crate) async fn serve_beacon(beacon: Handle, listener: UnixListener) {
    while let Ok((stream, _)) = listener.accept().await {
        if !is_of_this_user(&stream) {
            continue;
        }
        let beacon = beacon.clone();
        tokio::spawn(async move {
            let (read, mut write) = stream.into_split();
            // A line that can not be read is answered like any other.
            let _ = read_line::<Ask>(&mut BufReader::new(read)).await;
            if let Some(status) = beacon.status().await {
                let _ = write_line(&mut write, &status).await;
            }
        });
    }
}

/// Serves the control socket until the process ends.
pub(crate) async fn serve(agent: Arc<Agent>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) if !is_of_this_user(&stream) => {}
            Ok((stream, _)) => {
                let agent = agent.clone();
                tokio::spawn(async move {
                    if let Err(error) = handle(&agent, stream).await {
                        tracing::debug!("a control connection ended: {error:#}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("can not accept on the control socket: {error}");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// Binds the control socket; one that a killed agent left behind is replaced. The caller holds the
/// agent's lock. The file is removed with the second value.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, SocketFile)> {
    let make = || -> io::Result<(UnixListener, SocketFile)> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let short = ShortPath::of(path)?;
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
        socket.bind(&SockAddr::unix(&short.path)?)?;
        let file = SocketFile(path.to_owned());
        // Nobody can connect before it listens: there is no moment of another mode.
        fs::set_permissions(&short.path, fs::Permissions::from_mode(0o600))?;
        socket.listen(BACKLOG)?;
        socket.set_nonblocking(true)?;
        let listener = std::os::unix::net::UnixListener::from(OwnedFd::from(socket));
        Ok((UnixListener::from_std(listener)?, file))
    };
    make().map_err(|error| {
        let path = path.display();
        Failure::new(
            Exit::Usage,
            format!("can not make the control socket {path}: {error}; give another --dir"),
        )
        .into()
    })
}

/// A path that fits into a socket's address, which has 108 bytes: a long one goes by an open
/// directory, where the system shows those (Linux).
struct ShortPath {
    path: PathBuf,
    /// Keeps `path` good.
    _dir: Option<File>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        let fits = SockAddr::unix(path).is_ok();
        let (Some(dir), Some(name), false) = (path.parent(), path.file_name(), fits) else {
            return Ok(Self {
                path: path.to_owned(),
                _dir: None,
            });
        };
        let dir = File::open(dir)?;
        let open = format!("/proc/self/fd/{}", dir.as_raw_fd());
        Ok(Self {
            path: Path::new(&open).join(name),
            _dir: Some(dir),
        })
    }
}

/// Whoever may use this agent's files may use the agent.
fn is_of_this_user(stream: &UnixStream) -> bool {
    let Ok(peer) = stream.peer_cred() else {
        return false;
    };
    let is = may_use(peer.uid(), rustix::process::geteuid().as_raw());
    if !is {
        tracing::warn!(
            uid = peer.uid(),
            "another user has tried to use the control socket"
        );
    }
    is
}

fn may_use(peer: u32, own: u32) -> bool {
    peer == own || peer == 0
}

/// The control socket's file, for as long as there is an agent behind it.
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A file that is gone already is as good.
        let _ = fs::remove_file(&self.0);
    }
}

async fn handle(agent: &Arc<Agent>, stream: UnixStream) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let mut reader = BufReader::new(read);
    match read_line(&mut reader).await? {
        None => Ok(()),
        Some(Ask::Status) => write_line(&mut write, &status(agent)).await,
        Some(Ask::Reload) => {
            if let Err(error) = agent.reload() {
                tracing::warn!("the changed files are not taken over: {error:#}");
            }
            write_line(&mut write, &status(agent)).await
        }
        Some(Ask::Disconnect { caller }) => {
            agent.reload()?;
            agent.disconnect(&caller);
            write_line(&mut write, &status(agent)).await
        }
        Some(Ask::Call(call)) => serve_call(agent, call, reader, write).await,
    }
}

async fn serve_call(
    agent: &Arc<Agent>,
    call: CallRequest,
    mut reader: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
) -> Result<()> {
    let caller = agent.caller();
    let CallRequest {
        ring,
        listens,
        plain,
    } = call;
    if listens.is_empty() {
        return serve_pipe(&caller, &ring, plain, reader, write).await;
    }
    let (events, mut happened) = mpsc::channel(16);
    let forwarding = forward::forward(&caller, &ring, &listens, &events);
    tokio::pin!(forwarding);
    let mut nothing = String::new();
    loop {
        tokio::select! {
            result = &mut forwarding => {
                if let Err(error) = result {
                    write_line(&mut write, &failed(&error)).await?;
                }
                return Ok(());
            }
            Some(event) = happened.recv() => write_line(&mut write, &event).await?,
            // The command has ended: so does the call.
            _ = reader.read_line(&mut nothing) => return Ok(()),
        }
    }
}

/// Inward the connection carries bytes as soon as the command sends some; outward it carries events
/// until the service has been reached, so that a refusal is still told, and then bytes.
async fn serve_pipe(
    caller: &Caller,
    ring: &Ring,
    plain: bool,
    mut reader: BufReader<OwnedReadHalf>,
    mut write: OwnedWriteHalf,
) -> Result<()> {
    let (events, mut happened) = mpsc::channel(16);
    let (local, remote) = tokio::io::duplex(256 * 1024);
    let (local_read, local_write) = tokio::io::split(local);
    let (mut remote_read, mut remote_write) = tokio::io::split(remote);
    // Owns the sender: the events end with it.
    let piping =
        async move { forward::pipe(caller, ring, plain, local_read, local_write, &events).await };
    let inward = async {
        tokio::io::copy_buf(&mut reader, &mut remote_write).await?;
        remote_write.shutdown().await?;
        std::future::pending::<io::Result<()>>().await
    };
    let outward = async {
        while let Some(event) = happened.recv().await {
            write_line(&mut write, &event).await?;
            if matches!(event, Event::Opened) {
                // What the call shows later has no way to the command.
                happened.close();
                tokio::io::copy(&mut remote_read, &mut write).await?;
                write.shutdown().await?;
                return Ok(None);
            }
        }
        anyhow::Ok(Some(&mut write))
    };
    let both = async {
        tokio::pin!(piping);
        tokio::pin!(outward);
        // The command may go first; then nobody waits for the rest.
        tokio::select! {
            result = &mut piping => (result, outward.await),
            write = &mut outward => match write {
                Ok(None) => (Ok(()), Ok(None)),
                other => (piping.await, other),
            },
        }
    };
    let (result, unopened) = tokio::select! {
        both = both => both,
        result = inward => return Ok(result?),
    };
    match (result, unopened?) {
        (Err(error), Some(write)) => write_line(write, &failed(&error)).await,
        (result, _) => result,
    }
}

fn failed(error: &anyhow::Error) -> Event {
    Event::Failed {
        exit: Failure::exit_code(error),
        message: format!("{error:#}"),
        code: Failure::code(error),
    }
}

fn status(agent: &Agent) -> Status {
    let addresses = agent.endpoint.own_addresses().known();
    Status {
        id: agent.key.id(),
        registry: agent.registry.origin(),
        presence: agent.presence.borrow().clone(),
        udp_port: agent.endpoint.port(),
        public_address: addresses.public,
        nat: addresses.nat,
        port_mapping: agent.forwarding.get().map(Forwarding::now),
        services: agent
            .services
            .exposed()
            .into_iter()
            .map(|(name, service)| (name, service.to_string()))
            .collect(),
        links: agent.links(),
        beacon: agent.beacon.borrow().clone(),
    }
}

/// A command's connection to the agent of its profile.
pub(crate) struct Control {
    pub(crate) reader: BufReader<OwnedReadHalf>,
    pub(crate) write: OwnedWriteHalf,
}

impl Control {
    /// `None` if no agent runs.
    pub(crate) async fn connect(profile: &Profile) -> Result<Option<Self>> {
        let path = profile.control_socket();
        let connecting = async {
            let short = ShortPath::of(&path)?;
            UnixStream::connect(&short.path).await
        };
        match connecting.await {
            Ok(stream) => {
                let (read, write) = stream.into_split();
                Ok(Some(Self {
                    reader: BufReader::new(read),
                    write,
                }))
            }
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                Ok(None)
            }
            Err(error) => Err(error).context("can not talk to the agent"),
        }
    }

    /// Asks for anything but a call.
    pub(crate) async fn ask(self, ask: &Ask) -> Result<Status> {
        match self.ask_any(ask).await? {
            AnyStatus::Agent(status) => Ok(*status),
            AnyStatus::Beacon(_) => bail!("this profile is a beacon's; it makes no calls"),
        }
    }

    /// The same of a profile whose agent may be a beacon.
    pub(crate) async fn ask_any(mut self, ask: &Ask) -> Result<AnyStatus> {
        write_line(&mut self.write, ask).await?;
        read_line(&mut self.reader)
            .await?
            .context("the agent did not answer; its log says why")
    }

    /// Asks for a call; its events follow.
    pub(crate) async fn call(&mut self, call: CallRequest) -> Result<()> {
        write_line(&mut self.write, &Ask::Call(call)).await
    }
}

/// The next event of a call that the agent makes for a command.
pub(crate) async fn read_event(reader: &mut BufReader<OwnedReadHalf>) -> Result<Event> {
    read_line(reader)
        .await?
        .context("the agent of this host has ended, and the call with it")
}

async fn read_line<T: serde::de::DeserializeOwned>(
    reader: &mut BufReader<OwnedReadHalf>,
) -> Result<Option<T>> {
    let mut line = Vec::new();
    loop {
        let available = reader.fill_buf().await?;
        if available.is_empty() {
            if line.is_empty() {
                return Ok(None);
            }
            bail!("a line of the control connection broke off");
        }
        let end = available.iter().position(|byte| *byte == b'\n');
        let taken = end.map_or(available.len(), |end| end + 1);
        line.extend_from_slice(&available[..taken]);
        reader.consume(taken);
        if line.len() > MAX_LINE {
            bail!("a line of the control connection is over {MAX_LINE} bytes");
        }
        if end.is_some() {
            return Ok(Some(serde_json::from_slice(&line)?));
        }
    }
}

async fn write_line(write: &mut OwnedWriteHalf, value: &impl Serialize) -> Result<()> {
    let mut line = serde_json::to_vec(value)?;
    line.push(b'\n');
    // Not as an I/O error: a broken pipe here is not that of standard output.
    let written = write.write_all(&line).await;
    written.map_err(|error| anyhow::anyhow!("the other end of the control socket is gone: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_user_and_root_may_use_it() {
        assert!(may_use(1000, 1000) && may_use(0, 1000) && may_use(0, 0));
        assert!(!may_use(65_534, 1000) && !may_use(1000, 0));
    }

    #[tokio::test]
    async fn a_socket_is_made_and_found_however_long_its_path_is() {
        let dir = tempfile::tempdir().unwrap();
        for length in [1, 60, 100, 250] {
            let dir = dir.path().join("d".repeat(length));
            let profile = Profile::open(Some(&dir)).unwrap();
            let path = profile.control_socket();
            assert!(Control::connect(&profile).await.unwrap().is_none());
            let (listener, file) = bind(&path).unwrap();
            let mode = fs::metadata(&path).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{length}");
            let (connected, accepted) = tokio::join!(Control::connect(&profile), listener.accept());
            assert!(connected.unwrap().is_some());
            assert!(is_of_this_user(&accepted.unwrap().0));
            drop(file);
            assert!(!path.exists());
        }
    }
}
