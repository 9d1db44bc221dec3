//! The framing of datagrams on relays and byte streams (§15): what goes in comes out, in whatever
//! pieces it arrives, and a peer that lies about lengths costs nothing.

use proptest::collection::vec;
use proptest::prelude::*;
use ringback_protocol::frame::{Frame, PeerPresence};
use ringback_protocol::relay::{
    Batch, Item, MAX_BATCH, MAX_DATAGRAM, Room, StreamReader, control, framed, is_control, items,
    prefix_within,
};

fn datagram() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        9 => vec(any::<u8>(), 1..200),
        1 => vec(any::<u8>(), MAX_DATAGRAM..=MAX_DATAGRAM),
    ]
}

fn batch(datagrams: &[Vec<u8>]) -> Vec<u8> {
    let mut batch = Batch::default();
    for datagram in datagrams {
        assert!(batch.push(datagram));
    }
    batch.take()
}

fn presence() -> Vec<u8> {
    control(&PeerPresence { present: true }.into())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::with_cases(128)
    })]

    #[test]
    fn a_message_holds_its_datagrams(datagrams in vec(datagram(), 0..20)) {
        let message = batch(&datagrams);
        let read: Vec<_> = items(&message).collect();
        let sent: Vec<_> = datagrams.iter().map(|one| Item::Datagram(one)).collect();
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn a_stream_gives_whole_items_out_of_any_chunks(
        sent in vec(prop_oneof![4 => datagram().prop_map(Some), 1 => Just(None)], 0..12),
        cuts in vec(1..3000_usize, 1..40),
    ) {
        let stream: Vec<u8> = sent
            .iter()
            .flat_map(|item| match item {
                Some(datagram) => framed(datagram).expect("it fits"),
                None => presence(),
            })
            .collect();
        let mut reader = StreamReader::default();
        let mut read = Vec::new();
        let mut left = stream.as_slice();
        for cut in cuts.into_iter().cycle() {
            let (chunk, after) = left.split_at(cut.min(left.len()));
            reader.push(chunk);
            while let Some(item) = reader.next_item().expect("well formed") {
                read.push(match item {
                    Item::Datagram(datagram) => Some(datagram.to_vec()),
                    Item::Control(frame) => {
                        prop_assert!(matches!(Frame::decode(frame), Ok(Frame::PeerPresence(_))));
                        None
                    }
                });
            }
            left = after;
            if left.is_empty() {
                break;
            }
        }
        prop_assert_eq!(read, sent);
    }

    #[test]
    fn a_prefix_has_whole_datagrams_and_keeps_to_the_budget(
        datagrams in vec(datagram(), 0..20),
        budget in 0..8000_usize,
    ) {
        let message = batch(&datagrams);
        let end = prefix_within(&message, budget);
        prop_assert!(end <= budget.min(message.len()));
        let kept = items(&message[..end]).count();
        let mut framed_len = 0;
        for datagram in &datagrams[..kept] {
            framed_len += 2 + datagram.len();
        }
        prop_assert_eq!(framed_len, end);
        if let Some(next) = datagrams.get(kept) {
            prop_assert!(end + 2 + next.len() > budget, "the next one would have fitted");
        }
    }

    #[test]
    fn noise_does_no_harm(noise in vec(any::<u8>(), 0..5000), budget in 0..6000_usize) {
        let is_control = is_control(&noise);
        for item in items(&noise) {
            match item {
                Item::Datagram(datagram) => {
                    prop_assert!(!is_control && (1..=MAX_DATAGRAM).contains(&datagram.len()));
                }
                Item::Control(frame) => prop_assert!(is_control && frame.len() + 4 == noise.len()),
            }
        }
        prop_assert!(prefix_within(&noise, budget) <= budget.min(noise.len()));
        let mut reader = StreamReader::default();
        for chunk in noise.chunks(700) {
            reader.push(chunk);
            while let Ok(Some(_)) = reader.next_item() {}
        }
    }

    #[test]
    fn rooms(bytes in proptest::array::uniform16(any::<u8>()), noise in ".{0,40}") {
        let room = Room(bytes);
        prop_assert_eq!(room.to_string().parse(), Ok(room));
        if let Ok(room) = noise.parse::<Room>() {
            prop_assert_eq!(room.to_string(), noise);
        }
    }
}

#[test]
fn what_does_not_fit_is_left_out() {
    let mut batch = Batch::default();
    assert!(!batch.push(&[]), "an empty datagram would be the escape");
    assert!(!batch.push(&[0; MAX_DATAGRAM + 1]));
    assert_eq!((framed(&[]), framed(&[0; MAX_DATAGRAM + 1])), (None, None));
    assert!(batch.is_empty());
    let mut count = 0;
    while batch.push(&[7; 1200]) {
        count += 1;
    }
    assert_eq!(count, MAX_BATCH / 1202);
    assert!(batch.len() <= MAX_BATCH);
    let message = batch.take();
    assert_eq!(items(&message).count(), count);
    assert!(batch.is_empty() && batch.push(&[1]), "and it starts anew");
    let too_much = vec![1; MAX_BATCH + 1];
    assert_eq!(items(&too_much).count(), 0);
}

/// A peer's message that starts with a datagram is forwarded unread: no frame in it may be taken
/// for the relay's.
#[test]
fn no_control_frame_hides_behind_a_datagram() {
    let message = [batch(&[vec![9]]), presence(), batch(&[vec![8]])].concat();
    assert!(!is_control(&message));
    assert_eq!(items(&message).collect::<Vec<_>>(), [Item::Datagram(&[9])]);
    let message = [presence(), batch(&[vec![9]])].concat();
    assert!(is_control(&message));
    assert_eq!(items(&message).count(), 0, "a control frame is alone");
}

#[test]
fn lengths_that_lie_end_a_stream() {
    for bytes in [&[0xff, 0xff, 1, 2][..], &[0, 0, 0, 0], &[0, 0, 0x08, 0x01]] {
        let mut reader = StreamReader::default();
        reader.push(bytes);
        assert!(reader.next_item().is_err(), "{bytes:?}");
    }
    let mut reader = StreamReader::default();
    reader.push(&[0x08, 0x00]);
    reader.push(&[1; 2047]);
    assert_eq!(reader.next_item(), Ok(None));
    reader.push(&[1]);
    assert_eq!(reader.next_item(), Ok(Some(Item::Datagram(&[1; 2048]))));
}

#[test]
fn a_room_has_one_text() {
    for text in [
        "",
        "8d0f84058c0354aaa9d76e63c953ad2",
        "8D0F84058C0354AAA9D76E63C953AD29",
        "+d0f84058c0354aaa9d76e63c953ad29",
        "8d0f84058c0354aaa9d76e63c953ad290",
    ] {
        assert!(text.parse::<Room>().is_err(), "{text}");
    }
}
