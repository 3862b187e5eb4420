//! Parts of a blob, and its head alone.

use http::Method;

use crate::client::Answer;
use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

#[tokio::test]
async fn a_part_of_a_blob_is_exactly_what_was_asked_for() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let path = format!("{}?ns={HOST}", blob_path("app", &blob));
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let get = async |headers: &[(&str, &str)]| client.ask(Method::GET, &path, headers).await;

    let parts = [
        ("bytes=0-", 0..300_000),
        ("bytes=0-0", 0..1),
        ("bytes=131071-131072", 131_071..131_073),
        ("bytes=140000-", 140_000..300_000),
        ("bytes=299999-400000", 299_999..300_000),
        ("bytes=-5", 299_995..300_000),
        ("bytes=-400000", 0..300_000),
    ];
    for (range, bytes) in parts {
        let answer = get(&[("range", range)]).await;
        assert_eq!(answer.status, 206, "{range}");
        let expected = format!("bytes {}-{}/300000", bytes.start, bytes.end - 1);
        assert_eq!(answer.header("content-range"), expected);
        assert_eq!(answer.header("content-length"), bytes.len().to_string());
        assert_eq!(answer.body, blob[bytes], "{range}");
    }
    for range in ["bytes=300000-", "bytes=300000-300001", "bytes=-0", "bytes=5-1", "bytes=x"] {
        let answer = get(&[("range", range)]).await;
        assert_eq!(answer.status, 416, "{range}");
        assert_eq!(answer.header("content-range"), "bytes */300000");
    }
    let answer = get(&[("range", "lines=1-2")]).await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, blob.clone()));

    let etag = get(&[]).await.header("etag").to_owned();
    let same = get(&[("range", "bytes=5-9"), ("if-range", &etag)]).await;
    assert_eq!((same.status.as_u16(), &same.body[..]), (206, &blob[5..10]));
    let other = get(&[("range", "bytes=5-9"), ("if-range", "\"another\"")]).await;
    assert_eq!((other.status.as_u16(), other.body), (200, blob.clone()));
    assert_eq!(region.registry.reads_of(&blob), (1, 300_000));
}

/// As eStargz, SOCI and nydus read: the table of contents at the end, and files here and there.
#[tokio::test]
async fn several_parts_come_in_one_answer_and_each_says_where_it_belongs() {
    let region = Region::start().await;
    let blob = noise(1, 20 << 20);
    region.registry.push("app", "v1", &[&blob]);
    let path = format!("{}?ns={HOST}", blob_path("app", &blob));
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let asked = [(19 << 20, 20 << 20), (0, 10), (4_194_300, 4_194_310), (9_000_000, 9_000_001)];
    let range: Vec<_> = asked.iter().map(|(start, end)| format!("{start}-{}", end - 1)).collect();
    let range = format!("bytes={}", range.join(", "));
    let answer = client.ask(Method::GET, &path, &[("range", &range)]).await;
    assert_eq!((answer.status.as_u16(), answer.is_complete), (206, true));
    assert_eq!(answer.header("content-length"), answer.body.len().to_string());
    let boundary = answer.header("content-type").strip_prefix("multipart/byteranges; boundary=").unwrap();
    let mut rest = &answer.body[..];
    let mut line_end = "";
    for (start, end) in asked {
        let head = format!(
            "{line_end}--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes {start}-{}/{}\r\n\r\n",
            end - 1,
            blob.len()
        );
        line_end = "\r\n";
        rest = rest.strip_prefix(head.as_bytes()).expect("the head of this part");
        rest = rest.strip_prefix(&blob[start..end]).expect("the bytes of this part");
    }
    assert_eq!(rest, format!("\r\n--{boundary}--\r\n").as_bytes());
    // Two that touch are one, and one part needs no frame.
    let one = client.ask(Method::GET, &path, &[("range", "bytes=5-9,0-4")]).await;
    assert_eq!((one.header("content-range"), &one.body[..]), ("bytes 0-9/20971520", &blob[..10]));
    assert_eq!(region.registry.reads_of(&blob).1, 20 << 20, "each byte once");
}

#[tokio::test]
async fn a_head_says_what_a_get_would_and_sends_no_byte() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let path = format!("{}?ns={HOST}", blob_path("app", &blob));
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let check = |answer: &Answer| {
        assert_eq!(answer.status, 200);
        assert_eq!(answer.header("content-length"), "300000");
        assert_eq!(answer.header("accept-ranges"), "bytes");
        assert_eq!(answer.header("docker-content-digest"), flotilla_proto::Digest::of(&blob).to_string());
    };
    let head = client.ask(Method::HEAD, &path, &[]).await;
    check(&head);
    assert!(head.body.is_empty());
    // Only a GET has parts (RFC 9110 §14.2).
    check(&client.ask(Method::HEAD, &path, &[("range", "bytes=0-4")]).await);
    check(&client.get(&path).await);
}

#[tokio::test]
async fn an_empty_blob_is_served_with_and_without_its_manifest() {
    let region = Region::start().await;
    let blob = noise(1, 0);
    region.registry.push("app", "v1", &[&blob]);
    let path = blob_path("app", &blob);
    let unannounced = region.one.client.mirror(&path).await;
    region.two.client.mirror("/v2/app/manifests/v1").await;
    let announced = region.two.client.mirror(&path).await;
    for answer in [unannounced, announced] {
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        assert_eq!(answer.header("content-length"), "0");
        assert!(answer.is_complete && answer.body.is_empty());
    }
}

#[tokio::test]
async fn a_blob_without_its_manifest_is_served_after_a_probe() {
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push_blob("app", &blob);
    let answer = region.one.client.mirror(&blob_path("app", &blob)).await;
    assert_eq!((answer.status.as_u16(), answer.body), (200, blob));
}
