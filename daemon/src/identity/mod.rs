//! Who this daemon is: its key, its certificate, and the TLS configurations made of them.
//!
//! A [`NodeIdentity`] is read from a directory or got from the manager with a join token.
//! Everything it hands out resolves the certificate at each handshake, so a renewal needs
//! neither a restart nor a reconnect. Only certificates of the cluster's CA are accepted, and
//! none for a key that the manager has revoked ([`RevokedKeys`]); what a caller may do with one
//! is decided where it calls, by its [`Identity`].

mod bundle;
mod certificate;
pub mod clock;
mod enrol;
mod manager_url;
mod membership;
mod renew;
mod revoked;
#[cfg(test)]
pub(crate) mod testing;
mod tls;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwap;
use flotilla_proto::wire::manager::RenewRequest;
use flotilla_proto::{Identity, KeyHash, PeerId};
use rcgen::PublicKeyData as _;
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::sign::CertifiedKey;

use crate::config::{JoinTokenError, ManagerConfig};
use crate::rpc::{self, CALL_TIMEOUT};
use crate::start::{MayPass, io_may_pass};

pub use bundle::{BundleError, IdentityBundle};
pub use certificate::{BACKDATED, PeerIdentityError, Validity, peer_identity, peer_key};
pub use enrol::EnrolError;
pub use manager_url::{ManagerUrl, ParseManagerUrlError, manager_id};
pub use renew::{RenewError, renew_loop};
pub use revoked::RevokedKeys;
pub use tls::ClientAuth;

use enrol::Joining;
use membership::Membership;

/// This daemon's identity; a clone is the same identity and sees its renewals.
#[derive(Debug, Clone)]
pub struct NodeIdentity(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    identity: Identity,
    manager: ManagerUrl,
    /// Where the configuration says that it is, to be tried in turn before what the token said.
    configured: Vec<ManagerUrl>,
    ca: CertificateDer<'static>,
    roots: Arc<RootCertStore>,
    key: rcgen::KeyPair,
    /// Of others.
    revoked: RevokedKeys,
    current: ArcSwap<Current>,
}

/// What a renewal replaces.
#[derive(Debug)]
struct Current {
    certified: Arc<CertifiedKey>,
    validity: Validity,
}

impl NodeIdentity {
    /// The identity kept in `dir`; where there is none, or it has expired, or the daemon was
    /// removed since, one that the manager gives for the join token, which is then kept in
    /// `dir`.
    ///
    /// # Errors
    ///
    /// If what is kept is damaged or another daemon's, if there is no token where one is
    /// needed, or if the manager cannot be reached or refuses. Takes 10 s at most.
    pub async fn open(dir: &Path, id: &PeerId, manager: &ManagerConfig) -> Result<Self, OpenIdentityError> {
        let missing = match Self::kept(dir, id, manager) {
            Err(
                missing @ (OpenIdentityError::Absent { .. }
                | OpenIdentityError::Expired { .. }
                | OpenIdentityError::Removed { .. }),
            ) => missing,
            kept => return kept,
        };
        let token = match (manager.join_token(), &missing) {
            (Ok(None), _) => return Err(missing),
            // That the token is gone too is not what the operator must hear of first.
            (
                Err(JoinTokenError::Read { .. }),
                OpenIdentityError::Removed { .. } | OpenIdentityError::Expired { .. },
            ) => return Err(missing),
            (Ok(Some(token)), _) => token,
            (Err(error), _) => return Err(error.into()),
        };
        let former = match &missing {
            OpenIdentityError::Removed { .. } if Membership(dir).came_from(&token) => return Err(missing),
            OpenIdentityError::Expired { .. } => bundle::former_key(dir),
            _ => None,
        };
        let (configured, former) = (&manager.addresses(), former.as_ref());
        let bundle = enrol::enrol(&Joining { dir, id, token: &token, configured, former }).await?;
        let enrolled = Self::checked(dir, &bundle, manager.addresses())?;
        bundle.write(dir)?;
        Membership(dir).joined(&token)?;
        manager.delete_used(&token);
        tracing::info!(identity = %enrolled.identity(), key = enrolled.key().short(), "enrolled");
        Ok(enrolled)
    }

    /// What is kept in `dir`, if it is `id`'s and this daemon was not removed.
    fn kept(dir: &Path, id: &PeerId, manager: &ManagerConfig) -> Result<Self, OpenIdentityError> {
        if Membership(dir).is_removed() {
            return Err(OpenIdentityError::Removed { token: manager.token_place() });
        }
        let kept = Self::load_for(dir, manager)?;
        if kept.identity().id == *id {
            return Ok(kept);
        }
        let (dir, kept) = (dir.to_owned(), kept.identity().id.clone());
        Err(OpenIdentityError::OtherDaemon { dir, kept, asked: id.clone() })
    }

    /// The identity kept in `dir`.
    ///
    /// # Errors
    ///
    /// If there is none, or it is damaged or expired.
    pub fn load(dir: &Path) -> Result<Self, OpenIdentityError> {
        Self::load_for(dir, &ManagerConfig::default())
    }

    fn load_for(dir: &Path, manager: &ManagerConfig) -> Result<Self, OpenIdentityError> {
        let bundle =
            IdentityBundle::read(dir)?.ok_or_else(|| OpenIdentityError::Absent { dir: dir.to_owned() })?;
        Self::checked(dir, &bundle, manager.addresses())
    }

    /// The manager has said that this daemon was removed: at its next [`Self::open`] it is
    /// nobody until there is another join token than the one it came from.
    ///
    /// # Errors
    ///
    /// If that cannot be kept on disk.
    pub fn forget(&self, manager: &ManagerConfig) -> Result<(), OpenIdentityError> {
        let current = manager.join_token().ok().flatten();
        Ok(Membership(&self.0.dir).remove(current.as_ref())?)
    }

    /// Keeps `bundle` in `dir` in place of what was there.
    ///
    /// # Errors
    ///
    /// If its parts do not belong together, or they cannot be written.
    pub fn create(dir: &Path, bundle: &IdentityBundle) -> Result<Self, OpenIdentityError> {
        let identity = Self::checked(dir, bundle, Vec::new())?;
        bundle.write(dir)?;
        Ok(identity)
    }

    fn checked(
        dir: &Path,
        bundle: &IdentityBundle,
        configured: Vec<ManagerUrl>,
    ) -> Result<Self, OpenIdentityError> {
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
            tls::CertifyError::NotYet(validity) => OpenIdentityError::NotYet {
                file: dir.join(bundle::CERTIFICATE_FILE),
                from: humantime::format_rfc3339_seconds(validity.not_before),
                clock: humantime::format_rfc3339_seconds(SystemTime::now()),
            },
            other => damaged(bundle::CERTIFICATE_FILE, other.to_string()),
        };
        let (identity, current) =
            tls::certify(&key, bundle.chain.clone(), &roots, SystemTime::now()).map_err(not_usable)?;
        Ok(Self(Arc::new(Inner {
            dir: dir.to_owned(),
            identity,
            manager: bundle.manager.clone(),
            configured,
            ca: bundle.ca.clone(),
            roots,
            key,
            revoked: RevokedKeys::default(),
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

    /// Every place to look for the manager, in turn: those of the configuration, then the
    /// join token's.
    pub fn manager_addresses(&self) -> Vec<&str> {
        enrol::addresses(&self.0.configured, &self.0.manager)
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
    pub fn public_key(&self) -> &(impl rcgen::PublicKeyData + use<>) {
        &self.0.key
    }

    /// The hash of the public key, by which it is revoked.
    pub fn key(&self) -> KeyHash {
        KeyHash::of(&self.0.key.subject_public_key_info())
    }

    /// The keys that no configuration handed out trusts, from the moment on when they are told here.
    pub fn revoked_keys(&self) -> &RevokedKeys {
        &self.0.revoked
    }

    /// A secret for one `purpose`, the same at each start: the private key through BLAKE3's key derivation,
    /// whose context string `purpose` is.
    pub fn secret(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, self.0.key.serialized_der())
    }

    /// Waits until two thirds of the certificate's life have passed.
    pub async fn renewal_due(&self) {
        renew::wait_until(self.validity().renew_at()).await;
    }

    /// Has the manager renew the certificate now, whatever is left of its life.
    ///
    /// # Errors
    ///
    /// If the manager cannot be reached within 10 s, or refuses; the certificate stays.
    pub async fn renew(&self) -> Result<(), RenewError> {
        let csr_der = enrol::signing_request(&self.0.key)?.into();
        let mut request = tonic::Request::new(RenewRequest { csr_der });
        request.set_timeout(CALL_TIMEOUT);
        let mut manager = rpc::EnrolmentClient::new(rpc::manager_channel(self));
        let reply = manager.renew(request).await;
        let reply = reply.map_err(|status| RenewError::Manager { reason: rpc::reason(&status) })?;
        self.replace_certificate(&enrol::chain_of(reply.get_ref()))
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
    /// The certificate is not good yet: this machine's clock is behind.
    #[error(
        "{} is good from {from} on, but this machine's clock says {clock}: set the clock (`timedatectl`)",
        file.display()
    )]
    NotYet {
        /// The certificate's file.
        file: PathBuf,
        /// When its life begins.
        from: humantime::Rfc3339Timestamp,
        /// What this machine says.
        clock: humantime::Rfc3339Timestamp,
    },
    /// The manager said so.
    #[error(
        "this daemon was removed from the topology and serves nobody; a new join token in {token} enrols it \
         again (`flotilla token create` makes one)"
    )]
    Removed {
        /// Where it would be found.
        token: String,
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

impl MayPass for OpenIdentityError {
    /// A token may be put in place, a manager may come, a disk, the right time.
    fn may_pass(&self) -> bool {
        match self {
            Self::Removed { .. } | Self::Expired { .. } | Self::NotYet { .. } => true,
            Self::Absent { .. } | Self::OtherDaemon { .. } | Self::Damaged { .. } => false,
            Self::Bundle(BundleError::Read { source, .. } | BundleError::Write { source, .. })
            | Self::Enrol(EnrolError::Keep(
                BundleError::Read { source, .. } | BundleError::Write { source, .. },
            ))
            | Self::Token(JoinTokenError::Read { source, .. }) => io_may_pass(source),
            Self::Bundle(BundleError::Certificates { .. } | BundleError::Manager { .. })
            | Self::Enrol(EnrolError::Keep(BundleError::Certificates { .. } | BundleError::Manager { .. }))
            | Self::Token(JoinTokenError::Parse { .. }) => false,
            Self::Enrol(EnrolError::Unreachable { .. } | EnrolError::KeyRefused { .. }) => true,
            Self::Enrol(
                EnrolError::TokenManager(_)
                | EnrolError::TokenCa
                | EnrolError::Key(_)
                | EnrolError::Refused { .. },
            ) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::testing::TestCa;
    use super::*;

    const PEER: &str = "flotilla://prod/eu/peer/node-1";

    #[test]
    fn an_identity_reads_back_as_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let created = TestCa::new().identity(dir.path(), PEER);
        let loaded = NodeIdentity::load(dir.path()).unwrap();
        assert_eq!(loaded.identity(), created.identity());
        assert_eq!(loaded.validity(), created.validity());
    }

    #[test]
    fn a_key_that_is_not_the_certificate_s_is_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = TestCa::new();
        ca.identity(dir.path(), PEER);
        ca.identity(other.path(), PEER);
        std::fs::copy(other.path().join("key.pem"), dir.path().join("key.pem")).unwrap();
        let error = NodeIdentity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cert.pem is damaged"), "{error}");
    }

    #[test]
    fn a_certificate_of_another_ca_is_refused() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        TestCa::new().identity(dir.path(), PEER);
        TestCa::new().identity(other.path(), PEER);
        std::fs::copy(other.path().join("ca.pem"), dir.path().join("ca.pem")).unwrap();
        let error = NodeIdentity::load(dir.path()).unwrap_err().to_string();
        assert!(error.contains("cert.pem is damaged"), "{error}");
    }

    #[test]
    fn a_renewal_cannot_change_who_a_daemon_is() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let ca = TestCa::new();
        let peer = ca.identity(dir.path(), PEER);
        ca.identity(other.path(), "flotilla://prod/eu/seed/node-1");
        let foreign = IdentityBundle::read(other.path()).unwrap().unwrap().chain;
        peer.replace_certificate(&foreign).unwrap_err();
        assert_eq!(NodeIdentity::load(dir.path()).unwrap().identity(), peer.identity());
    }
}
