//! The connection request and the envelope that it travels in (§7).
//!
//! HPKE in mode AuthPSK proves to the device who calls and that the caller knows the password,
//! without sending it; in mode Auth the caller's key alone does. The registry sees the two IDs and
//! the signature, and nothing of the contents.

use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::CryptoRng;
use hpke::{Deserializable as _, Kem, OpModeR, OpModeS, PskBundle, Serializable as _};
use minicbor::{Decode, Encode};

use crate::candidate::Candidate;
use crate::cbor::{self, Malformed, bounded_str};
use crate::path::PathKeys;
use crate::receipt::Nat;
use crate::relay::Room;
use crate::reply::ReplyKey;
use crate::rtc::Description;
use crate::secret::{MAX_PSK_ID, Psk};
use crate::{PeerId, SecretKey, UnixTime, VERSION, label};

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;
type EncappedKey = <X25519HkdfSha256 as Kem>::EncappedKey;

/// Bytes of the largest envelope (§14).
pub const MAX_ENVELOPE: usize = 16 * 1024;
/// Seconds that a request may live at most.
pub const MAX_LIFETIME: u64 = 120;
/// Seconds that a request usually lives.
pub const LIFETIME: u64 = 30;

/// What the caller asks of the device, sealed inside the [`Envelope`].
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Request {
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id: [u8; 16],
    #[n(1)]
    pub issued_at: UnixTime,
    #[n(2)]
    pub expires_at: UnixTime,
    /// The first service wanted.
    #[n(3)]
    pub service: String,
    #[n(4)]
    pub candidates: Vec<Candidate>,
    /// Asks the device to remember the caller's key.
    #[cbor(n(5), default)]
    pub remember: bool,
    /// The caller is a browser, and this is its side of a WebRTC connection.
    #[n(6)]
    pub webrtc: Option<Description>,
    /// Bits: [`DIRECT_ONLY`], [`PADS`].
    #[cbor(n(7), default)]
    pub path: u32,
    /// The caller's NAT.
    #[cbor(n(8), default, skip_if = "Nat::is_unknown")]
    pub nat: Nat,
}

/// Bit of [`Request::path`]: no relay.
pub const DIRECT_ONLY: u32 = 1;
/// Bit of [`Request::path`] and of [`Reply::path`](crate::reply::Reply::path): this end answers pings
/// in their length (§10).
pub const PADS: u32 = 2;

/// A sealed request, as the registry relays it.
#[derive(Clone, PartialEq, Eq, Encode, Decode)]
#[cbor(map)]
pub struct Envelope {
    #[n(0)]
    pub version: u16,
    #[n(1)]
    pub device: PeerId,
    #[n(2)]
    pub caller: PeerId,
    /// Which secret proves the right to call; empty: the caller's key alone (§3.2).
    #[cbor(n(3), with = "minicbor::bytes")]
    pub psk_id: Vec<u8>,
    #[cbor(n(4), with = "minicbor::bytes")]
    enc: [u8; 32],
    #[cbor(n(5), with = "minicbor::bytes")]
    ciphertext: Vec<u8>,
    #[cbor(n(6), with = "minicbor::bytes")]
    signature: [u8; 64],
}

/// How the caller proves that it may call.
#[derive(Debug, Clone, Copy)]
pub enum Proof<'a> {
    /// A shared secret and the name of it.
    Secret { psk_id: &'a [u8], psk: &'a Psk },
    /// The caller's own key, which the device remembers.
    Key,
}

/// Keys that both sides of an opened request share, exported from its HPKE context.
#[derive(Debug, Clone)]
pub struct CallKeys {
    pub reply: ReplyKey,
    pub path: PathKeys,
    /// Where the two ends meet on a relay.
    pub relay: Room,
}

/// Why an envelope is not accepted before or at its opening.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnvelopeError {
    #[error("the envelope has {0} bytes, at most {MAX_ENVELOPE} are taken")]
    TooLarge(usize),
    #[error("the envelope is {0}")]
    Malformed(#[from] Malformed),
    #[error("the envelope speaks protocol version {0}, version {VERSION} is spoken here")]
    Version(u16),
    #[error("the envelope's signature is not its caller's")]
    Signature,
    /// The key, the password or the contents do not fit; HPKE can not tell which.
    #[error("the envelope does not open")]
    Seal,
}

impl Envelope {
    /// Seals `request` from `caller` to `device`.
    pub fn seal(
        request: &Request,
        caller: &SecretKey,
        device: &PeerId,
        proof: Proof<'_>,
        rng: &mut impl CryptoRng,
    ) -> Result<(Self, CallKeys), EnvelopeError> {
        let keypair = (private_key(caller), public_key(&caller.id())?);
        let (psk_id, mode) = match proof {
            Proof::Secret { psk_id, psk } => {
                if psk_id.len() > MAX_PSK_ID {
                    return Err(Malformed(format!("psk_id is over {MAX_PSK_ID} bytes")).into());
                }
                let bundle =
                    PskBundle::new(psk.as_bytes(), psk_id).map_err(|_| EnvelopeError::Seal)?;
                (psk_id.to_vec(), OpModeS::AuthPsk(keypair, bundle))
            }
            Proof::Key => (Vec::new(), OpModeS::Auth(keypair)),
        };
        let info = info(device, &caller.id());
        let (enc, mut context) = hpke::setup_sender_with_rng::<
            ChaCha20Poly1305,
            HkdfSha256,
            X25519HkdfSha256,
        >(&mode, &public_key(device)?, &info, rng)
        .map_err(|_| EnvelopeError::Seal)?;
        let ciphertext = context
            .seal(&cbor::encode(request), &aad(VERSION))
            .map_err(|_| EnvelopeError::Seal)?;
        let keys = CallKeys::export(|context_label, out| context.export(context_label, out));
        let mut envelope = Self {
            version: VERSION,
            device: *device,
            caller: caller.id(),
            psk_id,
            enc: enc.to_bytes().into(),
            ciphertext,
            signature: [0; 64],
        };
        envelope.signature = caller.sign(label::ENVELOPE, &[&envelope.digest()]);
        Ok((envelope, keys))
    }

    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Parses an envelope and verifies its signature: what the registry checks before it relays
    /// and the device before it opens.
    pub fn decode(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        if bytes.len() > MAX_ENVELOPE {
            return Err(EnvelopeError::TooLarge(bytes.len()));
        }
        let envelope: Self = cbor::decode(bytes)?;
        if envelope.version != VERSION {
            return Err(EnvelopeError::Version(envelope.version));
        }
        if envelope.psk_id.len() > MAX_PSK_ID {
            return Err(Malformed(format!("psk_id is over {MAX_PSK_ID} bytes")).into());
        }
        if !envelope
            .caller
            .verify(label::ENVELOPE, &[&envelope.digest()], &envelope.signature)
        {
            return Err(EnvelopeError::Signature);
        }
        Ok(envelope)
    }

    /// Opens the envelope with the device's key, and with `psk` unless `psk_id` is empty.
    /// [`EnvelopeError::Malformed`] means that it did open. Costs two X25519 operations; no password hashing.
    pub fn open(
        &self,
        device: &SecretKey,
        psk: Option<&Psk>,
    ) -> Result<(Request, CallKeys), EnvelopeError> {
        let sender = public_key(&self.caller)?;
        let mode = match psk {
            Some(psk) => {
                let bundle = PskBundle::new(psk.as_bytes(), &self.psk_id)
                    .map_err(|_| EnvelopeError::Seal)?;
                OpModeR::AuthPsk(sender, bundle)
            }
            None => OpModeR::Auth(sender),
        };
        let enc = EncappedKey::from_bytes(&self.enc).map_err(|_| EnvelopeError::Seal)?;
        let info = info(&device.id(), &self.caller);
        let mut context = hpke::setup_receiver::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &private_key(device),
            &enc,
            &info,
        )
        .map_err(|_| EnvelopeError::Seal)?;
        let plaintext = context
            .open(&self.ciphertext, &aad(self.version))
            .map_err(|_| EnvelopeError::Seal)?;
        let request: Request = cbor::decode(&plaintext)?;
        bounded_str(&request.service, crate::name::MAX_LEN, "service")?;
        if request.service.is_empty() {
            return Err(Malformed("service is empty".into()).into());
        }
        let keys = CallKeys::export(|context_label, out| context.export(context_label, out));
        Ok((request, keys))
    }

    fn digest(&self) -> [u8; 32] {
        let psk_id_len = [self.psk_id.len() as u8];
        let parts: [&[u8]; 6] = [
            self.device.as_bytes(),
            self.caller.as_bytes(),
            &psk_id_len,
            &self.psk_id,
            &self.enc,
            &self.ciphertext,
        ];
        label::sha256(&parts.concat())
    }
}

impl std::fmt::Debug for Envelope {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Envelope({:?} → {:?}, {} bytes)",
            self.caller,
            self.device,
            self.ciphertext.len()
        )
    }
}

impl CallKeys {
    fn export(export: impl Fn(&[u8], &mut [u8]) -> Result<(), hpke::HpkeError>) -> Self {
        let key = |name: &str| {
            let mut out = [0; 32];
            export(name.as_bytes(), &mut out).expect("32 bytes are within HKDF's limit");
            out
        };
        let mut tag = [0; 8];
        export(label::PATH_TAG.as_bytes(), &mut tag).expect("8 bytes are within HKDF's limit");
        let mut room = [0; 16];
        export(label::RELAY.as_bytes(), &mut room).expect("16 bytes are within HKDF's limit");
        Self {
            relay: Room(room),
            reply: ReplyKey::from_bytes(key(label::REPLY)),
            path: PathKeys::new(tag, key(label::PATH_DEVICE), key(label::PATH_CALLER)),
        }
    }
}

fn info(device: &PeerId, caller: &PeerId) -> Vec<u8> {
    label::join(label::REQUEST, &[device.as_bytes(), caller.as_bytes()])
}

fn aad(version: u16) -> [u8; 1] {
    [version as u8]
}

fn public_key(id: &PeerId) -> Result<PublicKey, EnvelopeError> {
    PublicKey::from_bytes(&id.to_x25519()).map_err(|_| EnvelopeError::Seal)
}

fn private_key(key: &SecretKey) -> PrivateKey {
    PrivateKey::from_bytes(key.to_x25519().as_slice()).expect("32 bytes are an X25519 key")
}
