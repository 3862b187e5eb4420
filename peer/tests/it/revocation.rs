//! A peer that was removed and does not know: its region does.

use flotilla_proto::JoinTokenText;
use flotilla_proto::wire::manager::JoinToken;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cluster::{Cluster, REGION, within};
use crate::region::{self, Region, blob_path, noise};

/// Its certificate is good for days, and nobody tells it to stop.
#[tokio::test]
async fn a_removed_peer_that_does_not_hear_of_it_gets_nothing_from_its_region() {
    let mut region = Region::start().await;
    let (token, way) = way_to_the_manager(&region.cluster).await;
    let join = |config: &mut flotilla_peer::PeerConfig| {
        config.manager.join_token = Some(token.to_string().into());
    };
    let deaf = region::start(&mut region.cluster, "deaf", "peer", &join).await;
    // Small ones are read ahead.
    let (known, later) = (noise(1, 300_000), noise(2, 2_000_000));
    region.registry.push("app", "known", &[&known]);
    region.registry.push("app", "later", &[&later]);
    assert_eq!(deaf.client.mirror("/v2/app/manifests/known").await.status, 200);
    assert_eq!(deaf.client.mirror(&blob_path("app", &known)).await.body, known);
    assert_eq!(deaf.client.mirror("/v2/app/manifests/later").await.status, 200);

    drop(way);
    region.cluster.remove("deaf").await;
    within(async {
        while deaf.client.mirror("/v2/app/manifests/known").await.status == 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert_ne!(within(deaf.client.mirror(&blob_path("app", &later))).await.status, 200);
    assert_eq!(region.registry.reads_of(&later).0, 0, "the seed reads nothing for it");

    assert_eq!(region.one.client.mirror("/v2/app/manifests/later").await.status, 200);
    assert_eq!(region.one.client.mirror(&blob_path("app", &later)).await.body, later);
}

/// A join token that leads to the manager by a way of its own, which ends with the guard.
async fn way_to_the_manager(cluster: &Cluster) -> (JoinTokenText, DropGuard) {
    let joining = cluster.joining(REGION, "peer").await;
    let token = joining.join_token().unwrap().unwrap();
    let manager = token.token().manager.strip_prefix("https://").unwrap().to_owned();
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gate.local_addr().unwrap();
    let ended = CancellationToken::new();
    let way = ended.clone();
    tokio::spawn(ended.clone().run_until_cancelled_owned(async move {
        loop {
            let (mut near, _) = gate.accept().await.unwrap();
            let mut far = TcpStream::connect(&manager).await.unwrap();
            let carry = async move { tokio::io::copy_bidirectional(&mut near, &mut far).await };
            tokio::spawn(way.clone().run_until_cancelled_owned(carry));
        }
    }));
    let token = JoinToken { manager: format!("https://{address}"), ..token.token().clone() };
    (token.into(), ended.drop_guard())
}
