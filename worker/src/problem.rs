//! Errors on the wire: RFC 9457 problem details. The one place where a code becomes a status (the
//! numbers stand beside the codes, in the protocol crate, §13).

use ringback_protocol::envelope::EnvelopeError;
use ringback_protocol::frame::{Failed, Rejected};
use ringback_protocol::{Code, PeerId};
use serde::{Deserialize, Serialize};
use worker::{Response, ResponseBuilder};

use crate::limits::Exceeded;

/// Why the registry does not do what it was asked. Travels between the objects as it is, to clients
/// as a problem document, a `Failed` or a `Rejected` frame.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    pub code: Code,
    /// One line: what is wrong, and what to do if that is not plain.
    pub detail: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_s: Option<u32>,
    /// Unix time of the last sign of life, with `device_offline`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_seen: Option<u64>,
    /// The registry's clock, with `stale`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
}

#[derive(Serialize)]
struct Document<'a> {
    r#type: &'a str,
    title: &'a str,
    status: u16,
    #[serde(flatten)]
    problem: &'a Problem,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self {
            code,
            detail: detail.into(),
            retry_after_s: None,
            last_seen: None,
            time_ms: None,
        }
    }

    pub fn rate_limited(detail: &str, exceeded: Exceeded) -> Self {
        Self {
            retry_after_s: Some(exceeded.retry_after_s),
            ..Self::new(Code::RateLimited, detail)
        }
    }

    pub fn offline(last_seen: Option<u64>) -> Self {
        Self {
            last_seen,
            ..Self::new(
                Code::DeviceOffline,
                "the device is not connected to this registry",
            )
        }
    }

    pub fn unknown_device(device: &PeerId) -> Self {
        let detail = format!("no device {} is enrolled here", device.short());
        Self::new(Code::UnknownDevice, detail)
    }

    pub fn revoked() -> Self {
        Self::new(
            Code::Revoked,
            "the owner of this registry has revoked this device",
        )
    }

    /// A fault of ours: logged here, told without particulars.
    pub fn internal(during: &str, error: &worker::Error) -> Self {
        crate::log::fault(during, error);
        Self::new(Code::Internal, "the registry failed; try again")
    }

    pub fn status(&self) -> u16 {
        match self.code.http_status() {
            0 => 500,
            status => status,
        }
    }

    pub fn to_json(&self) -> String {
        let document = Document {
            r#type: "about:blank",
            title: self.code.title(),
            status: self.status(),
            problem: self,
        };
        serde_json::to_string(&document).expect("strings and numbers serialise")
    }

    pub fn into_response(self) -> worker::Result<Response> {
        let mut builder = ResponseBuilder::new()
            .with_status(self.status())
            .with_header("content-type", "application/problem+json")?
            // For whoever is refused a WebSocket and sees no more than the head.
            .with_header("ringback-code", self.code.as_str())?;
        if let Some(time_ms) = self.time_ms {
            builder = builder.with_header("ringback-time", &time_ms.to_string())?;
        }
        if let Some(seconds) = self.retry_after_s {
            builder = builder.with_header("retry-after", &seconds.to_string())?;
        }
        if self.code == Code::Unauthorized {
            builder = builder.with_header("www-authenticate", "Bearer")?;
        }
        Ok(builder.fixed(self.to_json().into_bytes()))
    }

    pub fn into_failed(self, call: u64) -> Failed {
        Failed {
            call,
            code: self.code,
            detail: self.detail,
            retry_after_s: self.retry_after_s,
            last_seen: self.last_seen,
        }
    }

    pub fn into_rejected(self) -> Rejected {
        Rejected {
            code: self.code,
            detail: self.detail,
            retry_after_s: self.retry_after_s,
        }
    }
}

impl From<EnvelopeError> for Problem {
    fn from(error: EnvelopeError) -> Self {
        let code = match error {
            EnvelopeError::TooLarge(_) => Code::TooLarge,
            EnvelopeError::Version(_) => Code::BadVersion,
            _ => Code::BadEnvelope,
        };
        Self::new(code, error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_a_document_of_rfc_9457() {
        let problem = Problem {
            last_seen: Some(1_800_000_000),
            ..Problem::offline(None)
        };
        let json: serde_json::Value = serde_json::from_str(&problem.to_json()).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "about:blank",
                "title": "the device is not connected",
                "status": 409,
                "code": "device_offline",
                "detail": "the device is not connected to this registry",
                "last_seen": 1_800_000_000,
            })
        );
        assert_eq!(
            serde_json::from_value::<Problem>(json).unwrap(),
            problem,
            "and is read back"
        );
    }

    #[test]
    fn every_code_has_a_status_that_http_knows() {
        for code in Code::ALL {
            let status = Problem::new(code.clone(), "").status();
            assert!((400..600).contains(&status), "{code} {status}");
        }
    }
}
