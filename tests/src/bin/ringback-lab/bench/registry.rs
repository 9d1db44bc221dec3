//! What the registry carries on workerd: registrations and relayed requests per second, beside a
//! worker that only says hello. All are asked over the loopback by [`CONNECTIONS`] connections at a
//! time; one round measures each once.
//!
//! The limits of PROTOCOL section 14 hold: requests are spread over [`DEVICES`] devices and
//! [`CALLERS`] callers. Making those is not part of the time.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use futures_util::future::{join_all, try_join_all};
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, body::Bytes, client::conn::http1};
use hyper_util::rt::TokioIo;
use ringback_protocol::{
    PeerId, SecretKey,
    frame::{Ack, Answer, Frame, FrameReader},
};
use ringback_tests::registry::{Incident, Registry, Socket, envelope, new_key};
use serde::Serialize;
use tokio::{net::TcpStream, task::JoinSet};
use xtask::workerd::{Config, Workerd};

use super::{figure::Figure, report::Report, usage::cpu_seconds};

const CONNECTIONS: usize = 16;
const DEVICES: usize = 256;
const CALLERS: usize = 3;
/// Of each kind in a round. Six rounds a minute stay below 20 requests of a caller to a device.
const REQUESTS: usize = 2000;
/// Of the plain worker in a round, which is faster.
const HELLOS: usize = 6000;
/// An answer as long as a usual one.
const REPLY: usize = 160;
/// For workerd to notice that a round's sockets are gone.
const PAUSE: Duration = Duration::from_millis(500);

const HELLO: &str = "export default { fetch() { return new Response('hello') } }";

#[derive(Debug, Default, Serialize)]
pub(crate) struct Figures {
    connections: usize,
    devices: usize,
    callers: usize,
    /// The plain worker, over connections that are kept.
    hello: Rate,
    /// The plain worker, a connection for each.
    hello_by_new_connections: Rate,
    /// WebSocket, challenge, registration: a connection for each.
    registrations: Rate,
    /// Request, acknowledgement, answer, over connections that are kept.
    requests: Rate,
    registrations_to_hello_by_new_connections: f64,
    requests_to_hello: f64,
}

#[derive(Debug, Default, Serialize)]
struct Rate {
    per_second: Figure,
    /// Processor time of workerd for a thousand.
    cpu_seconds_per_1000: Figure,
}

pub(super) fn measure(runs: u32) -> Result<Figures> {
    // One thread: the other core is workerd's.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(measure_all(runs))
}

async fn measure_all(runs: u32) -> Result<Figures> {
    let dir = tempfile::tempdir()?;
    let hello = Workerd::start(Config::script(dir.path(), HELLO)?)?;
    let registry = Registry::start();
    eprintln!("registry: enrolling {DEVICES} devices");
    let mut devices = Vec::new();
    for number in 0..DEVICES {
        devices.push(registry.enrolled(&format!("bench-{number}")).await);
    }
    let calls = Calls::seal(&devices);
    let mut figures = Figures {
        connections: CONNECTIONS,
        devices: DEVICES,
        callers: CALLERS,
        ..Figures::default()
    };
    let mut sent = 0;
    // The first round warms up, and does not count.
    for run in 0..=runs {
        let mut unused = Figures::default();
        let figures = if run > 0 { &mut figures } else { &mut unused };
        let kept = time(&hello, HELLOS, say_hello(hello.addr(), false)).await?;
        figures.hello.add(kept.1);
        let new = time(&hello, HELLOS, say_hello(hello.addr(), true)).await?;
        figures.hello_by_new_connections.add(new.1);

        let server = &registry.server;
        let (sockets, rate) = time(server, DEVICES, register(&registry, &devices)).await?;
        figures.registrations.add(rate);
        let mut answering = JoinSet::new();
        for socket in sockets {
            answering.spawn(answer(socket));
        }
        let requests = time(server, REQUESTS, calls.place(server.addr(), sent)).await?;
        figures.requests.add(requests.1);
        sent += REQUESTS;
        answering.shutdown().await;
        tokio::time::sleep(PAUSE).await;
        if run > 0 {
            eprintln!("registry, run {run} of {runs}");
        }
    }
    let ratio = |rate: &Rate, base: &Rate| rate.per_second.median / base.per_second.median;
    figures.registrations_to_hello_by_new_connections =
        ratio(&figures.registrations, &figures.hello_by_new_connections);
    figures.requests_to_hello = ratio(&figures.requests, &figures.hello);
    Ok(figures)
}

impl Rate {
    fn add(&mut self, (per_second, cpu): (f64, f64)) {
        self.per_second.add(per_second);
        self.cpu_seconds_per_1000.add(cpu);
    }
}

impl Figures {
    pub(super) fn report(&self, report: &mut Report) {
        let part = "registry on workerd";
        for (name, rate) in [
            ("hello", &self.hello),
            (
                "hello, a connection for each",
                &self.hello_by_new_connections,
            ),
            ("registrations", &self.registrations),
            ("relayed requests", &self.requests),
        ] {
            report.add(part, name, rate.per_second.median, "a second");
            let cpu = rate.cpu_seconds_per_1000.median;
            report.add(part, "  processor time of workerd", cpu, "s/1000");
        }
        let (registrations, requests) = (
            self.registrations_to_hello_by_new_connections,
            self.requests_to_hello,
        );
        let name = "registrations to hello, a connection for each";
        report.add(part, name, registrations, "×");
        report.add(part, "relayed requests to hello", requests, "×");
    }
}

/// Runs `work`, which makes `count` of something; gives how many a second, and workerd's processor
/// time for a thousand.
async fn time<T>(
    server: &Workerd,
    count: usize,
    work: impl Future<Output = Result<T>>,
) -> Result<(T, (f64, f64))> {
    let (start, cpu) = (Instant::now(), cpu_seconds(server.pid())?);
    let made = work.await?;
    let seconds = start.elapsed().as_secs_f64();
    let cpu = cpu_seconds(server.pid())? - cpu;
    let count = count as f64;
    Ok((made, (count / seconds, cpu / count * 1000.0)))
}

async fn say_hello(server: SocketAddr, by_new_connections: bool) -> Result<()> {
    let one = async || -> Result<()> {
        let mut connection = Http::connect(server).await?;
        for _ in 0..HELLOS / CONNECTIONS {
            if by_new_connections {
                connection = Http::connect(server).await?;
            }
            let body = connection.send("GET", "/", Bytes::new()).await?;
            ensure!(body == "hello", "the plain worker says {body:?}");
        }
        Ok(())
    };
    try_join_all((0..CONNECTIONS).map(|_| one())).await?;
    Ok(())
}

/// Registers every device once.
async fn register(registry: &Registry, devices: &[SecretKey]) -> Result<Vec<Socket>> {
    let origin = &registry.origin();
    let some = async |devices: &[SecretKey]| {
        let mut sockets = Vec::new();
        for key in devices {
            let mut socket = Socket::connect(registry, key).await;
            socket.register(key, origin, None).await;
            socket.expect_registered().await;
            sockets.push(socket);
        }
        sockets
    };
    let shares = devices.chunks(devices.len().div_ceil(CONNECTIONS));
    let sockets = join_all(shares.map(some)).await;
    Ok(sockets.into_iter().flatten().collect())
}

/// A device that says yes to everybody.
async fn answer(mut socket: Socket) {
    while let Incident::Frame(frame) = socket.next().await {
        if let Frame::Deliver(deliver) = frame {
            let call = deliver.call;
            socket.send(Ack { call }).await;
            let reply = vec![0x5a; REPLY];
            socket.send(Answer { call, reply }).await;
        }
    }
}

/// An envelope of each caller to each device. The registry does not know that they are old: only the
/// device would.
struct Calls(Vec<(PeerId, Bytes)>);

impl Calls {
    fn seal(devices: &[SecretKey]) -> Self {
        let callers: [_; CALLERS] = std::array::from_fn(|_| new_key());
        let of = |caller: SecretKey| {
            devices.iter().map(move |device| {
                let device = device.id();
                (device, Bytes::from(envelope(&caller, &device)))
            })
        };
        Self(callers.into_iter().flat_map(of).collect())
    }

    /// Places [`REQUESTS`] calls, the first one being the one after `sent` others.
    async fn place(&self, server: SocketAddr, sent: usize) -> Result<()> {
        let some = async |first: usize| -> Result<()> {
            let mut connection = Http::connect(server).await?;
            for number in (first..REQUESTS).step_by(CONNECTIONS) {
                let (device, envelope) = &self.0[(sent + number) % self.0.len()];
                let path = format!("/v1/devices/{device}/requests");
                let body = connection.send("POST", &path, envelope.clone()).await?;
                let mut frames = FrameReader::default();
                frames.push(&body);
                let mut answered = false;
                while let Some(frame) = frames.next_frame() {
                    answered = matches!(frame?, Frame::Answered(_));
                }
                ensure!(answered, "a request was not answered: {body:?}");
            }
            Ok(())
        };
        try_join_all((0..CONNECTIONS).map(some)).await?;
        Ok(())
    }
}

/// A connection that takes one request after the other.
struct Http {
    requests: http1::SendRequest<Full<Bytes>>,
    host: String,
}

impl Http {
    async fn connect(server: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (requests, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends by itself when the requests are dropped.
        tokio::spawn(connection);
        Ok(Self {
            requests,
            host: server.to_string(),
        })
    }

    async fn send(&mut self, method: &str, path: &str, body: Bytes) -> Result<Bytes> {
        self.requests.ready().await?;
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", &self.host)
            .header("content-type", "application/octet-stream")
            .body(Full::new(body))?;
        let response = self.requests.send_request(request).await?;
        let status = response.status();
        let body = response.into_body().collect().await;
        let body = body.context("the answer broke off")?.to_bytes();
        ensure!(status.is_success(), "{method} {path}: {status}: {body:?}");
        Ok(body)
    }
}
