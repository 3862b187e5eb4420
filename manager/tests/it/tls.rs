//! What a handshake lets through, and what a role may call.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use flotilla_daemon::identity::{ClientAuth, NodeIdentity, manager_id};
use flotilla_daemon::rpc::{self, EnrolmentClient, SettingsClient, TopologyClient};
use flotilla_manager::identity::Ca;
use flotilla_proto::wire::manager::{Empty, RenewRequest, WatchRequest};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::Code;

use crate::harness::{Cluster, within};

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_at_the_handshake() {
    let cluster = Cluster::start().await;
    let (address, _server) = daemon_server(&cluster).await;
    let config = rustls_client(&cluster, None);
    assert_eq!(alert(address, config).await, AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn a_client_with_another_cluster_s_certificate_is_refused_at_the_handshake() {
    let (cluster, other) = tokio::join!(Cluster::start(), Cluster::start());
    let (address, _server) = daemon_server(&cluster).await;
    other.run("region add eu").await.unwrap();
    other.enrol("node-1", "eu", "peer").await;
    let config = rustls_client(&cluster, Some(key_and_chain(&other.daemon_dir("node-1"))));
    let refusals = [AlertDescription::UnknownCA, AlertDescription::DecryptError];
    assert!(refusals.contains(&alert(address, config).await));
}

#[tokio::test]
async fn an_expired_certificate_is_refused_at_the_handshake() {
    let cluster = Cluster::start().await;
    let (address, _server) = daemon_server(&cluster).await;
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let ca = Ca::open(&cluster.config.data_dir, &cluster.config.cluster).unwrap();
    let long_ago = SystemTime::now() - Duration::from_secs(8 * 24 * 60 * 60);
    let week = Duration::from_secs(7 * 24 * 60 * 60);
    let expired = ca.issue(peer.identity(), peer.public_key(), long_ago, week).unwrap();
    let (key, _) = key_and_chain(&cluster.daemon_dir("node-1"));
    let config = rustls_client(&cluster, Some((key, vec![expired])));
    assert_eq!(alert(address, config).await, AlertDescription::CertificateExpired);
}

#[tokio::test]
async fn a_server_of_another_cluster_or_of_another_name_is_refused() {
    let (cluster, other) = tokio::join!(Cluster::start(), Cluster::start());
    let (address, _server) = daemon_server(&cluster).await;
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    presented(address, &peer, "planner").await.unwrap();
    let error = presented(address, &peer, "node-2").await.unwrap_err().to_string();
    assert!(error.contains("not valid for name"), "{error}");
    let error = presented(address, &other.admin(), "planner").await.unwrap_err().to_string();
    assert!(error.contains("invalid peer certificate"), "{error}");
}

#[tokio::test]
async fn a_peer_may_not_touch_the_topology() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    for role in ["peer", "seed", "scheduler"] {
        let daemon = cluster.enrol(&format!("a-{role}"), "eu", role).await;
        let mut topology = TopologyClient::new(rpc::manager_channel(&daemon));
        let refused = topology.list_regions(Empty {}).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains(&format!("a-{role} has the role {role}")), "{refused}");
    }
}

#[tokio::test]
async fn an_admin_has_no_settings_and_no_renewal_by_call() {
    let cluster = Cluster::start().await;
    let channel = rpc::manager_channel(&cluster.admin());
    let refused = SettingsClient::new(channel.clone()).watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let refused = EnrolmentClient::new(channel).renew(RenewRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}

#[tokio::test]
async fn without_a_certificate_nothing_but_enrolment_answers() {
    let cluster = Cluster::start().await;
    let config = rustls_client(&cluster, None);
    let channel = rpc::channel_over(config, &[&cluster.address.to_string()], &manager_id());
    let refused = TopologyClient::new(channel.clone()).list_regions(Empty {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = SettingsClient::new(channel.clone()).watch(WatchRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let refused = EnrolmentClient::new(channel).renew(RenewRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

/// A daemon's own gRPC server, as a scheduler runs it; it ends with the guard.
async fn daemon_server(cluster: &Cluster) -> (SocketAddr, DropGuard) {
    cluster.run("region add eu").await.unwrap();
    let scheduler = cluster.enrol("planner", "eu", "scheduler").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (routes, auth) = (tonic::service::Routes::default(), ClientAuth::Required);
    tokio::spawn(rpc::serve(listener, &scheduler, auth, routes, shutdown.clone()));
    (address, shutdown.drop_guard())
}

/// The certificate that the daemon at `address` shows to `client`.
pub(crate) async fn presented(
    address: SocketAddr,
    client: &NodeIdentity,
    server: &str,
) -> io::Result<CertificateDer<'static>> {
    let name = ServerName::try_from(format!("{server}.flotilla")).unwrap();
    let tcp = TcpStream::connect(address).await?;
    let config = client.client_config(&[rpc::ALPN_GRPC]);
    let stream = TlsConnector::from(config).connect(name, tcp).await?;
    Ok(stream.get_ref().1.peer_certificates().unwrap()[0].clone().into_owned())
}

/// The alert with which the server ends the handshake. In TLS 1.3 a client learns of it
/// only when it reads.
async fn alert(address: SocketAddr, config: Arc<ClientConfig>) -> AlertDescription {
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("planner.flotilla").unwrap();
    let failed = match TlsConnector::from(config).connect(name, tcp).await {
        Ok(mut stream) => loop {
            // HTTP/2's settings may arrive before the refusal.
            match within(stream.read(&mut [0; 1024])).await {
                Ok(0) => panic!("the server closed without an alert"),
                Ok(_) => {}
                Err(error) => break error,
            }
        },
        Err(error) => error,
    };
    match failed.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert but {failed}: {other:?}"),
    }
}

type KeyAndChain = (PrivateKeyDer<'static>, Vec<CertificateDer<'static>>);

/// A client that trusts the cluster, and shows whatever it is given.
pub(crate) fn rustls_client(cluster: &Cluster, shown: Option<KeyAndChain>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    roots.add(cluster.admin().ca().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some((key, chain)) => builder.with_client_auth_cert(chain, key).unwrap(),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![rpc::ALPN_GRPC.to_vec()];
    Arc::new(config)
}

fn key_and_chain(dir: &Path) -> KeyAndChain {
    let key = PrivateKeyDer::from_pem_file(dir.join("key.pem")).unwrap();
    let chain = CertificateDer::pem_file_iter(dir.join("cert.pem")).unwrap();
    (key, chain.collect::<Result<_, _>>().unwrap())
}

pub(crate) fn to_pem(certificate: &CertificateDer<'_>) -> String {
    let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
    format!("-----BEGIN CERTIFICATE-----\n{encoded}\n-----END CERTIFICATE-----\n")
}
