//! Keys that are trusted no more, though certificates for them are still good.
//!
//! The manager names them in the settings. A handshake with one fails, whichever side dials, and
//! what stands already is closed by its owner, who waits for [`RevokedKeys::until_revoked`].

use std::collections::HashSet;
use std::sync::Arc;

use flotilla_proto::KeyHash;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, SignatureScheme,
};
use tokio::sync::watch;

use super::certificate::peer_key;

/// The revoked keys of the moment; a clone sees the same.
#[derive(Debug, Clone, Default)]
pub struct RevokedKeys(Arc<watch::Sender<HashSet<KeyHash>>>);

impl RevokedKeys {
    /// These are revoked, and no others.
    pub fn replace(&self, keys: impl IntoIterator<Item = KeyHash>) {
        let keys = keys.into_iter().collect();
        // Those who wait for a key are not woken when nothing changed.
        self.0.send_if_modified(|former| {
            let is_news = *former != keys;
            *former = keys;
            is_news
        });
    }

    /// Whether the key is revoked.
    pub fn contains(&self, key: &KeyHash) -> bool {
        self.0.borrow().contains(key)
    }

    /// Returns once the key is revoked, at once if it is.
    pub fn until_revoked(&self, key: KeyHash) -> impl Future<Output = ()> + Send + use<> {
        let (keys, mut changes) = (self.clone(), self.0.subscribe());
        async move {
            // `keys` holds the sender, so that the channel is never closed.
            let _revoked = changes.wait_for(|revoked| revoked.contains(&key)).await;
            drop(keys);
        }
    }

    fn check(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        let key = peer_key(std::slice::from_ref(certificate)).map_err(|_| CertificateError::BadEncoding)?;
        if self.contains(&key) { Err(CertificateError::Revoked.into()) } else { Ok(()) }
    }
}

/// Verifies the certificates of clients as `inner` does, and refuses revoked keys.
#[derive(Debug)]
pub(super) struct UnrevokedClients {
    pub(super) inner: Arc<dyn ClientCertVerifier>,
    pub(super) revoked: RevokedKeys,
}

impl ClientCertVerifier for UnrevokedClients {
    fn offer_client_auth(&self) -> bool {
        self.inner.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.inner.verify_client_cert(end_entity, intermediates, now)?;
        self.revoked.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

/// Verifies the certificates of servers as `inner` does, and refuses revoked keys.
#[derive(Debug)]
pub(super) struct UnrevokedServers {
    pub(super) inner: Arc<dyn ServerCertVerifier>,
    pub(super) revoked: RevokedKeys,
}

impl ServerCertVerifier for UnrevokedServers {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified =
            self.inner.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.revoked.check(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.inner.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use rustls::AlertDescription;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::super::testing::TestCa;
    use super::super::{ClientAuth, NodeIdentity};
    use super::*;

    #[tokio::test]
    async fn a_revoked_key_is_refused_at_the_handshake_by_both_sides() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
        let server = ca.identity(&dir.path().join("s"), "flotilla://prod/eu/scheduler/s-0");
        let client = ca.identity(&dir.path().join("p"), "flotilla://prod/eu/peer/p-0");
        shake(&client, &server).await.unwrap();

        server.revoked_keys().replace([client.key()]);
        let refused = shake(&client, &server).await.unwrap_err();
        assert_eq!(refused, Error::AlertReceived(AlertDescription::CertificateRevoked));

        server.revoked_keys().replace([]);
        client.revoked_keys().replace([server.key()]);
        let refused = shake(&client, &server).await.unwrap_err();
        assert_eq!(refused, Error::InvalidCertificate(CertificateError::Revoked));
    }

    #[tokio::test]
    async fn another_key_of_the_same_name_is_not_revoked() {
        let (dir, ca) = (tempfile::tempdir().unwrap(), TestCa::new());
        let server = ca.identity(&dir.path().join("s"), "flotilla://prod/eu/scheduler/s-0");
        let former = ca.identity(&dir.path().join("a"), "flotilla://prod/eu/peer/p-0");
        let latter = ca.identity(&dir.path().join("b"), "flotilla://prod/eu/peer/p-0");
        server.revoked_keys().replace([former.key()]);
        shake(&former, &server).await.unwrap_err();
        shake(&latter, &server).await.unwrap();
    }

    #[tokio::test]
    async fn a_key_is_waited_for_until_it_is_revoked() {
        let (keys, key) = (RevokedKeys::default(), KeyHash::of(b"key"));
        let waiting = tokio::spawn(keys.until_revoked(key));
        keys.replace([KeyHash::of(b"another")]);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        keys.replace([KeyHash::of(b"another"), key]);
        let waited = tokio::time::timeout(Duration::from_secs(10), waiting).await;
        waited.expect("it is revoked").unwrap();
        keys.until_revoked(key).now_or_never().expect("it is revoked already");
    }

    /// A handshake between the two. In TLS 1.3 a client learns only by reading that it is refused.
    async fn shake(client: &NodeIdentity, server: &NodeIdentity) -> Result<(), Error> {
        let (near, far) = tokio::io::duplex(64 << 10);
        let acceptor = tokio_rustls::TlsAcceptor::from(server.server_config(&[], ClientAuth::Required));
        let answer = async {
            let Ok(mut stream) = acceptor.accept(far).await else { return };
            stream.write_all(b"!").await.unwrap();
            stream.shutdown().await.unwrap();
        };
        let connector = tokio_rustls::TlsConnector::from(client.client_config(&[]));
        let name = ServerName::try_from(server.identity().id.dns_name()).unwrap();
        let ask = async { connector.connect(name, near).await?.read_u8().await.map(drop) };
        let (asked, ()) = tokio::join!(ask, answer);
        asked.map_err(|error| error.get_ref().unwrap().downcast_ref::<Error>().unwrap().clone())
    }
}
