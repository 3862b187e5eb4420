//! TLS configurations of an identity: 1.3 only, the cluster's CA only, both sides verified.

use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_proto::Identity;
use rustls::client::danger::ServerCertVerifier as _;
use rustls::client::{ResolvesClientCert, Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{CipherSuite, ClientConfig, RootCertStore, ServerConfig, SignatureScheme};

use super::certificate::{PeerIdentityError, Validity, peer_identity};
use super::revoked::{UnrevokedClients, UnrevokedServers};
use super::{Current, NodeIdentity};

/// Whether a server lets in clients that show no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// No: every daemon but the manager.
    Required,
    /// Yes, for the first contact; a certificate that is shown is still verified.
    Optional,
}

impl NodeIdentity {
    /// For servers: the caller's chain is verified against the cluster's CA, its key must not be
    /// revoked, and whose it is, is [`peer_identity`]'s to say.
    pub fn server_config(&self, alpn: &[&[u8]], client_auth: ClientAuth) -> Arc<ServerConfig> {
        let verifier = WebPkiClientVerifier::builder_with_provider(self.0.roots.clone(), PROVIDER.clone());
        let verifier = match client_auth {
            ClientAuth::Required => verifier,
            ClientAuth::Optional => verifier.allow_unauthenticated(),
        };
        let mut config = ServerConfig::builder_with_provider(PROVIDER.clone())
            .with_protocol_versions(&[&TLS13])
            .expect("the provider has TLS 1.3 suites")
            .with_client_cert_verifier(Arc::new(UnrevokedClients {
                inner: verifier.build().expect("the CA was read as a root"),
                revoked: self.0.revoked.clone(),
            }))
            .with_cert_resolver(Arc::new(Resolver(self.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        // A resumed session would skip verification, and so outlive its certificate.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// For clients: the server must hold a certificate of the cluster's CA for the name
    /// that is dialled, `<id>.flotilla`, and for a key that is not revoked.
    pub fn client_config(&self, alpn: &[&[u8]]) -> Arc<ClientConfig> {
        let verifier =
            UnrevokedServers { inner: server_verifier(&self.0.roots), revoked: self.0.revoked.clone() };
        // Called dangerous by rustls because it could be any verifier; this one only refuses more.
        let mut config = client_builder()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(Resolver(self.clone())));
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }
}

/// For the first contact: no certificate yet, but the server is verified all the same.
pub(super) fn anonymous_client_config(roots: Arc<RootCertStore>, alpn: &[u8]) -> Arc<ClientConfig> {
    let mut config = client_builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Arc::new(config)
}

fn client_builder() -> rustls::ConfigBuilder<ClientConfig, rustls::WantsVerifier> {
    ClientConfig::builder_with_provider(PROVIDER.clone())
        .with_protocol_versions(&[&TLS13])
        .expect("the provider has TLS 1.3 suites")
}

fn server_verifier(roots: &Arc<RootCertStore>) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(roots.clone(), PROVIDER.clone())
        .build()
        .expect("the CA was read as a root")
}

/// The cluster's CA as the only root there is.
pub(super) fn roots(ca: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(ca.clone())?;
    Ok(Arc::new(roots))
}

/// Checks that `chain` is a certificate of the cluster for `key`, good at `now`, and whose.
pub(super) fn certify(
    key: &rcgen::KeyPair,
    chain: Vec<CertificateDer<'static>>,
    roots: &Arc<RootCertStore>,
    now: SystemTime,
) -> Result<(Identity, Current), CertifyError> {
    let identity = peer_identity(&chain)?;
    let Some((leaf, intermediates)) = chain.split_first() else {
        return Err(PeerIdentityError::NoCertificate.into());
    };
    let validity = Validity::of(leaf)?;
    if validity.not_after <= now {
        return Err(CertifyError::Expired(validity));
    }
    if validity.not_before > now {
        return Err(CertifyError::NotYet(validity));
    }
    let name = ServerName::try_from(identity.id.dns_name()).expect("an id is a DNS label");
    let since_epoch = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    server_verifier(roots).verify_server_cert(
        leaf,
        intermediates,
        &name,
        &[],
        UnixTime::since_unix_epoch(since_epoch),
    )?;
    let key = PrivateKeyDer::try_from(key.serialize_der()).map_err(|_| CertifyError::Key)?;
    let certified = CertifiedKey::from_der(chain, key, &PROVIDER)?;
    Ok((identity, Current { certified: Arc::new(certified), validity }))
}

/// Gives each handshake the certificate of the moment.
#[derive(Debug)]
struct Resolver(NodeIdentity);

impl Resolver {
    fn current(&self) -> Arc<CertifiedKey> {
        self.0.0.current.load().certified.clone()
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }
}

impl ResolvesClientCert for Resolver {
    fn resolve(&self, _roots: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.current())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// One provider for every connection; never the process's default, which a dependency may set.
///
/// AES-128-GCM comes first: pieces are most of what is sent, and its shorter key schedule
/// costs the least CPU of the three suites of TLS 1.3.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
});

/// Why a certificate cannot be this daemon's.
#[derive(Debug, thiserror::Error)]
pub(super) enum CertifyError {
    /// It names nobody.
    #[error(transparent)]
    Identity(#[from] PeerIdentityError),
    /// Its life is over.
    #[error("it has expired")]
    Expired(Validity),
    /// Its life has not begun.
    #[error("it is not good yet")]
    NotYet(Validity),
    /// The key is of a kind that cannot be used.
    #[error("the key cannot be used")]
    Key,
    /// It is not of this CA, not good yet, or not for this key.
    #[error(transparent)]
    Tls(#[from] rustls::Error),
}
