//! Cold and warm pulls through every door.

use bytes::Bytes;
use http::Method;
use tokio::sync::watch;

use crate::client::{Answer, collect, next_bytes};
use crate::region::{Node, Region, blob_path, noise};
use crate::registry::{Fault, HOST};

#[tokio::test]
async fn two_nodes_that_pull_at_once_through_any_door_cost_the_registry_each_blob_once() {
    let region = Region::start().await;
    for (turn, door) in [Door::Mirror, Door::Prefix, Door::Proxy].into_iter().enumerate() {
        let turn = u64::try_from(turn).unwrap() * 10;
        let layers = [noise(turn, 1), noise(turn + 1, 200_000), noise(turn + 2, 1_500_000)];
        let repository = format!("app/{door:?}").to_lowercase();
        let manifest = region.registry.push(&repository, "v1", &layers.each_ref());
        let pulls = [&region.one, &region.two].map(|node| pull(node, door, &repository, &layers));
        for pulled in futures_util::future::join_all(pulls).await {
            assert_eq!(pulled, manifest, "{door:?}");
        }
        for layer in &layers {
            assert_eq!(region.registry.reads_of(layer), (1, layer.len() as u64), "{door:?}");
        }
    }
}

#[tokio::test]
async fn a_seed_s_own_clients_are_served_too() {
    let region = Region::start().await;
    let layers = [noise(1, 300_000)];
    region.registry.push("app", "v1", &layers.each_ref());
    pull(&region.seed, Door::Mirror, "app", &layers).await;
    pull(&region.one, Door::Mirror, "app", &layers).await;
    assert_eq!(region.registry.reads_of(&layers[0]), (1, 300_000));
}

#[tokio::test]
async fn a_warm_blob_costs_the_registry_nothing() {
    let region = Region::start().await;
    let layers = [noise(1, 300_000)];
    region.registry.push("app", "v1", &layers.each_ref());
    for _ in 0..3 {
        pull(&region.one, Door::Mirror, "app", &layers).await;
    }
    assert_eq!(region.registry.reads_of(&layers[0]), (1, 300_000));
}

#[tokio::test]
async fn the_first_pieces_go_out_while_the_rest_is_still_to_come() {
    let region = Region::start().await;
    let blob = noise(1, 600_000);
    region.registry.push("app", "v1", &[&blob]);
    let (open, gate) = watch::channel(false);
    region.registry.break_blob(&blob, Fault::Gate(400_000, gate));
    let (client, path) = (&region.one.client, format!("{}?ns={HOST}", blob_path("app", &blob)));
    assert_eq!(client.mirror("/v2/app/manifests/v1").await.status, 200);

    let mut whole = client.begin(Method::GET, &path, &[]).await;
    let first = next_bytes(&mut whole).await;
    assert_eq!(first, blob[..first.len()]);
    let part = client.ask(Method::GET, &path, &[("range", "bytes=131072-140000")]).await;
    assert_eq!((part.status.as_u16(), &part.body[..]), (206, &blob[131_072..=140_000]));
    // Its bytes are not here yet: the head says what will come, and waits for it.
    let tail = client.begin(Method::GET, &path, &[("range", "bytes=-1000")]);

    open.send_replace(true);
    let tail = collect(tail.await).await;
    assert_eq!((tail.status.as_u16(), &tail.body[..]), (206, &blob[599_000..]));
    let rest = collect(whole).await;
    assert!(rest.is_complete);
    assert_eq!(rest.body, blob[first.len()..]);
    assert_eq!(region.registry.reads_of(&blob), (1, 600_000));
}

#[tokio::test]
async fn a_manifest_is_asked_of_the_registry_each_time_and_comes_as_it_is() {
    let region = Region::start().await;
    let old = region.registry.push("app", "v1", &[&noise(1, 10)]);
    let client = &region.one.client;
    assert_eq!(client.mirror("/v2/app/manifests/v1").await.body, old);
    let new = region.registry.push("app", "v1", &[&noise(2, 10)]);
    let answer = client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(
        (answer.body, answer.headers["content-type"].as_bytes()),
        (new.into(), crate::registry::MANIFEST.as_bytes())
    );
}

/// Where a client asks.
#[derive(Debug, Clone, Copy)]
enum Door {
    Mirror,
    Prefix,
    Proxy,
}

impl Door {
    async fn get(self, node: &Node, path: &str) -> Answer {
        match self {
            Self::Mirror => node.client.mirror(path).await,
            Self::Prefix => node.client.get(&path.replacen("/v2/", &format!("/v2/{HOST}/"), 1)).await,
            Self::Proxy => node.client.proxied(&node.bundle(), path).await,
        }
    }
}

/// Pulls an image and checks every byte of its layers; the manifest.
async fn pull(node: &Node, door: Door, repository: &str, layers: &[Bytes]) -> Bytes {
    let manifest = door.get(node, &format!("/v2/{repository}/manifests/v1")).await;
    assert_eq!(manifest.status, 200, "{manifest:?}");
    let paths: Vec<String> = layers.iter().map(|layer| blob_path(repository, layer)).collect();
    let pulls = paths.iter().map(|path| door.get(node, path));
    for (answer, layer) in futures_util::future::join_all(pulls).await.into_iter().zip(layers) {
        assert_eq!(answer.status, 200, "{} {door:?} {:?}", node.name, answer.body);
        assert!(answer.is_complete && answer.body == layer, "{} {door:?}", node.name);
    }
    manifest.body
}
