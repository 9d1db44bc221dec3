//! The directory from outside: what the frontend and the other objects ask of it, and its answers.
//! [`crate::directory_object`] answers.

use std::net::SocketAddr;

use ringback_protocol::{PeerId, frame};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use worker::{Env, Headers, Method, Request, RequestInit, Response};

use crate::policy::PolicyChange;
use crate::problem::Problem;
use crate::role::EnrolledAs;
use crate::tally::Tally;

pub const BINDING: &str = "DIRECTORY";
/// The one object of the namespace.
const NAME: &str = "directory";

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

/// A beacon as everybody is told of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListedBeacon {
    pub id: PeerId,
    pub udp: String,
    pub tcp: Option<String>,
    pub relay: bool,
    pub online: bool,
}

impl From<ListedBeacon> for frame::ListedBeacon {
    fn from(beacon: ListedBeacon) -> Self {
        Self {
            udp: beacon.udp,
            tcp: beacon.tcp,
            relay: beacon.relay,
            id: beacon.id,
        }
    }
}

/// What a room has used since it told last.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spent {
    /// The day of the lease that the bytes are of.
    pub day: u64,
    pub relayed: u64,
    /// Of the lease, not needed any more.
    pub returned: u64,
    pub dropped: u64,
    pub rooms: u64,
    pub sockets: u64,
    pub messages: u64,
    pub awake_ms: u64,
}

/// Bytes that a room may forward without asking again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Days since 1970, UTC.
    pub day: u64,
    pub bytes: u64,
}

/// On what terms a room relays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub rate_bytes_s: u64,
    pub remaining_bytes: u64,
    pub lease: Option<Lease>,
}
