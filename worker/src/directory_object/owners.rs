//! The owner's sockets (§5.6): pages that watch the device list. They hibernate; a change of a
//! device is sent to them by the event that makes it, so watching costs nothing while nothing
//! changes.
//!
//! What is known of a socket stands in its attachment: since when it is open, and whether it has
//! shown the owner secret.

use std::rc::Rc;

use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::{
    Env, Response, ResponseBuilder, State, WebSocket, WebSocketIncomingMessage, WebSocketPair,
};

use super::{DirectoryObject, EnrolledAs, now_ms};
use crate::device_object::close;
use crate::{ice, owner, roster};

/// The WebSocket subprotocol of §5.6.
pub const SUBPROTOCOL: &str = "ringback.owner.1";
/// Sockets that are signed in, and as many that are about to (§14).
const MAX_SOCKETS: usize = 32;
/// Milliseconds that a socket has to sign in.
const SIGN_IN_MS: u64 = 10_000;
/// Milliseconds between two lists that a page may ask for on one socket.
const LIST_MS: u64 = 10_000;
/// Bytes of the longest message from a page.
const MAX_MESSAGE: usize = 4 * 1024;

/// The sockets of one directory.
pub(super) struct Owners {
    state: State,
    env: Env,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Attachment {
    opened_ms: u64,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Stage {
    Unknown,
    Owner { listed_ms: u64 },
    Closed,
}

#[derive(Deserialize)]
struct SignIn {
    owner: String,
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
    fn make_room(&self, counts: impl Fn(Stage) -> bool) {
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
    fn is_late(&self, now_ms: u64) -> bool {
        self.opened_ms + SIGN_IN_MS <= now_ms
    }
}

impl DirectoryObject {
    pub(super) async fn handle_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) {
        let Some(attachment) = load(&socket) else {
            return end(&socket, close::DEAD, "unknown socket");
        };
        let text = match message {
            WebSocketIncomingMessage::String(text) if text.len() <= MAX_MESSAGE => text,
            _ => return refuse(&socket, &Code::BadFrame),
        };
        match attachment.stage {
            Stage::Unknown if attachment.is_late(now_ms()) => refuse(&socket, &Code::Unauthorized),
            Stage::Unknown => self.sign_in(socket, attachment, &text).await,
            // The page wants to know what became of devices that may have died without a word.
            Stage::Owner { listed_ms } if listed_ms + LIST_MS <= now_ms() => {
                self.send_list(socket, attachment).await;
            }
            Stage::Owner { .. } | Stage::Closed => {}
        }
    }

    async fn sign_in(&self, socket: WebSocket, attachment: Attachment, text: &str) {
        let Ok(SignIn { owner: given }) = serde_json::from_str(text) else {
            return refuse(&socket, &Code::BadFrame);
        };
        let secret = ice::text(&self.owners.env, "OWNER_SECRET");
        if let Err(problem) = owner::check(&given, secret.as_deref()) {
            return refuse(&socket, &problem.code);
        }
        self.send_list(socket, attachment).await;
        self.owners
            .make_room(|stage| matches!(stage, Stage::Owner { .. }));
    }

    /// What changes while devices are asked for their presence is told before the list, which has
    /// it, too.
    async fn send_list(&self, socket: WebSocket, mut attachment: Attachment) {
        attachment.stage = Stage::Owner {
            listed_ms: now_ms(),
        };
        if socket.serialize_attachment(attachment).is_err() {
            return end(&socket, close::DEAD, "");
        }
        match self.list().await {
            Ok(list) => {
                socket.send_with_str(list.to_string()).ok();
            }
            Err(_) => refuse(&socket, &Code::Internal),
        }
    }

    /// A device is not as it was. The list of a beacon's devices may have changed with it.
    pub(super) fn changed(&self, device: &PeerId) -> worker::Result<()> {
        let Some(row) = self.row(device)? else {
            return Ok(());
        };
        // Everybody is told which beacons are online.
        if row.role == EnrolledAs::Beacon {
            roster::forget();
        }
        if !self.owners.is_watched() {
            return Ok(());
        }
        self.owners.tell(&json!({ "device": self.listed(&row)? }));
        let on_it = self.rows(
            "SELECT * FROM devices WHERE beacon = ?",
            vec![super::storage::text(device)],
        )?;
        for row in on_it {
            self.owners.tell(&json!({ "device": self.listed(&row)? }));
        }
        Ok(())
    }
}

fn load(socket: &WebSocket) -> Option<Attachment> {
    socket.deserialize_attachment().ok()?
}

fn refuse(socket: &WebSocket, code: &Code) {
    socket
        .send_with_str(json!({ "error": code }).to_string())
        .ok();
    end(socket, close::REJECTED, "rejected");
}

fn end(socket: &WebSocket, code: u16, reason: &str) {
    let attachment = Attachment {
        opened_ms: now_ms(),
        stage: Stage::Closed,
    };
    socket.serialize_attachment(attachment).ok();
    socket.close(Some(code), Some(reason)).ok();
}
