//! TLS to the registry: TLS 1.3 or 1.2, by the system's CAs or by a CA file.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result, anyhow, bail};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, NamedGroup, RootCertStore};
use tokio_rustls::TlsConnector;

/// Shared by all connections of a process: parsing the system's CAs takes milliseconds.
type Roots = Arc<RootCertStore>;

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

/// What a failed handshake means for the person at the keyboard: one sentence, and what to do.
pub(super) fn explain(error: &std::io::Error, origin: &str) -> anyhow::Error {
    let cause = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let Some(cause) = cause else {
        return anyhow!("the connection to {origin} broke off during the TLS handshake: {error}");
    };
    tracing::debug!("the TLS handshake failed: {cause}");
    anyhow!(match cause {
        rustls::Error::InvalidCertificate(why) =>
            format!("the certificate of {origin} {}", untrusted(why)),
        // What is no TLS does not parse as such.
        rustls::Error::InvalidMessage(_) | rustls::Error::InappropriateMessage { .. } => format!(
            "what answers at {origin} does not speak TLS; is the port right, and is there no proxy or login page between?"
        ),
        rustls::Error::AlertReceived(alert) => format!(
            "{origin} refuses the TLS handshake ({}); is the registry's address right?",
            words(&format!("{alert:?}"))
        ),
        rustls::Error::PeerIncompatible(_) | rustls::Error::NoApplicationProtocol => format!(
            "{origin} offers no TLS that is safe: at least TLS 1.2 with a cipher of today is needed there"
        ),
        rustls::Error::NoCertificatesPresented =>
            format!("{origin} shows no certificate; is the registry's address right?"),
        rustls::Error::DecryptError | rustls::Error::PeerMisbehaved(_) => format!(
            "{origin} does not keep to TLS; something between here and there may change what is sent"
        ),
        _ => format!("TLS with {origin} failed; -v -v tells the details"),
    })
}

/// Why a certificate is not taken, as the rest of a sentence.
fn untrusted(why: &rustls::CertificateError) -> &'static str {
    use rustls::CertificateError as Certificate;
    match why {
        // A CA of the same name with another key shows as a wrong signature.
        Certificate::UnknownIssuer | Certificate::BadSignature => {
            "is not signed by a CA that is trusted here; for a private CA give --registry-ca FILE"
        }
        Certificate::Expired
        | Certificate::ExpiredContext { .. }
        | Certificate::NotValidYet
        | Certificate::NotValidYetContext { .. } => {
            "is not valid at this time; is this host's clock right?"
        }
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => {
            "is for another name; is the registry's address right?"
        }
        Certificate::Revoked => "is revoked by its CA; the registry needs a new one",
        Certificate::InvalidPurpose | Certificate::InvalidPurposeContext { .. } => {
            "is not for servers; the registry needs one that is"
        }
        Certificate::BadEncoding => "can not be read; is what answers there the registry?",
        // webpki has no name of rustls's for it.
        Certificate::Other(other) if other.0.to_string().contains("CaUsedAsEndEntity") => {
            "is a CA's own: it has signed itself; the registry needs one that this CA has signed (CA:FALSE)"
        }
        _ => "is not acceptable (-v -v tells why); the registry needs another",
    }
}

/// `HandshakeFailure` as people write it.
fn words(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    words
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

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};

    use super::*;

    #[test]
    fn a_failed_handshake_is_a_sentence() {
        let said = |cause: Error| {
            let error = std::io::Error::new(std::io::ErrorKind::InvalidData, cause);
            explain(&error, "https://registry.example").to_string()
        };
        let certificate = |why| said(Error::InvalidCertificate(why));
        for (sentence, words) in [
            (
                certificate(CertificateError::UnknownIssuer),
                "--registry-ca FILE",
            ),
            (certificate(CertificateError::Expired), "clock right?"),
            (
                certificate(CertificateError::NotValidForName),
                "for another name",
            ),
            (certificate(CertificateError::Revoked), "is revoked"),
            (
                certificate(CertificateError::UnhandledCriticalExtension),
                "not acceptable",
            ),
            (
                said(Error::InvalidMessage(InvalidMessage::InvalidContentType)),
                "does not speak TLS",
            ),
            (
                said(Error::AlertReceived(AlertDescription::HandshakeFailure)),
                "refuses the TLS handshake (handshake failure)",
            ),
            (
                said(Error::General("Odd(Debug)".into())),
                "TLS with https://registry.example failed",
            ),
        ] {
            assert!(sentence.contains(words), "no '{words}': {sentence}");
            assert!(
                !sentence.contains("Error") && !sentence.contains('{') && !sentence.contains("::"),
                "Rust's own text: {sentence}"
            );
        }
    }
}
