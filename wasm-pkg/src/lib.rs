//! Ringback in the browser: calls a device through a registry and talks to it over a direct WebRTC
//! link. What is sealed, checked and believed is `ringback-protocol`'s, the same code as in native
//! callers; here are the browser's network, storage and clock.
//!
//! A page written in Rust uses this crate as it is. The npm package `ringback` is the same with the
//! feature `npm`, which adds the JavaScript API.
//!
//! A call, and the file that each step lives in:
//!
//! 1. [`Registry::open`] asks a registry what it offers — [`registry`].
//! 2. [`Registry::call`] makes an offer, seals it with the right to call ([`proof`]), and follows the
//!    answers — [`call`]; each request is `ring`'s, and what is told meanwhile [`step`]'s. The
//!    browser's key is [`identity`]'s, what it knows of devices [`contacts`]'.
//! 3. The device dials back; a [`Link`] is what comes of it — [`link`].
//! 4. [`Link::open`] opens a [`Stream`] to a service — [`stream`].
//! 5. How it went is told by a [`Receipt`] — [`receipt`].

pub mod call;
mod clock;
pub mod contacts;
pub mod error;
mod explanation;
pub mod identity;
pub mod link;
#[cfg(feature = "npm")]
pub mod npm;
pub mod object;
mod origin;
mod peer;
mod permission;
pub mod proof;
pub mod receipt;
pub mod registry;
mod ring;
mod sdp;
mod search;
pub mod step;
mod store;
pub mod stream;
#[cfg(all(test, target_arch = "wasm32"))]
mod tests;

pub use call::CallOptions;
pub use contacts::{Contact, Contacts};
pub use error::CallError;
pub use identity::Identity;
pub use link::{Link, LinkEnd, LinkState, Service};
pub use origin::DeviceLink;
pub use proof::Proof;
pub use receipt::{PathKind, Receipt, Stats};
pub use registry::{Registry, RegistryInfo};
pub use ringback_protocol::PeerId as DeviceId;
pub use ringback_protocol::stream::Mode;
pub use step::{CallEvent, Step};
pub use stream::Stream;
