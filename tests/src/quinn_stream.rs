//! One bare quinn stream between two processes: what QUIC can carry here when nothing of the
//! product is in the way. It has the product's crypto provider and is tuned as well as it can be.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, ServerConfig,
    TokioRuntime, TransportConfig, VarInt,
    congestion::{BbrConfig, CubicConfig, NewRenoConfig},
    crypto::rustls::{QuicClientConfig, QuicServerConfig},
};
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};

use crate::transfer::Transfer;

/// What can be turned. The defaults are what was fastest.
#[derive(Clone, Debug, Args)]
pub struct Tuning {
    /// Flow control window of a stream and of the connection, and send window, in bytes.
    #[arg(long, default_value_t = 16 << 20)]
    pub window: u32,
    /// Upper bound of MTU discovery: UDP payload in bytes (0: no discovery).
    #[arg(long, default_value_t = 1472)]
    pub mtu: u16,
    /// UDP payload to start with, in bytes.
    #[arg(long, default_value_t = 1200)]
    pub initial_mtu: u16,
    /// Socket buffers, in bytes (0: the system's default).
    #[arg(long, default_value_t = 4 << 20)]
    pub socket_buffer: usize,
    /// Congestion controller.
    #[arg(long, value_enum, default_value_t = Congestion::Cubic)]
    pub congestion: Congestion,
    /// Without generic segmentation offload.
    #[arg(long)]
    pub no_gso: bool,
    /// The first cipher suite offered.
    #[arg(long, value_enum, default_value_t = Cipher::Aes128)]
    pub cipher: Cipher,
}

/// A congestion controller of quinn.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// The one of RFC 9002.
    NewReno,
    /// Experimental in quinn.
    Bbr,
}

/// A cipher suite of TLS 1.3.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Cipher {
    /// AES-128-GCM.
    Aes128,
    /// AES-256-GCM.
    Aes256,
    /// ChaCha20-Poly1305.
    Chacha20,
}

const ALPN: &[u8] = b"ringback-lab";
const CHUNK: usize = 1 << 20;

/// Opens the server's socket; call in a tokio runtime. See [`serve`].
pub fn listen(local: SocketAddr, tuning: &Tuning) -> Result<Endpoint> {
    let certified = rcgen::generate_simple_self_signed(vec!["lab".into()])?;
    let key = PrivatePkcs8KeyDer::from(certified.signing_key.serialize_der());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider(tuning.cipher))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key.into())?;
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(transport(tuning)?);
    endpoint(local, tuning, Some(config))
}

/// Serves until the endpoint is closed: each stream asks for a number of bytes and gets them.
pub async fn serve(endpoint: Endpoint) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(async move {
            let connection = incoming.await?;
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(answer(send, receive));
            }
            anyhow::Ok(())
        });
    }
}

/// Fetches so many bytes over one stream of a new connection.
pub async fn fetch(server: SocketAddr, bytes: u64, tuning: &Tuning) -> Result<Transfer> {
    let mut tls = rustls::ClientConfig::builder_with_provider(provider(tuning.cipher))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody(provider(tuning.cipher))))
        .with_no_client_auth();
    tls.alpn_protocols = vec![ALPN.to_vec()];
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(transport(tuning)?);
    let mut endpoint = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), tuning, None)?;
    endpoint.set_default_client_config(config);
    let start = Instant::now();
    let connection = endpoint.connect(server, "lab")?.await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(&bytes.to_be_bytes()).await?;
    send.finish()?;
    let mut total = 0;
    while let Some(chunk) = receive.read_chunk(usize::MAX, true).await? {
        total += chunk.bytes.len() as u64;
    }
    let seconds = start.elapsed().as_secs_f64();
    ensure!(total == bytes, "{total} of {bytes} bytes arrived");
    connection.close(VarInt::from_u32(0), b"done");
    endpoint.wait_idle().await;
    Ok(Transfer { bytes, seconds })
}

async fn answer(mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> Result<()> {
    let mut length = [0; 8];
    receive.read_exact(&mut length).await?;
    let mut left = u64::from_be_bytes(length);
    let chunk = bytes::Bytes::from(vec![0x5a; CHUNK]);
    while left > 0 {
        let length = left.min(CHUNK as u64);
        send.write_chunk(chunk.slice(..length as usize)).await?;
        left -= length;
    }
    send.finish()?;
    Ok(())
}

fn endpoint(local: SocketAddr, tuning: &Tuning, server: Option<ServerConfig>) -> Result<Endpoint> {
    let socket = UdpSocket::bind(local).with_context(|| format!("can not bind UDP {local}"))?;
    if tuning.socket_buffer > 0 {
        let socket = socket2::SockRef::from(&socket);
        socket.set_recv_buffer_size(tuning.socket_buffer)?;
        socket.set_send_buffer_size(tuning.socket_buffer)?;
    }
    Ok(Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        Arc::new(TokioRuntime),
    )?)
}

fn transport(tuning: &Tuning) -> Result<Arc<TransportConfig>> {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(tuning.window.into())
        .receive_window(tuning.window.into())
        .send_window(tuning.window.into())
        .initial_mtu(tuning.initial_mtu)
        .enable_segmentation_offload(!tuning.no_gso)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(10_000))));
    transport.mtu_discovery_config((tuning.mtu > 0).then(|| {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(tuning.mtu);
        discovery
    }));
    transport.congestion_controller_factory(match tuning.congestion {
        Congestion::Cubic => Arc::new(CubicConfig::default()),
        Congestion::NewReno => Arc::new(NewRenoConfig::default()),
        Congestion::Bbr => Arc::new(BbrConfig::default()),
    });
    Ok(Arc::new(transport))
}

fn provider(first: Cipher) -> Arc<CryptoProvider> {
    use rustls::crypto::aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let first = match first {
        Cipher::Aes128 => TLS13_AES_128_GCM_SHA256,
        Cipher::Aes256 => TLS13_AES_256_GCM_SHA384,
        Cipher::Chacha20 => TLS13_CHACHA20_POLY1305_SHA256,
    };
    // QUIC's first packets are protected with AES-128-GCM whatever is negotiated later.
    provider.cipher_suites = vec![first];
    if first != TLS13_AES_128_GCM_SHA256 {
        provider.cipher_suites.push(TLS13_AES_128_GCM_SHA256);
    }
    Arc::new(provider)
}

/// Takes every certificate: this is a measurement between two processes of the lab.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, supported)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let supported = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, supported)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
