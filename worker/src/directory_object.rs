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
//! Files: `storage` has the tables; `devices`, `enrolment`, `beacons` and `relay` the
//! answers; `owners` the pages that watch the list.

mod beacons;
mod devices;
mod enrolment;
mod owners;
mod relay;
mod storage;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;

use minicbor::{Decode, Encode};
use ringback_protocol::{Code, PeerId};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::worker_sys::WebSocketRequestResponsePair;
use worker::{
    Date, DurableObject, Env, Headers, Method, Request, RequestInit, Response, SqlStorage, State,
    WebSocket, WebSocketIncomingMessage, durable_object, wasm_bindgen,
};

pub use beacons::ListedBeacon;
pub use owners::SUBPROTOCOL;
pub use relay::{Lease, Spent, Terms};

use owners::Owners;

use crate::limits::Window;
use crate::policy::PolicyChange;
use crate::problem::Problem;
use crate::tally::Tally;

pub const BINDING: &str = "DIRECTORY";
/// The one object of the namespace.
const NAME: &str = "directory";

/// What an enrolled key is for (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum EnrolledAs {
    #[default]
    #[n(0)]
    Device,
    #[n(1)]
    Beacon,
}

impl EnrolledAs {
    fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Beacon => "beacon",
        }
    }
}

/// The last sign of life of a device, and when it was asked for; Unix times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Heard {
    seen: u64,
    asked: u64,
}

/// What the frontend and the other objects ask of the directory.
#[derive(Debug, Serialize, Deserialize)]
pub enum Ask {
    /// A device has proven its key. Answer: [`Online`].
    Online {
        device: PeerId,
        agent: String,
        public: Option<SocketAddr>,
    },
    /// Its public address has changed.
    Update {
        device: PeerId,
        session: u64,
        public: SocketAddr,
    },
    /// Two agents register with its key, from there.
    Cloned {
        device: PeerId,
        addresses: [String; 2],
    },
    /// Its socket is gone; last sign of life at that Unix time.
    Offline {
        device: PeerId,
        session: u64,
        last_seen: u64,
    },
    /// How a device without a socket can be called: [`Reach`], or a [`Problem`].
    Missing {
        device: PeerId,
    },
    /// A device has placed a request that went to another.
    Relayed,
    /// What the frontend has answered.
    Counted(Tally),
    /// A beacon says where it listens.
    Beacon {
        beacon: PeerId,
        udp: String,
        tcp: Option<String>,
        relay: bool,
    },
    /// A device has registered with this beacon, from this address; without one the beacon only
    /// asks whether the device is enrolled.
    Seen {
        beacon: PeerId,
        device: PeerId,
        public: Option<SocketAddr>,
    },
    /// It has fallen silent there.
    Gone {
        beacon: PeerId,
        device: PeerId,
    },
    /// The signature is verified. Answer: `{device, name}`.
    Enrol {
        device: PeerId,
        digest: Option<String>,
        name: Option<String>,
    },
    Alias {
        name: String,
    },
    NewCode {
        name: Option<String>,
        ttl_s: u64,
        role: EnrolledAs,
    },
    List,
    Rename {
        device: PeerId,
        name: String,
    },
    Revoke {
        device: PeerId,
    },
    /// What anybody may know. Answer: `{registration, beacons}`.
    Registry,
    /// Answer: [`Roster`](crate::roster::Roster).
    Roster,
    Policy,
    SetPolicy(PolicyChange),
    /// With what the frontend has counted and not told yet.
    Usage(Tally),
    /// A peer wants to join a relay room; in the device's role it names itself. Answer: [`Terms`].
    Join {
        device: Option<PeerId>,
        spent: Option<Spent>,
        wants_lease: bool,
    },
    /// A room tells what it has spent, and may want more. Answer: [`Terms`].
    Lease {
        device: PeerId,
        spent: Spent,
    },
    /// A room has ended.
    Spent(Spent),
}

/// A device's registration, as the directory has written it down.
#[derive(Debug, Serialize, Deserialize)]
pub struct Online {
    pub session: u64,
    pub name: String,
    pub role: EnrolledAs,
    /// Nobody gave it a code: the registry is open.
    pub is_self_enrolled: bool,
    pub beacons: Vec<ListedBeacon>,
}

/// How a device without a socket can be called.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reach {
    /// The beacon that it is on.
    pub beacon: PeerId,
    pub is_self_enrolled: bool,
}

/// Asks the directory.
pub async fn ask<T: DeserializeOwned>(env: &Env, ask: &Ask) -> Result<T, Problem> {
    let exchange = async {
        let body = serde_json::to_string(ask)?;
        let mut init = RequestInit::new();
        init.with_method(Method::Post).with_body(Some(body.into()));
        let request = Request::new_with_init("https://directory/", &init)?;
        let mut response = env
            .durable_object(BINDING)?
            .get_by_name(NAME)?
            .fetch_with_request(request)
            .await?;
        response.json::<Result<T, Problem>>().await
    };
    exchange
        .await
        .unwrap_or_else(|error| Err(Problem::internal("asking the directory", &error)))
}

/// Opens a socket for a page that watches the list (§5.6).
pub async fn socket(env: &Env) -> worker::Result<Response> {
    let headers = Headers::new();
    headers.set("upgrade", "websocket")?;
    let mut init = RequestInit::new();
    init.with_method(Method::Get).with_headers(headers);
    let request = Request::new_with_init("https://directory/socket", &init)?;
    env.durable_object(BINDING)?
        .get_by_name(NAME)?
        .fetch_with_request(request)
        .await
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
        storage::prepare(&sql).expect("the tables can be made");
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

fn unknown_device(device: &PeerId) -> Problem {
    Problem::new(
        Code::UnknownDevice,
        format!("no device {} is enrolled here", device.short()),
    )
}

fn not_enrolled() -> Problem {
    Problem::new(
        Code::NotEnrolled,
        "this registry takes devices that its owner has enrolled: ask for an enrolment code",
    )
}

fn revoked() -> Problem {
    Problem::new(
        Code::Revoked,
        "the owner of this registry has revoked this device",
    )
}

fn name_taken(name: &str) -> Problem {
    Problem::new(
        Code::NameTaken,
        format!("the name {name} belongs to another device"),
    )
}

fn now_ms() -> u64 {
    Date::now().as_millis()
}

fn now() -> u64 {
    now_ms() / 1000
}
