//! TLS of the direct hop (PROTOCOL §11): raw public keys on both sides (RFC 7250), each end pinned
//! to the one key that the envelope names, post-quantum key agreement only.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{AckFrequencyConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use ringback_protocol::{PeerId, SecretKey};
use rustls::client::AlwaysResolvesClientRawPublicKeys;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{
    CertificateDer, PrivatePkcs8KeyDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use rustls::server::AlwaysResolvesServerRawPublicKeys;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};

use super::congestion::{LossAware, Moves};
use crate::link_windows::AT_FIRST;

const ALPN: &[u8] = b"ringback/1";
/// DER before the 32 bytes of an Ed25519 public key (RFC 8410, 4).
const SPKI_PREFIX: [u8; 12] = [
    0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
];
/// DER before the 32 bytes of an Ed25519 seed (RFC 8410, 7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];

/// A link without a sign of life for this long is over.
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// Before the first round trip is measured; the loss of a first datagram costs three times this.
const INITIAL_RTT: Duration = Duration::from_millis(100);
/// Bytes in flight: 1 Gb/s over 130 ms for a stream; for all streams of a link together see
/// [`crate::link_windows`].
const STREAM_WINDOW: u32 = 16 << 20;
/// Streams of a link that may be open at a time.
const MAX_STREAMS: u32 = 1024;
/// What QUIC is told: it gives back the right to open a stream once an eighth of all have ended, and not
/// with each; so many may be open whatever has not been given back.
const STREAMS_GRANTED: u32 = MAX_STREAMS + MAX_STREAMS / 7 + 1;
/// Longer packets are tried again after this time: the path may be another one by then.
const MTU_SEARCH: Duration = Duration::from_secs(60);
/// Datagrams per acknowledgement that the peer is asked for (QUIC Acknowledgement Frequency draft).
const ACK_EVERY: u32 = 10;

/// This end's key, ready for handshakes.
#[derive(Debug, Clone)]
pub(super) struct Credentials {
    key: Arc<CertifiedKey>,
    provider: Arc<CryptoProvider>,
}

impl Credentials {
    pub(super) fn new(key: &SecretKey) -> Result<Self> {
        let provider = Arc::new(CryptoProvider {
            kx_groups: vec![aws_lc_rs::kx_group::X25519MLKEM768],
            ..aws_lc_rs::default_provider()
        });
        let pkcs8 = [PKCS8_PREFIX.as_slice(), key.seed().as_slice()].concat();
        let signer = aws_lc_rs::sign::any_eddsa_type(&PrivatePkcs8KeyDer::from(pkcs8))
            .context("unusable key")?;
        let certified = CertifiedKey::new(vec![CertificateDer::from(spki(&key.id()))], signer);
        Ok(Self {
            key: Arc::new(certified),
            provider,
        })
    }

    /// For the device, which dials. `moves` are the link's.
    pub(super) fn client(&self, peer: PeerId, moves: Moves) -> Result<quinn::ClientConfig> {
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(self.pinned(peer)))
            .with_client_cert_resolver(Arc::new(AlwaysResolvesClientRawPublicKeys::new(
                self.key.clone(),
            )));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        let mut config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
        config.transport_config(Arc::new(transport(moves)));
        Ok(config)
    }

    /// For the caller, which is dialled. `moves` are the link's.
    pub(super) fn server(&self, peer: PeerId, moves: Moves) -> Result<quinn::ServerConfig> {
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(self.pinned(peer)))
            .with_cert_resolver(Arc::new(AlwaysResolvesServerRawPublicKeys::new(
                self.key.clone(),
            )));
        tls.alpn_protocols = vec![ALPN.to_vec()];
        tls.send_tls13_tickets = 0;
        let mut config =
            quinn::ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
        config
            .transport_config(Arc::new(transport(moves)))
            .migration(false);
        Ok(config)
    }

    fn pinned(&self, peer: PeerId) -> Pinned {
        Pinned {
            spki: spki(&peer),
            algorithms: self.provider.signature_verification_algorithms,
        }
    }
}

/// Accepts exactly one key.
#[derive(Debug)]
struct Pinned {
    spki: Vec<u8>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Pinned {
    fn check_key(&self, key: &CertificateDer<'_>) -> Result<(), Error> {
        if key.as_ref() == self.spki {
            Ok(())
        } else {
            Err(Error::InvalidCertificate(
                CertificateError::ApplicationVerificationFailure,
            ))
        }
    }

    fn check_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let spki = SubjectPublicKeyInfoDer::from(key.as_ref());
        verify_tls13_signature_with_raw_key(message, &spki, dss, &self.algorithms)
    }
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.check_key(key)
            .map(|()| ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        key: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_key(key)
            .map(|()| ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(
            rustls::PeerIncompatible::Tls12NotOffered,
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        key: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.check_signature(message, key, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn spki(id: &PeerId) -> Vec<u8> {
    [SPKI_PREFIX.as_slice(), id.as_bytes()].concat()
}

fn transport(moves: Moves) -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.interval(MTU_SEARCH);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::try_from(IDLE_TIMEOUT).expect("fits")))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .initial_rtt(INITIAL_RTT)
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(AT_FIRST))
        .send_window(u64::from(AT_FIRST))
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_GRANTED))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(LossAware(moves)))
        .datagram_receive_buffer_size(None);
    // Measured: a sixth less CPU per byte than with an acknowledgement for every second datagram.
    let mut acks = AckFrequencyConfig::default();
    acks.ack_eliciting_threshold(VarInt::from_u32(ACK_EVERY));
    transport.ack_frequency_config(Some(acks));
    transport
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr};

    use quinn::{Connection, Endpoint, ReadError, RecvStream, SendStream};
    use tokio::io::AsyncReadExt;

    use super::*;
    use crate::link::open_within;
    use crate::stream::Stream;

    const SOON: Duration = Duration::from_secs(5);

    /// The two ends of a link, as QUIC has them: the device's and the caller's.
    struct Pair {
        device: Connection,
        caller: Connection,
        _endpoints: (Endpoint, Endpoint),
    }

    impl Pair {
        async fn new() -> Self {
            let (device, caller) = (1, 2);
            let key = |number| SecretKey::from_seed(&[number; 32]);
            let credentials = |number| Credentials::new(&key(number)).unwrap();
            let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
            let server = credentials(caller)
                .server(key(device).id(), Moves::default())
                .unwrap();
            let called = Endpoint::server(server, any).unwrap();
            let dialling = Endpoint::client(any).unwrap();
            let client = credentials(device)
                .client(key(caller).id(), Moves::default())
                .unwrap();
            let there = called.local_addr().unwrap();
            let dialled = dialling.connect_with(client, there, "ringback").unwrap();
            let accepted = async { called.accept().await.unwrap().await.unwrap() };
            let (dialled, accepted) = tokio::join!(dialled, accepted);
            Self {
                device: dialled.unwrap(),
                caller: accepted,
                _endpoints: (called, dialling),
            }
        }
    }

    type Ends = ((SendStream, RecvStream), (SendStream, RecvStream));

    impl Pair {
        /// A stream that the caller has opened, at both ends.
        async fn stream(&self) -> Ends {
            let (mut send, recv) = open_within(&self.caller, SOON).await.unwrap();
            send.write_all(b"x").await.unwrap();
            ((send, recv), self.device.accept_bi().await.unwrap())
        }
    }

    #[tokio::test]
    async fn a_header_that_is_none_resets_the_stream() {
        let pair = Pair::new().await;
        for header in [&[0x10, 0x01, 1][..], &[0, 3, 0xff, 0xff, 0xff]] {
            let (mut send, mut recv) = pair.caller.open_bi().await.unwrap();
            send.write_all(header).await.unwrap();
            let stream = pair.device.accept_bi().await.unwrap();
            Stream::quic(stream).read_open().await.unwrap_err();
            let ended = recv.read(&mut [0]).await.unwrap_err();
            assert_eq!(ended, ReadError::Reset(VarInt::from_u32(2)), "{header:?}");
            assert_eq!(send.stopped().await.unwrap(), Some(VarInt::from_u32(2)));
        }
    }

    #[tokio::test]
    async fn a_stream_beyond_those_of_a_link_is_waited_for_and_then_told_of() {
        let pair = Pair::new().await;
        let mut held = Vec::new();
        for _ in 1..MAX_STREAMS {
            held.push(pair.stream().await);
        }
        // As many as there may be leave room for one at a time, for as long as one likes.
        for _ in 0..MAX_STREAMS / 2 {
            let ((mut send, mut recv), (mut answer, mut asked)) = pair.stream().await;
            send.finish().unwrap();
            answer.finish().unwrap();
            for end in [&mut asked, &mut recv] {
                AsyncReadExt::read_to_end(end, &mut Vec::new())
                    .await
                    .unwrap();
            }
        }
        let patience = Duration::from_millis(50);
        let mut more = Vec::new();
        let error = loop {
            match open_within(&pair.caller, patience).await {
                Ok(stream) => more.push(stream),
                Err(error) => break error,
            }
            assert!(held.len() + more.len() <= STREAMS_GRANTED as usize);
        };
        let told = error.to_string();
        assert!(told.contains("as many streams as it may"), "{told}");
    }
}
