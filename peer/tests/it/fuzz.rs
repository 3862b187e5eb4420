//! Bytes that nobody honest sends, at a door and at the piece port. Nothing ends, everything is answered in time, and
//! honest ones are served beside it.
//!
//! `PROPTEST_CASES=20000 cargo test --workspace --test it fuzz` goes on for longer than CI does.

use std::net::SocketAddr;
use std::time::Duration;

use flotilla_proto::wire::peer::{Forward, PieceRun, Request, Take, request};
use flotilla_proto::{ALPN_PIECES, Digest, PROTOCOL, frame};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, Endpoint};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::cluster::{REGION, within};
use crate::region::{Region, blob_path, noise};
use crate::registry::HOST;

/// A change to bytes that make sense.
#[derive(Debug, Clone)]
enum Change {
    Flip(usize, u8),
    Cut(usize),
    Drop(usize, usize),
    Repeat(usize, usize),
    Insert(usize, Vec<u8>),
}

fn change() -> impl Strategy<Value = Change> {
    let odd = prop_oneof![
        Just(b"\r\n".to_vec()),
        Just(b"\0".to_vec()),
        Just(b"Content-Length: 5\r\n".to_vec()),
        Just(b"Transfer-Encoding: chunked\r\n".to_vec()),
        Just(b"Range: bytes=-1,5-,0-0\r\n".to_vec()),
        Just(b"Authorization: Basic !\r\n".to_vec()),
        Just(b"%2e%2e/%00".to_vec()),
        Just(vec![b'a'; 70_000]),
        proptest::collection::vec(any::<u8>(), 1..16),
    ];
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, bits)| Change::Flip(at, bits)),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), 1_usize..40).prop_map(|(at, len)| Change::Drop(at, len)),
        (any::<usize>(), 1_usize..40).prop_map(|(at, len)| Change::Repeat(at, len)),
        (any::<usize>(), odd).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let at = |at: &usize| at % (bytes.len() + 1);
        match change {
            Change::Flip(place, bits) => {
                let place = at(place);
                if let Some(byte) = bytes.get_mut(place) {
                    *byte ^= bits;
                }
            }
            Change::Cut(place) => bytes.truncate(at(place)),
            Change::Drop(place, len) => {
                let (from, to) = (at(place), (at(place) + len).min(bytes.len()));
                bytes.drain(from..to);
            }
            Change::Repeat(place, len) => {
                let (from, to) = (at(place), (at(place) + len).min(bytes.len()));
                let again = bytes[from..to].to_vec();
                bytes.splice(to..to, again);
            }
            Change::Insert(place, more) => {
                let place = at(place);
                bytes.splice(place..place, more.iter().copied());
            }
        }
    }
    bytes
}

/// Runs as many cases as `PROPTEST_CASES` says, else these.
fn fuzz<S: Strategy>(cases: u32, strategy: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let mut config = Config { failure_persistence: None, ..Config::default() };
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = cases;
    }
    TestRunner::new(config).run(strategy, test).unwrap();
}

#[test]
fn whatever_is_sent_to_a_door_is_answered_or_refused_in_time() {
    let runtime = Runtime::new().unwrap();
    let (region, blob) = runtime.block_on(async {
        let region = Region::start().await;
        let blob = noise(1, 200_000);
        region.registry.push("app", "v1", &[&blob]);
        assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
        (region, blob)
    });
    let digest = Digest::of(&blob);
    let heads = [
        format!("GET /v2/app/manifests/v1?ns={HOST} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*\r\n\r\n"),
        format!(
            "GET /v2/app/blobs/{digest}?ns={HOST} HTTP/1.1\r\nHost: 127.0.0.1\r\nRange: bytes=5-9\r\n\r\n"
        ),
        format!(
            "HEAD /v2/{HOST}/app/blobs/{digest} HTTP/1.1\r\nHost: 127.0.0.1\r\nIf-None-Match: \"x\"\r\n\r\n"
        ),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n"),
        format!("GET http://{HOST}/v2/ HTTP/1.1\r\nHost: {HOST}\r\nProxy-Authorization: Basic eDp5\r\n\r\n"),
        "GET /flotilla/token/?service=a&scope=repository:app:pull HTTP/1.0\r\n\r\n".to_owned(),
        format!(
            "POST /v2/app/blobs/uploads/?ns={HOST} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 3\r\n\r\nabc"
        ),
    ];
    let door = region.one.client.door;
    let strategy = (0..heads.len(), proptest::collection::vec(change(), 1..6));
    fuzz(256, &strategy, |(head, changes)| {
        let sent = changed(heads[head].clone().into_bytes(), &changes);
        let answer = runtime.block_on(exchange(door, &sent)).map_err(TestCaseError::fail)?;
        let text = String::from_utf8_lossy(&answer);
        let status = text.strip_prefix("HTTP/1.").and_then(|rest| rest.get(2..5));
        prop_assert!(answer.is_empty() || status.is_some(), "no answer of HTTP: {:?}", text.get(..80));
        prop_assert!(status != Some("500"), "{:?}", text.get(..200));
        // What the doors themselves refuse, they refuse as registries do (OCI distribution, "Error Codes").
        if text.contains("application/json") && status.is_some_and(|status| status.starts_with('4')) {
            prop_assert!(text.starts_with("HTTP/1.0") || text.contains("errors") || head == 2, "{text}");
        }
        Ok(())
    });
    runtime.block_on(async {
        let answer = region.one.client.get(&format!("{}?ns={HOST}", blob_path("app", &blob))).await;
        assert!(answer.body == blob, "an honest client is served");
    });
}

/// All that a door says until it has nothing more to say to who says nothing more.
async fn exchange(door: SocketAddr, sent: &[u8]) -> Result<Vec<u8>, String> {
    let mut stream = TcpStream::connect(door).await.map_err(|error| error.to_string())?;
    // It may have refused half of it.
    let _ = stream.write_all(sent).await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(15), stream.read_to_end(&mut answer)).await;
    // A connection that is reset has been answered as far as it was.
    read.map(|_| answer).map_err(|_| "not answered in 15 s".to_owned())
}

#[test]
fn whatever_an_enrolled_peer_sends_to_the_piece_port_harms_nobody() {
    let runtime = Runtime::new().unwrap();
    let (region, connections, blob) = runtime.block_on(async {
        let region = Region::start().await;
        let blob = noise(1, 2_000_000);
        region.registry.push("app", "v1", &[&blob]);
        assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
        let answer = region.one.client.get(&format!("{}?ns={HOST}", blob_path("app", &blob))).await;
        assert!(answer.body == blob);
        let connections =
            [dial(&region, "fuzz-1", &region.seed).await, dial(&region, "fuzz-2", &region.one).await];
        (region, connections, blob)
    });
    let digest = Digest::of(&blob);
    let asked = |kind| frame::encode(&Request { protocol: PROTOCOL, kind: Some(kind) }).to_vec();
    let frames = [
        asked(request::Kind::Pieces(PieceRun { digest: digest.into(), first: 3, count: 1, picked: true })),
        asked(request::Kind::Take(Take { digest: digest.into(), lacking: Vec::new() })),
        asked(request::Kind::Forward(Forward {
            upstream: HOST.into(),
            method: "GET".into(),
            target: "/v2/app/manifests/v1".into(),
            bare: true,
            ..Default::default()
        })),
    ];
    let strategy = (0..2_usize, 0..frames.len(), proptest::collection::vec(change(), 1..6));
    fuzz(256, &strategy, |(node, kind, changes)| {
        let sent = changed(frames[kind].clone(), &changes);
        runtime.block_on(ask(&connections[node], &sent)).map_err(TestCaseError::fail)
    });
    runtime.block_on(async {
        assert_eq!(region.two.client.mirror("/v2/app/manifests/v1").await.status, 200);
        let answer = region.two.client.get(&format!("{}?ns={HOST}", blob_path("app", &blob))).await;
        assert!(answer.body == blob, "an honest peer is served");
    });
}

/// A connection to a node, of a peer that the manager enrolled.
async fn dial(region: &Region, name: &str, node: &crate::region::Node) -> Connection {
    let identity = region.cluster.enrol(name, REGION, "peer").await;
    let tls = QuicClientConfig::try_from(identity.client_config(&[ALPN_PIECES])).unwrap();
    let mut endpoint = Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(std::sync::Arc::new(tls)));
    within(endpoint.connect(node.pieces, &format!("{}.flotilla", node.name)).unwrap()).await.unwrap()
}

/// Sends it on a stream of its own, and hears all that is said to it.
async fn ask(connection: &Connection, sent: &[u8]) -> Result<(), String> {
    let (mut send, mut receive) =
        connection.open_bi().await.map_err(|error| format!("no stream: {error}"))?;
    // The other side may have refused it already.
    let _ = send.write_all(sent).await;
    let _ = send.finish();
    let heard = tokio::time::timeout(Duration::from_secs(15), receive.read_to_end(8 << 20)).await;
    // Cut or ended, it is over.
    heard.map(drop).map_err(|_| "not answered in 15 s".to_owned())
}
