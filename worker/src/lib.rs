//! Ringback's registry and request relay (PROTOCOL.md, sections 5, 6 and 13 to 15), an edge worker.
//!
//! ```text
//! HTTP ──► frontend ──► DirectoryObject   one per registry: device list, codes, names, policy
//!             │                ▲
//!             ├──────► DeviceObject       one per device: its socket, challenge, request relay
//!             │                ▼ (asks the directory)
//!             └──────► RelayObject        one per room: two sockets, datagrams between them
//! ```
//!
//! The [`frontend`] holds no state that counts: it matches the route, checks sizes, signatures and the owner
//! secret, and hands on what is left. What needs one place in the world to be decided is decided in
//! an object. The directory is the authority on who may register and under which name; a device's
//! object knows only its sockets, a room only who is in it.
//!
//! [`directory`] and [`device`] are how the objects are asked from outside; so no object needs to
//! know another one's inside.
//!
//! Between the two, so that strangers wake no objects: [`signed`] proofs, the [`allowance`] of an
//! address, and the [`roster`], a copy of what the directory knows.
//!
//! Files that decide without doing I/O, and are tested natively: [`routes`], [`origin`], [`signed`],
//! [`owner`], [`cross_origin`], [`policy`], [`problem`], [`enrolment_code`], [`limits`], [`lineage`], [`calls`], [`attachment`].

pub mod allowance;
pub mod attachment;
pub mod calls;
pub mod clock;
pub mod cross_origin;
pub mod device;
pub mod device_object;
pub mod directory;
pub mod directory_object;
pub mod enrolment_code;
pub mod frontend;
pub mod ice;
pub mod limits;
pub mod lineage;
mod log;
pub mod openapi;
pub mod origin;
pub mod owner;
pub mod policy;
pub mod problem;
pub mod relay_object;
pub mod role;
pub mod roster;
pub mod routes;
pub mod signed;
pub mod tally;
