//! Streams on data channels (§19.2): whatever the schedule, the bytes come through; whoever does not
//! keep to it is cut off; and no more than the window ever waits.

use proptest::collection::vec;
use proptest::prelude::*;
use ringback_protocol::Code;
use ringback_protocol::channel::{Channel, MAX_DATA, Reset, Violation, WINDOW, reset};
use ringback_protocol::stream::{Open, Opening, StreamRefused};

fn open() -> Open {
    Open::new("web")
}

/// Carries everything that waits from one end to the other.
fn carry(from: &mut Channel, to: &mut Channel) -> usize {
    let mut messages = 0;
    while let Some(message) = from.poll_message() {
        to.handle_message(&message).expect("in order");
        messages += 1;
    }
    messages
}

fn opened() -> (Channel, Channel) {
    let (mut caller, mut device) = (Channel::caller(&open()), Channel::device());
    carry(&mut caller, &mut device);
    let header = device.header().expect("a header");
    assert_eq!(Open::decode(&header), Ok(open()));
    device.answer(&Opening::Opened);
    carry(&mut device, &mut caller);
    assert_eq!(caller.opening(), Some(Ok(Opening::Opened)));
    (caller, device)
}

fn read_all(channel: &mut Channel) -> Vec<u8> {
    std::iter::from_fn(|| channel.read()).flatten().collect()
}

fn data(length: usize) -> Vec<u8> {
    let mut message = vec![0x5a; length + 1];
    message[0] = 0;
    message
}

#[test]
fn half_close_leaves_the_other_direction_open() {
    let (mut caller, mut device) = opened();
    assert_eq!(caller.write(b"request"), 7);
    caller.finish();
    assert_eq!(caller.write(b"more"), 0, "finished");
    carry(&mut caller, &mut device);
    assert_eq!(read_all(&mut device), b"request");
    assert!(device.received_end() && !device.is_over());
    assert_eq!(device.write(b"answer"), 6);
    device.finish();
    carry(&mut device, &mut caller);
    assert!(device.is_over());
    assert!(!caller.received_end(), "the answer is not read yet");
    assert_eq!(read_all(&mut caller), b"answer");
    assert!(caller.received_end() && caller.is_over());
}

#[test]
fn a_refusal_ends_the_stream() {
    let (mut caller, mut device) = (Channel::caller(&open()), Channel::device());
    caller.write(b"too early");
    carry(&mut caller, &mut device);
    let refused = Opening::Refused(StreamRefused {
        code: Code::UnknownService,
        detail: String::new(),
    });
    device.answer(&refused);
    device.finish();
    carry(&mut device, &mut caller);
    assert_eq!(caller.opening(), Some(Ok(refused)));
    assert!(caller.received_end());
}

#[test]
fn a_reader_that_stops_stops_the_writer() {
    let (mut caller, mut device) = opened();
    let chunk = vec![1; 100_000];
    let mut written = 0;
    loop {
        let taken = caller.write(&chunk);
        carry(&mut caller, &mut device);
        if taken == 0 {
            break;
        }
        written += taken;
    }
    assert_eq!(written as u64, WINDOW);
    assert_eq!(device.readable() as u64, WINDOW);
    assert_eq!(
        carry(&mut device, &mut caller),
        0,
        "no credit without reading"
    );
    assert_eq!(read_all(&mut device).len() as u64, WINDOW);
    carry(&mut device, &mut caller);
    assert!(caller.writable() > 0);
}

#[test]
fn data_over_the_credit_resets() {
    let (mut caller, mut device) = opened();
    let mut sent = 0;
    while sent + MAX_DATA as u64 <= WINDOW {
        assert_eq!(device.handle_message(&data(MAX_DATA)), Ok(()));
        sent += MAX_DATA as u64;
    }
    assert_eq!(
        device.handle_message(&data((WINDOW - sent) as usize)),
        Ok(())
    );
    assert_eq!(device.handle_message(&data(1)), Err(Violation::OverCredit));
    assert_eq!(device.was_reset(), Some(Reset::Here(reset::ABORTED)));
    assert_eq!(device.readable(), 0, "what came is forgotten");
    carry(&mut device, &mut caller);
    assert_eq!(caller.was_reset(), Some(Reset::ByPeer(reset::ABORTED)));
    assert!(device.is_over() && caller.is_over());
    assert_eq!(
        device.handle_message(&data(1)),
        Ok(()),
        "ignored after Reset"
    );
    assert_eq!(device.readable(), 0);
}

#[test]
fn what_is_out_of_form_or_order_resets() {
    let header: &[u8] = &[1, 0x61, 0xa0];
    let end: &[u8] = &[2];
    for (messages, expected) in [
        (&[&[][..]][..], Violation::Malformed),
        (&[&[0, 1][..]], Violation::OutOfOrder),
        (&[end], Violation::OutOfOrder),
        (&[&[1][..]], Violation::Malformed),
        (&[header, header], Violation::OutOfOrder),
        (&[header, &[0][..]], Violation::Malformed),
        (&[header, &data(MAX_DATA + 1)], Violation::Malformed),
        (&[header, end, end], Violation::OutOfOrder),
        (&[header, end, &[0, 1]], Violation::OutOfOrder),
        (&[&[3, 0, 0][..]], Violation::Malformed),
        (&[&[4, 0][..]], Violation::Malformed),
    ] {
        let mut channel = Channel::device();
        let (last, before) = messages.split_last().expect("a message");
        for message in before {
            assert_eq!(channel.handle_message(message), Ok(()), "{messages:?}");
        }
        assert_eq!(channel.handle_message(last), Err(expected), "{messages:?}");
        assert_eq!(channel.was_reset(), Some(Reset::Here(reset::VIOLATION)));
        assert_eq!(channel.poll_message(), Some(vec![3, 0, 0, 0, 2]));
        assert_eq!(channel.poll_message(), None);
    }
}

#[test]
fn unknown_kinds_are_ignored_and_credit_never_shrinks() {
    let mut channel = Channel::device();
    assert_eq!(channel.handle_message(&[0x99, 1, 2, 3]), Ok(()));
    assert_eq!(channel.handle_message(&[4, 0, 0, 0, 0, 0, 0, 0, 0]), Ok(()));
    channel.answer(&Opening::Opened);
    assert!(channel.writable() > 0);
    assert_eq!(
        channel.handle_message(&[&[4], &[0xff; 8][..]].concat()),
        Ok(())
    );
    assert_eq!(
        channel.write(&[0; 1 << 20]),
        256 * 1024,
        "its own buffer has an end"
    );
}

#[test]
fn what_ended_before_a_reset_stays_good() {
    for whole in [true, false] {
        let (mut caller, mut device) = opened();
        device.write(b"answer");
        if whole {
            device.finish();
        }
        carry(&mut device, &mut caller);
        device.reset(reset::ABORTED);
        carry(&mut device, &mut caller);
        assert_eq!(caller.was_reset(), Some(Reset::ByPeer(reset::ABORTED)));
        assert_eq!(caller.write(b"x"), 0);
        let expected: &[u8] = if whole { b"answer" } else { b"" };
        assert_eq!(read_all(&mut caller), expected);
        assert_eq!(caller.received_end(), whole);
    }
}

#[test]
fn a_reset_drops_what_waits() {
    let (mut caller, mut device) = opened();
    caller.write(&[1; 100_000]);
    caller.reset(reset::REVOKED);
    caller.reset(reset::ABORTED);
    assert!(!caller.is_over(), "the Reset is still to be sent");
    assert!(caller.has_message());
    assert_eq!(carry(&mut caller, &mut device), 1);
    assert_eq!(device.was_reset(), Some(Reset::ByPeer(reset::REVOKED)));
    assert!(caller.is_over() && !caller.has_message());
}

#[test]
fn a_flood_of_single_bytes_costs_no_more_than_the_window() {
    let (_, mut device) = opened();
    for _ in 0..WINDOW {
        assert_eq!(device.handle_message(&[0, 7]), Ok(()));
    }
    let mut portions = 0;
    while device.read().is_some() {
        portions += 1;
    }
    assert!(portions <= 40, "{portions} buffers");
}

/// What a schedule may do next.
#[derive(Debug, Clone)]
enum Step {
    Write(bool, usize),
    Read(bool),
    Carry(bool, usize),
    Finish(bool),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<bool>(), 0_usize..200_000).prop_map(|(c, n)| Step::Write(c, n)),
        4 => any::<bool>().prop_map(Step::Read),
        4 => (any::<bool>(), 0_usize..12).prop_map(|(c, n)| Step::Carry(c, n)),
        1 => any::<bool>().prop_map(Step::Finish),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(96)
    })]

    #[test]
    fn bytes_come_through_in_order(steps in vec(step(), 0..200)) {
        let (caller, device) = opened();
        let mut ends = [caller, device];
        let mut written = [Vec::new(), Vec::new()];
        let mut read = [Vec::new(), Vec::new()];
        let mut counter = 0_u8;
        for step in steps {
            match step {
                Step::Write(at, length) => {
                    let at = usize::from(at);
                    let bytes: Vec<u8> = (0..length).map(|i| counter.wrapping_add((i / 7) as u8)).collect();
                    counter = counter.wrapping_add(31);
                    let promised = ends[at].writable().min(length);
                    let taken = ends[at].write(&bytes);
                    prop_assert_eq!(taken, promised);
                    written[at].extend_from_slice(&bytes[..taken]);
                }
                Step::Read(at) => {
                    let at = usize::from(at);
                    if let Some(bytes) = ends[at].read() {
                        read[at].extend_from_slice(&bytes);
                    }
                }
                Step::Carry(at, most) => {
                    let at = usize::from(at);
                    for _ in 0..most {
                        let waits = ends[at].has_message();
                        let message = ends[at].poll_message();
                        prop_assert_eq!(message.is_some(), waits);
                        if let Some(message) = message {
                            prop_assert_eq!(ends[1 - at].handle_message(&message), Ok(()));
                        }
                    }
                }
                Step::Finish(at) => ends[usize::from(at)].finish(),
            }
            prop_assert!(ends.iter().all(|end| end.readable() as u64 <= WINDOW));
        }
        for end in &mut ends {
            end.finish();
        }
        // Both window and buffer are bounded: a bounded number of rounds empties them.
        for _ in 0..100 {
            for at in [0, 1] {
                while let Some(message) = ends[at].poll_message() {
                    prop_assert_eq!(ends[1 - at].handle_message(&message), Ok(()));
                }
                read[at].extend(read_all(&mut ends[at]));
            }
        }
        for at in [0, 1] {
            prop_assert!(ends[at].received_end() && ends[at].is_over());
            prop_assert_eq!(&read[at], &written[1 - at]);
        }
    }

    #[test]
    fn nothing_panics(messages in vec(vec(any::<u8>(), 0..40), 0..20), kinds in vec(0_u8..6, 20)) {
        let mut channel = Channel::device();
        for (mut message, kind) in messages.into_iter().zip(kinds) {
            if let Some(first) = message.first_mut() {
                *first = kind;
            }
            let _ = channel.handle_message(&message);
            channel.write(b"x");
            while channel.poll_message().is_some() {}
        }
    }
}
