//! Links of browsers (PROTOCOL §19): a real agent on the loopback, and a peer that does what a
//! browser does, or what it must not do.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use ringback_protocol::call::Outcome;
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::channel::{Channel, Reset, WINDOW, reset};
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::{Description, MAX_CHANNELS, MAX_WAITING_CHANNELS};
use ringback_protocol::stream::{Open, Opening};
use ringback_protocol::{Code, SecretKey};
use ringback_tests::loopback::{Device, PASSWORD};
use ringback_tests::registry::{Registry, new_key};
use ringback_tests::rtc_caller::{Asking, Browser, PATIENCE, accepted, take};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use str0m::channel::{ChannelConfig, ChannelId, Reliability};

/// A registry and a device that exposes `hello`, and more.
struct Place {
    runtime: tokio::runtime::Runtime,
    registry: Registry,
    device: Device,
}

impl Place {
    fn new() -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let registry = runtime.block_on(async { Registry::start() });
        let code = runtime.block_on(registry.code(json!({ "name": "nas" })));
        let device = Device::start(&registry.origin(), &code, "hello, browser");
        Ok(Self {
            runtime,
            registry,
            device,
        })
    }

    fn expose(&self, name: &str, address: SocketAddr) {
        let profile = &self.device.profile;
        profile.ok(["expose", name, &address.to_string()]);
    }

    fn asking<'a>(&self, key: &'a SecretKey, password: Option<&'a str>) -> Result<Asking<'a>> {
        Ok(Asking {
            key,
            device: self.device.id.parse()?,
            password,
            service: "hello",
            remember: false,
        })
    }

    fn ask(&self, asking: &Asking<'_>, offer: Description) -> Result<Outcome> {
        let mut call = asking.seal(offer)?;
        let envelope = call.envelope().to_vec();
        self.runtime.block_on(async {
            let mut ring = self.registry.ring(&asking.device, envelope).await;
            while let Some(frame) = ring.next().await {
                if let Some(outcome) = take(&mut call, frame) {
                    return Ok(outcome);
                }
            }
            anyhow::bail!("no outcome")
        })
    }

    fn answered(&self, browser: &mut Browser) -> Result<Reply> {
        let key = new_key();
        let asking = self.asking(&key, Some(PASSWORD))?;
        accepted(self.ask(&asking, browser.offer()?)?)
    }

    /// A browser with a link.
    fn connected(&self) -> Result<Browser> {
        let mut browser = Browser::on_loopback()?;
        let reply = self.answered(&mut browser)?;
        browser.answered(&reply.webrtc.context("a description")?)?;
        browser.until("a connection", |browser| browser.connected)?;
        Ok(browser)
    }

    /// Waits until the device has so many links.
    fn until_links(&self, count: usize) -> Result<()> {
        let started = Instant::now();
        while self.device.callers().len() != count {
            ensure!(started.elapsed() < PATIENCE, "{:?}", self.device.callers());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }
}

/// A TCP service that deals with each connection by a function.
fn service(deal: impl Fn(TcpStream) + Send + Sync + Clone + 'static) -> Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let deal = deal.clone();
            std::thread::spawn(move || deal(stream));
        }
    });
    Ok(address)
}

fn open(browser: &mut Browser, service: &str) -> Result<ChannelId> {
    let id = browser.open(service);
    match browser.opened(id)? {
        Opening::Opened => Ok(id),
        Opening::Refused(refused) => anyhow::bail!("{refused:?}"),
    }
}

#[test]
fn a_browser_uses_a_service_over_the_same_port_as_quic() -> Result<()> {
    let place = Place::new()?;
    let mut browser = Browser::on_loopback()?;
    let reply = place.answered(&mut browser)?;
    assert!(reply.candidates.is_empty(), "no QUIC dial-back is offered");
    let description = reply.webrtc.context("a description")?;
    let port = place.device.profile.status()["udp_port"].as_u64();
    let ports: Vec<u64> = description
        .addresses()
        .iter()
        .map(|c| c.address.port().into())
        .collect();
    assert!(ports.contains(&port.context("a port")?), "{ports:?}");
    browser.answered(&description)?;
    browser.until("a connection", |browser| browser.connected)?;
    let id = browser.open("hello");
    assert_eq!(browser.read_to_end(id)?, b"hello, browser");
    assert_eq!(browser.stream(id).opening(), Some(Ok(Opening::Opened)));

    let status = place.device.profile.status();
    assert_eq!(status["links"][0]["browser"], true, "{status}");
    let shown = place.device.profile.ok(["status"]);
    assert!(shown.contains("(browser)"), "{shown}");

    // An agent calls the same port meanwhile.
    let caller = ringback_tests::loopback::Profile::new();
    let origin = place.registry.origin();
    let called = ringback_tests::loopback::call(&caller, &origin, &place.device.id, &[]);
    assert_eq!(called.stdout, "hello, browser", "{called:?}");

    let refused = browser.open("nothing");
    match browser.opened(refused)? {
        Opening::Refused(refused) => assert_eq!(refused.code, Code::UnknownService),
        Opening::Opened => panic!("no such service"),
    }
    browser.hang_up()?;
    place.until_links(0)
}

#[test]
fn a_wrong_password_brings_no_packet() -> Result<()> {
    let place = Place::new()?;
    let mut browser = Browser::on_loopback()?;
    let key = new_key();
    let asking = place.asking(&key, Some("wrong"))?;
    match place.ask(&asking, browser.offer()?)? {
        Outcome::Refused(refusal) => assert_eq!(refusal.code, Code::WrongPassword),
        other => panic!("{other:?}"),
    }
    // A later call that is admitted is answered by datagrams; this one never was.
    let mut friend = place.connected()?;
    assert!(!friend.within(Duration::from_millis(500), |_| false)?);
    assert!(!browser.within(Duration::from_millis(500), |_| false)?);
    assert!(browser.heard.is_empty(), "{:?}", browser.heard);
    Ok(())
}

#[test]
fn another_certificate_than_the_pinned_one_never_connects() -> Result<()> {
    let place = Place::new()?;
    // The device pins the browser's …
    let mut browser = Browser::on_loopback()?;
    let mut offer = browser.offer()?;
    offer.fingerprint[7] ^= 1;
    let key = new_key();
    let asking = place.asking(&key, Some(PASSWORD))?;
    let reply = accepted(place.ask(&asking, offer)?)?;
    browser.answered(&reply.webrtc.context("a description")?)?;
    let id = browser.open("hello");
    // Its own side may see DTLS through before the device has judged.
    let opened = browser.within(Duration::from_secs(3), |browser| browser.is_open(id));
    assert!(!matches!(opened, Ok(true)), "{browser:?}");
    assert!(!browser.heard.is_empty(), "ICE did work");
    assert_eq!(place.device.callers(), Vec::<String>::new());

    // … and the browser the device's.
    let mut browser = Browser::on_loopback()?;
    let mut description = place.answered(&mut browser)?.webrtc.context("one")?;
    description.fingerprint[7] ^= 1;
    browser.answered(&description)?;
    let connected = browser.within(Duration::from_secs(3), |browser| browser.connected);
    assert!(connected.is_err(), "{connected:?}");
    Ok(())
}

#[test]
fn channels_beyond_the_limit_wait_are_refused_or_closed_and_others_are_not() -> Result<()> {
    let place = Place::new()?;
    let waiting = service(|mut stream| {
        let _ = stream.read(&mut [0; 1]);
    })?;
    place.expose("waiting", waiting);
    let mut browser = place.connected()?;
    let ids: Vec<ChannelId> = (0..MAX_CHANNELS).map(|_| browser.open("waiting")).collect();
    browser.until("64 channels", |browser| {
        ids.iter()
            .all(|id| browser.stream(*id).opening().is_some() || browser.is_open(*id))
    })?;
    let late: Vec<ChannelId> = (0..MAX_WAITING_CHANNELS)
        .map(|_| browser.open("waiting"))
        .collect();
    let over = browser.open("waiting");
    browser.until("the 81st to be closed", |browser| browser.is_closed(over))?;
    // One that ends makes room for one that waits; the others are told after a while.
    browser.stream(ids[1]).reset(reset::ABORTED);
    let (mut opened, mut refused) = (0, Vec::new());
    browser.until("the answers", |browser| {
        for id in &late {
            match browser.stream(*id).opening() {
                Some(Ok(Opening::Opened)) => opened += 1,
                Some(Ok(Opening::Refused(why))) => refused.push(why.code),
                _ => {}
            }
        }
        opened + refused.len() == late.len()
    })?;
    assert_eq!(opened, 1);
    assert_eq!(refused, vec![Code::TooMany; late.len() - 1]);
    let ids = [&ids[..1], &ids[2..]].concat();
    assert!(ids.iter().all(|id| browser.is_open(*id)));
    // One of another kind is not taken either, and leaves no trace.
    let odd = |browser: &mut Browser, config| {
        let channel = Channel::caller(&Open::new("hello"));
        browser.open_with(channel, config)
    };
    browser.stream(ids[0]).reset(reset::ABORTED);
    browser.until("a channel to be closed", |browser| {
        browser.is_closed(ids[0])
    })?;
    for config in [
        ChannelConfig {
            label: "other".into(),
            ..ChannelConfig::default()
        },
        ChannelConfig {
            label: "ringback".into(),
            ordered: false,
            ..ChannelConfig::default()
        },
        ChannelConfig {
            label: "ringback".into(),
            reliability: Reliability::MaxRetransmits { retransmits: 1 },
            ..ChannelConfig::default()
        },
    ] {
        let id = odd(&mut browser, config);
        browser.until("an odd channel to be closed", |browser| {
            browser.is_closed(id)
        })?;
    }
    // There is a place again.
    let id = browser.open("hello");
    assert_eq!(browser.read_to_end(id)?, b"hello, browser");
    Ok(())
}

#[test]
fn who_does_not_keep_to_the_protocol_loses_the_stream_and_no_more() -> Result<()> {
    let place = Place::new()?;
    let deaf = service(|stream| {
        std::thread::sleep(Duration::from_secs(60));
        drop(stream);
    })?;
    place.expose("deaf", deaf);
    let mut browser = place.connected()?;
    // Over the credit: the service does not read, and the kernel's buffers have an end.
    let id = open(&mut browser, "deaf")?;
    let mut message = vec![0; 60_001];
    message[0] = 0;
    let mut sent = 0;
    while browser.stream(id).was_reset().is_none() {
        ensure!(sent < 64 << 20, "the device takes everything");
        if browser.send_raw(id, true, &message).is_ok() {
            sent += 60_000;
        }
        browser.within(Duration::from_millis(1), |browser| {
            browser.stream(id).was_reset().is_some()
        })?;
    }
    assert!(sent as u64 > WINDOW, "{sent}");
    let aborted = Some(Reset::ByPeer(reset::ABORTED));
    assert_eq!(browser.stream(id).was_reset(), aborted);
    browser.until("the channel to be closed", |browser| browser.is_closed(id))?;
    for (binary, message) in [(true, &[1, 2, 3][..]), (true, &[3, 1]), (false, &[2])] {
        let id = open(&mut browser, "deaf")?;
        browser.send_raw(id, binary, message)?;
        browser.until("a Reset", |browser| {
            browser.stream(id).was_reset().is_some()
        })?;
        let violated = Some(Reset::ByPeer(reset::VIOLATION));
        assert_eq!(browser.stream(id).was_reset(), violated, "{message:?}");
    }
    // Of a later version.
    let id = browser.open("hello");
    browser.until("a channel", |browser| browser.is_open(id))?;
    browser.send_raw(id, true, &[0x77, 1, 2])?;
    assert_eq!(browser.read_to_end(id)?, b"hello, browser");
    Ok(())
}

#[test]
fn streams_are_half_closed_and_reset_like_tcp() -> Result<()> {
    let place = Place::new()?;
    let counting = service(|mut stream| {
        let mut all = Vec::new();
        let _ = stream.read_to_end(&mut all);
        let _ = write!(stream, "{} bytes", all.len());
    })?;
    place.expose("counting", counting);
    let resetting = service(|stream| {
        let linger = socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO));
        linger.expect("it can be set");
    })?;
    place.expose("resetting", resetting);
    let (told, heard) = std::sync::mpsc::channel();
    let watching = service(move |mut stream| {
        let read = stream
            .read(&mut [0; 10])
            .and_then(|_| stream.read(&mut [0; 10]));
        let _ = told.send(read);
    })?;
    place.expose("watching", watching);
    // It says all and listens no more, though the caller has not ended.
    let curt = service(|mut stream| {
        let _ = stream.write_all(b"enough");
        let _ = stream.shutdown(Shutdown::Both);
    })?;
    place.expose("curt", curt);
    let mut browser = place.connected()?;

    let id = open(&mut browser, "counting")?;
    browser.stream(id).write(&[7; 200_000]);
    browser.stream(id).finish();
    assert_eq!(browser.read_to_end(id)?, b"200000 bytes");
    browser.until("its channel to be closed", |browser| browser.is_closed(id))?;

    let id = browser.open("resetting");
    browser.until("a Reset", |browser| {
        browser.stream(id).was_reset().is_some()
    })?;
    assert_eq!(
        browser.stream(id).was_reset(),
        Some(Reset::ByPeer(reset::ABORTED))
    );

    // Reset by the browser, and its channel just closed.
    for close in [false, true] {
        let id = open(&mut browser, "watching")?;
        browser.stream(id).write(b"x");
        browser.within(Duration::from_millis(50), |_| false)?;
        if close {
            browser.close(id);
        } else {
            browser.stream(id).reset(reset::ABORTED);
        }
        let mut read = None;
        browser.until("the service to notice", |_| {
            read = heard.try_recv().ok();
            read.is_some()
        })?;
        let error = read
            .context("told")?
            .expect_err("a broken connection is no end");
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{close}");
    }

    let id = browser.open("curt");
    assert_eq!(browser.read_to_end(id)?, b"enough");
    Ok(())
}

#[test]
fn a_hundred_megabytes_have_the_right_hash_both_ways() -> Result<()> {
    const SIZE: usize = 100_000_000;
    let place = Place::new()?;
    let pattern = |at: usize| (at.wrapping_mul(2_654_435_761) >> 13) as u8;
    let source = service(move |mut stream| {
        let mut at = 0;
        while at < SIZE {
            let end = (at + (1 << 16)).min(SIZE);
            let block: Vec<u8> = (at..end).map(pattern).collect();
            if stream.write_all(&block).is_err() {
                return;
            }
            at = end;
        }
    })?;
    place.expose("source", source);
    let sink = service(|mut stream| {
        let mut hash = Sha256::new();
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read) = stream.read(&mut buffer) {
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
        }
        let _ = stream.write_all(&hash.finalize());
    })?;
    place.expose("sink", sink);
    let mut all = Vec::with_capacity(SIZE);
    all.extend((0..SIZE).map(pattern));
    let expected = Sha256::digest(&all).to_vec();

    let mut browser = place.connected()?;
    let started = Instant::now();
    let id = open(&mut browser, "source")?;
    let mut hash = Sha256::new();
    let mut length = 0;
    browser.within(4 * PATIENCE, |browser| {
        let stream = browser.stream(id);
        while let Some(data) = stream.read() {
            hash.update(&data);
            length += data.len();
        }
        stream.received_end() || stream.was_reset().is_some()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    println!(
        "down: {length} bytes, {:.1} MB/s",
        length as f64 / 1e6 / seconds
    );
    assert_eq!((length, hash.finalize().to_vec()), (SIZE, expected.clone()));

    let started = Instant::now();
    let id = open(&mut browser, "sink")?;
    let mut at = 0;
    let mut answer = Vec::new();
    browser.within(4 * PATIENCE, |browser| {
        let stream = browser.stream(id);
        at += stream.write(&all[at..]);
        if at == SIZE {
            stream.finish();
        }
        while let Some(data) = stream.read() {
            answer.extend_from_slice(&data);
        }
        stream.received_end() || stream.was_reset().is_some()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    println!("up: {at} bytes, {:.1} MB/s", at as f64 / 1e6 / seconds);
    assert_eq!(answer, expected);
    Ok(())
}

#[test]
fn a_request_can_not_make_the_device_spray() -> Result<()> {
    let place = Place::new()?;
    // Sixteen strangers that never asked for anything, and the addresses that are left out.
    let strangers: Vec<UdpSocket> = (0..20)
        .map(|_| UdpSocket::bind("127.0.0.1:0"))
        .collect::<std::io::Result<_>>()?;
    let mut browser = Browser::on_loopback()?;
    let mut offer = browser.offer()?;
    let named: Vec<Candidate> = strangers
        .iter()
        .map(|socket| Ok(Candidate::udp(Kind::Host, socket.local_addr()?)))
        .collect::<Result<_>>()?;
    offer.candidates = ringback_protocol::rtc::candidate_lines(&named);
    let key = new_key();
    let asking = place.asking(&key, Some(PASSWORD))?;
    accepted(place.ask(&asking, offer)?)?;
    // The device gives the call up after 15 s.
    let started = Instant::now();
    let mut counts = vec![0; strangers.len()];
    let mut bytes = 0;
    while started.elapsed() < Duration::from_secs(18) {
        for (stranger, count) in strangers.iter().zip(&mut counts) {
            stranger.set_read_timeout(Some(Duration::from_millis(10)))?;
            while let Ok(length) = stranger.recv(&mut [0; 2048]) {
                *count += 1;
                bytes += length;
            }
        }
    }
    println!(
        "datagrams at each of {} strangers: {counts:?}, {bytes} bytes",
        strangers.len()
    );
    let reached = counts.iter().filter(|count| **count > 0).count();
    assert!(reached <= 16, "{counts:?}");
    assert!(counts.iter().all(|count| *count <= 12), "{counts:?}");
    assert!(bytes <= 16 * 12 * 160, "{bytes}");
    for stranger in &strangers {
        stranger.set_read_timeout(Some(Duration::from_millis(1)))?;
        assert!(stranger.recv(&mut [0; 2048]).is_err(), "it goes on");
    }
    assert_eq!(place.device.callers(), Vec::<String>::new());
    Ok(())
}

#[test]
fn a_remembered_browser_calls_without_a_password_until_it_is_revoked() -> Result<()> {
    let place = Place::new()?;
    let key = new_key();
    let mut first = Browser::on_loopback()?;
    let mut asking = place.asking(&key, Some(PASSWORD))?;
    asking.remember = true;
    let reply = accepted(place.ask(&asking, first.offer()?)?)?;
    assert!(reply.remembered);
    let mut browser = Browser::on_loopback()?;
    let asking = place.asking(&key, None)?;
    let reply = accepted(place.ask(&asking, browser.offer()?)?)?;
    browser.answered(&reply.webrtc.context("a description")?)?;
    browser.until("a connection", |browser| browser.connected)?;
    let waiting = service(|mut stream| {
        let _ = stream.read(&mut [0; 1]);
    })?;
    place.expose("waiting", waiting);
    let id = open(&mut browser, "waiting")?;
    let caller = key.id().to_string();
    place.device.profile.ok(["callers", "revoke", &caller]);
    browser.until("the end", |browser| browser.closed)?;
    assert_eq!(
        browser.stream(id).was_reset(),
        Some(Reset::ByPeer(reset::REVOKED))
    );
    place.until_links(0)?;
    match place.ask(&asking, Browser::on_loopback()?.offer()?)? {
        Outcome::Refused(refusal) => assert_eq!(refusal.code, Code::UnknownCaller),
        other => panic!("{other:?}"),
    }
    Ok(())
}

#[test]
fn an_agent_that_ends_says_so_and_one_that_is_killed_is_missed() -> Result<()> {
    let mut place = Place::new()?;
    let waiting = service(|mut stream| {
        let _ = stream.read(&mut [0; 1]);
    })?;
    place.expose("waiting", waiting);
    let mut browser = place.connected()?;
    let id = open(&mut browser, "waiting")?;
    place
        .device
        .process
        .signal(nix::sys::signal::Signal::SIGTERM)?;
    browser.until("the end", |browser| browser.closed)?;
    let reset = browser.stream(id).was_reset();
    assert_eq!(reset, Some(Reset::ByPeer(reset::SHUTTING_DOWN)));

    place.device = place.device.restart();
    let mut browser = place.connected()?;
    let id = open(&mut browser, "waiting")?;
    place.device.process.kill9()?;
    browser.until("ICE to miss it", |browser| {
        browser.ice == str0m::IceConnectionState::Disconnected
    })?;
    assert_eq!(browser.stream(id).was_reset(), None);
    place.device = place.device.restart();
    let mut again = place.connected()?;
    let id = again.open("hello");
    assert_eq!(again.read_to_end(id)?, b"hello, browser");
    Ok(())
}
