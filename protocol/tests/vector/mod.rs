//! The fixed call of PROTOCOL.md, "Examples": its inputs, and the bytes that every implementation
//! must make of them. The bytes were computed by a second implementation written from the document
//! (Python: cbor2, PyNaCl, argon2-cffi), not by this crate.

#![allow(dead_code, unreachable_pub)] // Each test binary uses its part.

pub mod beacon;

use std::convert::Infallible;
use std::net::SocketAddr;

use hpke::rand_core::{TryCryptoRng, TryRng};
use ringback_protocol::candidate::{Candidate, Kind};
use ringback_protocol::envelope::{CallKeys, Envelope, Proof, Request};
use ringback_protocol::receipt::Nat;
use ringback_protocol::reply::Reply;
use ringback_protocol::rtc::{self, Description};
use ringback_protocol::secret::{PASSWORD_ID, Psk};
use ringback_protocol::{SecretKey, UnixTime};

pub const ORIGIN: &str = "https://registry.example";
pub const PASSWORD: &str = "correct horse battery staple";
pub const ISSUED_AT: UnixTime = 1_800_000_000;
pub const CALLER_PUBLIC_ADDRESS: &str = "4.17.168.2:40000";
pub const DEVICE_PUBLIC_ADDRESS: &str = "202.204.16.13:41000";
/// Seeds of the two peers' ping contents.
pub const DEVICE_PATH_SEED: [u8; 32] = [0x5e; 32];
pub const CALLER_PATH_SEED: [u8; 32] = [0x5f; 32];

pub fn device() -> SecretKey {
    SecretKey::from_seed(&[0xd0; 32])
}

pub fn caller() -> SecretKey {
    SecretKey::from_seed(&[0xca; 32])
}

pub fn psk() -> Psk {
    Psk::from_bytes(bytes(PSK).try_into().expect("32 bytes"))
}

pub fn request() -> Request {
    Request {
        id: std::array::from_fn(|i| i as u8),
        issued_at: ISSUED_AT,
        expires_at: ISSUED_AT + 30,
        service: "ssh".into(),
        candidates: vec![
            Candidate::udp(Kind::ServerReflexive, address(CALLER_PUBLIC_ADDRESS)),
            Candidate::udp(Kind::Host, address("192.168.1.11:7000")),
        ],
        remember: true,
        webrtc: None,
        path: 1,
        nat: ringback_protocol::receipt::Nat::Unknown,
    }
}

pub fn reply() -> Reply {
    Reply {
        request_id: request().id,
        candidates: vec![
            Candidate::udp(Kind::Mapped, address(DEVICE_PUBLIC_ADDRESS)),
            Candidate::udp(Kind::Static, address("[2001:db8::3]:443")),
        ],
        remembered: true,
        webrtc: None,
        nat: Nat::EndpointIndependent,
        flight: Vec::new(),
        path: 0,
    }
}

/// A browser's request (§19).
pub fn browser_request() -> Request {
    Request {
        service: "web".into(),
        candidates: Vec::new(),
        remember: false,
        webrtc: Some(Description {
            ufrag: "7Fq1".into(),
            pwd: "mE+3yq/hXrDT0K2yG8bnSwlV".into(),
            fingerprint: [0xf1; 32],
            candidates: vec![
                "candidate:1 1 udp 2113937151 0b0e4b6d-8b55-4d0e-9d6e-5a8e6f6b8f55.local 51000 typ host".into(),
                "candidate:2 1 udp 1677729535 4.17.168.2 40000 typ srflx raddr 0.0.0.0 rport 0".into(),
            ],
            legs: Vec::new(),
        }),
        path: 0,
        ..request()
    }
}

pub fn browser_reply() -> Reply {
    Reply {
        candidates: Vec::new(),
        remembered: false,
        webrtc: Some(Description {
            ufrag: "d9Gk".into(),
            pwd: "Zp0xV5+cH1/uTq7Rj3nW8aLe".into(),
            fingerprint: [0xf2; 32],
            candidates: rtc::candidate_lines(&[
                Candidate::udp(Kind::Mapped, address(DEVICE_PUBLIC_ADDRESS)),
                Candidate::udp(Kind::Host, address("192.168.1.3:7000")),
            ]),
            legs: Vec::new(),
        }),
        ..reply()
    }
}

/// The call's envelope, by password.
pub fn seal() -> (Envelope, CallKeys) {
    let psk = psk();
    let proof = Proof::Secret {
        psk_id: PASSWORD_ID,
        psk: &psk,
    };
    seal_with(proof)
}

pub fn seal_with(proof: Proof<'_>) -> (Envelope, CallKeys) {
    Envelope::seal(
        &request(),
        &caller(),
        &device().id(),
        proof,
        &mut Ikm([0xe0; 32]),
    )
    .expect("the request is sealed")
}

/// Hands HPKE the `ikmE` from which it derives its ephemeral key (RFC 9180, 7.1.3).
pub struct Ikm(pub [u8; 32]);

impl TryRng for Ikm {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        unreachable!("HPKE asks for one block of bytes")
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        unreachable!("HPKE asks for one block of bytes")
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0);
        Ok(())
    }
}

impl TryCryptoRng for Ikm {}

pub fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

pub fn bytes(hex_text: &str) -> Vec<u8> {
    hex::decode(hex_text).expect("hex")
}

/// §2
pub const DEVICE_ID: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxqj3hstk";
pub const CALLER_ID: &str = "rb1genz04f8w0yatndxer7j3633a3aefe524r2zu2knrf6aerfya5rsxxn6ew";
pub const DEVICE_PUBLIC: &str = "e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c";
pub const CALLER_PUBLIC: &str = "466627d52773c9d5cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07";
/// §2, RFC 7748 4.1
pub const DEVICE_X25519: &str = "4edc844b525afeb5a50b5154e097a16a0a0bb78ad1f9847483b3574b11b63e68";
pub const CALLER_X25519: &str = "a47b896bbcad0b47cb0239412c04c357939ec648891accaeb48b70707d00002a";
/// §3.1, of [`PASSWORD`] for the device.
pub const PSK: &str = "054c1590b1bd0d33881e975ea3ca945782ea686a5a69f68d41d37670cb045d5b";
/// §7, the plaintext.
pub const REQUEST: &str = "\
    a70050000102030405060708090a0b0c0d0e0f011a6b49d200021a6b49d21e03637373680482a2000201460411a8\
    029c40a200010146c0a8010b1b5805f50701";
/// §7, mode AuthPSK.
pub const ENVELOPE: &str = "\
    a70001015820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c025820466627d527\
    73c9d5cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07034870617373776f726404582084d7684d28e9\
    c01300915d8d1f7ac7131bf513ffb02a89aa1d1c9d2466546235055850b00b3ae2f46bdd8d9e8df306ff1d1de627\
    2f76c440f688305dc67275c8b3c8faf35c48ed828a969d9b37584229a4a462f6b3cf4df006c8070fcd54026d9cd1\
    68c156beeabdf7058bd0572e148bf716fe065840a75dfc350efb3eeefc969d3c15d11abbe1b0ed110498117b8645\
    a0241ea642ea6e6e31784854ec93fd49e26328b6ead7c4619f7ce9e33268082a052cc8f0330b";
/// §7, mode Auth.
pub const ENVELOPE_BY_KEY: &str = "\
    a70001015820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c025820466627d527\
    73c9d5cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07034004582084d7684d28e9c01300915d8d1f7a\
    c7131bf513ffb02a89aa1d1c9d2466546235055850eeafa97f3a3035c478daceee3636aa9a95fc9cac1fd87ca32a\
    9c026c4e4bf995f2d2b21749bd7666bd193d448acee2510fba8ce7feed26be56efccdb4219b1a880419e3b5024ea\
    506a3c8bd0bf68d8dd0658408bae805074414c4bf7c315c47c2be2facdf884d03fdaf82a495cfb831c42216b7d04\
    35fdbd1976cd12c6781c26f76d9336b569578c26ec71142a2c5317f86304";
/// §10
pub const LINK_TAG: &str = "f6f2b887d39020de";
pub const REPLY_PLAIN: &str = "\
    a40050000102030405060708090a0b0c0d0e0f0182a200030146cacc100da028a20004015220010db80000000000\
    0000000000000301bb02f50302";
/// §8
pub const REPLY: &str = "\
    00b4b4423bbfb6abb3826dca6c2ad093b255daf618081f8c0ffe47a67d29eab381990b5b8d89aca1f0d6f10ad50d\
    554581c8951bee225ed4126825fcabafd2d45d26c5ecd2a191af374ebb75";
/// §9, of [`ENVELOPE`]: rate_limited, 271 s.
pub const REFUSAL: &str = "\
    a4006c726174655f6c696d697465640119010f021a6b49d2010358404d491086d7e0664977b09b1f54ce0523ad33\
    82e600be9d0a58dfee36710cab0318de09e07f88534d9b6478d0dd92153ff324c75f05bcbdae53a4aad440c33502";
/// §9, of [`ENVELOPE`]: wrong_password.
pub const REFUSAL_PLAIN: &str = "\
    a3006e77726f6e675f70617373776f7264021a6b49d201035840a4a0b6bbbd6fffca0abf200855a9f56800230811\
    efd45df6d6afd250a97cc88f417ebe26982dd052c109c0c1745d4260f8a38b49b3dc4875329575d434ee070c";
/// §10: the device's first datagram.
pub const PING: &str =
    "08f6f2b887d39020de00000000f91f091e930f09bbe28dffa404e90164e691eae53fe56a209c";
/// §10: the caller's second datagram, answering [`PING`].
pub const PONG: &str = "\
    08f6f2b887d39020de000000013555289bdd22ca0fdd5da590a4f80a334e5f3638a4bef969b60719d1283941f0fe\
    c347b28ac49bc11c84ee";
pub const QUIC_INITIAL: &str = "c000000001696e697469616c";
/// §10: the device's second datagram, carrying [`QUIC_INITIAL`].
pub const HANDSHAKE: &str =
    "08f6f2b887d39020de00000001e447720045aa7803c53687d405ba6b45c524ebdf6bcaf744dd3fc3498c";
/// §6.1
pub const REGISTER_SIGNATURE: &str = "\
    a40c925322fbae45a036e633e8532c1e8b9eb5314ae7d03acb6ccd4a711beff3aed2f68ca3973c50a17db7b8b3b2\
    59cc129011b1250c49115cf460bbfbd0b602";
/// §5.2
pub const ENROL_SIGNATURE: &str = "\
    33e76486f7381d00fab7649060e6a6d6043b016e4a6ebf843dd25a6817285058ed6925cbc1599a9ce764508b0d26\
    283dcab2f5065a4ec42a73f3ab0b94bce302";
/// §6, one constant per frame.
pub const REGISTER: &str = "\
    01a3005840a40c925322fbae45a036e633e8532c1e8b9eb5314ae7d03acb6ccd4a711beff3aed2f68ca3973c50a1\
    7db7b8b3b259cc129011b1250c49115cf460bbfbd0b602016e72696e676261636b2f302e312e300246cacc100da0\
    28";
pub const REGISTER_UNKNOWN_ADDRESS: &str = "\
    01a2005840a40c925322fbae45a036e633e8532c1e8b9eb5314ae7d03acb6ccd4a711beff3aed2f68ca3973c50a1\
    7db7b8b3b259cc129011b1250c49115cf460bbfbd0b602016e72696e676261636b2f302e312e30";
pub const UPDATE: &str = "02a1005220010db800000000000000000000000301bb";
pub const ACK: &str = "03a10007";
pub const ANSWER: &str = "\
    04a2000701584c00b4b4423bbfb6abb3826dca6c2ad093b255daf618081f8c0ffe47a67d29eab381990b5b8d89ac\
    a1f0d6f10ad50d554581c8951bee225ed4126825fcabafd2d45d26c5ecd2a191af374ebb75";
pub const REFUSE: &str = "\
    05a2000701585ca4006c726174655f6c696d697465640119010f021a6b49d2010358404d491086d7e0664977b09b\
    1f54ce0523ad3382e600be9d0a58dfee36710cab0318de09e07f88534d9b6478d0dd92153ff324c75f05bcbdae53\
    a4aad440c33502";
pub const PLACE: &str = "\
    06a30009015820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c0259010ca70001\
    015820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c025820466627d52773c9d5\
    cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07034870617373776f726404582084d7684d28e9c01300\
    915d8d1f7ac7131bf513ffb02a89aa1d1c9d2466546235055850b00b3ae2f46bdd8d9e8df306ff1d1de6272f76c4\
    40f688305dc67275c8b3c8faf35c48ed828a969d9b37584229a4a462f6b3cf4df006c8070fcd54026d9cd168c156\
    beeabdf7058bd0572e148bf716fe065840a75dfc350efb3eeefc969d3c15d11abbe1b0ed110498117b8645a0241e\
    a642ea6e6e31784854ec93fd49e26328b6ead7c4619f7ce9e33268082a052cc8f0330b";
pub const CHALLENGE: &str = "\
    41a2005820202122232425262728292a2b2c2d2e2f303132333435363738393a3b3c3d3e3f011b000001a3185c50\
    7b";
pub const REGISTERED: &str =
    "42a3006d3230322e3230342e31362e313301636e61730281717374756e2e6578616d706c653a33343738";
pub const DELIVER: &str = "\
    43a200070159010ca70001015820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c\
    025820466627d52773c9d5cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07034870617373776f726404\
    582084d7684d28e9c01300915d8d1f7ac7131bf513ffb02a89aa1d1c9d2466546235055850b00b3ae2f46bdd8d9e\
    8df306ff1d1de6272f76c440f688305dc67275c8b3c8faf35c48ed828a969d9b37584229a4a462f6b3cf4df006c8\
    070fcd54026d9cd168c156beeabdf7058bd0572e148bf716fe065840a75dfc350efb3eeefc969d3c15d11abbe1b0\
    ed110498117b8645a0241ea642ea6e6e31784854ec93fd49e26328b6ead7c4619f7ce9e33268082a052cc8f0330b";
pub const REJECTED: &str =
    "44a3006c726174655f6c696d697465640171746f6f206d616e7920617474656d70747302183c";
pub const REJECTED_FOR_GOOD: &str = "\
    44a200677265766f6b6564017821746865206f776e657220686173207265766f6b65642074686973206465766963\
    65";
pub const UPDATED: &str = "45a1005220010db800000000000000000000000301bb";
pub const DELIVERED: &str = "51a10000";
pub const ANSWERED: &str = "\
    52a2000001584c00b4b4423bbfb6abb3826dca6c2ad093b255daf618081f8c0ffe47a67d29eab381990b5b8d89ac\
    a1f0d6f10ad50d554581c8951bee225ed4126825fcabafd2d45d26c5ecd2a191af374ebb75";
pub const REFUSED: &str = "\
    53a2000001585ca4006c726174655f6c696d697465640119010f021a6b49d2010358404d491086d7e0664977b09b\
    1f54ce0523ad3382e600be9d0a58dfee36710cab0318de09e07f88534d9b6478d0dd92153ff324c75f05bcbdae53\
    a4aad440c33502";
pub const FAILED: &str = "\
    54a40000016e6465766963655f6f66666c696e6502781b74686520646576696365206973206e6f7420636f6e6e65\
    63746564041a6b49aaf0";
pub const FAILED_LIMITED: &str =
    "54a40000016c726174655f6c696d697465640271746f6f206d616e7920617474656d70747303183c";
/// §12, with the 2-byte length.
pub const OPEN: &str = "000761a10063737368";
pub const OPENED: &str = "000262a0";
pub const STREAM_REFUSED: &str = "\
    002c63a2006f756e6b6e6f776e5f7365727669636501776e6f2073657276696365206f662074686973206e616d65";
/// The device's ID with a padding bit set and a checksum to match: not canonical.
pub const ID_PADDED: &str = "rb1uukz3ln33carpt7ywsud5aua2zxjmt26ye06l660xalp64lmpxxp08r9ky";
/// §15
pub const ROOM: &str = "8d0f84058c0354aaa9d76e63c953ad29";
/// §19, the plaintext of a browser's request.
pub const BROWSER_REQUEST: &str = "\
    a80050000102030405060708090a0b0c0d0e0f011a6b49d200021a6b49d21e0363776562048005f406a400643746\
    71310178186d452b3379712f6858724454304b32794738626e53776c56025820f1f1f1f1f1f1f1f1f1f1f1f1f1f1\
    f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f1f10382785663616e6469646174653a3120312075647020323131333933\
    373135312030623065346236642d386235352d346430652d396436652d3561386536663662386635352e6c6f6361\
    6c2035313030302074797020686f7374784d63616e6469646174653a322031207564702031363737373239353335\
    20342e31372e3136382e3220343030303020747970207372666c7820726164647220302e302e302e302072706f72\
    7420300700";
/// §19, the plaintext of the reply to it.
pub const BROWSER_REPLY: &str = "\
    a50050000102030405060708090a0b0c0d0e0f018002f4030204a400646439476b0178185a70307856352b634831\
    2f75547137526a336e5738614c65025820f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2f2\
    f2f2f20382785063616e6469646174653a302031207564702031363934343938383135203230322e3230342e3136\
    2e313320343130303020747970207372666c7820726164647220302e302e302e302072706f72742030783663616e\
    6469646174653a312031207564702032313330373036313735203139322e3136382e312e33203730303020747970\
    20686f7374";
/// §19.2, messages on a data channel.
pub const CHANNEL_HEADER: &str = "0161a10063737368";
pub const CHANNEL_DATA: &str = "006869";
pub const CHANNEL_END: &str = "02";
pub const CHANNEL_RESET: &str = "0300000003";
pub const CHANNEL_CREDIT: &str = "040000000000140000";
/// §5.4
pub const FETCH_SIGNATURE: &str = "\
    c80cbecc171e98863a0797913aac04699d3bc1e69fe0ddd9a88bab06e07deb5cc774afb589baa23424412df6d985\
    f5bc9617e955256150fd3afe72b208217202";
/// §6, with all that may be there.
pub const REGISTER_OF_INSTANCE: &str = "\
    01a3005840a40c925322fbae45a036e633e8532c1e8b9eb5314ae7d03acb6ccd4a711beff3aed2f68ca3973c50a1\
    7db7b8b3b259cc129011b1250c49115cf460bbfbd0b602016e72696e676261636b2f302e312e30031b0102030405\
    060708";
pub const REGISTERED_WITH_RIVAL: &str = "\
    42a4006b3230332e302e3131332e3701636e61730280046b3230332e302e3131332e38";
/// §5.8
pub const UPGRADE_SIGNATURE: &str = "\
    81db0a725867ff6cab08ea03184c474d62c93adce1f0bbfee9f91f90f3b34d3ac1479b7661cd338fb7c7253149f1\
    2002329012e91c007c7d8898e3fee973ff0d";
/// §5.4, of [`ACK`] with its length.
pub const ANSWERS_SIGNATURE: &str = "\
    581b90a729cc75b2ee084431b684fbc0eed091fb06862d62ce35b78925cc4f5c9de4544e1076f374b08f43ab05c4\
    249826b5818c437b771448c9546b4229fa0a";
/// §15
pub const JOIN: &str = "\
    07a40000015820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c025820e72c28fe\
    718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c03584090ce283b1160a8d7b0f200d405b1ec\
    459a2edf157cd03cbd4e5187757811833dfb7886e4e2236626f23d4c40f5fd1bab248716185a5fe5d2c96b8759b4\
    355202";
pub const JOIN_BY_CALLER: &str = "\
    07a40001015820466627d52773c9d5cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07025820e72c28fe\
    718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c0358407d30597f0b58db289a4ec11701bca8\
    1a343acf71506e4f3299978c26b50dda34b42dfba889b0572c284d89189beeb314c0beb733da1df225312a1005f6\
    433805";
/// §6.3
pub const BEACON: &str =
    "08a30073626561636f6e2e6578616d706c653a333437380172626561636f6e2e6578616d706c653a34343302f5";
pub const BEACON_UDP_ONLY: &str = "08a200703230332e302e3131332e353a3334373802f4";
pub const SEEN: &str =
    "09a2005820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c0146cacc100da028";
pub const GONE: &str = "0aa1005820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c";
pub const REGISTERED_BEACONS: &str = "\
    42a4006d3230322e3230342e31362e313301636e61730281717374756e2e6578616d706c653a333437380382a400\
    73626561636f6e2e6578616d706c653a333437380172626561636f6e2e6578616d706c653a34343302f503582046\
    6627d52773c9d5cda6c8fd28ea31ec7b94e68aa8d42e2ad31a75dc8d24ed07a300703230332e302e3131332e353a\
    3334373802f4035820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c";
pub const JOINED: &str = "46a2001a00400000011b0000000280000000";
pub const PEER_PRESENCE: &str = "47a100f5";
pub const KNOWN: &str =
    "48a1005820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c";
pub const KNOWN_NOT: &str =
    "48a2005820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c01677265766f6b6564";
pub const NOTIFY: &str =
    "49a1005820e72c28fe718e3a30afc47438da779d508d2dad5a265fafeb4f377e1d57fb098c";
pub const MARKED: &str = "0ba10007";
pub const MARK: &str = "4aa10007";
/// §15, [`PEER_PRESENCE`] as a message.
pub const RELAY_CONTROL: &str = "0000000447a100f5";
