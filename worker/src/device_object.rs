//! A device's object: its socket, the proof of its key, and the requests that go through (§5.3, §6).
//!
//! Why it is atomic: there is one object per device in the world and it runs one event at a time.
//! Every decision is made on attachments and memory without an `await`, and stored before the next
//! one; no borrow is held across an `await`. Who is registered is decided by the directory, which
//! numbers registrations (the *session*): when two sockets of a device register at once, the
//! higher session stays and the other one is closed, in whatever order the answers arrive.
//!
//! Hibernation is assumed at every line. What must survive it stands in the socket's
//! [`Attachment`]: the challenge, the registration, the windows of the limits. What is in memory
//! only is held by something that keeps the object awake: a waiting call by its open response, a
//! placed call by its open fetch. Nothing else does: a socket that does not register is closed when
//! the next one comes. The object writes a row when a caller is answered for the first
//! time, and for one in twenty requests to a device without a socket; the directory writes one for each registration, change of address and end
//! of a socket, one to count each registration and request, and none for heartbeats, which the
//! runtime answers by itself.
//!
//! Files: `shared` is what the others share; `registration` and `socket` are the life of a socket, `relaying` what goes through
//! it, `callers` who was answered before, `waiting` the requests of devices without a socket, `beacon` what a beacon's socket does
//! besides.

mod beacon;
mod callers;
mod registration;
mod relaying;
mod ringing;
mod shared;
mod socket;
mod waiting;

use std::rc::Rc;

use ringback_protocol::PeerId;
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    DurableObject, Env, Request, Response, State, WebSocket, WebSocketIncomingMessage,
    durable_object, wasm_bindgen,
};

use self::ringing::Ringing;
use self::shared::Shared;
use crate::attachment::Attachment;
use crate::clock::now_ms;
use crate::device::{close, header};
use crate::limits::Source;
use crate::problem::Problem;

#[durable_object(websocket)]
pub struct DeviceObject {
    shared: Rc<Shared>,
}

impl std::fmt::Debug for DeviceObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceObject")
    }
}

impl DurableObject for DeviceObject {
    fn new(state: State, env: Env) -> Self {
        let pair =
            WebSocketRequestResponsePair::new("ping", "pong").expect("two short texts are a pair");
        state.set_websocket_auto_response(&pair);
        crate::log::loaded("device object");
        Self {
            shared: Rc::new(Shared::new(state, env)),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        let headers = request.headers();
        let text = |name: &str| Ok::<_, worker::Error>(headers.get(name)?.unwrap_or_default());
        let id = |name: &str| {
            text(name)?
                .parse::<PeerId>()
                .map_err(|error| worker::Error::from(error.to_string()))
        };
        let device = id(header::DEVICE)?;
        let answer = match request.path().as_str() {
            "/socket" => self
                .shared
                .accept(device, text(header::ORIGIN)?, text(header::FROM)?),
            "/requests" => {
                let caller = id(header::CALLER)?;
                let source = Source::parse(&text(header::FROM)?);
                let is_browser = headers.has(header::BROWSER)?;
                let envelope = request.bytes().await?;
                let ringing = Ringing {
                    device,
                    caller,
                    source,
                    is_browser,
                    is_answered: self.shared.is_answered(&caller).await,
                };
                self.shared.relay(&ringing, envelope).await
            }
            "/waiting" => self.shared.fetch_waiting(),
            "/answers" => {
                let body = request.bytes().await?;
                self.shared.take_answers(&body).await
            }
            "/notify" => {
                let told = self.shared.notify(id(header::SUBJECT)?);
                return Response::from_json(&told);
            }
            "/disown" => {
                self.shared.disown(id(header::SUBJECT)?);
                return Response::empty();
            }
            "/presence" => return Response::from_json(&self.shared.presence().await),
            "/revoke" => {
                self.shared.revoke();
                return Response::empty();
            }
            other => return Err(format!("a device's object has no {other}").into()),
        };
        answer.or_else(Problem::into_response)
    }

    async fn websocket_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> worker::Result<()> {
        // A text that is not `ping` is ignored; `ping` does not even come here.
        let WebSocketIncomingMessage::Binary(bytes) = message else {
            return Ok(());
        };
        let Some(attachment) = Attachment::load(&socket) else {
            socket.close(Some(close::DEAD), Some("unknown socket")).ok();
            return Ok(());
        };
        self.shared.handle_message(socket, attachment, &bytes).await;
        Ok(())
    }

    async fn websocket_close(
        &self,
        socket: WebSocket,
        _: usize,
        _: String,
        _: bool,
    ) -> worker::Result<()> {
        socket.close(Some(1000), Some("")).ok();
        self.shared.ended(&socket, now_ms()).await;
        Ok(())
    }

    async fn websocket_error(&self, socket: WebSocket, _: worker::Error) -> worker::Result<()> {
        let seen_ms = self.shared.last_sign_ms(&socket);
        self.shared.ended(&socket, seen_ms).await;
        Ok(())
    }
}
