//! Decoders: they take any bytes, and what they take they write as they have read it.

use std::fmt::Debug;

use ringback_protocol::candidate::{Candidate, address};
use ringback_protocol::envelope::{Envelope, Request};
use ringback_protocol::frame::{Frame, FrameReader};
use ringback_protocol::path::link_tag;
use ringback_protocol::refusal::Refusal;
use ringback_protocol::registration::canonical_code;
use ringback_protocol::relay::{self, StreamReader};
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::{self, Description};
use ringback_protocol::service::files::{self, Range};
use ringback_protocol::service::{dial, http, listing, shell};
use ringback_protocol::stream::{Open, Opening};
use ringback_protocol::{PeerId, service};

use crate::vector;

/// An envelope off the wire, as the registry and the device take it.
pub fn envelope(bytes: &[u8]) {
    let Ok(envelope) = Envelope::decode(bytes) else {
        return;
    };
    let device = vector::device();
    let _ = envelope.open(&device, Some(&vector::psk()));
    let _ = envelope.open(&device, None);
    assert_eq!(Envelope::decode(&envelope.encode()), Ok(envelope));
}

/// What is inside envelopes and replies: written by somebody who knows the password.
pub fn request(bytes: &[u8]) {
    stable::<Request>(bytes);
    stable::<Reply>(bytes);
    stable::<Candidate>(bytes);
    if let Some(description) = stable::<Description>(bytes) {
        description
            .check()
            .expect("what is decoded is within its bounds");
        description.addresses();
        description.public();
    }
}

/// What is decoded is encoded to something that is decoded to the same.
fn stable<T>(bytes: &[u8]) -> Option<T>
where
    T: for<'b> minicbor::Decode<'b, ()> + minicbor::Encode<()> + PartialEq + Debug,
{
    let value: T = minicbor::decode(bytes).ok()?;
    let encoded = minicbor::to_vec(&value).expect("it was decoded");
    assert_eq!(minicbor::decode::<T>(&encoded).expect("own bytes"), value);
    Some(value)
}

/// Frames of the registry's sockets and answers, whole and in pieces.
pub fn frame(bytes: &[u8]) {
    if let Ok(frame) = Frame::decode(bytes) {
        assert_eq!(Frame::decode(&frame.encode()), Ok(frame));
    }
    let _ = Frame::decode_answer(bytes);
    let [whole, pieces] = [bytes.len().max(1), 3].map(|length| {
        let mut reader = FrameReader::default();
        let mut frames = Vec::new();
        for piece in bytes.chunks(length) {
            reader.push(piece);
            while let Some(frame) = reader.next_frame() {
                frames.push(frame);
            }
        }
        (frames, reader.into_rest())
    });
    assert_eq!(whole, pieces, "however it is cut");
}

pub fn refusal(bytes: &[u8]) {
    let envelope = vector::bytes(vector::ENVELOPE);
    let _ = Refusal::decode(bytes, &vector::device().id(), &envelope);
}

/// Text that people and files give, and that candidates and descriptions hold.
pub fn text_forms(bytes: &[u8]) {
    let _ = files::check_path(bytes);
    let _ = address::from_bytes(bytes);
    let _ = listing::Listing::from_json(bytes);
    let Ok(text) = std::str::from_utf8(bytes) else {
        return;
    };
    if let Ok(id) = text.parse::<PeerId>() {
        assert_eq!(id.to_string().parse(), Ok(id));
        assert!(
            text.eq_ignore_ascii_case(&id.to_string()),
            "one form for an ID"
        );
    }
    let code = canonical_code(text);
    assert_eq!(canonical_code(&code), code);
    rtc::read_candidate(text);
}

/// Everything that a service reads from a stream.
pub fn service_frames(bytes: &[u8]) {
    let _ = Open::decode(bytes).map(|open| {
        assert_eq!(Open::decode(&open.encode()[2..]), Ok(open));
    });
    let _ = Opening::decode(bytes);
    if let Ok(message) = shell::ToDevice::decode(bytes) {
        assert_eq!(shell::ToDevice::decode(&message.encode()[2..]), Ok(message));
    }
    if let Ok(message) = shell::ToCaller::decode(bytes) {
        assert_eq!(shell::ToCaller::decode(&message.encode()[2..]), Ok(message));
    }
    let _ = files::FileRequest::decode(bytes);
    let _ = (
        files::FileAnswer::decode(bytes),
        files::Entries::decode(bytes),
    );
    let _ = (
        http::HttpRequest::decode(bytes),
        http::HttpAnswer::decode(bytes),
    );
    let _ = (dial::Dial::decode(bytes), dial::DialEvent::decode(bytes));
    let mut frames = service::FrameBuffer::default();
    for piece in bytes.chunks(7) {
        frames.push(piece);
        while let Ok(Some(_)) = frames.next_frame() {}
    }
    frames.take_rest();
    ranges(bytes);
}

/// The ranges of an upload that have come, and those that are missing, make up the whole.
fn ranges(bytes: &[u8]) {
    const SIZE: u64 = 1 << 16;
    let mut received = Vec::new();
    for pair in bytes.chunks_exact(4).take(64) {
        let [from, to] = [[pair[0], pair[1]], [pair[2], pair[3]]].map(u16::from_be_bytes);
        files::add_range(&mut received, Range(from.into(), to.into()));
    }
    let missing = files::missing_ranges(&received, SIZE);
    let length = |ranges: &[Range]| ranges.iter().map(|range| range.1 - range.0).sum::<u64>();
    assert_eq!(length(&received) + length(&missing), SIZE);
}

/// Messages and byte streams of a relay.
pub fn relay_stream(bytes: &[u8]) {
    for item in relay::items(bytes) {
        if let relay::Item::Datagram(datagram) = item {
            link_tag(datagram);
        }
    }
    for budget in [0, bytes.len() / 2, bytes.len()] {
        assert!(relay::prefix_within(bytes, budget) <= budget);
    }
    let mut reader = StreamReader::default();
    for piece in bytes.chunks(5) {
        reader.push(piece);
        while let Ok(Some(_)) = reader.next_item() {}
    }
}
