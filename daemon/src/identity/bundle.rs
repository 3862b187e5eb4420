//! An identity's files: `key.pem`, `cert.pem`, `ca.pem` and `manager` in one directory.
//!
//! `cert.pem` is written last and makes the rest valid; a renewal keeps the key and so
//! replaces this one file, which cannot come apart in a crash. `joining.pem` is the key of a
//! daemon that joins, until it has.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::manager_url::{ManagerUrl, ParseManagerUrlError};
use crate::files::{Access, create_private_dir, write_atomic};

/// All that an identity is made of.
pub struct IdentityBundle {
    /// The private key, PKCS#8 in PEM.
    pub key_pem: String,
    /// The certificate, and those between it and the CA.
    pub chain: Vec<CertificateDer<'static>>,
    /// The cluster's CA certificate.
    pub ca: CertificateDer<'static>,
    /// Where the manager is.
    pub manager: ManagerUrl,
}

impl IdentityBundle {
    /// What `dir` holds; `None` without a certificate there.
    pub(super) fn read(dir: &Path) -> Result<Option<Self>, BundleError> {
        let certificate = dir.join(CERTIFICATE_FILE);
        if !certificate
            .try_exists()
            .map_err(|source| BundleError::Read { file: certificate.clone(), source })?
        {
            return Ok(None);
        }
        let chain = read_certificates(&certificate)?;
        let ca_file = dir.join(CA_FILE);
        let Ok([ca]) = <[_; 1]>::try_from(read_certificates(&ca_file)?) else {
            return Err(BundleError::Certificates { file: ca_file });
        };
        let manager_file = dir.join(MANAGER_FILE);
        let manager = read_text(&manager_file)?
            .parse()
            .map_err(|source| BundleError::Manager { file: manager_file, source })?;
        Ok(Some(Self { key_pem: read_text(&dir.join(KEY_FILE))?, chain, ca, manager }))
    }

    pub(super) fn write(&self, dir: &Path) -> Result<(), BundleError> {
        let failed = |file: &Path| {
            let file = file.to_owned();
            move |source| BundleError::Write { file, source }
        };
        create_private_dir(dir).map_err(failed(dir))?;
        let certificate = dir.join(CERTIFICATE_FILE);
        match std::fs::remove_file(&certificate) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&certificate)(error)),
            Err(_) | Ok(()) => {}
        }
        let files = [
            (KEY_FILE, self.key_pem.clone(), Access::Private),
            (CA_FILE, to_pem(std::slice::from_ref(&self.ca)), Access::Public),
            (MANAGER_FILE, format!("{}\n", self.manager), Access::Public),
        ];
        for (name, text, access) in files {
            let file = dir.join(name);
            write_atomic(&file, text.as_bytes(), access).map_err(failed(&file))?;
        }
        write_chain(dir, &self.chain)?;
        forget_joining_key(dir)
    }
}

impl fmt::Debug for IdentityBundle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IdentityBundle").field("manager", &self.manager).finish_non_exhaustive()
    }
}

/// The key to join with. It is kept before the manager sees it: whose answer was lost comes again
/// with the same key, and gets the same answer.
pub(super) fn joining_key(dir: &Path) -> Result<KeyPair, JoiningKeyError> {
    let file = dir.join(JOINING_KEY_FILE);
    // One that cannot be read was never shown to the manager, or is lost: another one takes its place.
    if let Some(key) = read_key(&file) {
        return Ok(key);
    }
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;
    let written = create_private_dir(dir)
        .and_then(|()| write_atomic(&file, key.serialize_pem().as_bytes(), Access::Private));
    written.map_err(|source| BundleError::Write { file, source })?;
    Ok(key)
}

/// The next join takes another key.
pub(super) fn forget_joining_key(dir: &Path) -> Result<(), BundleError> {
    let file = dir.join(JOINING_KEY_FILE);
    match std::fs::remove_file(&file) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(BundleError::Write { file, source }),
        Err(_) | Ok(()) => Ok(()),
    }
}

/// The key of an identity that is not good any more, if it is there.
pub(super) fn former_key(dir: &Path) -> Option<KeyPair> {
    read_key(&dir.join(KEY_FILE))
}

fn read_key(file: &Path) -> Option<KeyPair> {
    KeyPair::from_pem(&std::fs::read_to_string(file).ok()?).ok()
}

pub(super) fn write_chain(dir: &Path, chain: &[CertificateDer<'_>]) -> Result<(), BundleError> {
    let file = dir.join(CERTIFICATE_FILE);
    write_atomic(&file, to_pem(chain).as_bytes(), Access::Public)
        .map_err(|source| BundleError::Write { file, source })
}

fn read_text(file: &Path) -> Result<String, BundleError> {
    std::fs::read_to_string(file).map_err(|source| BundleError::Read { file: file.to_owned(), source })
}

fn read_certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, BundleError> {
    let text = read_text(file)?;
    CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .ok()
        .filter(|certificates| !certificates.is_empty())
        .ok_or_else(|| BundleError::Certificates { file: file.to_owned() })
}

/// RFC 7468 §5.1.
fn to_pem(certificates: &[CertificateDer<'_>]) -> String {
    let mut pem = String::new();
    for certificate in certificates {
        pem.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(certificate);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, after) = rest.split_at(rest.len().min(PEM_LINE_LEN));
            pem.push_str(line);
            pem.push('\n');
            rest = after;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
    }
    pem
}

pub(super) const KEY_FILE: &str = "key.pem";
pub(super) const CERTIFICATE_FILE: &str = "cert.pem";
pub(super) const CA_FILE: &str = "ca.pem";
const MANAGER_FILE: &str = "manager";
const JOINING_KEY_FILE: &str = "joining.pem";

/// RFC 7468 §2.
const PEM_LINE_LEN: usize = 64;

/// Why there is no key to join with.
#[derive(Debug, thiserror::Error)]
pub(super) enum JoiningKeyError {
    #[error(transparent)]
    Make(#[from] rcgen::Error),
    #[error(transparent)]
    Keep(#[from] BundleError),
}

/// Why an identity's files cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is not there, or not for this user.
    #[error("read {}: {source}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// No room, or not for this user.
    #[error("write {}: {source}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Not the PEM of certificates.
    #[error("{} holds no certificate in PEM: remove the directory and enrol again", file.display())]
    Certificates {
        /// The file.
        file: PathBuf,
    },
    /// Not the manager's URL.
    #[error("{}: {source}", file.display())]
    Manager {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        source: ParseManagerUrlError,
    },
}
