//! Ringback's end-to-end tests, and the NAT lab they run in.
//!
//! [`lab`] builds a small internet out of network namespaces: two sites with overlapping LANs
//! behind real kernel NAT, a registry and a STUN server, and a core that can delay, lose, reorder
//! and duplicate what it forwards. It needs root on Linux, and the Debian packages in
//! [`lab::PACKAGES`].

pub mod lab;
