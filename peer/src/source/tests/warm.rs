//! Warm connections that die together, as when a load balancer restarts, or a NAT forgets them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;

use super::fake::{FakeRegistry, Reply, Seen, serve, text};
use super::{Bench, anonymous, blob, host};
use crate::source::{BodyStream, Purpose, body};

const WARM: usize = 12;

/// A registry whose first [`WARM`] connections are reset when they are used again, once `dead` says so.
async fn registry(content: &Bytes, dead: &Arc<AtomicBool>) -> FakeRegistry {
    let (content, dead) = (content.clone(), Arc::clone(dead));
    FakeRegistry::start(move |seen: &Seen| {
        if dead.load(Ordering::Relaxed) && seen.connection < WARM {
            return Reply::HangUp;
        }
        match &seen.path[..] {
            path if path.contains("/blobs/") && seen.method == Method::GET => serve(&content, seen).into(),
            _ => text(200, "{}").into(),
        }
    })
    .await
}

fn request(method: Method, path: &str) -> Request<BodyStream> {
    Request::builder().method(method).uri(path).body(body::empty()).unwrap()
}

/// Opens [`WARM`] connections at once, and leaves them warm.
async fn warm_up(bench: &Bench, registry: &FakeRegistry) {
    let gate = Arc::new(Semaphore::new(0));
    let one = |index: usize| {
        let gate = Arc::clone(&gate);
        async move {
            let path = format!("/v2/app/manifests/{index}");
            let answer =
                bench.source.forward(&host(), request(Method::GET, &path), Purpose::Pass).await.unwrap();
            // Nobody's body is read before all have asked: each needs a connection of its own.
            if registry.seen().len() == WARM {
                gate.add_permits(WARM);
            }
            let _all_asked = gate.acquire().await.unwrap();
            answer.into_body().collect().await.unwrap();
        }
    };
    join_all((0..WARM).map(one)).await;
}

#[tokio::test]
async fn warm_connections_that_die_together_cost_no_request_that_may_be_repeated() {
    let (content, dead) = (blob(300_000), Arc::new(AtomicBool::new(false)));
    let registry = registry(&content, &dead).await;
    let bench = Bench::new(&[registry.url()]);
    warm_up(&bench, &registry).await;
    dead.store(true, Ordering::Relaxed);
    let asked = [Method::GET, Method::HEAD, Method::DELETE].into_iter().cycle().take(10).map(|method| {
        let path = "/v2/app/manifests/v1".to_owned();
        let bench = &bench;
        async move { bench.source.forward(&host(), request(method, &path), Purpose::Pass).await }
    });
    for answer in join_all(asked).await {
        assert_eq!(answer.unwrap().status(), StatusCode::OK);
    }
    assert_eq!(bench.counter("flotilla_peer_source_errors_total{reason=\"cut\"}"), 0);
}

#[tokio::test]
async fn a_blob_is_read_though_every_warm_connection_is_dead() {
    let (content, dead) = (blob(300_000), Arc::new(AtomicBool::new(false)));
    let registry = registry(&content, &dead).await;
    let bench = Bench::new(&[registry.url()]);
    warm_up(&bench, &registry).await;
    dead.store(true, Ordering::Relaxed);
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!(bench.counter("flotilla_peer_source_errors_total{reason=\"cut\"}"), 0);
    // Those that were left are not tried one by one.
    let tried = registry.seen().iter().skip(WARM).filter(|seen| seen.connection < WARM).count();
    assert!(tried <= 1, "{tried}");
}

#[tokio::test]
async fn what_may_not_be_repeated_goes_over_a_connection_of_its_own() {
    let (content, dead) = (blob(300_000), Arc::new(AtomicBool::new(false)));
    let registry = registry(&content, &dead).await;
    let bench = Bench::new(&[registry.url()]);
    warm_up(&bench, &registry).await;
    dead.store(true, Ordering::Relaxed);
    for method in [Method::POST, Method::PATCH] {
        let upload = request(method, "/v2/app/blobs/uploads/");
        let answer = bench.source.forward(&host(), upload, Purpose::Pass).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
}
