//! The core on wasm32, as the registry and the browser run it: the same bytes as everywhere else.
//!
//! There is no test harness here: `wasm-bindgen-test-runner` finds the tests by their exports, and a
//! standard library for wasm32 need not come with the `test` crate. Elsewhere this file is empty.

#[cfg(target_arch = "wasm32")]
mod vector;

fn main() {}

#[cfg(target_arch = "wasm32")]
mod tests {
    use std::time::Duration;

    use crate::vector::{self, bytes, device, psk, reply, request};
    use ringback_protocol::Code;
    use ringback_protocol::admission::Admission;
    use ringback_protocol::candidate::{Candidate, Kind};
    use ringback_protocol::channel::Channel;
    use ringback_protocol::envelope::{Envelope, Proof};
    use ringback_protocol::frame::Frame;
    use ringback_protocol::path::{PathSet, Received, Role, Via};
    use ringback_protocol::refusal::Refusal;
    use ringback_protocol::registration::{sign_challenge, verify_challenge};
    use ringback_protocol::secret::{PASSWORD_ID, Psk};
    use ringback_protocol::stream::Open;
    use wasm_bindgen_test::wasm_bindgen_test;

    #[wasm_bindgen_test]
    fn password() {
        let derived = Psk::from_password(vector::PASSWORD, &device().id()).expect("a password");
        assert_eq!(hex::encode(derived.as_bytes()), vector::PSK);
    }

    #[wasm_bindgen_test]
    fn envelope_and_reply() {
        let (envelope, at_caller) = vector::seal();
        assert_eq!(hex::encode(envelope.encode()), vector::ENVELOPE);
        let (by_key, _) = vector::seal_with(Proof::Key);
        assert_eq!(hex::encode(by_key.encode()), vector::ENVELOPE_BY_KEY);
        let (opened, at_device) = Envelope::decode(&bytes(vector::ENVELOPE))
            .expect("an envelope")
            .open(&device(), Some(&psk()))
            .expect("it opens");
        assert_eq!(opened, request());
        assert_eq!(hex::encode(at_device.reply.seal(&reply())), vector::REPLY);
        assert_eq!(
            at_caller.reply.open(&bytes(vector::REPLY), &request().id),
            Ok(reply())
        );
    }

    #[wasm_bindgen_test]
    fn browsers_description() {
        let encoded = minicbor::to_vec(vector::browser_request()).expect("CBOR");
        assert_eq!(hex::encode(encoded), vector::BROWSER_REQUEST);
        let reply = minicbor::decode(&bytes(vector::BROWSER_REPLY)).expect("a reply");
        assert_eq!(vector::browser_reply(), reply);
    }

    #[wasm_bindgen_test]
    fn a_stream_on_a_channel() {
        let open = Open::new("ssh");
        let (mut caller, mut device) = (Channel::caller(&open), Channel::device());
        caller.write(b"hi");
        caller.finish();
        while let Some(message) = caller.poll_message() {
            device.handle_message(&message).expect("in order");
        }
        assert_eq!(
            device.header().map(|frame| Open::decode(&frame)),
            Some(Ok(open))
        );
        assert_eq!(device.read().as_deref(), Some(&b"hi"[..]));
        assert!(device.received_end());
    }

    #[wasm_bindgen_test]
    fn admission_and_refusal() {
        let mut admission = Admission::new(device(), vector::ISSUED_AT);
        admission.set_secret(PASSWORD_ID, psk());
        let envelope = bytes(vector::ENVELOPE);
        let admitted = admission
            .admit(&envelope, vector::ISSUED_AT + 1)
            .expect("admitted");
        assert_eq!(admitted.request, request());
        let refused = admission
            .admit(&envelope, vector::ISSUED_AT + 1)
            .expect_err("a replay");
        assert_eq!(refused.code, Code::Replayed);
        assert!(Refusal::decode(&bytes(vector::REFUSAL), &device().id(), &envelope).is_ok());
    }

    #[wasm_bindgen_test]
    fn registration() {
        let Ok(Frame::Challenge(challenge)) = Frame::decode(&bytes(vector::CHALLENGE)) else {
            panic!("a challenge");
        };
        let signature = sign_challenge(&device(), &challenge.nonce, vector::ORIGIN);
        assert_eq!(hex::encode(signature), vector::REGISTER_SIGNATURE);
        assert!(verify_challenge(
            &device().id(),
            &challenge.nonce,
            vector::ORIGIN,
            &signature
        ));
    }

    #[wasm_bindgen_test]
    fn path_datagrams() {
        let (_, keys) = vector::seal();
        let to_caller = vector::address(vector::CALLER_PUBLIC_ADDRESS);
        let mut from_device = PathSet::new(
            Role::Device,
            &keys.path,
            vector::DEVICE_PATH_SEED,
            &[Candidate::udp(Kind::ServerReflexive, to_caller)],
            Duration::ZERO,
        );
        let ping = from_device.poll_transmit().expect("a ping");
        assert_eq!(hex::encode(ping.datagram), vector::PING);
        from_device.send_handshake(&bytes(vector::QUIC_INITIAL));
        let handshake = from_device.poll_transmit().expect("a handshake");
        assert_eq!(hex::encode(handshake.datagram), vector::HANDSHAKE);
        let now = Duration::from_millis(20);
        assert_eq!(
            from_device.handle_datagram(Via::udp(to_caller), &bytes(vector::PONG), now),
            Received::Authentic
        );
        assert_eq!(from_device.rtt(), Some(now));
    }

    #[wasm_bindgen_test]
    fn beacon_datagrams() {
        use crate::vector::beacon as expected;
        use ringback_protocol::beacon::{Device, DeviceOutput};
        let beacon = ringback_protocol::SecretKey::from_seed(&[0xbe; 32]).id();
        let interval = Duration::from_secs(25);
        let mut client = Device::new(device(), beacon, interval, [0x5e; 32], Duration::ZERO);
        let sent = |text| Some(DeviceOutput::Send(bytes(text)));
        assert_eq!(client.poll_output(), sent(expected::HELLO));
        client.handle_datagram(&bytes(expected::COOKIE), interval);
        assert_eq!(client.poll_output(), sent(expected::REGISTER));
    }
}
