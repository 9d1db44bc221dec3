//! A private certificate authority, and the registry's certificate from it.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Result;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _, SanType,
};
use sha2::{Digest as _, Sha256};

use super::{REGISTRY_ADDRESSES, REGISTRY_NAME};

/// Files of a certificate authority made for one test, in PEM.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The authority's own certificate: what `--registry-ca` and `curl --cacert` take.
    pub ca: PathBuf,
    /// The registry's certificate, for [`REGISTRY_NAME`], sites of its LAN origin, and both addresses
    /// of the registry.
    pub certificate: PathBuf,
    /// The key to [`Authority::certificate`] (PKCS #8).
    pub key: PathBuf,
    /// SHA-256 of that key's public half (SubjectPublicKeyInfo) in base64: what a browser is told
    /// to accept.
    pub spki_sha256: String,
}

impl Authority {
    /// Makes an authority and a certificate, and writes them below `dir` as `ca.pem`,
    /// `registry.pem` and `registry.key`.
    pub fn create(dir: &Path) -> Result<Self> {
        let mut ca = CertificateParams::default();
        ca.distinguished_name
            .push(DnType::CommonName, "Ringback test CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_key = KeyPair::generate()?;
        let ca_pem = ca.self_signed(&ca_key)?.pem();
        let issuer = Issuer::new(ca, ca_key);

        let lan = format!("*.lan.{REGISTRY_NAME}");
        let mut params = CertificateParams::new(vec![REGISTRY_NAME.to_owned(), lan])?;
        params
            .subject_alt_names
            .extend(REGISTRY_ADDRESSES.map(SanType::IpAddress));
        params
            .distinguished_name
            .push(DnType::CommonName, REGISTRY_NAME);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &issuer)?;

        let write = |name: &str, pem: String| {
            let path = dir.join(name);
            fs::write(&path, pem).map(|()| path)
        };
        Ok(Self {
            ca: write("ca.pem", ca_pem)?,
            certificate: write("registry.pem", certificate.pem())?,
            key: write("registry.key", key.serialize_pem())?,
            spki_sha256: BASE64_STANDARD.encode(Sha256::digest(key.subject_public_key_info())),
        })
    }
}
