//! Who this daemon is: its key, its certificate, and the TLS configurations made of them.
//!
//! A [`NodeIdentity`] is read from a directory or got from the manager with a join token.
//! Everything it hands out resolves the certificate at each handshake, so a renewal needs
//! neither a restart nor a reconnect. Only certificates of the cluster's CA are accepted;
//! what a caller may do with one is decided where it calls, by its [`Identity`].

mod bundle;
mod certificate;
mod enrol;
mod manager_url;
mod renew;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use flotilla_proto::{Identity, PeerId};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use crate::config::{JoinTokenError, ManagerConfig};

pub use bundle::{BundleError, IdentityBundle};
pub use certificate::{BACKDATED, PeerIdentityError, Validity, peer_identity};
pub use enrol::EnrolError;
pub use manager_url::{ManagerUrl, ParseManagerUrlError, manager_id};
pub use renew::{RenewError, renew_loop};
pub use tls::ClientAuth;

/// This daemon's identity; a clone is the same identity and sees its renewals.
#[derive(Debug, Clone)]
pub struct NodeIdentity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    identity: Identity,
    manager: ManagerUrl,
    ca: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
    key: rcgen::KeyPair,
    current: ArcSwap<Current>,
}

/// What a renewal replaces.
#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl NodeIdentity {
    /// The identity kept in `dir`; where there is none, or it has expired, one that the
    /// manager gives for the join token, which is then kept in `dir`.
    ///
    /// # Errors
    ///
    /// If what is kept is damaged or another daemon's, if there is no token where one is
    /// needed, or if the manager cannot be reached or refuses. Takes 10 s at most.
    pub async fn open(dir: &Path, id: &PeerId, manager: &ManagerConfig) -> Result<Self, OpenIdentityError> {
        match Self::load(dir) {
            Ok(kept) if kept.identity().id == *id => Ok(kept),
            Ok(kept) => Err(OpenIdentityError::OtherDaemon {
                dir: dir.to_owned(),
                kept: kept.identity().id.clone(),
                asked: id.clone(),
            }),
            Err(missing @ (OpenIdentityError::Absent { .. } | OpenIdentityError::Expired { .. })) => {
                let token = manager.join_token()?.ok_or(missing)?;
                let bundle = enrol::enrol(id, &token).await?;
                let enrolled = Self::create(dir, &bundle)?;
                tracing::info!(identity = %enrolled.identity(), "enrolled");
                Ok(enrolled)
            }
            Err(other) => Err(other),
        }
    }

    /// The identity kept in `dir`.
    ///
    /// # Errors
    ///
    /// If there is none, or it is damaged or expired.
    pub fn load(dir: &Path) -> Result<Self, OpenIdentityError> {
        let bundle =
            IdentityBundle::read(dir)?.ok_or_else(|| OpenIdentityError::Absent { dir: dir.to_owned() })?;
        Self::checked(dir, &bundle)
    }

    /// Keeps `bundle` in `dir` in place of what was there.
    ///
    /// # Errors
    ///
    /// If its parts do not belong together, or they cannot be written.
    pub fn create(dir: &Path, bundle: &IdentityBundle) -> Result<Self, OpenIdentityError> {
        let identity = Self::checked(dir, bundle)?;
        bundle.write(dir)?;
        Ok(identity)
    }

    fn checked(dir: &Path, bundle: &IdentityBundle) -> Result<Self, OpenIdentityError> {
        let damaged =
            |name: &str, reason: String| OpenIdentityError::Damaged { file: dir.join(name), reason };
        let key = rcgen::KeyPair::from_pem(&bundle.key_pem)
            .map_err(|error| damaged(bundle::KEY_FILE, error.to_string()))?;
        let roots = tls::roots(&bundle.ca).map_err(|error| damaged(bundle::CA_FILE, error.to_string()))?;
        let not_usable = |error: tls::CertifyError| match error {
            tls::CertifyError::Expired(validity) => OpenIdentityError::Expired {
                file: dir.join(bundle::CERTIFICATE_FILE),
                since: humantime::format_rfc3339_seconds(validity.not_after),
            },
            other => damaged(bundle::CERTIFICATE_FILE, other.to_string()),
        };
        let (identity, current) =
            tls::certify(&key, bundle.chain.clone(), &roots, SystemTime::now()).map_err(not_usable)?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            identity,
            manager: bundle.manager.clone(),
            ca: bundle.ca.clone(),
            roots,
            key,
            current: ArcSwap::from_pointee(current),
        })))
    }

    /// Who this daemon is. A renewal never changes it.
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// Where the manager is, as the join token said.
    pub fn manager_url(&self) -> &ManagerUrl {
        &self.0.manager
    }

    /// The cluster's CA certificate.
    pub fn ca(&self) -> &CertificateDer<'static> {
        &self.0.ca
    }

    /// How long the present certificate is good.
    pub fn validity(&self) -> Validity {
        self.0.current.load().validity
    }

    /// The public key, which a renewal keeps.
    pub fn key(&self) -> &rcgen::KeyPair {
        &self.0.key
    }

    /// Replaces the certificate on disk and in every configuration handed out.
    ///
    /// # Errors
    ///
    /// If the certificate is not this identity's for this key, or cannot be written.
    pub fn replace_certificate(&self, chain: &[CertificateDer<'static>]) -> Result<(), RenewError> {
        let (identity, current) = tls::certify(&self.0.key, chain.to_vec(), &self.0.roots, SystemTime::now())
            .map_err(|error| RenewError::Unusable { reason: error.to_string() })?;
        if identity != self.0.identity {
            return Err(RenewError::Unusable { reason: format!("it names {identity}") });
        }
        bundle::write_chain(&self.0.dir, chain)?;
        self.0.current.store(Arc::new(current));
        Ok(())
    }
}

/// Why a daemon has no identity to work with.
#[derive(Debug, thiserror::Error)]
pub enum OpenIdentityError {
    /// The directory holds none, and there is no token to get one with.
    #[error(
        "no identity in {}, and no join token: set manager.join_token_file or {}; \
         `flotilla token create` makes one",
        dir.display(),
        crate::config::JOIN_TOKEN_VARIABLE
    )]
    Absent {
        /// Where it would be.
        dir: PathBuf,
    },
    /// The certificate is no longer good, and there is no token to get another with.
    #[error("{} expired at {since}: enrol again with a new join token (`flotilla token create`)", file.display())]
    Expired {
        /// The certificate's file.
        file: PathBuf,
        /// When its life ended.
        since: humantime::Rfc3339Timestamp,
    },
    /// The directory belongs to another daemon.
    #[error("{} holds the identity of `{kept}`, but this daemon is `{asked}`: give it a directory of its own", dir.display())]
    OtherDaemon {
        /// The directory.
        dir: PathBuf,
        /// Whose it is.
        kept: PeerId,
        /// Who asks.
        asked: PeerId,
    },
    /// A file holds something else than it should.
    #[error("{} is damaged ({reason}): remove the directory and enrol again with a new join token", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A file cannot be read or written.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The token cannot be used.
    #[error(transparent)]
    Token(#[from] JoinTokenError),
    /// The manager gave none.
    #[error(transparent)]
    Enrol(#[from] EnrolError),
}
