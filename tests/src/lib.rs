//! Ringback's end-to-end tests, and the NAT lab they run in.
//!
//! [`lab`] builds a small internet out of network namespaces: two sites with overlapping LANs
//! behind real kernel NAT, a registry and a STUN server, and a core that can delay, lose, reorder
//! and duplicate what it forwards. It needs root on Linux, and the Debian packages in
//! [`lab::PACKAGES`]. On it stand the parts of the product: [`lab::registry`] is the worker on workerd
//! with TLS, [`agent`] the `ringback` binary as device and caller, [`case`] a call with a large file
//! through it; [`web_scene`] is the two around one service. What they are measured beside is in [`transfer`] (plain TCP) and [`quinn_stream`].
//!
//! [`registry`] is the worker alone, on the loopback, with clients that speak its protocol frame by
//! frame, and [`room`] its relay; [`liar`] stands in front of it and lies; [`loopback`] has real
//! agents there, [`place`] a device with services. [`browser`] is a real Chromium, on this host or
//! in the lab; [`rtc_caller`] is a browser's side of a call, where no browser is needed.

pub mod agent;
pub mod browser;
pub mod browser_case;
pub mod case;
pub mod download;
pub mod lab;
pub mod lan_site;
pub mod large_file;
pub mod liar;
pub mod loopback;
pub mod npm;
pub mod place;
pub mod profile;
pub mod quinn_stream;
pub mod registry;
pub mod room;
pub mod rtc_caller;
pub mod static_site;
pub mod transfer;
pub mod turn;
pub mod visit;
pub mod web_scene;
