//! The certificate that this seed shows to a registry which asks its readers for one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use flotilla_proto::RegistryHost;
use rustls::SignatureScheme;
use rustls::client::ResolvesClientCert;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use serde::{Deserialize, Serialize};

/// A certificate for one registry, and its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClientCertificate {
    /// The certificate and what links it to its authority, as PEM.
    pub certificate_file: PathBuf,
    /// Its private key, as PEM.
    pub key_file: PathBuf,
}

/// Why a client certificate cannot be shown.
#[derive(Debug, thiserror::Error)]
pub enum ClientCertificateError {
    /// A file cannot be read, or is no PEM of what it should be.
    #[error("client certificate for {registry}: {}: {reason}", file.display())]
    File {
        /// Whom it is for.
        registry: RegistryHost,
        /// Which file.
        file: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The key is of no kind that is supported, or another certificate's.
    #[error("client certificate for {registry}: the key does not go with the certificate: {reason}")]
    Pair {
        /// Whom it is for.
        registry: RegistryHost,
        /// What TLS makes of it.
        reason: rustls::Error,
    },
}

/// The client certificates of all registries that want one.
#[derive(Debug, Default)]
pub(super) struct ClientCertificates(BTreeMap<RegistryHost, Arc<Shown>>);

/// One certificate; every handshake gets the one of the moment.
#[derive(Debug)]
pub(super) struct Shown {
    registry: RegistryHost,
    files: ClientCertificate,
    current: ArcSwap<CertifiedKey>,
}

impl ClientCertificates {
    /// Reads them all.
    pub(super) fn load(
        settings: &BTreeMap<RegistryHost, ClientCertificate>,
    ) -> Result<Self, ClientCertificateError> {
        let load = |(registry, files): (&RegistryHost, &ClientCertificate)| {
            let current = ArcSwap::from_pointee(read(registry, files)?);
            let shown = Shown { registry: registry.clone(), files: files.clone(), current };
            Ok((registry.clone(), Arc::new(shown)))
        };
        settings.iter().map(load).collect::<Result<_, _>>().map(Self)
    }

    pub(super) fn find(&self, registry: &RegistryHost) -> Option<Arc<Shown>> {
        self.0.get(registry).cloned()
    }

    /// Reads them again, so that they can be renewed in place; one that cannot be read stays as it was.
    /// Blocks.
    pub(super) fn renew(&self) {
        for shown in self.0.values() {
            match read(&shown.registry, &shown.files) {
                Ok(renewed) if renewed.cert == shown.current.load().cert => {}
                Ok(renewed) => {
                    shown.current.store(Arc::new(renewed));
                    tracing::info!(registry = %shown.registry, "client certificate renewed");
                }
                Err(error) => tracing::warn!(%error, "the client certificate read before is kept"),
            }
        }
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let current = self.current.load_full();
        current.key.choose_scheme(schemes).is_some().then_some(current)
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn read(registry: &RegistryHost, files: &ClientCertificate) -> Result<CertifiedKey, ClientCertificateError> {
    let broken = |file: &Path, reason: String| ClientCertificateError::File {
        registry: registry.clone(),
        file: file.to_owned(),
        reason,
    };
    let file = &files.certificate_file;
    let chain = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| broken(file, error.to_string()))?;
    if chain.is_empty() {
        return Err(broken(file, "holds no certificate".to_owned()));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key_file)
        .map_err(|error| broken(&files.key_file, error.to_string()))?;
    CertifiedKey::from_der(chain, key, &rustls::crypto::aws_lc_rs::default_provider())
        .map_err(|reason| ClientCertificateError::Pair { registry: registry.clone(), reason })
}
