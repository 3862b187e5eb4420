//! A registry is not one host: what it redirects to is followed, and a stranger gets nothing that is the client's.

use bytes::Bytes;
use flotilla_proto::Digest;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;

use super::fake::{FakeRegistry, Seen, serve, status, text, with};
use super::{Bench, HOST, blob, credentials, host};
use crate::source::{BodyStream, Purpose, Verdict, body};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

/// A registry that wants a token of its own, for anybody.
async fn target(content: &Bytes) -> FakeRegistry {
    let content = content.clone();
    FakeRegistry::start(move |seen: &Seen| {
        let here = seen.header(header::HOST).to_owned();
        if seen.path.starts_with("/token?") {
            return text(200, r#"{"token":"for-anybody"}"#);
        }
        if seen.authorization() != "Bearer for-anybody" {
            let challenge = format!(
                r#"Bearer realm="http://{here}/token",service="target",scope="repository:there/app:pull""#
            );
            return with(status(401), header::WWW_AUTHENTICATE, &challenge);
        }
        match &seen.path[..] {
            path if path.contains("/manifests/") => text(200, MANIFEST),
            _ => serve(&content, seen),
        }
    })
    .await
}

/// A name for another registry.
async fn vanity(target: &FakeRegistry) -> FakeRegistry {
    let url = target.url();
    FakeRegistry::start(move |seen: &Seen| {
        let there = seen.path.replace("/v2/app/", "/v2/there/app/");
        with(status(307), header::LOCATION, &format!("{url}{there}"))
    })
    .await
}

fn request(method: Method, path: &str) -> Request<BodyStream> {
    let request = Request::builder().method(method).uri(path);
    let request =
        request.header(header::AUTHORIZATION, "Basic c2VjcmV0").header(header::COOKIE, "sid=secret");
    request.header("x-api-key", "secret").header(header::ACCEPT, "x").body(body::empty()).unwrap()
}

fn assert_told_no_secret(registry: &FakeRegistry) {
    for seen in registry.seen() {
        let shown = format!("{:?}", seen.headers);
        assert!(!seen.authorization().starts_with("Basic"), "{}", seen.path);
        assert!(!shown.contains("sid=") && !seen.headers.contains_key("x-api-key"), "{}", seen.path);
    }
}

#[tokio::test]
async fn a_vanity_name_is_followed_with_a_token_of_the_target_and_without_the_clients_credential() {
    let content = blob(300_000);
    let target = target(&content).await;
    let vanity = vanity(&target).await;
    let bench = Bench::new(&[vanity.url()]);
    let (asked_of, upstream) = (&bench, host());
    let forward =
        |method, path: &str| asked_of.source.forward(&upstream, request(method, path), Purpose::Pass);

    let answer = forward(Method::GET, "/v2/app/manifests/v1").await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), MANIFEST);
    let path = format!("/v2/app/blobs/{}", Digest::of(&content));
    assert_eq!(forward(Method::HEAD, &path).await.unwrap().status(), StatusCode::OK);
    let probe = bench.source.forward(&host(), request(Method::GET, &path), Purpose::Probe).await.unwrap();
    assert_eq!(probe.status(), StatusCode::PARTIAL_CONTENT);
    let credentials = credentials(&["Basic c2VjcmV0"]);
    bench.read(&content, &credentials).await.assert_whole(&content);
    assert!(matches!(credentials.said(&super::credential("Basic c2VjcmV0")), None | Some(Verdict::Accepted)));

    assert_told_no_secret(&target);
    let traded = target.seen().iter().filter(|seen| seen.path.starts_with("/token?")).count();
    assert!(traded <= 2, "one for each repository as the vanity name calls it: {traded}");
    let asked = target.seen();
    let token = asked.iter().find(|seen| seen.path.starts_with("/token?")).unwrap();
    assert!(token.path.contains("service=target") && token.path.contains("repository:there/app:pull"));
}

#[tokio::test]
async fn what_a_redirect_brings_as_a_manifest_is_one_or_an_error() {
    for (page, expected) in
        [("<html>please log in</html>", false), ("[]", false), (r#"{"errors":[]}"#, false), (MANIFEST, true)]
    {
        let storage = FakeRegistry::start(move |_| text(200, page)).await;
        let to = storage.url();
        let registry =
            FakeRegistry::start(move |_| with(status(302), header::LOCATION, &format!("{to}/login"))).await;
        let bench = Bench::new(&[registry.url()]);
        let asked = request(Method::GET, "/v2/app/manifests/v1");
        let answer = bench.source.forward(&host(), asked, Purpose::Pass).await;
        assert_eq!(answer.is_ok(), expected, "{page}");
        if let Err(error) = answer {
            assert!(error.to_string().contains("no manifest") && error.to_string().contains(HOST), "{error}");
        }
        assert_told_no_secret(&storage);
    }
}

#[tokio::test]
async fn a_manifest_that_is_missing_elsewhere_is_missing_and_a_refusal_elsewhere_is_no_verdict() {
    for (said, told) in [(404, Some(404)), (401, None), (403, None)] {
        let storage = FakeRegistry::start(move |_| status(said)).await;
        let to = storage.url();
        let registry =
            FakeRegistry::start(move |_| with(status(307), header::LOCATION, &format!("{to}/x"))).await;
        let bench = Bench::new(&[registry.url()]);
        let asked = request(Method::GET, "/v2/app/manifests/v1");
        let answer = bench.source.forward(&host(), asked, Purpose::Pass).await;
        assert_eq!(answer.ok().map(|answer| answer.status().as_u16()), told, "{said}");
    }
}

#[tokio::test]
async fn a_manifest_longer_than_any_registry_takes_is_not_read_to_its_end() {
    let page: Bytes = vec![b' '; 9 << 20].into();
    let registry = FakeRegistry::start(move |_| Response::new(crate::body::full(page.clone()))).await;
    let bench = Bench::new(&[registry.url()]);
    let asked = request(Method::GET, "/v2/app/manifests/v1");
    let error = bench.source.forward(&host(), asked, Purpose::Pass).await.err().unwrap();
    assert!(error.to_string().contains("goes on after 8388608 bytes"), "{error}");
}

#[tokio::test]
async fn a_repository_with_a_token_service_of_its_own_has_its_tokens_from_there() {
    // `/v2/` is open to all; each repository names its service.
    let registry = FakeRegistry::start(|seen: &Seen| {
        let here = seen.header(header::HOST).to_owned();
        match &seen.path[..] {
            "/v2/" => text(200, "{}"),
            path if path.starts_with("/token/") => {
                let whose = &path["/token/".len()..path.find('?').unwrap()];
                text(200, &format!(r#"{{"token":"of-{whose}"}}"#))
            }
            path => {
                let repository = path.split('/').nth(2).unwrap().to_owned();
                if seen.authorization() == format!("Bearer of-{repository}") {
                    return text(200, MANIFEST);
                }
                let challenge = format!(r#"Bearer realm="http://{here}/token/{repository}",service="s""#);
                with(status(401), header::WWW_AUTHENTICATE, &challenge)
            }
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let token = async |repository: &str| {
        let path = format!("/flotilla/token?scope=repository:{repository}:pull");
        let request = Request::get(path).body(body::empty()).unwrap();
        let answer = bench.source.forward(&host(), request, Purpose::Token).await.unwrap();
        String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    };
    // Learned from what a client was told, and asked where no client was.
    let manifest = Request::get("/v2/one/manifests/v1").body(body::empty()).unwrap();
    let refused = bench.source.forward(&host(), manifest, Purpose::Pass).await.unwrap();
    assert_eq!(refused.status(), StatusCode::UNAUTHORIZED);
    let asked = registry.seen().len();
    assert_eq!(token("one").await, r#"{"token":"of-one"}"#);
    assert_eq!(registry.seen().len(), asked + 1, "what was learned is not asked again");
    assert_eq!(token("two").await, r#"{"token":"of-two"}"#);
}
