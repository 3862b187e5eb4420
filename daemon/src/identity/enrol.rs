//! The first contact: a join token in, a certificate out.

use std::path::Path;

use flotilla_proto::wire::manager::{Certificate, EnrollRequest};
use flotilla_proto::{JoinTokenText, KeyHash, PeerId};
use rcgen::{KeyPair, PublicKeyData as _};
use rustls::pki_types::CertificateDer;

use super::bundle::{self, BundleError, IdentityBundle, JoiningKeyError};
use super::manager_url::{ManagerUrl, ParseManagerUrlError, manager_id};
use super::tls;
use crate::rpc::{self, CALL_TIMEOUT};

/// What a daemon joins with.
pub(super) struct Joining<'a> {
    /// Where its key is kept, and its identity will be.
    pub(super) dir: &'a Path,
    pub(super) id: &'a PeerId,
    pub(super) token: &'a JoinTokenText,
    /// Where the manager is looked for, in turn, before the place that the token says.
    pub(super) configured: &'a [ManagerUrl],
    /// The key that the name has, which lets the one that joins have it.
    pub(super) former: Option<&'a KeyPair>,
}

/// Has the manager certify this daemon's key. The token's CA is the only one trusted, so
/// nobody in between can pose as the manager.
pub(super) async fn enrol(joining: &Joining<'_>) -> Result<IdentityBundle, EnrolError> {
    let Joining { dir, id, token, configured, former } = joining;
    let token = token.token();
    let manager: ManagerUrl = token.manager.parse()?;
    let ca = CertificateDer::from(token.ca_der.to_vec());
    let roots = tls::roots(&ca).map_err(|_| EnrolError::TokenCa)?;
    let key = bundle::joining_key(dir)?;

    let config = tls::anonymous_client_config(roots, rpc::ALPN_GRPC);
    let channel = rpc::channel_over(config, &addresses(configured, &manager), &manager_id());
    let mut request = tonic::Request::new(EnrollRequest {
        secret: token.secret.clone(),
        id: id.as_str().to_owned(),
        csr_der: signing_request(&key)?.into(),
        former_csr_der: former.map(|former| consent(former, &key)).transpose()?.unwrap_or_default().into(),
    });
    request.set_timeout(CALL_TIMEOUT);
    let reply = rpc::EnrolmentClient::new(channel).enroll(request).await;
    if reply.as_ref().is_err_and(|status| status.code() == tonic::Code::FailedPrecondition) {
        // The key itself is refused: it joined, the answer was lost, and the daemon was removed since.
        bundle::forget_joining_key(dir)?;
    }
    let reply = reply.map_err(|status| EnrolError::from_status(&manager, &status))?.into_inner();
    let chain = chain_of(&reply);
    Ok(IdentityBundle { key_pem: key.serialize_pem(), chain, ca, manager })
}

/// Where to look for the manager, each place once.
pub(super) fn addresses<'a>(configured: &'a [ManagerUrl], token: &'a ManagerUrl) -> Vec<&'a str> {
    let mut addresses: Vec<_> = configured.iter().map(ManagerUrl::address).collect();
    if !addresses.contains(&token.address()) {
        addresses.push(token.address());
    }
    addresses
}

/// A request whose only content of weight is the public key; the manager decides the rest.
pub(super) fn signing_request(key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let request = rcgen::CertificateParams::default().serialize_request(key)?;
    Ok(request.der().to_vec())
}

/// A request of the former key whose common name is the other key's hash.
fn consent(former: &KeyPair, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let hash = KeyHash::of(&key.subject_public_key_info()).to_string();
    params.distinguished_name.push(rcgen::DnType::CommonName, hash);
    Ok(params.serialize_request(former)?.der().to_vec())
}

pub(super) fn chain_of(certificate: &Certificate) -> Vec<CertificateDer<'static>> {
    certificate.chain_der.iter().map(|der| CertificateDer::from(der.to_vec())).collect()
}

/// Why a daemon could not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The token names no manager.
    #[error("the join token is damaged: {0}")]
    TokenManager(#[from] ParseManagerUrlError),
    /// The token pins no CA.
    #[error("the join token is damaged: it holds no CA certificate")]
    TokenCa,
    /// No key could be made.
    #[error("make a key: {0}")]
    Key(#[from] rcgen::Error),
    /// The key cannot be kept.
    #[error(transparent)]
    Keep(#[from] BundleError),
    /// No answer.
    #[error("enrol with the manager at {manager}: {reason}")]
    Unreachable {
        /// Where it should be.
        manager: ManagerUrl,
        /// What went wrong on the way.
        reason: String,
    },
    /// The manager does not take this key, which is forgotten: the next attempt has another.
    #[error("the manager at {manager} refused this daemon's key; the next attempt uses a new one: {reason}")]
    KeyRefused {
        /// Who said so.
        manager: ManagerUrl,
        /// In its words.
        reason: String,
    },
    /// The manager said no.
    #[error("the manager at {manager} refused to enrol this daemon: {reason}")]
    Refused {
        /// Who said so.
        manager: ManagerUrl,
        /// In its words.
        reason: String,
    },
}

impl EnrolError {
    fn from_status(manager: &ManagerUrl, status: &tonic::Status) -> Self {
        let (manager, reason) = (manager.clone(), rpc::reason(status));
        match status.code() {
            tonic::Code::PermissionDenied
            | tonic::Code::Unauthenticated
            | tonic::Code::AlreadyExists
            | tonic::Code::InvalidArgument
            | tonic::Code::Unimplemented => Self::Refused { manager, reason },
            tonic::Code::FailedPrecondition => Self::KeyRefused { manager, reason },
            // Its database, its memory: it is in trouble, and may answer later.
            _ => Self::Unreachable { manager, reason },
        }
    }
}

impl From<JoiningKeyError> for EnrolError {
    fn from(error: JoiningKeyError) -> Self {
        match error {
            JoiningKeyError::Make(error) => Self::Key(error),
            JoiningKeyError::Keep(error) => Self::Keep(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::time::Instant;

    use super::super::testing::TestCa;
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_manager_that_hangs_is_given_up_within_ten_seconds() {
        let hung = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hung.local_addr().unwrap();
        let (dir, token) = (tempfile::tempdir().unwrap(), TestCa::new().token(address));
        let id = "node-1".parse().unwrap();
        let joining = Joining { dir: dir.path(), id: &id, token: &token, configured: &[], former: None };
        let started = Instant::now();
        let error = enrol(&joining).await.unwrap_err();
        assert!(started.elapsed().as_secs() <= 10, "{:?}", started.elapsed());
        let error = error.to_string();
        assert!(error.starts_with(&format!("enrol with the manager at https://{address}: ")), "{error}");
        assert!(error.contains("timed out"), "{error}");
    }
}
