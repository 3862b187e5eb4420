//! §2.2 and §2.7: blobs.

use super::*;

#[test]
fn a_blob_comes_whole_with_its_names() {
    let lab = Lab::start();
    let digest = lab.image.layers[0].digest();
    let (get, head) = (lab.ask(lab.layer()), lab.ask(lab.layer().head()));
    assert_eq!(get.body, lab.layer_content());
    assert_eq!(head.body.len(), 0);
    for reply in [get, head] {
        assert_eq!(reply.status, 200);
        assert_eq!(reply.header("docker-content-digest"), Some(&*digest.to_string()));
        assert_eq!(reply.header("etag"), Some(&*format!("\"{digest}\"")));
        assert_eq!(reply.header("content-length"), Some(&*lab.layer_content().len().to_string()));
        assert_eq!(reply.header("content-type"), Some("application/octet-stream"));
        assert_eq!(reply.header("cache-control"), Some("max-age=31536000"));
        assert_eq!(reply.header("accept-ranges"), Some("bytes"));
    }
}

#[test]
fn a_blob_is_unknown_in_a_repository_that_does_not_hold_it() {
    let lab = Lab::start();
    let digest = lab.image.layers[0].digest();
    lab.harbor.publish_blob("priv/other", b"something else");
    for path in [blob_path("priv/other", digest), "/v2/priv/app/blobs/sha256:abc".to_owned()] {
        let reply = lab.ask_as_alice(Ask::get(path));
        assert_eq!((reply.status, &*reply.code()), (404, "BLOB_UNKNOWN"));
    }
}

#[test]
fn a_range_comes_exact() {
    let lab = Lab::start();
    let content = lab.layer_content();
    let size = content.len();
    for (range, start, end) in [
        ("bytes=0-0".to_owned(), 0, 1),
        ("bytes=100-".to_owned(), 100, size),
        ("bytes=100-199".to_owned(), 100, 200),
        (format!("bytes=100-{}", size + 5), 100, size),
        ("bytes=-10".to_owned(), size - 10, size),
    ] {
        let reply = lab.ask(lab.layer().range(&range));
        assert_eq!((reply.status, &reply.body[..]), (206, &content[start..end]), "{range}");
        let stated = format!("bytes {start}-{}/{size}", end - 1);
        assert_eq!(reply.header("content-range"), Some(&*stated));
        assert_eq!(reply.header("content-length"), Some(&*(end - start).to_string()));
    }
}

#[test]
fn a_range_behind_the_end_is_416_and_says_where_the_end_is() {
    let lab = Lab::start();
    let size = lab.layer_content().len();
    let reply = lab.ask(lab.layer().range(&format!("bytes={size}-")));
    assert_eq!(reply.status, 416);
    assert_eq!(reply.header("content-range"), Some(&*format!("bytes */{size}")));
    assert_eq!(lab.ask(lab.layer().range("bytes=x")).status, 416);
    let empty = lab.harbor.publish_blob("priv/app", b"");
    let reply = lab.ask_as_alice(Ask::get(blob_path("priv/app", empty)).range("bytes=0-"));
    assert_eq!((reply.status, reply.header("content-length")), (200, Some("0")));
}

#[test]
fn several_ranges_come_as_parts() {
    let lab = Lab::start();
    let reply = lab.ask(lab.layer().range("bytes=0-1,5-6"));
    assert_eq!(reply.status, 206);
    let content_type = reply.header("content-type").unwrap();
    let boundary = content_type.strip_prefix("multipart/byteranges; boundary=").unwrap();
    let (content, size) = (lab.layer_content(), lab.layer_content().len());
    let mut expected = Vec::new();
    for (start, end) in [(0, 1), (5, 6)] {
        let head = format!("--{boundary}\r\nContent-Range: bytes {start}-{end}/{size}\r\n");
        expected.extend_from_slice(head.as_bytes());
        expected.extend_from_slice(b"Content-Type: application/octet-stream\r\n\r\n");
        expected.extend_from_slice(&content[start..=end]);
        expected.extend_from_slice(b"\r\n");
    }
    expected.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    assert_eq!(reply.body, expected);
}

#[test]
fn a_head_with_a_range_is_206() {
    let lab = Lab::start();
    let reply = lab.ask(lab.layer().head().range("bytes=10-19"));
    assert_eq!((reply.status, reply.header("content-length")), (206, Some("10")));
}

#[test]
fn conditions_are_judged_by_the_entity_tag() {
    let lab = Lab::start();
    let etag = format!("\"{}\"", lab.image.layers[0].digest());
    assert_eq!(lab.ask(lab.layer().header("if-none-match", &etag)).status, 304);
    assert_eq!(lab.ask(lab.layer().header("if-none-match", "\"other\"")).status, 200);
    let ranged = || lab.layer().range("bytes=0-0");
    assert_eq!(lab.ask(ranged().header("if-range", &etag)).status, 206);
    assert_eq!(lab.ask(ranged().header("if-range", "\"other\"")).status, 200);
}

#[test]
fn blobs_can_come_without_length_whole_or_not_to_head() {
    let lab = Lab::start();
    lab.harbor.configure(|behaviour| behaviour.chunked_blobs = true);
    let reply = lab.ask(lab.layer());
    assert!(reply.is_chunked() && reply.header("docker-content-digest").is_none());
    assert_eq!(reply.body, lab.layer_content());

    lab.harbor.configure(|behaviour| *behaviour = Behaviour { ignore_range: true, ..Behaviour::default() });
    let reply = lab.ask(lab.layer().range("bytes=5-"));
    assert_eq!((reply.status, &reply.body[..]), (200, lab.layer_content()));

    lab.harbor.configure(|behaviour| *behaviour = Behaviour { head_blob_404: true, ..Behaviour::default() });
    assert_eq!(lab.ask(lab.layer().head()).status, 404);
    assert_eq!(lab.ask(lab.layer()).status, 200);
}

#[test]
fn what_was_removed_is_unknown() {
    let lab = Lab::start();
    lab.harbor.remove("priv/app", lab.image.layers[0].digest());
    lab.harbor.remove("priv/app", lab.image.manifest.digest());
    assert_eq!(lab.ask(lab.layer()).status, 404);
    assert_eq!(lab.ask_as_alice(manifest("priv/app", "v1")).status, 404);
}

#[test]
fn a_blob_may_have_a_digest_of_another_algorithm() {
    let lab = Lab::start();
    let digest = format!("sha512:{}", "ab".repeat(64));
    lab.harbor.publish_blob_as("priv/app", &digest, b"content");
    let ask = |repository| Ask::get(format!("/v2/{repository}/blobs/{digest}"));
    let reply = lab.ask_as_alice(ask("priv/app"));
    assert_eq!((reply.status, &reply.body[..]), (200, &b"content"[..]));
    assert_eq!(reply.header("docker-content-digest"), Some(&digest[..]));
    let reply = lab.ask_as_alice(ask("priv/other"));
    assert_eq!((reply.status, &reply.code()[..]), (404, "BLOB_UNKNOWN"));
}
