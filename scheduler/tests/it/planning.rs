//! A blob on its way through the region, as its scheduler plans it.

use bytes::Bytes;
use flotilla_proto::wire::join_hashes;
use flotilla_proto::wire::scheduler::{Announce, FromPeer, Hashes, Run, SourceFailed, ToPeer, Want};
use flotilla_proto::{Digest, Layout, PieceHash};
use tonic::Code;

use crate::cluster::REGION;
use crate::harness::{Attached, Region, attach, hello};

/// Four pieces.
const SIZE: u64 = 4 * 128 * 1024;

#[tokio::test]
async fn a_wanted_blob_is_read_by_the_seed_and_fetched_from_it_with_its_hash() {
    let region = Region::start().await;
    let mut seed = region.attach("seed-0", "seed").await;
    let mut peer = region.attach("node-1", "peer").await;
    let digest = Digest::of(b"blob");
    want(&peer, digest).await;

    let order = seed.hear(|batch| batch.source_orders.into_iter().next()).await;
    assert_eq!((order.digest, order.size), (Bytes::from(digest), SIZE));
    assert_eq!(order.runs, [Run { first: 0, count: 4 }]);
    let batch = peer.hear(|batch| (!batch.source_via.is_empty()).then_some(batch)).await;
    assert_eq!(batch.source_via[0].seed, "seed-0");
    let introduced = &batch.peers[0];
    assert_eq!((introduced.peer.as_str(), introduced.address.as_str()), ("seed-0", "127.0.0.1:9"));
    assert!(introduced.seed);

    let hash = PieceHash::of(b"the third piece");
    announce(&seed, digest, 2, &[hash]).await;
    let assignment = peer.hear(|batch| batch.assignments.into_iter().next()).await;
    assert_eq!((assignment.first, assignment.parent.as_str()), (2, "seed-0"));
    assert_eq!(assignment.hashes, join_hashes([&hash]));
}

#[tokio::test]
async fn the_second_peer_that_wants_a_blob_orders_no_second_read() {
    let region = Region::start().await;
    let mut seed = region.attach("seed-0", "seed").await;
    let (mut first, mut second) =
        (region.attach("node-1", "peer").await, region.attach("node-2", "peer").await);
    let (digest, later) = (Digest::of(b"blob"), Digest::of(b"later"));
    for peer in [&mut first, &mut second] {
        want(peer, digest).await;
        peer.hear(|batch| batch.source_via.into_iter().next()).await;
    }
    want(&second, later).await;
    let ordered = orders_until(&mut seed, later).await;
    assert_eq!(ordered, [Bytes::from(digest), Bytes::from(later)]);
}

#[tokio::test]
async fn a_seed_that_vanishes_is_succeeded_by_the_next() {
    let region = Region::start().await;
    let (one, two) = (region.attach("seed-0", "seed").await, region.attach("seed-1", "seed").await);
    let peer = region.attach("node-1", "peer").await;
    let digest = (0u8..).map(|n| Digest::of(&[n])).find(|digest| home(*digest) == "seed-0").unwrap();
    let (mut home, mut next) = (one, two);
    want(&peer, digest).await;
    home.hear(|batch| batch.source_orders.into_iter().next()).await;
    drop(home);
    let order = next.hear(|batch| batch.source_orders.into_iter().next()).await;
    assert_eq!(order.digest, Bytes::from(digest));
}

#[tokio::test]
async fn only_the_seed_that_reads_can_fail_a_task() {
    let region = Region::start().await;
    let mut seed = region.attach("seed-0", "seed").await;
    let (mut peer, liar) = (region.attach("node-1", "peer").await, region.attach("node-2", "peer").await);
    let digest = Digest::of(b"blob");
    want(&peer, digest).await;
    seed.hear(|batch| batch.source_orders.into_iter().next()).await;
    let failed = |message: &str| SourceFailed {
        digest: digest.into(),
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: message.into(),
        poisoned: true,
        ..Default::default()
    };
    let told = |message| FromPeer { source_failed: vec![failed(message)], ..Default::default() };
    want(&liar, Digest::of(b"the lie was taken in")).await;
    liar.say(told("a lie")).await;
    want(&liar, Digest::of(b"the lie was dealt with")).await;
    orders_until(&mut seed, Digest::of(b"the lie was dealt with")).await;
    seed.say(told("the truth")).await;
    let failed = peer.hear(|batch| batch.tasks_failed.into_iter().next()).await;
    assert_eq!((failed.message.as_str(), failed.status, failed.poisoned), ("the truth", 502, true));
}

#[tokio::test]
async fn a_scheduler_that_forgot_the_hashes_asks_a_holder() {
    let region = Region::start().await;
    let (mut holder, mut peer) =
        (region.attach("node-1", "peer").await, region.attach("node-2", "peer").await);
    let digest = Digest::of(b"blob");
    announce(&holder, digest, 0, &[]).await;
    // Whoever is asked answers for the one piece that it holds.
    want(&peer, digest).await;
    let asked = holder.hear(|batch| batch.hashes_wanted.into_iter().next()).await;
    assert_eq!(asked, Bytes::from(digest));
    let hash = PieceHash::of(b"the first piece");
    let runs = vec![Run { first: 0, count: 1 }];
    let told = Hashes { digest: digest.into(), runs, hashes: join_hashes([&hash]), size: SIZE };
    holder.say(FromPeer { hashes: vec![told], ..Default::default() }).await;
    let assignment = peer.hear(|batch| batch.assignments.into_iter().next()).await;
    assert_eq!((assignment.parent.as_str(), assignment.first), ("node-1", 0));
}

#[tokio::test]
async fn a_peer_that_withdraws_and_wants_in_one_breath_is_planned_for() {
    let region = Region::start().await;
    let mut seed = region.attach("seed-0", "seed").await;
    let mut peer = region.attach("node-1", "peer").await;
    let digest = Digest::of(b"blob");
    want(&peer, digest).await;
    seed.hear(|batch| batch.source_orders.into_iter().next()).await;
    // As it says that a piece on its disk is damaged.
    let wanted = Want { digest: digest.into(), size: SIZE, reader: true, runs: vec![] };
    let damaged = FromPeer {
        withdrawals: vec![digest.into()],
        wants: vec![wanted.clone(), Want { digest: Digest::of(b"heard").into(), ..wanted }],
        ..Default::default()
    };
    peer.say(damaged).await;
    orders_until(&mut seed, Digest::of(b"heard")).await;
    announce(&seed, digest, 2, &[PieceHash::of(b"the third piece")]).await;
    let batch = peer
        .hear(|batch| (!(batch.assignments.is_empty() && batch.tasks_failed.is_empty())).then_some(batch));
    let batch = batch.await;
    assert_eq!((batch.assignments.len(), batch.tasks_failed), (1, vec![]));
}

/// The most blobs that a store holds, with half the pieces of each.
#[tokio::test]
async fn a_peer_with_a_full_store_says_so_in_its_first_words() {
    let region = Region::start().await;
    let identity = region.cluster.enrol("node-1", REGION, "peer").await;
    let mut peer = attach(region.scheduler, &identity, hello()).await.unwrap();
    let layout = Layout::of(16 * 128 * 1024).unwrap();
    let every_other = (0..layout.piece_count()).step_by(2).map(|first| Run { first, count: 1 });
    let runs: Vec<Run> = every_other.collect();
    let announces = (0..65_536_u32).map(|n| Announce {
        digest: Digest::of(&n.to_be_bytes()).into(),
        size: layout.size(),
        runs: runs.clone(),
        hashes: Bytes::new(),
    });
    peer.say(FromPeer { announces: announces.collect(), ..Default::default() }).await;
    let absent = Digest::of(b"no seed reads it");
    want(&peer, absent).await;
    let failed = peer.hear(|batch: ToPeer| batch.tasks_failed.into_iter().next()).await;
    assert_eq!(failed.digest, Bytes::from(absent));
}

#[tokio::test]
async fn a_blob_that_is_larger_than_any_may_be_ends_no_stream_but_its_own() {
    let region = Region::start().await;
    let mut peer = region.attach("node-1", "peer").await;
    let announce = Announce { digest: Digest::of(b"x").into(), size: u64::MAX, ..Default::default() };
    peer.say(FromPeer { announces: vec![announce], ..Default::default() }).await;
    let ended = peer.end().await.unwrap_err();
    assert_eq!(ended.code(), Code::InvalidArgument);
    assert!(ended.message().ends_with("larger than any may be"), "{ended}");
}

async fn want(peer: &Attached, digest: Digest) {
    let want = Want { digest: digest.into(), size: SIZE, reader: true, runs: vec![] };
    peer.say(FromPeer { wants: vec![want], ..Default::default() }).await;
}

async fn announce(peer: &Attached, digest: Digest, first: u32, hashes: &[PieceHash]) {
    let count = u32::try_from(hashes.len().max(1)).unwrap();
    let runs = vec![Run { first, count }];
    let announce = Announce { digest: digest.into(), size: SIZE, runs, hashes: join_hashes(hashes) };
    peer.say(FromPeer { announces: vec![announce], ..Default::default() }).await;
}

/// What a seed is ordered to read up to and with `last`.
async fn orders_until(seed: &mut Attached, last: Digest) -> Vec<Bytes> {
    let mut digests: Vec<Bytes> = Vec::new();
    while digests.last() != Some(&Bytes::from(last)) {
        let orders =
            seed.hear(|batch| (!batch.source_orders.is_empty()).then_some(batch.source_orders)).await;
        digests.extend(orders.into_iter().map(|order| order.digest));
    }
    digests
}

/// The first of two seeds for this digest.
fn home(digest: Digest) -> &'static str {
    flotilla_proto::rendezvous_order(digest.as_bytes(), ["seed-0", "seed-1"])[0]
}
