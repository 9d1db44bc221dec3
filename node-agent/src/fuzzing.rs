//! What the fuzz targets reach of this crate. Compiled with `--cfg fuzzing` only.

use std::net::SocketAddr;

/// Transaction and mapped address of an answer to a STUN question.
pub fn stun_answer(datagram: &[u8]) -> Option<(u128, SocketAddr)> {
    crate::endpoint::read_stun_answer(datagram)
}

/// For whom an ICE check is.
pub fn ice_name(datagram: &[u8]) -> Option<&str> {
    crate::rtc::check_name(datagram)
}
