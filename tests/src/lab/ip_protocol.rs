//! IP protocol numbers (IANA), of those that the lab reads.

/// UDP.
pub const UDP: u8 = 17;
/// TCP.
pub const TCP: u8 = 6;
