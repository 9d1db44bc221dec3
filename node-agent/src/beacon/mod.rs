//! The beacon (PROTOCOL §16): the UDP front that an owner runs, and the device that lives on one.
//!
//! At the beacon everything meets in one task, [`front::serve`]: datagrams by UDP and TCP, and what
//! the registry's socket says; the protocol's [`Front`](ringback_protocol::beacon::Front) decides,
//! and so nothing is shared or locked. On a device [`device::stay_on_beacon`] takes the place of the
//! registry's socket.

pub(crate) mod device;
pub(crate) mod front;
mod gateway;
mod registry;
mod requests;
mod stun;
mod tcp;
mod udp;
