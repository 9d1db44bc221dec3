//! The list of what a device exposes (§20.1): a stream for the service [`LISTING`] is answered
//! with one JSON object and the end.

use serde::{Deserialize, Serialize};

use crate::PeerId;

/// The reserved service: every device has it, and no name can be this.
pub const LISTING: &str = ".services";

/// Bytes of the largest list.
pub const MAX_LISTING: usize = 256 * 1024;

/// What a device tells of itself to callers that it has admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    pub device: DeviceInfo,
    /// Sorted by name.
    pub services: Vec<ServiceInfo>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceInfo {
    pub id: PeerId,
    /// Program and version.
    pub agent: String,
    /// The name at its registry, if it knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceInfo {
    pub name: String,
    pub kind: Kind,
    /// Of files: may callers change them?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writable: Option<bool>,
    /// Of TCP, UDP and HTTP: the address on the device's network, as the device was told it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
}

/// What speaks behind a service's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Tcp,
    Udp,
    /// TCP that speaks HTTP (of an `https:` target behind TLS), and exchanges by mode 1.
    Http,
    Shell,
    Files,
    Dial,
    /// Of a later version.
    #[serde(untagged)]
    Unknown(String),
}

impl Listing {
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("nothing in it can fail")
    }

    /// Reads a whole answer; says what is wrong with it.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_plain_json_and_kinds_of_later_versions_are_kept() {
        let id = crate::SecretKey::from_seed(&[7; 32]).id();
        let listing = Listing {
            device: DeviceInfo {
                id,
                agent: "ringback/0.1.0".into(),
                name: None,
            },
            services: vec![
                ServiceInfo {
                    name: "docs".into(),
                    kind: Kind::Files,
                    writable: Some(true),
                    target: None,
                },
                ServiceInfo {
                    name: "printer".into(),
                    kind: Kind::Unknown("ipp".into()),
                    writable: None,
                    target: None,
                },
            ],
        };
        let json = listing.to_json();
        assert_eq!(
            String::from_utf8(json.clone()).unwrap(),
            format!(
                r#"{{"device":{{"id":"{id}","agent":"ringback/0.1.0"}},"services":[{{"name":"docs","kind":"files","writable":true}},{{"name":"printer","kind":"ipp"}}]}}"#
            )
        );
        assert_eq!(Listing::from_json(&json), Ok(listing.clone()));
        let named = Listing {
            device: DeviceInfo {
                name: Some("nas".into()),
                ..listing.device
            },
            services: Vec::new(),
        };
        let json = format!(
            r#"{{"device":{{"id":"{id}","agent":"ringback/0.1.0","name":"nas"}},"services":[]}}"#
        );
        assert_eq!(String::from_utf8(named.to_json()).unwrap(), json);
        assert_eq!(Listing::from_json(json.as_bytes()), Ok(named));
        Listing::from_json(b"{").unwrap_err();
        crate::name::check(LISTING).unwrap_err();
    }
}
