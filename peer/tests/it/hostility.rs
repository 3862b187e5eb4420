//! What an enrolled peer that lies can do to others.

use std::time::{Duration, Instant};

use flotilla_e2e_hostile::{Claim, Manner};
use flotilla_proto::Digest;
use http::Method;

use crate::hostile;
use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

/// Everyone waits for the holder of a cold blob, which gives nothing.
#[tokio::test]
async fn a_peer_that_announces_a_cold_blob_and_gives_nothing_holds_nobody_up_for_long() {
    for manner in [Manner::Silent, Manner::Cuts, Manner::Busy, Manner::Garbage, Manner::Mute, Manner::Drips] {
        let mut region = Region::start().await;
        let blob = noise(5, 3_000_000);
        region.registry.push("app", "v1", &[&blob]);
        let liar = hostile::join(&mut region.cluster, "liar", manner).await;
        liar.announce(&[Claim::of(&blob, 3_000_000, 23)]).await.unwrap();
        for node in [&region.one, &region.two] {
            assert_eq!(node.client.mirror("/v2/app/manifests/v1").await.status, 200);
        }
        let began_at = Instant::now();
        let path = format!("{}?ns={HOST}", blob_path("app", &blob));
        let pulls = [&region.one, &region.two].map(|node| node.client.get(&path));
        for answer in futures_util::future::join_all(pulls).await {
            assert_eq!((answer.status.as_u16(), answer.body == blob), (200, true), "{manner:?}");
        }
        let took = began_at.elapsed();
        println!("{manner:?}: {took:?}");
        assert!(took < Duration::from_secs(3), "{manner:?}: {took:?}");
        assert_eq!(region.registry.reads_of(&blob), (1, 3_000_000), "{manner:?}");

        // It is known for what it is: the next blob waits for it no more.
        let next = noise(6, 3_000_000);
        region.registry.push("app", "v2", &[&next]);
        liar.announce(&[Claim::of(&next, 3_000_000, 23)]).await.unwrap();
        assert_eq!(region.one.client.mirror("/v2/app/manifests/v2").await.status, 200);
        let began_at = Instant::now();
        let answer = region.one.client.get(&format!("{}?ns={HOST}", blob_path("app", &next))).await;
        assert!(answer.body == next);
        assert!(began_at.elapsed() < Duration::from_secs(2), "{manner:?}: {:?}", began_at.elapsed());
    }
}

#[tokio::test]
async fn a_size_that_only_a_peer_claims_keeps_nobody_out() {
    let mut region = Region::start().await;
    let blob = noise(7, 3_000_000);
    region.registry.push("app", "v1", &[&blob]);
    let liar = hostile::join(&mut region.cluster, "liar", Manner::Garbage).await;
    liar.announce(&[Claim::of(&blob, 3_500_000, 27)]).await.unwrap();
    assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
    let answer = region.one.client.get(&format!("{}?ns={HOST}", blob_path("app", &blob))).await;
    assert_eq!((answer.status.as_u16(), answer.body == blob), (200, true));
    assert_eq!(region.registry.reads_of(&blob), (1, 3_000_000));
}

/// Its hashes are those of the bytes that it sends, so that only SHA-256 tells.
#[tokio::test]
async fn a_peer_that_makes_up_bytes_and_their_hashes_fails_nobody_and_is_believed_no_more() {
    let mut region = Region::start().await;
    let liar = hostile::join(&mut region.cluster, "liar", Manner::Forges).await;
    let mut failed = Vec::new();
    for (number, seed) in [8, 9, 10].into_iter().enumerate() {
        let (blob, tag) = (noise(seed, 3_000_000), format!("v{number}"));
        region.registry.push("app", &tag, &[&blob]);
        liar.announce(&[Claim::forged(Digest::of(&blob), 3_000_000, 0)]).await.unwrap();
        let mut failures = 0;
        for node in [&region.one, &region.two, &region.one] {
            let path = format!("/v2/app/manifests/{tag}");
            assert_eq!(node.client.mirror(&path).await.status, 200);
            let answer = node.client.mirror(&blob_path("app", &blob)).await;
            let is_whole = answer.status == 200 && answer.is_complete;
            assert!(!is_whole || answer.body == blob, "no complete wrong body");
            failures += usize::from(!is_whole);
        }
        assert_eq!(region.registry.reads_of(&blob), (1, 3_000_000), "blob {number}");
        failed.push(failures);
    }
    assert_eq!(failed, [0, 0, 0]);
}

/// A part that others gave is right; nobody can tell that of a part that it gave.
#[tokio::test]
async fn who_reads_a_part_that_a_peer_made_up_gets_the_right_one() {
    for (asked, forged_from) in [("bytes=0-99", 0), ("bytes=0-2999998", 12), ("bytes=2000000-2000099", 12)] {
        let mut region = Region::start().await;
        let liar = hostile::join(&mut region.cluster, "liar", Manner::Forges).await;
        let blob = noise(11, 3_000_000);
        region.registry.push("app", "v1", &[&blob]);
        liar.announce(&[Claim::forged(Digest::of(&blob), 3_000_000, forged_from)]).await.unwrap();
        assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
        let path = format!("{}?ns={HOST}", blob_path("app", &blob));
        let answer = region.one.client.ask(Method::GET, &path, &[("range", asked)]).await;
        let (first, last) = asked["bytes=".len()..].split_once('-').unwrap();
        let bounds = first.parse::<usize>().unwrap()..=last.parse::<usize>().unwrap();
        assert_eq!((answer.status.as_u16(), answer.body == blob[bounds]), (206, true), "{asked}");
        assert_eq!(region.registry.reads_of(&blob).1, 3_000_000, "{asked}: each byte once");
    }
}

#[tokio::test]
async fn a_body_that_was_begun_goes_on_where_what_was_to_follow_was_made_up() {
    let mut region = Region::start().await;
    let liar = hostile::join(&mut region.cluster, "liar", Manner::Forges).await;
    let blob = noise(12, 3_000_000);
    region.registry.push("app", "v1", &[&blob]);
    liar.announce(&[Claim::forged(Digest::of(&blob), 3_000_000, 12)]).await.unwrap();
    for node in [&region.one, &region.two] {
        assert_eq!(node.client.mirror("/v2/app/manifests/v1").await.status, 200);
        let answer = node.client.mirror(&blob_path("app", &blob)).await;
        assert_eq!((answer.status.as_u16(), answer.is_complete, answer.body == blob), (200, true, true));
    }
    assert_eq!(region.registry.reads_of(&blob).1, 3_000_000, "each byte once");
}
