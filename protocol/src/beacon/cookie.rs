//! Cookies (§16.2): whoever sends one back receives at the address that it was made for. The
//! beacon keeps nothing for it but one secret.

use std::net::SocketAddr;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use super::datagram::address_bytes;
use crate::label;

/// How long a cookie is good.
const LIFETIME: Duration = Duration::from_secs(60);

/// The secret of one run of a beacon.
pub(super) struct Baker(Hmac<Sha256>);

impl Baker {
    pub(super) fn new(secret: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(secret).expect("any length will do"))
    }

    /// 8 bytes of time in microseconds, 24 of a MAC over label, time, address and nonce.
    pub(super) fn bake(&self, to: SocketAddr, nonce: &[u8; 16], now: Duration) -> [u8; 32] {
        let time = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        let mut cookie = [0; 32];
        cookie[..8].copy_from_slice(&time.to_be_bytes());
        cookie[8..].copy_from_slice(&self.mac(time, to, nonce));
        cookie
    }

    /// When the cookie was made, if it was made here for this address and nonce and is still good.
    pub(super) fn check(
        &self,
        cookie: &[u8; 32],
        from: SocketAddr,
        nonce: &[u8; 16],
        now: Duration,
    ) -> Option<u64> {
        let (time, mac) = cookie.split_first_chunk::<8>()?;
        let time = u64::from_be_bytes(*time);
        let age = now.checked_sub(Duration::from_micros(time))?;
        if age > LIFETIME {
            return None;
        }
        // A MAC of its own compares in constant time.
        let expected = self.mac(time, from, nonce);
        let differs = expected
            .iter()
            .zip(mac)
            .fold(0, |all, (a, b)| all | (a ^ b));
        (std::hint::black_box(differs) == 0).then_some(time)
    }

    fn mac(&self, time: u64, address: SocketAddr, nonce: &[u8; 16]) -> [u8; 24] {
        let mut mac = self.0.clone();
        mac.update(&label::join(
            label::COOKIE,
            &[&time.to_be_bytes(), &address_bytes(address), nonce],
        ));
        let whole: [u8; 32] = mac.finalize().into_bytes().into();
        *whole.first_chunk().expect("32 bytes")
    }
}

impl std::fmt::Debug for Baker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Baker([redacted])")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_good_for_one_address_one_nonce_and_a_minute() {
        let baker = Baker::new(&[7; 32]);
        let address = "202.204.16.13:41000".parse().unwrap();
        let other = "202.204.16.13:41001".parse().unwrap();
        let now = Duration::from_secs(100);
        let cookie = baker.bake(address, &[1; 16], now);
        let later = now + LIFETIME;
        assert_eq!(
            baker.check(&cookie, address, &[1; 16], later),
            Some(100_000_000)
        );
        assert_eq!(baker.check(&cookie, other, &[1; 16], now), None);
        assert_eq!(baker.check(&cookie, address, &[2; 16], now), None);
        let too_late = later + Duration::from_micros(1);
        assert_eq!(baker.check(&cookie, address, &[1; 16], too_late), None);
        let before = now - Duration::from_micros(1);
        assert_eq!(baker.check(&cookie, address, &[1; 16], before), None);
        assert_eq!(
            Baker::new(&[8; 32]).check(&cookie, address, &[1; 16], now),
            None
        );
        for bit in 0..256 {
            let mut forged = cookie;
            forged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(baker.check(&forged, address, &[1; 16], now), None, "{bit}");
        }
    }
}
