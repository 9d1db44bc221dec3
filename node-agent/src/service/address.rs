//! Where a TCP or HTTP service is: on the device itself or on another host of its LAN.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use ringback_protocol::address_scope::Scope;
use tokio::net::TcpStream;

use crate::happy_eyeballs;
use crate::keepalive::keep_alive;

/// How long a service may take to accept.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A host and a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl Address {
    /// Reads `host:port`, `[v6]:port`, or with a default port the host alone.
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Option<Self> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port))
                if !host.is_empty() && !host.ends_with(':') && !port.ends_with(']') =>
            {
                (host, port.parse().ok().filter(|port| *port != 0)?)
            }
            // No port: a name, or an IPv6 address in brackets.
            Some(_) if !text.starts_with('[') => return None,
            _ => (text, default_port?),
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
        fits.then(|| Self {
            host: host.to_owned(),
            port,
        })
    }

    /// Connects on the device's network.
    pub(crate) async fn connect(&self) -> io::Result<TcpStream> {
        self.connect_within(CONNECT_TIMEOUT).await
    }

    async fn connect_within(&self, patience: Duration) -> io::Result<TcpStream> {
        let connect = async {
            let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
            happy_eyeballs::connect(found).await
        };
        let stream = tokio::time::timeout(patience, connect)
            .await
            .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "no answer in 10 s"))??;
        stream.set_nodelay(true)?;
        keep_alive(&stream);
        Ok(stream)
    }

    /// For the `Host` header: without the port that goes without saying.
    pub(crate) fn authority(&self, default_port: u16) -> String {
        let whole = self.to_string();
        if self.port == default_port {
            let port = whole.rfind(':').expect("there is a port");
            whole[..port].to_owned()
        } else {
            whole
        }
    }

    /// Is this a name or an address that no public authority vouches for?
    pub(crate) fn is_private(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(ip) => Scope::of(ip).is_local(),
            Err(_) => {
                let name = self.host.trim_end_matches('.').to_ascii_lowercase();
                // A name without a dot is the router's or the hosts file's.
                !name.contains('.')
                    || [".local", ".lan", ".home.arpa", ".internal", ".localhost"]
                        .iter()
                        .any(|end| name.ends_with(end))
            }
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_port_that_goes_without_saying_is_left_out() {
        let authority =
            |text: &str| Address::parse(text, Some(80)).map(|address| address.authority(80));
        assert_eq!(authority("nas.local").as_deref(), Some("nas.local"));
        assert_eq!(authority("nas.local:81").as_deref(), Some("nas.local:81"));
        assert_eq!(authority("[::1]:80").as_deref(), Some("[::1]"));
        assert_eq!(authority("[::1]").as_deref(), Some("[::1]"));
    }

    #[tokio::test]
    async fn a_service_that_does_not_accept_is_given_up() {
        // A listener whose queue is full answers nobody.
        let full =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
        full.bind(&any.into()).unwrap();
        full.listen(0).unwrap();
        let there = full.local_addr().unwrap().as_socket().unwrap();
        let address = Address::parse(&there.to_string(), None).unwrap();
        let patience = Duration::from_millis(50);
        let mut held = Vec::new();
        let error = loop {
            match address.connect_within(patience).await {
                Ok(connection) => held.push(connection),
                Err(error) => break error,
            }
            assert!(held.len() < 10, "the queue has an end");
        };
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(error.to_string(), "no answer in 10 s");
    }

    #[test]
    fn no_authority_vouches_for_what_is_private() {
        let private = |text: &str| Address::parse(text, Some(443)).unwrap().is_private();
        for host in [
            "192.168.1.5",
            "10.0.0.1",
            "127.0.0.1",
            "169.254.1.1",
            "[fe80::1]",
            "[fd00::1]",
            "[::1]",
            "nas",
            "nas.local",
            "NAS.Lan.",
            "x.home.arpa",
        ] {
            assert!(private(host), "{host}");
        }
        for host in [
            "example.org",
            "8.8.8.8",
            "local.example.org",
            "[2001:db8::1]",
        ] {
            assert!(!private(host), "{host}");
        }
    }
}
