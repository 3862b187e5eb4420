//! What every door says of a blob that is here, and what only those say that play the registry.

use http::Method;

use crate::client::Door;
use crate::region::{Node, Region, blob_path, noise};
use crate::registry::{Fault, HOST};

async fn region() -> Region {
    Region::start_with(|config| config.door.sni_listen = Some("127.0.0.1:0".parse().unwrap())).await
}

fn doors(node: &Node) -> [Door; 4] {
    let sni = Door::Sni(node.sni.unwrap(), node.bundle());
    [Door::Mirror, Door::Prefix, Door::Proxy(node.bundle()), sni]
}

/// The headers of a GET, and the status and body of its answer.
type Row<'a> = (&'a [(&'a str, &'a str)], u16, &'a [u8]);

/// The table of `docs/doors.md`.
#[tokio::test]
async fn a_held_blob_is_answered_as_the_specifications_have_it_at_every_door() {
    let region = region().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let node = &region.one;
    let (path, digest) = (blob_path("app", &blob), flotilla_proto::Digest::of(&blob));
    let etag = format!("\"{digest}\"");
    node.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(node.client.mirror(&path).await.body, blob);
    let rows: &[Row<'_>] = &[
        (&[], 200, &blob),
        (&[("range", "bytes=10-19")], 206, &blob[10..20]),
        (&[("range", "bytes=5-1")], 416, &[]),
        (&[("range", "bytes=x")], 416, &[]),
        (&[("range", "bytes=300000-")], 416, &[]),
        (&[("range", "lines=1-2")], 200, &blob),
        (&[("if-none-match", &etag)], 304, &[]),
        (&[("if-none-match", "*")], 304, &[]),
        (&[("if-none-match", "\"other\"")], 200, &blob),
        (&[("if-none-match", &etag), ("range", "bytes=0-1")], 304, &[]),
        (&[("if-match", &etag)], 200, &blob),
        (&[("if-match", "\"other\"")], 412, &[]),
        (&[("if-range", &etag), ("range", "bytes=0-1")], 206, &blob[..2]),
        (&[("if-range", "\"other\""), ("range", "bytes=0-1")], 200, &blob),
        (&[("if-modified-since", "Sun, 29 Nov 2026 09:00:00 GMT")], 200, &blob),
    ];
    for door in doors(node) {
        for (headers, status, body) in rows {
            let answer = node.client.at(&door, Method::GET, &path, headers).await;
            assert_eq!(answer.status, *status, "{door:?} {headers:?}");
            if *status != 416 {
                assert!(answer.body == *body, "{door:?} {headers:?}");
                assert_eq!(answer.header("etag"), etag);
            }
        }
        let malformed = node.client.at(&door, Method::GET, "/v2/app/blobs/sha256:12", &[]).await;
        assert_eq!(
            (malformed.status.as_u16(), &malformed.error().0[..]),
            (400, "DIGEST_INVALID"),
            "{door:?}"
        );
        let encoded = path.replacen("sha256:", "sha256%3A", 1);
        assert_eq!(node.client.at(&door, Method::GET, &encoded, &[]).await.body, blob, "{door:?}");
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
}

/// Harbor keeps a blob that was asked for by HEAD from its garbage collection until its manifest is there.
#[tokio::test]
async fn a_pusher_s_question_for_a_blob_reaches_the_registry_as_the_question_that_it_is() {
    let region = region().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let node = &region.one;
    let path = blob_path("app", &blob);
    node.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(node.client.mirror(&path).await.body, blob);
    let heads =
        || region.registry.log().iter().filter(|it| it.method == Method::HEAD && it.path == path).count();
    for (door, is_asked) in doors(node).iter().zip([false, false, true, true]) {
        let before = heads();
        let head = node.client.at(door, Method::HEAD, &path, &[]).await;
        assert_eq!((head.status.as_u16(), head.header("content-length")), (200, "300000"), "{door:?}");
        assert_eq!(heads() > before, is_asked, "{door:?}");
    }
    // A registry in trouble says nothing; who is granted the blob is still told of it.
    region.registry.break_blob(&blob, Fault::Status(503));
    for door in doors(node) {
        assert_eq!(node.client.at(&door, Method::HEAD, &path, &[]).await.status, 200, "{door:?}");
    }
}

#[tokio::test]
async fn what_a_client_deletes_through_a_door_is_gone_there() {
    let region = region().await;
    let blob = noise(1, 300_000);
    let node = &region.one;
    let [mirror, prefix, proxy, sni] = doors(node);
    for deleting in [&proxy, &sni] {
        for target in ["blob", "manifest"] {
            region.registry.push("app", "v1", &[&blob]);
            let path = blob_path("app", &blob);
            assert_eq!(node.client.mirror("/v2/app/manifests/v1").await.status, 200);
            assert_eq!(node.client.mirror(&path).await.body, blob);
            let deleted = if target == "blob" { &path } else { "/v2/app/manifests/v1" };
            let answer = node.client.at(deleting, Method::DELETE, deleted, &[]).await;
            assert_eq!(answer.status, 202);
            if target == "manifest" {
                // As a garbage collection would.
                region.registry.delete(&path);
            }
            for door in [&mirror, &prefix, &proxy, &sni] {
                for method in [Method::HEAD, Method::GET] {
                    let answer = node.client.at(door, method.clone(), &path, &[]).await;
                    assert_eq!(answer.status, 404, "{method} at {door:?} after {target} at {deleting:?}");
                }
            }
        }
    }
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
    assert_eq!(node.client.get(&format!("/v2/app/manifests/v1?ns={HOST}")).await.status, 404);
}
