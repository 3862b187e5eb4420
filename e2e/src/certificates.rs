//! Certificates for the servers of a story.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;

/// A certificate authority that nobody trusts yet.
#[derive(Debug)]
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
}

/// A server's certificate and its key.
#[derive(Debug)]
pub struct Leaf {
    /// Signed by its authority, for one name.
    pub certificate: Certificate,
    /// The private key.
    pub key: KeyPair,
}

impl Authority {
    /// Makes an authority. OpenSSL takes a certificate whose subject is its issuer for
    /// self-signed, so `name` must be the name of no server.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate()?;
        let certificate = params.self_signed(&key)?;
        Ok(Self { issuer: Issuer::new(params, key), certificate })
    }

    /// What a client must trust, in PEM.
    pub fn pem(&self) -> String {
        self.certificate.pem()
    }

    /// Makes a certificate for `host`. Go checks the subject alternative name and the
    /// extended key usage.
    pub fn leaf(&self, host: &str) -> Result<Leaf> {
        let mut params = CertificateParams::new(vec![host.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, host);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(Leaf { certificate, key })
    }
}

impl Leaf {
    /// What a server needs to show the certificate. Only HTTP/1.1 is spoken, as by Harbor.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>> {
        let certificate = self.certificate.der().clone();
        let key = PrivateKeyDer::try_from(self.key.serialize_der()).map_err(anyhow::Error::msg)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .context("use certificate")?;
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}
