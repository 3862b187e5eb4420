//! TLS is verified, always: against the endpoint's own CA, under the URL's name, wherever it is dialled.

use std::sync::Arc;

use flotilla_daemon::settings::Endpoint;
use http::header;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::TlsAcceptor;

use super::fake::{FakeRegistry, serve, status, with};
use super::{Bench, HOST, anonymous, blob, credentials, quick_config};

const NAME: &str = "harbor-a.internal.test";

struct Ca {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Ca {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        Self { issuer }
    }

    fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server that proves to be `name` and speaks HTTP/1.1, or HTTP/2 if it is let.
    fn acceptor(&self, name: &str) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}

fn endpoint(registry: &FakeRegistry, ca: Option<&Ca>) -> Endpoint {
    Endpoint {
        ca_pem: ca.map(Ca::pem),
        address: Some(registry.address),
        ..Endpoint::new(format!("https://{NAME}").parse().unwrap())
    }
}

#[tokio::test]
async fn a_registry_is_reached_at_its_address_under_its_own_name() {
    let content = blob(300_000);
    let ca = Ca::new("ours");
    let registry = FakeRegistry::start_tls(ca.acceptor(NAME), {
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::with_endpoints(vec![endpoint(&registry, Some(&ca))], quick_config());
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!(registry.seen()[0].header(header::HOST), HOST);
}

#[tokio::test]
async fn a_registry_of_an_unknown_ca_or_another_name_is_refused_by_name() {
    let (ca, other) = (Ca::new("ours"), Ca::new("theirs"));
    for (acceptor, trusted, expected) in [
        (ca.acceptor(NAME), Some(&other), "UnknownIssuer"),
        (ca.acceptor(NAME), None, "UnknownIssuer"),
        (ca.acceptor("harbor-b.internal.test"), Some(&ca), "not valid for name"),
    ] {
        let registry = FakeRegistry::start_tls(acceptor, |_| status(200)).await;
        let bench = Bench::with_endpoints(vec![endpoint(&registry, trusted)], quick_config());
        let error = bench.read(&blob(1), &credentials(&["Bearer t"])).await.error();
        assert!(error.contains(expected) && error.contains(NAME), "{error}");
        assert!(registry.seen().is_empty());
        assert_eq!(bench.counter("flotilla_peer_source_errors_total{reason=\"tls\"}"), 1, "not asked again");
    }
}

#[tokio::test]
async fn a_redirect_that_leaves_tls_is_not_followed() {
    let ca = Ca::new("ours");
    let storage = FakeRegistry::start(|_| status(200)).await;
    let registry = FakeRegistry::start_tls(ca.acceptor(NAME), {
        let location = storage.url();
        move |_| with(status(307), header::LOCATION, &location)
    })
    .await;
    let bench = Bench::with_endpoints(vec![endpoint(&registry, Some(&ca))], quick_config());
    let error = bench.read(&blob(1), &anonymous()).await.error();
    assert!(error.contains("redirects from https to http"), "{error}");
    assert!(storage.seen().is_empty());
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks_tls_is_no_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Some(listener.local_addr().unwrap());
    let mute = Endpoint { address, ..Endpoint::new(format!("https://{NAME}").parse().unwrap()) };
    let config = crate::source::SourceConfig {
        connect_timeout: std::time::Duration::from_millis(100),
        ..quick_config()
    };
    let error = Bench::with_endpoints(vec![mute], config).read(&blob(1), &anonymous()).await.error();
    assert!(error.contains("no connection within 100ms"), "{error}");
}
