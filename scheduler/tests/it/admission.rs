//! Who may attach, and what ends a stream.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::identity::NodeIdentity;
use flotilla_daemon::rpc;
use flotilla_proto::PROTOCOL;
use flotilla_proto::wire::scheduler::{FromPeer, Hello, Want};
use rustls::client::ResolvesClientCert;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, RootCertStore};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::Code;

use crate::cluster::{Cluster, REGION, SCHEDULER, within};
use crate::harness::{Region, attach, hello};

#[tokio::test]
async fn a_client_without_a_certificate_is_refused_at_the_handshake() {
    let region = Region::start().await;
    let alert = alert(&region, None).await;
    assert_eq!(alert, AlertDescription::CertificateRequired);
}

#[tokio::test]
async fn a_certificate_of_another_ca_is_refused_at_the_handshake() {
    let (region, other) = tokio::join!(Region::start(), Cluster::start());
    let stranger = other.enrol("node-1", REGION, "peer").await;
    let alert = alert(&region, Some(&stranger)).await;
    assert!(matches!(alert, AlertDescription::UnknownCA | AlertDescription::DecryptError), "{alert:?}");
}

#[tokio::test]
async fn a_peer_of_another_region_is_refused_by_the_call() {
    let region = Region::start().await;
    region.cluster.add_region("us").await;
    for role in ["peer", "seed"] {
        let stranger = region.cluster.enrol(&format!("us-{role}"), "us", role).await;
        let refused = attach(region.scheduler, &stranger, hello()).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert_eq!(refused.message(), format!("us-{role} is not of the region eu"));
    }
}

#[tokio::test]
async fn no_role_but_peer_and_seed_is_let_in() {
    let region = Region::start().await;
    let callers = [
        region.cluster.issue("flotilla://flotilla/-/manager/manager"),
        region.cluster.issue("flotilla://flotilla/-/admin/admin"),
        region.cluster.issue("flotilla://flotilla/eu/scheduler/planner-2"),
    ];
    for caller in callers {
        let refused = attach(region.scheduler, &caller, hello()).await.err().unwrap();
        assert_eq!(refused.code(), Code::PermissionDenied, "{}", caller.identity());
        assert!(refused.message().starts_with("this call is for the role peer or seed"), "{refused}");
    }
}

#[tokio::test]
async fn a_first_batch_that_is_no_greeting_is_refused_with_what_is_wrong() {
    let region = Region::start().await;
    let peer = region.cluster.enrol("node-1", REGION, "peer").await;
    let good = hello().hello.unwrap();
    let other_protocol = Hello { protocol: PROTOCOL + 1, ..good.clone() };
    let no_address = Hello { address: "somewhere".into(), ..good.clone() };
    let long_zone = Hello { zone: "z".repeat(64), ..good };
    let expected = [
        (None, Code::InvalidArgument, "the first batch says hello"),
        (Some(other_protocol), Code::FailedPrecondition, "this scheduler speaks protocol"),
        (Some(no_address), Code::InvalidArgument, "`somewhere` is not an ip:port"),
        (Some(long_zone), Code::InvalidArgument, "a zone's name is longer than 63 characters"),
    ];
    for (hello, code, message) in expected {
        let first = FromPeer { hello, ..Default::default() };
        let refused = attach(region.scheduler, &peer, first).await.err().unwrap();
        assert_eq!(refused.code(), code);
        assert!(refused.message().starts_with(message), "{refused}");
    }
}

#[tokio::test]
async fn a_peer_that_talks_nonsense_loses_its_stream_and_may_come_back() {
    let region = Region::start().await;
    let identity = region.cluster.enrol("node-1", REGION, "peer").await;
    let mut peer = attach(region.scheduler, &identity, hello()).await.unwrap();
    let want = Want { digest: Bytes::from_static(&[7; 31]), size: 1, reader: true, runs: vec![] };
    peer.say(FromPeer { wants: vec![want], ..Default::default() }).await;
    let ended = peer.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert_eq!(ended.message(), "a digest has 32 bytes");

    let mut again = attach(region.scheduler, &identity, hello()).await.unwrap();
    let welcome = again.hear(|batch| batch.welcome).await;
    assert_eq!((welcome.protocol, welcome.scheduler.as_str()), (PROTOCOL, SCHEDULER));
}

#[tokio::test]
async fn a_peer_that_attaches_again_replaces_its_former_stream() {
    let region = Region::start().await;
    let identity = region.cluster.enrol("node-1", REGION, "peer").await;
    let mut former = attach(region.scheduler, &identity, hello()).await.unwrap();
    let mut latter = attach(region.scheduler, &identity, hello()).await.unwrap();
    former.end().await.unwrap();
    latter.hear(|batch| batch.welcome).await;
}

#[tokio::test]
async fn a_removed_peer_loses_its_stream_and_is_refused_at_the_handshake_until_it_enrols_again() {
    let region = Region::start().await;
    let removed = region.cluster.enrol("node-1", REGION, "peer").await;
    let mut stream = attach(region.scheduler, &removed, hello()).await.unwrap();
    stream.hear(|batch| batch.welcome).await;
    let mut stays = region.attach("node-2", "peer").await;

    region.cluster.remove("node-1").await;
    tokio::time::timeout(Duration::from_secs(5), stream.end()).await.expect("within 5 s").unwrap_err();
    assert_eq!(alert(&region, Some(&removed)).await, AlertDescription::CertificateRevoked);
    let refused = attach(region.scheduler, &removed, hello()).await.err().unwrap();
    assert!(rpc::reason(&refused).contains("this daemon's key is revoked"), "{refused:?}");

    stays.hear(|batch| batch.welcome).await;
    std::fs::remove_dir_all(region.cluster.daemon_dir("node-1")).unwrap();
    let mut again = region.attach("node-1", "peer").await;
    again.hear(|batch| batch.welcome).await;
}

/// The alert with which the scheduler ends the handshake of a client that shows the
/// certificate of `shown`. In TLS 1.3 a client learns of it only when it reads.
async fn alert(region: &Region, shown: Option<&NodeIdentity>) -> AlertDescription {
    let tcp = TcpStream::connect(region.scheduler).await.unwrap();
    let name = ServerName::try_from(format!("{SCHEDULER}.flotilla")).unwrap();
    let refused = match TlsConnector::from(tls(region, shown)).connect(name, tcp).await {
        Ok(mut stream) => loop {
            // HTTP/2's settings may arrive before the refusal.
            match within(stream.read(&mut [0; 1024])).await {
                Ok(0) => panic!("closed without an alert"),
                Ok(_) => {}
                Err(error) => break error,
            }
        },
        Err(error) => error,
    };
    match refused.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>()) {
        Some(rustls::Error::AlertReceived(alert)) => *alert,
        other => panic!("no alert but {refused}: {other:?}"),
    }
}

/// A client that trusts the region's cluster and shows whatever it is told to.
fn tls(region: &Region, shown: Option<&NodeIdentity>) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let manager = NodeIdentity::load(&region.cluster.daemon_dir("observer").join("identity")).unwrap();
    roots.add(manager.ca().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match shown {
        Some(identity) => {
            let its_own: Arc<dyn ResolvesClientCert> =
                identity.client_config(&[rpc::ALPN_GRPC]).client_auth_cert_resolver.clone();
            builder.with_client_cert_resolver(its_own)
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![rpc::ALPN_GRPC.to_vec()];
    Arc::new(config)
}
