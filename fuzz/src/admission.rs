//! The device's decision on requests: honest ones, old ones, damaged ones and strangers', on a
//! clock that anything may have happened to.

use arbitrary::Arbitrary;
use ringback_protocol::admission::Admission;
use ringback_protocol::envelope::{Envelope, Proof};
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::{SecretKey, UnixTime};

use crate::path::Dice;
use crate::steps::{Damage, Pause, steps};
use crate::vector;

#[derive(Debug, Arbitrary)]
enum Step {
    Request {
        caller: u8,
        id: u8,
        password: bool,
        by_key: bool,
        ahead: i8,
        lifetime: u8,
        damage: Damage,
    },
    Remember(u8),
    Forget(u8),
    Later(Pause),
    Earlier(Pause),
}

pub fn admission(bytes: &[u8]) {
    let device = vector::device();
    let mut now: UnixTime = vector::ISSUED_AT;
    let mut admission = Admission::new(device.clone(), now);
    admission.set_secret(PASSWORD_ID, vector::psk());
    let mut admitted = std::collections::HashSet::new();
    let mut dice = Dice::new(7);
    for step in steps::<Step>(bytes).take(48) {
        match step {
            Step::Request {
                caller,
                id,
                password,
                by_key,
                ahead,
                lifetime,
                damage,
            } => {
                let key = caller_key(caller);
                let mut request = vector::request();
                request.id = [id; 16];
                request.issued_at = now.saturating_add_signed(ahead.into());
                request.expires_at = request.issued_at + u64::from(lifetime);
                let wrong = Psk::from_bytes([caller; 32]);
                let right = vector::psk();
                let psk = if password { &right } else { &wrong };
                let proof = if by_key {
                    Proof::Key
                } else {
                    Proof::Secret {
                        psk_id: PASSWORD_ID,
                        psk,
                    }
                };
                let sealed = Envelope::seal(&request, &key, &device.id(), proof, &mut dice);
                let (envelope, _) = sealed.expect("it can be sealed");
                for envelope in damage.done_to(&envelope.encode()) {
                    if let Ok(call) = admission.admit(&envelope, now) {
                        assert!(password || call.by_key, "nobody gets in without either");
                        assert!(
                            admitted.insert((call.request.id, now)),
                            "a request counts once"
                        );
                    }
                }
            }
            Step::Remember(caller) => admission.remember(caller_key(caller).id()),
            Step::Forget(caller) => admission.forget(&caller_key(caller).id()),
            Step::Later(pause) => now = now.saturating_add(pause.duration().as_secs()),
            Step::Earlier(pause) => now = now.saturating_sub(pause.duration().as_secs()),
        }
    }
}

fn caller_key(number: u8) -> SecretKey {
    SecretKey::from_seed(&[number; 32])
}
