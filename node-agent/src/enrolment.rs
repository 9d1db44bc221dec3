//! A device's enrolment at a registry, by its owner's code (PROTOCOL §5.2).

use anyhow::{Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use hyper::Method;
use ringback_protocol::registration::{canonical_code, sign_enrolment};
use ringback_protocol::{Code, SecretKey};
use serde::{Deserialize, Serialize};

use crate::failure::{Exit, Failure};
use crate::link::printable;
use crate::registry::{Connection, Registry};

/// The file with the name that this device was enrolled under.
pub(crate) const ENROLLED: &str = "enrolled.json";

/// What [`ENROLLED`] holds.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct EnrolledAs {
    pub(crate) registry: String,
    pub(crate) name: String,
}

#[derive(Deserialize)]
struct Enrolled {
    name: String,
}

/// Uses the owner's code (PROTOCOL §5.2); the device's name at the registry.
pub(crate) async fn enroll(
    registry: &Registry,
    key: &SecretKey,
    code: &str,
    name: Option<&str>,
) -> Result<String> {
    let signature = sign_enrolment(key, &registry.origin(), code);
    let mut body = serde_json::json!({
        "code": canonical_code(code),
        "device": key.id(),
        "signature": BASE64_URL_SAFE_NO_PAD.encode(signature),
    });
    if let Some(name) = name {
        body["name"] = name.into();
    }
    let mut connection = Connection::open(registry).await?;
    match connection
        .json::<Enrolled>(Method::POST, "/v1/enrollments", Some(&body))
        .await?
    {
        Ok(enrolled) => Ok(printable(&enrolled.name)),
        Err(problem) => {
            let message = match problem.code {
                Code::BadCode => "the enrolment code is unknown, used or expired; ask the registry's owner for another".into(),
                Code::NameTaken => "the registry has another device of this name; choose one with --name".into(),
                code => format!("the registry does not enrol this device: {} ({})", code.title(), printable(&problem.detail)),
            };
            bail!(Failure::new(Exit::Registry, message))
        }
    }
}
