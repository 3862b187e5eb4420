//! TLS is verified, always: against the endpoint's own CA, under the URL's name, wherever it is dialled.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use flotilla_daemon::settings::Endpoint;
use http::header;
use rcgen::{BasicConstraints, Certificate, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

use super::fake::{FakeRegistry, serve, status, text, with};
use super::{Bench, HOST, anonymous, blob, credentials, host, quick_config};
use crate::source::{ClientCertificate, OwnDaemon, Source, SourceConfig};

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
        self.acceptor_for(name, WebPkiClientVerifier::no_client_auth())
    }

    /// The same, for clients that show a certificate of this CA.
    fn acceptor_for_its_own(&self, name: &str) -> TlsAcceptor {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
        self.acceptor_for(name, verifier.build().unwrap())
    }

    fn acceptor_for(&self, name: &str, clients: Arc<dyn ClientCertVerifier>) -> TlsAcceptor {
        let (certificate, key) = self.certify(name);
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }

    fn certify(&self, name: &str) -> (Certificate, KeyPair) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        (params.signed_by(&key, &self.issuer).unwrap(), key)
    }

    /// A certificate of its for a client, in files.
    fn client_certificate(&self, dir: &Path) -> ClientCertificate {
        let (certificate, key) = self.certify("seed.test");
        let (certificate_file, key_file) = (dir.join("seed.crt"), dir.join("seed.key"));
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        ClientCertificate { certificate_file, key_file }
    }
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

fn showing(certificate: ClientCertificate) -> SourceConfig {
    let client_certificates = [(host(), certificate)].into();
    SourceConfig { client_certificates, probe_interval: Duration::from_millis(100), ..quick_config() }
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
async fn a_way_that_leaves_tls_is_followed_only_where_an_operator_lists_it() {
    let ca = Ca::new("ours");
    let content = blob(300_000);
    let storage = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.path.starts_with("/token?") {
            true => text(200, r#"{"token":"for-anybody"}"#),
            false => serve(&content, seen),
        }
    })
    .await;
    let redirecting = FakeRegistry::start_tls(ca.acceptor(NAME), {
        let location = storage.url();
        move |_| with(status(307), header::LOCATION, &location)
    })
    .await;
    let challenging = FakeRegistry::start_tls(ca.acceptor(NAME), {
        let (content, realm) = (content.clone(), format!(r#"Bearer realm="{}/token""#, storage.url()));
        move |seen| match seen.authorization() {
            "Bearer for-anybody" => serve(&content, seen),
            _ => with(status(401), header::WWW_AUTHENTICATE, &realm),
        }
    })
    .await;
    let url = storage.url();
    for registry in [&redirecting, &challenging] {
        let bench = Bench::with_endpoints(vec![endpoint(registry, Some(&ca))], quick_config());
        let error = bench.read(&content, &anonymous()).await.error();
        let expected =
            format!("leads from https to {url}: if that is meant, list \"{url}\" in source.may_lead_to");
        assert!(error.contains(&expected) && error.contains(HOST), "{error}");
        assert!(storage.seen().is_empty());
    }
    for registry in [&redirecting, &challenging] {
        let config = SourceConfig { may_lead_to: vec![url.parse().unwrap()], ..quick_config() };
        let bench = Bench::with_endpoints(vec![endpoint(registry, Some(&ca))], config);
        bench.read(&content, &anonymous()).await.assert_whole(&content);
    }
}

#[tokio::test]
async fn a_registry_known_by_name_leads_as_near_as_the_address_that_it_answers_from() {
    let (ca, content) = (Ca::new("ours"), blob(300_000));
    let storage = FakeRegistry::start_tls(ca.acceptor("localhost"), {
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let registry = FakeRegistry::start_tls(ca.acceptor("localhost"), {
        let location = format!("https://localhost:{}/stored", storage.address.port());
        move |_| with(status(307), header::LOCATION, &location)
    })
    .await;
    let url = format!("https://localhost:{}", registry.address.port());
    let named = Endpoint { ca_pem: Some(ca.pem()), ..Endpoint::new(url.parse().unwrap()) };
    let bench = Bench::with_endpoints(vec![named], quick_config());
    bench.read(&content, &anonymous()).await.assert_whole(&content);
}

#[tokio::test]
async fn a_server_that_accepts_and_never_speaks_tls_is_no_connection() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = Some(listener.local_addr().unwrap());
    let mute = Endpoint { address, ..Endpoint::new(format!("https://{NAME}").parse().unwrap()) };
    let config = SourceConfig { connect_timeout: Duration::from_millis(100), ..quick_config() };
    let error = Bench::with_endpoints(vec![mute], config).read(&blob(1), &anonymous()).await.error();
    assert!(error.contains("no connection within 100ms"), "{error}");
}

#[tokio::test]
async fn a_registry_that_asks_for_a_certificate_is_shown_the_one_for_it() {
    let (content, ca, dir) = (blob(300_000), Ca::new("ours"), tempfile::tempdir().unwrap());
    let registry = FakeRegistry::start_tls(ca.acceptor_for_its_own(NAME), {
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::with_endpoints(vec![endpoint(&registry, Some(&ca))], quick_config());
    let error = bench.read(&content, &anonymous()).await.error();
    assert!(error.contains("CertificateRequired"), "{error}");

    let config = showing(ca.client_certificate(dir.path()));
    let bench = Bench::with_endpoints(vec![endpoint(&registry, Some(&ca))], config);
    bench.read(&content, &anonymous()).await.assert_whole(&content);
}

#[tokio::test]
async fn a_stranger_is_shown_no_certificate() {
    let (content, ca, dir) = (blob(300_000), Ca::new("ours"), tempfile::tempdir().unwrap());
    let storage = FakeRegistry::start_tls(ca.acceptor_for_its_own("127.0.0.1"), |_| status(200)).await;
    let registry = FakeRegistry::start_tls(ca.acceptor_for_its_own(NAME), {
        let location = format!("https://{}/blob", storage.address);
        move |_| with(status(307), header::LOCATION, &location)
    })
    .await;
    let config = showing(ca.client_certificate(dir.path()));
    let bench = Bench::with_endpoints(vec![endpoint(&registry, Some(&ca))], config);
    let error = bench.read(&content, &anonymous()).await.error();
    assert!(error.contains("CertificateRequired"), "{error}");
    assert!(storage.seen().is_empty());
}

#[tokio::test]
async fn a_certificate_is_renewed_in_place_and_one_that_cannot_be_read_is_named() {
    let (content, old, new) = (blob(300_000), Ca::new("old"), Ca::new("new"));
    let dir = tempfile::tempdir().unwrap();
    let registry = FakeRegistry::start_tls(new.acceptor_for_its_own(NAME), {
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let certificate = old.client_certificate(dir.path());
    let config = showing(certificate.clone());
    let bench = Bench::with_endpoints(vec![endpoint(&registry, Some(&new))], config.clone());
    bench.read(&content, &anonymous()).await.error();
    new.client_certificate(dir.path());
    let watching = tokio::spawn(bench.source.clone().watch_endpoints());
    tokio::time::timeout(Duration::from_secs(20), async {
        while bench.read(&content, &anonymous()).await.result.is_err() {}
    })
    .await
    .unwrap();
    watching.abort();

    std::fs::write(&certificate.key_file, "rubbish").unwrap();
    let own = OwnDaemon { pseudonym: crate::via::Pseudonym::of_cluster(b""), listeners: Vec::new() };
    let error = Source::new(config, own, &mut prometheus_client::registry::Registry::default());
    let error = error.err().unwrap().to_string();
    assert!(error.contains(HOST) && error.contains("seed.key"), "{error}");
}
