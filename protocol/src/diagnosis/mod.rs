//! Answers to "why am I relayed?", as pure functions: what a NAT does ([`behaviour`]), whom a host
//! can reach with it ([`outlook`]), and why a call took the path that it took ([`call`]). Findings
//! are enums with stable codes (their serde names) and plain English texts (their `Display`).

pub mod behaviour;
pub mod call;
pub mod outlook;
mod remedy;

pub use behaviour::{Filtering, Mapping, Ports, Sighting};
pub use call::{Cause, Diagnosis, Here, Reason};
pub use outlook::{Outlook, Peer, Standing, Way};
pub use remedy::{Advice, Remedy, Side};
