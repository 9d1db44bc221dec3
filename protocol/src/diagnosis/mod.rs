//! Answers to "why am I relayed?", as pure functions: what a NAT does ([`behaviour`]), whom a host
//! can reach with it ([`outlook`]), and why a call took the path that it took ([`call`]). Findings
//! are enums with stable codes (their serde names) and plain English texts (their `Display`).

pub mod behaviour;
pub mod call;
pub mod outlook;
mod reason;
mod remedy;

pub use behaviour::{Filtering, Mapping, Ports, Sighting};
pub use call::{Diagnosis, Explained, Here};
pub use outlook::{Outlook, Peer, Prospect, Standing, Way};
pub use reason::{Cause, Reason};
pub use remedy::{Advice, Remedy, Side};
