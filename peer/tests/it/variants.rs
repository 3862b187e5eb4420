//! A registry that sent wrong bytes once and was mended, and daemons that were away meanwhile: what
//! they bring back is wrong.

use bytes::Bytes;
use flotilla_peer::store::{Store, StoreConfig};
use flotilla_proto::{Digest, Layout, Origins, PieceHash, Root, Variant};
use prometheus_client::registry::Registry as Metrics;

use crate::cluster::Cluster;
use crate::region::{Node, Region, blob_path, noise};

#[tokio::test]
async fn a_peer_that_comes_back_with_wrong_pieces_fails_one_pull_at_most() {
    let blob = noise(1, 3_000_000);
    let region = Region::start_after(async |cluster| leave_wrong_part(cluster, "node-1", &blob).await).await;
    region.registry.push("app", "v1", &[&blob]);
    assert!(failures(&region.two, &blob).await <= 1);
    for node in [&region.two, &region.one, &region.seed] {
        assert_eq!(failures(node, &blob).await, 0, "{}", node.name);
    }
    // What the seed read of the rest before is not read again.
    assert_eq!(region.registry.reads_of(&blob).1, 3_000_000);
}

#[tokio::test]
async fn a_seed_that_comes_back_with_wrong_pieces_finds_out_and_purges_the_region() {
    let blob = noise(1, 3_000_000);
    let region = Region::start_after(async |cluster| leave_wrong_part(cluster, "seed-0", &blob).await).await;
    region.registry.push("app", "v1", &[&blob]);
    // Whoever pulls again before the seed has found out may get the same again.
    assert!(failures(&region.two, &blob).await <= 2);
    for node in [&region.two, &region.one, &region.seed] {
        assert_eq!(failures(node, &blob).await, 0, "{}", node.name);
    }
}

#[tokio::test]
async fn a_peer_that_was_away_when_its_part_was_purged_drops_it_and_no_pull_fails() {
    let blob = noise(1, 3_000_000);
    let leave = async |cluster: &Cluster| {
        leave_wrong_part(cluster, "node-1", &blob).await;
        let variant = Variant { digest: Digest::of(&blob), root: Root::from_bytes([7; 32]) };
        store(cluster, "seed-0").entomb(variant).await;
    };
    let region = Region::start_after(leave).await;
    region.registry.push("app", "v1", &[&blob]);
    for node in [&region.two, &region.one] {
        assert_eq!(failures(node, &blob).await, 0, "{}", node.name);
    }
    assert_eq!(region.registry.reads_of(&blob).1, 3_000_000);
}

/// The first pieces of a blob, as the registry sent them when they were wrong.
async fn leave_wrong_part(cluster: &Cluster, name: &str, blob: &Bytes) {
    let layout = Layout::of(blob.len() as u64).unwrap();
    let store = store(cluster, name);
    let file = store.begin(Digest::of(blob), layout).await.unwrap();
    for piece in 0..5 {
        let range = layout.piece_range(piece);
        let right = &blob[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        let wrong: Bytes = right.iter().map(|byte| !byte).collect();
        store.write(&file, piece, PieceHash::of(&wrong), wrong, Origins::unknown(), false).await.unwrap();
    }
}

/// A daemon's store, before it runs.
fn store(cluster: &Cluster, name: &str) -> Store {
    let dir = cluster.daemon_dir(name).join("store");
    Store::open(&dir, &StoreConfig::default(), &mut Metrics::default()).unwrap().0
}

/// Pulls until the right bytes come. How often others did not.
async fn failures(node: &Node, blob: &Bytes) -> usize {
    for failures in 0..5 {
        assert_eq!(node.client.mirror("/v2/app/manifests/v1").await.status, 200);
        let answer = node.client.mirror(&blob_path("app", blob)).await;
        if answer.status == 200 && answer.is_complete {
            assert_eq!(answer.body, blob, "no complete wrong body");
            return failures;
        }
    }
    panic!("{} never gets the blob", node.name);
}
