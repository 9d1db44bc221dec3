//! Services: what a device exposes by name. Nothing else is reachable through it.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;

/// How long a service may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A TCP service on the device itself or on another host of its LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Service {
    /// `http` is TCP too; the scheme tells people and browsers what speaks there.
    scheme: Scheme,
    host: String,
    port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    Tcp,
    Http,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not a service address; one looks like 127.0.0.1:22, tcp://nas.local:22 or http://192.168.1.5:80"
)]
pub(crate) struct BadService(String);

impl Service {
    /// Connects to the service on the device's network.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        let connect = TcpStream::connect((self.host.as_str(), self.port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s"))??;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl FromStr for Service {
    type Err = BadService;

    fn from_str(text: &str) -> Result<Self, BadService> {
        let bad = || BadService(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            Some(("tcp", rest)) => (Scheme::Tcp, rest),
            Some(("http", rest)) => (Scheme::Http, rest.strip_suffix('/').unwrap_or(rest)),
            Some(_) => return Err(bad()),
            None => (Scheme::Tcp, text),
        };
        let (host, port) = match (rest.rsplit_once(':'), scheme) {
            (Some((host, port)), _) if !host.is_empty() && !host.ends_with(':') => (
                host,
                port.parse()
                    .ok()
                    .filter(|port| *port != 0)
                    .ok_or_else(bad)?,
            ),
            (None, Scheme::Http) => (rest, 80),
            _ => return Err(bad()),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        let fits = !host.is_empty()
            && host.len() <= 253
            && host
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b':'));
        if fits {
            Ok(Self {
                scheme,
                host: host.to_owned(),
                port,
            })
        } else {
            Err(bad())
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.scheme == Scheme::Http {
            f.write_str("http://")?;
        }
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl TryFrom<String> for Service {
    type Error = BadService;

    fn try_from(text: String) -> Result<Self, BadService> {
        text.parse()
    }
}

impl From<Service> for String {
    fn from(service: Service) -> Self {
        service.to_string()
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
            ("[::1]:22", "[::1]:22"),
        ] {
            assert_eq!(
                text.parse::<Service>().unwrap().to_string(),
                shown,
                "{text}"
            );
        }
    }

    #[test]
    fn refuses_what_is_no_address() {
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
        ] {
            assert!(text.parse::<Service>().is_err(), "{text}");
        }
    }
}
