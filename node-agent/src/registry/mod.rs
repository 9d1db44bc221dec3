//! The registry from an agent's side: its address, HTTPS calls, and the device's socket.

mod alias;
mod fast_open;
mod health;
mod http;
mod proxy;
mod socket;
mod tls;

use std::fmt;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use futures_util::FutureExt as _;
use futures_util::future::select_ok;
use hyper_util::client::legacy::connect::HttpConnector;
use parking_lot::Mutex;
use tokio_rustls::TlsConnector;
use url::{Host, Url};

use crate::happy_eyeballs;
use crate::keepalive::keep_alive;

pub(crate) use health::Health;
pub(crate) use http::{Connection, Frames, Problem};
pub(crate) use socket::{
    RegistrySocket, Replaced, WebSocket, connect as connect_socket, open_websocket,
};

/// For TCP, and again for TLS, to be set up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// The other address family is tried too when one has not answered for this long.
const OTHER_FAMILY: Duration = Duration::from_millis(250);

/// Where the registry is and how to trust it.
#[derive(Clone)]
pub(crate) struct Registry {
    url: Url,
    tls: Option<TlsConnector>,
    /// What the environment says stands between.
    proxy: Option<Arc<proxy::Proxy>>,
    /// For connections whose first flight has to be short; see [`Registry::connect_quickly`].
    quick_tls: Option<TlsConnector>,
    /// Where the last quick connection went.
    quick_address: Arc<Mutex<Option<SocketAddr>>>,
    /// A connection that has served one call and can serve the next.
    spare: Arc<Mutex<Option<Connection>>>,
    /// Milliseconds to add to this host's clock to have the registry's, where that is known to be off.
    clock_ms: Arc<AtomicI64>,
}

impl Registry {
    /// `url` is an origin as `https://registry.example`; `http` is for loopback only. `ca` is a PEM
    /// file of certificates to trust instead of the system's.
    pub(crate) fn new(url: &str, ca: Option<&Path>) -> Result<Self> {
        let with_scheme = if url.contains("://") {
            url.to_owned()
        } else {
            format!("https://{url}")
        };
        let Ok(url) = Url::parse(&with_scheme) else {
            bail!("'{url}' is not a registry address; one looks like https://registry.example");
        };
        let Some(host) = url.host() else {
            bail!(
                "'{url}' has no host name; a registry address looks like https://registry.example"
            );
        };
        if url.path() != "/" || url.query().is_some() || !url.username().is_empty() {
            bail!(
                "a registry address is only a scheme and a host, as {}",
                url.origin().ascii_serialization()
            );
        }
        let tls = match url.scheme() {
            "https" => Some(tls::connectors(ca)?),
            "http" if is_loopback(&host) => None,
            "http" => bail!("plain http is for loopback only; use https://{host}"),
            other => bail!("a registry address starts with https://, not {other}://"),
        };
        let (tls, quick_tls) = tls.unzip();
        // A registry on this host is nobody else's to reach.
        let proxy = match is_loopback(&host) {
            true => None,
            false => proxy::Proxy::of_environment(&uri(&url)?).map(Arc::new),
        };
        Ok(Self {
            proxy,
            url,
            tls,
            quick_tls,
            quick_address: Arc::default(),
            spare: Arc::default(),
            clock_ms: Arc::default(),
        })
    }

    /// The ASCII origin (RFC 6454), which registrations are signed for.
    pub(crate) fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// Is the registry on this very host? Then loopback addresses are offered to peers too.
    pub(crate) fn is_loopback(&self) -> bool {
        self.url.host().is_some_and(|host| is_loopback(&host))
    }

    /// The registry's clock in Unix milliseconds, as far as it is known: what is signed for it names
    /// the time.
    pub(crate) fn now_ms(&self) -> u64 {
        own_ms().saturating_add_signed(self.clock_ms.load(Ordering::Relaxed))
    }

    /// The registry says that it is this late.
    pub(crate) fn set_clock(&self, theirs_ms: u64) {
        let off = i128::from(theirs_ms) - i128::from(own_ms());
        let off = i64::try_from(off).unwrap_or(0);
        self.clock_ms.store(off, Ordering::Relaxed);
    }

    /// Host and port.
    pub(crate) fn authority(&self) -> String {
        format!("{}:{}", self.host(), self.port())
    }

    /// With its port, whatever the scheme's is.
    fn uri(&self) -> Result<hyper::Uri, hyper::http::Error> {
        uri(&self.url)
    }

    fn host(&self) -> &str {
        self.url.host_str().expect("checked when made")
    }

    fn port(&self) -> u16 {
        self.url
            .port_or_known_default()
            .expect("http and https have ports")
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Registry({})", self.origin())
    }
}

/// What both plain and TLS connections are.
pub(crate) trait Stream:
    tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send
{
}
impl<T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send> Stream for T {}

impl Registry {
    /// The proxy on the way to it, without what lets this host in there.
    pub(crate) fn proxy(&self) -> Option<String> {
        self.proxy.as_ref().map(|proxy| proxy.address())
    }

    /// A TCP connection, with TLS where the address says so.
    async fn connect(&self) -> Result<Box<dyn Stream>> {
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, self.dial())
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .with_context(|| self.unreachable())?;
        self.secure(tcp, self.tls.as_ref()).await
    }

    fn unreachable(&self) -> String {
        let origin = self.origin();
        match self.proxy() {
            None => {
                format!("can not reach the registry at {origin}; check its address and the network")
            }
            Some(proxy) => format!(
                "can not reach the registry at {origin} by the proxy {proxy}; check both addresses (HTTPS_PROXY, ALL_PROXY, NO_PROXY)"
            ),
        }
    }

    /// To whichever of the registry's addresses answers first, each a moment after the one before
    /// (RFC 8305): a host whose IPv6 leads nowhere is not rare.
    async fn dial(&self) -> std::io::Result<tokio::net::TcpStream> {
        if let Some(proxy) = &self.proxy {
            let mut connector = HttpConnector::new();
            connector.enforce_http(false);
            connector.set_happy_eyeballs_timeout(Some(OTHER_FAMILY));
            let uri = self.uri().map_err(std::io::Error::other)?;
            return proxy.connect(uri, connector).await;
        }
        let name = self.host().trim_start_matches('[').trim_end_matches(']');
        let found = tokio::net::lookup_host((name, self.port())).await?;
        happy_eyeballs::connect(found).await
    }

    /// The same in as few round trips as there can be: the address is remembered, TLS is resumed,
    /// and the first flight goes in TCP's SYN where kernel and registry have met before (TCP Fast
    /// Open). For that it has to be short: only X25519 is offered at first, without its post-quantum
    /// companion, which alone fills a packet. What comes this way is sealed between the two ends of
    /// a call anyhow.
    async fn connect_quickly(&self) -> Result<Box<dyn Stream>> {
        if self.proxy.is_some() {
            return self.connect().await;
        }
        let remembered = *self.quick_address.lock();
        let name = self.host().trim_start_matches('[').trim_end_matches(']');
        let anew = async {
            if remembered.is_some() {
                // Most likely it is where it was.
                tokio::time::sleep(happy_eyeballs::DELAY).await;
            }
            let found = tokio::net::lookup_host((name, self.port())).await;
            let found = found.with_context(|| format!("can not find {name}"))?;
            let connected = happy_eyeballs::first(found, |to| self.dial_quickly(to)).await;
            connected.map_err(|failure| {
                failure.unwrap_or_else(|| anyhow::anyhow!("{name} has no address"))
            })
        };
        let (address, stream) = match remembered {
            None => anew.await?,
            Some(address) => {
                let (known, anew) = (self.dial_quickly(address).boxed(), anew.boxed());
                select_ok([known, anew]).await?.0
            }
        };
        *self.quick_address.lock() = Some(address);
        Ok(stream)
    }

    /// With TLS, as a connection that TCP Fast Open has made says nothing of who is there.
    async fn dial_quickly(&self, address: SocketAddr) -> Result<(SocketAddr, Box<dyn Stream>)> {
        let tcp = tokio::time::timeout(CONNECT_TIMEOUT, fast_open::connect(address))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .with_context(|| self.unreachable())?;
        Ok((address, self.secure(tcp, self.quick_tls.as_ref()).await?))
    }

    async fn secure(
        &self,
        tcp: tokio::net::TcpStream,
        tls: Option<&TlsConnector>,
    ) -> Result<Box<dyn Stream>> {
        let name = self.host().trim_start_matches('[').trim_end_matches(']');
        tcp.set_nodelay(true)?;
        keep_alive(&tcp);
        let Some(tls) = tls else {
            return Ok(Box::new(tcp));
        };
        let server = rustls::pki_types::ServerName::try_from(name.to_owned())?;
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, tls.connect(server, tcp))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|error| tls::explain(&error, &self.origin()))?;
        Ok(Box::new(stream))
    }
}

fn uri(url: &Url) -> Result<hyper::Uri, hyper::http::Error> {
    let host = url.host_str().expect("checked when made");
    let port = url.port_or_known_default();
    let port = port.expect("http and https have ports");
    hyper::Uri::builder()
        .scheme(url.scheme())
        .authority(format!("{host}:{port}"))
        .path_and_query("/")
        .build()
}

fn own_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_millis() as u64)
}

fn is_loopback(host: &Host<&str>) -> bool {
    match host {
        Host::Domain(name) => *name == "localhost" || name.ends_with(".localhost"),
        Host::Ipv4(ip) => ip.is_loopback(),
        Host::Ipv6(ip) => ip.is_loopback(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use tokio::net::TcpListener;

    use super::*;
    use crate::happy_eyeballs::tests::dead;

    /// The registry has moved, and where it was nobody answers.
    #[tokio::test]
    async fn an_address_that_is_dead_by_now_costs_a_moment() {
        let (gone, _held, _listener) = dead("127.0.0.2").await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        let registry = Registry::new(&format!("http://{alive}"), None).unwrap();
        *registry.quick_address.lock() = Some(gone);
        let started = Instant::now();
        assert!(registry.connect_quickly().await.is_ok());
        assert!(started.elapsed() < Duration::from_secs(2));
        assert_eq!(*registry.quick_address.lock(), Some(alive));
    }
}
