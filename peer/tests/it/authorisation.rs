//! Whose credential opens what: the registry decides, for bytes that are cached too.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flotilla_proto::Digest;
use flotilla_proto::wire::manager::Registry as Upstream;
use http::Method;

use crate::region::{Region, blob_path, noise};
use crate::registry::{Fault, HOST, Registry};

const BASIC: &str = r#"Basic realm="registry.test""#;
const BEARER: &str = r#"Bearer realm="https://registry.test/token",service="registry.test""#;

#[tokio::test]
async fn a_cached_private_blob_is_refused_in_the_registry_s_own_words() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    region.registry.allow("Basic good", "priv/app");
    region.registry.allow("Basic elsewhere", "other/app");
    let path = blob_path("priv/app", &blob);
    for node in [&region.one, &region.two] {
        let owner = node.client.with("Basic good");
        assert_eq!(owner.mirror("/v2/priv/app/manifests/v1").await.status, 200);
        assert_eq!(owner.mirror(&path).await.body, blob);
    }
    let anonymous = region.one.client.clone();
    let (wrong, elsewhere) = (anonymous.with("Basic wrong"), anonymous.with("Basic elsewhere"));
    for (client, status) in [(anonymous, 401), (wrong, 401), (elsewhere, 403)] {
        for path in ["/v2/priv/app/manifests/v1", &path] {
            let answer = client.mirror(path).await;
            assert_eq!(answer.status, status, "{path} {:?}", client.credential);
            assert_eq!(answer.header("www-authenticate"), BASIC);
            assert_eq!(answer.error().1, "the registry's own words");
        }
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
}

/// A browser's session, an API key, a token in the query: registries take them as well as `Authorization`.
#[tokio::test]
async fn what_another_kind_of_credential_opened_is_opened_to_nobody_without_it() {
    let ways = [
        ("cookie", "sid=alice", "cookie"),
        ("x-api-key", "key-of-alice", "header"),
        ("", "token-of-alice", "query"),
    ];
    for (header, secret, kind) in ways {
        let region = Region::start().await;
        let blob = noise(1, 300_000);
        region.registry.push("priv/app", "v1", &[&blob]);
        region.registry.protect(BASIC);
        region.registry.allow(secret, "priv/app");
        let (manifest, blob_path) = ("/v2/priv/app/manifests/v1".to_owned(), blob_path("priv/app", &blob));
        let ask = async |path: &str, method: Method, knows: bool| {
            let path = match (header, knows) {
                ("", true) => format!("{path}?ns={HOST}&access_token={secret}"),
                _ => format!("{path}?ns={HOST}"),
            };
            let lines = [(header, secret)];
            let lines = if header.is_empty() || !knows { &[][..] } else { &lines[..] };
            region.one.client.ask(method, &path, lines).await
        };
        // As directly.
        assert_eq!(ask(&manifest, Method::GET, true).await.status, 200, "{secret}");
        assert_eq!(ask(&blob_path, Method::HEAD, true).await.status, 200, "{secret}");
        assert_eq!(ask(&blob_path, Method::GET, true).await.body, blob, "{secret}");
        for path in [&manifest, &blob_path] {
            for method in [Method::HEAD, Method::GET] {
                assert_eq!(ask(path, method, false).await.status, 401, "{secret} {path}");
            }
        }
        let log = region.registry.log();
        let mut reads = log.iter().filter(|asked| asked.path == blob_path && asked.status.is_success());
        assert!(reads.all(|asked| asked.authorization == secret), "nothing is read ahead without it");
        let past = async |kind: &str| {
            region.one.metric(&format!("flotilla_peer_bypasses_total{{kind=\"{kind}\"}}")).await
        };
        assert_eq!((past(kind).await, past("body").await), (3, 0), "{kind}");
    }
}

#[tokio::test]
async fn a_request_with_two_credentials_is_refused() {
    let region = Region::start().await;
    let lines = [("authorization", "Basic one"), ("authorization", "Basic two")];
    let answer = region.one.client.ask(Method::GET, &format!("/v2/app/tags/list?ns={HOST}"), &lines).await;
    assert_eq!(answer.status, 400);
    assert!(region.registry.log().is_empty());
}

/// Somebody's account is disabled midway: what a grant still gives for 30 s, a strict registry does not.
#[tokio::test]
async fn a_strict_registry_is_asked_about_each_blob() {
    let region = Region::start().await;
    // One registry by two names.
    region.add(HOST, &region.registry, |registry| registry.trust = "one".into()).await;
    let strict = |registry: &mut Upstream| (registry.strict_grants, registry.trust) = (true, "one".into());
    region.add("strict.test", &region.registry, strict).await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    region.registry.allow("Basic good", "priv/app");
    let client = region.one.client.with("Basic good");
    let get = async |host: &str, path: &str| client.get(&format!("{path}?ns={host}")).await;
    let path = blob_path("priv/app", &blob);
    for host in [HOST, "strict.test"] {
        assert_eq!(get(host, "/v2/priv/app/manifests/v1").await.status, 200);
        assert_eq!(get(host, &path).await.body, blob, "{host}");
    }
    region.registry.expire("Basic good");
    assert_eq!(get(HOST, &path).await.status, 200);
    assert_eq!(get("strict.test", &path).await.status, 401);
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
}

#[tokio::test]
async fn a_cold_private_blob_is_read_with_its_client_s_own_credential() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BEARER);
    let token = token(Duration::from_secs(300));
    region.registry.allow(&token, "priv/app");
    let refused = region.one.client.mirror("/v2/priv/app/manifests/v1").await;
    assert_eq!(refused.status, 401);
    let challenge = refused.header("www-authenticate");
    assert!(
        challenge.contains("/flotilla/token/") && challenge.ends_with(",service=\"registry.test\""),
        "{challenge}"
    );
    let client = region.one.client.with(&token);
    assert_eq!(client.mirror("/v2/priv/app/manifests/v1").await.status, 200);
    assert_eq!(client.mirror(&blob_path("priv/app", &blob)).await.body, blob);
}

#[tokio::test]
async fn a_blob_whose_length_the_registry_keeps_to_itself_is_as_long_as_its_manifest_said_or_as_it_takes() {
    let region = Region::start().await;
    let (blob, unknown) = (noise(1, 300_000), noise(2, 300_000));
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.push_blob("priv/app", &unknown);
    region.registry.protect(BASIC);
    for credential in ["Basic first", "Basic second"] {
        region.registry.allow(credential, "priv/app");
    }
    for blob in [&blob, &unknown] {
        region.registry.break_blob(blob, Fault::NoLength);
    }
    let client = |credential| region.one.client.with(credential);
    assert_eq!(client("Basic first").mirror("/v2/priv/app/manifests/v1").await.status, 200);
    assert_eq!(client("Basic second").mirror(&blob_path("priv/app", &blob)).await.body, blob);
    // The second time its length is known here.
    for length in ["", "300000"] {
        let answer = client("Basic second").mirror(&blob_path("priv/app", &unknown)).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-length")), (200, length));
        assert!(answer.is_complete && answer.body == unknown);
    }
    assert_eq!(client("Basic third").mirror(&blob_path("priv/app", &blob)).await.status, 401);
}

#[tokio::test]
async fn a_token_that_ran_out_opens_nothing_that_is_cached() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BEARER);
    // Its last second has begun: the registry still takes it, no grant outlives it.
    let token = token(Duration::ZERO);
    region.registry.allow(&token, "priv/app");
    let client = region.one.client.with(&token);
    assert_eq!(client.mirror("/v2/priv/app/manifests/v1").await.status, 200);
    assert_eq!(client.mirror(&blob_path("priv/app", &blob)).await.body, blob);
    region.registry.expire(&token);
    let answer = client.mirror(&blob_path("priv/app", &blob)).await;
    assert_eq!(answer.status, 401);
    assert_eq!(answer.error().1, "the registry's own words");
}

#[tokio::test]
async fn a_refused_manifest_takes_back_what_the_credential_was_granted() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    region.registry.allow("Basic good", "priv/app");
    let client = region.one.client.with("Basic good");
    client.mirror("/v2/priv/app/manifests/v1").await;
    assert_eq!(client.mirror(&blob_path("priv/app", &blob)).await.status, 200);
    region.registry.expire("Basic good");
    assert_eq!(client.mirror("/v2/priv/app/manifests/v1").await.status, 401);
    assert_eq!(client.mirror(&blob_path("priv/app", &blob)).await.status, 401);
}

#[tokio::test]
async fn a_forged_manifest_opens_no_other_repository_s_blob() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.push_manifest("evil/app", "v1", &[(Digest::of(&blob), blob.len())]);
    region.registry.protect(BASIC);
    region.registry.allow("Basic good", "priv/app");
    region.registry.allow("Basic evil", "evil/app");
    for node in [&region.one, &region.two] {
        let evil = node.client.with("Basic evil");
        assert_eq!(evil.mirror("/v2/evil/app/manifests/v1").await.status, 200);
        let cold = evil.mirror(&blob_path("evil/app", &blob)).await;
        assert_eq!((cold.status.as_u16(), cold.error().1.as_str()), (404, "the registry's own words"));
        let owner = node.client.with("Basic good");
        owner.mirror("/v2/priv/app/manifests/v1").await;
        assert_eq!(owner.mirror(&blob_path("priv/app", &blob)).await.body, blob);

        evil.mirror("/v2/evil/app/manifests/v1").await;
        for path in [blob_path("evil/app", &blob), blob_path("priv/app", &blob)] {
            let answer = evil.mirror(&path).await;
            assert!(matches!(answer.status.as_u16(), 403 | 404), "{path} {answer:?}");
            assert_eq!(answer.error().1, "the registry's own words");
        }
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
}

#[tokio::test]
async fn one_client_s_refused_credential_does_not_end_another_s_download() {
    let region = Region::start().await;
    let blob = noise(1, 600_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    for credential in ["Basic good", "Basic late"] {
        region.registry.allow(credential, "priv/app");
    }
    let (good, late) = (region.one.client.with("Basic good"), region.one.client.with("Basic late"));
    for client in [&good, &late] {
        assert_eq!(client.mirror("/v2/priv/app/manifests/v1").await.status, 200);
    }
    region.registry.expire("Basic late");
    let path = blob_path("priv/app", &blob);
    // As a client asks that reads in parallel parts.
    let parts = (0..16).map(|_| late.mirror(&path));
    let (refused, served) = tokio::join!(futures_util::future::join_all(parts), good.mirror(&path));
    assert!(served.status == 200 && served.body == blob, "{served:?}");
    for answer in refused {
        assert!(matches!(answer.status.as_u16(), 200 | 401), "{answer:?}");
    }
}

#[tokio::test]
async fn where_a_registry_keeps_its_blobs_no_client_learns_and_no_credential_goes() {
    let region = Region::start().await;
    let storage = Registry::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("priv/app", "v1", &[&blob]);
    region.registry.protect(BASIC);
    region.registry.allow("Basic good", "priv/app");
    storage.put("/bucket/data", "application/octet-stream", blob.clone());
    let path = blob_path("priv/app", &blob);
    region.registry.redirect(&path, &format!("http://{}/bucket/data?signature=1", storage.address));
    // Without a manifest first, so that there is no grant: a client that resumes.
    for node in [&region.one, &region.two] {
        let answer = node.client.with("Basic good").mirror(&path).await;
        assert!(answer.status == 200 && answer.body == blob, "{answer:?}");
    }
    let log = storage.log();
    assert!(!log.is_empty() && log.iter().all(|asked| asked.authorization.is_empty()), "{log:?}");
    let whole = log.iter().filter(|asked| asked.range.as_deref() != Some("bytes=0-0")).count();
    assert_eq!(whole, 1);
}

/// A token that says when it ends.
fn token(life: Duration) -> String {
    let ends_at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap() + life;
    let claims = URL_SAFE_NO_PAD.encode(format!(r#"{{"exp":{}}}"#, ends_at.as_secs()));
    format!("Bearer head.{claims}.signature")
}
