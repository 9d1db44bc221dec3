//! What people do with a call: ssh, large files, many streams, services that fail, callers that are
//! remembered, calls through the agent of the caller's host. Both sides are behind port-restricted
//! NAT.

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    path::Path,
    process::Stdio,
    sync::mpsc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use ringback_tests::{
    agent::{self, PATIENCE},
    download::{Download, fetch},
    lab::{
        Lab,
        content::{Content, hash},
        coturn::Coturn,
        file_server::{FileServer, GREETING},
        namespace::Namespace,
        registry::Registry,
        sshd::Sshd,
    },
    profile::{Ended, PASSWORD, Profile, until},
};
use serde_json::Value;
use socket2::SockRef;

/// Another host on the device's LAN.
const NAS: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 5);
const NAS_WEB: &str = "http://192.168.1.5:80";

/// Registry and STUN server, ready.
fn servers(lab: &Lab) -> Result<(Coturn, Registry)> {
    Ok((Coturn::start(lab)?, Registry::start(lab)?))
}

/// A TCP service on a host that deals with each connection by a function, until the test ends.
fn service(
    namespace: &Namespace,
    port: u16,
    deal: impl Fn(TcpStream) -> io::Result<()> + Send + 'static,
) -> Result<String> {
    let listener: TcpListener = namespace.listen((Ipv4Addr::LOCALHOST, port))?;
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            // The other end's fault is what the test is about.
            let _ = deal(stream);
        }
    });
    Ok(format!("127.0.0.1:{port}"))
}

fn connect_local(namespace: &Namespace, port: u16) -> Result<TcpStream> {
    let stream = namespace.connect(Profile::local(port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    Ok(stream)
}

/// Ends a connection with a reset.
#[expect(clippy::needless_pass_by_value, reason = "the drop is the end")]
fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))
}

#[test]
fn ssh_and_scp_through_pipe() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let sshd = Sshd::start(&lab, lab.device().host(), (Ipv4Addr::LOCALHOST, 22))?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("ssh", "127.0.0.1:22")])?;
    let _up = device.up(&registry, &[])?;

    // As a person would write it; what is not said is in the environment.
    let environment = |command: &mut std::process::Command| -> Result<()> {
        let binary = agent::binary()?;
        let path = binary.parent().context("a folder")?.display().to_string();
        command
            .env("PATH", format!("{path}:/usr/bin:/bin"))
            .env("RINGBACK_DIR", lab.dir().join("laptop"))
            .env("RINGBACK_REGISTRY", registry.url())
            .env("RINGBACK_REGISTRY_CA", registry.ca())
            .env(
                "RINGBACK_STUN",
                Coturn::servers().map(|s| s.to_string()).join(","),
            )
            .env("RINGBACK_PASSWORD", PASSWORD);
        Ok(())
    };
    let options = [
        sshd.client_options(),
        vec!["-o".into(), "ProxyCommand=ringback pipe %h:ssh".into()],
    ]
    .concat();
    let ssh = |script: &str| -> Result<_> {
        let mut command = lab.caller().command("ssh");
        environment(&mut command)?;
        command.args(&options).args(["root@nas", script]);
        Ok(command)
    };

    let said = Ended::of(&mut ssh("echo $((6 * 7)); echo to-stderr >&2; exit 3")?)?;
    assert_eq!((said.code, said.stdout.as_str()), (3, "42"), "{said:?}");
    assert!(said.stderr.contains("to-stderr"), "{said:?}");
    println!(
        "ssh: a command by pipe, from nothing to its end: {:?}",
        said.time
    );

    // Up by standard input, hashed there.
    const BYTES: u64 = 16_000_000;
    let mut child = ssh("sha256sum")?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut input = child.stdin.take().context("piped")?;
    io::copy(&mut Content::new(5, BYTES), &mut input)?;
    drop(input);
    let output = child.wait_with_output()?;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success());
    assert_eq!(
        said.split_whitespace().next(),
        Some(Content::sha256(5, BYTES).as_str())
    );

    // There and back by scp.
    let (up, there, back) = (
        lab.dir().join("up"),
        lab.dir().join("there"),
        lab.dir().join("back"),
    );
    io::copy(&mut Content::new(6, BYTES), &mut File::create(&up)?)?;
    let scp = |from: &str, to: &str| -> Result<()> {
        let mut command = lab.caller().command("scp");
        environment(&mut command)?;
        let said = Ended::of(command.args(["-q"]).args(&options).args([from, to]))?;
        ensure!(said.code == 0, "scp {from} {to}: {said:?}");
        println!("scp: {BYTES} bytes in {:?}", said.time);
        Ok(())
    };
    let remote = |path: &Path| format!("root@nas:{}", path.display());
    scp(&up.display().to_string(), &remote(&there))?;
    scp(&remote(&there), &back.display().to_string())?;
    assert_eq!(
        hash(File::open(&back)?)?,
        (Content::sha256(6, BYTES), BYTES)
    );
    Ok(())
}

#[test]
fn a_gibibyte_over_http_arrives_whole() -> Result<()> {
    const BYTES: u64 = 1 << 30;
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let nas = lab.device().add_host("nas", NAS)?;
    let _files = FileServer::start(&nas, (NAS, 80))?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("web", NAS_WEB)])?;
    let up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let call = caller.connect(&up.id, &[(8080, "web")])?;
    assert_eq!(call.event("connected", 1)?["receipt"]["path"], "direct");
    let done = fetch(lab.caller().host(), Profile::local(8080), 1, BYTES)?;
    println!(
        "1 GiB in {:.1} s, {:.0} MB/s, SHA-256 right",
        done.time.as_secs_f64(),
        done.megabytes_per_second()
    );
    Ok(())
}

#[test]
fn eight_streams_an_upload_and_another_host() -> Result<()> {
    const BYTES: u64 = 32_000_000;
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let nas = lab.device().add_host("nas", NAS)?;
    let _files = FileServer::start(&nas, (NAS, 80))?;
    let _own = FileServer::start(lab.device().host(), (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, lab.device().host(), "nas");
    device.expose(&[("web", NAS_WEB), ("own", "http://127.0.0.1")])?;
    let up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let _call = caller.connect(&up.id, &[(8080, "web"), (8081, "own")])?;
    let host = lab.caller().host();

    for port in [8080, 8081] {
        let url = format!("http://{}/", Profile::local(port));
        let said = Ended::of(host.command("curl").args(["-sS", "--max-time", "20", &url]))?;
        assert_eq!(said.stdout, GREETING.trim(), "{said:?}");
    }

    // Four by each service, all at once, and an upload beside them.
    let file = lab.dir().join("upload");
    io::copy(&mut Content::new(9, BYTES), &mut File::create(&file)?)?;
    let downloads = (0..8)
        .map(|seed| {
            let address = Profile::local(8080 + u16::from(seed % 2 == 1));
            Download::start(host, address, seed, BYTES, None)
        })
        .collect::<Result<Vec<_>>>()?;
    let url = format!("http://{}/upload", Profile::local(8080));
    let mut curl = host.command("curl");
    curl.args(["-sS", "--fail", "--max-time", "50", &url, "-T"]);
    let said = Ended::of(curl.arg(&file))?;
    let took: Value = serde_json::from_str(&said.stdout).with_context(|| format!("{said:?}"))?;
    assert_eq!(took["bytes"], BYTES);
    assert_eq!(took["sha256"], Content::sha256(9, BYTES).as_str());
    let mut last = Duration::ZERO;
    for download in downloads {
        last = last.max(download.finish()?.time);
    }
    println!(
        "8 x {BYTES} bytes down in {last:?} and as much up in {:?}, all hashes right",
        said.time
    );
    Ok(())
}

#[test]
fn half_close_goes_both_ways() -> Result<()> {
    const BYTES: u64 = 5_000_000;
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let host = lab.device().host();
    // Answers only when everything has been said.
    let digest = service(host, 7001, |mut stream| {
        let (sha256, bytes) = hash(&stream)?;
        write!(stream, "{sha256} {bytes}")
    })?;
    // Says all it has to say, ends, and goes on listening.
    let (heard, hears) = mpsc::channel();
    let patient = service(host, 7002, move |mut stream| {
        stream.write_all(b"that is all")?;
        stream.shutdown(Shutdown::Write)?;
        // The test is over if nobody waits.
        let _ = heard.send(hash(&stream)?);
        Ok(())
    })?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("digest", &digest), ("patient", &patient)])?;
    let up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let _call = caller.connect(&up.id, &[(7001, "digest"), (7002, "patient")])?;
    let expected = (Content::sha256(2, BYTES), BYTES);

    let mut stream = connect_local(lab.caller().host(), 7001)?;
    io::copy(&mut Content::new(2, BYTES), &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, format!("{} {BYTES}", expected.0));

    let mut stream = connect_local(lab.caller().host(), 7002)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    assert_eq!(answer, "that is all");
    io::copy(&mut Content::new(2, BYTES), &mut stream)?;
    stream.shutdown(Shutdown::Write)?;
    assert_eq!(hears.recv_timeout(PATIENCE)?, expected);

    // The same by pipe: end of input is not the end of the call.
    let mut pipe = caller.registry_command(&["pipe", "nas:digest", "--password", PASSWORD])?;
    let mut pipe = pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = pipe.stdin.take().context("piped")?;
    io::copy(&mut Content::new(2, BYTES), &mut input)?;
    drop(input);
    let output = pipe.wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    let answer = String::from_utf8(output.stdout)?;
    assert_eq!(answer, format!("{} {BYTES}", expected.0));
    Ok(())
}

#[test]
fn services_that_fail_do_not_take_the_link_along() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    // Nobody listens there.
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1"), ("closed", "127.0.0.1:9")])?;
    let up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");

    // Asked for first, an unknown service is the end of the call; later, of that connection only.
    let more = ["--password", PASSWORD];
    let mut call = caller.calling(&up.id, &[(8090, "nothing")], &more)?;
    let ended = call.ended(PATIENCE)?;
    ended.check(5, "no service of this name; it has: closed, web")?;

    let call = caller.connect(
        &up.id,
        &[(8080, "web"), (8081, "closed"), (8082, "nothing")],
    )?;
    for (port, nth, words) in [
        (8081, 1, "can not reach its service 'closed'"),
        (8082, 2, "no service 'nothing'; it has: closed, web"),
    ] {
        let mut stream = connect_local(lab.caller().host(), port)?;
        // What stands for a refused connection once it is open: the end, at once and without a byte.
        // It may be there before anything is written.
        let written = stream.write_all(b"anybody there?");
        match written.and_then(|()| stream.read(&mut [0; 16])) {
            Ok(length) => assert_eq!(length, 0),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
        }
        let event = call.event("refused", nth)?;
        let message = event["message"].as_str().unwrap_or_default();
        assert!(message.contains(words), "{event}");
        println!("{message}");
    }
    let mut pipe = caller.registry_command(&["pipe", "nas:closed", "--password", PASSWORD])?;
    Ended::of(&mut pipe)?.check(5, "can not reach its service")?;
    fetch(lab.caller().host(), Profile::local(8080), 1, 100_000)?;
    assert_eq!(call.process.stdout().matches("\"lost\"").count(), 0);

    // A service that is exposed while the link is up can be used on it, and one taken away can not.
    device.expose(&[("nothing", "127.0.0.1:80")])?;
    fetch(lab.caller().host(), Profile::local(8082), 1, 100_000)?;
    agent::run(&mut device.command(&["unexpose", "nothing"])?)?;
    let said = Download::start(lab.caller().host(), Profile::local(8082), 1, 1000, None)?.fail()?;
    println!("curl after unexpose: {said}");
    Ok(())
}

#[test]
fn a_reset_is_passed_on_either_way() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let host = lab.device().host();
    let rude = service(host, 7001, |mut stream| {
        stream.read_exact(&mut [0; 5])?;
        stream.write_all(b"half an ans")?;
        // Until that is read and told.
        stream.read_exact(&mut [0; 1])?;
        reset(stream)
    })?;
    let (heard, hears) = mpsc::channel();
    let careful = service(host, 7002, move |mut stream| {
        stream.write_all(b"hello")?;
        let ended = loop {
            match stream.read(&mut [0; 1024]) {
                Ok(0) => break None,
                Ok(_) => {}
                Err(error) => break Some(error.kind()),
            }
        };
        // The test is over if nobody waits.
        let _ = heard.send(ended);
        Ok(())
    })?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("rude", &rude), ("careful", &careful)])?;
    let up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let call = caller.connect(&up.id, &[(7001, "rude"), (7002, "careful")])?;

    // Otherwise half an answer passes for a whole one.
    let mut stream = connect_local(lab.caller().host(), 7001)?;
    stream.write_all(b"hello")?;
    let mut answer = [0; 11];
    stream.read_exact(&mut answer)?;
    assert_eq!(&answer, b"half an ans");
    stream.write_all(b"!")?;
    let ended = stream.read(&mut answer);
    assert_eq!(
        ended.map_err(|error| error.kind()),
        Err(ErrorKind::ConnectionReset),
        "the service's reset reaches the caller's program"
    );

    let mut stream = connect_local(lab.caller().host(), 7002)?;
    stream.read_exact(&mut [0; 5])?;
    reset(stream)?;
    assert_eq!(
        hears.recv_timeout(PATIENCE)?,
        Some(ErrorKind::ConnectionReset),
        "the reset of the caller's program reaches the service"
    );
    assert_eq!(call.process.stdout().matches("\"lost\"").count(), 0);
    Ok(())
}

#[test]
fn a_remembered_caller_needs_no_password_until_it_is_revoked() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let _up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");

    caller
        .registry_command(&["connect", "nas", "-L", "8080:web"])
        .and_then(|mut command| Ended::of(&mut command))?
        .check(2, "no password")?;
    let mut first = caller.calling(
        "nas",
        &[(8080, "web")],
        &["--password", PASSWORD, "--remember"],
    )?;
    assert_eq!(first.event("connected", 1)?["remembered"], true);
    fetch(lab.caller().host(), Profile::local(8080), 1, 100_000)?;
    let status = first.process.interrupt(Duration::from_secs(5))?;
    assert_eq!(status.code(), Some(130), "^C: {status}");
    let callers = device.ask(&["callers"])?;
    let id = caller.id()?;
    assert!(callers[&id]["since"].is_u64(), "{callers}");

    let mut second = caller.calling("nas", &[(8080, "web")], &[])?;
    second.event("connected", 1)?;
    fetch(lab.caller().host(), Profile::local(8080), 1, 100_000)?;

    let revoked = device.run(&["callers", "revoke", &id])?;
    assert_eq!(revoked.code, 0, "{revoked:?}");
    let lost = second.event_within(Duration::from_secs(5), "lost", 1)?;
    assert!(
        lost["reason"]
            .as_str()
            .unwrap_or_default()
            .contains("revoked"),
        "{lost}"
    );
    // It calls again, and is refused for good.
    let ended = second.ended(PATIENCE)?;
    ended.check(5, "does not remember this caller")?;
    println!("{}", ended.stderr.lines().last().unwrap_or_default());
    assert_eq!(device.ask(&["callers"])?, serde_json::json!({}));
    assert_eq!(device.status()?["links"], serde_json::json!([]));
    let mut third = caller.calling("nas", &[(8080, "web")], &[])?;
    third.ended(PATIENCE)?.check(5, "password")?;
    // The password still opens.
    caller.connect("nas", &[(8080, "web")])?;
    Ok(())
}

/// How many UDP sockets a host has.
fn udp_sockets(namespace: &Namespace) -> Result<usize> {
    let mut count = 0;
    for file in ["/proc/net/udp", "/proc/net/udp6"] {
        let table = Ended::of(namespace.command("cat").arg(file))?;
        count += table.stdout.lines().count().saturating_sub(1);
    }
    Ok(count)
}

#[test]
fn a_call_goes_through_the_agent_of_the_callers_host() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(&registry, &[])?;
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    // Neither needs a socket for long, and all are counted.
    let agent = caller.up(&registry, &["--no-port-mapping", "--no-lan"])?;
    let sockets = udp_sockets(lab.caller().host())?;
    assert!(sockets >= 1, "the agent's");

    let mut wrong = caller.calling(&up.id, &[(8080, "web")], &["--password", "wrong"])?;
    wrong.ended(PATIENCE)?.check(5, "wrong password")?;

    let mut call = caller.connect(&up.id, &[(8080, "web")])?;
    assert_eq!(call.event("connected", 1)?["receipt"]["path"], "direct");
    assert_eq!(
        udp_sockets(lab.caller().host())?,
        sockets,
        "the link is on the agent's socket"
    );
    let done = fetch(lab.caller().host(), Profile::local(8080), 1, 50_000_000)?;
    println!("through the agent: {:.0} MB/s", done.megabytes_per_second());

    // By pipe too, both at once.
    let mut pipe = caller.registry_command(&["pipe", "nas:web", "--password", PASSWORD])?;
    let mut pipe = pipe.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let mut input = pipe.stdin.take().context("piped")?;
    input.write_all(b"GET / HTTP/1.1\r\n\r\n")?;
    drop(input);
    let output = pipe.wait_with_output()?;
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout)?.ends_with(GREETING));

    // The end of the command is the end of the call, and not of the agent.
    let status = call.process.interrupt(Duration::from_secs(5))?;
    assert_eq!(status.code(), Some(130));
    until(
        Duration::from_secs(20),
        "the link ends, some time after the pipe",
        || Ok((device.status()?["links"] == serde_json::json!([])).then_some(())),
    )?;
    assert_eq!(caller.status()?["id"], agent.id.as_str());
    assert_eq!(udp_sockets(lab.caller().host())?, sockets);
    Ok(())
}

#[test]
fn two_agents_call_each_other_at_the_same_time() -> Result<()> {
    const BYTES: u64 = 50_000_000;
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let mut agents = Vec::new();
    for (name, site) in [("left", lab.caller()), ("right", lab.device())] {
        let profile = Profile::new(&lab, &registry, site.host(), name);
        let files = FileServer::start(site.host(), (Ipv4Addr::LOCALHOST, 80))?;
        profile.expose(&[("web", "http://127.0.0.1")])?;
        let up = profile.up(&registry, &[])?;
        agents.push((profile, files, up));
    }
    let more = ["--password", PASSWORD];
    let [left, right] = &agents[..] else {
        unreachable!("two of them")
    };
    let calls = [
        left.0.calling(&right.2.id, &[(8080, "web")], &more)?,
        right.0.calling(&left.2.id, &[(8080, "web")], &more)?,
    ];
    for call in &calls {
        assert_eq!(call.event("connected", 1)?["receipt"]["path"], "direct");
    }
    let downloads = [(&left.0, 1), (&right.0, 2)].map(|(profile, seed)| {
        Download::start(profile.namespace(), Profile::local(8080), seed, BYTES, None)
    });
    for download in downloads {
        let done = download?.finish()?;
        println!("each way at once: {:.0} MB/s", done.megabytes_per_second());
    }
    for (profile, ..) in &agents {
        let links = profile.status()?["links"].as_array().map(Vec::len);
        assert_eq!(links, Some(1), "one link in, and one out");
    }
    // Ending the one leaves the other.
    let [mut first, second] = calls;
    let status = first.process.interrupt(Duration::from_secs(5))?;
    assert_eq!(status.code(), Some(130));
    until(Duration::from_secs(5), "the first link ends", || {
        Ok((right.0.status()?["links"] == serde_json::json!([])).then_some(()))
    })?;
    fetch(right.0.namespace(), Profile::local(8080), 3, 1_000_000)?;
    assert_eq!(second.process.stdout().matches("\"lost\"").count(), 0);
    Ok(())
}

#[test]
fn two_commands_of_one_caller_do_not_disturb_each_other() -> Result<()> {
    let lab = Lab::builder().build()?;
    let (_coturn, registry) = servers(&lab)?;
    let host = lab.device().host();
    let _web = FileServer::start(host, (Ipv4Addr::LOCALHOST, 80))?;
    let device = Profile::new(&lab, &registry, host, "nas");
    device.expose(&[("web", "http://127.0.0.1")])?;
    let up = device.up(&registry, &[])?;
    // No agent runs on the caller's host: each command has a socket of its own, and one key.
    let caller = Profile::new(&lab, &registry, lab.caller().host(), "laptop");
    let first = caller.connect(&up.id, &[(8080, "web")])?;
    first.event("connected", 1)?;
    let second = caller.connect(&up.id, &[(8081, "web")])?;
    second.event("connected", 1)?;
    let fetch = |port, seed| fetch(lab.caller().host(), Profile::local(port), seed, 5_000_000);
    for round in 0..3 {
        fetch(8080, round)?;
        fetch(8081, round)?;
    }
    assert_eq!(device.status()?["links"].as_array().map(Vec::len), Some(2));
    for call in [&first, &second] {
        assert_eq!(call.process.stdout().matches("\"lost\"").count(), 0);
    }
    Ok(())
}
