//! Port mapping against a real miniupnpd: made by each protocol, renewed, found again after the
//! router's restart, and gone after every kind of end.

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use ringback_tests::{
    agent,
    lab::{
        DEVICE_HOST, DEVICE_PUBLIC, Lab,
        capture::Capture,
        coturn::Coturn,
        file_server::FileServer,
        ip_protocol::UDP,
        mapping_router::{Forwarded, MappingRouter, Settings},
        namespace::Namespace,
        registry::Registry,
        site::LAN_ROUTER,
    },
    profile::{Profile, Up},
};
use serde_json::Value;

/// For what takes milliseconds, on a busy machine.
const SOON: Duration = Duration::from_secs(10);

const UPNP: Settings = Settings {
    upnp: true,
    natpmp: false,
    ignores_pcp: false,
    behind_nat: false,
    lifetimes: (120, 86_400),
};
const PCP: Settings = Settings {
    upnp: false,
    natpmp: true,
    ..UPNP
};
const NAT_PMP: Settings = Settings {
    ignores_pcp: true,
    ..PCP
};

/// Asks again until the answer is yes; the time that took.
fn within(limit: Duration, mut is: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let start = Instant::now();
    while !is()? {
        ensure!(start.elapsed() < limit, "not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(start.elapsed())
}

fn configure(profile: &Profile<'_>, text: &str) -> Result<()> {
    std::fs::create_dir_all(profile.dir())?;
    Ok(std::fs::write(profile.dir().join("config.toml"), text)?)
}

/// What the agent says of its mappings, once it has tried.
fn tried(profile: &Profile<'_>) -> Result<Value> {
    let mut mappings = Value::Null;
    within(SOON, || {
        mappings = profile.status()?["port_mapping"].take();
        Ok(mappings["tried"] == true)
    })?;
    Ok(mappings)
}

fn mapped(profile: &Profile<'_>, method: &str) -> Result<u16> {
    let mappings = tried(profile)?;
    ensure!(mappings["udp"]["method"] == method, "{mappings}");
    let external: SocketAddr = mappings["udp"]["external"]
        .as_str()
        .context("no address")?
        .parse()?;
    ensure!(external.ip() == DEVICE_PUBLIC, "{mappings}");
    Ok(external.port())
}

fn udp(forwarded: &[Forwarded], external: u16) -> Option<&Forwarded> {
    forwarded
        .iter()
        .find(|(protocol, port, ..)| protocol == "udp" && *port == external)
}

/// A stranger's datagram to the mapped port arrives at the agent's.
fn lets_a_stranger_in(lab: &Lab, external: u16, port: u16) -> Result<()> {
    let stranger = lab.registry().udp((Ipv4Addr::UNSPECIFIED, 0))?;
    let said = b"\xffis anybody there?";
    // The end of a capture may overtake the datagram.
    within(SOON, || {
        let capture = Capture::start(lab, lab.device().host(), "eth0")?;
        stranger.send_to(said, (DEVICE_PUBLIC, external))?;
        let packets = capture.finish()?;
        Ok(packets.iter().any(|packet| {
            packet.protocol == UDP
                && packet.payload == said
                && *packet.destination.ip() == DEVICE_HOST
                && packet.destination.port() == port
        }))
    })?;
    Ok(())
}

fn from_start_to_end(settings: Settings, method: &str) -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let router = MappingRouter::start(&lab, lab.device(), settings)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let mut up = device.up(&registry, &["--port", "40100"])?;
    let external = mapped(&device, method)?;
    let forwarded = router.forwarded()?;
    assert_eq!(
        udp(&forwarded, external),
        Some(&("udp".to_owned(), external, DEVICE_HOST, 40100)),
        "{forwarded:?}"
    );
    lets_a_stranger_in(&lab, external, 40100)?;

    let start = Instant::now();
    up.process.interrupt(SOON)?;
    println!("{method}: the agent's end took {:.0?}", start.elapsed());
    assert_eq!(router.forwarded()?, []);
    assert_eq!(journals(&device)?, 0);

    // A process that is killed deletes nothing; the next one does, though it has another port.
    let mut up = device.up_again()?;
    let first = mapped(&device, method)?;
    up.process.kill9()?;
    ensure!(udp(&router.forwarded()?, first).is_some());
    assert_eq!(journals(&device)?, 1);
    configure_port(&device, 40200)?;
    let mut up = device.up_again()?;
    let second = mapped(&device, method)?;
    within(SOON, || Ok(router.forwarded()?.len() == 2))?;
    let forwarded = router.forwarded()?;
    assert!(udp(&forwarded, second).is_some(), "{forwarded:?}");
    // A UDP and a TCP port, and none of the first one's.
    assert!(forwarded.iter().any(|forwarded| forwarded.0 == "tcp"));
    for (_, _, host, port) in &forwarded {
        assert_eq!((*host, *port), (DEVICE_HOST, 40200), "{forwarded:?}");
    }
    up.process.signal(Signal::SIGTERM)?;
    up.process.wait(SOON)?;
    assert_eq!(router.forwarded()?, []);
    Ok(())
}

fn configure_port(profile: &Profile<'_>, port: u16) -> Result<()> {
    let path = profile.dir().join("config.toml");
    let text = std::fs::read_to_string(&path)?.replace("40100", &port.to_string());
    Ok(std::fs::write(path, text)?)
}

fn journals(profile: &Profile<'_>) -> Result<usize> {
    let files = std::fs::read_dir(profile.dir())?;
    Ok(files
        .flatten()
        .filter(|file| {
            file.file_name()
                .to_string_lossy()
                .starts_with("port-mapping-")
        })
        .count())
}

#[test]
fn by_upnp() -> Result<()> {
    from_start_to_end(UPNP, "UPnP")
}

#[test]
fn by_nat_pmp() -> Result<()> {
    from_start_to_end(NAT_PMP, "NAT-PMP")
}

#[test]
fn by_pcp() -> Result<()> {
    from_start_to_end(PCP, "PCP")
}

/// With a lease of a few seconds: kept for three times as long while the agent lives, gone when the
/// lease is over after it was killed.
fn lease(settings: &Settings, method: &str) -> Result<()> {
    const LEASE: u32 = 4;
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let settings = Settings {
        lifetimes: (1, LEASE),
        ..settings.clone()
    };
    let router = MappingRouter::start(&lab, lab.device(), settings)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    configure(&device, &format!("port_mapping_lease_s = {LEASE}\n"))?;
    let mut up = device.up(&registry, &[])?;
    let external = mapped(&device, method)?;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(3 * u64::from(LEASE)) {
        let forwarded = router.forwarded()?;
        ensure!(
            udp(&forwarded, external).is_some(),
            "gone after {:?}",
            start.elapsed()
        );
        std::thread::sleep(Duration::from_millis(100));
    }
    up.process.kill9()?;
    let gone = within(Duration::from_secs(3 * u64::from(LEASE)), || {
        Ok(router.forwarded()?.is_empty())
    })?;
    println!("{method}: gone {gone:.1?} after the agent was killed, with a lease of {LEASE} s");
    Ok(())
}

#[test]
fn a_lease_by_upnp_is_renewed_and_ends() -> Result<()> {
    lease(&UPNP, "UPnP")
}

#[test]
fn a_lease_by_pcp_is_renewed_and_ends() -> Result<()> {
    lease(&PCP, "PCP")
}

#[test]
fn a_router_that_starts_anew_is_asked_again() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let mut router = MappingRouter::start(&lab, lab.device(), Settings::default())?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let _up = device.up(&registry, &[])?;
    let external = mapped(&device, "PCP")?;
    router.restart()?;
    let back = within(SOON, || Ok(udp(&router.forwarded()?, external).is_some()))?;
    println!("mapped again {back:.1?} after the router's restart");
    Ok(())
}

#[test]
fn a_new_address_of_the_host_is_mapped() -> Result<()> {
    const NEW: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 33);
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let router = MappingRouter::start(&lab, lab.device(), Settings::default())?;
    let host = lab.device().host();
    let device = Profile::new(&lab, &registry, host, "nas");
    let _up = device.up(&registry, &["--port", "40100"])?;
    mapped(&device, "PCP")?;
    for change in [
        format!("addr del {DEVICE_HOST}/24 dev eth0"),
        format!("addr add {NEW}/24 dev eth0"),
        "route replace default via 192.168.1.1 dev eth0".into(),
    ] {
        agent::run(host.command("ip").args(change.split(' ')))?;
    }
    let leads_there = |forwarded: &Forwarded| forwarded.2 == NEW && forwarded.3 == 40100;
    let time = within(SOON, || Ok(router.forwarded()?.iter().any(leads_there)))?;
    println!("mapped {time:.1?} after the change of address");
    Ok(())
}

#[test]
fn two_agents_behind_one_router_do_not_take_each_others_port() -> Result<()> {
    for settings in [UPNP, PCP] {
        let lab = Lab::builder().build()?;
        let _coturn = Coturn::start(&lab)?;
        let registry = Registry::start(&lab)?;
        let router = MappingRouter::start(&lab, lab.device(), settings)?;
        let second_host = lab
            .device()
            .add_host("nas2", Ipv4Addr::new(192, 168, 1, 5))?;
        let first = Profile::new(&lab, &registry, lab.device().host(), "nas");
        let second = Profile::new(&lab, &registry, &second_host, "nas2");
        let _up = first.up(&registry, &["--port", "40100"])?;
        tried(&first)?;
        let mut second_up = second.up(&registry, &["--port", "40100"])?;
        tried(&second)?;
        // A UDP and a TCP port for each, and no two the same.
        within(SOON, || Ok(router.forwarded()?.len() == 4))?;
        let forwarded = router.forwarded()?;
        for protocol in ["udp", "tcp"] {
            let of_it: Vec<_> = forwarded.iter().filter(|f| f.0 == protocol).collect();
            assert_eq!(of_it.len(), 2, "{forwarded:?}");
            assert_ne!(of_it[0].1, of_it[1].1);
            assert_ne!(of_it[0].2, of_it[1].2);
        }
        second_up.process.interrupt(SOON)?;
        let forwarded = router.forwarded()?;
        assert_eq!(forwarded.len(), 2, "the first one's stay: {forwarded:?}");
        assert!(forwarded.iter().all(|f| f.2 == DEVICE_HOST));
        assert!(udp(&forwarded, 40100).is_some());
    }
    Ok(())
}

/// Carrier NAT: miniupnpd itself finds that its address is none of the Internet's.
#[test]
fn a_router_without_a_public_address_is_reported() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let settings = Settings {
        behind_nat: true,
        ..Settings::default()
    };
    let _router = MappingRouter::start(&lab, lab.device(), settings)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let _up = device.up(&registry, &[])?;
    let mappings = tried(&device)?;
    println!("{mappings}");
    assert_eq!(mappings["trouble"]["trouble"], "double-nat", "{mappings}");
    Ok(())
}

fn asks_of_the_router(lab: &Lab, registry: &Registry, more: &[&str]) -> Result<(Up, usize)> {
    let device = Profile::new(lab, registry, lab.device().host(), "nas");
    let capture = Capture::start(lab, lab.device().host(), "eth0")?;
    let up = device.up(registry, more)?;
    if more.is_empty() {
        let mappings = tried(&device)?;
        assert_eq!(mappings["trouble"]["trouble"], "silent", "{mappings}");
    }
    let asks = |port| {
        move |packet: &ringback_tests::lab::capture::Packet| packet.destination.port() == port
    };
    let packets = capture.finish()?;
    let count = packets
        .iter()
        .filter(|p| asks(5351)(p) || asks(1900)(p))
        .count();
    Ok((up, count))
}

#[test]
fn a_router_that_says_nothing_is_asked_little() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    // Not even "closed" comes back.
    lab.device().drop_at_router(&[5351, 1900])?;
    let start = Instant::now();
    let (mut up, count) = asks_of_the_router(&lab, &registry, &[])?;
    println!(
        "{count} datagrams, {:.1?} from the agent's start to the verdict",
        start.elapsed()
    );
    assert!((1..=16).contains(&count), "{count}");
    let start = Instant::now();
    up.process.interrupt(SOON)?;
    assert!(
        start.elapsed() < Duration::from_secs(2),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

#[test]
fn a_router_is_not_asked_when_that_is_switched_off() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let (_up, count) = asks_of_the_router(&lab, &registry, &["--no-port-mapping"])?;
    assert_eq!(count, 0);
    Ok(())
}

/// The device's mapped port is told to the caller, which reaches the device by it; and a command's own
/// mapping is gone with the command.
#[test]
fn a_call_uses_the_mapped_ports_of_both_sides() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let _web = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let _device_router = MappingRouter::start(&lab, lab.device(), Settings::default())?;
    let caller_router = MappingRouter::start(&lab, lab.caller(), Settings::default())?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(&registry, &["--port", "40100"])?;
    let mapped = SocketAddr::from((DEVICE_PUBLIC, mapped(&device, "PCP")?));
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let mut call = caller.connect(&up.id, &[(8080, "web")])?;
    let receipt = call.event("connected", 1)?["receipt"].take();
    let paths = receipt["paths"].as_array().context("no paths")?;
    let tried = paths
        .iter()
        .find(|path| path["address"] == mapped.to_string());
    ensure!(tried.is_some(), "{mapped} was not tried: {receipt}");
    within(SOON, || Ok(caller_router.forwarded()?.len() == 2))?;
    call.process.interrupt(SOON)?;
    assert_eq!(caller_router.forwarded()?, []);
    assert_eq!(journals(&caller)?, 0);
    Ok(())
}

/// A gateway that answers every search at once, and whose services map nothing: no line leads out of
/// them. Counts what it is asked for by HTTP.
fn decoy(host: &Namespace, address: Ipv4Addr) -> Result<Arc<AtomicUsize>> {
    const PORT: u16 = 5555;
    let group = Ipv4Addr::new(239, 255, 255, 250);
    let search = host.enter(|| -> std::io::Result<UdpSocket> {
        use socket2::{Domain, Socket, Type};
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None)?;
        // The real one shares the port.
        socket.set_reuse_address(true)?;
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 1900)).into())?;
        socket.join_multicast_v4(&group, &address)?;
        Ok(socket.into())
    })??;
    let listener = host.listen((address, PORT))?;
    std::thread::spawn(move || {
        let answer = format!(
            "HTTP/1.1 200 OK\r\nST: upnp:rootdevice\r\nLOCATION: http://{address}:{PORT}/root.xml\r\n\r\n"
        );
        let mut buffer = [0; 2048];
        while let Ok((_, from)) = search.recv_from(&mut buffer) {
            let _ = search.send_to(answer.as_bytes(), from);
        }
    });
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = asked.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            counted.fetch_add(1, Ordering::Relaxed);
            let mut request = [0; 4096];
            let read = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..read]).into_owned();
            let (status, body) = if request.starts_with("GET /root.xml") {
                ("200 OK", DESCRIPTION.to_owned())
            } else if request.starts_with("GET /scpd.xml") {
                ("200 OK", SCPD.to_owned())
            } else {
                ("500 Internal Server Error", FAULT.to_owned())
            };
            let _ = write!(
                stream,
                "HTTP/1.1 {status}\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
        }
    });
    Ok(asked)
}

const DESCRIPTION: &str = "<?xml version=\"1.0\"?><root xmlns=\"urn:schemas-upnp-org:device-1-0\"><device>\
    <deviceType>urn:schemas-upnp-org:device:InternetGatewayDevice:1</deviceType><serviceList>\
    <service><serviceType>urn:schemas-upnp-org:service:WANPPPConnection:1</serviceType>\
    <SCPDURL>/scpd.xml</SCPDURL><controlURL>/ppp</controlURL></service>\
    <service><serviceType>urn:schemas-upnp-org:service:WANIPConnection:1</serviceType>\
    <SCPDURL>/scpd.xml</SCPDURL><controlURL>/ip</controlURL></service>\
    </serviceList></device></root>";
const SCPD: &str = "<?xml version=\"1.0\"?><scpd xmlns=\"urn:schemas-upnp-org:service-1-0\"><actionList>\
    <action><name>GetExternalIPAddress</name><argumentList><argument><name>NewExternalIPAddress</name>\
    <direction>out</direction></argument></argumentList></action></actionList></scpd>";
const FAULT: &str = "<?xml version=\"1.0\"?><s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\">\
    <s:Body><s:Fault><faultcode>s:Client</faultcode><faultstring>UPnPError</faultstring><detail>\
    <UPnPError xmlns=\"urn:schemas-upnp-org:control-1-0\"><errorCode>501</errorCode>\
    <errorDescription>Action Failed</errorDescription></UPnPError></detail></s:Fault></s:Body></s:Envelope>";

/// Another box of the LAN answers first, and so does another device of the router, none of whose
/// services has a line.
#[test]
fn the_gateway_that_works_is_used_whoever_answers_first() -> Result<()> {
    const BOX: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 8);
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let other = lab.device().add_host("box", BOX)?;
    let of_box = decoy(&other, BOX)?;
    let of_router = decoy(lab.device().router(), LAN_ROUTER)?;
    let router = MappingRouter::start(&lab, lab.device(), UPNP)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let mut up = device.up(&registry, &["--port", "40100"])?;
    let external = mapped(&device, "UPnP")?;
    let forwarded = router.forwarded()?;
    ensure!(udp(&forwarded, external).is_some(), "{forwarded:?}");
    // The description, and both of its services.
    ensure!(
        of_router.load(Ordering::Relaxed) >= 3,
        "the router's other device was tried"
    );
    assert_eq!(
        of_box.load(Ordering::Relaxed),
        0,
        "no other host is asked anything"
    );

    // What a killed process has left is found, too, behind all of them.
    up.process.kill9()?;
    ensure!(udp(&router.forwarded()?, external).is_some());
    configure_port(&device, 40200)?;
    let mut up = device.up_again()?;
    let second = mapped(&device, "UPnP")?;
    let forwarded = router.forwarded()?;
    assert_eq!(udp(&forwarded, second).map(|(.., port)| *port), Some(40200));
    ensure!(
        forwarded.iter().all(|(.., port)| *port == 40200),
        "{forwarded:?}"
    );
    up.process.interrupt(SOON)?;
    assert_eq!(router.forwarded()?, []);
    Ok(())
}
