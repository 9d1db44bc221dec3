//! The routers that open ports on request, asked by hand: UPnP-IGD, NAT-PMP, PCP.

use std::{
    io::{Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::lab::{
    DEVICE_HOST, DEVICE_PUBLIC, Lab, REGISTRY,
    ip_protocol::{TCP, UDP},
    kind::Kind,
    miniupnpd::{PCP_PORT, PortMapping, SSDP_PORT},
    probe::arrives,
    site::{LAN_ROUTER, Site},
};

const SECOND: Duration = Duration::from_secs(1);
/// How long an answer that must not come is waited for.
const SILENCE: Duration = Duration::from_millis(300);
const INTERNAL: u16 = 7000;
const EXTERNAL: u16 = 7777;

/// Sends a datagram from the main host until an answer comes that is accepted.
fn ask(site: &Site, to: (Ipv4Addr, u16), request: &[u8], timeout: Duration) -> Result<Vec<u8>> {
    let socket = site.host().udp((DEVICE_HOST, 0))?;
    socket.set_read_timeout(Some(Duration::from_millis(250)))?;
    let deadline = Instant::now() + timeout;
    let mut buffer = [0; 1500];
    while Instant::now() < deadline {
        socket.send_to(request, to)?;
        if let Ok((length, _)) = socket.recv_from(&mut buffer) {
            return Ok(buffer[..length].to_vec());
        }
    }
    anyhow::bail!("no answer from {to:?}")
}

/// A NAT-PMP mapping request (RFC 6886, section 3.3); lifetime 0 ends the mapping.
fn nat_pmp(site: &Site, lifetime: u32) -> Result<(u16, u32)> {
    let external = if lifetime == 0 { 0 } else { EXTERNAL };
    let mut request = vec![0, 1, 0, 0];
    request.extend(INTERNAL.to_be_bytes());
    request.extend(external.to_be_bytes());
    request.extend(lifetime.to_be_bytes());
    let answer = ask(site, (LAN_ROUTER, PCP_PORT), &request, 5 * SECOND)?;
    ensure!(
        answer.len() == 16 && answer[..4] == [0, 129, 0, 0],
        "{answer:?}"
    );
    let port = u16::from_be_bytes([answer[10], answer[11]]);
    let granted = u32::from_be_bytes(answer[12..16].try_into()?);
    Ok((port, granted))
}

/// A PCP MAP request (RFC 6887, section 11.1) for a protocol; lifetime 0 ends the mapping.
fn pcp(site: &Site, protocol: u8, nonce: [u8; 12], lifetime: u32) -> Result<(SocketAddr, u32)> {
    let mut request = vec![2, 1, 0, 0];
    request.extend(lifetime.to_be_bytes());
    request.extend(DEVICE_HOST.to_ipv6_mapped().octets());
    request.extend(nonce);
    request.extend([protocol, 0, 0, 0]);
    request.extend(INTERNAL.to_be_bytes());
    request.extend(EXTERNAL.to_be_bytes());
    request.extend(Ipv4Addr::UNSPECIFIED.to_ipv6_mapped().octets());
    let answer = ask(site, (LAN_ROUTER, PCP_PORT), &request, 5 * SECOND)?;
    ensure!(
        answer.len() == 60 && answer[..4] == [2, 129, 0, 0],
        "{answer:?}"
    );
    let granted = u32::from_be_bytes(answer[4..8].try_into()?);
    let port = u16::from_be_bytes([answer[42], answer[43]]);
    let address: [u8; 16] = answer[44..60].try_into()?;
    Ok((
        SocketAddr::new(IpAddr::from(address).to_canonical(), port),
        granted,
    ))
}

fn discover() -> String {
    format!(
        "M-SEARCH * HTTP/1.1\r\nHOST: 239.255.255.250:{SSDP_PORT}\r\nMAN: \"ssdp:discover\"\r\n\
         MX: 1\r\nST: urn:schemas-upnp-org:device:InternetGatewayDevice:1\r\n\r\n"
    )
}

/// What a router answers to a search, asked by multicast as every client does.
fn search(site: &Site, timeout: Duration) -> Result<String> {
    let group = Ipv4Addr::new(239, 255, 255, 250);
    let answer = ask(site, (group, SSDP_PORT), discover().as_bytes(), timeout)?;
    Ok(String::from_utf8(answer)?)
}

/// An HTTP request to the router, and the whole answer.
fn http(site: &Site, router: SocketAddr, request: &str) -> Result<String> {
    let mut stream = site.host().connect(router)?;
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

/// Calls an action of the router's WANIPConnection service, and gives the answer.
fn upnp(site: &Site, action: &str, arguments: &str) -> Result<String> {
    let found = search(site, 5 * SECOND)?;
    let location = found
        .lines()
        .find_map(|line| line.strip_prefix("LOCATION: http://"));
    let (router, path) = location
        .and_then(|it| it.trim().split_once('/'))
        .context(found.clone())?;
    let router = router.parse()?;
    let get = |path: &str| format!("GET /{path} HTTP/1.0\r\nHost: {router}\r\n\r\n");
    let description = http(site, router, &get(path))?;
    let service = "urn:schemas-upnp-org:service:WANIPConnection:";
    let (_, version) = description.split_once(service).context("no such service")?;
    let service = format!("{service}{}", &version[..1]);
    let control = description
        .split_once(&service)
        .and_then(|(_, after)| after.split_once("<controlURL>"))
        .and_then(|(_, after)| after.split_once("</controlURL>"))
        .with_context(|| description.clone())?
        .0;
    let body = format!(
        "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" \
         s:encodingStyle=\"http://schemas.xmlsoap.org/soap/encoding/\"><s:Body>\
         <u:{action} xmlns:u=\"{service}\">{arguments}</u:{action}></s:Body></s:Envelope>"
    );
    let answer = http(
        site,
        router,
        &format!(
            "POST {control} HTTP/1.0\r\nHost: {router}\r\nContent-Type: text/xml\r\n\
             SOAPAction: \"{service}#{action}\"\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        ),
    )?;
    ensure!(
        answer
            .lines()
            .next()
            .is_some_and(|line| line.contains(" 200 ")),
        "{answer}"
    );
    Ok(answer)
}

fn add_by_upnp(site: &Site, protocol: &str, lifetime: u32) -> Result<String> {
    let arguments = format!(
        "<NewRemoteHost></NewRemoteHost><NewExternalPort>{EXTERNAL}</NewExternalPort>\
         <NewProtocol>{protocol}</NewProtocol><NewInternalPort>{INTERNAL}</NewInternalPort>\
         <NewInternalClient>{DEVICE_HOST}</NewInternalClient><NewEnabled>1</NewEnabled>\
         <NewPortMappingDescription>test</NewPortMappingDescription>\
         <NewLeaseDuration>{lifetime}</NewLeaseDuration>"
    );
    upnp(site, "AddPortMapping", &arguments)
}

fn delete_by_upnp(site: &Site, protocol: &str) -> Result<String> {
    let arguments = format!(
        "<NewRemoteHost></NewRemoteHost><NewExternalPort>{EXTERNAL}</NewExternalPort>\
         <NewProtocol>{protocol}</NewProtocol>"
    );
    upnp(site, "DeletePortMapping", &arguments)
}

fn mapping(protocol: u8) -> PortMapping {
    PortMapping {
        protocol,
        external: EXTERNAL,
        internal: SocketAddrV4::new(DEVICE_HOST, INTERNAL),
    }
}

/// Whether a stranger's datagram to the mapped port arrives, and the answer at the stranger.
fn lets_strangers_in(lab: &Lab) -> Result<bool> {
    let inside = lab.device().host().udp((DEVICE_HOST, INTERNAL))?;
    let stranger = lab.registry().udp((REGISTRY, 0))?;
    if !arrives(&stranger, (DEVICE_PUBLIC, EXTERNAL), &inside)? {
        return Ok(false);
    }
    inside.send_to(b"answer", stranger.local_addr()?)?;
    let from = stranger.recv_from(&mut [0; 64])?.1;
    assert_eq!(from, (DEVICE_PUBLIC, EXTERNAL).into(), "by the mapping");
    Ok(true)
}

fn lets_tcp_in(lab: &Lab) -> Result<bool> {
    let listener = lab.device().host().listen((DEVICE_HOST, INTERNAL))?;
    let reached = lab
        .registry()
        .enter(|| TcpStream::connect_timeout(&(DEVICE_PUBLIC, EXTERNAL).into(), SILENCE))?;
    drop(listener);
    Ok(reached.is_ok())
}

/// Waits until the router has no mapping any more.
fn gone(site: &Site, timeout: Duration) -> Result<Duration> {
    let start = Instant::now();
    loop {
        let mappings = site.port_mappings()?;
        if mappings.is_empty() {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < timeout, "still there: {mappings:?}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nat_pmp_opens_a_port_until_it_is_closed_or_runs_out() -> Result<()> {
    let lab = Lab::builder().device(Kind::PortRestrictedPcp).build()?;
    let site = lab.device();
    let address = ask(site, (LAN_ROUTER, PCP_PORT), &[0, 0], 5 * SECOND)?;
    assert_eq!(address[..4], [0, 128, 0, 0]);
    assert_eq!(address[8..12], DEVICE_PUBLIC.octets());
    assert!(!lets_strangers_in(&lab)?);
    assert_eq!(site.port_mappings()?, []);
    assert_eq!(nat_pmp(site, 3600)?, (EXTERNAL, 3600));
    assert_eq!(site.port_mappings()?, [mapping(UDP)]);
    assert!(lets_strangers_in(&lab)?);
    // The router forgets what it translates, and keeps what it was asked for.
    site.forget_mappings()?;
    assert!(lets_strangers_in(&lab)?);
    nat_pmp(site, 0)?;
    assert_eq!(site.port_mappings()?, []);
    site.forget_mappings()?;
    assert!(!lets_strangers_in(&lab)?);
    assert_eq!(nat_pmp(site, 2)?, (EXTERNAL, 2));
    assert_eq!(site.port_mappings()?, [mapping(UDP)]);
    let after = gone(site, 10 * SECOND)?;
    assert!(after >= SECOND, "{after:?}");
    Ok(())
}

#[test]
fn pcp_opens_ports_for_udp_and_tcp() -> Result<()> {
    let lab = Lab::builder().device(Kind::PortRestrictedPcp).build()?;
    let site = lab.device();
    let nonce = [7; 12];
    let expected = ((DEVICE_PUBLIC, EXTERNAL).into(), 3600);
    assert!(!lets_tcp_in(&lab)?);
    for protocol in [UDP, TCP] {
        assert_eq!(pcp(site, protocol, nonce, 3600)?, expected);
    }
    assert_eq!(site.port_mappings()?, [mapping(UDP), mapping(TCP)]);
    assert!(lets_strangers_in(&lab)?);
    assert!(lets_tcp_in(&lab)?);
    pcp(site, UDP, nonce, 0)?;
    assert_eq!(site.port_mappings()?, [mapping(TCP)]);
    // A router that has been restarted knows of nothing.
    site.power_off()?;
    site.power_on()?;
    assert_eq!(site.port_mappings()?, []);
    assert!(!lets_tcp_in(&lab)?);
    assert!(search(site, SILENCE).is_err(), "UPnP is off");
    Ok(())
}

#[test]
fn upnp_opens_ports_of_a_symmetric_nat() -> Result<()> {
    let lab = Lab::builder().device(Kind::SymmetricUpnp).build()?;
    let site = lab.device();
    let told = upnp(site, "GetExternalIPAddress", "")?;
    assert!(told.contains(&DEVICE_PUBLIC.to_string()), "{told}");
    add_by_upnp(site, "UDP", 3600)?;
    assert_eq!(site.port_mappings()?, [mapping(UDP)]);
    assert!(lets_strangers_in(&lab)?);
    assert!(!lets_tcp_in(&lab)?);
    add_by_upnp(site, "TCP", 3600)?;
    assert_eq!(site.port_mappings()?, [mapping(UDP), mapping(TCP)]);
    assert!(lets_tcp_in(&lab)?);
    for protocol in ["UDP", "TCP"] {
        delete_by_upnp(site, protocol)?;
    }
    assert_eq!(site.port_mappings()?, []);
    site.forget_mappings()?;
    assert!(!lets_strangers_in(&lab)?);
    add_by_upnp(site, "UDP", 2)?;
    assert_eq!(site.port_mappings()?, [mapping(UDP)]);
    gone(site, 10 * SECOND)?;
    assert!(
        ask(site, (LAN_ROUTER, PCP_PORT), &[0, 0], SILENCE).is_err(),
        "NAT-PMP is off"
    );
    Ok(())
}

/// A host that sends first by a mapping of the moment, and is then reached by the one that it asked
/// for, still hears: the kernel makes the newcomer's port another.
#[test]
fn a_port_that_was_asked_for_works_beside_the_mapping_of_the_moment() -> Result<()> {
    let lab = Lab::builder().device(Kind::PortRestrictedPcp).build()?;
    nat_pmp(lab.device(), 3600)?;
    let inside = lab.device().host().udp((DEVICE_HOST, INTERNAL))?;
    let peer = lab.registry().udp((REGISTRY, 0))?;
    inside.send_to(b"first", peer.local_addr()?)?;
    let from = peer.recv_from(&mut [0; 64])?.1;
    assert_ne!(from.port(), EXTERNAL);
    assert!(arrives(&peer, (DEVICE_PUBLIC, EXTERNAL), &inside)?);
    assert!(arrives(&peer, from, &inside)?);
    Ok(())
}

#[test]
fn no_other_kind_of_router_opens_ports() -> Result<()> {
    let lab = Lab::builder().device(Kind::SymmetricUpnp).build()?;
    let site = lab.device();
    add_by_upnp(site, "UDP", 3600)?;
    site.set_kind(Kind::PortRestricted)?;
    assert_eq!(site.port_mappings()?, []);
    assert!(search(site, SILENCE).is_err());
    assert!(ask(site, (LAN_ROUTER, PCP_PORT), &[0, 0], SILENCE).is_err());
    Ok(())
}
