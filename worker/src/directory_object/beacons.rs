//! Beacons and the devices on them (§6.3).

use std::net::SocketAddr;

use ringback_protocol::{Code, PeerId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::storage::{Row, integer, text};
use super::{Answer, DirectoryObject, Heard, not_enrolled};
use crate::clock::now;
use crate::directory::ListedBeacon;
use crate::problem::Problem;
use crate::role::EnrolledAs;

/// Seconds that the devices of a beacon stay listed when its socket is gone: it connects anew.
const RECONNECT_S: u64 = 60;
/// Beacons that a device is told of.
const MAX_LISTED: usize = 8;

#[derive(Deserialize)]
struct BeaconRow {
    id: PeerId,
    udp: String,
    tcp: Option<String>,
    relay: u8,
    online: u8,
}

impl DirectoryObject {
    /// Those that may be one and have said where they listen, connected ones first.
    pub(super) fn beacons(&self) -> worker::Result<Vec<ListedBeacon>> {
        let rows: Vec<BeaconRow> = self
            .sql
            .exec(
                "SELECT beacons.*, devices.online FROM beacons JOIN devices USING (id)
                 WHERE devices.role = 'beacon' AND devices.revoked = 0
                 ORDER BY devices.online DESC, devices.last_seen DESC LIMIT ?",
                vec![integer(MAX_LISTED as u64)],
            )?
            .to_array()?;
        Ok(rows
            .into_iter()
            .map(|row| ListedBeacon {
                id: row.id,
                udp: row.udp,
                tcp: row.tcp,
                relay: row.relay != 0,
                online: row.online != 0,
            })
            .collect())
    }

    pub(super) fn beacon(
        &self,
        beacon: &PeerId,
        udp: String,
        tcp: Option<String>,
        relay: bool,
    ) -> Answer {
        self.checked_beacon(beacon)?;
        self.execute(
            "INSERT OR REPLACE INTO beacons (id, udp, tcp, relay) VALUES (?, ?, ?, ?)",
            vec![
                text(beacon),
                udp.into(),
                tcp.into(),
                i64::from(relay).into(),
            ],
        )?;
        crate::roster::forget();
        crate::log::event("beacon", beacon, "listens");
        Ok(Value::Null)
    }

    /// Answer: the code of why the device may not, or null. A row is written for a change only.
    pub(super) fn seen(
        &self,
        beacon: &PeerId,
        device: &PeerId,
        public: Option<SocketAddr>,
    ) -> Answer {
        self.checked_beacon(beacon)?;
        let row = match self.row(device)? {
            Some(row) if row.is_revoked() => return Ok(json!(Code::Revoked)),
            Some(row) => row,
            None => return Ok(json!(Code::NotEnrolled)),
        };
        let Some(public) = public else {
            return Ok(Value::Null);
        };
        let address = public.ip().to_string();
        let is_as_before = row.beacon.as_ref() == Some(beacon)
            && row.public_address.as_ref() == Some(&address)
            && row.mapped_port == Some(public.port());
        let (seen, asked) = (now(), now());
        self.checked
            .borrow_mut()
            .insert(*device, Heard { seen, asked });
        if !is_as_before {
            self.execute(
                "UPDATE devices SET beacon = ?, public_address = ?, mapped_port = ?, last_seen = ?
                 WHERE id = ?",
                vec![
                    text(beacon),
                    address.into(),
                    i64::from(public.port()).into(),
                    integer(now()),
                    text(device),
                ],
            )?;
            self.changed(device)?;
        }
        Ok(Value::Null)
    }

    pub(super) fn gone(&self, beacon: &PeerId, device: &PeerId) -> Answer {
        self.checked_beacon(beacon)?;
        let last_seen = self
            .row(device)?
            .and_then(|row| self.last_seen(&row))
            .unwrap_or_else(now);
        self.execute(
            "UPDATE devices SET beacon = NULL, last_seen = ? WHERE id = ? AND beacon = ?",
            vec![integer(last_seen), text(device), text(beacon)],
        )?;
        self.changed(device)?;
        Ok(Value::Null)
    }

    /// The beacon by which this device can be told that somebody rings.
    pub(super) fn serving_beacon(&self, row: &Row) -> worker::Result<Option<PeerId>> {
        let Some(id) = &row.beacon else {
            return Ok(None);
        };
        Ok(self.row(id)?.and_then(|beacon| {
            let is_there =
                beacon.has_socket() || beacon.last_seen.is_some_and(|at| at + RECONNECT_S > now());
            let serves = beacon.role == EnrolledAs::Beacon && !beacon.is_revoked() && is_there;
            serves.then_some(beacon.id)
        }))
    }

    fn checked_beacon(&self, beacon: &PeerId) -> Result<(), super::Failure> {
        match self.row(beacon)? {
            Some(row) if row.is_revoked() => Err(Problem::revoked().into()),
            Some(row) if row.role == EnrolledAs::Beacon => Ok(()),
            Some(_) => {
                let detail = "this device was not enrolled in the role of a beacon";
                Err(Problem::new(Code::BadFrame, detail).into())
            }
            None => Err(not_enrolled().into()),
        }
    }
}
