//! Parts of a blob, and its head alone.

use bytes::Bytes;
use http::Method;

use crate::client::Answer;
use crate::region::{Node, Region, blob_path, noise};
use crate::registry::{Fault, HOST, Registry};

/// How long every piece of a blob of up to 128 MiB is, in bytes.
const PIECE: u64 = 128 << 10;

/// A region whose registry has an image of one layer, and the layer's path.
async fn pushed(len: usize) -> (Region, Bytes, String) {
    let (region, blob) = (Region::start().await, noise(1, len));
    region.registry.push("app", "v1", &[&blob]);
    let path = format!("{}?ns={HOST}", blob_path("app", &blob));
    (region, blob, path)
}

#[tokio::test]
async fn a_part_of_a_blob_is_exactly_what_was_asked_for() {
    let (region, blob, path) = pushed(300_000).await;
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
    let (region, blob, path) = pushed(20 << 20).await;
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
    // Eight of the table, the first, two that touch at 4 MiB, and one of a file.
    assert_eq!(region.registry.reads_of(&blob).1, 12 * PIECE, "the pieces asked for, each once");
}

#[tokio::test]
async fn only_the_pieces_of_a_part_are_fetched_and_each_once_for_the_region() {
    let (region, blob, path) = pushed(20 << 20).await;
    let ask = async |node: &Node, range: std::ops::Range<usize>| {
        node.client.get(&format!("/v2/app/manifests/v1?ns={HOST}")).await;
        let asked = format!("bytes={}-{}", range.start, range.end - 1);
        let answer = node.client.ask(Method::GET, &path, &[("range", &asked)]).await;
        assert_eq!((answer.status.as_u16(), answer.is_complete), (206, true), "{asked}: {answer:?}");
        assert_eq!(answer.body, blob[range], "{asked}");
    };
    let footer = blob.len() - 51..blob.len();
    ask(&region.one, footer.clone()).await;
    ask(&region.one, 0..10).await;
    assert_eq!(region.registry.reads_of(&blob).1, 2 * PIECE);
    // Another node's are half of the same, and a seed's own client's too.
    tokio::join!(
        ask(&region.two, footer.clone()),
        ask(&region.two, 300_000..300_001),
        ask(&region.seed, 0..1)
    );
    ask(&region.two, 0..5).await;
    assert_eq!(region.registry.reads_of(&blob).1, 3 * PIECE);
    for (node, pieces) in [(&region.one, 2), (&region.two, 3)] {
        let got = node.piece_bytes("seed").await + node.piece_bytes("peer").await;
        assert_eq!(got, pieces * PIECE, "{}", node.name);
    }
    // For a client that reads it all the rest is read, and the whole is found right.
    let whole = region.two.client.get(&path).await;
    assert_eq!((whole.status.as_u16(), whole.is_complete, whole.body == blob), (200, true, true));
    assert_eq!(region.registry.reads_of(&blob).1, blob.len() as u64);
}

/// Lazy readers of many nodes at once, and one that pulls: nobody waits for what nobody wants.
#[tokio::test]
async fn parts_and_wholes_are_read_beside_each_other_and_the_source_sees_each_byte_once() {
    let (region, blob, path) = pushed(8 << 20).await;
    let mut rng = fastrand::Rng::with_seed(7);
    let asked = (0..60).map(|index| {
        let node = [&region.one, &region.two, &region.seed][index % 3];
        let start = rng.usize(..blob.len() - 1);
        let range = start..(start + 1 + rng.usize(..400_000)).min(blob.len());
        let (path, blob) = (path.clone(), blob.clone());
        async move {
            node.client.get(&format!("/v2/app/manifests/v1?ns={HOST}")).await;
            if index == 40 {
                let whole = node.client.get(&path).await;
                assert!(whole.is_complete && whole.body == blob);
                return;
            }
            let asked = format!("bytes={}-{}", range.start, range.end - 1);
            let answer = node.client.ask(Method::GET, &path, &[("range", &asked)]).await;
            assert_eq!((answer.status.as_u16(), answer.is_complete), (206, true), "{asked}: {answer:?}");
            assert!(answer.body == blob[range], "{asked}");
        }
    });
    futures_util::future::join_all(asked).await;
    assert_eq!(region.registry.reads_of(&blob).1, blob.len() as u64);
}

#[tokio::test]
async fn a_part_that_another_registry_gave_is_not_shown_before_the_whole_is_right() {
    let region = Region::start().await;
    let hub = Registry::start().await;
    region.add_registry("hub.test", &hub).await;
    let blob = noise(1, 3_000_000);
    for registry in [&hub, &region.registry] {
        registry.push("app", "v1", &[&blob]);
    }
    hub.break_blob(&blob, Fault::WrongBytes);
    let ask = async |node: &Node, host: &str| {
        node.client.get(&format!("/v2/app/manifests/v1?ns={host}")).await;
        let path = format!("{}?ns={host}", blob_path("app", &blob));
        node.client.ask(Method::GET, &path, &[("range", "bytes=0-9")]).await
    };
    // As it would have directly.
    let wrong = ask(&region.one, "hub.test").await;
    assert_eq!(wrong.status, 206);
    assert_ne!(wrong.body, blob[..10]);
    for node in [&region.one, &region.two] {
        let right = ask(node, HOST).await;
        assert_eq!((right.status.as_u16(), &right.body[..]), (206, &blob[..10]));
    }
}

/// As a proxy-cache project does with what it fetches itself, and a front end that encodes.
#[tokio::test]
async fn a_registry_that_gives_no_parts_is_read_once_for_all_of_them() {
    let (region, blob, path) = pushed(6 << 20).await;
    region.registry.break_blob(&blob, Fault::NoLength);
    let asked = (0..12).map(|index| {
        let node = [&region.one, &region.two][index % 2];
        let range = index * 400_000 + 1..index * 400_000 + 300_000;
        let (path, blob) = (path.clone(), blob.clone());
        async move {
            node.client.get(&format!("/v2/app/manifests/v1?ns={HOST}")).await;
            let asked = format!("bytes={}-{}", range.start, range.end - 1);
            let answer = node.client.ask(Method::GET, &path, &[("range", &asked)]).await;
            assert_eq!((answer.status.as_u16(), answer.is_complete), (206, true), "{asked}: {answer:?}");
            assert!(answer.body == blob[range], "{asked}");
        }
    });
    futures_util::future::join_all(asked).await;
    let whole = region.two.client.get(&path).await;
    assert!(whole.is_complete && whole.body == blob);
    let kept = region.seed.piece_bytes("registry").await;
    assert_eq!(kept, blob.len() as u64, "each byte is kept as it passes, once");
}

#[tokio::test]
async fn a_part_that_is_here_is_served_without_a_seed() {
    let (region, blob, path) = pushed(3_000_000).await;
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let ask = async || client.ask(Method::GET, &path, &[("range", "bytes=100-400000")]).await;
    assert_eq!(ask().await.status, 206);
    region.seed.stop();
    let again = ask().await;
    assert_eq!((again.status.as_u16(), again.is_complete), (206, true), "{again:?}");
    assert!(again.body == blob[100..400_001]);
}

#[tokio::test]
async fn who_resumes_does_not_get_to_the_end_of_what_is_wrong() {
    let (region, blob, path) = pushed(3_000_000).await;
    region.registry.break_blob(&blob, Fault::WrongBytes);
    let client = &region.one.client;
    client.mirror("/v2/app/manifests/v1").await;
    let answer = client.ask(Method::GET, &path, &[("range", "bytes=2000000-")]).await;
    assert!(!answer.status.is_success() || !answer.is_complete, "{:?}", answer.status);
}

#[tokio::test]
async fn a_head_says_what_a_get_would_and_sends_no_byte() {
    let (region, blob, path) = pushed(300_000).await;
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
