//! A stream on a data channel (section 19.2): an honest end between an honest one and a stranger.

use arbitrary::Arbitrary;
use ringback_protocol::channel::{Channel, WINDOW};
use ringback_protocol::stream::{Open, Opening};

use crate::steps::steps;

#[derive(Debug, Arbitrary)]
enum Step {
    /// Messages of one honest end reach the other.
    Carry {
        caller: bool,
        most: u8,
    },
    Write {
        caller: bool,
        length: u16,
        byte: u8,
    },
    Read {
        caller: bool,
    },
    Finish {
        caller: bool,
    },
    Reset {
        caller: bool,
        code: u32,
    },
    /// The caller is not honest.
    Raw(Vec<u8>),
}

pub fn channel(bytes: &[u8]) {
    let mut ends = [Channel::device(), Channel::caller(&Open::new("web"))];
    let mut honest = true;
    let mut answered = false;
    let mut said = [Vec::new(), Vec::new()];
    let mut heard = [Vec::new(), Vec::new()];
    for step in steps::<Step>(bytes) {
        match step {
            Step::Carry { caller, most } => {
                let from = usize::from(caller);
                for _ in 0..most {
                    let Some(message) = ends[from].poll_message() else {
                        break;
                    };
                    let taken = ends[1 - from].handle_message(&message);
                    assert!(
                        taken.is_ok() || !honest,
                        "an honest end keeps to it: {taken:?}"
                    );
                }
            }
            // The device answers before it says anything (`Channel::device`).
            Step::Write { caller: false, .. } | Step::Finish { caller: false } if !answered => {}
            Step::Write {
                caller,
                length,
                byte,
            } => {
                let at = usize::from(caller);
                let data = vec![byte; length.into()];
                let taken = ends[at].write(&data);
                said[at].extend_from_slice(&data[..taken]);
            }
            Step::Read { caller } => {
                let at = usize::from(caller);
                if let Some(data) = ends[at].read() {
                    heard[at].extend_from_slice(&data);
                }
            }
            Step::Finish { caller } => ends[usize::from(caller)].finish(),
            Step::Reset { caller, code } => ends[usize::from(caller)].reset(code),
            Step::Raw(message) => {
                honest = false;
                let _ = ends[0].handle_message(&message);
            }
        }
        if !answered && ends[0].header().is_some() {
            answered = true;
            ends[0].answer(&Opening::Opened);
        }
        let _ = ends[1].opening();
        for (at, end) in ends.iter().enumerate() {
            assert!(
                end.readable() as u64 <= WINDOW,
                "no more than the window waits"
            );
            assert!(
                !honest || said[1 - at].starts_with(&heard[at]),
                "bytes come as they were said"
            );
        }
    }
}
