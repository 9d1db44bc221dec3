//! The directory of a registry: the device list, enrolment codes, names, policy and usage (§5).
//!
//! Why it is atomic: there is one directory in the world, it runs one event at a time, and every
//! answer but two is computed without an `await`, reads and writes together; the runtime commits
//! the writes of such a stretch as one transaction and holds the answer back until they are on
//! disk. The two that do await (`DirectoryObject::list`, `DirectoryObject::revoke`) finish
//! their writes first or make them conditional on the *session*.
//!
//! The session is a number that grows with every registration of a device. A socket that closes
//! late, an update that was overtaken, an old presence check: each names its session, and changes
//! nothing if a newer one has begun.
//!
//! What may be lost at any line: memory. It holds the window of failed codes and the times of
//! presence checks, both of which may start from nothing.
//!
//! Files: `schema` has the tables, `storage` their rows; `devices`, `enrolment`, `beacons` and `relay` the
//! answers; `owners` the sockets of pages that watch the list, and `watching` what is said on
//! them.

mod beacons;
mod devices;
mod enrolment;
mod owners;
mod relay;
mod schema;
mod storage;
mod watching;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use ringback_protocol::{Code, PeerId};
use serde_json::{Value, json};
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    DurableObject, Env, Request, Response, SqlStorage, State, WebSocket, WebSocketIncomingMessage,
    durable_object, wasm_bindgen,
};

pub use owners::SUBPROTOCOL;

use owners::Owners;

use crate::directory::Ask;
use crate::limits::Window;
use crate::problem::Problem;

/// The last sign of life of a device, and when it was asked for; Unix times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    seen: u64,
    asked: u64,
}

#[durable_object(websocket)]
pub struct DirectoryObject {
    sql: SqlStorage,
    env: Env,
    owners: Rc<Owners>,
    failed_codes: RefCell<Window>,
    /// What presence checks and beacons have brought.
    checked: RefCell<HashMap<PeerId, Heard>>,
    /// Rows written that the table of usage does not count yet.
    rows_written: Cell<usize>,
}

impl std::fmt::Debug for DirectoryObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryObject")
    }
}

impl DurableObject for DirectoryObject {
    fn new(state: State, env: Env) -> Self {
        let sql = state.storage().sql();
        schema::prepare(&sql).expect("the tables can be made");
        let pair =
            WebSocketRequestResponsePair::new("ping", "pong").expect("two short texts are a pair");
        state.set_websocket_auto_response(&pair);
        Self {
            sql,
            owners: Owners::new(state, env.clone()),
            env,
            failed_codes: RefCell::default(),
            checked: RefCell::default(),
            rows_written: Cell::new(0),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
        if request.path() == "/socket" {
            return self.owners.accept();
        }
        crate::log::asked();
        let ask: Ask = serde_json::from_slice(&request.bytes().await?)?;
        let answer = match self.answer(ask).await {
            Ok(answer) => Ok(answer),
            Err(Failure::Told(problem)) => Err(problem),
            Err(Failure::Fault(error)) => {
                Err(Problem::internal("answering for the directory", &error))
            }
        };
        Response::from_json(&answer)
    }

    async fn websocket_message(
        &self,
        socket: WebSocket,
        message: WebSocketIncomingMessage,
    ) -> worker::Result<()> {
        self.handle_message(socket, message).await;
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
        Ok(())
    }

    async fn websocket_error(&self, _: WebSocket, _: worker::Error) -> worker::Result<()> {
        Ok(())
    }
}

/// The caller is at fault and is told so, or we are.
enum Failure {
    Told(Problem),
    Fault(worker::Error),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Told(problem)
    }
}

impl From<worker::Error> for Failure {
    fn from(error: worker::Error) -> Self {
        Self::Fault(error)
    }
}

impl From<serde_json::Error> for Failure {
    fn from(error: serde_json::Error) -> Self {
        Self::Fault(error.into())
    }
}

type Answer = Result<Value, Failure>;

impl DirectoryObject {
    async fn answer(&self, ask: Ask) -> Answer {
        match ask {
            Ask::Online {
                device,
                agent,
                public,
            } => self.online(&device, agent, public),
            Ask::Update {
                device,
                session,
                public,
            } => self.update(&device, session, public),
            Ask::Cloned { device, addresses } => self.cloned(&device, addresses),
            Ask::Offline {
                device,
                session,
                last_seen,
            } => self.offline(&device, session, last_seen),
            Ask::Missing { device } => self.missing(&device),
            Ask::Relayed => self.relayed(),
            Ask::Counted(tally) => self.counted(tally),
            Ask::Beacon {
                beacon,
                udp,
                tcp,
                relay,
            } => self.beacon(&beacon, udp, tcp, relay),
            Ask::Seen {
                beacon,
                device,
                public,
            } => self.seen(&beacon, &device, public),
            Ask::Gone { beacon, device } => self.gone(&beacon, &device),
            Ask::Enrol {
                device,
                digest,
                name,
            } => self.enrol(&device, digest.as_deref(), name),
            Ask::Alias { name } => self.alias(&name),
            Ask::NewCode { name, ttl_s, role } => self.new_code(name.as_deref(), ttl_s, role),
            Ask::List => self.list().await,
            Ask::Rename { device, name } => self.rename(&device, &name),
            Ask::Revoke { device } => self.revoke(&device).await,
            Ask::Registry => Ok(json!({
                "registration": self.policy()?.registration,
                "beacons": self.beacons()?,
            })),
            Ask::Roster => self.roster(),
            Ask::Policy => Ok(serde_json::to_value(self.policy()?)?),
            Ask::SetPolicy(change) => self.set_policy(&change),
            Ask::Usage(pending) => self.usage(pending),
            Ask::Join {
                device,
                spent,
                wants_lease,
            } => self.join(device.as_ref(), spent, wants_lease),
            Ask::Lease { device, spent } => self.go_on(&device, spent),
            Ask::Spent(spent) => {
                self.spend(&spent)?;
                Ok(Value::Null)
            }
        }
    }
}

fn enrolled(device: &PeerId, name: &str) -> Value {
    json!({ "device": device, "name": name })
}

fn not_enrolled() -> Problem {
    Problem::new(
        Code::NotEnrolled,
        "this registry takes devices that its owner has enrolled: ask for an enrolment code",
    )
}

fn name_taken(name: &str) -> Problem {
    Problem::new(
        Code::NameTaken,
        format!("the name {name} belongs to another device"),
    )
}
