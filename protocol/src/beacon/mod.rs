//! The beacon (§16): registration and notification over UDP, for devices that hold no connection
//! to the registry, and a relay on a machine of the owner's.
//!
//! Protocol flow, device: `Hello` → `Cookie` ← · `Register` → `Registered` ← · then `Keepalive` →
//! `Registered` ← each interval, `Notify` ← `Notified` → when somebody rings, `Probe` → `Probed` ←
//! `Probed` ← from a socket of its own, and `Leave` → at the end.
//! Relay: `Hello` → `Cookie` ← · `Join` → `Joined` ← · then bare datagrams both ways, and
//! `RelayPing` → `Joined` ←.
//!
//! [`Device`] and [`Member`] are the two clients' sides, [`Front`] is the beacon's. Contact with an
//! address that the beacon does not know costs it no state and no public-key operation, and no
//! answer is larger than what asked for it.

mod cookie;
pub mod datagram;
mod device;
mod front;
mod interval;
mod member;
mod session;

pub use datagram::Standing;
pub use device::{Device, Output as DeviceOutput};
pub use front::{Config, Counters, Front, RelayConfig, Report, Source};
pub use interval::{Action as SearchAction, Search};
pub use member::{Member, Output as MemberOutput};

/// Tells the beacon's datagrams from QUIC, STUN, DTLS and path datagrams on the same port.
pub const FIRST_BYTE: u8 = 0x09;
/// The shortest interval between two keepalives that a device chooses by itself.
pub const FLOOR: std::time::Duration = std::time::Duration::from_secs(25);
/// The longest interval that a beacon takes.
pub const MAX_INTERVAL: std::time::Duration = std::time::Duration::from_secs(600);
