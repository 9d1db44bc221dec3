//! The directory's tables. Rows are what a plan meters: each `execute` counts what it has written.

use ringback_protocol::{PeerId, name};
use serde::Deserialize;
use worker::SqlStorageValue;

use super::DirectoryObject;
use crate::role::EnrolledAs;

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
