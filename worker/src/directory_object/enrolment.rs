//! Enrolment (§5.2): codes, and what they admit.

use ringback_protocol::{Code, PeerId};
use serde::Deserialize;
use serde_json::json;

use super::storage::{CodeRow, integer, text};
use super::{Answer, DirectoryObject, Failure, enrolled, name_taken};
use crate::clock::{now, now_ms};
use crate::enrolment_code::EnrolmentCode;
use crate::limits;
use crate::problem::Problem;
use crate::role::EnrolledAs;

impl DirectoryObject {
    pub(super) fn enrol(
        &self,
        device: &PeerId,
        digest: Option<&str>,
        wanted: Option<String>,
    ) -> Answer {
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
            None if !self.policy()?.is_open() => {
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
                    Some(row) if row.is_revoked() => return Err(Problem::revoked().into()),
                    Some(row) => return Ok(enrolled(device, &row.name)),
                    None => self.limit_open_enrolment()?,
                }
                None
            }
        };
        // On an open registry everybody is a device.
        let role = code.as_ref().map_or(EnrolledAs::Device, |code| code.role);
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
            "INSERT INTO devices (id, name, enrolled_at, role, self_enrolled) VALUES (?, ?, ?, ?, ?)
             ON CONFLICT (id) DO UPDATE SET name = excluded.name, enrolled_at = excluded.enrolled_at,
             role = excluded.role, self_enrolled = excluded.self_enrolled, revoked = 0",
            vec![
                text(device),
                name.clone().into(),
                integer(now()),
                role.as_str().into(),
                i64::from(digest.is_none()).into(),
            ],
        )?;
        if let Some(digest) = digest {
            self.execute(
                "UPDATE codes SET used_by = ? WHERE digest = ?",
                vec![text(device), digest.into()],
            )?;
        }
        crate::roster::forget();
        self.changed(device)?;
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

    pub(super) fn new_code(&self, name: Option<&str>, ttl_s: u64, role: EnrolledAs) -> Answer {
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
            "INSERT INTO codes (digest, name, expires_at, role) VALUES (?, ?, ?, ?)",
            vec![
                code.digest().into(),
                name.into(),
                integer(expires_at),
                role.as_str().into(),
            ],
        )?;
        Ok(json!({ "code": code.grouped(), "name": name, "role": role, "expires_at": expires_at }))
    }
}
