//! A registry that lies: it sees every byte between caller and device and may alter, keep, repeat
//! and swap them. Each lie ends in the right error, on the side that can tell.

mod vector;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use ringback_protocol::admission::{Admission, Admitted};
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::envelope::{Envelope, Proof, Request};
use ringback_protocol::frame::{Answered, Challenge, Delivered, Failed, Frame, Refused};
use ringback_protocol::refusal::Refusal;
use ringback_protocol::registration::{Output, Registration, verify_challenge};
use ringback_protocol::reply::Reply;
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::{Code, PeerId, SecretKey};
use std::time::Duration;
use vector::{ISSUED_AT as NOW, caller, device, psk, reply, request};

fn stranger() -> SecretKey {
    SecretKey::from_seed(&[0x57; 32])
}

fn admission(device: SecretKey) -> Admission {
    let mut admission = Admission::new(device, NOW);
    admission.set_secret(PASSWORD_ID, psk());
    admission
}

fn ring_as(caller: &SecretKey, device: PeerId, id: u8, psk: &Psk) -> Call {
    let request = Request {
        id: [id; 16],
        ..request()
    };
    let psk_id = PASSWORD_ID;
    let mut rng = ChaCha8Rng::from_seed([id; 32]);
    Call::seal(
        &request,
        caller,
        device,
        Proof::Secret { psk_id, psk },
        &mut rng,
    )
    .expect("sealed")
}

fn ring(id: u8) -> Call {
    ring_as(&caller(), device().id(), id, &psk())
}

fn admit(call: &Call) -> Admitted {
    admission(device())
        .admit(call.envelope(), NOW)
        .expect("admitted")
}

fn answer(admitted: Admitted) -> Vec<u8> {
    admitted.keys.reply.seal(&Reply {
        request_id: admitted.request.id,
        ..reply()
    })
}

fn answered(call: &mut Call, reply: Vec<u8>) -> Outcome {
    end(
        call,
        Answered {
            call: 0,
            reply,
            ice: None,
        }
        .into(),
    )
}

fn refused(call: &mut Call, refusal: &Refusal) -> Outcome {
    let refusal = refusal.encode();
    end(call, Refused { call: 0, refusal }.into())
}

fn end(call: &mut Call, frame: Frame) -> Outcome {
    match call.handle_frame(frame) {
        Some(Progress::Ended(outcome)) => outcome,
        other => panic!("the call goes on: {other:?}"),
    }
}

fn is_misbehaviour(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::RegistryMisbehaved(_))
}

#[test]
fn an_honest_registry_is_believed() {
    let mut call = ring(1);
    let reply = answer(admit(&call));
    assert!(matches!(answered(&mut call, reply), Outcome::Accepted(_)));
    // What comes after the end changes nothing.
    let failed = Failed {
        call: 0,
        code: Code::Internal,
        detail: String::new(),
        retry_after_s: None,
        last_seen: None,
    };
    assert!(call.handle_frame(failed.into()).is_none());
    assert!(call.handle_frame(Delivered { call: 0 }.into()).is_none());
}

#[test]
fn an_altered_envelope_is_refused_by_the_device_and_the_refusal_does_not_fit() {
    let mut call = ring(1);
    let mut altered = call.envelope().to_vec();
    let at = altered.len() / 2;
    altered[at] ^= 0x20;
    let refusal = admission(device())
        .admit(&altered, NOW)
        .expect_err("refused");
    assert_eq!(refusal.code, Code::BadEnvelope);
    assert!(is_misbehaviour(&refused(&mut call, &refusal)));
}

/// The registry passes the caller's ciphertext off as its own, signed with a key of its own.
#[test]
fn an_envelope_under_another_callers_name_does_not_open() {
    let call = ring(1);
    let own = ring_as(&stranger(), device().id(), 1, &psk());
    let mut stolen = call.envelope().to_vec();
    let genuine = Envelope::decode(call.envelope()).expect("an envelope");
    let caller_at = find(&stolen, genuine.caller.as_bytes());
    stolen[caller_at..caller_at + 32].copy_from_slice(stranger().id().as_bytes());
    assert_eq!(
        admission(device())
            .admit(&stolen, NOW)
            .expect_err("refused")
            .code,
        Code::BadEnvelope,
        "the signature is not the stranger's"
    );
    // With the stranger's signature over the stolen parts, HPKE still knows who sealed it.
    let enc_and_ciphertext = find(&stolen, &[0x04, 0x58, 0x20])..stolen.len() - 67;
    let mut resigned = own.envelope().to_vec();
    assert_eq!(resigned.len(), stolen.len());
    resigned[enc_and_ciphertext.clone()].copy_from_slice(&stolen[enc_and_ciphertext.clone()]);
    let enc = &stolen[enc_and_ciphertext.start + 3..enc_and_ciphertext.start + 35];
    let ciphertext = &stolen[enc_and_ciphertext.start + 35 + 3..enc_and_ciphertext.end];
    let psk_id_len = [PASSWORD_ID.len() as u8];
    let signed = [
        device().id().as_bytes().as_slice(),
        stranger().id().as_bytes(),
        &psk_id_len,
        PASSWORD_ID,
        enc,
        ciphertext,
    ]
    .concat();
    let signature = stranger().sign(ringback_protocol::label::ENVELOPE, &[&sha256(&signed)]);
    let at = resigned.len() - 64;
    resigned[at..].copy_from_slice(&signature);
    assert!(Envelope::decode(&resigned).is_ok(), "well signed");
    assert_eq!(
        admission(device())
            .admit(&resigned, NOW)
            .expect_err("refused")
            .code,
        Code::WrongPassword
    );
}

#[test]
fn an_envelope_delivered_to_another_device_is_refused() {
    let call = ring(1);
    let refusal = admission(stranger())
        .admit(call.envelope(), NOW)
        .expect_err("refused");
    assert_eq!(refusal.code, Code::BadEnvelope);
    let mut readdressed = call.envelope().to_vec();
    let device_at = find(&readdressed, device().id().as_bytes());
    readdressed[device_at..device_at + 32].copy_from_slice(stranger().id().as_bytes());
    let refusal = admission(stranger())
        .admit(&readdressed, NOW)
        .expect_err("refused");
    assert_eq!(refusal.code, Code::BadEnvelope);
}

/// An alias that leads to the registry's own device: it can not open the request without the
/// password, nor pass it on to the real device.
#[test]
fn an_impostor_behind_an_alias_learns_nothing_it_can_use() {
    let impostor = stranger();
    let mut call = ring_as(&caller(), impostor.id(), 1, &psk());
    let mut guessing = Admission::new(impostor.clone(), NOW);
    guessing.set_secret(PASSWORD_ID, Psk::from_bytes([0; 32]));
    let refusal = guessing.admit(call.envelope(), NOW).expect_err("refused");
    assert_eq!(refusal.code, Code::WrongPassword);
    assert_eq!(
        admission(device())
            .admit(call.envelope(), NOW)
            .expect_err("refused")
            .code,
        Code::BadEnvelope
    );
    // It can refuse, as the device that it is, and no more.
    assert!(matches!(refused(&mut call, &refusal), Outcome::Refused(_)));
}

#[test]
fn a_replayed_envelope_is_refused_while_it_lives_and_after() {
    let call = ring(1);
    let mut admission = admission(device());
    assert!(admission.admit(call.envelope(), NOW).is_ok());
    let replay = admission
        .admit(call.envelope(), NOW + 5)
        .expect_err("refused");
    assert_eq!(replay.code, Code::Replayed);
    let late = admission
        .admit(call.envelope(), NOW + 31)
        .expect_err("refused");
    assert_eq!(late.code, Code::Stale);
    let mut restarted = Admission::new(device(), NOW + 5);
    restarted.set_secret(PASSWORD_ID, psk());
    let early = restarted
        .admit(call.envelope(), NOW + 6)
        .expect_err("refused");
    assert_eq!(early.code, Code::Stale);
}

/// Keys that this version does not know may be added on the way. They move nothing: the reply
/// still fits, and a refusal is for what the device has received, so the caller sees the change.
#[test]
fn an_envelope_with_something_added_gains_nothing() {
    let mut call = ring(1);
    let mut added = call.envelope().to_vec();
    added[0] += 1;
    added.extend_from_slice(&[0x18, 0x64, 0x00]);
    let mut admission = admission(device());
    let admitted = admission.admit(&added, NOW).expect("admitted");
    assert_eq!(admitted.request.id, [1; 16]);
    let refusal = admission.admit(&added, NOW).expect_err("a replay");
    assert!(is_misbehaviour(&refused(&mut call, &refusal)));
}

#[test]
fn an_altered_reply_is_not_believed() {
    let mut call = ring(1);
    let mut reply = answer(admit(&call));
    let last = reply.len() - 1;
    reply[last] ^= 1;
    assert!(is_misbehaviour(&answered(&mut call, reply)));
}

#[test]
fn someone_elses_reply_is_not_believed() {
    let mut call = ring(1);
    let other = ring_as(&stranger(), device().id(), 1, &psk());
    let reply = answer(admit(&other));
    assert!(is_misbehaviour(&answered(&mut call, reply)));
}

#[test]
fn the_reply_of_an_earlier_call_is_not_believed() {
    let earlier = ring(1);
    let reply = answer(admit(&earlier));
    let mut call = ring(2);
    assert!(is_misbehaviour(&answered(&mut call, reply)));
}

#[test]
fn a_forged_refusal_is_not_believed() {
    let mut call = ring(1);
    let forged = Refusal::sign(&stranger(), call.envelope(), Code::WrongPassword, None, NOW);
    assert!(is_misbehaviour(&refused(&mut call, &forged)));
}

#[test]
fn a_refusal_of_another_call_is_not_believed() {
    let refused_call = ring_as(&caller(), device().id(), 1, &Psk::from_bytes([0; 32]));
    let refusal = admission(device())
        .admit(refused_call.envelope(), NOW)
        .expect_err("refused");
    let mut call = ring(2);
    assert!(is_misbehaviour(&refused(&mut call, &refusal)));
}

#[test]
fn a_refusal_with_another_code_time_or_wait_is_not_believed() {
    let call = || ring_as(&caller(), device().id(), 1, &Psk::from_bytes([0; 32]));
    let refusal = admission(device())
        .admit(call().envelope(), NOW)
        .expect_err("refused");
    assert!(matches!(
        refused(&mut call(), &refusal),
        Outcome::Refused(_)
    ));
    let alterations: [fn(&mut Refusal); 3] = [
        |refusal| refusal.code = Code::RateLimited,
        |refusal| refusal.time += 1,
        |refusal| refusal.retry_after_s = Some(86_400),
    ];
    for alter in alterations {
        let mut altered = refusal.clone();
        alter(&mut altered);
        assert!(is_misbehaviour(&refused(&mut call(), &altered)));
    }
}

/// A code with unprintable characters added still is the code that the device signed.
#[test]
fn a_refusal_code_can_not_be_made_unknown() {
    let mut call = ring_as(&caller(), device().id(), 1, &Psk::from_bytes([0; 32]));
    let refusal = admission(device())
        .admit(call.envelope(), NOW)
        .expect_err("refused");
    let mut bytes = refusal.encode();
    let text_at = find(&bytes, b"wrong_password");
    assert_eq!(bytes[text_at - 1], 0x6e, "a text of 14 bytes");
    bytes[text_at - 1] += 1;
    bytes.insert(text_at, 0x7f);
    let outcome = end(
        &mut call,
        Refused {
            call: 0,
            refusal: bytes,
        }
        .into(),
    );
    match outcome {
        Outcome::Refused(refusal) => assert_eq!(refusal.code, Code::WrongPassword),
        outcome => assert!(is_misbehaviour(&outcome)),
    }
}

#[test]
fn a_challenge_of_another_registry_can_not_be_passed_on() {
    let nonce = [3; 32];
    let mut registration = Registration::new(
        device(),
        "https://liar.example".into(),
        "test".into(),
        None,
        Duration::ZERO,
    );
    let challenge = Challenge { nonce, time_ms: 0 };
    registration.handle_message(&Frame::from(challenge).encode(), Duration::ZERO);
    let signature = std::iter::from_fn(|| registration.poll_output())
        .find_map(|output| match output {
            Output::Send(Frame::Register(register)) => Some(register.signature),
            _ => None,
        })
        .expect("a signature");
    let id = device().id();
    assert!(verify_challenge(
        &id,
        &nonce,
        "https://liar.example",
        &signature
    ));
    assert!(!verify_challenge(
        &id,
        &nonce,
        "https://honest.example",
        &signature
    ));
    assert!(!verify_challenge(
        &id,
        &[4; 32],
        "https://liar.example",
        &signature
    ));
    assert!(!verify_challenge(
        &caller().id(),
        &nonce,
        "https://liar.example",
        &signature
    ));
}

fn find(haystack: &[u8], needle: &[u8]) -> usize {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
        .expect("in there")
}

fn sha256(data: &[u8]) -> [u8; 32] {
    use sha2::Digest as _;
    sha2::Sha256::digest(data).into()
}
