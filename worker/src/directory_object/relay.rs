//! What the owner allows and what was used: the policy, the relay's allowance, the day's counts
//! (§5.2, §15.3).
//!
//! The allowance is handed out in leases, so that a room asks once per lease and not per datagram.
//! What is out on leases is `reserved`, what rooms have told of is `relayed`; both count against
//! the day on which the lease was taken. A room that dies without a word leaves its lease reserved
//! until the day ends: too little is forwarded then, never too much.

use ringback_protocol::{Code, PeerId};
use serde::Deserialize;
use serde_json::{Value, json};
use worker::SqlStorageValue;

use super::storage::integer;
use super::{Answer, DirectoryObject, not_enrolled};
use crate::clock::now;
use crate::directory::{Lease, Spent, Terms};
use crate::policy::{Policy, PolicyChange, Registration, RelayPolicy};
use crate::problem::Problem;
use crate::tally::Tally;

/// Bytes of a room's first lease, while there are as many: it may come to nothing, and whoever opens
/// rooms must not reserve the day with them.
const FIRST_LEASE_BYTES: u64 = 1 << 20;
/// Bytes of the smallest lease after it.
const LEASE_BYTES: u64 = 16 << 20;
/// Seconds of the rate that a lease lasts at least.
const LEASE_S: u64 = 4;
const DAY_S: u64 = 86_400;
/// Days whose counts are kept.
const KEPT_DAYS: u64 = 31;

/// What a free plan grants a day.
mod free_plan {
    pub(super) const REQUESTS: u64 = 100_000;
    pub(super) const ROWS_WRITTEN: u64 = 100_000;
    pub(super) const GB_S: f64 = 13_000.0;
    /// Incoming WebSocket messages that are billed as one request.
    pub(super) const MESSAGES: u64 = 20;
    /// Memory that an object is billed for, in GB.
    pub(super) const OBJECT_GB: f64 = 0.128;
}

#[derive(Debug, Default, Deserialize)]
struct UsageRow {
    registrations: u64,
    requests: u64,
    rows_written: u64,
    relayed: u64,
    reserved: u64,
    dropped: u64,
    rooms: u64,
    sockets: u64,
    leases: u64,
    messages: u64,
    awake_ms: u64,
    answered: u64,
    refused: u64,
    limited: u64,
}

impl DirectoryObject {
    pub(super) fn policy(&self) -> worker::Result<Policy> {
        #[derive(Deserialize)]
        struct Entry {
            name: String,
            value: String,
        }
        let entries: Vec<Entry> = self
            .sql
            .exec("SELECT name, value FROM policy", None)?
            .to_array()?;
        let mut policy = Policy::default();
        for Entry { name, value } in entries {
            let number = value.parse().ok();
            match name.as_str() {
                "registration" if value == "open" => policy.registration = Registration::Open,
                "relay.enabled" => policy.relay.enabled = value == "true",
                "relay.rate_bytes_s" => {
                    policy.relay.rate_bytes_s = number.unwrap_or(policy.relay.rate_bytes_s);
                }
                "relay.daily_bytes" => {
                    policy.relay.daily_bytes = number.unwrap_or(policy.relay.daily_bytes);
                }
                _ => {}
            }
        }
        Ok(policy)
    }

    pub(super) fn set_policy(&self, change: &PolicyChange) -> Answer {
        let before = self.policy()?;
        let mut policy = before.clone();
        policy.apply(change);
        let registration = if policy.is_open() { "open" } else { "closed" };
        for (name, value, is_new) in [
            (
                "registration",
                registration.to_owned(),
                policy.registration != before.registration,
            ),
            (
                "relay.enabled",
                policy.relay.enabled.to_string(),
                policy.relay.enabled != before.relay.enabled,
            ),
            (
                "relay.rate_bytes_s",
                policy.relay.rate_bytes_s.to_string(),
                policy.relay.rate_bytes_s != before.relay.rate_bytes_s,
            ),
            (
                "relay.daily_bytes",
                policy.relay.daily_bytes.to_string(),
                policy.relay.daily_bytes != before.relay.daily_bytes,
            ),
        ] {
            if is_new {
                self.execute(
                    "INSERT OR REPLACE INTO policy (name, value) VALUES (?, ?)",
                    vec![name.into(), value.into()],
                )?;
            }
        }
        crate::roster::forget();
        Ok(serde_json::to_value(policy)?)
    }

    /// A peer joins.
    pub(super) fn join(
        &self,
        device: Option<&PeerId>,
        spent: Option<Spent>,
        wants_lease: bool,
    ) -> Answer {
        self.lease(device, spent, wants_lease.then_some(FIRST_LEASE_BYTES))
    }

    /// The room of this device goes on.
    pub(super) fn go_on(&self, device: &PeerId, spent: Spent) -> Answer {
        self.lease(Some(device), Some(spent), Some(LEASE_BYTES))
    }

    /// What was spent is written down first, whatever the answer. `least`: bytes of the lease, if
    /// one is wanted; of a full one, those of the rate if they are more.
    fn lease(&self, device: Option<&PeerId>, spent: Option<Spent>, least: Option<u64>) -> Answer {
        if let Some(spent) = spent {
            self.spend(&spent)?;
        }
        if let Some(device) = device {
            match self.row(device)? {
                Some(row) if row.is_revoked() => return Err(Problem::revoked().into()),
                Some(_) => {}
                None => return Err(not_enrolled().into()),
            }
        }
        let RelayPolicy {
            enabled,
            rate_bytes_s,
            daily_bytes,
        } = self.policy()?.relay;
        if !enabled {
            let detail = "the owner of this registry has switched its relay off";
            return Err(Problem::new(Code::RelayDisabled, detail).into());
        }
        let day = today();
        let used = self.usage_of(day)?;
        let mut remaining_bytes = daily_bytes.saturating_sub(used.relayed + used.reserved);
        if remaining_bytes == 0 {
            return Err(exhausted().into());
        }
        let lease = least.map(|least| Lease {
            day,
            bytes: remaining_bytes.min(if least == LEASE_BYTES {
                least.max(LEASE_S * rate_bytes_s)
            } else {
                least
            }),
        });
        if let Some(lease) = lease {
            remaining_bytes -= lease.bytes;
            self.add(day, &[("reserved", lease.bytes), ("leases", 1)])?;
        }
        Ok(serde_json::to_value(Terms {
            rate_bytes_s,
            // What the room has in its lease is left to it, too.
            remaining_bytes: remaining_bytes + lease.map_or(0, |lease| lease.bytes),
            lease,
        })?)
    }

    pub(super) fn spend(&self, spent: &Spent) -> worker::Result<()> {
        let settled = spent.relayed + spent.returned;
        if settled > 0 {
            self.execute(
                "UPDATE usage SET reserved = max(0, reserved - ?) WHERE day = ?",
                vec![integer(settled), integer(spent.day)],
            )?;
        }
        let day = if settled > 0 { spent.day } else { today() };
        self.add(
            day,
            &[
                ("relayed", spent.relayed),
                ("dropped", spent.dropped),
                ("rooms", spent.rooms),
                ("sockets", spent.sockets),
                ("messages", spent.messages),
                ("awake_ms", spent.awake_ms),
            ],
        )
    }

    pub(super) fn counted(&self, tally: Tally) -> Answer {
        let Tally {
            all,
            relayed,
            refused,
            limited,
        } = tally;
        let counts = [
            ("answered", all),
            ("requests", relayed),
            ("refused", refused),
            ("limited", limited),
        ];
        self.add(today(), &counts)?;
        Ok(Value::Null)
    }

    pub(super) fn count(&self, what: &'static str) -> worker::Result<()> {
        self.add(today(), &[(what, 1)])
    }

    /// Adds to counts of a day, in one row. The names are ours, not input.
    fn add(&self, day: u64, counts: &[(&'static str, u64)]) -> worker::Result<()> {
        let mut counts: Vec<_> = counts.iter().copied().filter(|(_, n)| *n > 0).collect();
        if counts.is_empty() {
            return Ok(());
        }
        // This row itself is one, and is counted with what has been written since the last.
        counts.push(("rows_written", self.rows_written.take() as u64 + 1));
        let names: Vec<&str> = counts.iter().map(|(name, _)| *name).collect();
        let marks = vec!["?"; counts.len()].join(", ");
        let sums: Vec<String> = names
            .iter()
            .map(|name| format!("{name} = {name} + excluded.{name}"))
            .collect();
        let query = format!(
            "INSERT INTO usage (day, {}) VALUES (?, {marks}) ON CONFLICT (day) DO UPDATE SET {}",
            names.join(", "),
            sums.join(", ")
        );
        let mut bindings: Vec<SqlStorageValue> = vec![integer(day)];
        bindings.extend(counts.iter().map(|(_, n)| integer(*n)));
        self.sql.exec(&query, bindings)?;
        self.sql.exec(
            "DELETE FROM usage WHERE day < ?",
            vec![integer(day.saturating_sub(KEPT_DAYS))],
        )?;
        Ok(())
    }

    fn usage_of(&self, day: u64) -> worker::Result<UsageRow> {
        let mut rows: Vec<UsageRow> = self
            .sql
            .exec("SELECT * FROM usage WHERE day = ?", vec![integer(day)])?
            .to_array()?;
        Ok(rows.pop().unwrap_or_default())
    }

    pub(super) fn usage(&self, mut pending: Tally) -> Answer {
        let day = today();
        let used = self.usage_of(day)?;
        let daily_bytes = self.policy()?.relay.daily_bytes;
        let counted = Tally {
            all: used.answered,
            relayed: used.requests,
            refused: used.refused,
            limited: used.limited,
        };
        pending.add(counted);
        let requests = |count: u64| json!({ "used": count, "share": share(count as f64, free_plan::REQUESTS as f64) });
        // A socket of a device costs a request to its object and one to this one; so does a socket
        // to a room. A request to a device costs one to its object.
        let relay_requests =
            2 * used.sockets + used.leases + used.messages.div_ceil(free_plan::MESSAGES);
        let gb_s = used.awake_ms as f64 / 1000.0 * free_plan::OBJECT_GB;
        let rows = used.rows_written + self.rows_written.get() as u64;
        Ok(json!({
            "day": date(day),
            "resets_at": (day + 1) * DAY_S,
            "registrations": { "count": used.registrations, "requests": requests(2 * used.registrations) },
            "requests": { "count": pending.relayed, "requests": requests(pending.relayed) },
            "frontend": {
                "refused": pending.refused,
                "limited": pending.limited,
                "requests": requests(pending.all),
            },
            "relay": {
                "bytes": used.relayed,
                "reserved_bytes": used.reserved,
                "dropped_bytes": used.dropped,
                "daily_bytes": daily_bytes,
                "share": share((used.relayed + used.reserved) as f64, daily_bytes as f64),
                "rooms": used.rooms,
                "sockets": used.sockets,
                "leases": used.leases,
                "messages": used.messages,
                "requests": requests(relay_requests),
                "awake_s": used.awake_ms.div_ceil(1000),
                "gb_s": { "used": gb_s, "share": share(gb_s, free_plan::GB_S) },
            },
            "rows_written": { "used": rows, "share": share(rows as f64, free_plan::ROWS_WRITTEN as f64) },
        }))
    }
}

fn exhausted() -> Problem {
    let left = (today() + 1) * DAY_S - now();
    Problem {
        retry_after_s: Some(left.max(1) as u32),
        ..Problem::new(
            Code::RelayExhausted,
            "the relay of this registry has forwarded all that its owner allows for today (UTC)",
        )
    }
}

fn share(used: f64, of: f64) -> f64 {
    if of > 0.0 { used / of } else { 1.0 }
}

/// Days since 1970, UTC.
fn today() -> u64 {
    now() / DAY_S
}

/// The date of a day since 1970 (H. Hinnant's civil_from_days).
fn date(day: u64) -> String {
    let z = day + 719_468;
    let (era, of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{:02}",
        of_year - (153 * shifted + 2) / 5 + 1
    )
}

impl From<Terms> for ringback_protocol::frame::Joined {
    fn from(terms: Terms) -> Self {
        Self {
            rate_bytes_s: terms.rate_bytes_s,
            remaining_bytes: terms.remaining_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_have_dates() {
        for (day, text) in [
            (0, "1970-01-01"),
            (11_016, "2000-02-29"),
            (11_017, "2000-03-01"),
            (19_723, "2024-01-01"),
            (20_088, "2024-12-31"),
        ] {
            assert_eq!(date(day), text);
        }
    }
}
