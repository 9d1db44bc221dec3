//! The life of a registered socket (§6): its frames, its signs of life, its end.

use std::net::SocketAddr;
use std::rc::Rc;

use ringback_protocol::frame::{Frame, MAX_FRAME, Updated};
use ringback_protocol::{Code, PeerId};
use worker::wasm_bindgen::{JsCast as _, JsValue};
use worker::{WebSocket, js_sys};

use super::shared::{Shared, close_socket, is_open, send};
use crate::attachment::{Attachment, MAX_BAD_FRAMES, Registration, SILENCE_MS, Stage};
use crate::calls::Event;
use crate::clock::now_ms;
use crate::device::{Presence, close};
use crate::directory::{self, Ask};
use crate::limits;
use crate::problem::Problem;
use crate::role::EnrolledAs;

/// Frames from the device (§6).
impl Shared {
    pub(super) async fn handle_message(
        self: &Rc<Self>,
        socket: WebSocket,
        mut attachment: Attachment,
        bytes: &[u8],
    ) {
        let frame = Frame::decode(bytes);
        match &mut attachment.stage {
            Stage::Challenged { .. } => match frame {
                Ok(Frame::Register(register)) => self.register(socket, attachment, register).await,
                _ if bytes.len() > MAX_FRAME => self.reject(&socket, too_large()),
                Ok(_) => self.reject(
                    &socket,
                    Problem::new(Code::BadFrame, "the first frame must be Register"),
                ),
                Err(malformed) => {
                    self.reject(&socket, Problem::new(Code::BadFrame, malformed.to_string()));
                }
            },
            // A second Register before the answer to the first, or what was under way when we closed.
            Stage::Registering | Stage::Closed => {}
            Stage::Registered(registration) => {
                registration.seen_ms = now_ms();
                let session = registration.session;
                match frame {
                    Ok(frame @ (Frame::Ack(_) | Frame::Answer(_) | Frame::Refuse(_))) => {
                        attachment.store(&socket).ok();
                        self.answered(session, frame).await;
                    }
                    Ok(Frame::Update(update)) => {
                        self.update(socket, attachment, update.public).await;
                    }
                    Ok(Frame::Place(place)) => {
                        attachment.store(&socket).ok();
                        self.place(socket, attachment.device, place);
                    }
                    Ok(frame @ (Frame::Beacon(_) | Frame::Seen(_) | Frame::Gone(_)))
                        if registration.role == EnrolledAs::Beacon =>
                    {
                        attachment.store(&socket).ok();
                        self.beacon_tells(socket, attachment, frame).await;
                    }
                    // A later version's frame.
                    Ok(Frame::Unknown(_)) => {}
                    Ok(_) | Err(_) => self.bad_frame(&socket, attachment, session).await,
                }
            }
        }
    }

    async fn answered(&self, session: u64, frame: Frame) {
        let (call, event) = match frame {
            Frame::Ack(ack) => (ack.call, Event::Ack),
            Frame::Answer(answer) => (answer.call, Event::Answer(answer.reply)),
            Frame::Refuse(refuse) => (refuse.call, Event::Refuse(refuse.refusal)),
            _ => return,
        };
        self.device_says(session, call, event).await;
    }

    async fn update(&self, socket: WebSocket, mut attachment: Attachment, public: SocketAddr) {
        let Stage::Registered(registration) = &mut attachment.stage else {
            return;
        };
        let session = registration.session;
        if registration.public != Some(public) {
            if let Err(exceeded) = registration.updates.admit(limits::UPDATES, now_ms()) {
                let problem =
                    Problem::rate_limited("the public address changes too often", exceeded);
                self.reject(&socket, problem);
                self.calls.borrow().session_gone(session);
                return self
                    .list_offline(attachment.device, session, now_ms())
                    .await;
            }
            attachment.store(&socket).ok();
            let device = attachment.device;
            if let Err(problem) = directory::ask::<()>(
                &self.env,
                &Ask::Update {
                    device,
                    session,
                    public,
                },
            )
            .await
            {
                // A fault of ours: no Updated, so the device connects anew and tells us again.
                if problem.code != Code::Internal {
                    self.reject(&socket, problem);
                }
                return;
            }
            // Other events may have changed the attachment in the meantime.
            let Some(mut attachment) = Attachment::load(&socket) else {
                return;
            };
            let Stage::Registered(registration) = &mut attachment.stage else {
                return;
            };
            registration.public = Some(public);
            attachment.store(&socket).ok();
        } else {
            attachment.store(&socket).ok();
        }
        send(&socket, Updated { public }).ok();
    }

    /// A registered device's frame that does not parse is dropped; the registration goes on. One
    /// that sends many is broken.
    async fn bad_frame(&self, socket: &WebSocket, mut attachment: Attachment, session: u64) {
        let Stage::Registered(registration) = &mut attachment.stage else {
            return;
        };
        registration.bad_frames += 1;
        let broken = registration.bad_frames >= MAX_BAD_FRAMES;
        attachment.store(socket).ok();
        crate::log::event("bad frame", &attachment.device, "");
        if broken {
            self.reject(
                socket,
                Problem::new(Code::BadFrame, "too many frames that do not parse"),
            );
            self.calls.borrow().session_gone(session);
            self.list_offline(attachment.device, session, now_ms())
                .await;
        }
    }

    /// A socket has ended by itself; the device was last seen at that time.
    pub(super) async fn ended(&self, socket: &WebSocket, seen_ms: u64) {
        let Some(mut attachment) = Attachment::load(socket) else {
            return;
        };
        let registration = attachment
            .registration()
            .map(|registration| registration.session);
        let device = attachment.device;
        attachment.stage = Stage::Closed;
        attachment.store(socket).ok();
        if let Some(session) = registration {
            self.calls.borrow().session_gone(session);
            self.list_offline(device, session, seen_ms).await;
            crate::log::event("gone", &device, "");
        }
    }

    pub(super) async fn presence(&self) -> Option<Presence> {
        let (socket, registration) = self.live()?;
        let seen_ms = self.last_sign_ms(&socket);
        if now_ms().saturating_sub(seen_ms) < SILENCE_MS {
            return Some(Presence {
                session: registration.session,
                seen: seen_ms / 1000,
            });
        }
        self.give_up(&socket).await;
        None
    }

    /// Closes a socket that shows no life, and says so in the list.
    pub(super) async fn give_up(&self, socket: &WebSocket) -> Option<u64> {
        let mut attachment = Attachment::load(socket)?;
        let session = attachment.registration()?.session;
        let seen_ms = self.last_sign_ms(socket);
        close_socket(socket, &mut attachment, close::DEAD, "no sign of life");
        self.calls.borrow().session_gone(session);
        self.list_offline(attachment.device, session, seen_ms).await;
        crate::log::event("dead socket", &attachment.device, "");
        Some(seen_ms / 1000)
    }

    pub(super) async fn list_offline(&self, device: PeerId, session: u64, seen_ms: u64) {
        let ask = Ask::Offline {
            device,
            session,
            last_seen: seen_ms / 1000,
        };
        // A failure is logged where it is made; the next look at the list finds out again.
        directory::ask::<()>(&self.env, &ask).await.ok();
    }

    /// The registered socket with the newest session.
    pub(super) fn live(&self) -> Option<(WebSocket, Registration)> {
        self.attachments()
            .filter_map(|(socket, attachment)| match attachment.stage {
                Stage::Registered(registration) => Some((socket, registration)),
                _ => None,
            })
            .max_by_key(|(_, registration)| registration.session)
    }

    pub(super) fn attachments(&self) -> impl Iterator<Item = (WebSocket, Attachment)> {
        self.state
            .get_websockets()
            .into_iter()
            .filter(is_open)
            .filter_map(|socket| {
                let attachment = Attachment::load(&socket)?;
                Some((socket, attachment))
            })
    }

    /// Unix milliseconds of the last frame or ping.
    pub(super) fn last_sign_ms(&self, socket: &WebSocket) -> u64 {
        let frame = match Attachment::load(socket) {
            Some(Attachment {
                stage: Stage::Registered(registration),
                ..
            }) => registration.seen_ms,
            Some(attachment) => attachment.opened_ms,
            None => 0,
        };
        self.last_ping_ms(socket).unwrap_or(0).max(frame)
    }

    /// When the runtime last answered a ping of this socket. Not bound by the worker crate.
    fn last_ping_ms(&self, socket: &WebSocket) -> Option<u64> {
        let state: &JsValue = self.state.as_raw().as_ref();
        let method =
            js_sys::Reflect::get(state, &"getWebSocketAutoResponseTimestamp".into()).ok()?;
        let method: js_sys::Function = method.dyn_into().ok()?;
        let date: js_sys::Date = method
            .call1(state, socket.as_ref().as_ref())
            .ok()?
            .dyn_into()
            .ok()?;
        Some(date.get_time() as u64)
    }
}

fn too_large() -> Problem {
    Problem::new(
        Code::TooLarge,
        format!("a frame has at most {MAX_FRAME} bytes"),
    )
}
