//! Ringback's core: what goes over the wire and what each side decides, without a socket, a clock
//! or a source of randomness of its own. Native agents, the edge registry and the browser run this
//! same code.
//!
//! A call, and the file that each step lives in (section numbers are those of PROTOCOL.md):
//!
//! 1. The device proves its key to the registry and stays connected — [`registration`] (§6),
//!    in [`frame`]s.
//! 2. The caller seals a [`envelope::Request`] to the device's [`PeerId`] (§2, §3, §7) and follows
//!    the answers — [`call`].
//! 3. The device admits it or refuses it — [`admission`] (§7.1), [`refusal`] (§9).
//! 4. It answers with its own [`candidate`]s in a sealed [`reply`] (§8) and dials: [`path`] finds
//!    the way that datagrams take (§10).
//!    Where no direct one is found, or until it is, they go through a [`relay`] (§15).
//! 5. Streams on the link open with a [`stream`] header (§12); behind it a [`service`] speaks (§20).
//!    A browser's link is a WebRTC connection instead: [`rtc`], and [`channel`] for its streams (§19).
//! 6. What happened is told in a [`receipt`].
//!
//! State machines have two verbs: `handle_…(input, now)` and `poll_…()`. Drain `poll_…` before the
//! next input.

pub mod address_scope;
pub mod admission;
pub mod beacon;
pub mod call;
pub mod candidate;
mod cbor;
pub mod channel;
pub mod code;
pub mod diagnosis;
pub mod envelope;
pub mod frame;
pub mod id;
pub mod label;
pub mod lan;
pub mod name;
pub mod path;
pub mod receipt;
pub mod redact;
pub mod refusal;
pub mod registration;
pub mod relay;
pub mod reply;
pub mod rtc;
pub mod secret;
pub mod service;
pub mod stream;

pub use code::Code;
pub use id::{PeerId, SecretKey};
pub use redact::Redacted;

/// The version of PROTOCOL.md that this crate speaks.
pub const VERSION: u16 = 1;

/// Wall-clock time in Unix seconds (UTC). Passed in, never read here.
pub type UnixTime = u64;
