//! The first contact: a join token in, a certificate out.

use flotilla_proto::wire::manager::{Certificate, EnrollRequest};
use flotilla_proto::{JoinTokenText, PeerId};
use rustls::pki_types::CertificateDer;

use super::bundle::IdentityBundle;
use super::manager_url::{ManagerUrl, ParseManagerUrlError, manager_id};
use super::tls;
use crate::rpc::{self, CALL_TIMEOUT};

/// Makes a key and has the manager certify it. The token's CA is the only one trusted, so
/// nobody in between can pose as the manager.
///
/// The manager is looked for at `configured`, in turn, and then where the token says.
pub(super) async fn enrol(
    id: &PeerId,
    token: &JoinTokenText,
    configured: &[ManagerUrl],
) -> Result<IdentityBundle, EnrolError> {
    let token = token.token();
    let manager: ManagerUrl = token.manager.parse()?;
    let ca = CertificateDer::from(token.ca_der.to_vec());
    let roots = tls::roots(&ca).map_err(|_| EnrolError::TokenCa)?;
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)?;

    let config = tls::anonymous_client_config(roots, rpc::ALPN_GRPC);
    let channel = rpc::channel_over(config, &addresses(configured, &manager), &manager_id());
    let mut request = tonic::Request::new(EnrollRequest {
        secret: token.secret.clone(),
        id: id.as_str().to_owned(),
        csr_der: signing_request(&key)?.into(),
    });
    request.set_timeout(CALL_TIMEOUT);
    let reply = rpc::EnrolmentClient::new(channel).enroll(request).await;
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
pub(super) fn signing_request(key: &rcgen::KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let request = rcgen::CertificateParams::default().serialize_request(key)?;
    Ok(request.der().to_vec())
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
    /// No answer.
    #[error("enrol with the manager at {manager}: {reason}")]
    Unreachable {
        /// Where it should be.
        manager: ManagerUrl,
        /// What went wrong on the way.
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
            // Its database, its memory: it is in trouble, and may answer later.
            _ => Self::Unreachable { manager, reason },
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
        let started = Instant::now();
        let error = enrol(&"node-1".parse().unwrap(), &TestCa::new().token(address), &[]).await.unwrap_err();
        assert!(started.elapsed().as_secs() <= 10, "{:?}", started.elapsed());
        let error = error.to_string();
        assert!(error.starts_with(&format!("enrol with the manager at https://{address}: ")), "{error}");
        assert!(error.contains("timed out"), "{error}");
    }
}
