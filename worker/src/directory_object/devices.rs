//! The device list (§5.2): who is there, under which name, and since when.

use std::net::SocketAddr;

use futures_util::future::join_all;
use ringback_protocol::{Code, PeerId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::storage::{Row, integer, text};
use super::{Answer, DirectoryObject, Heard, enrolled, name_taken, not_enrolled};
use crate::clock::now;
use crate::device;
use crate::directory::{Online, Reach};
use crate::problem::Problem;
use crate::roster::{self, Roster};

/// A device that is in the list as online is asked for a sign of life when the owner looks, if the
/// last one is older than this.
const PRESENCE_S: u64 = 30;
/// Seconds without a sign of life after which a device with a socket is not listed as online: agents
/// give one each 25 s, so at least one has failed to come. The socket stays until it has been silent
/// for twice as long.
const SILENT_S: u64 = 45;
/// Seconds for which an answer to that question is of use.
const ASKED_S: u64 = 60;
/// Devices asked for one listing, so that a listing stays within the platform's subrequests.
const PRESENCE_CHECKS: usize = 40;

/// Seconds for which two agents with one key are listed after they have met,
const CLONE_S: u64 = 3_600;
/// and after which it is written down again.
const CLONE_ROW_S: u64 = 600;

fn clone_of(row: &Row) -> Option<Value> {
    let seen = row.clone_seen.filter(|seen| seen + CLONE_S > now())?;
    let addresses: Vec<&str> = row.clone_addresses.as_deref()?.split(',').collect();
    Some(json!({ "addresses": addresses, "seen": seen }))
}

impl Heard {
    /// Was nothing heard of the device for too long when it was asked for? `last_seen`: what it has
    /// told by itself, maybe since.
    fn is_silence(self, last_seen: Option<u64>, now: u64) -> bool {
        let seen = last_seen.unwrap_or(0).max(self.seen);
        seen + SILENT_S <= self.asked && self.asked + ASKED_S > now
    }
}

impl DirectoryObject {
    pub(super) fn online(
        &self,
        device: &PeerId,
        agent: String,
        public: Option<SocketAddr>,
    ) -> Answer {
        let row = match self.row(device)? {
            Some(row) => row,
            None if self.policy()?.is_open() => {
                self.enrol(device, None, None)?;
                self.row(device)?
                    .ok_or_else(|| worker::Error::from("the row just written is not there"))?
            }
            None => {
                return Err(not_enrolled().into());
            }
        };
        if row.is_revoked() {
            return Err(Problem::revoked().into());
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
        self.count("registrations")?;
        self.changed(device)?;
        Ok(json!(Online {
            session,
            is_self_enrolled: row.is_self_enrolled(),
            name: row.name,
            role: row.role,
            beacons: self.beacons()?,
        }))
    }

    pub(super) fn update(&self, device: &PeerId, session: u64, public: SocketAddr) -> Answer {
        let row = self
            .row(device)?
            .ok_or_else(|| Problem::unknown_device(device))?;
        if row.is_revoked() {
            return Err(Problem::revoked().into());
        }
        if row.session == session {
            self.execute(
                "UPDATE devices SET online = 1, last_seen = ?, public_address = ?, mapped_port = ? WHERE id = ?",
                vec![integer(now()), public.ip().to_string().into(), i64::from(public.port()).into(), text(device)],
            )?;
            self.changed(device)?;
        }
        Ok(Value::Null)
    }

    /// Told each time that one takes the socket from the other; a row now and then is enough.
    pub(super) fn cloned(&self, device: &PeerId, mut addresses: [String; 2]) -> Answer {
        addresses.sort();
        let addresses = if addresses[0] == addresses[1] {
            addresses[0].clone()
        } else {
            addresses.join(",")
        };
        let Some(row) = self.row(device)? else {
            return Ok(Value::Null);
        };
        let is_known = row.clone_addresses.as_ref() == Some(&addresses)
            && row
                .clone_seen
                .is_some_and(|seen| seen + CLONE_ROW_S > now());
        if !is_known {
            self.execute(
                "UPDATE devices SET clone_addresses = ?, clone_seen = ? WHERE id = ?",
                vec![addresses.into(), integer(now()), text(device)],
            )?;
            self.changed(device)?;
        }
        Ok(Value::Null)
    }

    pub(super) fn offline(&self, device: &PeerId, session: u64, last_seen: u64) -> Answer {
        let written = self.execute(
            "UPDATE devices SET online = 0, last_seen = ? WHERE id = ? AND session = ? AND online = 1",
            vec![integer(last_seen), text(device), integer(session)],
        )?;
        if written > 0 {
            self.changed(device)?;
        }
        Ok(Value::Null)
    }

    /// Asked by a device's object that has no socket: so the device is offline, whatever the list
    /// says (a machine that crashed could not write it down), unless a beacon reaches it.
    pub(super) fn missing(&self, device: &PeerId) -> Answer {
        let row = self
            .row(device)?
            .ok_or_else(|| Problem::unknown_device(device))?;
        if row.is_revoked() {
            return Err(Problem::revoked().into());
        }
        if row.has_socket() {
            self.offline(
                device,
                row.session,
                row.last_seen.unwrap_or(row.enrolled_at),
            )?;
        }
        if let Some(beacon) = self.serving_beacon(&row)? {
            return Ok(json!(Reach {
                beacon,
                is_self_enrolled: row.is_self_enrolled(),
            }));
        }
        Err(Problem::offline(self.last_seen(&row)).into())
    }

    /// A placed request goes to a device.
    pub(super) fn relayed(&self) -> Answer {
        self.count("requests")?;
        Ok(Value::Null)
    }

    pub(super) fn roster(&self) -> Answer {
        #[derive(Deserialize)]
        struct Listed {
            id: PeerId,
            name: String,
            revoked: u8,
        }
        let most = roster::MAX_DEVICES;
        let listed: Vec<Listed> = self
            .sql
            .exec(
                "SELECT id, name, revoked FROM devices LIMIT ?",
                vec![integer(most as u64 + 1)],
            )?
            .to_array()?;
        let devices = (listed.len() <= most).then(|| {
            let devices = listed.into_iter();
            let devices = devices.map(|row| (row.id, (row.revoked == 0).then_some(row.name)));
            devices.collect()
        });
        Ok(serde_json::to_value(Roster(devices))?)
    }

    pub(super) fn alias(&self, name: &str) -> Answer {
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

    /// The list as it is now: a device that was last heard of a while ago is asked for, because a
    /// socket whose peer has vanished stays open until somebody tries it.
    pub(super) async fn list(&self) -> Answer {
        let doubtful: Vec<(PeerId, u64)> = {
            let checked = self.checked.borrow();
            self.rows("SELECT * FROM devices WHERE online = 1", vec![])?
                .into_iter()
                .filter(|row| {
                    let checked = checked.get(&row.id).map(|heard| heard.seen);
                    row.last_seen.max(checked).unwrap_or(0) + PRESENCE_S <= now()
                })
                .take(PRESENCE_CHECKS)
                .map(|row| (row.id, row.session))
                .collect()
        };
        let presences = join_all(
            doubtful
                .iter()
                .map(|(device, _)| device::presence(&self.env, device)),
        )
        .await;
        for ((device, session), presence) in doubtful.into_iter().zip(presences) {
            match presence {
                Ok(Some(presence)) if presence.session == session => {
                    let heard = Heard {
                        seen: presence.seen,
                        asked: now(),
                    };
                    self.checked.borrow_mut().insert(device, heard);
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
        let rows = self.rows("SELECT * FROM devices ORDER BY revoked, name", vec![])?;
        let devices: Vec<Value> = rows
            .iter()
            .map(|row| self.listed(row))
            .collect::<worker::Result<_>>()?;
        Ok(json!({ "devices": devices }))
    }

    /// A device as it stands in the list.
    pub(super) fn listed(&self, row: &Row) -> worker::Result<Value> {
        let checked = self.checked.borrow().get(&row.id).copied();
        let is_silent =
            row.has_socket() && checked.is_some_and(|heard| heard.is_silence(row.last_seen, now()));
        let via = if is_silent {
            None
        } else if row.has_socket() {
            Some("socket")
        } else {
            self.serving_beacon(row)?.map(|_| "beacon")
        };
        let last_seen = via.map_or_else(|| self.last_seen(row), |_| Some(now()));
        Ok(json!({
            "id": row.id,
            "name": row.name,
            "role": row.role,
            "online": via.is_some(),
            "silent": is_silent,
            "via": via,
            "public_address": row.public_address,
            "mapped_port": row.mapped_port,
            "last_seen": last_seen,
            "enrolled_at": row.enrolled_at,
            "agent": row.agent,
            "revoked": row.is_revoked(),
            "clone": clone_of(row),
        }))
    }

    pub(super) fn rename(&self, device: &PeerId, name: &str) -> Answer {
        let row = self
            .row(device)?
            .ok_or_else(|| Problem::unknown_device(device))?;
        if row.is_revoked() {
            return Err(Problem::revoked().into());
        }
        if self.is_taken(name, device)? {
            return Err(name_taken(name).into());
        }
        roster::forget();
        self.execute(
            "UPDATE devices SET name = ? WHERE id = ?",
            vec![name.into(), text(device)],
        )?;
        self.changed(device)?;
        Ok(enrolled(device, name))
    }

    /// The list first, then the socket: a registration that is under way finds either the list
    /// changed or its socket closed. Asked again, it closes the socket again.
    pub(super) async fn revoke(&self, device: &PeerId) -> Answer {
        let row = self
            .row(device)?
            .ok_or_else(|| Problem::unknown_device(device))?;
        if !row.is_revoked() {
            let is_online = row.has_socket() || self.serving_beacon(&row)?.is_some();
            let last_seen = if is_online {
                Some(now())
            } else {
                row.last_seen
            };
            self.execute(
                "UPDATE devices SET revoked = 1, online = 0, beacon = NULL, session = session + 1,
                 last_seen = ? WHERE id = ?",
                vec![last_seen.map(|at| at as i64).into(), text(device)],
            )?;
            roster::forget();
            self.changed(device)?;
            crate::log::event("revoked", device, "");
        }
        device::revoke(&self.env, device).await?;
        if let Some(beacon) = row.beacon {
            device::disown(&self.env, &beacon, device).await?;
        }
        Ok(Value::Null)
    }

    /// As the row says, or as a beacon has told without a change that is worth a row.
    pub(super) fn last_seen(&self, row: &Row) -> Option<u64> {
        let checked = self.checked.borrow().get(&row.id).map(|heard| heard.seen);
        row.last_seen.max(checked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_silent_when_it_was_asked_for_and_nothing_was_heard_for_45_s() {
        const T: u64 = 1_800_000_000;
        let heard = |seen, asked| Heard { seen, asked };
        assert!(!heard(T, T + 44).is_silence(None, T + 44));
        assert!(heard(T, T + 45).is_silence(None, T + 45));
        assert!(heard(T, T + 45).is_silence(Some(T - 100), T + 50));
        assert!(
            !heard(T, T + 45).is_silence(Some(T + 46), T + 50),
            "it came back"
        );
        assert!(!heard(T, T + 45).is_silence(None, T + 105), "long ago");
        assert!(
            !heard(T, T + 20).is_silence(None, T + 500),
            "nobody has asked"
        );
    }
}
