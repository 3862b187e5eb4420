//! Certificates for the servers of a story.

use anyhow::Result;
use rcgen::{
    BasicConstraints, Certificate, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};

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
