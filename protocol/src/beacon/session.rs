//! The keys between a device and a beacon (§16.2), and datagrams sealed with them. Both identities
//! are proven by the Diffie–Hellman of the two static keys; nonce and cookie make the keys new for
//! each session, so that no counter has to outlive a restart.

use std::fmt;

use chacha20poly1305::aead::{Aead as _, KeyInit as _, Payload};
use chacha20poly1305::{ChaCha20Poly1305, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::Zeroizing;

use super::FIRST_BYTE;
use super::datagram::{BODY, Body, PROBE, PROBE_BODY, REGISTER, REGISTER_HEADER, SESSION_HEADER};
use crate::{PeerId, label};

/// Which end of the session this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Device,
    Beacon,
}

/// One end of a session between a device and a beacon.
pub(super) struct Session {
    tag: [u8; 8],
    sealing: ChaCha20Poly1305,
    opening: ChaCha20Poly1305,
    /// Of the next datagram that is sealed.
    counter: u64,
    seen: Seen,
}

/// A datagram that was opened.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opened {
    pub(super) body: Body,
    pub(super) counter: u64,
    /// No later one was opened before: only such a one may tell of a new address.
    pub(super) newest: bool,
}

/// Why a datagram was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unopened {
    Forged,
    Replayed,
}

impl Session {
    pub(super) fn new(
        end: End,
        shared: &[u8; 32],
        device: &PeerId,
        beacon: &PeerId,
        nonce: &[u8; 16],
        cookie: &[u8; 32],
    ) -> Self {
        let salt = [&nonce[..], cookie].concat();
        let info = label::join(label::BEACON, &[device.as_bytes(), beacon.as_bytes()]);
        let mut keys = Zeroizing::new([0; 72]);
        Hkdf::<Sha256>::new(Some(&salt), shared)
            .expand(&info, keys.as_mut_slice())
            .expect("72 bytes are few");
        let key = |at: usize| {
            let key: &[u8; 32] = keys[at..at + 32].try_into().expect("32 bytes");
            ChaCha20Poly1305::new(key.into())
        };
        let (by_device, by_beacon) = (key(8), key(40));
        let (sealing, opening) = match end {
            End::Device => (by_device, by_beacon),
            End::Beacon => (by_beacon, by_device),
        };
        Self {
            tag: keys[..8].try_into().expect("8 bytes"),
            sealing,
            opening,
            counter: 0,
            seen: Seen::default(),
        }
    }

    pub(super) fn tag(&self) -> [u8; 8] {
        self.tag
    }

    /// A datagram of this session, and its counter.
    pub(super) fn seal(&mut self, kind: u8, body: &Body) -> (Vec<u8>, u64) {
        let len = if kind == PROBE { PROBE_BODY } else { BODY };
        let mut datagram = Vec::with_capacity(SESSION_HEADER + len + 16);
        datagram.extend_from_slice(&[FIRST_BYTE, kind]);
        datagram.extend_from_slice(&self.tag);
        self.seal_onto(datagram, body, len)
    }

    /// The datagram that starts this session at the beacon.
    pub(super) fn seal_register(
        &mut self,
        device: &PeerId,
        nonce: &[u8; 16],
        cookie: &[u8; 32],
        interval_s: u16,
    ) -> (Vec<u8>, u64) {
        let header = [
            &[FIRST_BYTE, REGISTER][..],
            device.as_bytes(),
            nonce,
            cookie,
        ]
        .concat();
        self.seal_onto(header, &Body::Interval(interval_s), BODY)
    }

    fn seal_onto(&mut self, mut datagram: Vec<u8>, body: &Body, len: usize) -> (Vec<u8>, u64) {
        let counter = self.counter;
        self.counter += 1;
        datagram.extend_from_slice(&counter.to_be_bytes());
        let payload = Payload {
            msg: &body.encode(len),
            aad: &datagram,
        };
        let sealed = self.sealing.encrypt(&nonce(counter), payload);
        datagram.extend_from_slice(&sealed.expect("small enough"));
        (datagram, counter)
    }

    /// Opens what the other end has sealed, each datagram once. `datagram` has the length of its
    /// type.
    pub(super) fn open(&mut self, kind: u8, datagram: &[u8]) -> Result<Opened, Unopened> {
        let header_len = if kind == REGISTER {
            REGISTER_HEADER
        } else {
            SESSION_HEADER
        };
        let (header, sealed) = datagram.split_at(header_len);
        let counter = u64::from_be_bytes(*header.last_chunk().expect("a header is longer"));
        if self.seen.has(counter) {
            return Err(Unopened::Replayed);
        }
        let payload = Payload {
            msg: sealed,
            aad: header,
        };
        let plain = self
            .opening
            .decrypt(&nonce(counter), payload)
            .map_err(|_| Unopened::Forged)?;
        let body = Body::decode(kind, &plain).ok_or(Unopened::Forged)?;
        let newest = self.seen.note(counter);
        Ok(Opened {
            body,
            counter,
            newest,
        })
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Session(counter {})", self.counter)
    }
}

fn nonce(counter: u64) -> Nonce {
    let mut nonce = Nonce::default();
    nonce[4..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// Which counters were seen: the highest and the 64 below it.
#[derive(Debug, Default)]
struct Seen {
    /// One above the highest.
    top: u64,
    /// Bit 0 is the highest.
    bits: u64,
}

impl Seen {
    fn has(&self, counter: u64) -> bool {
        let Some(below) = self.top.checked_sub(counter).filter(|below| *below > 0) else {
            // The last counter can not be told from those behind it.
            return counter == u64::MAX;
        };
        below > 64 || self.bits & (1 << (below - 1)) != 0
    }

    /// True if it is the highest so far.
    fn note(&mut self, counter: u64) -> bool {
        if counter >= self.top {
            let up = counter + 1 - self.top;
            self.bits = if up >= 64 { 0 } else { self.bits << up };
            self.bits |= 1;
            self.top = counter + 1;
            return true;
        }
        self.bits |= 1 << (self.top - counter - 1);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;
    use crate::beacon::datagram::{KEEPALIVE, REGISTERED};

    fn pair() -> (Session, Session) {
        let (device, beacon) = (
            SecretKey::from_seed(&[1; 32]),
            SecretKey::from_seed(&[2; 32]),
        );
        let end = |end, own: &SecretKey, peer: &SecretKey| {
            let shared = own.agree(&peer.id());
            Session::new(end, &shared, &device.id(), &beacon.id(), &[3; 16], &[4; 32])
        };
        (
            end(End::Device, &device, &beacon),
            end(End::Beacon, &beacon, &device),
        )
    }

    #[test]
    fn opens_once_and_only_what_the_other_end_sealed() {
        let (mut device, mut beacon) = pair();
        let body = Body::Interval(25);
        let (datagram, counter) = device.seal(KEEPALIVE, &body);
        assert_eq!(counter, 0);
        let opened = beacon.open(KEEPALIVE, &datagram).unwrap();
        assert_eq!((opened.body, opened.newest), (body, true));
        assert_eq!(beacon.open(KEEPALIVE, &datagram), Err(Unopened::Replayed));
        // A reflection, and another type of the same length.
        assert_eq!(device.open(KEEPALIVE, &datagram), Err(Unopened::Forged));
        let (mut datagram, _) = device.seal(KEEPALIVE, &body);
        datagram[1] = REGISTERED;
        assert_eq!(beacon.open(REGISTERED, &datagram), Err(Unopened::Forged));
        for at in 2..datagram.len() {
            let (mut datagram, _) = device.seal(KEEPALIVE, &body);
            datagram[at] ^= 1;
            assert!(beacon.open(KEEPALIVE, &datagram).is_err(), "byte {at}");
        }
    }

    #[test]
    fn the_window_takes_reordering_and_no_replay() {
        let mut seen = Seen::default();
        for (counter, newest) in [(5, true), (3, false), (4, false), (70, true), (7, false)] {
            assert!(!seen.has(counter), "{counter}");
            assert_eq!(seen.note(counter), newest, "{counter}");
            assert!(seen.has(counter), "{counter}");
        }
        assert!(seen.has(6), "too old counts as seen");
        assert!(!seen.has(8));
        seen.note(1000);
        assert!(seen.has(70) && !seen.has(999) && !seen.has(1001));
        assert!(seen.has(u64::MAX));
    }
}
