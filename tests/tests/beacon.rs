//! The origin's server (S1, S2, S4, S5), literally: a device that holds no connection, registers by
//! UDP, is notified on its own mapping, fetches over TLS and dials back. On real NAT, with what
//! went over the wire captured.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use ringback_protocol::{
    SecretKey,
    beacon::{Member, MemberOutput},
    path::Role,
    relay::{Item, Room, StreamReader, framed},
};
use ringback_tests::{
    download::fetch,
    lab::{
        CALLER_PUBLIC, DEVICE_PUBLIC, Lab, REGISTRY, STUN, STUN_PORT,
        beacon::Beacon,
        capture::{Capture, Packet},
        file_server::FileServer,
        impairment::Impairment,
        ip_protocol::{TCP, UDP},
        kind::{Kind, MAPPED_PORTS},
        registry::Registry,
        stun,
    },
    profile::{Ended, Profile, Up, row, until},
};
use serde_json::Value;

const DELAY: Duration = Duration::from_millis(20);
/// So long that the work of a busy machine is less than half of a round trip.
const FAR: Duration = Duration::from_millis(100);
const BEACON: SocketAddrV4 = SocketAddrV4::new(STUN[0], STUN_PORT);
/// The types of the beacon's datagrams (PROTOCOL §16.1).
const REGISTER: u8 = 3;
const KEEPALIVE: u8 = 4;
const REGISTERED: u8 = 5;
const NOTIFY: u8 = 6;

/// A lab with a registry and a beacon.
struct Stage {
    beacon: Beacon,
    registry: Registry,
    _files: FileServer,
    lab: Lab,
}

impl Stage {
    fn set(lab: Lab, beacon: &[&str]) -> Result<Self> {
        // Fast Open at both ends: as a client, as a server, and for servers that do not ask for it.
        lab.registry().set_sysctl("net/ipv4/tcp_fastopen", "1027")?;
        lab.device()
            .host()
            .set_sysctl("net/ipv4/tcp_fastopen", "1")?;
        let registry = Registry::start(&lab)?;
        let beacon = Beacon::start(&lab, &registry, beacon)?;
        let files = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
        Ok(Self {
            beacon,
            registry,
            _files: files,
            lab,
        })
    }

    fn device(&self) -> Profile<'_> {
        Profile::new(&self.lab, &self.registry, self.lab.device().host(), "nas")
    }

    /// A device that lives on the beacon.
    fn up(&self, more: &[&str]) -> Result<Up> {
        let device = self.device();
        device.expose(&[("web", "http://127.0.0.1")])?;
        device.up(&self.registry, &[&["--udp-only"], more].concat())
    }

    /// A call from the caller's host that fetches a file.
    fn call(&self, id: &str, name: &str, port: u16) -> Result<Value> {
        let host = self.lab.caller().host();
        let caller = Profile::new(&self.lab, &self.registry, host, name);
        let call = caller.connect(id, &[(port, "web")])?;
        let receipt = call.event("connected", 1)?["receipt"].clone();
        call.is_direct()
            .with_context(|| format!("it began so: {receipt}"))?;
        fetch(host, Profile::local(port), port.into(), 100_000)?;
        Ok(receipt)
    }

    fn row(&self, id: &str) -> Result<Value> {
        row(&self.lab, &self.registry, id)
    }

    /// The device's mapping to the beacon, as its router has it.
    fn mapping(&self) -> Result<Option<SocketAddrV4>> {
        let port = self.device().status()?["udp_port"].to_string();
        let mut conntrack = self.lab.device().router().command("conntrack");
        conntrack.args(["-L", "-p", "udp", "--orig-port-src", &port]);
        conntrack.args(["--orig-dst", &STUN[0].to_string()]);
        let table = Ended::of(conntrack.args(["--orig-port-dst", &STUN_PORT.to_string()]))?;
        ensure!(table.code == 0, "{table:?}");
        let Some(line) = table.stdout.lines().find(|line| line.contains("src=")) else {
            return Ok(None);
        };
        let last = |key: &str| {
            let mut words = line.split_whitespace().rev();
            words
                .find_map(|word| word.strip_prefix(key))
                .map(str::to_owned)
        };
        let ip = last("dst=").context("no address")?.parse()?;
        let port = last("dport=").context("no port")?.parse()?;
        Ok(Some(SocketAddrV4::new(ip, port)))
    }
}

fn listed(row: &Value) -> Option<SocketAddrV4> {
    let address = row["public_address"].as_str()?.parse().ok()?;
    let port = row["mapped_port"].as_u64()?.try_into().ok()?;
    Some(SocketAddrV4::new(address, port))
}

/// A datagram of the beacon's of that type.
fn is_beacon(packet: &Packet, kind: u8) -> bool {
    packet.protocol == UDP && packet.payload.starts_with(&[9, kind])
}

#[test]
fn the_origins_sequence() -> Result<()> {
    let stage = Stage::set(Lab::builder().delay(FAR).build()?, &[])?;
    let lab = &stage.lab;
    let up = stage.up(&["--keepalive-s", "2"])?;
    let row = stage.row(&up.id)?;
    assert_eq!(
        (&row["online"], &row["via"]),
        (&true.into(), &"beacon".into())
    );

    // Idle: four datagrams each way, and nothing else.
    let capture = Capture::start(lab, lab.device().router(), "wan")?;
    let before = stage.beacon.number(lab, "keepalives")?;
    until(Duration::from_secs(20), "four keepalives", || {
        let now = stage.beacon.number(lab, "keepalives")?;
        Ok((now >= before + 4).then_some(()))
    })?;
    let idle = capture.finish()?;
    let tcp: Vec<_> = idle.iter().filter(|p| p.protocol == TCP).collect();
    assert_eq!(tcp, Vec::<&Packet>::new(), "no TCP while idle");
    let keepalives: Vec<_> = idle.iter().filter(|p| is_beacon(p, KEEPALIVE)).collect();
    let source = keepalives.first().context("keepalives")?.source;
    assert!(
        keepalives
            .iter()
            .all(|p| p.source == source && p.destination == BEACON)
    );
    assert_eq!(*source.ip(), DEVICE_PUBLIC);
    assert!(MAPPED_PORTS.contains(&source.port()), "{source}");
    let answers = idle.iter().filter(|p| is_beacon(p, REGISTERED));
    assert!(
        answers
            .clone()
            .all(|p| p.source == BEACON && p.destination == source)
    );
    // That to the last one may be on its way.
    assert!(answers.count() + 1 >= keepalives.len());
    assert_eq!(
        listed(&row),
        Some(source),
        "what the list has is the mapping"
    );
    let others = idle
        .iter()
        .filter(|p| p.payload.first() != Some(&9))
        .count();
    assert_eq!(others, 0, "nothing else at all: {idle:?}");

    // A call.
    let capture = Capture::start(lab, lab.device().router(), "wan")?;
    let receipt = stage.call(&up.id, "laptop", 8080)?;
    let packets = capture.finish()?;
    let notify = packets
        .iter()
        .find(|p| is_beacon(p, NOTIFY))
        .context("a notification")?;
    assert_eq!((notify.source, notify.destination), (BEACON, source));
    let after: Vec<_> = packets.iter().filter(|p| p.time >= notify.time).collect();
    let first = |what: &dyn Fn(&Packet) -> bool| after.iter().find(|p| what(p)).copied();
    let registry = SocketAddrV4::new(REGISTRY, 443);
    let syn = first(&|p| p.protocol == TCP && p.destination == registry).context("a fetch")?;
    let dial = first(&|p| p.protocol == UDP && *p.destination.ip() == CALLER_PUBLIC)
        .context("a dial-back")?;
    let spent = dial.time - notify.time;
    let trips = spent.as_secs_f64() / (FAR * 2).as_secs_f64();
    println!(
        "notification to TCP: {:.1?}, to the first datagram of the dial-back: {spent:.1?}, {trips:.2} round trips; \
         IP packet of the SYN with the first flight of TLS: {} bytes; steps of the call: {}",
        syn.time - notify.time,
        syn.length,
        receipt["steps"],
    );
    assert_eq!(syn.payload.first(), Some(&0x16), "the SYN carries TLS");
    assert!(trips < 2.5, "{trips} round trips");
    let early = packets
        .iter()
        .filter(|p| p.time < notify.time && p.protocol == TCP && p.source.ip() == source.ip());
    assert_eq!(early.count(), 0, "TCP only after the notification");

    // The connection is not kept for longer than answers may take.
    let host = lab.device().host();
    until(Duration::from_secs(40), "no TCP is left", || {
        let mut ss = host.command("ss");
        let open = Ended::of(ss.args(["-Htn", "dst", &REGISTRY.to_string()]))?;
        Ok(open.stdout.is_empty().then_some(()))
    })?;
    Ok(())
}

/// Changes something, and waits until the list says what the router does.
fn the_list_follows(what: &str, kind: Kind, change: impl Fn(&Lab) -> Result<()>) -> Result<()> {
    const INTERVAL: Duration = Duration::from_secs(3);
    /// The datagram, the registry's answer, and a busy machine.
    const MARGIN: Duration = Duration::from_secs(1);
    let stage = Stage::set(Lab::builder().device(kind).build()?, &[])?;
    let up = stage.up(&["--keepalive-s", "3"])?;
    let before = listed(&stage.row(&up.id)?).context("an address at first")?;
    assert_eq!(stage.mapping()?, Some(before));
    let changed = Instant::now();
    change(&stage.lab)?;
    let (now, _) = until(Duration::from_secs(30), what, || {
        let real = stage.mapping()?;
        let row = stage.row(&up.id)?;
        let is_new = real.is_some() && real != Some(before);
        Ok((is_new && row["online"] == true && listed(&row) == real).then_some(real))
    })?;
    let took = changed.elapsed();
    println!("{what}: {before} became {now:?}, in the list after {took:.2?}");
    ensure!(took <= INTERVAL + MARGIN, "{what}: it took {took:?}");
    let receipt = stage.call(&up.id, "laptop", 8080)?;
    assert_eq!(receipt["remote"], now.context("known")?.to_string());
    Ok(())
}

#[test]
fn another_public_address_is_in_the_list_within_an_interval() -> Result<()> {
    the_list_follows("another public address", Kind::PortRestricted, |lab| {
        lab.change_public_address(lab.device(), Ipv4Addr::new(202, 204, 16, 77))
    })
}

#[test]
fn another_mapped_port_is_in_the_list_within_an_interval() -> Result<()> {
    the_list_follows("another mapped port", Kind::PortRestricted, |lab| {
        lab.device().forget_mappings()
    })
}

/// Forged, replayed, truncated and oversized datagrams as fast as the machine can send them.
#[test]
fn a_flood_of_strangers_changes_nothing() -> Result<()> {
    const FLOOD: usize = 200_000;
    let stage = Stage::set(Lab::builder().build()?, &[])?;
    let lab = &stage.lab;
    // What a real device sends, to be replayed and altered.
    let capture = Capture::start(lab, lab.stun(), "wan")?;
    let up = stage.up(&["--keepalive-s", "1"])?;
    until(Duration::from_secs(10), "keepalives", || {
        Ok((stage.beacon.number(lab, "keepalives")? > 2).then_some(()))
    })?;
    let packets = capture.finish()?;
    let sample = |kind| {
        let packet = packets.iter().find(|p| is_beacon(p, kind));
        packet.map(|p| p.payload.clone()).context("captured")
    };
    let (register, keepalive) = (sample(REGISTER)?, sample(KEEPALIVE)?);

    let before = stage.beacon.numbers(lab)?;
    let traffic = lab.stun().counter("wan")?;
    let host = lab.caller().host();
    let flood = std::thread::scope(|scope| -> Result<Duration> {
        let flood = scope.spawn(|| {
            flood(
                &host.udp((Ipv4Addr::UNSPECIFIED, 0))?,
                &register,
                &keepalive,
                FLOOD,
            )
        });
        // Meanwhile somebody calls the device.
        stage.call(&up.id, "laptop", 8080)?;
        flood.join().expect("no panic")
    })?;
    let after = stage.beacon.numbers(lab)?;
    let spent = lab.stun().counter("wan")? - traffic;
    let grown = |name: &str| {
        let number = |status: &Value| status[name].as_u64().unwrap_or_default();
        number(&after) - number(&before)
    };
    let dropped: u64 = [
        "malformed",
        "oversized",
        "rate_limited",
        "bad_cookie",
        "forged",
        "replayed",
        "unknown",
    ]
    .map(grown)
    .iter()
    .sum();
    println!(
        "{FLOOD} datagrams in {flood:.2?} ({:.0} a second): {} reached the beacon, {dropped} dropped there; \
         {} B in, {} B out (malformed {}, oversized {}, over the rate {}, bad cookie {}, forged {}, replayed {}, unknown {})",
        FLOOD as f64 / flood.as_secs_f64(),
        grown("received"),
        grown("bytes_in"),
        grown("bytes_out"),
        grown("malformed"),
        grown("oversized"),
        grown("rate_limited"),
        grown("bad_cookie"),
        grown("forged"),
        grown("replayed"),
        grown("unknown"),
    );
    // What the kernel's buffer did not take is not seen by anybody.
    ensure!(grown("received") > FLOOD as u64 / 10, "{after}");
    let handled = grown("hellos") + grown("keepalives") + grown("notified") + grown("stun");
    assert_eq!(
        grown("received"),
        dropped + handled,
        "each is counted once: {after}"
    );
    for reason in [
        "oversized",
        "rate_limited",
        "bad_cookie",
        "forged",
        "unknown",
        "malformed",
    ] {
        assert!(grown(reason) > 0, "{reason}: {after}");
    }
    assert!(grown("bytes_out") <= grown("bytes_in") / 2);
    assert!(spent.tx_bytes <= spent.rx_bytes, "{spent:?}");
    assert_eq!(after["devices"], 1);
    assert_eq!(stage.row(&up.id)?["online"], true);
    stage.call(&up.id, "laptop", 8081)?;
    Ok(())
}

fn flood(socket: &UdpSocket, register: &[u8], keepalive: &[u8], count: usize) -> Result<Duration> {
    let mut hello = vec![0; 160];
    hello[..2].copy_from_slice(&[9, 1]);
    let oversized = [keepalive, &[0; 1300]].concat();
    let start = Instant::now();
    let mut random = fastrand::Rng::with_seed(1);
    for n in 0..count {
        let mut datagram = match n % 6 {
            0 => register.to_vec(),
            1 | 2 => keepalive.to_vec(),
            3 => keepalive[..random.usize(2..keepalive.len())].to_vec(),
            4 => oversized.clone(),
            _ => hello.clone(),
        };
        match n % 6 {
            // Another counter, or another tag.
            1 => datagram[random.usize(10..18)] ^= random.u8(1..),
            2 => datagram[random.usize(2..10)] ^= random.u8(1..),
            _ => {}
        }
        // A full buffer of this end is no reason to stop.
        let _ = socket.send_to(&datagram, BEACON);
    }
    Ok(start.elapsed())
}

#[test]
fn a_beacon_and_a_registry_that_restart_heal_by_themselves() -> Result<()> {
    let mut stage = Stage::set(Lab::builder().build()?, &[])?;
    let up = stage.up(&["--keepalive-s", "2"])?;
    stage.call(&up.id, "laptop", 8080)?;

    stage.beacon.process.kill9()?;
    stage.beacon = Beacon::start_again(&stage.lab, &stage.registry, &[])?;
    let restarted = Instant::now();
    until(
        Duration::from_secs(30),
        "the device is at the new beacon",
        || Ok((stage.beacon.number(&stage.lab, "devices")? == 1).then_some(())),
    )?;
    println!(
        "a beacon that was killed has its device again after {:.1?}",
        restarted.elapsed()
    );
    stage.call(&up.id, "laptop", 8081)?;

    stage.registry.workerd().restart()?;
    let restarted = Instant::now();
    let beacon_is_back = || -> Result<_> {
        let status = stage.beacon.status(&stage.lab)?;
        Ok((status["presence"]["state"] == "registered").then_some(()))
    };
    until(
        Duration::from_secs(60),
        "the beacon is registered again",
        beacon_is_back,
    )?;
    until(Duration::from_secs(30), "and the device", || {
        Ok((stage.device().status()?["presence"]["state"] == "registered").then_some(()))
    })?;
    println!(
        "a registry that was killed has its devices again after {:.1?}",
        restarted.elapsed()
    );
    stage.call(&up.id, "laptop", 8082)?;

    // Who ends says so: the list knows at once.
    let Up { mut process, id } = up;
    process.signal(Signal::SIGTERM)?;
    process.wait(Duration::from_secs(5))?;
    until(Duration::from_secs(2), "it is offline", || {
        Ok((stage.row(&id)?["online"] == false).then_some(()))
    })?;
    stage.beacon.process.signal(Signal::SIGTERM)?;
    let ended = stage.beacon.process.wait(Duration::from_secs(5))?;
    assert_eq!(ended.code(), Some(143));
    Ok(())
}

/// A router that forgets after 12 s; the device starts with 2 s between datagrams.
#[test]
fn the_interval_becomes_what_the_router_bears() -> Result<()> {
    const LIFE: u32 = 12;
    let stage = Stage::set(Lab::builder().build()?, &[])?;
    let lab = &stage.lab;
    lab.device().set_mapping_lifetime(LIFE, LIFE)?;
    let up = stage.up(&["--keepalive-floor-s", "2"])?;
    let device = stage.device();
    let start = Instant::now();
    let (interval, _) = until(Duration::from_secs(150), "the search ends", || {
        let beacon = device.status()?["beacon"].clone();
        Ok((beacon["searching"] == false).then(|| beacon["interval_s"].as_u64()))
    })?;
    let interval = interval.context("an interval")?;
    println!(
        "behind a router that forgets after {LIFE} s the device sends every {interval} s; found in {:.0?}",
        start.elapsed()
    );
    assert!((6..=9).contains(&interval), "{interval}");
    // With that interval the mapping stays, and the device can be called.
    let before = listed(&stage.row(&up.id)?);
    let kept = stage.beacon.number(lab, "keepalives")?;
    until(Duration::from_secs(60), "three intervals", || {
        let now = stage.beacon.number(lab, "keepalives")?;
        Ok((now >= kept + 3).then_some(()))
    })?;
    assert_eq!(listed(&stage.row(&up.id)?), before);
    stage.call(&up.id, "laptop", 8080)?;
    // It is remembered for this network.
    drop(up);
    let again = device.up(&stage.registry, &["--udp-only", "--keepalive-floor-s", "2"])?;
    let beacon = device.status()?["beacon"].clone();
    assert_eq!(
        (&beacon["interval_s"], &beacon["searching"]),
        (&interval.into(), &false.into())
    );
    drop(again);
    Ok(())
}

#[test]
fn a_network_that_loses_and_reorders_delays_and_does_no_more() -> Result<()> {
    let network = Impairment {
        delay: DELAY,
        loss: 0.05,
        reorder: 0.1,
        duplicate: 0.1,
        ..Impairment::default()
    };
    let stage = Stage::set(Lab::builder().impairment(network).build()?, &[])?;
    let up = stage.up(&["--keepalive-s", "2"])?;
    for n in 0..5 {
        stage.call(&up.id, &format!("laptop-{n}"), 8080 + n)?;
    }
    Ok(())
}

/// Both agents live on the beacon; the caller's has no socket to place the call on.
#[test]
fn an_agent_on_a_beacon_calls_another() -> Result<()> {
    let stage = Stage::set(Lab::builder().build()?, &[])?;
    let up = stage.up(&["--keepalive-s", "5"])?;
    let host = stage.lab.caller().host();
    let laptop = Profile::new(&stage.lab, &stage.registry, host, "laptop");
    let _agent = laptop.up(&stage.registry, &["--udp-only", "--keepalive-s", "5"])?;
    let call = laptop.connect(&up.id, &[(8080, "web")])?;
    let receipt = call.event("connected", 1)?["receipt"].clone();
    ensure!(receipt["path"] == "direct", "not direct: {receipt}");
    fetch(host, Profile::local(8080), 1, 100_000)?;
    assert_eq!(stage.beacon.number(&stage.lab, "devices")?, 2);
    Ok(())
}

#[test]
fn stun_is_answered_on_every_address() -> Result<()> {
    let stage = Stage::set(Lab::builder().build()?, &[])?;
    let socket = stage.lab.device().host().udp((Ipv4Addr::UNSPECIFIED, 0))?;
    for address in STUN {
        let server = (address, STUN_PORT).into();
        let mapped = stun::mapped_address(&socket, server, Duration::from_secs(5))?;
        assert_eq!(mapped.ip(), DEVICE_PUBLIC);
    }
    Ok(())
}

/// A member of a relay's room on real sockets.
struct Peer {
    member: Member,
    link: Link,
    start: Instant,
}

enum Link {
    Udp(UdpSocket),
    Tcp(std::net::TcpStream, StreamReader),
}

impl Peer {
    fn send(&mut self, datagram: &[u8]) -> Result<()> {
        match &mut self.link {
            Link::Udp(socket) => drop(socket.send(datagram)?),
            Link::Tcp(stream, _) => {
                std::io::Write::write_all(stream, &framed(datagram).context("short")?)?;
            }
        }
        Ok(())
    }

    /// The next datagram within 200 ms.
    fn receive(&mut self) -> Result<Option<Vec<u8>>> {
        let mut buffer = [0; 4096];
        match &mut self.link {
            Link::Udp(socket) => match socket.recv(&mut buffer) {
                Ok(len) => Ok(Some(buffer[..len].to_vec())),
                Err(_) => Ok(None),
            },
            Link::Tcp(stream, reader) => loop {
                if let Some(Item::Datagram(datagram)) = reader.next_item()? {
                    return Ok(Some(datagram.to_vec()));
                }
                match std::io::Read::read(stream, &mut buffer) {
                    Ok(len) => reader.push(&buffer[..len]),
                    Err(_) => return Ok(None),
                }
            },
        }
    }

    /// Runs the member until it is told something.
    fn told(&mut self) -> Result<MemberOutput> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            while let Some(output) = self.member.poll_output() {
                match output {
                    MemberOutput::Send(datagram) => self.send(&datagram)?,
                    other => return Ok(other),
                }
            }
            ensure!(Instant::now() < deadline, "told nothing");
            if let Some(datagram) = self.receive()? {
                self.member.handle_datagram(&datagram, self.start.elapsed());
            }
            self.member.handle_timeout(self.start.elapsed());
        }
    }
}

#[test]
fn an_owners_relay_forwards_between_udp_and_tcp() -> Result<()> {
    let stage = Stage::set(Lab::builder().build()?, &["--relay"])?;
    let lab = &stage.lab;
    let (_, told) = stage
        .registry
        .call(lab.registry(), "GET", "/v1/registry", None)?;
    let listed = &told["beacons"][0];
    assert_eq!(listed["id"], stage.beacon.id);
    assert_eq!(
        (&listed["relay"], &listed["online"]),
        (&true.into(), &true.into())
    );
    assert_eq!(listed["tcp"], Beacon::ADDRESS.to_string());
    // The device need not be registered at this beacon: the registry is asked.
    let device = stage.device();
    let up = device.up(&stage.registry, &[])?;
    let seed = std::fs::read_to_string(device.dir().join("key"))?;
    let seed: Vec<u8> = (0..64)
        .step_by(2)
        .map(|at| u8::from_str_radix(&seed[at..at + 2], 16))
        .collect::<Result<_, _>>()?;
    let device_key = SecretKey::from_seed(seed.as_slice().try_into()?);
    assert_eq!(device_key.id().to_string(), up.id);
    let caller_key = SecretKey::from_seed(&[7; 32]);
    let beacon = stage.beacon.id.parse()?;
    let member = |key: &SecretKey, role| {
        let seed = std::array::from_fn(|_| fastrand::u8(..));
        Member::new(
            key.clone(),
            role,
            device_key.id(),
            Room([9; 16]),
            beacon,
            seed,
            Duration::ZERO,
        )
    };
    let udp = lab.device().host().udp((Ipv4Addr::UNSPECIFIED, 0))?;
    udp.connect(BEACON)?;
    udp.set_read_timeout(Some(Duration::from_millis(200)))?;
    let tcp = lab
        .caller()
        .host()
        .connect((IpAddr::V4(STUN[0]), STUN_PORT))?;
    tcp.set_read_timeout(Some(Duration::from_millis(200)))?;
    let start = Instant::now();
    let mut ends = [
        Peer {
            member: member(&device_key, Role::Device),
            link: Link::Udp(udp),
            start,
        },
        Peer {
            member: member(&caller_key, Role::Caller),
            link: Link::Tcp(tcp, StreamReader::default()),
            start,
        },
    ];
    let joined = |present| MemberOutput::Joined {
        present,
        rate: 4 << 20,
    };
    assert_eq!(ends[0].told()?, joined(false));
    assert_eq!(ends[1].told()?, joined(true));
    assert_eq!(ends[0].told()?, joined(true));
    for (from, to) in [(0, 1), (1, 0)] {
        for n in 0..100u8 {
            let datagram = vec![0x40 | (n & 0x3f); 100 + usize::from(n) * 10];
            ends[from].send(&datagram)?;
            assert_eq!(ends[to].receive()?, Some(datagram), "{n} from {from}");
        }
    }
    // The list does not take it for a device of the beacon's.
    assert_eq!(stage.row(&up.id)?["via"], "socket");
    let status = stage.beacon.numbers(lab)?;
    assert_eq!(
        (&status["relayed"], &status["rooms"]),
        (&200.into(), &1.into())
    );
    // A device that the owner has revoked has no room any more.
    let (status, said) = stage.registry.call(
        lab.registry(),
        "DELETE",
        &format!("/v1/devices/{}", up.id),
        None,
    )?;
    ensure!(status == 204, "{status} {said}");
    Ok(())
}
