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

/// What `ringback status` shows of a device that lives on a beacon.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct OnBeacon {
    pub(crate) id: ringback_protocol::PeerId,
    pub(crate) address: std::net::SocketAddr,
    /// Between two keepalives.
    pub(crate) interval_s: u64,
    /// A search for a longer interval is under way.
    pub(crate) searching: bool,
}
