//! Admission (§7.1): what is refused, in which order, and for how long.

use std::time::Duration;

use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng as _;
use ringback_protocol::admission::{
    Admission, Admitted, Arrival, CALLER_FAILURES, CALLER_WINDOW, MAX_AHEAD, Moment, Seen,
    TOTAL_FAILURES, TOTAL_WINDOW,
};
use ringback_protocol::envelope::{Envelope, LIFETIME, MAX_ENVELOPE, MAX_LIFETIME, Proof, Request};
use ringback_protocol::receipt::Nat;
use ringback_protocol::refusal::{ForgedRefusal, Refusal};
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::{Code, SecretKey, UnixTime};

/// When the agent started.
const START: UnixTime = 1_800_000_000;

fn device() -> SecretKey {
    SecretKey::from_seed(&[0xd0; 32])
}

fn caller(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}

fn psk() -> Psk {
    Psk::from_bytes([0x9a; 32])
}

fn wrong() -> Psk {
    Psk::from_bytes([0x0b; 32])
}

fn admission() -> Admission {
    let mut admission = Admission::new(device(), START);
    admission.set_secret(PASSWORD_ID, psk());
    admission
}

fn request(number: u8, issued_at: UnixTime) -> Request {
    Request {
        id: [number; 16],
        issued_at,
        expires_at: issued_at + LIFETIME,
        service: "ssh".into(),
        candidates: Vec::new(),
        remember: false,
        webrtc: None,
        path: 0,
        nat: Nat::Unknown,
    }
}

fn seal_with(request: &Request, caller: &SecretKey, proof: Proof<'_>) -> Vec<u8> {
    let mut rng = ChaCha8Rng::from_seed([1; 32]);
    let (envelope, _) = Envelope::seal(request, caller, &device().id(), proof, &mut rng)
        .expect("the request is sealed");
    envelope.encode()
}

fn seal(request: &Request, caller: &SecretKey, psk: &Psk) -> Vec<u8> {
    let psk_id = PASSWORD_ID;
    seal_with(request, caller, Proof::Secret { psk_id, psk })
}

/// All the wrong passwords that a caller has.
fn use_up_attempts(admission: &mut Admission, caller: &SecretKey, now: UnixTime) {
    for number in 0..CALLER_FAILURES as u8 {
        let envelope = seal(&request(number, now), caller, &wrong());
        assert_eq!(code(admission.admit(&envelope, now)), Code::WrongPassword);
    }
}

fn code(result: Result<Admitted, Refusal>) -> Code {
    result.expect_err("refused").code
}

#[test]
fn the_right_password_is_admitted() {
    let admitted = admission()
        .admit(&seal(&request(1, START), &caller(1), &psk()), START)
        .expect("admitted");
    assert_eq!(admitted.caller, caller(1).id());
    assert_eq!(admitted.request, request(1, START));
    assert!(!admitted.by_key);
}

#[test]
fn an_unknown_secret_is_refused_as_a_wrong_one() {
    let mut admission = admission();
    let by_id = seal_with(
        &request(1, START),
        &caller(1),
        Proof::Secret {
            psk_id: b"invite 7",
            psk: &psk(),
        },
    );
    let refused = admission.admit(&by_id, START).expect_err("refused");
    assert_eq!(refused.code, Code::WrongPassword);
    let by_psk = seal(&request(1, START), &caller(1), &wrong());
    let same = admission.admit(&by_psk, START).expect_err("refused");
    assert_eq!(
        (same.code, same.retry_after_s, same.time),
        (refused.code, refused.retry_after_s, refused.time)
    );
}

#[test]
fn a_replaced_password_no_longer_admits() {
    let mut admission = admission();
    admission.set_secret(PASSWORD_ID, wrong());
    let envelope = seal(&request(1, START), &caller(1), &psk());
    assert_eq!(code(admission.admit(&envelope, START)), Code::WrongPassword);
    let envelope = seal(&request(1, START), &caller(1), &wrong());
    assert!(admission.admit(&envelope, START).is_ok());
}

#[test]
fn a_caller_waits_after_its_failures_and_others_do_not() {
    let mut admission = admission();
    for attempt in 0..CALLER_FAILURES as u64 {
        let now = START + 10 * attempt;
        let envelope = seal(&request(1, now), &caller(1), &wrong());
        assert_eq!(code(admission.admit(&envelope, now)), Code::WrongPassword);
    }
    let now = START + 60;
    let right = seal(&request(2, now), &caller(1), &psk());
    let refused = admission.admit(&right, now).expect_err("limited");
    assert_eq!(refused.code, Code::RateLimited);
    assert_eq!(
        u64::from(refused.retry_after_s.unwrap()),
        CALLER_WINDOW - 60
    );
    assert!(
        admission
            .admit(&seal(&request(3, now), &caller(2), &psk()), now)
            .is_ok()
    );

    let free = now + u64::from(refused.retry_after_s.unwrap());
    let early = seal(&request(4, free - 1), &caller(1), &psk());
    let refused = admission.admit(&early, free - 1).expect_err("limited");
    assert_eq!(refused.retry_after_s, Some(1));
    let right = seal(&request(5, free), &caller(1), &psk());
    assert!(admission.admit(&right, free).is_ok());
    // The window slides: one failure has left it, one more fills it again.
    let envelope = seal(&request(6, free), &caller(1), &wrong());
    assert_eq!(code(admission.admit(&envelope, free)), Code::WrongPassword);
    let refused = admission.admit(&envelope, free).expect_err("limited");
    assert_eq!(refused.retry_after_s, Some(10));
}

#[test]
fn being_limited_is_no_failure() {
    let mut admission = admission();
    use_up_attempts(&mut admission, &caller(1), START);
    let envelope = seal(&request(1, START), &caller(1), &wrong());
    for _ in 0..100 {
        assert_eq!(code(admission.admit(&envelope, START)), Code::RateLimited);
    }
    let now = START + CALLER_WINDOW;
    let right = seal(&request(1, now), &caller(1), &psk());
    assert!(admission.admit(&right, now).is_ok());
}

#[test]
fn all_callers_together_are_limited_but_remembered_ones_are_not() {
    let mut admission = admission();
    admission.remember(caller(200).id());
    for number in 0..TOTAL_FAILURES as u8 {
        let envelope = seal(&request(1, START), &caller(number), &wrong());
        assert_eq!(code(admission.admit(&envelope, START)), Code::WrongPassword);
    }
    let now = START + 20;
    let right = seal(&request(2, now), &caller(100), &psk());
    let refused = admission.admit(&right, now).expect_err("limited");
    assert_eq!(refused.code, Code::RateLimited);
    assert_eq!(refused.retry_after_s, Some(TOTAL_WINDOW as u32 - 20));
    let by_key = seal_with(&request(3, now), &caller(200), Proof::Key);
    assert!(admission.admit(&by_key, now).expect("admitted").by_key);
    let now = START + TOTAL_WINDOW;
    let right = seal(&request(2, now), &caller(100), &psk());
    assert!(admission.admit(&right, now).is_ok());
}

#[test]
fn a_caller_by_key_must_be_remembered() {
    let mut admission = admission();
    let envelope = |number| seal_with(&request(number, START), &caller(1), Proof::Key);
    assert_eq!(
        code(admission.admit(&envelope(1), START)),
        Code::UnknownCaller
    );
    admission.remember(caller(1).id());
    assert!(admission.admit(&envelope(1), START).is_ok());
    assert_eq!(code(admission.admit(&envelope(1), START)), Code::Replayed);
    admission.forget(&caller(1).id());
    assert_eq!(
        code(admission.admit(&envelope(2), START)),
        Code::UnknownCaller
    );
    admission.set_remembered([caller(2).id(), caller(1).id()]);
    assert!(admission.admit(&envelope(2), START).is_ok());
    admission.set_remembered([caller(2).id()]);
    assert_eq!(
        code(admission.admit(&envelope(3), START)),
        Code::UnknownCaller
    );
}

/// Remembering a key is no way around the limits: with a password it is limited as any other.
#[test]
fn a_remembered_callers_passwords_are_limited() {
    let mut admission = admission();
    admission.remember(caller(1).id());
    use_up_attempts(&mut admission, &caller(1), START);
    let envelope = seal(&request(1, START), &caller(1), &wrong());
    assert_eq!(code(admission.admit(&envelope, START)), Code::RateLimited);
    let by_key = seal_with(&request(2, START), &caller(1), Proof::Key);
    assert!(admission.admit(&by_key, START).is_ok());
}

#[test]
fn a_request_is_admitted_once() {
    let mut admission = admission();
    let envelope = seal(&request(1, START), &caller(1), &psk());
    assert!(admission.admit(&envelope, START).is_ok());
    for now in [START, START + 1, START + LIFETIME] {
        assert_eq!(code(admission.admit(&envelope, now)), Code::Replayed);
    }
    // Forgotten when it expires, and then it is stale.
    let now = START + LIFETIME + 1;
    let other = seal(&request(2, now), &caller(1), &psk());
    assert!(admission.admit(&other, now).is_ok());
    assert_eq!(code(admission.admit(&envelope, now)), Code::Stale);
    let resealed = seal(&request(2, now + 1), &caller(2), &psk());
    assert_eq!(code(admission.admit(&resealed, now + 1)), Code::Replayed);
}

#[test]
fn only_fresh_requests_are_admitted() {
    let now = START + 1000;
    let lifetime = |issued_at, expires_at| Request {
        issued_at,
        expires_at,
        ..request(1, now)
    };
    for (what, request, fresh) in [
        ("new", request(1, now), true),
        ("just expired", request(1, now - LIFETIME - 1), false),
        ("about to expire", request(1, now - LIFETIME), true),
        ("a little ahead", request(1, now + MAX_AHEAD), true),
        ("from the future", request(1, now + MAX_AHEAD + 1), false),
        ("long", lifetime(now, now + MAX_LIFETIME), true),
        ("too long", lifetime(now, now + MAX_LIFETIME + 1), false),
        ("backwards", lifetime(now + 2, now + 1), false),
        ("without end", lifetime(now, u64::MAX), false),
        ("from all time", lifetime(0, u64::MAX), false),
        ("never", lifetime(u64::MAX, u64::MAX), false),
    ] {
        let result = admission().admit(&seal(&request, &caller(1), &psk()), now);
        if fresh {
            assert!(result.is_ok(), "{what}");
        } else {
            let refused = result.expect_err(what);
            assert_eq!((refused.code, refused.time), (Code::Stale, now), "{what}");
        }
    }
}

#[test]
fn a_request_from_before_the_start_is_stale() {
    let envelope = seal(&request(1, START - 1), &caller(1), &psk());
    assert_eq!(code(admission().admit(&envelope, START)), Code::Stale);
}

/// The order of §7.1: each envelope fails two checks and is told of the earlier one.
#[test]
fn checks_come_in_the_order_of_the_protocol() {
    let too_large = vec![0; MAX_ENVELOPE + 1];
    assert_eq!(
        code(admission().admit(&too_large, START)),
        Code::BadEnvelope
    );
    assert_eq!(code(admission().admit(&[], START)), Code::BadEnvelope);

    // A later version, which also breaks the signature's promise of a readable ciphertext.
    let mut later = seal(&request(1, START), &caller(1), &wrong());
    assert_eq!(later[..3], [0xa7, 0x00, 0x01]);
    later[2] = 2;
    assert_eq!(code(admission().admit(&later, START)), Code::BadVersion);

    // For another device, and with a wrong password: not counted.
    let mut admission = admission();
    let mut rng = ChaCha8Rng::from_seed([1; 32]);
    let psk = wrong();
    let psk_id = PASSWORD_ID;
    let proof = Proof::Secret { psk_id, psk: &psk };
    let (elsewhere, _) = Envelope::seal(
        &request(1, START),
        &caller(1),
        &caller(9).id(),
        proof,
        &mut rng,
    )
    .expect("sealed");
    let elsewhere = elsewhere.encode();
    // With a broken signature: not counted either, or anybody could use up a caller's attempts.
    let mut unsigned = seal(&request(1, START), &caller(1), &wrong());
    *unsigned.last_mut().unwrap() ^= 1;
    for _ in 0..2 * CALLER_FAILURES {
        assert_eq!(code(admission.admit(&elsewhere, START)), Code::BadEnvelope);
        assert_eq!(code(admission.admit(&unsigned, START)), Code::BadEnvelope);
    }

    // Wrong password and stale: the password first, or a stale guess would be free.
    for number in 0..CALLER_FAILURES as u8 {
        let stale = seal(&request(number, START - 500), &caller(1), &wrong());
        assert_eq!(code(admission.admit(&stale, START)), Code::WrongPassword);
    }
    // Limited and right and stale: the limit first, or it would tell that the password is right.
    let right = seal(&request(1, START - 500), &caller(1), &self::psk());
    assert_eq!(code(admission.admit(&right, START)), Code::RateLimited);

    // Replayed and expired: stale.
    let now = START + CALLER_WINDOW;
    let once = seal(&request(2, now), &caller(1), &self::psk());
    assert!(admission.admit(&once, now).is_ok());
    let expired = now + LIFETIME + 1;
    assert_eq!(code(admission.admit(&once, expired)), Code::Stale);
}

/// Whoever seals nonsense with the right password is told so, and has not guessed wrong.
#[test]
fn contents_that_are_no_request_are_a_bad_envelope() {
    let mut admission = admission();
    for service in ["", &"s".repeat(64)] {
        let request = Request {
            service: service.into(),
            ..request(1, START)
        };
        let envelope = seal(&request, &caller(1), &psk());
        for _ in 0..=CALLER_FAILURES {
            assert_eq!(code(admission.admit(&envelope, START)), Code::BadEnvelope);
        }
    }
    let good = seal(&request(1, START), &caller(1), &psk());
    assert!(admission.admit(&good, START).is_ok());
}

#[test]
fn a_refusal_is_signed_for_its_envelope_only() {
    let mut admission = admission();
    let envelope = seal(&request(1, START), &caller(1), &wrong());
    let other = seal(&request(2, START), &caller(1), &wrong());
    let refusal = admission.admit(&envelope, START).expect_err("refused");
    let bytes = refusal.encode();
    let device = device().id();
    assert_eq!(Refusal::decode(&bytes, &device, &envelope), Ok(refusal));
    assert_eq!(Refusal::decode(&bytes, &device, &other), Err(ForgedRefusal));
    let someone = caller(5).id();
    assert_eq!(
        Refusal::decode(&bytes, &someone, &envelope),
        Err(ForgedRefusal)
    );
}

#[test]
fn strangers_do_not_lock_out_who_has_given_the_password() {
    let mut admission = admission();
    let admit = |admission: &mut Admission, request: u8, caller_key: u8, psk: &Psk| {
        let envelope = seal(&self::request(request, START), &caller(caller_key), psk);
        admission
            .admit(&envelope, START)
            .map_err(|refusal| refusal.code)
    };
    admit(&mut admission, 1, 201, &psk()).expect("the password is right");
    for stranger in 0..TOTAL_FAILURES as u8 {
        let refused = admit(&mut admission, 2, stranger, &wrong()).unwrap_err();
        assert_eq!(refused, Code::WrongPassword);
    }
    let refused = admit(&mut admission, 3, 202, &psk()).unwrap_err();
    assert_eq!(refused, Code::RateLimited, "a new caller waits");
    admit(&mut admission, 4, 201, &psk()).expect("a proven caller does not wait");

    admission.set_secret(PASSWORD_ID, wrong());
    let refused = admit(&mut admission, 5, 201, &psk()).unwrap_err();
    assert_eq!(
        refused,
        Code::RateLimited,
        "a new password makes everybody new"
    );
}

/// The caller's clock is ahead, and the agent is started again within that time: what was admitted
/// before is not admitted anew.
#[test]
fn a_restart_makes_no_replay_possible() {
    let ahead = request(1, START + MAX_AHEAD);
    let envelope = seal(&ahead, &caller(1), &psk());
    let admitted = admission().admit(&envelope, START).expect("admitted");
    let mut restarted = Admission::new(device(), START + 3);
    restarted.set_secret(PASSWORD_ID, psk());
    restarted.restore([Seen {
        id: admitted.request.id,
        expires_at: admitted.request.expires_at,
    }]);
    assert_eq!(code(restarted.admit(&envelope, START + 3)), Code::Replayed);
    let new = seal(&request(2, START + 3), &caller(1), &psk());
    assert!(restarted.admit(&new, START + 3).is_ok());
}

/// Somebody sets the host's clock while the agent runs.
#[test]
fn a_clock_that_is_set_admits_nothing_twice_and_locks_nobody_out() {
    let mut admission = admission();
    let moment = |unix: UnixTime, running: u64| Moment {
        unix,
        uptime: Duration::from_secs(START + running),
    };
    let first = seal(&request(1, START), &caller(1), &psk());
    assert!(admission.admit(&first, START).is_ok());
    for number in 0..CALLER_FAILURES as u8 {
        let guess = seal(&request(10 + number, START), &caller(2), &wrong());
        assert_eq!(code(admission.admit(&guess, START)), Code::WrongPassword);
    }
    // An hour ahead: the guesser waits as long as before.
    let later = START + 3600;
    let guess = seal(&request(3, later), &caller(2), &psk());
    let refused = admission
        .admit(&guess, moment(later, 10))
        .expect_err("limited");
    assert_eq!(refused.retry_after_s, Some(CALLER_WINDOW as u32 - 10));
    let right = seal(&request(4, later), &caller(1), &psk());
    assert!(admission.admit(&right, moment(later, 10)).is_ok());
    // And back again: what was admitted stays so.
    assert_eq!(
        code(admission.admit(&first, moment(START, 20))),
        Code::Replayed
    );
    let right = seal(&request(5, START), &caller(1), &psk());
    assert!(admission.admit(&right, moment(START, 20)).is_ok());
    // A day before the start: new requests are not stale.
    let before = START - 86_400;
    let right = seal(&request(6, before), &caller(1), &psk());
    assert!(admission.admit(&right, moment(before, 30)).is_ok());
}

/// Nor do strangers lock out whom the device remembers, if it calls with the password.
#[test]
fn strangers_do_not_lock_out_a_remembered_caller_with_the_password() {
    let mut admission = admission();
    admission.remember(caller(200).id());
    for number in 0..TOTAL_FAILURES as u8 {
        let envelope = seal(&request(1, START), &caller(number), &wrong());
        assert_eq!(code(admission.admit(&envelope, START)), Code::WrongPassword);
    }
    let right = seal(&request(2, START), &caller(200), &psk());
    assert!(admission.admit(&right, START).is_ok());
}

/// 300 wrong passwords a minute of keys that are used once, by both ways.
#[test]
fn strangers_keep_out_strangers_only() {
    let mut admission = admission();
    admission.remember(caller(200).id());
    let proven = seal(&request(1, START), &caller(201), &psk());
    assert!(admission.admit(&proven, START).is_ok());
    let lan = Arrival::Lan("fd00::1".parse().unwrap());
    let mut number = 0_u32;
    for now in START + 1..START + 60 {
        for from in [Arrival::Registry, lan, lan, lan, lan] {
            number += 1;
            let mut seed = [0xee; 32];
            seed[..4].copy_from_slice(&number.to_be_bytes());
            let stranger = SecretKey::from_seed(&seed);
            let junk = seal(&request(1, now), &stranger, &wrong());
            let refused = code(admission.admit_from(&junk, from, now));
            assert!([Code::WrongPassword, Code::RateLimited].contains(&refused));
            let by_key = seal_with(&request(1, now), &stranger, Proof::Key);
            let refused = code(admission.admit_from(&by_key, from, now));
            assert_eq!(refused, Code::UnknownCaller);
        }
        for (id, from) in [(50, Arrival::Registry), (100, lan)] {
            let mut by_password = request(id, now);
            by_password.id[..8].copy_from_slice(&now.to_be_bytes());
            let mut by_key = by_password.clone();
            by_key.id[8] ^= 1;
            let envelope = seal(&by_password, &caller(201), &psk());
            assert!(admission.admit_from(&envelope, from, now).is_ok(), "{now}");
            let mut by_password = by_password.clone();
            by_password.id[9] ^= 1;
            let envelope = seal(&by_password, &caller(200), &psk());
            assert!(admission.admit_from(&envelope, from, now).is_ok(), "{now}");
            let envelope = seal_with(&by_key, &caller(200), Proof::Key);
            assert!(admission.admit_from(&envelope, from, now).is_ok(), "{now}");
        }
    }
    // New callers of other sources are not kept out by one source.
    let other = Arrival::Lan("192.168.1.7".parse().unwrap());
    let now = START + 60;
    let new = seal(&request(77, now), &caller(77), &psk());
    assert!(admission.admit_from(&new, other, now).is_ok());
}

/// The registry, or somebody on the way, has a wrong password of a caller's and sends it again.
#[test]
fn a_wrong_password_that_is_repeated_costs_its_caller_nothing_more() {
    let mut admission = admission();
    let typed_wrong = seal(&request(1, START), &caller(1), &wrong());
    for now in START..START + 100 {
        let refused = admission.admit(&typed_wrong, now);
        assert_eq!(code(refused), Code::WrongPassword);
    }
    let right = seal(&request(2, START + 100), &caller(1), &psk());
    assert!(admission.admit(&right, START + 100).is_ok());
}
