//! The proxy that the environment names for the registry and its relay, where a network lets nothing
//! else out: `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`, as other programs read them (and in small
//! letters). Only what goes to the registry goes by it; paths between peers are tried as always.

use std::io;

use hyper::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::{SocksV5, Tunnel};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use tokio::net::TcpStream;
use tower_service::Service as _;

/// A proxy that connections to the registry go through.
#[derive(Debug, Clone)]
pub(super) struct Proxy(Intercept);

impl Proxy {
    /// The one for this destination, if the environment names one.
    pub(super) fn of_environment(to: &Uri) -> Option<Self> {
        Self::of(&Matcher::from_env(), to)
    }

    fn of(matcher: &Matcher, to: &Uri) -> Option<Self> {
        matcher.intercept(to).map(Self)
    }

    /// Scheme, host and port, without what lets this host in there.
    pub(super) fn address(&self) -> String {
        self.0.uri().to_string().trim_end_matches('/').to_owned()
    }

    /// A connection to `to`, whose name the proxy looks up: this network may know none. `connector`
    /// leads to the proxy itself.
    pub(super) async fn connect(&self, to: Uri, connector: HttpConnector) -> io::Result<TcpStream> {
        let proxy = self.0.uri().clone();
        let connected = match proxy.scheme_str() {
            Some("http") => {
                let mut tunnel = Tunnel::new(proxy, connector);
                if let Some(auth) = self.0.basic_auth() {
                    tunnel = tunnel.with_auth(auth.clone());
                }
                tunnel.call(to).await.map_err(|error| told(&error))?
            }
            Some("socks5" | "socks5h") => {
                let mut socks = SocksV5::new(proxy, connector);
                if let Some((user, password)) = self.0.raw_auth() {
                    socks = socks.with_auth(user.to_owned(), password.to_owned());
                }
                socks.call(to).await.map_err(|error| told(&error))?
            }
            other => {
                let other = other.unwrap_or_default();
                let why = format!("a proxy is reached by http:// or socks5://, not {other}://");
                return Err(io::Error::other(why));
            }
        };
        Ok(connected.into_inner())
    }
}

/// An error with its causes, which neither kind of proxy tells by itself.
fn told(error: &dyn std::error::Error) -> io::Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let more = deeper.to_string();
        if !text.contains(&more) {
            text += &format!(": {more}");
        }
        cause = deeper.source();
    }
    io::Error::other(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(all: &str, https: &str, no: &str) -> Option<String> {
        let matcher = Matcher::builder().all(all).https(https).no(no).build();
        let to = Uri::from_static("https://registry.example:8443/");
        Proxy::of(&matcher, &to).map(|proxy| proxy.address())
    }

    #[test]
    fn the_environment_is_read_as_everywhere() {
        for (all, https, no, expected) in [
            ("", "", "", None),
            ("", "http://10.0.0.1:3128", "", Some("http://10.0.0.1:3128")),
            ("", "10.0.0.1:3128", "", Some("http://10.0.0.1:3128")),
            (
                "socks5h://10.0.0.1:1080",
                "",
                "",
                Some("socks5h://10.0.0.1:1080"),
            ),
            (
                "socks5://10.0.0.1",
                "http://10.0.0.2",
                "",
                Some("http://10.0.0.2"),
            ),
            ("socks5://10.0.0.1", "", "example", None),
            (
                "socks5://10.0.0.1",
                "",
                ".registry.example, 10.0.0.0/8",
                None,
            ),
            ("socks5://10.0.0.1", "", "*", None),
            (
                "socks5://10.0.0.1",
                "",
                "other.example",
                Some("socks5://10.0.0.1"),
            ),
        ] {
            assert_eq!(
                address(all, https, no).as_deref(),
                expected,
                "{all} {https} {no}"
            );
        }
    }

    #[test]
    fn what_lets_this_host_in_is_not_shown() {
        for proxy in [
            "http://me:secret@10.0.0.1:3128",
            "socks5://me:secret@10.0.0.1",
        ] {
            let shown = address(proxy, "", "").unwrap();
            assert!(
                !shown.contains("secret") && shown.contains("10.0.0.1"),
                "{shown}"
            );
        }
    }
}
