//! What a device exposes under a name, as a person writes it and as it stands in `config.toml`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use ringback_protocol::service::listing::{Kind, ServiceInfo};
use serde::{Deserialize, Serialize};

use super::address::Address;
use super::size::Size;

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

    pub(super) fn info(&self, name: &str) -> ServiceInfo {
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
