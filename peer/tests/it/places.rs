//! Each place that may give a blob stands for itself: the trouble of one is no other client's.

use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::Digest;

use crate::client::{Answer, Client};
use crate::region::{Region, blob_path, noise};
use crate::registry::{Fault, HOST, Registry};

/// What may be the matter with one registry's copy of a blob, or its way to it.
#[derive(Clone)]
enum Trouble {
    Fault(Fault),
    RedirectLoop,
    Gone,
}

impl Trouble {
    fn all() -> Vec<(&'static str, Self)> {
        let status = |status| Self::Fault(Fault::Status(status));
        vec![
            ("errors", status(500)),
            ("a front end with nobody behind it", status(503)),
            ("a storm", status(429)),
            ("a refusal", status(403)),
            ("nothing there", status(404)),
            ("silence", Self::Fault(Fault::Hang)),
            ("other bytes", Self::Fault(Fault::WrongBytes)),
            ("redirects in a circle", Self::RedirectLoop),
            ("no registry at all", Self::Gone),
        ]
    }

    async fn strike(self, registry: &mut Registry, blob: &Bytes) {
        let path = blob_path("app", blob);
        match self {
            Self::Fault(fault) => registry.break_blob(blob, fault),
            Self::RedirectLoop => registry.redirect(&path, &path),
            Self::Gone => registry.stop().await,
        }
    }
}

async fn pull(client: &Client, host: &str, repository: &str, blob: &Bytes) -> Answer {
    client.get(&format!("/v2/{repository}/manifests/v1?ns={host}")).await;
    client.get(&format!("{}?ns={host}", blob_path(repository, blob))).await
}

/// Blobs that go whole in one request, by a plan in one piece, and in several.
const SIZES: [usize; 2] = [300_000, 3_000_000];

#[tokio::test]
async fn a_registry_in_trouble_costs_the_clients_of_another_nothing() {
    for (name, trouble) in Trouble::all() {
        for (seed, len) in (1..).zip(SIZES) {
            let mut region = Region::start().await;
            let hub = Registry::start().await;
            region.add_registry("hub.test", &hub).await;
            let blob = noise(seed, len);
            region.registry.push("app", "v1", &[&blob]);
            hub.push("app", "v1", &[&blob]);
            // The client of the registry in trouble has its manifest before, and asks again and again.
            let client = region.one.client.clone();
            assert_eq!(client.get(&format!("/v2/app/manifests/v1?ns={HOST}")).await.status, 200);
            trouble.clone().strike(&mut region.registry, &blob).await;
            let (asking, asked) = (client.clone(), format!("{}?ns={HOST}", blob_path("app", &blob)));
            let right = blob.clone();
            let ask = tokio::spawn(async move {
                loop {
                    // Once the region has it, a registry that says to hold it may let its client have it, too.
                    let answer = asking.get(&asked).await;
                    let is_whole = answer.status.is_success() && answer.is_complete;
                    assert!(!is_whole || answer.body == right, "{:?}", answer.status);
                }
            });
            // It is the first to be heard of.
            let digest = Digest::of(&blob).to_string();
            let is_asked = || region.registry.log().iter().any(|asked| asked.path.ends_with(&digest));
            let mut turn = tokio::time::interval(Duration::from_millis(5));
            while !matches!(trouble, Trouble::Gone) && !is_asked() {
                turn.tick().await;
            }

            let begun = Instant::now();
            let pulls = [&region.two, &region.one].map(|node| pull(&node.client, "hub.test", "app", &blob));
            for answer in futures_util::future::join_all(pulls).await {
                let took = begun.elapsed();
                assert_eq!(answer.status, 200, "{name}, {len} bytes, after {took:?}: {answer:?}");
                assert!(answer.is_complete && answer.body == blob, "{name}, {len} bytes");
            }
            assert!(begun.elapsed() < Duration::from_secs(9), "{name}: {:?}", begun.elapsed());
            assert!(!ask.is_finished(), "{name}: {:?}", ask.await);
            ask.abort();
            let (_, bytes) = hub.reads_of(&blob);
            assert!(bytes <= blob.len() as u64, "{name}: {bytes} bytes were read of {len}");
        }
    }
}

#[tokio::test]
async fn a_manifest_that_is_wrong_about_a_size_gets_the_true_bytes_and_nobody_else_notices() {
    for (seed, wrong) in (1..).zip([299_999, 300_001, 1, 100_000, 900_000, 5_000_000]) {
        let region = Region::start().await;
        let blob = noise(seed, 300_000);
        region.registry.push("app", "v1", &[&blob]);
        region.registry.push_blob("claim", &blob);
        region.registry.push_manifest("claim", "v1", &[(Digest::of(&blob), wrong)]);
        let begun = Instant::now();
        let pulls = [
            pull(&region.one.client, HOST, "claim", &blob),
            pull(&region.one.client, HOST, "app", &blob),
            pull(&region.two.client, HOST, "claim", &blob),
            pull(&region.two.client, HOST, "app", &blob),
        ];
        for answer in futures_util::future::join_all(pulls).await {
            assert_eq!(answer.status, 200, "{wrong}: {answer:?}");
            assert!(answer.is_complete && answer.body == blob, "{wrong}: {} bytes", answer.body.len());
        }
        assert!(begun.elapsed() < Duration::from_secs(5), "{wrong}: {:?}", begun.elapsed());
        let head = region.two.client.head(&format!("{}?ns={HOST}", blob_path("claim", &blob))).await;
        assert_eq!(head.headers["content-length"], "300000", "{wrong}");
    }
}

#[tokio::test]
async fn a_cold_head_tells_the_registrys_own_size_whatever_a_manifest_claims() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push_blob("claim", &blob);
    region.registry.push_manifest("claim", "v1", &[(Digest::of(&blob), 7)]);
    region.one.client.get(&format!("/v2/claim/manifests/v1?ns={HOST}")).await;
    let head = region.one.client.head(&format!("{}?ns={HOST}", blob_path("claim", &blob))).await;
    assert_eq!((head.status.as_u16(), &head.headers["content-length"]), (200, &"300000".parse().unwrap()));
}
