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
    region.add("off.test", &registry, |upstream| upstream.offline_granted = granted).await;
    registry.push("priv/app", "v1", &[&blob, &cold]);
    registry.protect(BEARER);
    registry.issue(PAIR, "good");
    registry.issue("Basic b3RoZXI6cHc=", "other");
    registry.allow("Bearer good", "priv/app");
    registry.allow("Bearer other", "priv/other");

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
        for path in [manifest, &path(&blob)] {
            let answer = stranger.get(path).await;
            assert_eq!(answer.status, 502, "{path} {:?}", stranger.credential);
        }
    }
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
