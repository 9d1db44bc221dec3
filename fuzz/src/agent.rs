//! What the agent's socket reads itself: answers to STUN questions, and for whom an ICE check is.

pub use ringback_agent::fuzzing::{ice_name, stun_answer};

pub fn stun(bytes: &[u8]) {
    stun_answer(bytes);
}

pub fn ice_names(bytes: &[u8]) {
    if let Some(name) = ice_name(bytes) {
        assert!(name.len() < bytes.len());
    }
}
