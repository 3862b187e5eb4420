//! What is served while a registry is gone, and to whom.

use flotilla_proto::Digest;
use flotilla_proto::wire::manager::OfflineGranted;
use http::Method;

use crate::region::{Region, noise};
use crate::registry::Registry;

const BEARER: &str = r#"Bearer realm="https://off.test/token",service="off.test""#;
const PAIR: &str = "Basic dTpw";

#[tokio::test]
async fn a_registry_that_is_gone_leaves_what_it_granted_to_whom_it_granted_it() {
    let region = Region::start().await;
    let (mut registry, blob, cold) = (Registry::start().await, noise(1, 3_000_000), noise(2, 3_000_000));
    let granted = Some(OfflineGranted { longer_seconds: 3600 });
    registry.push("priv/app", "v1", &[&blob, &cold]);
    registry.protect(BEARER);
    registry.issue(PAIR, "good");
    registry.issue("Basic b3RoZXI6cHc=", "other");
    registry.allow("Bearer good", "priv/app");
    registry.allow("Bearer other", "priv/other");
    // Only then: a seed looks at once what a registry that is set asks of its clients.
    region.add("off.test", &registry, |upstream| upstream.offline_granted = granted).await;

    let client = &region.one.client;
    let token = "/flotilla/token/off.test?account=u&scope=repository:priv/app:pull";
    let manifest = "/v2/priv/app/manifests/v1?ns=off.test";
    let path = |blob| format!("/v2/priv/app/blobs/{}?ns=off.test", Digest::of(blob));
    let issued = client.with(PAIR).get(token).await;
    assert_eq!(issued.status, 200);
    let owner = client.with("Bearer good");
    let served = owner.get(manifest).await;
    assert_eq!(served.status, 200);
    assert_eq!(owner.get(&path(&blob)).await.body, blob);
    let challenged = client.get("/v2/?ns=off.test").await;
    assert_eq!(challenged.status, 401);

    registry.stop().await;
    let again = client.get("/v2/?ns=off.test").await;
    assert_eq!(again.header("www-authenticate"), challenged.header("www-authenticate"));
    assert_eq!(client.with(PAIR).get(token).await.body, issued.body);
    let kept = owner.get(manifest).await;
    assert_eq!((kept.status, &kept.body), (served.status, &served.body));
    assert_eq!(kept.header("content-type"), served.header("content-type"));
    let head = owner.ask(Method::HEAD, manifest, &[]).await;
    assert_eq!(
        (head.status.as_u16(), head.header("docker-content-digest")),
        (200, kept.header("docker-content-digest"))
    );
    assert_eq!(owner.get(&path(&blob)).await.body, blob);

    // Nobody else's, and nothing that is not here.
    assert_eq!(client.with("Basic b3RoZXI6cHc=").get(token).await.status, 502);
    for stranger in [client.clone(), client.with("Bearer other")] {
        let answer = stranger.get(&path(&blob)).await;
        assert_eq!(answer.status, 502, "{:?}", stranger.credential);
    }
    assert_eq!(client.with("Bearer other").get(manifest).await.status, 502);
    // Who shows no credential is asked for it, as some clients want to be.
    let asked = client.get(manifest).await;
    assert_eq!(asked.status, 401);
    assert_eq!(asked.header("www-authenticate"), challenged.header("www-authenticate"));
    assert_eq!(owner.get("/v2/priv/app/manifests/v2?ns=off.test").await.status, 502);
    let answer = owner.get(&path(&cold)).await;
    assert!(!answer.status.is_success(), "{answer:?}");
}

#[tokio::test]
async fn without_leave_nothing_is_served_without_the_registrys_word() {
    let mut region = Region::start().await;
    let blob = noise(1, 3_000_000);
    region.registry.push("app", "v1", &[&blob]);
    assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
    region.registry.stop().await;
    assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 502);
}

/// A token that a session was given is no other client's, though both ask at the same place.
#[tokio::test]
async fn a_sessions_token_is_kept_for_nobody() {
    let region = Region::start().await;
    let mut registry = Registry::start().await;
    registry.protect(BEARER);
    registry.issue("sid=alice", "good");
    let granted = Some(OfflineGranted { longer_seconds: 3600 });
    region.add("off.test", &registry, |upstream| upstream.offline_granted = granted).await;
    let token = "/flotilla/token/off.test?scope=repository:priv/app:pull";
    let client = &region.one.client;
    let given = client.ask(Method::GET, token, &[("cookie", "sid=alice")]).await;
    assert_eq!(given.status, 200, "{given:?}");
    registry.stop().await;
    for lines in [&[][..], &[("cookie", "sid=alice")][..]] {
        let answer = client.ask(Method::GET, token, lines).await;
        assert!(!answer.status.is_success(), "{answer:?}");
    }
}

/// A registry may name any manifest, also one that only another registry ever sent.
#[tokio::test]
async fn a_manifest_that_a_registry_only_named_is_not_served_when_it_is_gone() {
    let region = Region::start().await;
    let mut hostile = Registry::start().await;
    hostile.push("app", "v1", &[&noise(2, 10_000)]);
    let granted = Some(OfflineGranted { longer_seconds: 3600 });
    region.add("hostile.test", &hostile, |upstream| upstream.offline_granted = granted).await;
    region.registry.push("priv/app", "v1", &[&noise(1, 10_000)]);
    let client = &region.one.client;
    let private = client.mirror("/v2/priv/app/manifests/v1").await;
    assert_eq!(private.status, 200);
    hostile.claim("/v2/app/manifests/v1", Digest::of(&private.body));
    let manifest = "/v2/app/manifests/v1?ns=hostile.test";
    let named = client.head(manifest).await;
    assert_eq!(named.header("docker-content-digest"), Digest::of(&private.body).to_string());
    hostile.stop().await;
    for path in
        [manifest.to_owned(), format!("/v2/app/manifests/{}?ns=hostile.test", Digest::of(&private.body))]
    {
        let answer = client.get(&path).await;
        assert_eq!(answer.status, 502, "{path}: {answer:?}");
    }
}

/// As containerd does it: a token to resolve the tag, another one to fetch.
#[tokio::test]
async fn a_pull_of_two_tokens_is_had_again_with_the_last_one() {
    let region = Region::start().await;
    let (mut registry, blob) = (Registry::start().await, noise(1, 3_000_000));
    let granted = Some(OfflineGranted { longer_seconds: 3600 });
    region.add("off.test", &registry, |upstream| upstream.offline_granted = granted).await;
    registry.push("priv/app", "v1", &[&blob]);
    registry.protect(BEARER);
    let client = &region.one.client;
    let token = "/flotilla/token/off.test?scope=repository:priv/app:pull&service=off.test";
    let manifest = "/v2/priv/app/manifests/v1?ns=off.test";
    let path = format!("/v2/priv/app/blobs/{}?ns=off.test", Digest::of(&blob));
    for given in ["first", "second"] {
        registry.issue(PAIR, given);
        registry.allow(&format!("Bearer {given}"), "priv/app");
        assert_eq!(client.with(PAIR).get(token).await.status, 200);
    }
    let (first, second) = (client.with("Bearer first"), client.with("Bearer second"));
    let resolved = first.ask(Method::HEAD, manifest, &[]).await;
    let digest = resolved.header("docker-content-digest");
    registry.push("priv/app", digest, &[&blob]);
    let by_digest = format!("/v2/priv/app/manifests/{digest}?ns=off.test");
    assert_eq!(second.get(&by_digest).await.status, 200);
    assert_eq!(second.get(&path).await.body, blob);

    registry.stop().await;
    for asked in [manifest, &by_digest] {
        assert_eq!(second.get(asked).await.status, 200, "{asked}");
    }
    assert_eq!(second.get(&path).await.body, blob);
    assert_eq!(client.with("Bearer third").get(manifest).await.status, 502);
}
