//! Peers that choose their pieces by themselves: because the scheduler says so, or because
//! there is none.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::wire::scheduler::{
    Partner, PeerAddress, Picking, Run, SourceOrder, SourcePace, SourceVia, ToPeer,
};
use flotilla_proto::{Digest, Layout};

use crate::client::Answer;
use crate::region::{Node, Region, blob_path, noise};
use crate::script::Attached;

#[tokio::test]
async fn peers_that_are_told_to_pick_complete_a_blob_from_the_seed_and_from_each_other() {
    let (region, mut script) = Region::start_scripted().await;
    let blob = noise(1, 3_000_000);
    region.registry.push("app", "v1", &[&blob]);
    let [seed, mut one, mut two] = [script.next().await, script.next().await, script.next().await];
    let planned = async {
        for peer in [&mut one, &mut two] {
            peer.until(|batch| !batch.wants.is_empty()).await;
        }
        read(&seed, &blob, None).await;
        introduce(&one, &blob, &[&seed, &two], true).await;
        introduce(&two, &blob, &[&seed, &one], true).await;
    };
    let (first, second, ()) = tokio::join!(pull(&region.one, &blob), pull(&region.two, &blob), planned);
    for answer in [first, second] {
        assert!(answer.is_complete && answer.body == blob, "{:?}", answer.status);
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 3_000_000));
    for node in [&region.one, &region.two] {
        let from_partners = node.piece_bytes("seed").await + node.piece_bytes("peer").await;
        assert_eq!(from_partners, 3_000_000, "{}: every piece once", node.name);
    }
}

#[tokio::test]
async fn downloads_that_lose_their_scheduler_are_completed_from_partners() {
    let (region, mut script) = Region::start_scripted().await;
    let blob = noise(1, 3_000_000);
    region.registry.push("app", "v1", &[&blob]);
    let [mut seed, mut one, mut two] = [script.next().await, script.next().await, script.next().await];
    let begun_at = Instant::now();
    let lost = async {
        for peer in [&mut one, &mut two] {
            peer.until(|batch| !batch.wants.is_empty()).await;
        }
        introduce(&one, &blob, &[&seed, &two], false).await;
        introduce(&two, &blob, &[&seed, &one], false).await;
        read(&seed, &blob, None).await;
        let mut announced = 0;
        seed.until(|batch| {
            announced +=
                batch.announces.iter().flat_map(|announce| &announce.runs).map(|run| run.count).sum::<u32>();
            announced == piece_count(&blob)
        })
        .await;
        script.stop();
        drop((seed, one, two));
    };
    let (first, second, ()) = tokio::join!(pull(&region.one, &blob), pull(&region.two, &blob), lost);
    for answer in [first, second] {
        assert!(answer.is_complete && answer.body == blob, "{:?} {:?}", answer.status, answer.body.len());
    }
    assert!(begun_at.elapsed() < Duration::from_secs(8), "before anyone gives up");
    assert_eq!(region.registry.reads_of(&blob), (1, 3_000_000));
}

#[tokio::test]
async fn a_paced_seed_reads_no_further_than_it_is_told() {
    let (region, mut script) = Region::start_scripted().await;
    let blob = noise(1, 3_000_000);
    region.registry.push("app", "v1", &[&blob]);
    let [mut seed, mut one] = [script.next().await, script.next().await];
    let paced = async {
        one.until(|batch| !batch.wants.is_empty()).await;
        read(&seed, &blob, Some(3)).await;
        introduce(&one, &blob, &[&seed], true).await;
        let mut announced = 0;
        let mut count = move |batch: &flotilla_proto::wire::scheduler::FromPeer| {
            announced +=
                batch.announces.iter().flat_map(|announce| &announce.runs).map(|run| run.count).sum::<u32>();
            announced
        };
        seed.until(|batch| count(batch) == 3).await;
        let more = tokio::time::timeout(Duration::from_millis(500), seed.until(|batch| count(batch) > 3));
        assert!(more.await.is_err(), "it read on");
        pace(&seed, &blob, u32::MAX).await;
    };
    let (answer, ()) = tokio::join!(pull(&region.one, &blob), paced);
    assert!(answer.is_complete && answer.body == blob, "{:?}", answer.status);
    assert_eq!(region.registry.reads_of(&blob), (1, 3_000_000));
}

async fn pull(node: &Node, blob: &Bytes) -> Answer {
    node.client.mirror("/v2/app/manifests/v1").await;
    node.client.mirror(&blob_path("app", blob)).await
}

/// Has the seed read the blob, up to a piece if one is given.
async fn read(seed: &Attached, blob: &Bytes, until: Option<u32>) {
    let runs = vec![Run { first: 0, count: piece_count(blob) }];
    let order = SourceOrder { digest: Digest::of(blob).into(), size: blob.len() as u64, runs };
    let source_paces =
        until.map(|until| SourcePace { digest: Digest::of(blob).into(), until }).into_iter().collect();
    seed.tell(ToPeer { source_orders: vec![order], source_paces, ..Default::default() }).await;
}

async fn pace(seed: &Attached, blob: &Bytes, until: u32) {
    let pace = SourcePace { digest: Digest::of(blob).into(), until };
    seed.tell(ToPeer { source_paces: vec![pace], ..Default::default() }).await;
}

/// Names partners to a peer, the first of them the seed that reads.
async fn introduce(peer: &Attached, blob: &Bytes, partners: &[&Attached], picks: bool) {
    let digest: Bytes = Digest::of(blob).into();
    let address = |partner: &&Attached| PeerAddress {
        peer: partner.id.to_string(),
        address: partner.address.clone(),
        seed: partner.id.as_str().starts_with("seed"),
    };
    let partner = |partner: &&Attached| Partner {
        digest: digest.clone(),
        peer: partner.id.to_string(),
        same_zone: true,
    };
    let via = SourceVia { digest: digest.clone(), seed: partners[0].id.to_string() };
    peer.tell(ToPeer {
        peers: partners.iter().map(address).collect(),
        partners: partners.iter().map(partner).collect(),
        source_via: vec![via],
        picking: vec![Picking { digest: digest.clone(), picks }],
        ..Default::default()
    })
    .await;
}

fn piece_count(blob: &Bytes) -> u32 {
    Layout::of(blob.len() as u64).unwrap().piece_count()
}
