//! What each fuzz target does with the bytes that it is given. A target panics when the code under
//! it does, or when a law is broken that holds for every input: what was read is written as it was,
//! what is kept is bounded, two honest ends understand each other whatever a stranger says between.
//!
//! `fuzz_targets/` holds a file of one line for each; the protocol's example `corpus` writes the first
//! inputs.

mod admission;
mod agent;
mod beacon;
mod channel;
mod decoders;
mod path;
mod registration;
mod steps;
#[path = "../../protocol/tests/vector/mod.rs"]
pub mod vector;
mod webrtc;

pub use admission::admission;
pub use agent::{ice_names, stun};
pub use beacon::{beacon_device, beacon_front, relay_member};
pub use channel::channel;
pub use decoders::{envelope, frame, refusal, relay_stream, request, service_frames, text_forms};
pub use path::path;
pub use registration::{call, registration};
pub use webrtc::webrtc;
