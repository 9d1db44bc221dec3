//! What a datagram on the agent's socket is, by its first byte (RFC 9443).

pub(super) fn is_quic(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| matches!(first, 64..=127 | 192..=255))
}

pub(super) fn is_dtls(datagram: &[u8]) -> bool {
    datagram
        .first()
        .is_some_and(|first| matches!(first, 20..=63))
}
