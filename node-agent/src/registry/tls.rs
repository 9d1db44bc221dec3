//! TLS to the registry: TLS 1.3 or 1.2, by the system's CAs or by a CA file.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use tokio_rustls::TlsConnector;

use super::Roots;

/// The usual connector, and the one for a short first flight: it offers X25519 first, and the
/// post-quantum exchange only if the registry insists.
pub(super) fn connectors(ca: Option<&Path>) -> Result<(TlsConnector, TlsConnector)> {
    let roots = match ca {
        Some(file) => from_file(file)?,
        None => system()?,
    };
    let usual = rustls::crypto::aws_lc_rs::default_provider();
    let mut quick = usual.clone();
    quick
        .kx_groups
        .sort_by_key(|group| group.name() != NamedGroup::X25519);
    Ok((connector(usual, roots.clone())?, connector(quick, roots)?))
}

fn connector(provider: CryptoProvider, roots: Roots) -> Result<TlsConnector> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// What a failed handshake means for the person at the keyboard.
pub(super) fn explain(error: &std::io::Error, origin: &str) -> anyhow::Error {
    use rustls::CertificateError as Certificate;
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match cause {
        // A CA of the same name with another key shows as a wrong signature.
        Some(rustls::Error::InvalidCertificate(
            Certificate::UnknownIssuer | Certificate::BadSignature,
        )) => anyhow!(
            "the certificate of {origin} is not signed by a CA that is trusted here; for a private CA give --registry-ca FILE"
        ),
        Some(rustls::Error::InvalidCertificate(
            Certificate::Expired
            | Certificate::ExpiredContext { .. }
            | Certificate::NotValidYet
            | Certificate::NotValidYetContext { .. },
        )) => anyhow!(
            "the certificate of {origin} is not valid at this time; is this host's clock right?"
        ),
        Some(rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        )) => {
            anyhow!(
                "the certificate of {origin} is for another name; is the registry's address right?"
            )
        }
        Some(cause) => anyhow!("TLS with {origin} failed: {cause}"),
        None => anyhow!("the connection to {origin} broke off during the TLS handshake: {error}"),
    }
}

fn from_file(file: &Path) -> Result<Roots> {
    let mut roots = RootCertStore::empty();
    let pem = std::fs::read(file)
        .with_context(|| format!("can not read the CA file {}", file.display()))?;
    let certificates = CertificateDer::pem_slice_iter(&pem);
    for certificate in certificates {
        let certificate = certificate
            .with_context(|| format!("{} is not a PEM file of certificates", file.display()))?;
        roots
            .add(certificate)
            .with_context(|| format!("{} holds an unusable certificate", file.display()))?;
    }
    if roots.is_empty() {
        bail!(
            "the CA file {} holds no certificate in PEM form",
            file.display()
        );
    }
    Ok(Arc::new(roots))
}

fn system() -> Result<Roots> {
    let mut roots = RootCertStore::empty();
    let loaded = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(loaded.certs);
    if roots.is_empty() {
        bail!(
            "this system has no CA certificates; install ca-certificates or give --registry-ca FILE"
        );
    }
    Ok(Arc::new(roots))
}
