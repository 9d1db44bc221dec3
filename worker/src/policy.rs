//! What the owner allows (§5.2): who may register, and what the relay may forward.

use serde::{Deserialize, Serialize};

/// The whole of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    pub registration: Registration,
    pub relay: RelayPolicy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Registration {
    Open,
    Closed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelayPolicy {
    pub enabled: bool,
    /// Of one room, both directions together.
    pub rate_bytes_s: u64,
    /// Of all rooms together.
    pub daily_bytes: u64,
}

/// Members that are absent stay as they are.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct PolicyChange {
    pub registration: Option<Registration>,
    #[serde(default)]
    pub relay: RelayChange,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct RelayChange {
    pub enabled: Option<bool>,
    pub rate_bytes_s: Option<u64>,
    pub daily_bytes: Option<u64>,
}

impl Policy {
    pub fn is_open(&self) -> bool {
        self.registration == Registration::Open
    }

    pub fn apply(&mut self, change: &PolicyChange) {
        let relay = &mut self.relay;
        self.registration = change.registration.unwrap_or(self.registration);
        relay.enabled = change.relay.enabled.unwrap_or(relay.enabled);
        relay.rate_bytes_s = change.relay.rate_bytes_s.unwrap_or(relay.rate_bytes_s);
        relay.daily_bytes = change.relay.daily_bytes.unwrap_or(relay.daily_bytes);
    }
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            registration: Registration::Closed,
            relay: RelayPolicy {
                enabled: true,
                rate_bytes_s: 4 << 20,
                daily_bytes: 10 << 30,
            },
        }
    }
}

impl PolicyChange {
    /// Values that would make no sense are refused before they are stored.
    pub fn check(&self) -> Result<(), String> {
        let within = |value: Option<u64>, min: u64, max: u64, what: &str| match value {
            Some(value) if !(min..=max).contains(&value) => {
                Err(format!("relay.{what}: {min} to {max} bytes"))
            }
            _ => Ok(()),
        };
        within(self.relay.rate_bytes_s, 16 << 10, 128 << 20, "rate_bytes_s")?;
        within(self.relay.daily_bytes, 0, 1 << 50, "daily_bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_is_changed_in_parts() {
        let mut policy = Policy::default();
        let change: PolicyChange =
            serde_json::from_str(r#"{"relay": {"enabled": false, "daily_bytes": 5}}"#).unwrap();
        assert_eq!(change.check(), Ok(()));
        policy.apply(&change);
        let relay = RelayPolicy {
            enabled: false,
            rate_bytes_s: 4 << 20,
            daily_bytes: 5,
        };
        assert_eq!((policy.is_open(), &policy.relay), (false, &relay));
        for wrong in [
            r#"{"relay": {"rate_bytes_s": 1}}"#,
            r#"{"relay": {"rate_bytes_s": 999999999999}}"#,
            r#"{"relay": {"daily_bytes": 9007199254740992}}"#,
        ] {
            let change: PolicyChange = serde_json::from_str(wrong).unwrap();
            assert!(change.check().is_err(), "{wrong}");
        }
    }
}
