//! Requests on the LAN (§17): what the device advertises by mDNS, and the request's framing on TCP.

use crate::envelope::MAX_ENVELOPE;
use crate::frame::length_prefixed;
use crate::{PeerId, label};

/// The DNS-SD service type. It is of `_udp` since that is what a link uses; its port is a TCP port.
pub const SERVICE_TYPE: &str = "_ringback._udp.local.";
/// First byte of a request; path datagrams on the same port start with another one (§10).
pub const REQUEST: u8 = 0x0a;
/// Bytes of the largest first frame: the byte above and an envelope.
pub const MAX_REQUEST: usize = 1 + MAX_ENVELOPE;

/// The instance name of a device: whoever knows the device's ID finds it, and who does not learns
/// nothing from it.
pub fn instance(device: &PeerId) -> String {
    let digest = label::sha256(device.as_bytes());
    digest[..8]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

/// The envelope as the first frame of a TCP connection.
pub fn encode_request(envelope: &[u8]) -> Vec<u8> {
    length_prefixed(&[&[REQUEST], envelope].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SecretKey;

    #[test]
    fn the_instance_is_the_start_of_the_ids_hash() {
        let device = SecretKey::from_seed(&[0xd0; 32]).id();
        assert_eq!(instance(&device), "f8dda84490292405");
    }

    #[test]
    fn a_request_has_a_length_and_a_first_byte() {
        assert_eq!(encode_request(&[7, 8]), [0, 3, 0x0a, 7, 8]);
    }
}
