//! Browsers' links (PROTOCOL §19): WebRTC on the agent's one UDP socket.
//!
//! [`answer`] makes the device's side of a connection from the browser's sealed description, and
//! hands it to a [`driver`] task. Datagrams get there through an [`Inlet`] each; streams come out of
//! [`BrowserLink::accept`] and are served like any other.

mod driver;
mod inlet;
mod link;
mod pacing;
mod stream;
mod transmit;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rand::distr::{Alphanumeric, SampleString as _};
use ringback_protocol::PeerId;
use ringback_protocol::candidate::{self, Candidate, Kind};
use ringback_protocol::rtc::{self, Description};
use str0m::config::Fingerprint;
use str0m::crypto::CryptoProvider;
use str0m::ice::IceCreds;
use str0m::{Candidate as IceCandidate, Rtc, RtcConfig};

use crate::endpoint::PathSocket;
use driver::Driver;
pub(crate) use inlet::Inlets;
pub(crate) use link::{BrowserLink, Ending};
pub(crate) use stream::{ChannelReader, ChannelWriter};

/// Links of browsers at a time, those under way included.
pub(crate) const MAX_LINKS: usize = 32;
/// From the device's yes to the established link.
const PATIENCE: Duration = Duration::from_secs(15);
/// Bytes that the browser may send before SCTP hears that they were taken. Data is bounded more
/// tightly, per channel, by credit; this is what one round trip may hold.
const RECEIVE_WINDOW: u32 = 4 << 20;
/// Bytes that may be under way to the browser at most, whatever the path's round trip.
const SEND_WINDOW: usize = 8 << 20;
/// Bytes of the datagrams that are sent: what browsers use. Nothing looks for a larger size here.
const DATAGRAM: usize = 1200;

/// The addresses that ICE takes for this agent's own. The socket listens on all of the host's, the
/// kernel chooses where from to answer, and the browser hears the real ones from the description:
/// what is told apart here is the family only.
const BASE_V4: &str = "192.0.2.1:9";
const BASE_V6: &str = "[2001:db8::1]:9";

/// The device's side of a connection, and the link that it may become. Checks go out at once: that
/// is the dial-back.
pub(crate) fn answer(
    socket: &Arc<PathSocket>,
    caller: PeerId,
    offer: &Description,
    own: &[Candidate],
    loopback: bool,
) -> Result<(Description, BrowserLink)> {
    let now = Instant::now();
    let credentials = credentials();
    let mut rtc = configuration(&credentials).build(now);
    for base in [BASE_V4, BASE_V6] {
        let base = base.parse()?;
        let base = IceCandidate::host(base, "udp").context("the own candidate")?;
        rtc.add_local_candidate(base);
    }
    let named = candidate::rank(&offer.addresses(), loopback);
    for candidate in &named {
        rtc.add_remote_candidate(remote(candidate)?);
    }
    let mut direct = rtc.direct_api();
    direct.set_ice_controlling(false);
    direct.set_remote_ice_credentials(IceCreds {
        ufrag: offer.ufrag.clone(),
        pass: offer.pwd.clone(),
    });
    direct.set_remote_fingerprint(Fingerprint {
        hash_func: "sha-256".into(),
        bytes: offer.fingerprint.to_vec(),
    });
    direct.start_dtls(true).context("DTLS")?;
    direct.start_sctp(true);
    let fingerprint = &direct.local_dtls_fingerprint().bytes;
    let description = Description {
        fingerprint: fingerprint.as_slice().try_into().context("SHA-256")?,
        candidates: rtc::candidate_lines(&candidate::rank(own, loopback)),
        ufrag: credentials.ufrag,
        pwd: credentials.pass,
    };
    let addresses: Vec<_> = named.iter().map(|candidate| candidate.address).collect();
    let inlet = socket.browsers().open(&description.ufrag, &addresses);
    let link = Driver::start(socket.clone(), caller, rtc, inlet);
    Ok((description, link))
}

fn configuration(credentials: &IceCreds) -> RtcConfig {
    Rtc::builder()
        .set_crypto_provider(provider())
        .set_local_ice_credentials(credentials.clone())
        .clear_codecs()
        .set_mtu(DATAGRAM..=1500)
        .set_sctp_max_buffered_amount(SEND_WINDOW)
        // SCTP's receive window is at least the largest message; none that is over what §19.2
        // allows is taken for all that.
        .set_sctp_max_message_size(RECEIVE_WINDOW)
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(str0m::crypto::from_feature_flags())
}

/// Fresh for every call: datagrams are told apart by the name.
fn credentials() -> IceCreds {
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
