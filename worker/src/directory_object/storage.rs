//! The directory's tables. Rows are what a plan meters: each `execute` counts what it has written.

use ringback_protocol::{PeerId, name};
use serde::Deserialize;
use worker::{SqlStorage, SqlStorageValue};

use super::{DirectoryObject, EnrolledAs};

/// The tables as the first version made them.
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

/// Each step once, in order. The policy row `schema` says how many were taken.
const STEPS: &[&str] = &[
    "
ALTER TABLE devices ADD COLUMN role TEXT NOT NULL DEFAULT 'device';
ALTER TABLE devices ADD COLUMN beacon TEXT;
ALTER TABLE codes ADD COLUMN role TEXT NOT NULL DEFAULT 'device';
CREATE TABLE beacons (
    id TEXT PRIMARY KEY,
    udp TEXT NOT NULL,
    tcp TEXT,
    relay INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE usage (
    day INTEGER PRIMARY KEY,
    registrations INTEGER NOT NULL DEFAULT 0,
    requests INTEGER NOT NULL DEFAULT 0,
    rows_written INTEGER NOT NULL DEFAULT 0,
    relayed INTEGER NOT NULL DEFAULT 0,
    reserved INTEGER NOT NULL DEFAULT 0,
    dropped INTEGER NOT NULL DEFAULT 0,
    rooms INTEGER NOT NULL DEFAULT 0,
    sockets INTEGER NOT NULL DEFAULT 0,
    leases INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0,
    awake_ms INTEGER NOT NULL DEFAULT 0
);
",
    "
ALTER TABLE usage ADD COLUMN answered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN refused INTEGER NOT NULL DEFAULT 0;
ALTER TABLE usage ADD COLUMN limited INTEGER NOT NULL DEFAULT 0;
",
    "
ALTER TABLE devices ADD COLUMN clone_addresses TEXT;
ALTER TABLE devices ADD COLUMN clone_seen INTEGER;
",
    "
ALTER TABLE devices ADD COLUMN self_enrolled INTEGER NOT NULL DEFAULT 0;
",
];

/// Makes the tables, and brings those of an older version up to this one.
pub(super) fn prepare(sql: &SqlStorage) -> worker::Result<()> {
    #[derive(Deserialize)]
    struct Version {
        value: String,
    }
    sql.exec(SCHEMA, None)?;
    let version: Vec<Version> = sql
        .exec("SELECT value FROM policy WHERE name = 'schema'", None)?
        .to_array()?;
    let taken = version
        .first()
        .and_then(|version| version.value.parse().ok())
        .unwrap_or(0);
    for (at, step) in STEPS.iter().enumerate().skip(taken) {
        sql.exec(step, None)?;
        sql.exec(
            "INSERT OR REPLACE INTO policy (name, value) VALUES ('schema', ?)",
            vec![(at + 1).to_string().into()],
        )?;
    }
    Ok(())
}

#[derive(Debug, Deserialize)]
pub(super) struct Row {
    pub id: PeerId,
    pub name: String,
    pub enrolled_at: u64,
    revoked: u8,
    /// It has a socket.
    online: u8,
    pub session: u64,
    pub public_address: Option<String>,
    pub mapped_port: Option<u16>,
    pub last_seen: Option<u64>,
    pub agent: Option<String>,
    pub role: EnrolledAs,
    /// The beacon that has seen it last.
    pub beacon: Option<PeerId>,
    /// Of two agents with its key, separated by commas.
    pub clone_addresses: Option<String>,
    pub clone_seen: Option<u64>,
    self_enrolled: u8,
}

impl Row {
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked != 0
    }

    /// Nobody gave it a code: the registry is open, or was.
    pub(super) fn is_self_enrolled(&self) -> bool {
        self.self_enrolled != 0
    }

    pub(super) fn has_socket(&self) -> bool {
        self.online != 0
    }
}

#[derive(Deserialize)]
pub(super) struct CodeRow {
    pub name: Option<String>,
    pub expires_at: u64,
    pub used_by: Option<PeerId>,
    pub role: EnrolledAs,
}

impl DirectoryObject {
    pub(super) fn row(&self, device: &PeerId) -> worker::Result<Option<Row>> {
        Ok(self
            .rows("SELECT * FROM devices WHERE id = ?", vec![text(device)])?
            .pop())
    }

    pub(super) fn rows(
        &self,
        query: &str,
        bindings: Vec<SqlStorageValue>,
    ) -> worker::Result<Vec<Row>> {
        self.sql.exec(query, bindings)?.to_array()
    }

    pub(super) fn code(&self, digest: &str) -> worker::Result<Option<CodeRow>> {
        let mut rows: Vec<CodeRow> = self
            .sql
            .exec(
                "SELECT name, expires_at, used_by, role FROM codes WHERE digest = ?",
                vec![digest.into()],
            )?
            .to_array()?;
        Ok(rows.pop())
    }

    /// Rows written, indexes included.
    pub(super) fn execute(
        &self,
        query: &str,
        bindings: Vec<SqlStorageValue>,
    ) -> worker::Result<usize> {
        let cursor = self.sql.exec(query, bindings)?;
        let written = cursor.rows_written();
        self.rows_written.update(|rows| rows + written);
        Ok(written)
    }

    pub(super) fn is_taken(&self, name: &str, by_other_than: &PeerId) -> worker::Result<bool> {
        let rows = self.rows(
            "SELECT * FROM devices WHERE name = ? AND revoked = 0 AND id <> ?",
            vec![name.into(), text(by_other_than)],
        )?;
        Ok(!rows.is_empty())
    }

    /// `device-` and six characters of the ID; more of them if those are taken.
    pub(super) fn free_default_name(&self, device: &PeerId) -> worker::Result<String> {
        let id = device.to_string();
        for len in 6..name::MAX_LEN - "device-".len() {
            let name = format!("device-{}", &id[3..3 + len]);
            if !self.is_taken(&name, device)? {
                return Ok(name);
            }
        }
        Err("every name made of this ID is taken".into())
    }
}

pub(super) fn text(device: &PeerId) -> SqlStorageValue {
    device.to_string().into()
}

pub(super) fn integer(value: u64) -> SqlStorageValue {
    (value as i64).into()
}
