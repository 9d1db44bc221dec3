//! Services: what a device exposes by name (PROTOCOL §20). Nothing else is reachable through it.
//!
//! A stream is served in two steps, so that what can not be served is refused in the stream's
//! header: [`prepare`] finds the service and reaches it, and [`Ready::run`] speaks its protocol
//! over whatever carries the stream's bytes.

mod address;
mod dial;
mod files;
mod http;
mod places;
mod shell;
mod size;
mod stream;

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use ringback_protocol::service::listing::{DeviceInfo, Kind, LISTING, Listing, ServiceInfo};
use ringback_protocol::stream::{Mode, Open};
use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::device::Agent;
use crate::presence::Presence;
use address::Address;
pub(crate) use dial::Dials;
pub(crate) use files::Uploads;
use places::{Guest, Limits, Place, Places};
pub(crate) use shell::Shells;
pub(crate) use size::Size;
pub(crate) use stream::{Frames, Sending};

/// Connections to services at a time, at most; of one caller there wait so many more, for so long.
const MAX_CONNECTIONS: usize = 4096;
const MAX_WAITING: usize = 256;
const PLACE_PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks for uploads that were left behind.
const SWEEP_EACH: Duration = Duration::from_secs(6 * 3600);

/// What is behind a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub(crate) enum Service {
    Tcp(Address),
    /// TCP too; the scheme tells people and browsers what speaks there.
    Http(Address),
    Https(Address),
    /// A terminal with the login shell of the agent's user.
    Shell,
    Files(Folder),
    /// Callers may have this agent call other devices.
    Dial,
}

/// A folder of this host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Folder {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) writable: bool,
    /// What the folder may hold when callers have added to it, and of it what one has brought.
    pub(crate) quota: Option<Size>,
    pub(crate) caller_quota: Option<Size>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadService {
    #[error(
        "'{0}' is not a service; one looks like 127.0.0.1:22, tcp://nas.local:22, http://192.168.1.5:80, https://nas.local, files:/srv/docs, shell or dial"
    )]
    Unknown(String),
    #[error("'{0}' is not an absolute path, as files:/srv/docs has one")]
    RelativePath(String),
}

impl Service {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Tcp(_) => Kind::Tcp,
            Self::Http(_) | Self::Https(_) => Kind::Http,
            Self::Shell => Kind::Shell,
            Self::Files(_) => Kind::Files,
            Self::Dial => Kind::Dial,
        }
    }

    fn info(&self, name: &str) -> ServiceInfo {
        ServiceInfo {
            name: name.to_owned(),
            kind: self.kind(),
            writable: match self {
                Self::Files(folder) => Some(folder.writable),
                _ => None,
            },
            // Where a folder is on the device is nobody's business.
            target: match self {
                Self::Tcp(_) | Self::Http(_) | Self::Https(_) => Some(self.to_string()),
                _ => None,
            },
        }
    }
}

/// A service that a stream can be connected to.
pub(crate) enum Ready {
    Tcp(TcpStream, Connected),
    Http(http::Host, Connected),
    Listing(Vec<u8>),
    Shell,
    Files(Folder),
    Dial,
}

/// The connections that this agent has to services, shared out between its callers.
#[derive(Debug)]
pub(crate) struct Connections {
    places: Places,
    /// How long one is waited for.
    patience: Duration,
}

/// One of them; it is counted until this is dropped.
#[derive(Debug)]
pub(crate) struct Connected {
    _guest: Guest,
    _place: Place,
}

impl Default for Connections {
    /// Most of the files that this process may have open, and at most [`MAX_CONNECTIONS`].
    fn default() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let files = files.map_or(usize::MAX, |files| files.try_into().unwrap_or(usize::MAX));
        let all = (files / 4 * 3).clamp(16, MAX_CONNECTIONS);
        Self {
            places: Places::new(Limits {
                all,
                each: all - all / 4,
                waiting: MAX_WAITING,
                turn: Duration::MAX,
            }),
            patience: PLACE_PATIENCE,
        }
    }
}

impl Connections {
    async fn take(&self, caller: PeerId) -> Result<Connected, (Code, String)> {
        let Limits {
            all, each, waiting, ..
        } = self.places.limits();
        let guest = self.places.enter(caller).map_err(|_| {
            let told = format!("{each} connections of this caller are open, and {waiting} wait");
            (Code::TooMany, told)
        })?;
        let place = guest.place_within(self.patience).await.ok_or_else(|| {
            let told = format!(
                "of {all} connections that this device has to its services at a time, {each} for one caller, none has ended in 10 s"
            );
            (Code::TooMany, told)
        })?;
        Ok(Connected {
            _guest: guest,
            _place: place,
        })
    }
}

/// Finds what a stream is for and reaches it; the error goes into the stream's header.
pub(crate) async fn prepare(
    agent: &Agent,
    caller: PeerId,
    open: &Open,
) -> Result<Ready, (Code, String)> {
    let unreachable = |error: std::io::Error| (Code::ServiceUnreachable, error.to_string());
    if open.service == LISTING && open.mode == Mode::Raw {
        return Ok(Ready::Listing(listing(agent).to_json()));
    }
    let service = agent.service(&open.service);
    let service = service.ok_or_else(|| (Code::UnknownService, names(agent)))?;
    match (service, open.mode) {
        (Service::Tcp(address) | Service::Http(address) | Service::Https(address), Mode::Raw) => {
            let connected = agent.connections.take(caller).await?;
            let tcp = address.connect().await.map_err(unreachable)?;
            Ok(Ready::Tcp(tcp, connected))
        }
        (Service::Http(address), Mode::Http) => {
            let connected = agent.connections.take(caller).await?;
            let host = http::Host::plain(&address).await;
            Ok(Ready::Http(host.map_err(unreachable)?, connected))
        }
        (Service::Https(address), Mode::Http) => {
            let connected = agent.connections.take(caller).await?;
            let host = http::Host::tls(&address).await;
            Ok(Ready::Http(host.map_err(unreachable)?, connected))
        }
        (Service::Shell, Mode::Raw) => Ok(Ready::Shell),
        (Service::Files(folder), Mode::Raw) => Ok(Ready::Files(folder)),
        (Service::Dial, Mode::Raw) => Ok(Ready::Dial),
        _ => Err((Code::BadMode, String::new())),
    }
}

impl Ready {
    /// Serves a stream behind its header. `send` that is dropped before it was shut down is a
    /// stream that broke off.
    pub(crate) async fn run<R, W>(
        self,
        agent: &Arc<Agent>,
        caller: PeerId,
        recv: R,
        mut send: W,
    ) -> Result<()>
    where
        R: AsyncRead + Unpin + Send + 'static,
        W: AsyncWrite + Unpin + Send + 'static,
    {
        match self {
            Self::Tcp(..) => unreachable!("copied by the agent itself, without frames"),
            Self::Listing(json) => {
                send.write_all(&json).await?;
                Ok(send.shutdown().await?)
            }
            Self::Http(host, _connected) => host.exchange(recv, send).await,
            Self::Shell => agent.shells.serve(caller, recv, send).await,
            Self::Files(folder) => files::serve(&agent.uploads, caller, &folder, recv, send).await,
            Self::Dial => dial::serve(agent, caller, recv, send).await,
        }
    }
}

/// The names of all services, as far as they fit into a header.
fn names(agent: &Agent) -> String {
    let mut names = String::new();
    for name in agent.services().keys() {
        if names.len() + name.len() > 1024 {
            names.push_str(", …");
            break;
        }
        if !names.is_empty() {
            names.push_str(", ");
        }
        names.push_str(name);
    }
    names
}

/// Removes what is left of uploads that nobody went on with, now and every few hours.
pub(crate) async fn sweep_uploads(agent: Arc<Agent>) {
    loop {
        let folders = agent
            .services()
            .into_values()
            .filter_map(|service| match service {
                Service::Files(folder) if folder.writable => Some(folder),
                _ => None,
            });
        let folders: Vec<Folder> = folders.collect();
        // Not a thread of the runtime's, whose end would wait for this one.
        std::thread::spawn(move || {
            for folder in folders {
                if let Err(error) = files::sweep(&folder) {
                    tracing::warn!("can not look through {}: {error}", folder.path.display());
                }
            }
        });
        tokio::time::sleep(SWEEP_EACH).await;
    }
}

fn listing(agent: &Agent) -> Listing {
    let name = match &*agent.presence.borrow() {
        Presence::Registered { name, .. } => Some(name.clone()),
        _ => None,
    };
    Listing {
        device: DeviceInfo {
            id: agent.key.id(),
            agent: concat!("ringback/", env!("CARGO_PKG_VERSION")).into(),
            name,
        },
        services: agent
            .services()
            .iter()
            .map(|(name, service)| service.info(name))
            .collect(),
    }
}

impl FromStr for Service {
    type Err = BadService;

    fn from_str(text: &str) -> Result<Self, BadService> {
        let bad = || BadService::Unknown(text.to_owned());
        match text {
            "shell" => return Ok(Self::Shell),
            "dial" => return Ok(Self::Dial),
            _ => {}
        }
        if let Some(path) = text.strip_prefix("files:") {
            return Ok(Self::Files(Folder::new(path, false)?));
        }
        let address = |text, default_port| Address::parse(text, default_port).ok_or_else(bad);
        let host = |rest: &'_ str| rest.strip_suffix('/').unwrap_or(rest).to_owned();
        match text.split_once("://") {
            Some(("tcp", rest)) => Ok(Self::Tcp(address(rest, None)?)),
            Some(("http", rest)) => Ok(Self::Http(address(&host(rest), Some(80))?)),
            Some(("https", rest)) => Ok(Self::Https(address(&host(rest), Some(443))?)),
            Some(_) => Err(bad()),
            None => Ok(Self::Tcp(address(text, None)?)),
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Http(address) => write!(f, "http://{address}"),
            Self::Https(address) => write!(f, "https://{address}"),
            Self::Shell => f.write_str("shell"),
            Self::Dial => f.write_str("dial"),
            Self::Files(folder) => {
                write!(f, "files:{}", folder.path.display())?;
                let quota = |quota: Option<Size>, of| {
                    quota.map_or(String::new(), |quota| format!(", {quota}{of}"))
                };
                let quotas = quota(folder.quota, "") + &quota(folder.caller_quota, " of a caller");
                if folder.writable {
                    write!(f, " (writable{quotas})")?;
                }
                Ok(())
            }
        }
    }
}

impl Folder {
    pub(crate) fn new(path: impl AsRef<Path>, writable: bool) -> Result<Self, BadService> {
        let path = path.as_ref();
        if !path.is_absolute() {
            return Err(BadService::RelativePath(path.display().to_string()));
        }
        Ok(Self {
            path: path.to_owned(),
            writable,
            quota: None,
            caller_quota: None,
        })
    }
}

/// How a service stands in `config.toml`: `"files:/srv/docs"`, or
/// `{ files = "/srv/docs", writable = true, quota = "10GiB", caller_quota = "1GiB" }`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(
    untagged,
    expecting = "a service is a text, or { files = \"/DIR\", writable = true }"
)]
pub(crate) enum Written {
    Text(String),
    Files {
        files: String,
        #[serde(default)]
        writable: bool,
        quota: Option<Size>,
        caller_quota: Option<Size>,
    },
}

impl TryFrom<Written> for Service {
    type Error = BadService;

    fn try_from(written: Written) -> Result<Self, BadService> {
        match written {
            Written::Text(text) => text.parse(),
            Written::Files {
                files,
                writable,
                quota,
                caller_quota,
            } => Ok(Self::Files(Folder {
                quota,
                caller_quota,
                ..Folder::new(files, writable)?
            })),
        }
    }
}

impl From<Service> for Written {
    fn from(service: Service) -> Self {
        match service {
            Service::Files(folder) if folder.writable => Self::Files {
                files: folder.path.to_string_lossy().into_owned(),
                writable: true,
                quota: folder.quota,
                caller_quota: folder.caller_quota,
            },
            service => Self::Text(service.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_beyond_a_callers_share_waits_and_is_then_told() {
        let connections = Connections {
            places: Places::new(Limits {
                all: 3,
                each: 2,
                waiting: 1,
                turn: Duration::MAX,
            }),
            patience: Duration::from_millis(20),
        };
        let caller = |number| ringback_protocol::SecretKey::from_seed(&[number; 32]).id();
        let taken = |number| {
            let taken = connections.take(caller(number));
            async {
                taken
                    .await
                    .map_err(|(code, told)| format!("{code}: {told}"))
            }
        };
        let first = taken(1).await.unwrap();
        let second = taken(1).await.unwrap();
        let vain = taken(1).await.unwrap_err();
        assert!(
            vain.starts_with("too_many: of 3 ")
                && vain.ends_with("2 for one caller, none has ended in 10 s"),
            "{vain}"
        );
        let waiting = taken(1);
        tokio::pin!(waiting);
        assert!(futures_util::poll!(&mut waiting).is_pending());
        // No more than may wait.
        assert_eq!(
            taken(1).await.unwrap_err(),
            "too_many: 2 connections of this caller are open, and 1 wait"
        );
        // Which keeps nobody else out, and whoever waits is next.
        let other = taken(2).await.unwrap();
        drop(first);
        let third = waiting.await.unwrap();
        let full = taken(2).await.unwrap_err();
        assert!(full.starts_with("too_many: of 3 "), "{full}");
        drop((second, third, other));
    }

    #[test]
    fn reads_what_people_write() {
        for (text, shown) in [
            ("127.0.0.1:22", "127.0.0.1:22"),
            ("tcp://nas.local:22", "nas.local:22"),
            ("http://192.168.1.5", "http://192.168.1.5:80"),
            ("http://192.168.1.5:8080/", "http://192.168.1.5:8080"),
            ("https://nas.local/", "https://nas.local:443"),
            ("[::1]:22", "[::1]:22"),
            ("shell", "shell"),
            ("dial", "dial"),
            ("files:/srv/our docs", "files:/srv/our docs"),
        ] {
            assert_eq!(
                text.parse::<Service>().unwrap().to_string(),
                shown,
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_service() {
        for text in [
            "",
            "22",
            "host",
            ":22",
            "host:0",
            "host:99999",
            "ftp://host:21",
            "::1:22:",
            "a b:1",
            "http://",
            "https://:443",
            "files:",
            "files:docs",
            "Shell",
        ] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
