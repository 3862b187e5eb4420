//! Clients pull a generated image through the counting hop from both registries, and from
//! registries that misbehave.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use flotilla_proto::Digest;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_RANGE, LOCATION, RANGE, WWW_AUTHENTICATE};
use hyper::{Method, Request, Response, StatusCode};
use tokio::sync::Semaphore;

use super::generate::{GeneratedImage, MANIFEST_TYPE, generate};
use super::hop::Hop;
use super::pull::Pulled;
use super::registry::Registry;
use super::*;
use crate::http::{Body, Server, empty, full, oci_error, text};
use crate::oci_client::{ClientCredentials, ClientPlan, Door, NodeProgress, pull};

#[tokio::test]
async fn every_client_gets_every_blob_and_the_hop_counts_each_byte() {
    let home = tempfile::tempdir().unwrap();
    let origin = Origin::generated(ByteSize::kib(300), 5, home.path()).await.unwrap();
    pull_counted(origin).await;
}

#[tokio::test]
async fn the_built_in_registry_does_what_the_installed_one_does() {
    let home = tempfile::tempdir().unwrap();
    let image = generated(home.path(), ByteSize::kib(300), 5);
    let registry = Registry::built_in(Arc::clone(&image), &name()).await.unwrap();
    let origin = Origin::of(name(), &image, registry).await.unwrap();
    pull_counted(origin).await;
}

/// Two nodes of three clients each, all straight at the hop.
async fn pull_counted(origin: Origin) {
    let pulled = pull_from(&origin.hop.url(), &origin, 2, 3).await;
    assert_eq!(pulled.failures, [""; 0]);
    assert_eq!(pulled.image, origin.expected);
    let names: Vec<_> = pulled.seconds_by_node.iter().map(|(name, _)| name.clone()).collect();
    assert_eq!(names, ["node-0", "node-1"]);
    let bytes_by_node = vec![BytesBySource::default(); 2];
    let report = Report::new(Measured { origin: &origin, pulled, bytes_by_node, clients_per_peer: 3 });
    assert!(report.verified);
    assert_eq!(report.blobs, 6);
    assert!(report.bytes > 300 * 1024);
    // No region in between: every client reads every byte.
    assert_eq!((report.source_bytes, report.source_requests), (6 * report.bytes, 6 * 6));
    assert_eq!(report.source_ratio, 6.0);
    origin.stop().await;
}

#[tokio::test]
async fn the_built_in_registry_answers_ranges_heads_and_unknown_names() {
    let home = tempfile::tempdir().unwrap();
    let image = generated(home.path(), ByteSize(100), 1);
    let (digest, _) = image.blobs.iter().find(|(_, len)| **len == 100).unwrap();
    let content = std::fs::read(image.path(digest)).unwrap();
    let digest = *digest;
    let registry = Registry::built_in(Arc::clone(&image), &name()).await.unwrap();
    let ask = async |method: Method, path: &str, range: &str| {
        let uri = format!("{}/v2/{path}", registry.url());
        let request = Request::builder().method(method).uri(uri).header(RANGE, range).body(empty()).unwrap();
        HttpClient::loopback().send(request).await.unwrap()
    };
    let blob = format!("flotilla/test/blobs/{digest}");

    let part = ask(Method::GET, &blob, "bytes=10-19").await;
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()[CONTENT_RANGE], "bytes 10-19/100");
    let body = part.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(body, content[10..20]);

    let hop = Hop::start(registry.url(), HttpClient::loopback()).await.unwrap();
    let through_hop = Request::head(format!("{}/v2/{blob}", hop.url())).body(empty()).unwrap();
    let head = HttpClient::loopback().send(through_hop).await.unwrap();
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &"100".parse().unwrap()));
    assert_eq!((hop.count().bytes(), hop.count().requests()), (0, 0));
    hop.stop().await;

    let beyond = ask(Method::GET, &blob, "bytes=100-").await;
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    assert_eq!(beyond.headers()[CONTENT_RANGE], "bytes */100");

    let head = ask(Method::HEAD, &blob, "bytes=0-9,20-29").await;
    assert_eq!((head.status(), &head.headers()["content-length"]), (StatusCode::OK, &"100".parse().unwrap()));

    for (path, code) in [
        ("flotilla/test/manifests/none", "MANIFEST_UNKNOWN"),
        ("flotilla/test/blobs/sha256:0", "BLOB_UNKNOWN"),
        ("other/manifests/v1", "NAME_UNKNOWN"),
    ] {
        let response = ask(Method::GET, path, "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        assert!(text(response.into_body(), 1000).await.contains(code), "{path}");
    }
    assert_eq!(ask(Method::DELETE, &blob, "").await.status(), StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(ask(Method::GET, "", "").await.status(), StatusCode::OK);
    registry.stop().await;
}

#[tokio::test]
async fn a_corrupt_blob_and_a_refusal_are_told_with_client_blob_and_words() {
    let home = tempfile::tempdir().unwrap();
    let origin = Origin::generated(ByteSize::kib(10), 2, home.path()).await.unwrap();
    let sizes = origin.expected.as_ref().unwrap().blobs.clone();
    let layers: Vec<Digest> = sizes.iter().filter(|(_, len)| **len == 5 * 1024).map(|(d, _)| *d).collect();
    let [corrupt, refused] = layers[..] else { panic!("two layers") };
    let url = origin.hop.url();
    let door = door(url, move |path| {
        if path.ends_with(&corrupt.to_string()) {
            return Some(Response::new(full(vec![0; 5 * 1024])));
        }
        let gone = || oci_error(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", "no seed answers");
        path.ends_with(&refused.to_string()).then(gone)
    })
    .await;

    for _ in 0..3 {
        let pulled = pull_from(&door.url(), &origin, 1, 1).await;
        let [failure] = &pulled.failures[..] else { panic!("{:?}", pulled.failures) };
        let zeros = Digest::of(&[0; 5 * 1024]);
        let either = [
            format!("node-0 client 0: blob {corrupt}: what came has the digest {zeros}"),
            format!(
                "node-0 client 0: blob {refused}: the door answers 503 Service Unavailable: \
                 UNAVAILABLE: no seed answers"
            ),
        ];
        assert!(either.contains(failure), "{failure}");
        assert_eq!(pulled.image, None);
    }
    door.stop().await;
    origin.stop().await;
}

#[tokio::test]
async fn a_blob_of_another_length_than_the_manifest_says_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let origin = Origin::generated(ByteSize::kib(5), 1, home.path()).await.unwrap();
    let door =
        door(origin.hop.url(), |path| path.contains("/blobs/").then(|| Response::new(full("short")))).await;
    let pulled = pull_from(&door.url(), &origin, 1, 1).await;
    assert!(pulled.failures[0].contains("the body has 5 bytes, the manifest says"), "{:?}", pulled.failures);
    door.stop().await;
    origin.stop().await;
}

#[tokio::test]
async fn a_pull_that_stands_still_ends_at_its_deadline_and_says_who_was_not_done() {
    let home = tempfile::tempdir().unwrap();
    let origin = Origin::generated(ByteSize::kib(5), 1, home.path()).await.unwrap();
    let stalled = Arc::new(Semaphore::new(0));
    let tell = Arc::clone(&stalled);
    let door = door(origin.hop.url(), move |path| {
        let stall = || {
            tell.add_permits(1);
            Response::new(StreamBody::new(futures_util::stream::pending()).boxed_unsync())
        };
        path.contains("/blobs/").then(stall)
    })
    .await;
    let url = door.url();
    let pulled = async {
        let (pulled, ()) = tokio::join!(pull_from(&url, &origin, 1, 2), async {
            // Both clients wait for both blobs: from here on, only the clock moves.
            stalled.acquire_many(4).await.unwrap().forget();
            tokio::time::pause();
        });
        pulled
    };
    let failures = pulled.await.failures;
    let limit = "were not done after 300 s; all clients together had 0 B";
    assert_eq!(failures, [format!("node-0: 2 clients {limit}")]);
    tokio::time::resume();
    door.stop().await;
    origin.stop().await;
}

#[tokio::test]
async fn clients_answer_basic_and_bearer_challenges_with_their_account() {
    let home = tempfile::tempdir().unwrap();
    let image = generated(home.path(), ByteSize::kib(5), 2);
    for bearer in [false, true] {
        let registry = Registry::built_in(Arc::clone(&image), &name()).await.unwrap();
        let guard = guarded(registry.url(), bearer).await;
        let pull_as = async |credentials| {
            pull(ClientPlan {
                http: HttpClient::loopback(),
                door: Door::Mirror(guard.url()),
                image: name(),
                credentials,
                progress: Arc::new(NodeProgress::default()),
            })
            .await
        };
        let robot = Arc::new(ClientCredentials::new("robot", "secret"));
        assert_eq!(pull_as(Some(robot)).await.unwrap().blobs, image.blobs);
        let error = pull_as(None).await.unwrap_err().to_string();
        let expected = if bearer { "the token service answers 401" } else { "asks for an account" };
        assert!(error.starts_with("manifest v1: ") && error.contains(expected), "{error}");
        guard.stop().await;
        registry.stop().await;
    }
}

#[tokio::test]
async fn a_blob_that_the_registry_keeps_elsewhere_is_counted_and_its_storage_sees_no_credential() {
    let storage_saw_credential = Arc::new(AtomicBool::new(false));
    let saw = Arc::clone(&storage_saw_credential);
    let storage = Server::start(move |request| {
        saw.fetch_or(request.headers().contains_key(AUTHORIZATION), Ordering::Relaxed);
        async { Response::new(full("content")) }
    })
    .await
    .unwrap();
    let elsewhere = format!("{}/bucket/object", storage.url());
    let registry = door(String::new(), move |_| {
        let redirect =
            Response::builder().status(StatusCode::TEMPORARY_REDIRECT).header(LOCATION, &elsewhere);
        Some(redirect.body(empty()).unwrap())
    })
    .await;
    let hop = Hop::start(registry.url(), HttpClient::loopback()).await.unwrap();
    let get = async |path: &str| {
        let uri = format!("{}{path}", hop.url());
        let request = Request::get(uri).header(AUTHORIZATION, "Bearer secret").body(empty()).unwrap();
        HttpClient::loopback().send(request).await.unwrap()
    };

    let blob = get("/v2/app/blobs/sha256:00").await;
    assert_eq!(text(blob.into_body(), 100).await, "content");
    assert!(!storage_saw_credential.load(Ordering::Relaxed));
    assert_eq!((hop.count().bytes(), hop.count().requests()), (7, 1));

    let manifest = get("/v2/app/manifests/v1").await;
    assert_eq!(manifest.status(), StatusCode::TEMPORARY_REDIRECT);
    assert_eq!(hop.count().requests(), 1);
    for server in [registry, storage] {
        server.stop().await;
    }
    hop.stop().await;
}

#[tokio::test]
async fn a_registry_that_is_not_there_is_a_502_that_names_it() {
    let gone = Server::start(|_| async { Response::new(empty()) }).await.unwrap();
    let url = gone.url();
    gone.stop().await;
    let hop = Hop::start(url.clone(), HttpClient::loopback()).await.unwrap();
    let uri = format!("{}/v2/app/blobs/sha256:00", hop.url()).parse().unwrap();
    let (status, body) =
        HttpClient::loopback().get_text(uri, std::time::Duration::from_secs(60)).await.unwrap();
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains(&url) && body.contains("refused"), "{body}");
    assert_eq!((hop.count().bytes(), hop.count().requests()), (0, 0));
    hop.stop().await;
}

fn name() -> ImageReference {
    "demo.test/flotilla/test:v1".parse().unwrap()
}

fn generated(home: &Path, size: ByteSize, layers: u16) -> Arc<GeneratedImage> {
    Arc::new(generate(size, layers, home).unwrap())
}

/// Clients of `nodes` nodes, each node with `clients` clients and with its door at `url`.
async fn pull_from(url: &str, origin: &Origin, nodes: usize, clients: u16) -> Pulled {
    let node = |index| NodeDoor { name: format!("node-{index}"), door: url.to_owned() };
    let pull = FleetPull {
        http: origin.http.clone(),
        nodes: (0..nodes).map(node).collect(),
        clients_per_node: clients,
        image: origin.image.clone(),
        credentials: origin.credentials.clone(),
    };
    pull.run(&mut Display::Quiet).await
}

/// A door that answers by itself where `own` has an answer, and else passes on to `url`.
async fn door<F>(url: String, own: F) -> Server
where
    F: Fn(&str) -> Option<Response<Body>> + Clone + Send + Sync + 'static,
{
    let http = HttpClient::loopback();
    let answer = move |request: Request<hyper::body::Incoming>| {
        let (own, http) = (own(request.uri().path()), http.clone());
        let uri = format!("{url}{}", request.uri());
        async move {
            match own {
                Some(response) => response,
                None => pass_on(&http, &uri).await,
            }
        }
    };
    Server::start(answer).await.unwrap()
}

/// A door that wants robot:secret, as Basic or as a token of its own.
async fn guarded(url: String, bearer: bool) -> Server {
    const BASIC: &str = "Basic cm9ib3Q6c2VjcmV0";
    let http = HttpClient::loopback();
    let answer = move |request: Request<hyper::body::Incoming>| {
        let http = http.clone();
        let host = request.headers()["host"].to_str().unwrap().to_owned();
        let uri = format!("{url}{}", request.uri());
        let given = request.headers().get(AUTHORIZATION).map(|value| value.to_str().unwrap().to_owned());
        let wants_token = request.uri().path() == "/token";
        let query = request.uri().query().unwrap_or_default().to_owned();
        async move {
            let wanted = if bearer && !wants_token { "Bearer t0ken" } else { BASIC };
            if given.as_deref() == Some(wanted) {
                if !wants_token {
                    return pass_on(&http, &uri).await;
                }
                assert_eq!(query, "service=reg&scope=repository:flotilla/test:pull");
                return Response::new(full(r#"{"access_token":"t0ken"}"#));
            }
            let challenge = match bearer {
                true => format!(r#"Bearer realm="http://{host}/token",service="reg""#),
                false => r#"Basic realm="reg""#.to_owned(),
            };
            let mut response = oci_error(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", "who are you?");
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge.parse().unwrap());
            response
        }
    };
    Server::start(answer).await.unwrap()
}

async fn pass_on(http: &HttpClient, uri: &str) -> Response<Body> {
    let request = Request::get(uri).header(ACCEPT, MANIFEST_TYPE).body(empty()).unwrap();
    let response = http.send(request).await.unwrap();
    let (head, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Response::from_parts(head, full(bytes))
}
