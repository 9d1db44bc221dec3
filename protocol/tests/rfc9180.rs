//! HPKE as the envelope uses it (§7) against the test vectors of RFC 9180, appendix A.2:
//! DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20Poly1305.

mod vector;

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, PskBundle, Serializable as _};
use vector::{Ikm, bytes};

const INFO: &str = "4f6465206f6e2061204772656369616e2055726e";
const PLAINTEXT: &str = "4265617574792069732074727574682c20747275746820626561757479";

/// One setup of the appendix: hexadecimal, named as there.
struct Setup {
    ikm_e: &'static str,
    sk_r: &'static str,
    pk_r: &'static str,
    sk_s: &'static str,
    pk_s: &'static str,
    /// Empty in mode Auth.
    psk: &'static str,
    psk_id: &'static str,
    enc: &'static str,
    /// Under sequence numbers 0, 1 and 2.
    ciphertexts: [&'static str; 3],
    /// For the exporter contexts "", 00 and "TestContext".
    exported: [&'static str; 3],
}

/// A.2.3
const AUTH: Setup = Setup {
    ikm_e: "938d3daa5a8904540bc24f48ae90eed3f4f7f11839560597b55e7c9598c996c0",
    sk_r: "3ca22a6d1cda1bb9480949ec5329d3bf0b080ca4c45879c95eddb55c70b80b82",
    pk_r: "1a478716d63cb2e16786ee93004486dc151e988b34b475043d3e0175bdb01c44",
    sk_s: "2def0cb58ffcf83d1062dd085c8aceca7f4c0c3fd05912d847b61f3e54121f05",
    pk_s: "f0f4f9e96c54aeed3f323de8534fffd7e0577e4ce269896716bcb95643c8712b",
    psk: "",
    psk_id: "",
    enc: "f7674cc8cd7baa5872d1f33dbaffe3314239f6197ddf5ded1746760bfc847e0e",
    ciphertexts: [
        "ab1a13c9d4f01a87ec3440dbd756e2677bd2ecf9df0ce7ed73869b98e00c09be111cb9fdf077347aeb88e61bdf",
        "3265c7807ffff7fdace21659a2c6ccffee52a26d270c76468ed74202a65478bfaedfff9c2b7634e24f10b71016",
        "3aadee86ad2a05081ea860033a9d09dbccb4acac2ded0891da40f51d4df19925f7a767b076a5cbc9355c8fd35e",
    ],
    exported: [
        "070cffafd89b67b7f0eeb800235303a223e6ff9d1e774dce8eac585c8688c872",
        "2852e728568d40ddb0edde284d36a4359c56558bb2fb8837cd3d92e46a3a14a8",
        "1df39dc5dd60edcbf5f9ae804e15ada66e885b28ed7929116f768369a3f950ee",
    ],
};

/// A.2.4
const AUTH_PSK: Setup = Setup {
    ikm_e: "49d6eac8c6c558c953a0a252929a818745bb08cd3d29e15f9f5db5eb2e7d4b84",
    sk_r: "7b36a42822e75bf3362dfabbe474b3016236408becb83b859a6909e22803cb0c",
    pk_r: "a5099431c35c491ec62ca91df1525d6349cb8aa170c51f9581f8627be6334851",
    sk_s: "90761c5b0a7ef0985ed66687ad708b921d9803d51637c8d1cb72d03ed0f64418",
    pk_s: "3ac5bd4dd66ff9f2740bef0d6ccb66daa77bff7849d7895182b07fb74d087c45",
    psk: "0247fd33b913760fa1fa51e1892d9f307fbe65eb171e8132c2af18555a738b82",
    psk_id: "456e6e796e20447572696e206172616e204d6f726961",
    enc: "656a2e00dc9990fd189e6e473459392df556e9a2758754a09db3f51179a3fc02",
    ciphertexts: [
        "9aa52e29274fc6172e38a4461361d2342585d3aeec67fb3b721ecd63f059577c7fe886be0ede01456ebc67d597",
        "59460bacdbe7a920ef2806a74937d5a691d6d5062d7daafcad7db7e4d8c649adffe575c1889c5c2e3a49af8e3e",
        "5688ff6a03ba26ae936044a5c800f286fb5d1eccdd2a0f268f6ff9773b51169318d1a1466bb36263415071db00",
    ],
    exported: [
        "c23ebd4e7a0ad06a5dddf779f65004ce9481069ce0f0e6dd51a04539ddcbd5cd",
        "ed7ff5ca40a3d84561067ebc8e01702bc36cf1eb99d42a92004642b9dfaadd37",
        "d3bae066aa8da27d527d85c040f7dd6ccb60221c902ee36a82f70bcd62a60ee4",
    ],
};

const EXPORTER_CONTEXTS: [&[u8]; 3] = [b"", b"\0", b"TestContext"];

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

fn public(hex: &str) -> PublicKey {
    PublicKey::from_bytes(&bytes(hex)).expect("a public key")
}

fn private(hex: &str) -> PrivateKey {
    PrivateKey::from_bytes(&bytes(hex)).expect("a private key")
}

fn aad(sequence: usize) -> Vec<u8> {
    format!("Count-{sequence}").into_bytes()
}

fn check(setup: &Setup) {
    let (psk, psk_id) = (bytes(setup.psk), bytes(setup.psk_id));
    let bundle = || PskBundle::new(&psk, &psk_id).expect("both or neither");
    let sender_keys = (private(setup.sk_s), public(setup.pk_s));
    let (sender_mode, receiver_mode) = if psk.is_empty() {
        (
            OpModeS::Auth(sender_keys),
            OpModeR::Auth(public(setup.pk_s)),
        )
    } else {
        (
            OpModeS::AuthPsk(sender_keys, bundle()),
            OpModeR::AuthPsk(public(setup.pk_s), bundle()),
        )
    };
    let (enc, mut sender) =
        hpke::setup_sender_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &sender_mode,
            &public(setup.pk_r),
            &bytes(INFO),
            &mut Ikm(bytes(setup.ikm_e).try_into().expect("32 bytes")),
        )
        .expect("a sender");
    assert_eq!(hex::encode(enc.to_bytes()), setup.enc);
    let mut receiver = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &receiver_mode,
        &private(setup.sk_r),
        &EncappedKey::from_bytes(&bytes(setup.enc)).expect("an encapsulated key"),
        &bytes(INFO),
    )
    .expect("a receiver");
    for (sequence, expected) in setup.ciphertexts.into_iter().enumerate() {
        let sealed = sender
            .seal(&bytes(PLAINTEXT), &aad(sequence))
            .expect("sealed");
        assert_eq!(hex::encode(sealed), expected, "sequence {sequence}");
        let opened = receiver
            .open(&bytes(expected), &aad(sequence))
            .expect("opened");
        assert_eq!(hex::encode(opened), PLAINTEXT, "sequence {sequence}");
    }
    for (context, expected) in EXPORTER_CONTEXTS.into_iter().zip(setup.exported) {
        let mut at_sender = [0; 32];
        sender.export(context, &mut at_sender).expect("exported");
        assert_eq!(hex::encode(at_sender), expected);
        let mut at_receiver = [0; 32];
        receiver
            .export(context, &mut at_receiver)
            .expect("exported");
        assert_eq!(at_receiver, at_sender);
    }
}

#[test]
fn mode_auth() {
    check(&AUTH);
}

#[test]
fn mode_auth_psk() {
    check(&AUTH_PSK);
}

#[test]
fn another_psk_or_sender_does_not_open() {
    for (psk, psk_id, pk_s) in [
        (AUTH.sk_r, AUTH_PSK.psk_id, AUTH_PSK.pk_s),
        (AUTH_PSK.psk, "00", AUTH_PSK.pk_s),
        (AUTH_PSK.psk, AUTH_PSK.psk_id, AUTH.pk_s),
    ] {
        let (psk, psk_id) = (bytes(psk), bytes(psk_id));
        let bundle = PskBundle::new(&psk, &psk_id).expect("both");
        let mut receiver = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::AuthPsk(public(pk_s), bundle),
            &private(AUTH_PSK.sk_r),
            &EncappedKey::from_bytes(&bytes(AUTH_PSK.enc)).expect("an encapsulated key"),
            &bytes(INFO),
        )
        .expect("a receiver");
        let opened = receiver.open(&bytes(AUTH_PSK.ciphertexts[0]), &aad(0));
        assert!(opened.is_err());
    }
}
