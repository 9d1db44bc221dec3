//! A relay on a machine of the owner's: `ringback beacon --relay` (PROTOCOL §16.6). UDP from a
//! socket of the link's own, so that the relay knows the room by the address; TCP where UDP is
//! blocked.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use ringback_protocol::beacon::{FIRST_BYTE, Member, MemberOutput, Standing};
use ringback_protocol::relay::{Item, MAX_DATAGRAM, StreamReader, framed};
use ringback_protocol::{Code, PeerId};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UdpSocket;

use super::pace::Pace;
use super::{Ends, Relay, RelayState, Seat, start};
use crate::backoff::Backoff;
use crate::happy_eyeballs;
use crate::keepalive::keep_alive;
use crate::nat64;

/// Until UDP counts as blocked and TCP is tried, where there is TCP.
const UDP_PATIENCE: Duration = Duration::from_millis(1500);
/// A relay that was reached by TCP is tried by UDP again when that connection ends.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// What is allowed today, is known again tomorrow at the latest.
const TRY_LATER: Duration = Duration::from_secs(600);
/// Bytes of one write to a TCP connection.
const WRITE: usize = 64 * 1024;
const IDLE: Duration = Duration::from_secs(3600);

/// A beacon that relays, as the registry tells of it. One of the addresses must be there.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct OwnRelay {
    pub(crate) id: PeerId,
    /// `host:port`
    pub(crate) udp: Option<String>,
    /// `host:port`
    pub(crate) tcp: Option<String>,
}

/// An owner's relay. Needs a runtime.
pub(crate) fn through_beacon(beacon: OwnRelay, seat: Seat) -> Relay {
    start(Some(FIRST_BYTE), |ends| run(beacon, seat, ends))
}

async fn run(beacon: OwnRelay, seat: Seat, mut ends: Ends) {
    let mut backoff = Backoff::default();
    loop {
        let error = match attempt(&beacon, &seat, &mut ends, &mut backoff).await {
            Ok(never) => match never {},
            Err(error) => error,
        };
        match error.downcast::<Refused>() {
            Ok(Refused(standing)) => {
                let (code, retry_after) = refusal(standing);
                ends.set(RelayState::Refused {
                    detail: code.title().to_owned(),
                    code,
                    retry_after,
                });
                match retry_after {
                    Some(pause) => tokio::time::sleep(pause).await,
                    None => return,
                }
            }
            Err(error) => {
                let reason = format!("{error:#}");
                ends.set(RelayState::Lost { reason });
                backoff.wait().await;
            }
        }
        while ends.outgoing.try_recv().is_ok() {}
    }
}

/// The relay says no.
#[derive(Debug, thiserror::Error)]
#[error("the relay refuses: {0:?}")]
struct Refused(Standing);

/// UDP has not been answered in time.
#[derive(Debug, thiserror::Error)]
#[error("the relay does not answer by UDP")]
struct Silent;

fn refusal(standing: Standing) -> (Code, Option<Duration>) {
    match standing {
        Standing::NotEnrolled => (Code::NotEnrolled, None),
        Standing::Revoked => (Code::Revoked, None),
        Standing::RelayDisabled => (Code::RelayDisabled, None),
        Standing::Exhausted => (Code::RelayExhausted, Some(TRY_LATER)),
        _ => (Code::RateLimited, Some(Duration::from_secs(10))),
    }
}

async fn attempt(
    beacon: &OwnRelay,
    seat: &Seat,
    ends: &mut Ends,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible> {
    if let Some(udp) = &beacon.udp {
        let patience = beacon.tcp.is_some().then_some(UDP_PATIENCE);
        let Err(error) = by_udp(beacon, udp, seat, ends, backoff, patience).await;
        if beacon.tcp.is_none() || !error.is::<Silent>() {
            return Err(error);
        }
    }
    let tcp = beacon.tcp.as_ref().context("the relay has no address")?;
    by_tcp(beacon, tcp, seat, ends, backoff).await
}

/// A member of the room, and when it started.
struct Joining {
    member: Member,
    started: Instant,
    pace: Pace,
}

impl Joining {
    fn new(beacon: &OwnRelay, seat: &Seat) -> Self {
        let member = Member::new(
            seat.key.clone(),
            seat.role,
            seat.device,
            seat.room,
            beacon.id,
            rand::random(),
            Duration::ZERO,
        );
        Self {
            member,
            started: Instant::now(),
            pace: Pace::new(Instant::now()),
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn deadline(&self) -> Instant {
        self.started + self.member.poll_timeout().unwrap_or(IDLE)
    }

    /// The next datagram for the relay; tells of everything else.
    fn poll(&mut self, ends: &Ends, backoff: &mut Backoff) -> Result<Option<Vec<u8>>> {
        while let Some(output) = self.member.poll_output() {
            match output {
                MemberOutput::Send(datagram) => return Ok(Some(datagram)),
                MemberOutput::Joined { present, rate } => {
                    self.pace.set_rate(rate.into(), Instant::now());
                    backoff.reset();
                    ends.set(RelayState::Joined { present });
                }
                MemberOutput::Lost => ends.set(RelayState::Lost {
                    reason: "the relay does not answer".into(),
                }),
                MemberOutput::Refused(standing) => bail!(Refused(standing)),
            }
        }
        Ok(None)
    }
}

async fn by_udp(
    beacon: &OwnRelay,
    address: &str,
    seat: &Seat,
    ends: &mut Ends,
    backoff: &mut Backoff,
    patience: Option<Duration>,
) -> Result<std::convert::Infallible> {
    let address = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("can not find {address}"))?
        .next()
        .with_context(|| format!("{address} has no address"))?;
    let address = nat64::outward(address);
    let local: SocketAddr = match address {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(local).await?;
    socket.connect(address).await?;
    let mut joining = Joining::new(beacon, seat);
    let mut silent_at = patience.map(|patience| Instant::now() + patience);
    let mut buffer = vec![0; MAX_DATAGRAM + 1];
    loop {
        while let Some(datagram) = joining.poll(ends, backoff)? {
            // Refused by the network: as good as lost.
            let _ = socket.send(&datagram).await;
        }
        let deadline = joining
            .deadline()
            .min(silent_at.unwrap_or_else(|| Instant::now() + IDLE));
        let is_joined = joining.member.is_joined();
        tokio::select! {
            received = socket.recv(&mut buffer) => {
                // An ICMP error is a hint that anybody can forge.
                let Ok(len) = received else {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                };
                silent_at = None;
                let datagram = &buffer[..len];
                if datagram.first() == Some(&FIRST_BYTE) {
                    joining.member.handle_datagram(datagram, joining.now());
                } else if is_joined && (1..=MAX_DATAGRAM).contains(&len) {
                    joining.pace.heard(len, Instant::now());
                    ends.receive(Bytes::copy_from_slice(datagram));
                }
            }
            datagram = ends.next(&mut joining.pace), if is_joined => {
                joining.pace.sent(datagram.len(), Instant::now());
                let _ = socket.send(&datagram).await;
            }
            () = tokio::time::sleep_until(deadline.into()) => {
                if silent_at.is_some_and(|at| at <= Instant::now()) {
                    bail!(Silent);
                }
                joining.member.handle_timeout(joining.now());
            }
        }
    }
}

async fn by_tcp(
    beacon: &OwnRelay,
    address: &str,
    seat: &Seat,
    ends: &mut Ends,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible> {
    let connecting = async {
        let found = tokio::net::lookup_host(address).await?;
        happy_eyeballs::connect(found.map(nat64::outward)).await
    };
    let mut stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
        .await
        .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
        .with_context(|| format!("can not reach the relay at {address}"))?;
    stream.set_nodelay(true)?;
    keep_alive(&stream);
    let (mut read, mut write) = stream.split();
    let mut joining = Joining::new(beacon, seat);
    let mut reader = StreamReader::default();
    let mut buffer = vec![0; WRITE];
    let mut out = Vec::with_capacity(WRITE);
    loop {
        while let Some(datagram) = joining.poll(ends, backoff)? {
            out.extend(framed(&datagram).context("the beacon's datagrams are short")?);
        }
        if !out.is_empty() {
            // Whoever does not take the bytes for so long is gone.
            tokio::time::timeout(CONNECT_TIMEOUT, write.write_all(&out))
                .await
                .context("the relay takes nothing any more")??;
            out.clear();
        }
        let is_joined = joining.member.is_joined();
        let deadline = joining.deadline();
        tokio::select! {
            read = read.read(&mut buffer) => {
                let len = read.context("the connection to the relay broke off")?;
                if len == 0 {
                    bail!("the relay closed the connection");
                }
                reader.push(&buffer[..len]);
                while let Some(item) = reader.next_item()? {
                    match item {
                        Item::Datagram(datagram) if datagram[0] == FIRST_BYTE => {
                            let now = joining.now();
                            joining.member.handle_datagram(datagram, now);
                        }
                        Item::Datagram(datagram) => {
                            joining.pace.heard(datagram.len(), Instant::now());
                            ends.receive(Bytes::copy_from_slice(datagram));
                        }
                        // Of a later version.
                        Item::Control(_) => {}
                    }
                }
            }
            datagram = ends.next(&mut joining.pace), if is_joined => {
                let mut next = Some(datagram);
                while let Some(datagram) = next {
                    let now = Instant::now();
                    joining.pace.sent(datagram.len(), now);
                    out.extend(framed(&datagram).unwrap_or_default());
                    next = (out.len() < WRITE - MAX_DATAGRAM && joining.pace.is_open(now))
                        .then(|| ends.outgoing.try_recv().ok())
                        .flatten();
                }
            }
            () = tokio::time::sleep_until(deadline.into()) => {
                joining.member.handle_timeout(joining.now());
            }
        }
    }
}
