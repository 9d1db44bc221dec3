//! What a device refuses: it says so through the registry, clearly and at once, sends nothing to
//! anybody else, and goes on serving.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use ringback_protocol::receipt::Nat;
use ringback_protocol::{
    Code, PeerId, SecretKey,
    envelope::{Envelope, Proof, Request},
    frame::{Frame, Update},
    refusal::Refusal,
    secret::{PASSWORD_ID, Psk},
};
use ringback_tests::{
    agent::PATIENCE,
    download::fetch,
    lab::{
        CALLER_HOST, CALLER_PUBLIC, DEVICE_PUBLIC, Lab, capture::Capture, coturn::Coturn,
        file_server::FileServer, impairment::Impairment, ip_protocol::UDP, kind::Kind,
        registry::Registry,
    },
    profile::{Ended, PASSWORD, Profile},
    registry::{self, Ring, Socket, new_key},
};
use serde_json::Value;

/// One way, from any leg to any other; a round trip is twice as long.
const DELAY: Duration = Duration::from_millis(20);
/// From the caller to the registry and back: TCP, TLS 1.3, the request. From the registry to the
/// device and back: the refusal.
const ROUND_TRIPS: f64 = 4.0;

#[test]
fn a_wrong_password_is_refused_at_once_and_the_device_stays_silent() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(&registry, &[])?;
    let call = |name: &str, password: &str| -> Result<Ended> {
        let caller = Profile::new(&lab, &registry, lab.caller().host(), name);
        let mut call = caller.calling(&up.id, &[(8080, "web")], &["--password", password])?;
        call.ended(PATIENCE)
    };

    // The slope over the delay is the number of round trips, whatever the machine's own work is.
    let mut times = Vec::new();
    for delay in [DELAY, 6 * DELAY] {
        lab.impair(Impairment {
            delay,
            ..Impairment::default()
        })?;
        let capture = Capture::start(&lab, host, "eth0")?;
        let mut best = Duration::MAX;
        for attempt in 0..3 {
            let ended = call(&format!("stranger-{delay:?}-{attempt}"), "wrong")?;
            ended.check(5, "wrong password")?;
            best = best.min(ended.time);
        }
        let packets = capture.finish()?;
        ensure!(
            packets.iter().any(|p| p.concerns(lab.device().address())),
            "nothing captured"
        );
        for packet in &packets {
            ensure!(
                !packet.concerns(CALLER_PUBLIC) && !packet.concerns(CALLER_HOST),
                "the device sent to the caller, or heard from it: {packet:?}"
            );
        }
        println!(
            "wrong password, {delay:?} one way: {best:.0?} from the start of the process ({} packets at the device, none to or from the caller)",
            packets.len()
        );
        times.push((delay, best));
    }
    let [(near, fast), (far, slow)] = times[..] else {
        unreachable!("two of them")
    };
    let round_trips = (slow.saturating_sub(fast)).as_secs_f64() / (2 * (far - near)).as_secs_f64();
    println!("that is {round_trips:.2} round trips, of at most {ROUND_TRIPS}");
    ensure!(round_trips < ROUND_TRIPS + 0.5, "{round_trips} round trips");
    Ok(())
}

#[test]
fn after_five_failures_a_caller_has_to_wait_and_others_do_not() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(&registry, &[])?;
    let guesser = Profile::new(&lab, &registry, lab.caller().host(), "guesser");
    let guess = |password: &str| -> Result<Ended> {
        guesser
            .calling(&up.id, &[(8080, "web")], &["--password", password])?
            .ended(PATIENCE)
    };
    for attempt in 0..5 {
        guess(&format!("guess {attempt}"))?.check(5, "wrong password")?;
    }
    // The sixth is not looked at, right or wrong.
    for password in ["guess 5", PASSWORD] {
        let ended = guess(password)?;
        ended.check(6, "try again in ")?;
        let when = ended
            .stderr
            .rsplit("try again in ")
            .next()
            .and_then(|rest| rest.split(['"', '\n']).next())
            .unwrap_or_default();
        ensure!(when == "5 min" || when.ends_with(" s"), "{ended:?}");
        println!("{}", ended.stderr);
    }
    let friend = Profile::new(&lab, &registry, lab.caller().host(), "friend");
    let _call = friend.connect(&up.id, &[(8080, "web")])?;
    fetch(lab.caller().host(), Profile::local(8080), 1, 1_000_000)?;
    Ok(())
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn request(issued_at: u64, expires_at: u64) -> Request {
    Request {
        id: rand::random(),
        issued_at,
        expires_at,
        service: "web".into(),
        candidates: Vec::new(),
        remember: false,
        webrtc: None,
        path: 0,
        nat: Nat::Unknown,
    }
}

fn seal(request: &Request, caller: &SecretKey, device: &PeerId, psk: &Psk) -> Vec<u8> {
    let proof = Proof::Secret {
        psk_id: PASSWORD_ID,
        psk,
    };
    let sealed = Envelope::seal(request, caller, device, proof, &mut rand::rng());
    sealed.expect("it seals").0.encode()
}

/// What the device said in the end.
async fn outcome(mut ring: Ring, device: &PeerId, envelope: &[u8]) -> Result<Option<Code>> {
    while let Some(frame) = ring.next().await {
        match frame {
            Frame::Answered(_) => return Ok(None),
            Frame::Refused(refused) => {
                let refusal = Refusal::decode(&refused.refusal, device, envelope);
                return Ok(Some(refusal.context("signed by the device")?.code));
            }
            Frame::Delivered(_) => {}
            other => anyhow::bail!("{other:?}"),
        }
    }
    anyhow::bail!("no outcome")
}

/// Everything by a client that speaks the protocol by hand, in the registry's namespace, where a
/// real agent is registered over plain HTTP on the loopback.
async fn hostile_requests(registry: &registry::Registry, device: PeerId) -> Result<()> {
    let psk = Psk::from_password(PASSWORD, &device)?;
    let caller = new_key();
    let seal = |request: &Request| seal(request, &caller, &device, &psk);
    let ring = async |envelope: &[u8]| -> Result<Option<Code>> {
        outcome(
            registry.ring(&device, envelope.to_vec()).await,
            &device,
            envelope,
        )
        .await
    };

    let good = seal(&request(now(), now() + 30));
    assert_eq!(ring(&good).await?, None, "accepted");
    assert_eq!(ring(&good).await?, Some(Code::Replayed));
    // Expires this very second; it is over in the next.
    let short = seal(&request(now(), now()));
    let issued = now();
    while now() < issued + 1 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (what, envelope) in [
        ("expired", short),
        (
            "from before the agent's start",
            seal(&request(now() - 100, now() + 10)),
        ),
        ("from the future", seal(&request(now() + 60, now() + 80))),
        ("too long a life", seal(&request(now(), now() + 3600))),
    ] {
        assert_eq!(ring(&envelope).await?, Some(Code::Stale), "{what}");
    }
    let mut unknown = request(now(), now() + 30);
    unknown.service = "nothing".into();
    assert_eq!(ring(&seal(&unknown)).await?, Some(Code::UnknownService));
    let stranger = registry::envelope(&new_key(), &device);
    assert_eq!(ring(&stranger).await?, Some(Code::UnknownCaller));

    // The registry does not even pass these on.
    let fresh = seal(&request(now(), now() + 30));
    let mut refused = 0;
    for length in (0..fresh.len()).step_by(7) {
        let reply = registry
            .ring_refused(&device, fresh[..length].to_vec())
            .await;
        assert_eq!(reply.problem(), (400, "bad_envelope"), "cut to {length}");
        refused += 1;
    }
    for bit in (0..fresh.len() * 8).step_by(31) {
        let mut flipped = fresh.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let reply = registry.ring_refused(&device, flipped).await;
        let problem = reply.problem();
        assert!(
            matches!(problem, (400, "bad_envelope" | "bad_version")),
            "bit {bit}: {problem:?}"
        );
        refused += 1;
    }
    for length in [16 * 1024 + 1, 64 * 1024, 64 * 1024 + 1, 1 << 20] {
        let mut long = fresh.clone();
        long.resize(length, 0);
        let reply = registry.ring_refused(&device, long).await;
        assert_eq!(reply.problem(), (413, "too_large"), "{length} bytes");
        refused += 1;
    }
    println!("{refused} cut, flipped and oversized envelopes refused by the registry");
    assert_eq!(ring(&fresh).await?, None, "the whole one is still good");

    // Another device that sends broken frames is its own problem.
    let (_, mut broken) = registry.online("broken").await;
    let public = "203.0.113.7:4000".parse()?;
    let frame = Frame::from(Update { public }).encode();
    let mut flipped = frame.clone();
    flipped[1] ^= 0x40;
    for bytes in [
        vec![],
        frame[..frame.len() - 1].to_vec(),
        flipped,
        vec![3; 33 * 1024],
    ] {
        broken.send_bytes(bytes).await;
    }
    broken.send(Update { public }).await;
    assert!(format!("{:?}", broken.next().await).contains("Updated"));
    let mut unregistered = Socket::connect_unsigned(registry, &device).await;
    unregistered.send_bytes(vec![0xff; 100]).await;
    assert_eq!(unregistered.expect_rejected().await, "bad_frame");
    Ok(())
}

#[test]
fn hostile_envelopes_and_frames_are_refused_and_the_agent_serves_on() -> Result<()> {
    let lab = Lab::builder().build()?;
    let _coturn = Coturn::start(&lab)?;
    let place = lab.registry();
    let registry = registry::Registry::with(|config| {
        config.prefix = place.prefix().into_iter().map(Into::into).collect();
    });
    let _web = FileServer::start(place, (Ipv4Addr::LOCALHOST, 80))?;
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build()
    };
    let url = registry.origin();
    let stun = Coturn::servers().map(|server| server.to_string()).join(",");
    let code = place.enter(|| -> Result<String> {
        Ok(runtime()?.block_on(registry.code(serde_json::json!({ "name": "nas" }))))
    })??;
    let command = |name: &str, arguments: &[&str]| -> Result<_> {
        let mut command = ringback_tests::agent::command(place, &lab.dir().join(name))?;
        command
            .args(arguments)
            .args(["--registry", &url, "--stun", &stun]);
        Ok(command)
    };
    ringback_tests::agent::run(
        ringback_tests::agent::command(place, &lab.dir().join("nas"))?.args([
            "expose",
            "web",
            "http://127.0.0.1",
        ]),
    )?;
    let arguments = ["up", "--json", "--enroll", &code, "--password", PASSWORD];
    let mut agent = lab.spawn("nas", command("nas", &arguments)?)?;
    let told: Value = serde_json::from_str(&agent.stdout_line(PATIENCE, |l| l.starts_with('{'))?)?;
    assert_eq!(told["registered"], true, "{told}");
    let device: PeerId = told["id"].as_str().context("an ID")?.parse()?;

    place.enter(|| runtime()?.block_on(hostile_requests(&registry, device)))??;

    assert!(agent.is_running()?, "{}", agent.stderr());
    let connect = [
        "connect",
        "nas",
        "-L",
        "8080:web",
        "--password",
        PASSWORD,
        "--json",
    ];
    let call = lab.spawn("caller", command("caller", &connect)?)?;
    call.stdout_line(PATIENCE, |line| line.contains("\"connected\""))?;
    fetch(place, Profile::local(8080), 1, 1_000_000)?;
    assert_eq!(agent.stderr().matches("the registry is away").count(), 0);
    Ok(())
}

/// A STUN message of that type with a mapped address, as a liar would send it.
fn stun_message(kind: u16) -> Vec<u8> {
    let mut message = kind.to_be_bytes().to_vec();
    message.extend(12_u16.to_be_bytes());
    message.extend(0x2112_A442_u32.to_be_bytes());
    message.extend(std::array::from_fn::<u8, 12, _>(|_| fastrand::u8(..)));
    message.extend([0, 0x20, 0, 8, 0, 1, 0x13, 0x37, 9, 9, 9, 9]);
    message
}

/// The start of a QUIC long header packet with 8-byte connection IDs, padded as an Initial must be.
fn long_header(first: u8, version: u32) -> Vec<u8> {
    let mut packet = vec![first];
    packet.extend(version.to_be_bytes());
    for _ in 0..2 {
        packet.push(8);
        packet.extend(fastrand::u64(..).to_be_bytes());
    }
    packet.extend([0, 0x44, 0x96]);
    packet.resize_with(1200, || fastrand::u8(..));
    packet
}

fn random(first: impl Fn() -> u8) -> Vec<u8> {
    let mut datagram: Vec<u8> = (0..fastrand::usize(1..1400))
        .map(|_| fastrand::u8(..))
        .collect();
    datagram[0] = first();
    datagram
}

#[test]
fn forged_datagrams_are_answered_by_silence() -> Result<()> {
    // Nothing but the agent itself keeps strangers away here.
    let stranger_public = Ipv4Addr::new(198, 51, 100, 9);
    let lab = Lab::builder()
        .device(Kind::Open)
        .visitor(
            "stranger",
            stranger_public,
            Ipv4Addr::new(192, 168, 1, 66),
            Kind::Open,
        )
        .build()?;
    let _coturn = Coturn::start(&lab)?;
    let registry = Registry::start(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let mut up = device.up(&registry, &["--keepalive-s", "1"])?;
    let before = device.status()?;
    let port = before["udp_port"].as_u64().context("a port")?.try_into()?;
    let target: SocketAddr = (DEVICE_PUBLIC, port).into();
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let tap = Capture::start(&lab, host, "eth0")?;
    let call = caller.connect(&up.id, &[(8080, "web")])?;
    fetch(lab.caller().host(), Profile::local(8080), 1, 100_000)?;
    // What really went by, with the link's own tag and keys.
    let own: Vec<_> = tap.finish()?;
    let of_link: Vec<Vec<u8>> = own
        .iter()
        .filter(|p| p.protocol == UDP && p.concerns(CALLER_PUBLIC) && p.length < 200)
        .filter(|p| {
            p.payload
                .first()
                .is_some_and(|first| *first == 8 || *first >= 64)
        })
        .map(|p| p.payload.clone())
        .take(200)
        .collect();
    ensure!(
        of_link.iter().any(|d| d[0] == 8) && of_link.iter().any(|d| d[0] >= 64),
        "no link seen"
    );
    let tag = of_link.iter().find(|d| d[0] == 8).context("seen")?[1..9].to_vec();

    let stranger: UdpSocket = lab.visitors()[0].host().udp((stranger_public, 0))?;
    let capture = Capture::start(&lab, host, "eth0")?;
    let mut sent = 0;
    let mut send = |datagram: &[u8]| -> Result<()> {
        sent += 1;
        if sent % 64 == 0 {
            // What the host's queue does not hold would not be a test.
            std::thread::sleep(Duration::from_millis(1));
        }
        stranger.send_to(datagram, target)?;
        Ok(())
    };
    for _ in 0..3000 {
        send(&random(|| fastrand::u8(..)))?;
    }
    for round in 0..300 {
        // Path datagrams: with an unknown tag; with the link's tag, forged; the link's own, replayed.
        send(&random(|| 8))?;
        let mut forged = random(|| 8);
        forged.resize(forged.len().max(40), 0);
        forged[1..9].copy_from_slice(&tag);
        send(&forged)?;
        send(&of_link[round % of_link.len()])?;
        // STUN: requests, successes, errors, and less than a header.
        for kind in [0x0001, 0x0101, 0x0111, 0x0003] {
            send(&stun_message(kind))?;
        }
        send(&random(|| fastrand::u8(..4))[..1])?;
        // QUIC: Initials, unknown versions, handshakes, short headers.
        for version in [1, 0x6b33_43cf, 0x0a0a_0a0a, 0] {
            send(&long_header(0xc0 | fastrand::u8(..16), version))?;
        }
        send(&long_header(0xe0, 1))?;
        send(&random(|| 0x40 | fastrand::u8(..64)))?;
        // DTLS.
        send(&random(|| 20 + fastrand::u8(..44)))?;
    }
    // The agent has taken them all in once it has answered again on the same socket.
    fetch(lab.caller().host(), Profile::local(8080), 2, 1_000_000)?;
    let packets = capture.finish()?;
    let heard = packets
        .iter()
        .filter(|p| *p.source.ip() == stranger_public)
        .count();
    let said: Vec<_> = packets
        .iter()
        .filter(|p| *p.destination.ip() == stranger_public)
        .collect();
    println!(
        "{sent} forged datagrams sent, {heard} arrived, {} answered",
        said.len()
    );
    ensure!(
        heard as f64 > f64::from(sent) * 0.95,
        "{heard} of {sent} arrived"
    );
    ensure!(
        said.is_empty(),
        "the device answered a stranger: {:?}",
        said[0]
    );

    assert!(up.process.is_running()?, "{}", up.process.stderr());
    assert_eq!(call.process.stdout().matches("\"lost\"").count(), 0);
    let after = device.status()?;
    assert_eq!(
        after["public_address"], before["public_address"],
        "no liar is believed"
    );
    assert_eq!(after["links"].as_array().map(Vec::len), Some(1));
    let other = Profile::new(&lab, &registry, lab.caller().host(), "other");
    let _call = other.connect(&up.id, &[(8081, "web")])?;
    fetch(lab.caller().host(), Profile::local(8081), 3, 1_000_000)?;
    Ok(())
}
