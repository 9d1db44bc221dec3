//! The device's socket to a registry that says anything, and a call's answers from one.

use std::time::Duration;

use arbitrary::Arbitrary;
use ringback_protocol::call::{Call, Outcome, Progress};
use ringback_protocol::envelope::Proof;
use ringback_protocol::frame::Frame;
use ringback_protocol::registration::Registration;
use ringback_protocol::secret::PASSWORD_ID;

use crate::path::Dice;
use crate::steps::{Damage, Pause, steps};
use crate::vector;

#[derive(Debug, Arbitrary)]
enum Step {
    Raw(Vec<u8>),
    Vector { which: u8, damage: Damage },
    Pong,
    Check,
    Public(u16),
    Later(Pause),
}

/// Frames that a registry sends.
fn frames() -> Vec<Vec<u8>> {
    [
        vector::CHALLENGE,
        vector::REGISTERED,
        vector::REGISTERED_BEACONS,
        vector::DELIVER,
        vector::UPDATED,
        vector::REJECTED,
        vector::DELIVERED,
        vector::ANSWERED,
        vector::REFUSED,
        vector::FAILED,
        vector::KNOWN,
        vector::NOTIFY,
        vector::MARK,
    ]
    .map(vector::bytes)
    .into()
}

pub fn registration(bytes: &[u8]) {
    let known = frames();
    let mut now = Duration::ZERO;
    let (origin, agent) = (vector::ORIGIN.to_owned(), "ringback/0.1.0".to_owned());
    let mut socket = Registration::new(vector::device(), origin, agent, None, now);
    for step in steps::<Step>(bytes) {
        match step {
            Step::Raw(message) => socket.handle_message(&message, now),
            Step::Vector { which, damage } => {
                for message in damage.done_to(&known[usize::from(which) % known.len()]) {
                    socket.handle_message(&message, now);
                }
            }
            Step::Pong => socket.handle_pong(),
            Step::Check => socket.check(now),
            Step::Public(port) => socket.set_public(([202, 204, 16, 13], port).into(), now),
            Step::Later(pause) => now += pause.duration(),
        }
        if socket.poll_timeout().is_some_and(|at| at <= now) {
            socket.handle_timeout(now);
        }
        while socket.poll_output().is_some() {}
    }
}

/// Whatever comes, a call ends once, and is accepted only by what the device has sealed for it.
pub fn call(bytes: &[u8]) {
    let known = frames();
    let psk = vector::psk();
    let proof = Proof::Secret {
        psk_id: PASSWORD_ID,
        psk: &psk,
    };
    let (caller, device) = (vector::caller(), vector::device().id());
    let call = Call::seal(
        &vector::request(),
        &caller,
        device,
        proof,
        &mut Dice::new(1),
    );
    let mut call = call.expect("a request");
    let mut ended = false;
    for step in steps::<Step>(bytes) {
        let messages = match step {
            Step::Raw(message) => vec![message],
            Step::Vector { which, damage } => {
                damage.done_to(&known[usize::from(which) % known.len()])
            }
            _ => continue,
        };
        for frame in messages
            .iter()
            .filter_map(|message| Frame::decode(message).ok())
        {
            call.is_authentic(&frame);
            match call.handle_frame(frame) {
                Some(Progress::Ended(Outcome::Accepted(_) | Outcome::Refused(_))) => {
                    panic!("nobody here has the device's key");
                }
                Some(Progress::Ended(_)) => assert!(!std::mem::replace(&mut ended, true)),
                Some(Progress::Delivered) => assert!(!ended),
                None => {}
            }
        }
    }
}
