//! A blob that one registry gave, and that another one says to hold: its clients see a byte once it has shown that it
//! does (docs/design.md §7).

use std::time::Duration;

use bytes::Bytes;
use flotilla_peer::PeerConfig;
use http::Method;
use tokio::sync::watch;

use crate::client::Answer;
use crate::region::{Node, Region, blob_path, noise, start};
use crate::registry::{Fault, HOST, Registry};

/// One piece, sent whole by a seed; and several.
const SIZES: [usize; 2] = [300_000, 3_000_000];
const OTHER: &str = "other.test";
const BASIC: &str = r#"Basic realm="registry.test""#;

/// A registry that stands still is given up at once.
fn hasty(config: &mut PeerConfig) {
    config.source.stall_timeout = Duration::from_millis(100);
    config.source.give_up_after = Duration::from_secs(1);
}

/// A region with a second registry, and a blob that both say to hold. The first one's is private.
async fn two_registries(seed: u64, len: usize, trust: &str) -> (Region, Registry, Bytes) {
    let region = Region::start_with(hasty).await;
    let other = Registry::start().await;
    region.add(HOST, &region.registry, |registry| registry.trust = trust.into()).await;
    region.add(OTHER, &other, |registry| registry.trust = trust.into()).await;
    let blob = noise(seed, len);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    region.registry.allow("Basic good", "priv/app");
    other.push("app", "v1", &[&blob]);
    (region, other, blob)
}

async fn owner_pulls(node: &Node, blob: &Bytes) -> Answer {
    let owner = node.client.with("Basic good");
    assert_eq!(owner.mirror("/v2/priv/app/manifests/v1").await.status, 200);
    owner.mirror(&blob_path("priv/app", blob)).await
}

/// As a client of the other registry asks, with its manifest.
async fn other_asks(node: &Node, blob: &Bytes, lines: &[(&str, &str)]) -> Answer {
    node.client.get(&format!("/v2/app/manifests/v1?ns={OTHER}")).await;
    other_asks_at_once(node, blob, lines).await
}

async fn other_asks_at_once(node: &Node, blob: &Bytes, lines: &[(&str, &str)]) -> Answer {
    node.client.ask(Method::GET, &format!("{}?ns={OTHER}", blob_path("app", blob)), lines).await
}

async fn until(is_so: impl Fn() -> bool) {
    let mut turn = tokio::time::interval(Duration::from_millis(5));
    while !is_so() {
        turn.tick().await;
    }
}

/// What it does when it is to send the blob; to a probe it answers in each case as if it held it.
fn lies(len: usize) -> [(&'static str, Fault); 3] {
    [
        ("nothing", Fault::UpTo(0)),
        ("all but a byte", Fault::UpTo(len - 1)),
        ("other bytes", Fault::WrongBytes),
    ]
}

#[tokio::test]
async fn a_registry_that_only_says_to_hold_a_blob_opens_it_to_nobody() {
    for (seed, len) in (1..).zip(SIZES) {
        for (lie, fault) in lies(len) {
            let (region, other, blob) = two_registries(seed, len, "").await;
            other.break_blob(&blob, fault);
            assert_eq!(owner_pulls(&region.one, &blob).await.body, blob);
            for node in [&region.one, &region.two, &region.seed] {
                for lines in [&[][..], &[("range", "bytes=0-99")], &[("range", "bytes=-100")]] {
                    let answer = other_asks(node, &blob, lines).await;
                    let what = format!("{lie}, {len} bytes, {} {lines:?}: {:?}", node.name, answer.status);
                    assert!(answer.body.is_empty() || answer.status.is_server_error(), "{what}");
                    assert!(answer.status.is_server_error() || !answer.is_complete, "{what}");
                }
            }
            // Nor does it cost the owner anything.
            assert_eq!(owner_pulls(&region.two, &blob).await.body, blob);
            assert_eq!(region.registry.reads_of(&blob), (1, len as u64), "{lie}");
        }
    }
}

#[tokio::test]
async fn a_registry_shows_once_that_it_holds_what_others_gave_and_that_is_counted_apart() {
    for (seed, len) in (1..).zip(SIZES) {
        let (region, other, blob) = two_registries(seed, len, "").await;
        assert_eq!(owner_pulls(&region.one, &blob).await.body, blob);
        let nodes = [&region.one, &region.two, &region.seed];
        for round in 0..2 {
            let asks = nodes.iter().flat_map(|node| [0, 1].map(|_| other_asks(node, &blob, &[])));
            for answer in futures_util::future::join_all(asks).await {
                assert_eq!((answer.status.as_u16(), answer.is_complete), (200, true), "{len} bytes, {round}");
                assert_eq!(answer.body, blob);
            }
        }
        assert_eq!(other.reads_of(&blob), (1, len as u64));
        assert_eq!(region.registry.reads_of(&blob), (1, len as u64));
        let counted = async |name: &str| region.seed.metric(name).await;
        assert_eq!(counted("flotilla_peer_confirmation_bytes_total").await, len as u64);
        assert_eq!(counted("flotilla_peer_source_bytes_total{reader=\"region\"}").await, len as u64);
        // A part of it, too.
        let part = other_asks(&region.two, &blob, &[("range", "bytes=10-19")]).await;
        assert_eq!((part.status.as_u16(), &part.body[..]), (206, &blob[10..20]));
    }
}

#[tokio::test]
async fn registries_that_share_trust_need_show_each_other_nothing() {
    for (seed, len) in (1..).zip(SIZES) {
        let (region, other, blob) = two_registries(seed, len, "ours").await;
        assert_eq!(owner_pulls(&region.one, &blob).await.body, blob);
        for node in [&region.one, &region.two] {
            assert_eq!(other_asks(node, &blob, &[]).await.body, blob);
        }
        assert_eq!(other.reads_of(&blob).0, 0);
    }
}

/// What is under way is another's as well: not a byte of it goes to the clients of a registry that never sent it.
#[tokio::test]
async fn a_download_under_way_is_no_other_registrys() {
    let (region, other, blob) = two_registries(1, 3_000_000, "").await;
    let (open, gate) = watch::channel(false);
    region.registry.break_blob(&blob, Fault::Gate(1_500_000, gate));
    other.break_blob(&blob, Fault::UpTo(0));
    let ask = async {
        until(|| region.registry.reads_of(&blob).1 >= 1_500_000).await;
        let asks = [&region.one, &region.two].map(|node| other_asks(node, &blob, &[]));
        let asked = futures_util::future::join_all(asks);
        let opened = async {
            // As soon as they are asking.
            until(|| other.log().iter().any(|asked| asked.range.is_some())).await;
            open.send_replace(true);
        };
        tokio::join!(asked, opened).0
    };
    let (answers, pulled) = tokio::join!(ask, owner_pulls(&region.one, &blob));
    assert_eq!(pulled.body, blob);
    for answer in answers {
        assert!(
            answer.status.is_server_error() || answer.body.is_empty() && !answer.is_complete,
            "{answer:?}"
        );
    }
}

/// It gives a part of the blob, and has others give the rest.
#[tokio::test]
async fn a_registry_that_gave_a_part_does_not_open_the_rest() {
    let (region, other, blob) = two_registries(1, 3_000_000, "").await;
    let given = 1_000_000;
    other.break_blob(&blob, Fault::UpTo(given));
    let pull = async {
        until(|| other.reads_of(&blob).1 >= given as u64).await;
        owner_pulls(&region.two, &blob).await
    };
    let (liar, pulled) = tokio::join!(other_asks(&region.one, &blob, &[]), pull);
    assert_eq!(pulled.body, blob);
    assert!(liar.body.len() <= given && blob.starts_with(&liar.body), "{} bytes", liar.body.len());
    assert!(!liar.is_complete);
    for node in [&region.one, &region.two] {
        let later = other_asks(node, &blob, &[("range", "bytes=-100")]).await;
        assert!(later.status.is_server_error() || later.body.is_empty(), "{}", later.status);
    }
}

#[tokio::test]
async fn what_one_seed_knows_no_other_finds_out_again() {
    let (mut region, other, _) = two_registries(1, SIZES[0], "").await;
    let second = start(&mut region.cluster, "seed-1", "seed", &hasty).await;
    for seed in 2..8 {
        let blob = noise(seed, SIZES[1]);
        region.registry.push("priv/app", "v1", &[&blob]);
        other.push("app", "v1", &[&blob]);
        assert_eq!(owner_pulls(&region.one, &blob).await.body, blob);
        for node in [&region.two, &second, &region.seed, &region.one] {
            assert_eq!(other_asks(node, &blob, &[]).await.body, blob);
        }
        assert_eq!(other.reads_of(&blob), (1, blob.len() as u64));
    }
}
