//! How much memory callers can have an agent take: many links, each with streams that nobody reads.

use std::{
    io::{ErrorKind, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    time::{Duration, Instant},
};

use ringback_tests::{
    agent::PATIENCE,
    lab::process::Process,
    loopback::{Device, PASSWORD, Profile},
    registry::Registry,
};
use serde_json::json;
use socket2::SockRef;
use tokio::task::block_in_place;

/// Callers, each with a key of its own, and the connections of each to each service.
const CALLERS: usize = 12;
const CONNECTIONS: usize = 8;
/// What the agent may take for all of them: 64 MiB of unread data each way (PROTOCOL 14), 2 MiB a link
/// for its state, and 512 KiB a connection for the blocks that are being copied when it stops.
const MOST: u64 = (2 * 64 + 2 * CALLERS as u64 + (2 * CALLERS * CONNECTIONS) as u64 / 2) << 20;
/// Once no data has moved for this long, the windows are full.
const QUIET: Duration = Duration::from_secs(1);

/// A service that takes connections and deals with none of their data; `talks`: it sends as much as
/// is taken.
fn service(talks: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    // What the kernel takes is not the agent's.
    SockRef::from(&listener)
        .set_recv_buffer_size(4096)
        .expect("it can be small");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        let mut open = Vec::new();
        for mut stream in listener.incoming().map_while(Result::ok) {
            open.push(stream.try_clone());
            if talks {
                // Until the other end goes.
                std::thread::spawn(move || while stream.write_all(&[7; 65_536]).is_ok() {});
            }
        }
    });
    address
}

/// The local port of a service on `connect`.
fn port(connect: &Process, service: &str) -> SocketAddr {
    let line = connect
        .stderr_line(PATIENCE, |line| line.ends_with(&format!("→ {service}")))
        .expect("it listens");
    let address = line.split_whitespace().next().expect("an address");
    address.parse().expect("an address")
}

/// Sends on each of the connections until none has taken anything for [`QUIET`].
fn fill(connections: &[TcpStream]) -> u64 {
    let chunk = [9; 65_536];
    let mut sent = 0;
    let mut last = Instant::now();
    while last.elapsed() < QUIET {
        let mut idle = true;
        for mut connection in connections {
            match connection.write(&chunk) {
                Ok(taken) => {
                    sent += taken as u64;
                    idle = false;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => panic!("a connection broke: {error}"),
            }
        }
        if idle {
            std::thread::sleep(Duration::from_millis(10));
        } else {
            last = Instant::now();
        }
    }
    sent
}

fn resident_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .expect("VmRSS");
    let number = line.split_whitespace().nth(1).expect("a number");
    number.parse::<u64>().expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn links_that_nobody_reads_share_what_the_agent_holds() {
    let registry = Registry::with(|config| {
        // Everything stays on this host.
        config
            .bindings
            .insert("STUN_SERVERS".to_owned(), String::new());
    });
    let code = registry.code(json!({ "name": "nas" })).await;
    let url = registry.origin();
    block_in_place(|| {
        let device = Device::start(&url, &code, "hello");
        for (name, talks) in [("sink", false), ("flood", true)] {
            let address = service(talks).to_string();
            device.profile.ok(["expose", name, &address]);
        }
        let before = resident_bytes(device.process.pid());
        let callers: Vec<(Profile, Process)> = (0..CALLERS)
            .map(|_| {
                let profile = Profile::new();
                let mut connect = profile.command(["connect", &device.id, "--registry", &url]);
                connect.args(["-L", "0:sink", "-L", "0:flood"]);
                connect.env("RINGBACK_PASSWORD", PASSWORD);
                let connect = profile.start(connect);
                (profile, connect)
            })
            .collect();
        let open = |address: SocketAddr| {
            let stream = TcpStream::connect(address).expect("it listens");
            stream.set_nonblocking(true).expect("it can");
            stream
        };
        let mut unread = Vec::new();
        let mut written = Vec::new();
        for (_, connect) in &callers {
            let (sink, flood) = (port(connect, "sink"), port(connect, "flood"));
            for _ in 0..CONNECTIONS {
                unread.push(open(flood));
                written.push(open(sink));
            }
        }
        let sent = fill(&written);
        assert!(
            sent > 16 << 20,
            "nothing is held back if so little is sent: {sent}"
        );
        assert_eq!(device.callers().len(), CALLERS);
        let after = resident_bytes(device.process.pid());
        println!(
            "{CALLERS} links with {CONNECTIONS} streams each way that nobody reads: {} → {} MiB, {} MiB sent",
            before >> 20,
            after >> 20,
            sent >> 20
        );
        assert!(
            after.saturating_sub(before) < MOST,
            "{} MiB more",
            (after - before) >> 20
        );
        drop((unread, written));
    });
}
