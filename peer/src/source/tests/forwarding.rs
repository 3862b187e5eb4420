//! A client's request passed on, and the probe.

use std::time::Duration;

use bytes::Bytes;
use http::header;
use http::{Method, Request, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::fake::{Ending, FakeRegistry, Reply, Seen, chunked, dead_url, plain, serve, status, text, with};
use super::{Bench, HOST, blob, host, quick_config};
use crate::source::body::{BodyStream, empty};
use crate::source::{Purpose, SourceConfig};

const BLOB_PATH: &str = "/v2/app/web/blobs/sha256:00";
const MANIFEST_PATH: &str = "/v2/app/web/manifests/v7";

fn get(path: &str) -> Request<BodyStream> {
    let request = Request::get(path).header(header::AUTHORIZATION, "Bearer t");
    request.header(header::HOST, "the-door.test").body(empty()).unwrap()
}

fn body(content: &Bytes) -> BodyStream {
    Full::new(content.clone()).map_err(|never| match never {}).boxed_unsync()
}

#[tokio::test]
async fn a_request_and_its_answer_pass_unchanged_but_for_the_connection() {
    let registry = FakeRegistry::start(|_| {
        let answer = with(text(412, "policy"), header::CONTENT_ENCODING, "gzip");
        with(with(answer, header::ETAG, "\"e\""), header::CONNECTION, "keep-alive")
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let mut request = get("/v2/app/web/referrers/v7?x=%20");
    request.headers_mut().insert(header::ACCEPT_ENCODING, "gzip".parse().unwrap());
    request.headers_mut().insert(header::TE, "trailers".parse().unwrap());
    let answer = bench.source.forward(&host(), request, Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::PRECONDITION_FAILED);
    assert_eq!(answer.headers()[header::ETAG], "\"e\"");
    assert_eq!(answer.headers()[header::CONTENT_ENCODING], "gzip");
    assert!(!answer.headers().contains_key(header::CONNECTION));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "policy");
    let seen = &registry.seen()[0];
    assert_eq!(seen.path, "/v2/app/web/referrers/v7?x=%20");
    assert_eq!((seen.authorization(), seen.header(header::HOST)), ("Bearer t", HOST));
    assert_eq!(seen.header(header::ACCEPT_ENCODING), "gzip");
    assert!(!seen.headers.contains_key(header::TE));
    assert!(!seen.headers.contains_key(header::USER_AGENT), "a user agent decides what a registry counts");
    assert_eq!(bench.counter("flotilla_peer_source_requests_total{kind=\"pass\"}"), 1);
}

#[tokio::test]
async fn a_redirect_is_passed_on_and_not_followed() {
    let registry = FakeRegistry::start(|_| with(status(307), header::LOCATION, "/elsewhere")).await;
    let bench = Bench::new(&[registry.url()]);
    let answer = bench.source.forward(&host(), get(MANIFEST_PATH), Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn what_the_base_says_to_anybody_is_asked_once() {
    let registry = FakeRegistry::start(|seen| {
        if seen.authorization() == "Bearer t" {
            return status(200);
        }
        let answer = with(text(401, "who are you?"), header::SET_COOKIE, "sid=1");
        with(answer, header::WWW_AUTHENTICATE, "Bearer realm=\"https://registry.test/t\"")
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let anonymous = || Request::get("/v2/").body(empty()).unwrap();
    for _ in 0..3 {
        let answer = bench.source.forward(&host(), anonymous(), Purpose::Pass).await.unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(answer.headers()[header::WWW_AUTHENTICATE], "Bearer realm=\"https://registry.test/t\"");
        assert!(!answer.headers().contains_key(header::SET_COOKIE), "one client's session is not another's");
        assert_eq!(answer.headers()[header::CONTENT_LENGTH], "12");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "who are you?");
    }
    assert_eq!(registry.seen().len(), 1);
    // Whoever shows a credential is judged each time.
    for _ in 0..2 {
        let answer = bench.source.forward(&host(), get("/v2/"), Purpose::Pass).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
    }
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn while_a_registry_is_down_what_it_said_before_is_answered_at_once() {
    let registry = FakeRegistry::start(|seen: &Seen| match seen.index {
        0 => Reply::Answer(text(401, "who are you?")),
        _ => Reply::Hang,
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let ask = async || {
        let anonymous = Request::get("/v2/").body(empty()).unwrap();
        bench.source.forward(&host(), anonymous, Purpose::Pass).await.unwrap().status()
    };
    assert_eq!(ask().await, StatusCode::UNAUTHORIZED);
    // Longer than it is kept otherwise.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(301)).await;
    tokio::time::resume();
    bench.source.0.routes.load().endpoints().for_each(|(_, endpoint)| endpoint.seems_down());
    assert_eq!(ask().await, StatusCode::UNAUTHORIZED);
    assert_eq!(registry.seen().len(), 1, "it is not waited for");
}

#[tokio::test]
async fn a_blobs_redirect_is_followed_without_the_credential() {
    let content = blob(70_000);
    let storage = FakeRegistry::start({
        let content = content.clone();
        move |seen| if seen.authorization() != "" { status(400) } else { serve(&content, seen) }
    })
    .await;
    let there = format!("{}/signed?x=1", storage.url());
    let registry = FakeRegistry::start(move |_| with(status(307), header::LOCATION, &there)).await;
    let bench = Bench::new(&[registry.url()]);
    for purpose in [Purpose::Pass, Purpose::Probe] {
        let answer = bench.source.forward(&host(), get(BLOB_PATH), purpose).await.unwrap();
        let probed = purpose == Purpose::Probe;
        assert_eq!(answer.status(), if probed { StatusCode::PARTIAL_CONTENT } else { StatusCode::OK });
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(bytes, if probed { Bytes::new() } else { content.clone() });
    }
    assert!(registry.seen().iter().all(|seen| seen.authorization() == "Bearer t"));
}

#[tokio::test]
async fn a_blobs_redirect_to_another_repository_is_the_clients_to_follow() {
    let there = "/v2/library/app/blobs/sha256:00";
    let registry = FakeRegistry::start(move |seen| match seen.path.as_str() {
        BLOB_PATH => with(text(301, "moved"), header::LOCATION, there),
        _ => text(200, "the blob"),
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    for purpose in [Purpose::Pass, Purpose::Probe] {
        let answer = bench.source.forward(&host(), get(BLOB_PATH), purpose).await.unwrap();
        assert_eq!(answer.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(answer.headers()[header::LOCATION], there);
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "moved");
    }
    assert!(registry.seen().iter().all(|seen| seen.path == BLOB_PATH));
}

#[tokio::test]
async fn an_expired_signature_is_no_verdict_on_the_credential() {
    let storage = FakeRegistry::start(|_| status(403)).await;
    let there = format!("{}/signed?x=1", storage.url());
    let registry = FakeRegistry::start(move |_| with(status(307), header::LOCATION, &there)).await;
    let bench = Bench::new(&[registry.url()]);
    let error = bench.source.forward(&host(), get(BLOB_PATH), Purpose::Probe).await.unwrap_err();
    assert!(error.to_string().contains("answered 403"), "{error}");
}

#[tokio::test]
async fn a_blob_that_is_passed_on_is_counted() {
    let content = blob(200_000);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let answer = bench.source.forward(&host(), get(BLOB_PATH), Purpose::Pass).await.unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), content);
    assert_eq!(bench.counter("flotilla_peer_source_bytes_total{reader=\"client\"}"), 200_000);
}

#[tokio::test]
async fn a_push_streams_to_the_registry_while_it_is_still_being_made() {
    let registry = FakeRegistry::start(|_| status(202)).await;
    let bench = Bench::new(&[registry.url()]);
    let (frames, receiver) = tokio::sync::mpsc::channel(1);
    let request = Request::builder()
        .method(Method::PATCH)
        .uri("/v2/app/web/blobs/uploads/1")
        .body(StreamBody::new(ReceiverStream::new(receiver)).boxed_unsync())
        .unwrap();
    let push = tokio::spawn({
        let source = bench.source.clone();
        async move { source.forward(&host(), request, Purpose::Pass).await.unwrap().status() }
    });
    // The channel holds one frame: these are taken only because the registry is being sent them.
    for _ in 0..100 {
        frames.send(Ok(Frame::data(blob(10_000)))).await.unwrap();
    }
    drop(frames);
    assert_eq!(push.await.unwrap(), StatusCode::ACCEPTED);
    assert_eq!(registry.seen()[0].body.len(), 1_000_000);
}

#[tokio::test]
async fn a_push_of_known_length_keeps_its_length() {
    let registry = FakeRegistry::start(|_| status(201)).await;
    let bench = Bench::new(&[registry.url()]);
    let content = blob(70_000);
    let request = Request::put("/v2/app/web/blobs/uploads/1").body(body(&content)).unwrap();
    bench.source.forward(&host(), request, Purpose::Pass).await.unwrap();
    let seen = &registry.seen()[0];
    assert_eq!((&seen.method, seen.header(header::CONTENT_LENGTH)), (&Method::PUT, "70000"));
    assert_eq!(seen.body, content);
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_reached_costs_no_push() {
    let registry = FakeRegistry::start(|_| status(201)).await;
    let bench = Bench::new(&[dead_url().await, registry.url()]);
    let request = Request::put("/v2/app/web/blobs/uploads/1").body(body(&blob(70_000))).unwrap();
    let answer = bench.source.forward(&host(), request, Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::CREATED);
    assert_eq!(registry.seen()[0].body, blob(70_000));
}

#[tokio::test]
async fn a_broken_endpoint_is_passed_over_for_a_read_and_reported_for_a_push() {
    let broken = FakeRegistry::start(|_| text(500, "database is gone")).await;
    let good = FakeRegistry::start(|_| status(200)).await;
    let bench = Bench::new(&[broken.url(), good.url()]);
    let push = Request::post("/v2/app/web/blobs/uploads/").body(empty()).unwrap();
    let answer = bench.source.forward(&host(), push, Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "database is gone");
    let bench = Bench::new(&[broken.url(), good.url()]);
    let answer = bench.source.forward(&host(), get(MANIFEST_PATH), Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_connection_closed_as_it_was_used_costs_no_read_and_is_reported_for_a_push() {
    let registry = FakeRegistry::start(|seen| match seen.index {
        0 | 2 => Reply::HangUp,
        _ => Reply::Answer(status(200)),
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let answer = bench.source.forward(&host(), get(MANIFEST_PATH), Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let push = Request::post("/v2/app/web/blobs/uploads/").body(empty()).unwrap();
    let error = bench.source.forward(&host(), push, Purpose::Pass).await.unwrap_err();
    assert!(error.to_string().contains("connection lost"), "{error}");
    assert_eq!(registry.seen().len(), 3);
}

#[tokio::test]
async fn the_last_endpoints_failure_is_passed_on_as_it_is() {
    let broken = FakeRegistry::start(|_| text(503, "maintenance")).await;
    let bench = Bench::new(&[broken.url()]);
    let answer = bench.source.forward(&host(), get(MANIFEST_PATH), Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}

#[tokio::test]
async fn a_hung_registry_is_a_clear_error_for_a_read() {
    let hung = FakeRegistry::start(|_| Reply::Hang).await;
    let config = SourceConfig { header_timeout: Duration::from_millis(200), ..quick_config() };
    let bench = Bench::with_config(&[hung.url()], config);
    let started = Instant::now();
    for path in ["/v2/", "/service/token?service=x", MANIFEST_PATH, BLOB_PATH] {
        let error = bench.source.forward(&host(), get(path), Purpose::Pass).await.unwrap_err();
        let expected = format!("{HOST} at {} no answer within ", hung.url());
        assert!(error.to_string().starts_with(&expected), "{error}");
    }
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test]
async fn a_hung_endpoint_leaves_time_for_the_next() {
    let hung = FakeRegistry::start(|_| Reply::Hang).await;
    let good = FakeRegistry::start(|_| status(200)).await;
    let bench = Bench::new(&[hung.url(), good.url()]);
    let answer = bench.source.forward(&host(), get(MANIFEST_PATH), Purpose::Pass).await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    bench.source.forward(&host(), get(MANIFEST_PATH), Purpose::Pass).await.unwrap();
    assert_eq!((hung.seen().len(), good.seen().len()), (1, 2), "what hung is tried last for a while");
}

#[tokio::test(start_paused = true)]
async fn a_slow_listing_has_900_seconds() {
    let hung = FakeRegistry::start(|_| Reply::Hang).await;
    let bench = Bench::with_config(&[hung.url()], SourceConfig::default());
    let started = Instant::now();
    let error = bench.source.forward(&host(), get("/v2/_catalog"), Purpose::Pass).await.unwrap_err();
    assert!(error.to_string().ends_with("no answer within 900s"), "{error}");
    assert!(started.elapsed() >= Duration::from_secs(900));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_stands_still_for_900_seconds_breaks() {
    let content = blob(9);
    let registry = FakeRegistry::start(move |_| chunked(&content, 5, Ending::Stall)).await;
    let bench = Bench::new(&[registry.url()]);
    let answer = bench.source.forward(&host(), get("/v2/_catalog"), Purpose::Pass).await.unwrap();
    let error = answer.into_body().collect().await.unwrap_err();
    assert_eq!(error.to_string(), "the registry gave no byte for 900s");
}

#[tokio::test]
async fn a_probe_asks_for_one_byte_and_drops_it() {
    let content = blob(200_000);
    for honours_ranges in [true, false] {
        let registry = FakeRegistry::start({
            let content = content.clone();
            move |seen: &Seen| if honours_ranges { serve(&content, seen) } else { plain(&content) }
        })
        .await;
        let bench = Bench::new(&[registry.url()]);
        let answer = bench.source.forward(&host(), get(BLOB_PATH), Purpose::Probe).await.unwrap();
        assert!(answer.status().is_success());
        assert!(answer.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert_eq!(registry.blob_ranges(), ["bytes=0-0"]);
        let probed = if honours_ranges { 1 } else { 200_000 };
        assert_eq!(bench.counter("flotilla_peer_probe_bytes_total"), probed);
        assert_eq!(bench.counter("flotilla_peer_source_bytes_total{reader=\"client\"}"), 0);
        assert_eq!(bench.counter("flotilla_peer_source_requests_total{kind=\"probe\"}"), 1);
    }
}

#[tokio::test]
async fn a_refused_probe_comes_with_the_registrys_words() {
    let registry = FakeRegistry::start(|_| text(403, "denied")).await;
    let bench = Bench::new(&[registry.url()]);
    let answer = bench.source.forward(&host(), get(BLOB_PATH), Purpose::Probe).await.unwrap();
    assert_eq!(answer.status(), StatusCode::FORBIDDEN);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "denied");
    let mut head = get(MANIFEST_PATH);
    *head.method_mut() = Method::HEAD;
    bench.source.forward(&host(), head, Purpose::Probe).await.unwrap();
    assert_eq!(registry.seen()[1].range(), "");
}

#[tokio::test]
async fn an_unknown_registry_is_not_asked() {
    let bench = Bench::new(&[]);
    let other = "elsewhere.test".parse().unwrap();
    let error = bench.source.forward(&other, get("/v2/"), Purpose::Pass).await.unwrap_err();
    assert_eq!(error.to_string(), "elsewhere.test is not a configured registry");
}
