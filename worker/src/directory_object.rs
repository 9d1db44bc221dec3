//! The directory of a registry: the device list, enrolment codes, names and policy (§5).
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

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;

use futures_util::future::join_all;
use ringback_protocol::{Code, PeerId, name};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use worker::{
    Date, DurableObject, Env, Method, Request, RequestInit, Response, SqlStorage, SqlStorageValue,
    State, durable_object, wasm_bindgen,
};

use crate::device_object;
use crate::enrolment_code::EnrolmentCode;
use crate::limits::{self, Window};
use crate::problem::Problem;

pub const BINDING: &str = "DIRECTORY";
/// The one object of the namespace.
const NAME: &str = "directory";

/// A device that is in the list as online is asked for a sign of life when the owner looks, if the
/// last one is older than this.
const PRESENCE_S: u64 = 30;
/// Devices asked for one listing, so that a listing stays within the platform's subrequests.
const PRESENCE_CHECKS: usize = 40;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS devices (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    enrolled_at INTEGER NOT NULL,
    revoked INTEGER NOT NULL DEFAULT 0,
    online INTEGER NOT NULL DEFAULT 0,
    session INTEGER NOT NULL DEFAULT 0,
    public_address TEXT,
    mapped_port INTEGER,
    last_seen INTEGER,
    agent TEXT
) WITHOUT ROWID;
CREATE UNIQUE INDEX IF NOT EXISTS names ON devices (name) WHERE revoked = 0;
CREATE TABLE IF NOT EXISTS codes (
    digest TEXT PRIMARY KEY,
    name TEXT,
    expires_at INTEGER NOT NULL,
    used_by TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS policy (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
";

/// What the frontend and the device objects ask of the directory.
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
    /// Its socket is gone; last sign of life at that Unix time.
    Offline {
        device: PeerId,
        session: u64,
        last_seen: u64,
    },
    /// Why a device without a socket can not be called: always a [`Problem`].
    Missing {
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
    },
    List,
    Rename {
        device: PeerId,
        name: String,
    },
    Revoke {
        device: PeerId,
    },
    IsOpen,
    SetOpen(bool),
}

/// A device's registration, as the directory has written it down.
#[derive(Debug, Serialize, Deserialize)]
pub struct Online {
    pub session: u64,
    pub name: String,
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

#[durable_object(fetch)]
pub struct DirectoryObject {
    sql: SqlStorage,
    env: Env,
    failed_codes: RefCell<Window>,
    /// Unix time of the last sign of life that a presence check has found.
    checked: RefCell<HashMap<PeerId, u64>>,
}

impl std::fmt::Debug for DirectoryObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DirectoryObject")
    }
}

impl DurableObject for DirectoryObject {
    fn new(state: State, env: Env) -> Self {
        let sql = state.storage().sql();
        sql.exec(SCHEMA, None).expect("the schema is valid SQL");
        Self {
            sql,
            env,
            failed_codes: RefCell::default(),
            checked: RefCell::default(),
        }
    }

    async fn fetch(&self, mut request: Request) -> worker::Result<Response> {
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

type Answer = Result<Value, Failure>;

#[derive(Debug, Deserialize)]
struct Row {
    id: PeerId,
    name: String,
    enrolled_at: u64,
    revoked: u8,
    online: u8,
    session: u64,
    public_address: Option<String>,
    mapped_port: Option<u16>,
    last_seen: Option<u64>,
    agent: Option<String>,
}

impl Row {
    fn is_revoked(&self) -> bool {
        self.revoked != 0
    }

    fn is_online(&self) -> bool {
        self.online != 0
    }
}

#[derive(Deserialize)]
struct CodeRow {
    name: Option<String>,
    expires_at: u64,
    used_by: Option<PeerId>,
}

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
            Ask::Offline {
                device,
                session,
                last_seen,
            } => self.offline(&device, session, last_seen),
            Ask::Missing { device } => self.missing(&device),
            Ask::Enrol {
                device,
                digest,
                name,
            } => self.enrol(&device, digest.as_deref(), name),
            Ask::Alias { name } => self.alias(&name),
            Ask::NewCode { name, ttl_s } => self.new_code(name.as_deref(), ttl_s),
            Ask::List => self.list().await,
            Ask::Rename { device, name } => self.rename(&device, &name),
            Ask::Revoke { device } => self.revoke(&device).await,
            Ask::IsOpen => Ok(json!(self.is_open()?)),
            Ask::SetOpen(open) => self.set_open(open),
        }
    }

    fn online(&self, device: &PeerId, agent: String, public: Option<SocketAddr>) -> Answer {
        let row = match self.row(device)? {
            Some(row) => row,
            None if self.is_open()? => {
                self.enrol(device, None, None)?;
                self.row(device)?
                    .ok_or_else(|| worker::Error::from("the row just written is not there"))?
            }
            None => {
                return Err(Problem::new(
                    Code::NotEnrolled,
                    "this registry takes devices that its owner has enrolled: ask for an enrolment code",
                )
                .into());
            }
        };
        if row.is_revoked() {
            return Err(revoked().into());
        }
        let session = row.session + 1;
        // An agent that has not learned its address yet does not erase the last one that is known.
        self.execute(
            "UPDATE devices SET online = 1, session = ?, last_seen = ?, agent = ?,
             public_address = coalesce(?, public_address), mapped_port = coalesce(?, mapped_port) WHERE id = ?",
            vec![
                integer(session),
                integer(now()),
                agent.into(),
                public.map(|address| address.ip().to_string()).into(),
                public.map(|address| i64::from(address.port())).into(),
                text(device),
            ],
        )?;
        Ok(json!(Online {
            session,
            name: row.name
        }))
    }

    fn update(&self, device: &PeerId, session: u64, public: SocketAddr) -> Answer {
        let row = self.row(device)?.ok_or_else(|| unknown_device(device))?;
        if row.is_revoked() {
            return Err(revoked().into());
        }
        if row.session == session {
            self.execute(
                "UPDATE devices SET online = 1, last_seen = ?, public_address = ?, mapped_port = ? WHERE id = ?",
                vec![integer(now()), public.ip().to_string().into(), i64::from(public.port()).into(), text(device)],
            )?;
        }
        Ok(Value::Null)
    }

    fn offline(&self, device: &PeerId, session: u64, last_seen: u64) -> Answer {
        self.execute(
            "UPDATE devices SET online = 0, last_seen = ? WHERE id = ? AND session = ? AND online = 1",
            vec![integer(last_seen), text(device), integer(session)],
        )?;
        Ok(Value::Null)
    }

    /// Asked by a device's object that has no socket: so the device is offline, whatever the list
    /// says (a machine that crashed could not write it down).
    fn missing(&self, device: &PeerId) -> Answer {
        let row = self.row(device)?.ok_or_else(|| unknown_device(device))?;
        if row.is_revoked() {
            return Err(revoked().into());
        }
        if row.is_online() {
            self.offline(
                device,
                row.session,
                row.last_seen.unwrap_or(row.enrolled_at),
            )?;
        }
        Err(Problem::offline(row.last_seen).into())
    }

    fn enrol(&self, device: &PeerId, digest: Option<&str>, wanted: Option<String>) -> Answer {
        let row = self.row(device)?;
        let live = row.as_ref().filter(|row| !row.is_revoked());
        let code = match digest {
            Some(digest) => match self.code(digest)? {
                // The answer to the first try was lost on the way: say it again.
                Some(CodeRow {
                    used_by: Some(by), ..
                }) if by == *device && live.is_some() => {
                    return Ok(enrolled(device, &live.expect("checked").name));
                }
                Some(code) if code.used_by.is_none() && code.expires_at > now() => Some(code),
                _ => return Err(self.bad_code().into()),
            },
            None if !self.is_open()? => {
                return Err(Problem::new(
                    Code::BadCode,
                    "this registry asks for an enrolment code",
                )
                .into());
            }
            None => {
                // Nothing but the device's own consent: an enrolled device stays as it is, a
                // revoked one stays out.
                match &row {
                    Some(row) if row.is_revoked() => return Err(revoked().into()),
                    Some(row) => return Ok(enrolled(device, &row.name)),
                    None => self.limit_open_enrolment()?,
                }
                None
            }
        };
        let fixed = code.and_then(|code| code.name).or(wanted);
        let name = match (fixed, &row) {
            (Some(name), _) => name,
            (None, Some(row)) if !self.is_taken(&row.name, device)? => row.name.clone(),
            (None, _) => self.free_default_name(device)?,
        };
        if self.is_taken(&name, device)? {
            return Err(name_taken(&name).into());
        }
        self.execute(
            "INSERT INTO devices (id, name, enrolled_at) VALUES (?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, enrolled_at = excluded.enrolled_at, revoked = 0",
            vec![text(device), name.clone().into(), integer(now())],
        )?;
        if let Some(digest) = digest {
            self.execute(
                "UPDATE codes SET used_by = ? WHERE digest = ?",
                vec![text(device), digest.into()],
            )?;
        }
        crate::log::event(
            "enrolled",
            device,
            if digest.is_some() {
                "by code"
            } else {
                "open registry"
            },
        );
        Ok(enrolled(device, &name))
    }

    fn bad_code(&self) -> Problem {
        let problem = Problem::new(
            Code::BadCode,
            "this enrolment code is unknown, used or expired: ask the owner for a new one",
        );
        match self
            .failed_codes
            .borrow_mut()
            .admit(limits::ENROLMENTS, now_ms())
        {
            Ok(()) => problem,
            Err(exceeded) => {
                Problem::rate_limited("too many wrong enrolment codes at this registry", exceeded)
            }
        }
    }

    fn limit_open_enrolment(&self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct Recent {
            count: usize,
            oldest: Option<u64>,
        }
        let now = now();
        let recent: Recent = self
            .sql
            .exec(
                "SELECT count(*) AS count, min(enrolled_at) AS oldest FROM devices WHERE enrolled_at > ?",
                vec![integer(now.saturating_sub(60))],
            )?
            .one()?;
        if recent.count < limits::ENROLMENTS {
            return Ok(());
        }
        let retry_after_s = recent
            .oldest
            .map_or(60, |oldest| (oldest + 60).saturating_sub(now))
            .clamp(1, 60) as u32;
        let exceeded = limits::Exceeded { retry_after_s };
        Err(Problem::rate_limited("too many devices enrol at this registry", exceeded).into())
    }

    fn alias(&self, name: &str) -> Answer {
        let rows = self.rows(
            "SELECT * FROM devices WHERE name = ? AND revoked = 0",
            vec![name.into()],
        )?;
        match rows.first() {
            Some(row) => Ok(enrolled(&row.id, &row.name)),
            None => Err(Problem::new(
                Code::UnknownAlias,
                "no device of this name is enrolled here",
            )
            .into()),
        }
    }

    fn new_code(&self, name: Option<&str>, ttl_s: u64) -> Answer {
        let mut random = [0; 10];
        getrandom::fill(&mut random)
            .map_err(|error| worker::Error::RustError(error.to_string()))?;
        let code = EnrolmentCode::from_random(&random);
        let expires_at = now() + ttl_s;
        self.execute(
            "DELETE FROM codes WHERE expires_at <= ?",
            vec![integer(now())],
        )?;
        self.execute(
            "INSERT INTO codes (digest, name, expires_at) VALUES (?, ?, ?)",
            vec![code.digest().into(), name.into(), integer(expires_at)],
        )?;
        Ok(json!({ "code": code.grouped(), "name": name, "expires_at": expires_at }))
    }

    /// The list as it is now: a device that was last heard of a while ago is asked for, because a
    /// socket whose peer has vanished stays open until somebody tries it.
    async fn list(&self) -> Answer {
        let doubtful: Vec<(PeerId, u64)> = {
            let checked = self.checked.borrow();
            self.rows("SELECT * FROM devices WHERE online = 1", vec![])?
                .into_iter()
                .filter(|row| {
                    let heard = row
                        .last_seen
                        .max(checked.get(&row.id).copied())
                        .unwrap_or(0);
                    heard + PRESENCE_S <= now()
                })
                .take(PRESENCE_CHECKS)
                .map(|row| (row.id, row.session))
                .collect()
        };
        let presences = join_all(
            doubtful
                .iter()
                .map(|(device, _)| device_object::presence(&self.env, device)),
        )
        .await;
        for ((device, session), presence) in doubtful.into_iter().zip(presences) {
            match presence {
                Ok(Some(presence)) if presence.session == session => {
                    self.checked.borrow_mut().insert(device, presence.seen);
                }
                // The device's object has told of the end of a dead socket itself.
                Ok(_) => {
                    self.checked.borrow_mut().remove(&device);
                    let last_seen = self
                        .row(&device)?
                        .and_then(|row| row.last_seen)
                        .unwrap_or(0);
                    self.offline(&device, session, last_seen)?;
                }
                Err(error) => {
                    crate::log::fault("asking a device's object for its presence", &error);
                }
            }
        }
        let now = now();
        let devices: Vec<Value> = self
            .rows("SELECT * FROM devices ORDER BY revoked, name", vec![])?
            .into_iter()
            .map(|row| {
                json!({
                    "id": row.id,
                    "name": row.name,
                    "online": row.is_online(),
                    "public_address": row.public_address,
                    "mapped_port": row.mapped_port,
                    "last_seen": if row.is_online() { Some(now) } else { row.last_seen },
                    "enrolled_at": row.enrolled_at,
                    "agent": row.agent,
                    "revoked": row.is_revoked(),
                })
            })
            .collect();
        Ok(json!({ "devices": devices }))
    }

    fn rename(&self, device: &PeerId, name: &str) -> Answer {
        let row = self.row(device)?.ok_or_else(|| unknown_device(device))?;
        if row.is_revoked() {
            return Err(revoked().into());
        }
        if self.is_taken(name, device)? {
            return Err(name_taken(name).into());
        }
        self.execute(
            "UPDATE devices SET name = ? WHERE id = ?",
            vec![name.into(), text(device)],
        )?;
        Ok(enrolled(device, name))
    }

    /// The list first, then the socket: a registration that is under way finds either the list
    /// changed or its socket closed. Asked again, it closes the socket again.
    async fn revoke(&self, device: &PeerId) -> Answer {
        let row = self.row(device)?.ok_or_else(|| unknown_device(device))?;
        if !row.is_revoked() {
            let last_seen = if row.is_online() {
                Some(now())
            } else {
                row.last_seen
            };
            self.execute(
                "UPDATE devices SET revoked = 1, online = 0, session = session + 1, last_seen = ? WHERE id = ?",
                vec![last_seen.map(|at| at as i64).into(), text(device)],
            )?;
            crate::log::event("revoked", device, "");
        }
        device_object::revoke(&self.env, device).await?;
        Ok(Value::Null)
    }

    fn is_open(&self) -> worker::Result<bool> {
        #[derive(Deserialize)]
        struct Policy {
            value: String,
        }
        let rows: Vec<Policy> = self
            .sql
            .exec("SELECT value FROM policy WHERE name = 'registration'", None)?
            .to_array()?;
        Ok(rows.first().is_some_and(|policy| policy.value == "open"))
    }

    fn set_open(&self, open: bool) -> Answer {
        let value = if open { "open" } else { "closed" };
        self.execute(
            "INSERT OR REPLACE INTO policy (name, value) VALUES ('registration', ?)",
            vec![value.into()],
        )?;
        Ok(json!(open))
    }

    fn is_taken(&self, name: &str, by_other_than: &PeerId) -> worker::Result<bool> {
        let rows = self.rows(
            "SELECT * FROM devices WHERE name = ? AND revoked = 0 AND id <> ?",
            vec![name.into(), text(by_other_than)],
        )?;
        Ok(!rows.is_empty())
    }

    /// `device-` and six characters of the ID; more of them if those are taken.
    fn free_default_name(&self, device: &PeerId) -> worker::Result<String> {
        let id = device.to_string();
        for len in 6..name::MAX_LEN - "device-".len() {
            let name = format!("device-{}", &id[3..3 + len]);
            if !self.is_taken(&name, device)? {
                return Ok(name);
            }
        }
        Err("every name made of this ID is taken".into())
    }

    fn row(&self, device: &PeerId) -> worker::Result<Option<Row>> {
        Ok(self
            .rows("SELECT * FROM devices WHERE id = ?", vec![text(device)])?
            .pop())
    }

    fn rows(&self, query: &str, bindings: Vec<SqlStorageValue>) -> worker::Result<Vec<Row>> {
        self.sql.exec(query, bindings)?.to_array()
    }

    fn code(&self, digest: &str) -> worker::Result<Option<CodeRow>> {
        let mut rows: Vec<CodeRow> = self
            .sql
            .exec(
                "SELECT name, expires_at, used_by FROM codes WHERE digest = ?",
                vec![digest.into()],
            )?
            .to_array()?;
        Ok(rows.pop())
    }

    fn execute(&self, query: &str, bindings: Vec<SqlStorageValue>) -> worker::Result<()> {
        self.sql.exec(query, bindings).map(drop)
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

fn text(device: &PeerId) -> SqlStorageValue {
    device.to_string().into()
}

fn integer(value: u64) -> SqlStorageValue {
    (value as i64).into()
}

fn now_ms() -> u64 {
    Date::now().as_millis()
}

fn now() -> u64 {
    now_ms() / 1000
}
