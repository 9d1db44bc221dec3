//! Path datagrams on the wire (§10): sealed with keys of the call, one counter per direction.

use std::fmt;
use std::net::SocketAddr;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use minicbor::{Decode, Encode};
use zeroize::ZeroizeOnDrop;

use crate::candidate::Candidate;
use crate::cbor;
use crate::receipt::Nat;

/// Tells a path datagram from STUN, DTLS and QUIC on the same port (RFC 9443).
pub const FIRST_BYTE: u8 = 0x08;
/// Bytes that sealing adds to a QUIC datagram.
pub const OVERHEAD: usize = HEADER + 1 + TAG;
/// Bytes of a path datagram that is as long as the longest which every path has to take: a sealed QUIC
/// datagram of 1,200 bytes (RFC 9000, 14).
pub const FULL: usize = 1200 + OVERHEAD;

const HEADER: usize = 13;
const TAG: usize = 16;
const PING: u8 = 1;
const PONG: u8 = 2;
const HANDSHAKE: u8 = 3;
const WHEREABOUTS: u8 = 4;
const NOTED: u8 = 5;

/// Which end of the call this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Device,
    Caller,
}

/// The keys of a link's path datagrams, known to its two ends only.
#[derive(Clone, ZeroizeOnDrop)]
pub struct PathKeys {
    tag: [u8; 8],
    device: [u8; 32],
    caller: [u8; 32],
}

impl PathKeys {
    pub(crate) fn new(tag: [u8; 8], device: [u8; 32], caller: [u8; 32]) -> Self {
        Self {
            tag,
            device,
            caller,
        }
    }

    /// What the link's path datagrams carry in the clear, for finding the link they belong to.
    pub fn tag(&self) -> [u8; 8] {
        self.tag
    }

    fn sending(&self, role: Role) -> &[u8; 32] {
        match role {
            Role::Device => &self.device,
            Role::Caller => &self.caller,
        }
    }
}

impl fmt::Debug for PathKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PathKeys([redacted])")
    }
}

/// The link tag of what looks like a path datagram.
pub fn link_tag(datagram: &[u8]) -> Option<[u8; 8]> {
    if datagram.first() != Some(&FIRST_BYTE) || datagram.len() < OVERHEAD {
        return None;
    }
    datagram[1..9].try_into().ok()
}

/// Where a peer may be reached now, told to the other end when it has changed.
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub(super) struct Whereabouts {
    /// Higher than those before.
    #[n(0)]
    pub(super) serial: u32,
    #[n(1)]
    pub(super) candidates: Vec<Candidate>,
    #[cbor(n(2), default)]
    pub(super) nat: Nat,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Message {
    Ping([u8; 8]),
    /// The ping's nonce and the address that the ping came from. Both may be padded.
    Pong([u8; 8], SocketAddr),
    Handshake(Vec<u8>),
    Whereabouts(Whereabouts),
    /// The whereabouts of that serial have arrived.
    Noted(u32),
    /// A kind of a later version, or a body of the wrong length.
    Unknown,
}

impl Message {
    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Ping(nonce) => [&[PING], nonce.as_slice()].concat(),
            Self::Pong(nonce, seen) => {
                let ip = match seen.ip() {
                    std::net::IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                    std::net::IpAddr::V6(ip) => ip,
                };
                [
                    &[PONG],
                    nonce.as_slice(),
                    &ip.octets(),
                    &seen.port().to_be_bytes(),
                ]
                .concat()
            }
            Self::Handshake(quic) => [&[HANDSHAKE], quic.as_slice()].concat(),
            Self::Whereabouts(body) => {
                let mut out = vec![WHEREABOUTS];
                cbor::encode_into(body, &mut out);
                out
            }
            Self::Noted(serial) => [&[NOTED], serial.to_be_bytes().as_slice()].concat(),
            Self::Unknown => Vec::new(),
        }
    }

    fn decode(plaintext: &[u8]) -> Self {
        match plaintext.split_first() {
            Some((&PING, body)) => match body.split_first_chunk() {
                Some((nonce, _)) => Self::Ping(*nonce),
                None => Self::Unknown,
            },
            Some((&PONG, body)) if body.len() >= 26 => {
                let (nonce, seen) = body[..26].split_at(8);
                match crate::candidate::address::from_bytes(seen) {
                    Some(seen) => Self::Pong(nonce.try_into().expect("split at 8"), seen),
                    None => Self::Unknown,
                }
            }
            Some((&HANDSHAKE, quic)) => Self::Handshake(quic.to_vec()),
            Some((&WHEREABOUTS, body)) => {
                cbor::decode(body).map_or(Self::Unknown, Self::Whereabouts)
            }
            Some((&NOTED, serial)) => serial.try_into().map_or(Self::Unknown, |serial| {
                Self::Noted(u32::from_be_bytes(serial))
            }),
            _ => Self::Unknown,
        }
    }
}

/// Seals what this end sends.
pub(super) struct Sealer {
    tag: [u8; 8],
    cipher: ChaCha20Poly1305,
    counter: u32,
}

impl Sealer {
    pub(super) fn new(keys: &PathKeys, role: Role) -> Self {
        Self {
            tag: keys.tag,
            cipher: ChaCha20Poly1305::new(keys.sending(role).into()),
            counter: 0,
        }
    }

    /// A ping or a pong is padded with zeros to a datagram of `length` bytes; 0 is right for the rest.
    /// `None` once 2³² datagrams have been sealed: a nonce is never used twice.
    pub(super) fn seal(&mut self, message: &Message, length: usize) -> Option<Vec<u8>> {
        let next = self.counter.checked_add(1)?;
        let mut datagram = Vec::with_capacity(length.max(64));
        datagram.push(FIRST_BYTE);
        datagram.extend_from_slice(&self.tag);
        datagram.extend_from_slice(&self.counter.to_be_bytes());
        let mut plaintext = message.encode();
        let padded = length.saturating_sub(HEADER + TAG);
        plaintext.resize(plaintext.len().max(padded), 0);
        let payload = Payload {
            msg: &plaintext,
            aad: &datagram,
        };
        let sealed = self.cipher.encrypt(&nonce(self.counter), payload).ok()?;
        datagram.extend_from_slice(&sealed);
        self.counter = next;
        Some(datagram)
    }
}

/// Opens what the other end sends, each datagram once.
pub(super) struct Opener {
    tag: [u8; 8],
    cipher: ChaCha20Poly1305,
    window: Window,
}

impl Opener {
    pub(super) fn new(keys: &PathKeys, role: Role) -> Self {
        let peer = match role {
            Role::Device => Role::Caller,
            Role::Caller => Role::Device,
        };
        Self {
            tag: keys.tag,
            cipher: ChaCha20Poly1305::new(keys.sending(peer).into()),
            window: Window::default(),
        }
    }

    /// `None` for what is not authentic or was seen before.
    pub(super) fn open(&mut self, datagram: &[u8]) -> Option<Message> {
        if link_tag(datagram)? != self.tag {
            return None;
        }
        let (header, sealed) = datagram.split_at(HEADER);
        let counter = u32::from_be_bytes(header[9..].try_into().ok()?);
        if self.window.has_seen(counter) {
            return None;
        }
        let plaintext = self
            .cipher
            .decrypt(
                &nonce(counter),
                Payload {
                    msg: sealed,
                    aad: header,
                },
            )
            .ok()?;
        self.window.see(counter);
        Some(Message::decode(&plaintext))
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sealer(counter {})", self.counter)
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Opener({:?})", self.window)
    }
}

fn nonce(counter: u32) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[8..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// Which counters were seen: a sliding window of 1,024.
#[derive(Debug, Default)]
struct Window {
    /// One above the highest counter seen.
    top: u64,
    bits: [u64; 16],
}

impl Window {
    const SIZE: u64 = 1024;

    fn has_seen(&self, counter: u32) -> bool {
        let counter = u64::from(counter);
        if counter >= self.top {
            return false;
        }
        counter + Self::SIZE < self.top || self.bits[Self::word(counter)] & Self::bit(counter) != 0
    }

    fn see(&mut self, counter: u32) {
        let counter = u64::from(counter);
        if counter >= self.top {
            let start = self.top.max((counter + 1).saturating_sub(Self::SIZE));
            for skipped in start..=counter {
                self.bits[Self::word(skipped)] &= !Self::bit(skipped);
            }
            self.top = counter + 1;
        }
        self.bits[Self::word(counter)] |= Self::bit(counter);
    }

    fn word(counter: u64) -> usize {
        (counter % Self::SIZE / 64) as usize
    }

    fn bit(counter: u64) -> u64 {
        1 << (counter % 64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> PathKeys {
        PathKeys::new([7; 8], [1; 32], [2; 32])
    }

    #[test]
    fn opens_once_and_only_what_the_other_end_sealed() {
        let mut sealer = Sealer::new(&keys(), Role::Device);
        let datagram = sealer.seal(&Message::Ping([9; 8]), 0).unwrap();
        let mut caller = Opener::new(&keys(), Role::Caller);
        assert_eq!(caller.open(&datagram), Some(Message::Ping([9; 8])));
        assert_eq!(caller.open(&datagram), None, "a replay is dropped");
        assert_eq!(
            Opener::new(&keys(), Role::Device).open(&datagram),
            None,
            "a reflection is dropped"
        );
        for at in 0..datagram.len() {
            let mut altered = sealer.seal(&Message::Ping([9; 8]), 0).unwrap();
            altered[at] ^= 1;
            assert_eq!(caller.open(&altered), None, "byte {at}");
            assert_eq!(caller.open(&altered[..at]), None, "cut at {at}");
        }
    }

    #[test]
    fn padding_changes_the_length_and_nothing_else() {
        let seen = "4.17.168.2:20000".parse().unwrap();
        let mut sealer = Sealer::new(&keys(), Role::Device);
        let mut caller = Opener::new(&keys(), Role::Caller);
        for message in [Message::Ping([9; 8]), Message::Pong([9; 8], seen)] {
            let short = sealer.seal(&message, 0).unwrap();
            for length in [0, short.len(), short.len() + 1, FULL] {
                let padded = sealer.seal(&message, length).unwrap();
                assert_eq!(padded.len(), length.max(short.len()));
                assert_eq!(caller.open(&padded), Some(message.clone()));
            }
        }
    }

    #[test]
    fn the_window_takes_reordering_and_no_replay() {
        let mut window = Window::default();
        for counter in [5, 3, 4, 2000, 1500, 977, 0x1_0000] {
            assert!(!window.has_seen(counter), "{counter}");
            window.see(counter);
            assert!(window.has_seen(counter), "{counter}");
        }
        assert!(window.has_seen(3), "too old counts as seen");
        assert!(!window.has_seen(0x1_0000 - 1));
    }

    #[test]
    fn a_sealed_initial_fits_the_smallest_ipv6_path() {
        const { assert!(FULL <= 1280 - 40 - 8) };
    }
}
