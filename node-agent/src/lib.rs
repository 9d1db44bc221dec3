//! The native agent: a device that is called, and a caller.
//!
//! The way of a call: `cli` → `commands` → `caller` (seals the request, hands it to the
//! `registry`) … `device` (admits it, answers) → `endpoint` (dials back over the path socket) →
//! `link` (streams) → `service` on the one side, `forward` on the other.

pub mod arguments;
mod backoff;
mod beacon;
mod caller;
pub mod cli;
mod clock;
mod commands;
mod config;
mod contacts;
mod control;
mod copy;
mod delivery;
mod device;
mod doctor;
mod endpoint;
mod enrolment;
mod explanation;
mod failure;
mod fitting;
mod forward;
#[cfg(fuzzing)]
pub mod fuzzing;
mod happy_eyeballs;
mod interfaces;
mod keepalive;
mod lan;
mod link;
mod link_places;
mod link_windows;
mod names;
mod nat64;
mod network_watch;
mod password;
mod password_strength;
mod permissions;
mod port_mapping;
mod presence;
mod profile;
mod reconnect;
mod refusals;
mod registry;
mod registry_session;
mod relay;
mod remembered;
mod rtc;
mod seen_requests;
mod service;
mod serving;
mod short_id;
mod signalling;
mod source_places;
mod sparse;
mod stream;
mod upkeep;

pub use commands::run;
pub use failure::{Ended, Failure};
