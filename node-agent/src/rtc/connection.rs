//! One connection of WebRTC by str0m: its credentials and certificate, its windows and its checks.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::distr::{Alphanumeric, SampleString as _};
use ringback_protocol::candidate::{Candidate, Kind};
use sha2::{Digest as _, Sha256};
use str0m::config::{DtlsCert, Fingerprint};
use str0m::crypto::CryptoProvider;
use str0m::ice::IceCreds;
use str0m::{Candidate as IceCandidate, Rtc, RtcConfig};

/// From the device's yes to the established link.
pub(super) const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that the browser may send before SCTP hears that they were taken. Data is bounded more
/// tightly, per channel, by credit; this is what one round trip may hold.
const RECEIVE_WINDOW: u32 = 4 << 20;
/// Bytes that may be under way to the browser at most, whatever the path's round trip.
pub(super) const SEND_WINDOW: usize = 8 << 20;
/// Bytes of the datagrams that are sent: what browsers use. Nothing looks for a larger size here.
const DATAGRAM: usize = 1200;

/// From a check to the same check again. The browser's router drops the device's first one, which came
/// before the browser's own: this is what is waited for then, since str0m does not answer a check by
/// one of its own at once (RFC 8445, 7.3.1.4).
const CHECK_AGAIN: Duration = Duration::from_millis(50);
/// Two more than usual, as the first ones are closer together: a lost path is noticed as late.
const CHECKS: usize = 11;

/// The addresses that ICE takes for this agent's own. The socket listens on all of the host's, the
/// kernel chooses where from to answer, and the browser hears the real ones from the description:
/// what is told apart here is the family only.
pub(super) const BASE_V4: &str = "192.0.2.1:9";
pub(super) const BASE_V6: &str = "[2001:db8::1]:9";

/// The certificates of a call's two ends, in all its connections.
pub(super) struct Pinned {
    pub(super) fingerprint: [u8; 32],
    pub(super) certificate: DtlsCert,
}

impl Pinned {
    pub(super) fn own_fingerprint(&self) -> [u8; 32] {
        Sha256::digest(&self.certificate.certificate).into()
    }
}

pub(super) fn certificate() -> Result<DtlsCert> {
    let certificate = provider().dtls_provider.generate_certificate();
    certificate.context("no certificate could be made")
}

/// One connection that tries the named addresses.
pub(super) fn connection(
    pinned: &Pinned,
    own: &IceCreds,
    theirs: IceCreds,
    named: &[Candidate],
) -> Result<Rtc> {
    let config = configuration(own).set_dtls_cert(pinned.certificate.clone());
    let mut rtc = config.build(Instant::now());
    for base in [BASE_V4, BASE_V6] {
        let base = IceCandidate::host(base.parse()?, "udp").context("the own candidate")?;
        rtc.add_local_candidate(base);
    }
    for candidate in named {
        rtc.add_remote_candidate(remote(candidate)?);
    }
    let mut direct = rtc.direct_api();
    direct.set_ice_controlling(false);
    direct.set_remote_ice_credentials(theirs);
    direct.set_remote_fingerprint(Fingerprint {
        hash_func: "sha-256".into(),
        bytes: pinned.fingerprint.to_vec(),
    });
    direct.start_dtls(true).context("DTLS")?;
    direct.start_sctp(true);
    Ok(rtc)
}

pub(super) fn configuration(credentials: &IceCreds) -> RtcConfig {
    let mut config = Rtc::builder();
    config.set_initial_stun_rto(CHECK_AGAIN);
    config.set_max_stun_retransmits(CHECKS);
    config
        .set_crypto_provider(provider())
        .set_local_ice_credentials(credentials.clone())
        .clear_codecs()
        .set_mtu(DATAGRAM..=1500)
        // The driver keeps to the window itself.
        .set_sctp_max_buffered_amount(2 * SEND_WINDOW)
        // SCTP's receive window is at least the largest message; none that is over what §19.2
        // allows is taken for all that.
        .set_sctp_max_message_size(RECEIVE_WINDOW)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(str0m::crypto::from_feature_flags())
}

/// Fresh for every call: datagrams are told apart by the name.
pub(super) fn credentials() -> IceCreds {
    let mut rng = rand::rng();
    IceCreds {
        ufrag: Alphanumeric.sample_string(&mut rng, 12),
        pass: Alphanumeric.sample_string(&mut rng, 32),
    }
}

fn remote(candidate: &Candidate) -> Result<IceCandidate> {
    let address = candidate.address;
    Ok(match candidate.kind {
        Kind::Host => IceCandidate::host(address, "udp"),
        Kind::Relayed => IceCandidate::relayed(address, address, "udp"),
        _ => IceCandidate::server_reflexive(address, address, "udp"),
    }?)
}
