//! The right to call, and how a password becomes one (PROTOCOL §3.1).

use std::fmt;

use ringback_protocol::PeerId;
use ringback_protocol::secret::{PASSWORD_ID, Psk, opaque};

use crate::CallError;
use crate::clock::sleep;
use crate::error::BAD_PASSWORD;

/// What proves the right to call.
#[derive(Clone)]
pub enum Proof {
    Password(String),
    /// This browser's key, which the device remembers.
    Remembered,
    /// What an earlier link was proven with ([`crate::Link::proof`]): derived from the password, and
    /// good for the same device only.
    Derived(DerivedProof),
}

/// The key that a password makes for one device. Kept in memory only.
#[derive(Debug, Clone)]
pub struct DerivedProof {
    device: PeerId,
    pub(crate) psk_id: Vec<u8>,
    pub(crate) psk: Psk,
}

impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password([redacted])",
            Self::Remembered => "Remembered",
            Self::Derived(_) => "Derived([redacted])",
        })
    }
}

pub(crate) async fn prove(proof: Proof, device: PeerId) -> Result<Option<DerivedProof>, CallError> {
    match proof {
        Proof::Remembered => Ok(None),
        Proof::Derived(proof) if proof.device == device => Ok(Some(proof)),
        Proof::Derived(_) => Err(CallError::new(
            BAD_PASSWORD,
            "this proof is for another device",
        )),
        Proof::Password(password) => {
            // It takes the page's only thread for a while: what was drawn until now is shown before.
            sleep(0.0).await;
            derive(&prepared(&password), device).map(Some)
        }
    }
}

pub(crate) fn derive(password: &str, device: PeerId) -> Result<DerivedProof, CallError> {
    let psk = Psk::from_password(password, &device)
        .map_err(|error| CallError::new(BAD_PASSWORD, error.to_string()))?;
    Ok(DerivedProof {
        device,
        psk_id: PASSWORD_ID.to_vec(),
        psk,
    })
}

/// As every end takes a password (PROTOCOL §3.1), with the browser's tables of Unicode.
pub(crate) fn prepared(password: &str) -> String {
    opaque(password, |text| {
        js_sys::JsString::from(text).normalize("NFC").into()
    })
}

impl Proof {
    /// The password, if preparing changes it.
    pub(crate) fn as_given(&self) -> Option<String> {
        match self {
            Self::Password(password) if prepared(password) != *password => Some(password.clone()),
            _ => None,
        }
    }
}
