//! The registry's relay: a WebSocket to a room of the call's own (PROTOCOL §15).

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use ringback_protocol::frame::{Frame, Join, Marked, PeerPresence, Rejected};
use ringback_protocol::registration::{PING_INTERVAL, PONG_TIMEOUT, STEP_TIMEOUT, sign_join};
use ringback_protocol::relay::{Batch, Item, MAX_BATCH, control, items};
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;

use super::pace::Pace;
use super::{Ends, Relay, RelayState, Seat, start};
use crate::backoff::Backoff;
use crate::link::printable;
use crate::registry::{Registry, WebSocket, open_websocket};

/// Bytes that may wait in the socket's own buffer before sending waits for it.
const WRITE_BUFFER: usize = 2 * MAX_BATCH;

/// The registry's relay. Needs a runtime.
pub(crate) fn through_registry(registry: &Registry, seat: Seat) -> Relay {
    let registry = registry.clone();
    start(None, |ends| run(registry, seat, ends))
}

async fn run(registry: Registry, seat: Seat, mut ends: Ends) {
    let mut backoff = Backoff::default();
    loop {
        let Err(error) = session(&registry, &seat, &mut ends, &mut backoff).await;
        match error.downcast::<Refusal>() {
            Ok(Refusal(rejected)) => {
                let retry_after = rejected
                    .retry_after_s
                    .map(|seconds| Duration::from_secs(seconds.into()));
                ends.set(RelayState::Refused {
                    code: rejected.code,
                    detail: printable(&rejected.detail),
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
        // What waits is of the past.
        while ends.outgoing.try_recv().is_ok() {}
    }
}

/// The relay says no.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.code.title())]
struct Refusal(Rejected);

async fn session(
    registry: &Registry,
    seat: &Seat,
    ends: &mut Ends,
    backoff: &mut Backoff,
) -> Result<std::convert::Infallible> {
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_BATCH))
        .max_frame_size(Some(MAX_BATCH))
        .read_buffer_size(MAX_BATCH)
        .write_buffer_size(0)
        .max_write_buffer_size(WRITE_BUFFER);
    let path = format!("/v1/relays/{}", seat.room);
    let mut socket = open_websocket(registry, &seat.key, &path, config).await?;
    let nonce = tokio::time::timeout(STEP_TIMEOUT, challenge(&mut socket))
        .await
        .context("the relay does not answer")??;
    let join = Join {
        role: seat.role,
        peer: seat.key.id(),
        device: seat.device,
        signature: sign_join(&seat.key, &seat.room, &nonce, &registry.origin()),
    };
    socket
        .send(Message::binary(control(&join.into())))
        .await
        .context("the connection to the relay broke off")?;
    // Datagrams may follow in the same flight: if the answer is no, they are lost.
    ends.set(RelayState::Joined { present: false });
    let mut joined_by = Some(Instant::now() + STEP_TIMEOUT);
    let mut next_ping = Instant::now() + PING_INTERVAL;
    let mut pong_by: Option<Instant> = None;
    let mut batch = Batch::default();
    let mut pace = Pace::new(Instant::now());
    loop {
        let timer = [joined_by, pong_by]
            .into_iter()
            .flatten()
            .fold(next_ping, Instant::min);
        tokio::select! {
            message = socket.next() => {
                let message = message
                    .context("the relay closed the connection")?
                    .context("the connection to the relay broke off")?;
                match message {
                    Message::Binary(message) => {
                        let received = receive(&message, ends, &mut pace)?;
                        if received.is_joined {
                            joined_by = None;
                            backoff.reset();
                        }
                        if let Some(number) = received.mark {
                            let marked = Message::binary(control(&Marked { number }.into()));
                            socket.send(marked).await.context("the connection to the relay broke off")?;
                        }
                    }
                    Message::Text(text) if text.as_str() == "pong" => pong_by = None,
                    Message::Close(frame) => {
                        let why = frame.map(|f| format!(" ({} {})", f.code, f.reason)).unwrap_or_default();
                        bail!("the relay closed the connection{why}");
                    }
                    _ => {}
                }
            }
            datagram = ends.next(&mut pace) => {
                // All that waits goes in one message: messages are what the relay pays for.
                let mut next = Some(datagram);
                while let Some(datagram) = next {
                    let now = Instant::now();
                    pace.sent(datagram.len(), now);
                    if !batch.push(&datagram) {
                        send(&mut socket, &mut batch).await?;
                        let _ = batch.push(&datagram);
                    }
                    next = match pace.is_open(now) {
                        true => ends.outgoing.try_recv().ok(),
                        false => None,
                    };
                }
                send(&mut socket, &mut batch).await?;
            }
            () = tokio::time::sleep_until(timer.into()) => {
                let now = Instant::now();
                let overdue = |by: Option<Instant>| by.is_some_and(|by| by <= now);
                if overdue(joined_by) || overdue(pong_by) {
                    bail!("the relay does not answer");
                }
                next_ping = now + PING_INTERVAL;
                pong_by.get_or_insert(now + PONG_TIMEOUT);
                socket.send(Message::text("ping")).await.context("the connection to the relay broke off")?;
            }
        }
    }
}

async fn challenge(socket: &mut WebSocket) -> Result<[u8; 32]> {
    loop {
        let message = socket
            .next()
            .await
            .context("the relay closed the connection")?
            .context("the connection to the relay broke off")?;
        let Message::Binary(message) = message else {
            continue;
        };
        for item in items(&message) {
            if let Item::Control(frame) = item {
                match Frame::decode(frame)? {
                    Frame::Challenge(challenge) => return Ok(challenge.nonce),
                    Frame::Rejected(rejected) => bail!(Refusal(rejected)),
                    _ => {}
                }
            }
        }
    }
}

async fn send(socket: &mut WebSocket, batch: &mut Batch) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let message = Message::binary(batch.take());
    socket
        .send(message)
        .await
        .context("the connection to the relay broke off")
}

/// What a message means beyond its datagrams.
#[derive(Default)]
struct Received {
    /// The relay has let this end in.
    is_joined: bool,
    /// To be confirmed, now that it has been read (§15.3).
    mark: Option<u64>,
}

fn receive(message: &Bytes, ends: &Ends, pace: &mut Pace) -> Result<Received> {
    let mut received = Received::default();
    let now = Instant::now();
    for item in items(message) {
        match item {
            Item::Datagram(datagram) => {
                pace.heard(datagram.len(), now);
                ends.receive(message.slice_ref(datagram));
            }
            Item::Control(frame) => match Frame::decode(frame)? {
                Frame::Joined(joined) => {
                    pace.set_rate(joined.rate_bytes_s, now);
                    received.is_joined = true;
                }
                Frame::Mark(mark) => received.mark = Some(mark.number),
                Frame::PeerPresence(PeerPresence { present }) => {
                    received.is_joined = true;
                    ends.set(RelayState::Joined { present });
                }
                Frame::Rejected(rejected) => bail!(Refusal(rejected)),
                _ => {}
            },
        }
    }
    Ok(received)
}
