//! What is set of one endpoint: a proxy in front of it, and what is read from it at most.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use flotilla_daemon::settings::Endpoint;
use flotilla_proto::Digest;
use http::{Request, header};
use http_body_util::BodyExt as _;

use super::fake::{FakeRegistry, proxy, serve, status};
use super::{Bench, HOST, anonymous, blob, endpoint, host, quick_config};
use crate::source::{Purpose, SourceConfig, body};

#[tokio::test]
async fn an_endpoint_behind_a_proxy_is_reached_through_it() {
    let content = blob(300_000);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let (url, mut asked) = proxy(None).await;
    let proxied = Endpoint {
        proxy: Some(url.parse().unwrap()),
        address: Some(registry.address),
        ..endpoint("http://harbor.internal.test")
    };
    let bench = Bench::with_endpoints(vec![proxied], quick_config());
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!(asked.recv().await.unwrap(), registry.address.to_string());

    let dead =
        Endpoint { proxy: Some(super::fake::dead_url().await.parse().unwrap()), ..endpoint(&registry.url()) };
    let error = Bench::with_endpoints(vec![dead], quick_config()).read(&content, &anonymous()).await.error();
    assert!(error.to_string().contains("cannot connect"), "{error}");
}

#[tokio::test]
async fn a_cap_holds_back_the_reading_of_a_blob() {
    let content = blob(1_500_000);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let capped = Endpoint { caps: vec!["1 MB".parse().unwrap()], ..endpoint(&registry.url()) };
    let bench = Bench::with_endpoints(vec![capped], quick_config());
    let began_at = Instant::now();
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    // 1.5 MB less the burst of 100 ms, however many frames they come in.
    assert!(began_at.elapsed() >= Duration::from_millis(1_400), "{:?}", began_at.elapsed());
    assert_eq!(registry.seen().len(), 1, "a pause of ours is no stall of the registry's");
}

#[tokio::test]
async fn a_cap_holds_back_a_blob_that_passes_to_one_client() {
    let content = blob(1_500_000);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let capped = Endpoint { caps: vec!["1 MB".parse().unwrap()], ..endpoint(&registry.url()) };
    let bench = Bench::with_endpoints(vec![capped], quick_config());
    let path = format!("/v2/app/blobs/{}", Digest::of(&content));
    let request = Request::get(path).header(header::COOKIE, "sid=1").body(body::empty()).unwrap();
    let began_at = Instant::now();
    let answer = bench.source.forward(&host(), request, Purpose::Pass).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), content);
    // As above.
    assert!(began_at.elapsed() >= Duration::from_millis(1_400), "{:?}", began_at.elapsed());
    assert_eq!(bench.counter("flotilla_peer_source_bytes_total{reader=\"client\"}"), 1_500_000);
}

#[tokio::test]
async fn an_outage_and_its_end_are_known_before_a_client_meets_them() {
    let is_down = Arc::new(AtomicBool::new(true));
    let (content, down) = (blob(70_000), is_down.clone());
    let first = FakeRegistry::start({
        let content = content.clone();
        move |seen| if down.load(Ordering::Relaxed) { status(503) } else { serve(&content, seen) }
    })
    .await;
    let standby = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let endpoints = vec![endpoint(&first.url()), Endpoint { standby: true, ..endpoint(&standby.url()) }];
    let config = SourceConfig { probe_interval: Duration::from_millis(100), ..quick_config() };
    let bench = Bench::with_endpoints(endpoints, config);
    let _watch = tokio::spawn(bench.source.clone().watch_endpoints());
    let up = |url: String| format!("flotilla_peer_endpoint_up{{upstream=\"{HOST}\",endpoint=\"{url}\"}}");
    let reads =
        |registry: &FakeRegistry| registry.seen().iter().filter(|seen| seen.path.contains("/blobs/")).count();
    let mut turn = tokio::time::interval(Duration::from_millis(5));
    while bench.counter(&up(standby.url())) == 0 {
        turn.tick().await;
    }
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!((reads(&first), reads(&standby)), (0, 1));
    is_down.store(false, Ordering::Relaxed);
    while bench.counter(&up(first.url())) == 0 {
        turn.tick().await;
    }
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!((reads(&first), reads(&standby)), (1, 1));
}
