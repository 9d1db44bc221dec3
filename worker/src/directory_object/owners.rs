//! The owner's sockets (§5.6): pages that watch the device list. They hibernate; a change of a
//! device is sent to them by the event that makes it, so watching costs nothing while nothing
//! changes.
//!
//! What is known of a socket stands in its attachment: since when it is open, and whether it has
//! shown the owner secret.

use std::rc::Rc;

use ringback_protocol::Code;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::{Env, Response, ResponseBuilder, State, WebSocket, WebSocketPair};

use crate::clock::now_ms;
use crate::device::close;

/// The WebSocket subprotocol of §5.6.
pub const SUBPROTOCOL: &str = "ringback.owner.1";
/// Sockets that are signed in, and as many that are about to (§14).
const MAX_SOCKETS: usize = 32;
/// Milliseconds that a socket has to sign in.
const SIGN_IN_MS: u64 = 10_000;
/// The sockets of one directory.
pub(super) struct Owners {
    state: State,
    pub(super) env: Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attachment {
    opened_ms: u64,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Stage {
    Unknown,
    Owner { listed_ms: u64 },
    Closed,
}

impl Owners {
    pub(super) fn new(state: State, env: Env) -> Rc<Self> {
        Rc::new(Self { state, env })
    }

    /// Opens a socket. Whoever opens many without the secret closes only its like.
    pub(super) fn accept(self: &Rc<Self>) -> worker::Result<Response> {
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        self.state.accept_web_socket(&server);
        let attachment = Attachment {
            opened_ms: now_ms(),
            stage: Stage::Unknown,
        };
        server.serialize_attachment(attachment)?;
        self.close_overdue();
        self.make_room(|stage| stage == Stage::Unknown);
        Ok(ResponseBuilder::new()
            .with_status(101)
            .with_header("sec-websocket-protocol", SUBPROTOCOL)?
            .with_websocket(client)
            .empty())
    }

    /// Tells every page; whoever does not hear it is gone.
    pub(super) fn tell(&self, message: &Value) {
        let text = message.to_string();
        for (socket, attachment) in self.sockets() {
            if matches!(attachment.stage, Stage::Owner { .. }) {
                socket.send_with_str(&text).ok();
            }
        }
    }

    pub(super) fn is_watched(&self) -> bool {
        self.sockets()
            .any(|(_, attachment)| matches!(attachment.stage, Stage::Owner { .. }))
    }

    /// Closes the oldest of those that are too many.
    pub(super) fn make_room(&self, counts: impl Fn(Stage) -> bool) {
        let mut sockets: Vec<_> = self
            .sockets()
            .filter(|(_, attachment)| counts(attachment.stage))
            .collect();
        sockets.sort_by_key(|(_, attachment)| attachment.opened_ms);
        let too_many = sockets.len().saturating_sub(MAX_SOCKETS);
        for (socket, _) in sockets.drain(..too_many) {
            end(&socket, close::REPLACED, "too many sockets");
        }
    }

    fn sockets(&self) -> impl Iterator<Item = (WebSocket, Attachment)> {
        self.state
            .get_websockets()
            .into_iter()
            .filter(|socket| socket.as_ref().ready_state() == worker::web_sys::WebSocket::OPEN)
            .filter_map(|socket| {
                let attachment = load(&socket)?;
                Some((socket, attachment))
            })
    }
}

impl Owners {
    /// Closes sockets that have not signed in in time. Done when another one comes: a timer would
    /// keep the directory awake, for whoever opens a socket and says nothing.
    fn close_overdue(&self) {
        for (socket, attachment) in self.sockets() {
            if attachment.stage == Stage::Unknown && attachment.is_late(now_ms()) {
                refuse(&socket, &Code::Unauthorized);
            }
        }
    }
}

impl Attachment {
    pub(super) fn is_late(&self, now_ms: u64) -> bool {
        self.opened_ms + SIGN_IN_MS <= now_ms
    }
}

pub(super) fn load(socket: &WebSocket) -> Option<Attachment> {
    socket.deserialize_attachment().ok()?
}

pub(super) fn refuse(socket: &WebSocket, code: &Code) {
    socket
        .send_with_str(json!({ "error": code }).to_string())
        .ok();
    end(socket, close::REJECTED, "rejected");
}

pub(super) fn end(socket: &WebSocket, code: u16, reason: &str) {
    let attachment = Attachment {
        opened_ms: now_ms(),
        stage: Stage::Closed,
    };
    socket.serialize_attachment(attachment).ok();
    socket.close(Some(code), Some(reason)).ok();
}
