//! Two hosts on one LAN, and no Internet: the device is found by mDNS and called without the registry.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use ringback_protocol::lan;
use ringback_tests::{
    case::fetch,
    lab::{
        DEVICE_HOST, DEVICE_PUBLIC, Lab, coturn::Coturn, file_server::FileServer,
        impairment::Impairment, kind::Kind, namespace::Namespace, registry::Registry,
    },
    profile::{Ended, PASSWORD, Profile},
};

/// The caller on the device's LAN.
const LAPTOP: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);
/// From the start of a command to its link, without the Internet.
const AIM: Duration = Duration::from_secs(3);
const PORT: &str = "40100";

struct Stage {
    registry: Registry,
    _coturn: Coturn,
    _web: FileServer,
    laptop: Namespace,
    lab: Lab,
}

impl Stage {
    fn set() -> Result<Self> {
        let lab = Lab::builder().build()?;
        let coturn = Coturn::start(&lab)?;
        let registry = Registry::start(&lab)?;
        let web = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
        let laptop = lab.device().add_host("laptop", LAPTOP)?;
        Ok(Self {
            registry,
            _coturn: coturn,
            _web: web,
            laptop,
            lab,
        })
    }

    fn device(&self) -> Result<Profile<'_>> {
        let device = Profile::new(&self.lab, &self.registry, self.lab.device().host(), "nas");
        device.expose(&[("web", "http://127.0.0.1")])?;
        Ok(device)
    }

    fn caller(&self) -> Profile<'_> {
        Profile::new(&self.lab, &self.registry, &self.laptop, "laptop")
    }

    /// Nothing leaves the LAN any more, and nothing comes in.
    fn cut_off(&self) -> Result<()> {
        self.lab.black_hole(&[self.lab.device().leg()])
    }
}

fn pipe(caller: &Profile<'_>, password: &str) -> Result<Ended> {
    let mut command =
        caller.registry_command(&["pipe", "nas:web", "--password", password, "-v"])?;
    command.stdin(Stdio::null());
    Ended::of(&mut command)
}

#[test]
fn a_device_on_the_lan_is_called_without_the_internet() -> Result<()> {
    let stage = Stage::set()?;
    let device = stage.device()?;
    let up = device.up(&stage.registry, &["--port", PORT])?;
    let caller = stage.caller();
    caller.ask_nothing(&["contacts", "add", "nas", &up.id])?;
    stage.cut_off()?;

    let call = caller.connect("nas", &[(8080, "web")])?;
    let time = call.start.elapsed();
    println!("connect without the Internet: {time:.0?}");
    fetch_through(&stage.laptop)?;
    ensure!(time < AIM, "{time:?}");
    drop(call);

    let piped = pipe(&caller, PASSWORD)?;
    println!(
        "pipe without the Internet: {:.0?}\n{}",
        piped.time, piped.stderr
    );
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    ensure!(
        piped.time < AIM + Duration::from_secs(1),
        "{:?}",
        piped.time
    );

    // By an agent of its own, which has no line to the registry.
    let code = "--no-port-mapping";
    let mut command =
        caller.registry_command(&["up", "--json", code, "--password", "x", "--weak-password"])?;
    command.stdin(Stdio::null());
    let agent = stage.lab.spawn("laptop-agent", command)?;
    agent.stdout_line(Duration::from_secs(20), |line| line.starts_with('{'))?;
    let call = caller.connect("nas", &[(8080, "web")])?;
    let time = call.start.elapsed();
    println!("connect by an agent without the Internet: {time:.0?}");
    fetch_through(&stage.laptop)?;
    ensure!(time < AIM, "{time:?}");
    Ok(())
}

fn fetch_through(from: &Namespace) -> Result<()> {
    let (_, bytes) = fetch(from, 1_000_000)?;
    assert_eq!(bytes, 1_000_000);
    Ok(())
}

/// The slower the registry, the sooner the LAN's way is there: both may carry the request, in this
/// order or that. The device dials once, and the caller takes the second answer for an echo.
#[test]
fn a_request_that_comes_both_ways_is_one_call() -> Result<()> {
    let stage = Stage::set()?;
    let device = stage.device()?;
    let up = device.up(&stage.registry, &[])?;
    let caller = stage.caller();
    caller.ask_nothing(&["contacts", "add", "nas", &up.id])?;
    let mut by_lan = 0;
    for delay in [0, 60, 200, 300, 400] {
        stage.lab.impair(Impairment {
            delay: Duration::from_millis(delay),
            ..Impairment::default()
        })?;
        let piped = pipe(&caller, PASSWORD)?;
        assert_eq!(piped.code, 0, "{delay} ms: {}", piped.stderr);
        let found = piped.stderr.contains("found on the LAN");
        by_lan += usize::from(found);
        println!("{delay} ms one way: {:.0?}, by LAN: {found}", piped.time);
    }
    assert!((1..5).contains(&by_lan), "{by_lan} of 5");
    Ok(())
}

#[test]
fn a_wrong_password_is_refused_and_limited_on_the_lan_too() -> Result<()> {
    let stage = Stage::set()?;
    let device = stage.device()?;
    let up = device.up(&stage.registry, &[])?;
    let caller = stage.caller();
    caller.ask_nothing(&["contacts", "add", "nas", &up.id])?;
    stage.cut_off()?;
    for _ in 0..5 {
        let ended = pipe(&caller, "guess")?;
        assert_eq!(ended.code, 5, "{}", ended.stderr);
        ensure!(ended.stderr.contains("wrong password"), "{}", ended.stderr);
    }
    let ended = pipe(&caller, PASSWORD)?;
    assert_eq!(ended.code, 6, "{}", ended.stderr);
    Ok(())
}

#[test]
fn a_device_that_is_not_there_is_not_waited_for() -> Result<()> {
    let stage = Stage::set()?;
    let device = stage.device()?;
    let mut up = device.up(&stage.registry, &["--no-lan"])?;
    let caller = stage.caller();
    caller.ask_nothing(&["contacts", "add", "nas", &up.id])?;
    up.process.interrupt(Duration::from_secs(10))?;
    let ended = pipe(&caller, PASSWORD)?;
    assert_eq!(ended.code, 4, "{}", ended.stderr);
    ensure!(ended.time < AIM, "{:?}", ended.time);
    println!("offline, after {:.0?}", ended.time);
    Ok(())
}

/// What comes back to `bytes`: all until the end, within 10 s.
fn answer(from: &Namespace, to: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream: TcpStream = from.connect(to)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    // The device may have closed already.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error.into()),
        _ => Ok(answer),
    }
}

#[test]
fn a_stranger_gets_nothing() -> Result<()> {
    let lab = Lab::builder().device(Kind::Open).build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    let _up = device.up(&registry, &["--port", PORT])?;
    let laptop = lab.device().add_host("laptop", LAPTOP)?;
    let port: u16 = PORT.parse()?;

    // From elsewhere not even a request is read to its end.
    let start = Instant::now();
    let public = (DEVICE_PUBLIC, port).into();
    let request = lan::encode_request(&[0xa7; 300]);
    assert_eq!(answer(lab.caller().host(), public, &request)?, b"");
    ensure!(start.elapsed() < Duration::from_secs(3));

    // On the LAN, what is no request has no answer either.
    let local = (DEVICE_HOST, port).into();
    let junk = lan::encode_request(&[0xa7; 300]);
    let other_kind = [0, 2, 0x63, 0];
    let too_long = [0xff, 0xff, lan::REQUEST];
    for bytes in [&junk[..], &other_kind, &too_long, b"GET / HTTP/1.1\r\n\r\n"] {
        let start = Instant::now();
        assert_eq!(answer(&laptop, local, bytes)?, b"", "{bytes:?}");
        ensure!(start.elapsed() < Duration::from_secs(3), "{bytes:?}");
    }
    // Who says nothing is hung up on.
    let start = Instant::now();
    assert_eq!(answer(&laptop, local, b"\x01")?, b"");
    ensure!(start.elapsed() < Duration::from_secs(8));

    // Seventy at once: the last 16 are listened to, the others make room for them at once.
    let mut streams = Vec::new();
    for _ in 0..70 {
        streams.push(laptop.connect(local)?);
    }
    let start = Instant::now();
    for stream in &mut streams[..54] {
        stream.set_read_timeout(Some(Duration::from_secs(4)))?;
        ensure!(!matches!(stream.read(&mut [0]), Ok(1..)));
    }
    // Otherwise it is their silence that they are hung up on for.
    ensure!(
        start.elapsed() < Duration::from_secs(4),
        "{:?}",
        start.elapsed()
    );
    Ok(())
}

/// Whoever opens connections and says nothing shuts nobody out of the device's TCP port, not even
/// others of the same host.
#[test]
fn idle_connections_keep_nobody_out() -> Result<()> {
    let stage = Stage::set()?;
    let device = stage.device()?;
    let up = device.up(&stage.registry, &["--port", PORT])?;
    let caller = stage.caller();
    caller.ask_nothing(&["contacts", "add", "nas", &up.id])?;
    stage.cut_off()?;
    let local: SocketAddr = (DEVICE_HOST, PORT.parse::<u16>()?).into();
    let stranger = stage
        .lab
        .device()
        .add_host("stranger", Ipv4Addr::new(192, 168, 1, 66))?;
    let mut idle = Vec::new();
    for from in [&stage.laptop, &stranger] {
        for _ in 0..100 {
            idle.push(from.connect(local)?);
        }
    }
    let piped = pipe(&caller, PASSWORD)?;
    assert_eq!(piped.code, 0, "{}", piped.stderr);
    ensure!(
        piped.stderr.contains("found on the LAN"),
        "{}",
        piped.stderr
    );
    Ok(())
}
