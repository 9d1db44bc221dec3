//! A peer's socket to a room of the registry's relay (PROTOCOL.md, section 15), spoken by hand.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::body::Bytes;
use ringback_protocol::frame::{Challenge, Frame, Join, Joined, Mark, Marked, PeerPresence};
use ringback_protocol::path::Role;
use ringback_protocol::registration::sign_join;
use ringback_protocol::relay::{Batch, Item, Room, control, items};
use ringback_protocol::{PeerId, SecretKey};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{self, Message};

use crate::registry::{Registry, new_key, sign};

/// Longer than any wait that the protocol has; reaching it fails the test.
const PATIENCE: Duration = Duration::from_secs(40);

/// A room that nobody has been in.
pub fn new_room() -> Room {
    Room(rand::random())
}

/// A socket to a room, before or after Join.
#[derive(Debug)]
pub struct Peer {
    stream: WebSocketStream<TcpStream>,
    room: Room,
    pub challenge: Challenge,
    /// Marks are answered as they are read, as the protocol asks.
    pub confirms: bool,
}

/// What comes over a socket to a room.
#[derive(Debug, PartialEq)]
pub enum Arrival {
    Control(Frame),
    Datagrams(Vec<Vec<u8>>),
    Text(String),
    /// Closed with this code; 1006 if the connection has just ended.
    Closed(u16),
}

impl Peer {
    /// Opens a socket and takes the challenge.
    pub async fn connect(registry: &Registry, room: Room) -> Self {
        let mut stream = Self::open(registry, &room.to_string(), Some("ringback.1"))
            .await
            .expect("the socket opens");
        let message = timeout(PATIENCE, stream.next())
            .await
            .expect("a challenge in time");
        let Some(Ok(Message::Binary(bytes))) = message else {
            panic!("no challenge: {message:?}")
        };
        let Some(Item::Control(frame)) = items(&bytes).next() else {
            panic!("no control frame")
        };
        let Ok(Frame::Challenge(challenge)) = Frame::decode(frame) else {
            panic!("no challenge: {frame:?}")
        };
        Self {
            stream,
            room,
            challenge,
            confirms: true,
        }
    }

    /// The WebSocket handshake alone, signed by a key that nobody knows.
    pub async fn open(
        registry: &Registry,
        room: &str,
        protocol: Option<&'static str>,
    ) -> Result<WebSocketStream<TcpStream>, tungstenite::Error> {
        let addr = registry.server.addr();
        let path = format!("/v1/relays/{room}");
        let mut request = format!("ws://{addr}{path}").into_client_request()?;
        sign(&mut request, &new_key(), &registry.origin(), &path);
        if let Some(protocol) = protocol {
            request
                .headers_mut()
                .insert("sec-websocket-protocol", protocol.parse().expect("ASCII"));
        }
        let stream = TcpStream::connect(addr).await.expect("workerd listens");
        stream.set_nodelay(true).expect("a TCP socket");
        let (stream, response) = tokio_tungstenite::client_async(request, stream).await?;
        assert_eq!(response.headers()["sec-websocket-protocol"], "ringback.1");
        Ok(stream)
    }

    /// A Join of this room, well signed.
    pub fn join_of(
        &self,
        registry: &Registry,
        key: &SecretKey,
        role: Role,
        device: PeerId,
    ) -> Join {
        Join {
            role,
            peer: key.id(),
            device,
            signature: sign_join(key, &self.room, &self.challenge.nonce, &registry.origin()),
        }
    }

    /// The device, in the room.
    pub async fn device(registry: &Registry, room: Room, key: &SecretKey) -> (Self, Joined) {
        Self::joined(registry, room, key, Role::Device, key.id()).await
    }

    /// A caller of this device, in the room.
    pub async fn caller(
        registry: &Registry,
        room: Room,
        key: &SecretKey,
        device: PeerId,
    ) -> (Self, Joined) {
        Self::joined(registry, room, key, Role::Caller, device).await
    }

    async fn joined(
        registry: &Registry,
        room: Room,
        key: &SecretKey,
        role: Role,
        device: PeerId,
    ) -> (Self, Joined) {
        let mut peer = Self::connect(registry, room).await;
        let join = peer.join_of(registry, key, role, device);
        peer.send(join).await;
        let joined = peer.expect_joined().await;
        (peer, joined)
    }

    pub async fn expect_joined(&mut self) -> Joined {
        match self.next().await {
            Arrival::Control(Frame::Joined(joined)) => joined,
            other => panic!("not joined: {other:?}"),
        }
    }

    pub async fn expect_presence(&mut self, present: bool) {
        let expected = Arrival::Control(PeerPresence { present }.into());
        assert_eq!(self.next().await, expected);
    }

    /// The datagrams of the message that comes next.
    pub async fn expect_datagrams(&mut self) -> Vec<Vec<u8>> {
        match self.next().await {
            Arrival::Datagrams(datagrams) => datagrams,
            other => panic!("no datagrams: {other:?}"),
        }
    }

    /// The message that comes next is this one, byte for byte.
    pub async fn expect_raw(&mut self, expected: &[u8]) {
        match timeout(PATIENCE, self.stream.next()).await {
            Ok(Some(Ok(Message::Binary(bytes)))) => assert_eq!(bytes, expected),
            other => panic!("{other:?}"),
        }
    }

    /// The code and the wait of the Rejected that comes next; the socket must be closed after it.
    pub async fn expect_rejected(&mut self) -> (String, Option<u32>) {
        let rejected = match self.next().await {
            Arrival::Control(Frame::Rejected(rejected)) => rejected,
            other => panic!("not rejected: {other:?}"),
        };
        assert_eq!(self.next().await, Arrival::Closed(4003));
        (rejected.code.to_string(), rejected.retry_after_s)
    }

    /// Sends a control frame.
    pub async fn send(&mut self, frame: impl Into<Frame>) {
        self.send_bytes(control(&frame.into())).await;
    }

    /// Sends datagrams in one message.
    pub async fn send_datagrams(&mut self, datagrams: &[&[u8]]) {
        let message = message_of(datagrams);
        self.send_bytes(message).await;
    }

    pub async fn send_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.try_send_bytes(bytes)
            .await
            .expect("the socket is open");
    }

    /// To a socket that may be closed by now.
    pub async fn try_send_bytes(
        &mut self,
        bytes: impl Into<Bytes>,
    ) -> Result<(), tungstenite::Error> {
        timeout(PATIENCE, self.stream.send(Message::Binary(bytes.into())))
            .await
            .expect("it is taken in time")
    }

    pub async fn send_text(&mut self, text: &str) {
        self.stream
            .send(Message::text(text))
            .await
            .expect("the socket is open");
    }

    /// What comes next but Marks, which are answered.
    pub async fn next(&mut self) -> Arrival {
        timeout(PATIENCE, self.arrival())
            .await
            .expect("something in time")
    }

    /// The same without a limit of time; nothing is lost when it is dropped.
    pub async fn arrival(&mut self) -> Arrival {
        loop {
            return match self.stream.next().await {
                Some(Ok(Message::Binary(bytes))) => {
                    if let Some(Item::Control(frame)) = items(&bytes).next() {
                        match Frame::decode(frame).expect("a frame") {
                            Frame::Mark(Mark { number }) => {
                                if self.confirms {
                                    self.send(Marked { number }).await;
                                }
                                continue;
                            }
                            frame => Arrival::Control(frame),
                        }
                    } else {
                        Arrival::Datagrams(datagrams_of(&bytes))
                    }
                }
                Some(Ok(Message::Text(text))) => Arrival::Text(text.to_string()),
                Some(Ok(Message::Close(close))) => {
                    Arrival::Closed(close.map_or(1005, |close| close.code.into()))
                }
                Some(Ok(_)) => continue,
                Some(Err(_)) | None => Arrival::Closed(1006),
            };
        }
    }

    /// Nothing has come, and a ping is answered.
    pub async fn expect_quiet(&mut self) {
        self.send_text("ping").await;
        assert_eq!(self.next().await, Arrival::Text("pong".into()));
    }

    /// Ends with the closing handshake.
    pub async fn close(mut self) {
        self.stream.close(None).await.ok();
        while let Some(Ok(_)) = timeout(PATIENCE, self.stream.next())
            .await
            .expect("the end in time")
        {}
    }
}

/// Datagrams as one message.
pub fn message_of(datagrams: &[&[u8]]) -> Vec<u8> {
    let mut batch = Batch::default();
    for datagram in datagrams {
        assert!(batch.push(datagram), "it fits");
    }
    batch.take()
}

/// The datagrams of a message, which must hold nothing else.
fn datagrams_of(message: &[u8]) -> Vec<Vec<u8>> {
    let datagrams: Vec<Vec<u8>> = items(message)
        .map(|item| match item {
            Item::Datagram(datagram) => datagram.to_vec(),
            Item::Control(_) => panic!("a control frame among datagrams"),
        })
        .collect();
    let framed: usize = datagrams.iter().map(|one| 2 + one.len()).sum();
    assert_eq!(framed, message.len(), "whole datagrams only");
    datagrams
}
