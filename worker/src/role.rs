//! What a device is enrolled as.

use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What an enrolled key is for (§5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, Encode, Decode)]
#[serde(rename_all = "lowercase")]
#[cbor(index_only)]
pub enum EnrolledAs {
    #[default]
    #[n(0)]
    Device,
    #[n(1)]
    Beacon,
}

impl EnrolledAs {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Device => "device",
            Self::Beacon => "beacon",
        }
    }
}
