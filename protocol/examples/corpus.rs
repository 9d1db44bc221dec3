//! Writes the first inputs of each fuzz target below the folder that is named: the protocol's vectors
//! for the decoders, bytes from a generator with a fixed seed for the state machines, which read
//! steps from them. `cargo xtask fuzz` runs it.

#[path = "../tests/vector/mod.rs"]
mod vector;

use std::fs;
use std::io;
use std::path::Path;

use vector::beacon;

fn main() -> io::Result<()> {
    let Some(folder) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("name the folder to write into"));
    };
    let corpus = Path::new(&folder);
    let envelopes = [vector::ENVELOPE, vector::ENVELOPE_BY_KEY];
    let bodies = [
        vector::REQUEST,
        vector::REPLY_PLAIN,
        vector::BROWSER_REQUEST,
        vector::BROWSER_REPLY,
    ];
    let frames = [
        vector::REGISTER,
        vector::UPDATE,
        vector::ACK,
        vector::ANSWER,
        vector::REFUSE,
        vector::PLACE,
        vector::JOIN,
        vector::BEACON,
        vector::SEEN,
        vector::GONE,
        vector::MARKED,
        vector::CHALLENGE,
        vector::REGISTERED,
        vector::REGISTERED_BEACONS,
        vector::DELIVER,
        vector::REJECTED,
        vector::UPDATED,
        vector::JOINED,
        vector::PEER_PRESENCE,
        vector::KNOWN,
        vector::NOTIFY,
        vector::MARK,
        vector::DELIVERED,
        vector::ANSWERED,
        vector::REFUSED,
        vector::FAILED,
    ];
    let refusals = [vector::REFUSAL, vector::REFUSAL_PLAIN];
    let streams = [vector::OPEN, vector::OPENED, vector::STREAM_REFUSED];
    let relayed = [vector::RELAY_CONTROL, vector::PING, vector::HANDSHAKE];
    let datagrams = [
        beacon::HELLO,
        beacon::COOKIE,
        beacon::REGISTER,
        beacon::REGISTERED,
        beacon::KEEPALIVE,
        beacon::NOTIFICATION,
        beacon::PROBE,
        beacon::LEAVE,
        beacon::RELAY_JOIN,
        beacon::RELAY_JOINED,
    ];
    let in_hex: [(&str, &[&str]); 6] = [
        ("envelope", &envelopes),
        ("request", &bodies),
        ("frame", &frames),
        ("refusal", &refusals),
        ("service_frames", &streams),
        ("relay_stream", &relayed),
    ];
    for (target, inputs) in in_hex {
        write(
            corpus,
            target,
            inputs.iter().map(|text| vector::bytes(text)),
        )?;
    }
    let texts = [
        vector::DEVICE_ID,
        vector::ID_PADDED,
        "ABCD-EFGH-JKMN",
        "docs/a folder/file.txt",
        "candidate:1 1 udp 2130706175 192.168.1.3 7000 typ host",
        r#"{"services":[{"name":"web","kind":"http"}]}"#,
    ];
    write(
        corpus,
        "text_forms",
        texts.iter().map(|text| text.as_bytes().to_vec()),
    )?;
    let stun = [
        "010100002112a4420102030405060708090a0b0c",
        "0101000c2112a4420102030405060708090a0b0c\
        002000080001e1baa5102b44",
    ];
    write(corpus, "stun", stun.iter().map(|text| vector::bytes(text)))?;
    let check = ["0001000c2112a4420102030405060708090a0b0c000600086d696e653a796f75"];
    write(
        corpus,
        "ice_names",
        check.iter().map(|text| vector::bytes(text)),
    )?;
    let machines = [
        "admission",
        "beacon_device",
        "beacon_front",
        "call",
        "channel",
        "path",
        "registration",
        "relay_member",
        "webrtc",
    ];
    for target in machines {
        write(corpus, target, (0..16).map(steps))?;
    }
    // A stranger's datagrams as they come: the first step of a beacon's input is one.
    let raw = datagrams
        .iter()
        .map(|text| [&[0; 4], vector::bytes(text).as_slice()].concat());
    write(corpus, "beacon_front", raw)
}

/// Bytes of a generator that starts from `seed`.
fn steps(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    };
    std::iter::repeat_with(next)
        .take(64 << (seed % 5))
        .collect()
}

/// One file for each input, named by its contents, so that a second run changes nothing.
fn write(corpus: &Path, target: &str, inputs: impl Iterator<Item = Vec<u8>>) -> io::Result<()> {
    let folder = corpus.join(target);
    fs::create_dir_all(&folder)?;
    for input in inputs {
        let sum = input.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        fs::write(folder.join(format!("vector-{sum:016x}")), input)?;
    }
    Ok(())
}
