//! A registry that lies, hangs or is gone, and a disk that is full.

use std::time::{Duration, Instant};

use bytesize::ByteSize;
use flotilla_proto::Digest;
use flotilla_proto::wire::manager::Release;

use crate::region::{Region, blob_path, noise};
use crate::registry::{Fault, HOST, Registry};

#[tokio::test]
async fn wrong_bytes_reach_no_client_whole_and_are_forgotten_everywhere() {
    let region = Region::start().await;
    for (seed, len) in [(1, 1000), (2, 600_000)] {
        let blob = noise(seed, len);
        region.registry.push("app", "v1", &[&blob]);
        region.registry.break_blob(&blob, Fault::WrongBytes);
        let path = blob_path("app", &blob);
        let pulls = [&region.one, &region.two].map(|node| async {
            node.client.mirror("/v2/app/manifests/v1").await;
            node.client.mirror(&path).await
        });
        for answer in futures_util::future::join_all(pulls).await {
            assert!(!answer.status.is_success() || !answer.is_complete, "{len}: {answer:?}");
            assert!(answer.body.len() < len || !answer.status.is_success(), "{len}");
        }
        region.registry.mend_blob(&blob);
        for node in [&region.one, &region.two] {
            let answer = node.client.mirror(&path).await;
            assert!(answer.status == 200 && answer.is_complete && answer.body == blob, "{len} {answer:?}");
        }
    }
}

#[tokio::test]
async fn a_registry_that_hangs_is_named_within_ten_seconds() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    region.registry.break_blob(&blob, Fault::Hang);
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let begun = Instant::now();
    let answer = client.mirror(&blob_path("app", &blob)).await;
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert!(matches!(answer.status.as_u16(), 502..=504), "{answer:?}");
    assert!(answer.error().1.contains(HOST), "{answer:?}");
}

#[tokio::test]
async fn a_registry_that_is_gone_is_named_at_once() {
    let mut region = Region::start().await;
    let (blob, cold) = (noise(1, 300_000), noise(2, 3_000_000));
    region.registry.push("app", "v1", &[&blob, &cold]);
    let client = region.one.client.clone();
    client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(client.mirror(&blob_path("app", &blob)).await.status, 200);
    region.registry.stop().await;
    for path in ["/v2/app/manifests/v1", &blob_path("app", &cold)] {
        let answer = client.mirror(path).await;
        assert!(matches!(answer.status.as_u16(), 502 | 503), "{path}: {answer:?}");
        let (code, message) = answer.error();
        assert_eq!(code, "UNAVAILABLE", "{path}");
        assert!(message.contains(HOST), "{path}: {message}");
    }
    // What is granted and here is still served.
    assert_eq!(client.mirror(&blob_path("app", &blob)).await.body, blob);
}

/// The region's only seed is killed without a word, as a firewall that forgets it looks, too.
#[tokio::test]
async fn a_node_says_that_no_seed_answers_and_keeps_no_client_waiting_for_one() {
    let region = Region::start().await;
    let (held, cold) = (noise(1, 300_000), noise(2, 300_000));
    region.registry.push("app", "v1", &[&held, &cold]);
    let node = &region.one;
    node.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(node.client.mirror(&blob_path("app", &held)).await.body, held);
    region.seed.stop();

    let mut turn = tokio::time::interval(Duration::from_millis(50));
    let said = loop {
        turn.tick().await;
        let ready = node.admin("/readyz").await;
        if ready.status == 503 {
            break String::from_utf8(ready.body.to_vec()).unwrap();
        }
    };
    let port = region.seed.pieces.port();
    assert!(said.contains(&format!("no seed answers on udp/{port} (firewall?)")), "{said}");
    for path in ["/v2/app/manifests/v1", &blob_path("app", &cold), "/v2/"] {
        let begun = Instant::now();
        let answer = node.client.mirror(path).await;
        assert!(begun.elapsed() < Duration::from_secs(2), "{path}: {:?}", begun.elapsed());
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.error().1.contains("no seed answers on udp/"), "{path}: {answer:?}");
    }
    // What is granted and here needs no seed.
    assert_eq!(node.client.mirror(&blob_path("app", &held)).await.body, held);
}

#[tokio::test]
async fn a_blob_that_fits_no_store_is_a_clear_error_and_others_are_still_served() {
    let region = Region::start_with(|config| config.store.quota = ByteSize::kib(400)).await;
    let (large, small) = (noise(1, 600_000), noise(2, 200_000));
    region.registry.push("app", "v1", &[&large, &small]);
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let answer = client.mirror(&blob_path("app", &large)).await;
    assert_eq!(answer.status, 503);
    let (code, message) = answer.error();
    assert_eq!(code, "UNAVAILABLE");
    assert!(message.contains("cannot store the blob"), "{message}");
    assert_eq!(client.mirror(&blob_path("app", &small)).await.body, small);
    assert_eq!(region.one.admin("/healthz").await.status, 200);
}

#[tokio::test]
async fn a_piece_that_is_damaged_on_disk_is_fetched_anew_while_the_client_waits() {
    let region = Region::start().await;
    let blob = noise(1, 600_000);
    region.registry.push("app", "v1", &[&blob]);
    let path = blob_path("app", &blob);
    for node in [&region.one, &region.two] {
        node.client.mirror("/v2/app/manifests/v1").await;
        assert_eq!(node.client.mirror(&path).await.body, blob);
    }
    let digest = Digest::of(&blob).to_string();
    for node in [&region.one, &region.two] {
        let file = node.data_dir.join("store/blobs").join(digest.replace(':', "/"));
        let mut bytes = std::fs::read(&file).unwrap();
        bytes[300_000] ^= 1;
        std::fs::write(&file, bytes).unwrap();
        let answer = node.client.mirror(&path).await;
        assert!(answer.is_complete && answer.body == blob, "{} {:?}", node.name, answer.status);
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 600_000));
}

#[tokio::test]
async fn a_manifest_that_lies_about_a_size_spoils_the_blob_for_nobody_else() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    region.registry.push_manifest("evil", "v1", &[(Digest::of(&blob), 200_000)]);
    let client = &region.one.client;
    client.mirror("/v2/evil/manifests/v1").await;
    let answer = client.mirror(&blob_path("evil", &blob)).await;
    assert!(!answer.status.is_success(), "{answer:?}");

    for node in [&region.one, &region.two] {
        node.client.mirror("/v2/app/manifests/v1").await;
        let answer = node.client.mirror(&blob_path("app", &blob)).await;
        assert!(answer.status == 200 && answer.body == blob, "{}: {:?}", node.name, answer.body);
    }
}

#[tokio::test]
async fn where_release_is_verified_no_byte_of_a_wrong_blob_goes_out() {
    let region = Region::start().await;
    let strict = Registry::start().await;
    region.add("strict.test", &strict, |upstream| upstream.set_release(Release::Verified)).await;
    let (wrong, right) = (noise(1, 3_000_000), noise(2, 3_000_000));
    for (host, registry) in [(HOST, &region.registry), ("strict.test", &strict)] {
        registry.push("app", "v1", &[&wrong, &right]);
        registry.break_blob(&wrong, Fault::WrongBytes);
        for node in [&region.one, &region.two] {
            let get = |path: String| async move { node.client.get(&format!("{path}?ns={host}")).await };
            assert_eq!(get("/v2/app/manifests/v1".to_owned()).await.status, 200);
            let answer = get(blob_path("app", &wrong)).await;
            assert!(!answer.is_complete || !answer.status.is_success(), "no complete wrong body");
            if host == "strict.test" {
                assert_eq!(answer.status, 502, "{answer:?}");
            }
            let answer = get(blob_path("app", &right)).await;
            assert!(answer.status == 200 && answer.body == right);
        }
    }
}
