//! What the pages that watch the device list say and are told (§5.6).

use ringback_protocol::{Code, PeerId};
use serde::Deserialize;
use serde_json::json;
use worker::{WebSocket, WebSocketIncomingMessage};

use super::DirectoryObject;
use super::owners::{Attachment, Stage, end, load, refuse};
use super::storage::text;
use crate::clock::now_ms;
use crate::device::close;
use crate::role::EnrolledAs;
use crate::{ice, owner, roster};

/// Milliseconds between two lists that a page may ask for on one socket.
const LIST_MS: u64 = 10_000;
/// Bytes of the longest message from a page.
const MAX_MESSAGE: usize = 4 * 1024;

#[derive(Deserialize)]
struct SignIn {
    owner: String,
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
        let on_it = self.rows("SELECT * FROM devices WHERE beacon = ?", vec![text(device)])?;
        for row in on_it {
            self.owners.tell(&json!({ "device": self.listed(&row)? }));
        }
        Ok(())
    }
}
