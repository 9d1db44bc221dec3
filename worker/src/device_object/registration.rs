//! How a device's socket becomes registered (§6.1), and how it is refused.

use std::net::SocketAddr;
use std::rc::Rc;

use ringback_protocol::frame::{Challenge, Register, Registered};
use ringback_protocol::registration::verify_challenge;
use ringback_protocol::{Code, PeerId};
use worker::{Response, ResponseBuilder, WebSocket, WebSocketPair};

use super::shared::{Shared, close_socket, is_open, send};
use crate::attachment::{Attachment, REGISTRATION_MS, Registration, Stage};
use crate::clock::now_ms;
use crate::device::{SUBPROTOCOL, close};
use crate::directory::{self, Ask, Online};
use crate::ice::stun_servers;
use crate::limits::{self, Exceeded};
use crate::lineage::{Holder, Lineage};
use crate::problem::Problem;

/// Bytes of the agent version that are kept.
const MAX_AGENT: usize = 64;

/// Sockets of one device that may be registering at a time (§14).
const MAX_REGISTERING: usize = 8;

/// Seconds after which an agent may take the socket back from another one with its key.
const RIVAL_PAUSE_S: u32 = 60;

/// Registration (§6.1).
impl Shared {
    pub(super) fn accept(
        self: &Rc<Self>,
        device: PeerId,
        origin: String,
        from: String,
    ) -> Result<Response, Problem> {
        self.close_overdue();
        if self
            .attachments()
            .filter(|(_, attachment)| attachment.is_registering())
            .count()
            >= MAX_REGISTERING
        {
            let exceeded = Exceeded {
                retry_after_s: (REGISTRATION_MS / 1000) as u32,
            };
            return Err(Problem::rate_limited(
                "too many sockets of this device are registering",
                exceeded,
            ));
        }
        self.challenge(device, origin, from)
            .map_err(|error| Problem::internal("opening a socket", &error))
    }

    fn challenge(
        self: &Rc<Self>,
        device: PeerId,
        origin: String,
        from: String,
    ) -> worker::Result<Response> {
        let mut nonce = [0; 32];
        getrandom::fill(&mut nonce).map_err(|error| worker::Error::RustError(error.to_string()))?;
        let now_ms = now_ms();
        let WebSocketPair { client, server } = WebSocketPair::new()?;
        self.state.accept_web_socket(&server);
        let stage = Stage::Challenged {
            nonce,
            origin,
            from,
        };
        Attachment {
            device,
            opened_ms: now_ms,
            stage,
        }
        .store(&server)?;
        send(
            &server,
            Challenge {
                nonce,
                time_ms: now_ms,
            },
        )?;
        Ok(ResponseBuilder::new()
            .with_status(101)
            .with_header("sec-websocket-protocol", SUBPROTOCOL)?
            .with_websocket(client)
            .empty())
    }

    pub(super) async fn register(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        register: Register,
    ) {
        let Stage::Challenged {
            nonce,
            origin,
            from,
        } = &attachment.stage
        else {
            return;
        };
        if attachment.patience_ms(now_ms()) == Some(0) {
            return self.reject(
                &socket,
                Problem::new(Code::BadFrame, "the registration came too late"),
            );
        }
        if !verify_challenge(&attachment.device, nonce, origin, &register.signature) {
            let detail = format!("the challenge is not signed by this device for {origin}");
            return self.reject(&socket, Problem::new(Code::BadSignature, detail));
        }
        let holder = Holder {
            instance: register.instance,
            from: from.clone(),
        };
        attachment.stage = Stage::Registering;
        if let Err(error) = attachment.store(&socket) {
            return self.reject(&socket, Problem::internal("storing an attachment", &error));
        }
        let device = attachment.device;
        let agent = printable(&register.agent, MAX_AGENT);
        let online = directory::ask(
            &self.env,
            &Ask::Online {
                device,
                agent,
                public: register.public,
            },
        )
        .await;
        match online {
            Ok(online) => {
                self.registered(socket, attachment, holder, register.public, online)
                    .await;
            }
            Err(problem) => self.reject(&socket, problem),
        }
    }

    async fn registered(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        holder: Holder,
        public: Option<SocketAddr>,
        online: Online,
    ) {
        let device = attachment.device;
        if !is_open(&socket) {
            self.list_offline(device, online.session, now_ms()).await;
            return;
        }
        let mut registration = Registration {
            session: online.session,
            public,
            seen_ms: now_ms(),
            bad_frames: 0,
            requests: self.missing.take().unwrap_or_default(),
            updates: limits::Window::default(),
            role: online.role,
            seen: limits::Count::default(),
            holder: holder.clone(),
            lineage: Lineage::default(),
            is_self_enrolled: online.is_self_enrolled,
        };
        // The other agent that registers with this key.
        let mut rival = None;
        for (other, mut old) in self.attachments() {
            let Stage::Registered(theirs) = &old.stage else {
                continue;
            };
            if theirs.session > online.session {
                close_socket(
                    &socket,
                    &mut attachment,
                    close::REPLACED,
                    "replaced by a newer registration",
                );
                return;
            }
            registration.requests = theirs.requests.clone();
            registration.lineage = theirs.lineage.clone();
            let (session, held) = (theirs.session, theirs.holder.clone());
            if registration.lineage.pass(held.clone(), &holder, now_ms()) {
                rival = Some(held.from);
                self.reject(&other, key_in_use(&holder.from));
            } else {
                close_socket(
                    &other,
                    &mut old,
                    close::REPLACED,
                    "replaced by a newer registration",
                );
            }
            self.calls.borrow().session_gone(session);
        }
        attachment.stage = Stage::Registered(registration);
        let told = attachment.store(&socket).and_then(|()| {
            send(
                &socket,
                Registered {
                    seen: holder.from.clone(),
                    name: online.name,
                    stun: stun_servers(&self.env),
                    beacons: online.beacons.into_iter().map(Into::into).collect(),
                    rival: rival.clone(),
                },
            )
        });
        if let Err(error) = told {
            return self.reject(
                &socket,
                Problem::internal("confirming a registration", &error),
            );
        }
        crate::log::event("registered", &device, "");
        if let Some(rival) = rival {
            crate::log::event("key in use twice", &device, "");
            let addresses = [rival, holder.from];
            // A failure is logged where it is made; the two will meet again.
            directory::ask::<()>(&self.env, &Ask::Cloned { device, addresses })
                .await
                .ok();
        }
    }

    pub(super) fn reject(&self, socket: &WebSocket, problem: Problem) {
        let Some(mut attachment) = Attachment::load(socket) else {
            return;
        };
        crate::log::event("rejected", &attachment.device, problem.code.as_str());
        send(socket, problem.into_rejected()).ok();
        close_socket(socket, &mut attachment, close::REJECTED, "rejected");
    }

    pub(super) fn revoke(&self) {
        for (socket, attachment) in self.attachments() {
            let session = attachment
                .registration()
                .map(|registration| registration.session);
            self.reject(
                &socket,
                Problem::new(
                    Code::Revoked,
                    "the owner of this registry has revoked this device",
                ),
            );
            if let Some(session) = session {
                self.calls.borrow().session_gone(session);
            }
        }
    }
}

/// What the agent is told that has lost the socket to another one with its key.
fn key_in_use(by: &str) -> Problem {
    let from = if by.is_empty() {
        String::new()
    } else {
        format!(" from {by}")
    };
    Problem {
        retry_after_s: Some(RIVAL_PAUSE_S),
        ..Problem::new(
            Code::KeyInUse,
            format!("another agent has registered with this device's key{from}"),
        )
    }
}

/// At most `max` bytes of what can be printed.
fn printable(text: &str, max: usize) -> String {
    let mut out = String::new();
    for c in text.chars().filter(|c| !c.is_control()) {
        if out.len() + c.len_utf8() > max {
            break;
        }
        out.push(c);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_version_is_short_and_printable() {
        assert_eq!(
            printable("ringback/0.1.0\n\u{1b}[31m", 64),
            "ringback/0.1.0[31m"
        );
        assert_eq!(printable(&"é".repeat(40), 64).len(), 64);
    }
}
