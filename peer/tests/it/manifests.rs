//! What manifests open, with and without a body, and what is fetched ahead for them.

use std::time::Duration;

use flotilla_proto::Digest;
use http::Method;

use crate::cluster::within;
use crate::region::{Region, blob_path, noise};
use crate::registry::{HOST, MANIFEST, Registry};

const BASIC: &str = r#"Basic realm="registry.test""#;

#[tokio::test]
async fn a_head_grants_what_the_manifest_of_that_digest_lists() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    for credential in ["Basic one", "Basic two", "Basic three"] {
        region.registry.allow(credential, "priv/app");
    }
    let (path, manifest) = (blob_path("priv/app", &blob), format!("/v2/priv/app/manifests/v1?ns={HOST}"));
    let one = region.one.client.with("Basic one");
    assert_eq!(one.get(&manifest).await.status, 200);
    assert_eq!(one.mirror(&path).await.body, blob);
    let asked = || region.registry.log().iter().filter(|asked| asked.path == path).count();
    let before = asked();

    let two = region.one.client.with("Basic two");
    assert_eq!(two.ask(Method::HEAD, &manifest, &[]).await.status, 200);
    assert_eq!(two.mirror(&path).await.body, blob);
    assert_eq!(asked(), before, "no probe was needed");

    // Whoever has no such answer is probed.
    let three = region.one.client.with("Basic three");
    assert_eq!(three.mirror(&path).await.body, blob);
    assert_eq!(asked(), before + 1);
}

#[tokio::test]
async fn small_blobs_are_on_their_way_before_a_client_asks() {
    let region = Region::start().await;
    let (config, script, layer) = (noise(1, 5_000), noise(2, 60_000), noise(3, 3_000_000));
    region.registry.push("app", "v1", &[&config, &script, &layer]);
    assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
    let both = config.len() as u64 + script.len() as u64;
    let fetched = async {
        let mut turn = tokio::time::interval(Duration::from_millis(10));
        while region.one.piece_bytes("seed").await < both {
            turn.tick().await;
        }
    };
    within(fetched).await;
    for blob in [&config, &script] {
        assert_eq!(region.one.client.mirror(&blob_path("app", blob)).await.body, *blob);
        assert_eq!(region.registry.reads_of(blob), (1, blob.len() as u64));
    }
    assert_eq!(region.registry.reads_of(&layer), (0, 0), "nobody asked for it");
}

#[tokio::test]
async fn another_manifest_than_the_one_asked_for_goes_to_no_client() {
    let region = Region::start().await;
    let path = format!("/v2/app/manifests/{}", Digest::of(b"that one"));
    region.registry.put(&path, MANIFEST, "{}".into());
    let answer = region.one.client.mirror(&path).await;
    assert_eq!((answer.status.as_u16(), answer.error().0.as_str()), (502, "MANIFEST_INVALID"));
}

#[tokio::test]
async fn a_registry_whose_counters_need_not_see_it_sends_a_manifest_once() {
    let region = Region::start().await;
    let (uncounted, layer) = (Registry::start().await, noise(1, 3_000_000));
    region.add("quiet.test", &uncounted, |upstream| upstream.uncounted_pulls = true).await;
    for (host, registry, sent) in
        [("quiet.test", &uncounted, [200, 304, 304]), (HOST, &region.registry, [200; 3])]
    {
        let manifest = registry.push("app", "v1", &[&layer]);
        let by_digest = format!("/v2/app/manifests/{}", Digest::of(manifest.as_bytes()));
        registry.put(&by_digest, MANIFEST, manifest.clone().into());
        for path in ["/v2/app/manifests/v1", "/v2/app/manifests/v1", &by_digest] {
            let answer = region.one.client.get(&format!("{path}?ns={host}")).await;
            assert_eq!((answer.status.as_u16(), &answer.body[..]), (200, manifest.as_bytes()));
            assert_eq!(answer.header("content-type"), MANIFEST);
        }
        let log = registry.log();
        let asked = log.iter().filter(|asked| asked.path.starts_with("/v2/app/manifests/"));
        let statuses: Vec<u16> = asked.map(|asked| asked.status.as_u16()).collect();
        assert_eq!(statuses, sent, "{host}");
    }
    // The tag moved on.
    let other = uncounted.push("app", "v1", &[]);
    let answer = region.one.client.get("/v2/app/manifests/v1?ns=quiet.test").await;
    assert_eq!(answer.body, other);
    // Whoever asks by itself whether it changed is answered by the registry.
    let tag = format!("\"{}\"", Digest::of(other.as_bytes()));
    let path = "/v2/app/manifests/v1?ns=quiet.test";
    let answer = region.one.client.ask(Method::GET, path, &[("if-none-match", &tag)]).await;
    assert_eq!(answer.status, 304);
}
