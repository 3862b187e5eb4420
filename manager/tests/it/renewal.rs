//! Certificates change while everything runs.

use std::time::{Duration, SystemTime};

use flotilla_daemon::identity::{ClientAuth, NodeIdentity, renew_loop};
use flotilla_daemon::rpc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::harness::{Cluster, within};
use crate::tls::presented;

#[tokio::test]
async fn a_renewed_certificate_is_used_by_a_live_server_at_once() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let scheduler = cluster.enrol("planner", "eu", "scheduler").await;
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let shutdown = CancellationToken::new();
    let (routes, auth) = (tonic::service::Routes::default(), ClientAuth::Required);
    let server = tokio::spawn(rpc::serve(listener, &scheduler, auth, routes, shutdown.clone()));

    let before = presented(address, &peer, "planner").await.unwrap();
    scheduler.renew().await.unwrap();
    peer.renew().await.unwrap();
    let after = presented(address, &peer, "planner").await.unwrap();

    assert_ne!(before, after);
    let on_disk = NodeIdentity::load(&cluster.daemon_dir("planner")).unwrap();
    assert_eq!(on_disk.validity(), scheduler.validity());
    shutdown.cancel();
    within(server).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_loop_renews_before_the_certificate_ends() {
    let lifetime = Duration::from_secs(3);
    let cluster = Cluster::start_with(|config| config.certificate_lifetime = lifetime).await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let first = peer.validity();
    let renewals = tokio::spawn(renew_loop(peer.clone()));
    within(async {
        while peer.validity() == first {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(SystemTime::now() < first.not_after);
    renewals.abort();
}

#[tokio::test]
async fn the_manager_and_the_admin_renew_by_themselves() {
    let lifetime = Duration::from_secs(3);
    let cluster = Cluster::start_with(|config| config.certificate_lifetime = lifetime).await;
    let first = cluster.admin().validity();
    within(async {
        while cluster.admin().validity() == first {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    cluster.run("region list").await.unwrap();
}

#[tokio::test]
async fn a_daemon_that_was_removed_gets_no_new_certificate() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    peer.renew().await.unwrap();
    cluster.run("peer remove node-1").await.unwrap();
    let error = peer.renew().await.unwrap_err().to_string();
    assert!(error.contains("flotilla://flotilla/eu/peer/node-1 is not in the topology any more"), "{error}");
}

#[tokio::test]
async fn a_certificate_that_expired_on_disk_is_named_with_what_to_do() {
    let cluster = Cluster::start().await;
    cluster.run("region add eu").await.unwrap();
    let peer = cluster.enrol("node-1", "eu", "peer").await;
    let dir = cluster.daemon_dir("node-1");
    cluster.expire(&peer);

    let error = NodeIdentity::load(&dir).unwrap_err().to_string();
    let file = dir.join("cert.pem");
    assert!(error.starts_with(&format!("{} expired at ", file.display())), "{error}");
    assert!(error.contains("enrol again with a new join token"), "{error}");

    cluster.enrol("node-1", "eu", "peer").await;
    NodeIdentity::load(&dir).unwrap();
}
