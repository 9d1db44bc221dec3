//! The tables of the directory, and how those of earlier versions become them.

use serde::Deserialize;
use worker::SqlStorage;

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
