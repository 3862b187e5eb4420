//! The cluster's CA: a P-256 key that never leaves the manager's directory.
//!
//! It is constrained to DNS names under `flotilla` and to no address at all, so that even
//! a stolen CA key opens nothing outside the cluster.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_daemon::files::{Access, write_atomic};
use flotilla_daemon::identity::BACKDATED;
use flotilla_proto::{Identity, KeyHash, RegionName};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CidrSubnet, DistinguishedName,
    DnType, DnValue, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, PKCS_ECDSA_P256_SHA256, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use super::join_secret::random;

/// The CA, ready to sign.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl Ca {
    /// The CA kept in `data_dir`; at the first start, a new one.
    ///
    /// # Errors
    ///
    /// If its files cannot be read or written, or the key is gone: without it no daemon
    /// could renew, and a new CA in its place would shut all of them out.
    pub fn open(data_dir: &Path, cluster: &RegionName) -> Result<Self, CaError> {
        let key_file = data_dir.join(KEY_FILE);
        let certificate_file = data_dir.join(CERTIFICATE_FILE);
        let key = match (read(&key_file)?, read(&certificate_file)?) {
            (Some(key), Some(certificate)) => return Self::parse(&key, &certificate, data_dir),
            (None, Some(_)) => return Err(CaError::KeyGone { file: key_file }),
            // A crash of the first start, between the two files.
            (Some(key), None) => parse_key(&key, &key_file)?,
            (None, None) => {
                let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
                write_atomic(&key_file, key.serialize_pem().as_bytes(), Access::Private)
                    .map_err(|source| CaError::Write { file: key_file, source })?;
                key
            }
        };
        let certificate = parameters(cluster)?.self_signed(&key)?;
        write_atomic(&certificate_file, certificate.pem().as_bytes(), Access::Public)
            .map_err(|source| CaError::Write { file: certificate_file, source })?;
        Ok(Self {
            issuer: Issuer::from_ca_cert_der(certificate.der(), key)?,
            certificate: certificate.into(),
        })
    }

    fn parse(key_pem: &str, certificate_pem: &str, data_dir: &Path) -> Result<Self, CaError> {
        let file = data_dir.join(CERTIFICATE_FILE);
        let key = parse_key(key_pem, &data_dir.join(KEY_FILE))?;
        let certificate = CertificateDer::from_pem_slice(certificate_pem.as_bytes())
            .map_err(|_| CaError::Damaged { file: file.clone() })?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(|_| CaError::Damaged { file })?;
        Ok(Self { issuer, certificate })
    }

    /// The certificate that every daemon trusts.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// A certificate of `identity` for `public_key`, issued at `now` and good for
    /// `lifetime`; it is backdated by [`BACKDATED`], for daemons whose clock is late.
    ///
    /// # Errors
    ///
    /// If it cannot be encoded or signed.
    pub fn issue(
        &self,
        identity: &Identity,
        public_key: &impl PublicKeyData,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<CertificateDer<'static>, IssueError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(identity.id.as_str());
        set_validity(&mut params, now, lifetime);
        params.serial_number = Some(serial_number());
        params.subject_alt_names = vec![
            SanType::URI(identity.to_string().try_into()?),
            SanType::DnsName(identity.id.dns_name().try_into()?),
        ];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        Ok(params.signed_by(public_key, &self.issuer)?.into())
    }
}

/// A signing request whose signature proved that the sender holds the key. Nothing but
/// the key is taken from it: names and lifetimes are the manager's to give.
pub(crate) struct SigningRequest(CertificateSigningRequestParams);

impl SigningRequest {
    pub(crate) fn parse(der: &[u8]) -> Result<Self, IssueError> {
        let request = CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(der))?;
        if request.public_key.algorithm() != &PKCS_ECDSA_P256_SHA256 {
            return Err(IssueError::Algorithm);
        }
        Ok(Self(request))
    }

    pub(crate) fn public_key(&self) -> &impl PublicKeyData {
        &self.0.public_key
    }

    /// The hash of the key.
    pub(crate) fn key(&self) -> KeyHash {
        KeyHash::of(&self.0.public_key.subject_public_key_info())
    }

    /// Whether its signer agrees that another key takes its own's place: it writes that key's hash
    /// where a name stands.
    pub(crate) fn agrees_to(&self, key: KeyHash) -> bool {
        let name = self.0.params.distinguished_name.get(&DnType::CommonName);
        matches!(name, Some(DnValue::Utf8String(name)) if *name == key.to_string())
    }
}

fn parameters(cluster: &RegionName) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("Flotilla CA of {cluster}"));
    set_validity(&mut params, SystemTime::now(), CA_LIFETIME);
    params.serial_number = Some(serial_number());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("flotilla".into())],
        // A constraint on DNS names alone lets a leaf with an address pass.
        excluded_subtrees: vec![
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv4Addr::UNSPECIFIED.into(), 0)),
            GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(Ipv6Addr::UNSPECIFIED.into(), 0)),
        ],
    });
    Ok(params)
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

fn set_validity(params: &mut CertificateParams, now: SystemTime, lifetime: Duration) {
    let date_time = |time: SystemTime| {
        rcgen::date_time_ymd(1970, 1, 1) + time.duration_since(UNIX_EPOCH).unwrap_or_default()
    };
    params.not_before = date_time(now - BACKDATED);
    params.not_after = date_time(now + lifetime);
}

/// Random, positive and at most 20 octets (RFC 5280 §4.1.2.2).
fn serial_number() -> SerialNumber {
    let mut bytes: [u8; 16] = random();
    bytes[0] = bytes[0] & 0x7f | 0x40;
    SerialNumber::from_slice(&bytes)
}

fn parse_key(pem: &str, file: &Path) -> Result<KeyPair, CaError> {
    KeyPair::from_pem(pem).map_err(|_| CaError::Damaged { file: file.to_owned() })
}

fn read(file: &Path) -> Result<Option<String>, CaError> {
    match std::fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(CaError::Read { file: file.to_owned(), source }),
    }
}

const KEY_FILE: &str = "ca-key.pem";
const CERTIFICATE_FILE: &str = "ca.pem";

const CA_LIFETIME: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

/// Why there is no CA.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file cannot be read.
    #[error("read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// A file cannot be written.
    #[error("write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// The certificate is there, its key is not.
    #[error("{} is gone: restore it from a backup; without it no daemon can renew its certificate", file.display())]
    KeyGone {
        /// Where it should be.
        file: PathBuf,
    },
    /// A file holds something else.
    #[error("{} is damaged: restore it from a backup", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
    },
    /// The first start could not make one.
    #[error("make a CA: {0}")]
    Make(#[from] rcgen::Error),
}

/// Why a certificate was not issued.
#[derive(Debug, thiserror::Error)]
pub enum IssueError {
    /// The request is malformed, or its signature is not its key's.
    #[error("the signing request cannot be used: {0}")]
    Request(#[from] rcgen::Error),
    /// Not a key as daemons make them.
    #[error("the signing request's key is not ECDSA P-256")]
    Algorithm,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::RootCertStore;
    use rustls::client::WebPkiServerVerifier;
    use rustls::client::danger::ServerCertVerifier as _;
    use rustls::crypto::aws_lc_rs;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    #[test]
    fn even_a_stolen_ca_key_opens_nothing_outside_the_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::open(dir.path(), &"prod".parse().unwrap()).unwrap();
        verify_leaf_for(&ca, "peer-0.flotilla").unwrap();
        for name in ["harbor.example.com", "flotilla.example.com", "127.0.0.1", "::1"] {
            let error = format!("{:?}", verify_leaf_for(&ca, name).unwrap_err());
            assert!(error.contains("NameConstraintViolation"), "{name}: {error}");
        }
    }

    #[test]
    fn a_crash_between_key_and_certificate_keeps_the_key() {
        let dir = tempfile::tempdir().unwrap();
        let cluster = "prod".parse().unwrap();
        Ca::open(dir.path(), &cluster).unwrap();
        let key = std::fs::read(dir.path().join(KEY_FILE)).unwrap();
        std::fs::remove_file(dir.path().join(CERTIFICATE_FILE)).unwrap();
        Ca::open(dir.path(), &cluster).unwrap();
        assert_eq!(std::fs::read(dir.path().join(KEY_FILE)).unwrap(), key);
    }

    /// Signs whatever name it is told, as a thief would.
    fn verify_leaf_for(ca: &Ca, name: &str) -> Result<(), rustls::Error> {
        let key = KeyPair::generate().unwrap();
        let leaf =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &ca.issuer).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(ca.certificate().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let verifier =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let name = ServerName::try_from(name).unwrap();
        verifier.verify_server_cert(leaf.der(), &[], &name, &[], UnixTime::now()).map(drop)
    }
}
