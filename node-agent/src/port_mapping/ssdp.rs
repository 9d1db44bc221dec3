//! The search for a router's UPnP control points (UPnP Device Architecture 1.1, 1.3 and 2): every
//! answer counts until the time is over, and every WAN service of every answer, since what answers
//! first may be another box of the LAN, or a service without a line. `igd-next` searches, too, and
//! gives the first answer and the first service.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::handshake;
use hyper::header::HOST;
use hyper_util::rt::TokioIo;
use igd_next::aio::Gateway;
use igd_next::aio::tokio::Tokio;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use url::{Host, Url};
use xml::reader::{EventReader, XmlEvent};

use super::mapping::Place;
use super::upnp::Igd;

const GROUP: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(239, 255, 255, 250), 1900);
/// What is searched for: the device as such, and the services of those that only tell these. Later
/// versions answer to earlier ones.
const TARGETS: [&str; 3] = [
    "urn:schemas-upnp-org:device:InternetGatewayDevice:1",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// The services that map ports.
const SERVICES: [&str; 3] = [
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
];
/// Descriptions of the router that are fetched, services of each, and bytes of one.
const MAX_DESCRIPTIONS: usize = 8;
const MAX_SERVICES: usize = 8;
const MAX_BYTES: usize = 256 * 1024;
/// Elements inside each other.
const MAX_DEPTH: usize = 64;
/// For one document.
const DOCUMENT_LIMIT: Duration = Duration::from_secs(2);

/// A search that goes on until its time is over, or nobody wants it any more.
pub(super) struct Search {
    found: mpsc::Receiver<Igd>,
    _task: JoinSet<()>,
}

impl Search {
    /// Searches for control points of the router of `place`; others on the LAN do not count, as this
    /// host's packets do not go through them.
    pub(super) fn start(place: Place, limit: Duration) -> Self {
        let (sender, found) = mpsc::channel(MAX_DESCRIPTIONS * MAX_SERVICES);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let searched = tokio::time::timeout(limit, search(place, limit, &sender));
            if let Ok(Err(error)) = searched.await {
                tracing::debug!("no search for UPnP gateways: {error:#}");
            }
        });
        Self { found, _task: task }
    }

    /// The next one, as soon as it is found; `None` when the time is over.
    pub(super) async fn next(&mut self) -> Option<Igd> {
        self.found.recv().await
    }
}

async fn search(place: Place, limit: Duration, found: &mpsc::Sender<Igd>) -> Result<()> {
    let socket = open(place)?;
    // Devices answer at a random moment within so many seconds.
    let patience = limit.as_secs().clamp(1, 3);
    let request = |target| {
        format!(
            "M-SEARCH * HTTP/1.1\r\nHOST: {GROUP}\r\nMAN: \"ssdp:discover\"\r\nMX: {patience}\r\nST: {target}\r\n\r\n"
        )
    };
    // At once, and where multicast is held back.
    let router = (place.router, GROUP.port());
    let first = request(TARGETS[0]);
    if let Err(error) = socket.send_to(first.as_bytes(), router).await {
        tracing::debug!("the router can not be asked by itself: {error}");
    }
    for target in TARGETS {
        socket.send_to(request(target).as_bytes(), GROUP).await?;
    }
    let mut known = HashSet::new();
    let mut describing = JoinSet::new();
    let mut buffer = [0; 2048];
    loop {
        tokio::select! {
            // An ICMP error of an earlier datagram says nothing about the others.
            received = socket.recv_from(&mut buffer) => {
                let Ok((length, from)) = received else { continue };
                let Some(location) = location(&buffer[..length]) else { continue };
                if !is_at(&location, place.router) {
                    tracing::debug!(%location, %from, "a UPnP gateway that is not the router");
                } else if known.len() < MAX_DESCRIPTIONS && known.insert(location.clone()) {
                    describing.spawn(describe(place.router, location));
                }
            }
            Some(described) = describing.join_next() => {
                match described {
                    Ok(Ok(igds)) => for igd in igds {
                        // There is room for all.
                        let _ = found.send(igd).await;
                    },
                    Ok(Err(error)) => tracing::debug!("a UPnP answer leads nowhere: {error:#}"),
                    Err(error) => tracing::debug!("a UPnP answer was not understood: {error}"),
                }
            }
        }
    }
}

fn open(place: Place) -> Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // By the interface that leads to the router.
    socket.bind(&SocketAddr::from((place.local, 0)).into())?;
    socket.set_multicast_if_v4(&place.local)?;
    Ok(UdpSocket::from_std(socket.into())?)
}

/// Where an answer says that its description is.
fn location(answer: &[u8]) -> Option<Url> {
    let text = std::str::from_utf8(answer).ok()?;
    let lines = text.lines().take_while(|line| !line.trim().is_empty());
    let mut headers = lines.filter_map(|line| line.split_once(':'));
    let (_, value) = headers.find(|(name, _)| name.trim().eq_ignore_ascii_case("location"))?;
    value.trim().parse().ok()
}

/// Only the router itself is asked anything, whatever an answer or a description says.
fn is_at(url: &Url, router: Ipv4Addr) -> bool {
    url.scheme() == "http"
        && url.host() == Some(Host::Ipv4(router))
        && url.username().is_empty()
        && url.port_or_known_default() != Some(0)
}

/// The control points of one description.
async fn describe(router: Ipv4Addr, location: Url) -> Result<Vec<Igd>> {
    let description = get(&location).await?;
    let port = location.port_or_known_default().context("no port")?;
    let mut igds = Vec::new();
    for service in services(&description, &location) {
        if !is_at(&service.control, router) || !is_at(&service.scpd, router) {
            continue;
        }
        let schema = match get(&service.scpd).await {
            Ok(scpd) => actions(&scpd),
            Err(error) => {
                tracing::debug!(
                    service = service.kind,
                    "a service without a description: {error:#}"
                );
                continue;
            }
        };
        igds.push(Igd::new(Gateway {
            addr: SocketAddr::new(IpAddr::V4(router), port),
            root_url: location.path().to_owned(),
            control_url: service.control.into(),
            control_schema_url: service.scpd.into(),
            control_schema: schema,
            service_type: service.kind,
            provider: Tokio,
        }));
    }
    if igds.is_empty() {
        bail!("{location} describes no service that maps ports");
    }
    Ok(igds)
}

async fn get(url: &Url) -> Result<Bytes> {
    let fetch = async {
        let host = url.host_str().context("no host")?;
        let port = url.port_or_known_default().context("no port")?;
        let tcp = TcpStream::connect((host, port)).await?;
        let (mut requests, connection) = handshake(TokioIo::new(tcp)).await?;
        tokio::spawn(connection);
        let request =
            hyper::Request::get(&url[url::Position::BeforePath..url::Position::AfterQuery])
                .header(HOST, format!("{host}:{port}"))
                .body(Empty::<Bytes>::new())?;
        let response = requests.send_request(request).await?;
        let status = response.status();
        if !status.is_success() {
            bail!("{url} answers HTTP {status}");
        }
        let body = Limited::new(response.into_body(), MAX_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| anyhow::anyhow!("{url} breaks off: {error}"))?;
        Ok(body.to_bytes())
    };
    tokio::time::timeout(DOCUMENT_LIMIT, fetch)
        .await
        .with_context(|| format!("{url} does not answer"))?
}

/// A service that maps ports.
struct Service {
    kind: String,
    scpd: Url,
    control: Url,
}

/// The services of a device description, in its order. What can not be read ends it.
fn services(description: &[u8], location: &Url) -> Vec<Service> {
    let mut base = location.clone();
    let mut found = Vec::new();
    let mut fields: HashMap<String, String> = HashMap::new();
    walk(description, |step| match step {
        Step::Text([.., "URLBase"], text) => {
            if let Ok(url) = location.join(text) {
                base = url;
            }
        }
        Step::Text([.., "service", field], text) => {
            fields
                .entry((*field).to_owned())
                .or_default()
                .push_str(text);
        }
        Step::End([.., "service"]) => {
            let mut field = |name| fields.remove(name).unwrap_or_default();
            let kind = field("serviceType");
            let urls = (
                base.join(&field("SCPDURL")),
                base.join(&field("controlURL")),
            );
            if let (Ok(scpd), Ok(control)) = urls
                && SERVICES.contains(&&*kind)
                && found.len() < MAX_SERVICES
            {
                found.push(Service {
                    kind,
                    scpd,
                    control,
                });
            }
            fields.clear();
        }
        _ => {}
    });
    found
}

/// The actions of a service, each with the arguments that it takes.
fn actions(scpd: &[u8]) -> HashMap<String, Vec<String>> {
    let mut found = HashMap::new();
    let (mut action, mut taken) = (String::new(), Vec::new());
    let (mut argument, mut direction) = (String::new(), String::new());
    walk(scpd, |step| match step {
        Step::Text([.., "action", "name"], text) => action.push_str(text),
        Step::Text([.., "argument", "name"], text) => argument.push_str(text),
        Step::Text([.., "argument", "direction"], text) => direction.push_str(text),
        Step::End([.., "argument"]) => {
            let name = std::mem::take(&mut argument);
            if std::mem::take(&mut direction) == "in" {
                taken.push(name);
            }
        }
        Step::End([.., "action"]) => {
            found.insert(std::mem::take(&mut action), std::mem::take(&mut taken));
        }
        _ => {}
    });
    found
}

/// What is met on the way through a document; the elements that it is inside of come first.
enum Step<'a> {
    Text(&'a [&'a str], &'a str),
    End(&'a [&'a str]),
}

/// Goes through a document without ever holding more of it than the way to one element.
fn walk(document: &[u8], mut visit: impl FnMut(Step<'_>)) {
    let mut inside: Vec<String> = Vec::new();
    for event in EventReader::new(document) {
        let names: Vec<&str> = inside.iter().map(String::as_str).collect();
        match event {
            Ok(XmlEvent::StartElement { name, .. }) => {
                if inside.len() == MAX_DEPTH {
                    return;
                }
                inside.push(name.local_name);
            }
            Ok(XmlEvent::Characters(text) | XmlEvent::CData(text)) => {
                visit(Step::Text(&names, text.trim()));
            }
            Ok(XmlEvent::EndElement { .. }) => {
                visit(Step::End(&names));
                inside.pop();
            }
            Ok(_) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 1);

    #[test]
    fn only_the_router_is_asked() {
        for (answer, is) in [
            (
                "HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.1:5000/root.xml\r\n\r\n",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nLocation:http://192.168.1.1/root.xml\r\n",
                true,
            ),
            (
                "HTTP/1.1 200 OK\r\nLOCATION: http://192.168.1.9:5000/root.xml\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nLOCATION: https://192.168.1.1/root.xml\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nLOCATION: http://me@192.168.1.1/root.xml\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\nLOCATION: http://router.lan/root.xml\r\n\r\n",
                false,
            ),
            (
                "HTTP/1.1 200 OK\r\n\r\nLOCATION: http://192.168.1.1/root.xml\r\n",
                false,
            ),
        ] {
            let location = location(answer.as_bytes());
            assert_eq!(
                location.is_some_and(|url| is_at(&url, ROUTER)),
                is,
                "{answer}"
            );
        }
        assert!(location(b"\xff").is_none());
    }

    #[test]
    fn every_service_that_maps_ports_is_found() {
        let service = |kind: &str, path: &str| {
            format!(
                "<service><serviceType>urn:schemas-upnp-org:service:{kind}</serviceType>\
                 <controlURL>{path}/control</controlURL><SCPDURL>{path}.xml</SCPDURL></service>"
            )
        };
        let document = format!(
            "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device><serviceList>{}</serviceList>\
             <deviceList><device><serviceList>{}{}{}</serviceList></device></deviceList></device></root>",
            service("Layer3Forwarding:1", "/l3"),
            service("WANPPPConnection:1", "/ppp"),
            service("WANIPConnection:1", "http://192.168.1.1:5001/ip"),
            service("WANIPConnection:1", "http://192.0.2.1/other"),
        );
        let location: Url = "http://192.168.1.1:5000/root.xml".parse().unwrap();
        let found = services(document.as_bytes(), &location);
        let controls: Vec<String> = found
            .iter()
            .filter(|service| is_at(&service.control, ROUTER))
            .map(|service| service.control.to_string())
            .collect();
        assert_eq!(
            controls,
            [
                "http://192.168.1.1:5000/ppp/control",
                "http://192.168.1.1:5001/ip/control"
            ]
        );
    }

    #[test]
    fn actions_know_what_they_take() {
        let scpd = b"<scpd><actionList><action><name>DeletePortMapping</name><argumentList>\
            <argument><name>NewProtocol</name><direction>in</direction></argument>\
            <argument><name>NewResult</name><direction>out</direction></argument>\
            </argumentList></action><action><name>Bare</name></action></actionList></scpd>";
        let actions = actions(scpd);
        assert_eq!(actions["DeletePortMapping"], ["NewProtocol"]);
        assert!(actions["Bare"].is_empty());
    }

    #[test]
    fn a_hostile_document_is_given_up() {
        let deep = "<a>".repeat(100_000);
        let mut steps = 0;
        walk(deep.as_bytes(), |_| steps += 1);
        assert_eq!(steps, 0);
        let bomb = "<!DOCTYPE r [<!ENTITY a \"aaaaaaaaaa\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">\
            <!ENTITY c \"&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;\"><!ENTITY d \"&c;&c;&c;&c;&c;&c;&c;&c;&c;&c;\">\
            <!ENTITY e \"&d;&d;&d;&d;&d;&d;&d;&d;&d;&d;\"><!ENTITY f \"&e;&e;&e;&e;&e;&e;&e;&e;&e;&e;\">\
            <!ENTITY g \"&f;&f;&f;&f;&f;&f;&f;&f;&f;&f;\">]><r>&g;</r>";
        let mut bytes = 0;
        walk(bomb.as_bytes(), |step| {
            if let Step::Text(_, text) = step {
                bytes += text.len();
            }
        });
        assert!(bytes < 4 << 20, "{bytes}");
    }
}
