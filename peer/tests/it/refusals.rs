//! What is not served, and in which words.

use bytes::Bytes;
use http::Method;

use crate::region::{Region, noise};
use crate::registry::HOST;

#[tokio::test]
async fn a_digest_that_is_none_is_refused_as_such() {
    let region = Region::start().await;
    for digest in [
        "sha256:abc",
        "sha256:",
        "md5",
        "sha256:zz00000000000000000000000000000000000000000000000000000000000000",
    ] {
        let answer = region.one.client.mirror(&format!("/v2/app/blobs/{digest}")).await;
        assert_eq!(answer.status, 400, "{digest}");
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!(answer.error().0, "DIGEST_INVALID", "{digest}");
    }
    assert!(region.registry.log().is_empty());
}

#[tokio::test]
async fn a_registry_that_is_not_configured_is_unknown_and_never_dialled() {
    let region = Region::start().await;
    for path in
        ["/v2/app/manifests/v1?ns=other.test", "/v2/other.test:5000/app/manifests/v1", "/v2/?ns=127.0.0.1"]
    {
        let answer = region.one.client.get(path).await;
        assert_eq!(answer.status, 404, "{path}");
        let (code, message) = answer.error();
        assert_eq!(code, "NAME_UNKNOWN");
        assert!(message.contains(HOST), "{message}");
    }
}

#[tokio::test]
async fn a_push_through_a_mirror_is_refused_before_it_reaches_the_registry() {
    let region = Region::start().await;
    for (method, path) in [
        (Method::POST, format!("/v2/app/blobs/uploads/?ns={HOST}")),
        (Method::PUT, format!("/v2/{HOST}/app/manifests/v1")),
        (Method::DELETE, format!("/v2/app/manifests/v1?ns={HOST}")),
    ] {
        let answer = region.one.client.ask(method, &path, &[]).await;
        assert_eq!(answer.status, 405);
        assert_eq!(answer.error().0, "UNSUPPORTED");
    }
    assert!(region.registry.log().is_empty());
}

#[tokio::test]
async fn a_blob_under_another_hash_passes_through() {
    let region = Region::start().await;
    let path = format!("/v2/app/blobs/sha512:{}", "ab".repeat(64));
    let blob = noise(1, 300_000);
    region.registry.put(&path, "application/octet-stream", blob.clone());
    for _ in 0..2 {
        let answer = region.one.client.mirror(&path).await;
        assert!(answer.status == 200 && answer.body == blob && answer.is_complete);
    }
    assert_eq!(region.registry.log().len(), 2);
}

#[tokio::test]
async fn what_is_neither_blob_nor_manifest_passes_through_with_its_query() {
    let region = Region::start().await;
    region.registry.put("/v2/app/tags/list", "application/json", Bytes::from_static(b"{}"));
    region.registry.put("/v2/_catalog", "application/json", Bytes::from_static(b"[]"));
    let tags = region.one.client.get(&format!("/v2/app/tags/list?n=2&ns={HOST}&last=v1")).await;
    assert_eq!((tags.status.as_u16(), &tags.body[..]), (200, &b"{}"[..]));
    // The last name of a page may look like a host.
    let catalog = region.one.client.get("/v2/_catalog?n=2&last=my.team/app").await;
    assert_eq!((catalog.status.as_u16(), &catalog.body[..]), (200, &b"[]"[..]));
}

#[tokio::test]
async fn what_the_registry_does_not_have_it_says_itself() {
    let region = Region::start().await;
    for path in
        [format!("/v2/app/blobs/{}", flotilla_proto::Digest::of(b"none")), "/v2/app/manifests/none".into()]
    {
        let answer = region.one.client.mirror(&path).await;
        assert_eq!(answer.status, 404, "{path}");
        assert_eq!(answer.error().1, "the registry's own words");
    }
}
