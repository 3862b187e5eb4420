//! Content that comes in another shape than it was stored: encoded on the way, or labelled so and not encoded.

use std::io::Write as _;

use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use flotilla_proto::Digest;
use http::{Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;

use super::fake::{Ending, FakeRegistry, Seen, chunked, plain, serve, text, with};
use super::{Bench, anonymous, blob, host};
use crate::source::{BodyStream, Purpose, body};

const MANIFEST: &str = r#"{"schemaVersion":2,"layers":[]}"#;

fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap().into()
}

fn encoded(bytes: &[u8]) -> Response<BodyStream> {
    let bytes = gzip(bytes);
    with(chunked(&bytes, usize::MAX, Ending::Clean), header::CONTENT_ENCODING, "gzip")
}

fn get(path: &str) -> Request<BodyStream> {
    let request = Request::get(path).header(header::ACCEPT_ENCODING, "gzip, zstd");
    request.body(body::empty()).unwrap()
}

#[tokio::test]
async fn a_manifest_that_a_front_end_encodes_comes_as_it_is_stored_by_tag_and_by_digest() {
    let digest = Digest::of(MANIFEST.as_bytes()).to_string();
    type Answer = fn() -> Response<BodyStream>;
    let named = |answer: Response<BodyStream>| {
        with(answer, "docker-content-digest".parse().unwrap(), &Digest::of(MANIFEST.as_bytes()).to_string())
    };
    let cases: [(&str, Answer, bool); 4] = [
        ("encoded and said so", || encoded(MANIFEST.as_bytes()), true),
        ("said so and not encoded", || with(text(200, MANIFEST), header::CONTENT_ENCODING, "gzip"), true),
        ("encoded and not said so", || plain(&gzip(MANIFEST.as_bytes())), false),
        ("as it is", || text(200, MANIFEST), true),
    ];
    for (name, answer, is_known_unnamed) in cases {
        for is_named in [true, false] {
            let registry =
                FakeRegistry::start(move |_| if is_named { named(answer()) } else { answer() }).await;
            let bench = Bench::new(&[registry.url()]);
            for reference in ["v1", &digest] {
                let path = format!("/v2/app/manifests/{reference}");
                let answer = bench.source.forward(&host(), get(&path), Purpose::Pass).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                let (head, content) = answer.into_parts();
                let content = content.collect().await.unwrap().to_bytes();
                if reference == "v1" && !is_named && !is_known_unnamed {
                    continue;
                }
                assert_eq!(content, MANIFEST, "{name}, {reference}, named: {is_named}");
                assert!(!head.headers.contains_key(header::CONTENT_ENCODING), "{name}");
                assert_eq!(head.headers[header::CONTENT_LENGTH], MANIFEST.len().to_string(), "{name}");
            }
            assert!(registry.seen().iter().all(|seen| seen.header(header::ACCEPT_ENCODING) == "identity"));
        }
    }
}

#[tokio::test]
async fn the_head_of_a_manifest_does_not_speak_of_an_encoding_that_its_body_will_not_have() {
    let registry = FakeRegistry::start(|_| encoded(MANIFEST.as_bytes())).await;
    let request = Request::head("/v2/app/manifests/v1").header(header::ACCEPT_ENCODING, "gzip");
    let request = request.body(body::empty()).unwrap();
    let answer = Bench::new(&[registry.url()]).source.forward(&host(), request, Purpose::Pass).await.unwrap();
    assert!(!answer.headers().contains_key(header::CONTENT_ENCODING));
    assert_eq!(registry.seen()[0].header(header::ACCEPT_ENCODING), "identity");
}

#[tokio::test]
async fn a_token_service_that_encodes_is_understood_by_whom_it_passes_and_by_the_seed_itself() {
    let content = blob(300_000);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen: &Seen| match &seen.path[..] {
            path if path.starts_with("/service/token") => {
                let answer = encoded(br#"{"token":"t","access_token":"","expires_in":1800}"#);
                with(answer, header::CONTENT_TYPE, "application/json")
            }
            _ if seen.authorization() == "Bearer t" => serve(&content, seen),
            _ => with(
                encoded(b"{}").map_status(401),
                header::WWW_AUTHENTICATE,
                r#"Bearer realm="https://registry.test/service/token",service="s""#,
            ),
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    let path = "/flotilla/token?scope=repository:app:pull";
    let answer = bench.source.forward(&host(), get(path), Purpose::Token).await.unwrap();
    assert!(!answer.headers().contains_key(header::CONTENT_ENCODING));
    let answer = answer.into_body().collect().await.unwrap().to_bytes();
    assert!(answer.starts_with(b"{\"token\":\"t\""), "{answer:?}");
    // What a door keeps it asks for as it is; everything else is the client's to decode.
    let upstream = host();
    let pass = |accepted: &str| {
        let request = Request::get("/service/token?x=1").header(header::ACCEPT_ENCODING, accepted);
        bench.source.forward(&upstream, request.body(body::empty()).unwrap(), Purpose::Pass)
    };
    let read = pass("identity").await.unwrap();
    assert!(!read.headers().contains_key(header::CONTENT_ENCODING));
    assert!(read.into_body().collect().await.unwrap().to_bytes().starts_with(b"{"));
    assert_eq!(pass("gzip").await.unwrap().headers()[header::CONTENT_ENCODING], "gzip");
}

#[tokio::test]
async fn a_blob_is_read_though_it_comes_encoded_and_though_it_is_only_labelled_so() {
    let content = blob(300_000);
    type Answer = fn(&Bytes, &Seen) -> Response<BodyStream>;
    let cases: [(&str, Answer); 3] = [
        ("encoded", |content, _| encoded(content)),
        ("labelled", |content, seen| with(serve(content, seen), header::CONTENT_ENCODING, "gzip")),
        ("labelled with what nobody knows", |content, seen| {
            with(serve(content, seen), header::CONTENT_ENCODING, "aws-chunked")
        }),
    ];
    for (name, answer) in cases {
        let registry = FakeRegistry::start({
            let content = content.clone();
            move |seen: &Seen| answer(&content, seen)
        })
        .await;
        let bench = Bench::new(&[registry.url()]);
        let outcome = bench.read(&content, &anonymous()).await;
        assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
        outcome.assert_whole(&content);
        // Parts of what is encoded are parts of something else: the whole is asked for again.
        bench.read_pieces(&content, &anonymous(), |piece| piece == 1).await.assert_right(&content);
    }
}

#[tokio::test]
async fn a_refusal_that_comes_encoded_is_told_in_clear() {
    let registry = FakeRegistry::start(|_| encoded(b"{\"errors\":[]}").map_status(403)).await;
    let outcome = Bench::new(&[registry.url()]).read(&blob(9), &anonymous()).await;
    let Err(crate::source::ReadError::Refused { answer, .. }) = outcome.result else {
        panic!("{:?}", outcome.result);
    };
    assert_eq!(answer.body, "{\"errors\":[]}");
    assert!(!answer.headers.contains_key(header::CONTENT_ENCODING));
}

trait MapStatus {
    fn map_status(self, status: u16) -> Self;
}

impl MapStatus for Response<BodyStream> {
    fn map_status(mut self, status: u16) -> Self {
        *self.status_mut() = StatusCode::from_u16(status).unwrap();
        self
    }
}
