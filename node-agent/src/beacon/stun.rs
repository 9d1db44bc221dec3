//! STUN binding requests (RFC 8489) on the beacon's port, of any kind of client.
//!
//! A success response is 12 bytes (IPv4) or 24 bytes (IPv6) larger than the smallest request: that
//! is in the nature of STUN, and each source gets 20 answers a second. Error responses, which are
//! larger, are sent only where the request was at least as large.

use std::net::SocketAddr;

use stun_types::attribute::{Attribute as _, AttributeType, XorMappedAddress};
use stun_types::message::{BINDING, Message, MessageClass, MessageWriteVec};
use stun_types::prelude::{MessageWrite as _, MessageWriteExt as _};

/// Bytes of the largest request that is looked at.
const MAX_REQUEST: usize = 548;

/// Is this to be taken for STUN? The first byte says so (RFC 9443).
pub(super) fn is_stun(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| *first < 4)
}

/// The answer to a binding request; `None` to everything else.
pub(super) fn answer(datagram: &[u8], from: SocketAddr) -> Option<Vec<u8>> {
    if datagram.len() > MAX_REQUEST {
        return None;
    }
    let request = Message::from_bytes(datagram).ok()?;
    if request.class() != MessageClass::Request || request.method() != BINDING {
        return None;
    }
    // Nothing that must be understood is: credentials (RFC 8489, 9), another answering address
    // (RFC 5780).
    let unknown: Vec<AttributeType> = request
        .iter_attributes()
        .map(|(_, attribute)| attribute.get_type())
        .filter(|kind| kind.comprehension_required())
        .collect();
    if !unknown.is_empty() {
        let answer =
            Message::unknown_attributes(&request, &unknown, MessageWriteVec::new()).finish();
        return (answer.len() <= datagram.len()).then_some(answer);
    }
    let mut answer = Message::builder_success(&request, MessageWriteVec::new());
    let mapped = XorMappedAddress::new(from, request.transaction_id());
    answer.add_attribute(&mapped).ok()?;
    Some(answer.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Vec<u8> {
        Message::builder_request(BINDING, MessageWriteVec::new()).finish()
    }

    #[test]
    fn tells_where_a_request_came_from_and_adds_little() {
        for (from, added) in [("202.204.16.13:41000", 12), ("[2001:db8::3]:443", 24)] {
            let from: SocketAddr = from.parse().unwrap();
            let request = request();
            let answer = answer(&request, from).unwrap();
            assert_eq!(answer.len(), request.len() + added);
            let answer = Message::from_bytes(&answer).unwrap();
            assert_eq!(answer.class(), MessageClass::Success);
            let mapped = answer.attribute::<XorMappedAddress>().unwrap();
            assert_eq!(mapped.addr(answer.transaction_id()), from);
        }
    }

    #[test]
    fn answers_nothing_else_and_never_with_a_larger_error() {
        let from = "202.204.16.13:41000".parse().unwrap();
        let asked = request();
        let reply = answer(&asked, from).unwrap();
        assert_eq!(answer(&reply, from), None, "a response");
        for len in 0..asked.len() {
            assert_eq!(answer(&asked[..len], from), None, "cut at {len}");
        }
        // CHANGE-REQUEST (RFC 5780) must be understood; the error does not fit.
        let mut change = asked.clone();
        change[3] = 8;
        change.extend([0, 3, 0, 4, 0, 0, 0, 6]);
        assert_eq!(answer(&change, from), None);
        // With padding (SOFTWARE, optional) it does.
        change[3] = 8 + 104;
        change.extend([0x80, 0x22, 0, 100]);
        change.resize(20 + 8 + 104, b' ');
        let error = answer(&change, from).unwrap();
        assert!(error.len() <= change.len());
        assert_eq!(
            Message::from_bytes(&error).unwrap().class(),
            MessageClass::Error
        );
        assert_eq!(answer(&[0; 1200], from), None);
    }
}
