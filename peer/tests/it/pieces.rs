//! The piece port: who is let in, and who gets a piece.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_daemon::identity::NodeIdentity;
use flotilla_peer::Mtu;
use flotilla_proto::wire::join_hashes;
use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{Follow, Forward, Held, PieceRun, Request, Response, Run, Take, request};
use flotilla_proto::{ALPN_PIECES, Digest, PROTOCOL, PieceHash, frame};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, RecvStream};
use rustls::{ClientConfig, RootCertStore};

use crate::cluster::{Cluster, REGION, within};
use crate::region::{Node, Region, blob_path, noise};
use crate::registry::HOST;

#[tokio::test]
async fn pieces_go_to_the_region_s_own_and_to_nobody_else() {
    let (region, other) = tokio::join!(Region::start(), Cluster::start());
    region.cluster.add_region("us").await;
    let blob = noise(1, 1000);
    region.registry.push("app", "v1", &[&blob]);
    region.one.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(region.one.client.mirror(&blob_path("app", &blob)).await.status, 200);

    let friend = region.cluster.enrol("node-3", REGION, "peer").await;
    let (status, bytes) = piece(&region.one, tls_of(&friend), &blob).await.unwrap();
    assert_eq!((status, bytes), (Status::Ok, blob.clone()));

    let strangers = [
        ("no certificate", anonymous(&friend)),
        ("another CA's", showing(&friend, &other.enrol("node-3", REGION, "peer").await)),
        ("another region's", tls_of(&region.cluster.enrol("us-1", "us", "peer").await)),
        ("an admin's", tls_of(&region.cluster.issue("flotilla://flotilla/-/admin/admin"))),
        ("the manager's", tls_of(&region.cluster.issue("flotilla://flotilla/-/manager/manager"))),
        ("a scheduler's", tls_of(&region.cluster.issue("flotilla://flotilla/eu/scheduler/planner-2"))),
    ];
    for (shown, tls) in strangers {
        let got = piece(&region.one, tls, &blob).await;
        assert!(got.is_err(), "{shown}: {got:?}");
    }
}

#[tokio::test]
async fn a_removed_peer_loses_its_connections_and_gets_no_piece_from_peers_or_seeds() {
    let region = Region::start().await;
    let blob = noise(1, 1000);
    region.registry.push("app", "v1", &[&blob]);
    region.one.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(region.one.client.mirror(&blob_path("app", &blob)).await.status, 200);
    let removed = region.cluster.enrol("node-3", REGION, "peer").await;
    let mut connections = Vec::new();
    for node in [&region.one, &region.seed] {
        let connection = connect(node, tls_of(&removed)).await.unwrap();
        let run = PieceRun { digest: Digest::of(&blob).into(), first: 0, count: 1, picked: false };
        let mut answer = ask(&connection, request::Kind::Pieces(run)).await.unwrap();
        assert!(within(answer.read_to_end(1 << 20)).await.unwrap().ends_with(&blob));
        connections.push(connection);
    }

    region.cluster.remove("node-3").await;
    for connection in connections {
        let closed = tokio::time::timeout(Duration::from_secs(5), connection.closed());
        let closed = closed.await.expect("within 5 s").to_string();
        assert!(closed.contains("this key was revoked"), "{closed}");
    }
    for node in [&region.one, &region.seed] {
        // In TLS 1.3 a client may learn only later that it was refused.
        let refused = match connect(node, tls_of(&removed)).await {
            Ok(connection) => within(connection.closed()).await.to_string(),
            Err(refused) => refused,
        };
        // RFC 8446 §6.2: 44 is certificate_revoked.
        assert!(refused.contains("error 44"), "{refused}");
    }
    std::fs::remove_dir_all(region.cluster.daemon_dir("node-3")).unwrap();
    let again = region.cluster.enrol("node-3", REGION, "peer").await;
    assert_eq!(piece(&region.one, tls_of(&again), &blob).await.unwrap(), (Status::Ok, blob));
}

/// Honest peers have one or two.
#[tokio::test]
async fn one_identity_has_sixteen_connections_at_most_and_keeps_nobody_else_out() {
    let region = Region::start().await;
    let greedy = region.cluster.enrol("node-3", REGION, "peer").await;
    let mut connections = Vec::new();
    for _ in 0..16 {
        let connection = connect(&region.one, tls_of(&greedy)).await.unwrap();
        assert_eq!(status(&connection).await.unwrap(), Status::NotHeld);
        connections.push(connection);
    }
    let refused = connect(&region.one, tls_of(&greedy)).await.unwrap();
    let closed = within(refused.closed()).await.to_string();
    assert!(closed.contains("this identity has too many connections here"), "{closed}");
    let other = region.cluster.enrol("node-4", REGION, "peer").await;
    let other = connect(&region.one, tls_of(&other)).await.unwrap();
    assert_eq!(status(&other).await.unwrap(), Status::NotHeld);

    // The first ones go on, and one that ends makes room.
    assert_eq!(status(&connections[0]).await.unwrap(), Status::NotHeld);
    connections.pop().unwrap().close(0u32.into(), b"done");
    within(async {
        while status(&connect(&region.one, tls_of(&greedy)).await.unwrap()).await.is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// What a node says to a request for a blob that nobody has.
async fn status(connection: &Connection) -> Result<Status, String> {
    let run = PieceRun { digest: Digest::of(b"x").into(), first: 0, count: 1, picked: false };
    let mut receive = ask(connection, request::Kind::Pieces(run)).await?;
    let answer = within(receive.read_to_end(1 << 20)).await.map_err(|error| error.to_string())?;
    let header: Response = frame::decode(&mut BytesMut::from(&answer[..])).unwrap().ok_or("no answer")?;
    Ok(header.status())
}

/// Loopback carries packets of 64 KiB. Fails where the endpoint's own limit stays at 1472; passes
/// without the limit on segments, whose harm is one of throughput (`docs/design.md` §5).
#[tokio::test]
async fn where_jumbo_frames_are_configured_pieces_travel_in_them() {
    let jumbo = Mtu::try_from(9000).unwrap();
    let region = Region::start_with(|config| config.transport.mtu = jumbo).await;
    let blob = noise(1, 6_000_000);
    region.registry.push("app", "v1", &[&blob]);
    region.one.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(region.one.client.mirror(&blob_path("app", &blob)).await.body, blob);
    within(async {
        while region.one.path_mtu().await <= 1500 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_is_no_seed_speaks_to_no_registry_for_others() {
    let region = Region::start().await;
    let friend = region.cluster.enrol("node-3", REGION, "peer").await;
    let forward =
        Forward { upstream: HOST.into(), method: "GET".into(), target: "/v2/".into(), ..Default::default() };
    let ask = || request::Kind::Forward(forward.clone());
    let (status, _) = call(&region.one, tls_of(&friend), ask()).await.unwrap();
    assert_eq!(status, Status::Refused);
    let (status, _) = call(&region.seed, tls_of(&friend), ask()).await.unwrap();
    assert_eq!(status, Status::Ok);
}

#[tokio::test]
async fn nonsense_from_a_peer_is_refused_and_hurts_nobody() {
    let region = Region::start().await;
    let friend = region.cluster.enrol("node-3", REGION, "peer").await;
    let runs = [
        (Bytes::from_static(&[1; 31]), 0, 1, Status::Refused),
        (Digest::of(b"x").into(), 0, 1, Status::NotHeld),
        (Digest::of(b"x").into(), u32::MAX, u32::MAX, Status::NotHeld),
    ];
    for (digest, first, count, expected) in runs {
        let run = PieceRun { digest, first, count, picked: false };
        let (status, bytes) = call(&region.one, tls_of(&friend), request::Kind::Pieces(run)).await.unwrap();
        assert_eq!((status, bytes.len()), (expected, 0));
    }
}

#[tokio::test]
async fn a_peer_that_is_asked_for_any_piece_gives_one_that_is_lacking() {
    let region = Region::start().await;
    let friend = region.cluster.enrol("node-3", REGION, "peer").await;
    let blob = noise(1, 600_000);
    region.registry.push("app", "v1", &[&blob]);
    region.one.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(region.one.client.mirror(&blob_path("app", &blob)).await.status, 200);

    let take = |digest: Bytes, runs: &[(u32, u32)]| {
        let lacking = runs.iter().map(|(first, count)| Run { first: *first, count: *count }).collect();
        request::Kind::Take(Take { digest, lacking })
    };
    let digest: Bytes = Digest::of(&blob).into();
    let mut given = Vec::new();
    for _ in 0..3 {
        let wish = take(digest.clone(), &[(1, 2), (4, 1)]);
        let (header, bytes) = answer(&region.one, tls_of(&friend), wish).await.unwrap();
        let at = header.piece as usize * 131_072;
        assert_eq!((header.status(), &bytes), (Status::Ok, &blob.slice(at..blob.len().min(at + 131_072))));
        assert_eq!(header.hash, PieceHash::of(&bytes).as_bytes()[..]);
        given.push(header.piece);
    }
    assert_eq!(given, [1, 2, 4], "what was given least comes first");
    let nonsense = [
        (take(digest.slice(1..), &[(0, 1)]), Status::Refused),
        (take(digest.clone(), &[(4, 2)]), Status::Refused),
        (take(digest.clone(), &[]), Status::NotHeld),
        (take(Digest::of(b"x").into(), &[(0, 1)]), Status::NotHeld),
    ];
    for (wish, expected) in nonsense {
        assert_eq!(call(&region.one, tls_of(&friend), wish).await.unwrap(), (expected, Bytes::new()));
    }
}

#[tokio::test]
async fn a_follower_hears_what_is_held_with_hashes_and_nothing_of_other_blobs() {
    let region = Region::start().await;
    let friend = region.cluster.enrol("node-3", REGION, "peer").await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    region.one.client.mirror("/v2/app/manifests/v1").await;
    assert_eq!(region.one.client.mirror(&blob_path("app", &blob)).await.status, 200);

    let follow = |digest: Bytes| request::Kind::Follow(Follow { digest });
    let unknown = call(&region.one, tls_of(&friend), follow(Digest::of(b"x").into())).await.unwrap();
    assert_eq!(unknown, (Status::NotHeld, Bytes::new()));

    let connection = connect(&region.one, tls_of(&friend)).await.unwrap();
    let mut receive = ask(&connection, follow(Digest::of(&blob).into())).await.unwrap();
    let mut told = BytesMut::new();
    let header: Response = next(&mut receive, &mut told).await;
    let held: Held = next(&mut receive, &mut told).await;
    let hashes: Vec<PieceHash> = blob.chunks(131_072).map(PieceHash::of).collect();
    assert_eq!((header.status(), held.runs), (Status::Ok, vec![Run { first: 0, count: 3 }]));
    assert_eq!(held.hashes, join_hashes(&hashes));
}

/// The next message of a stream that goes on.
async fn next<M: prost::Message + Default>(receive: &mut RecvStream, told: &mut BytesMut) -> M {
    loop {
        if let Some(message) = frame::decode(told).unwrap() {
            return message;
        }
        let chunk = within(receive.read_chunk(4096, true)).await.unwrap().unwrap();
        told.extend_from_slice(&chunk.bytes);
    }
}

async fn piece(node: &Node, tls: Arc<ClientConfig>, blob: &Bytes) -> Result<(Status, Bytes), String> {
    let run = PieceRun { digest: Digest::of(blob).into(), first: 0, count: 1, picked: false };
    call(node, tls, request::Kind::Pieces(run)).await
}

/// One request to a node's piece port, and all that comes back.
async fn call(node: &Node, tls: Arc<ClientConfig>, kind: request::Kind) -> Result<(Status, Bytes), String> {
    let (header, bytes) = answer(node, tls, kind).await?;
    Ok((header.status(), bytes))
}

async fn answer(
    node: &Node,
    tls: Arc<ClientConfig>,
    kind: request::Kind,
) -> Result<(Response, Bytes), String> {
    let connection = connect(node, tls).await?;
    let mut receive = ask(&connection, kind).await?;
    let answer = within(receive.read_to_end(1 << 20)).await.map_err(|error| error.to_string())?;
    let mut answer = BytesMut::from(&answer[..]);
    let header = frame::decode(&mut answer).unwrap().ok_or("no answer")?;
    Ok((header, answer.freeze()))
}

async fn connect(node: &Node, tls: Arc<ClientConfig>) -> Result<Connection, String> {
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    let tls = QuicClientConfig::try_from(tls).unwrap();
    endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
    let name = format!("{}.flotilla", node.name);
    within(endpoint.connect(node.pieces, &name).unwrap()).await.map_err(|error| error.to_string())
}

async fn ask(connection: &Connection, kind: request::Kind) -> Result<RecvStream, String> {
    let (mut send, receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
    let request = Request { protocol: PROTOCOL, kind: Some(kind) };
    // Whoever is not let in learns of it when reading.
    let _ = send.write_all(&frame::encode(&request)).await;
    let _ = send.finish();
    Ok(receive)
}

fn tls_of(identity: &NodeIdentity) -> Arc<ClientConfig> {
    identity.client_config(&[ALPN_PIECES])
}

/// A client that trusts the cluster of `member` and shows nothing.
fn anonymous(member: &NodeIdentity) -> Arc<ClientConfig> {
    let mut config = trusting(member).with_no_client_auth();
    config.alpn_protocols = vec![ALPN_PIECES.to_vec()];
    Arc::new(config)
}

/// A client that trusts the cluster of `member` and shows the certificate of `shown`.
fn showing(member: &NodeIdentity, shown: &NodeIdentity) -> Arc<ClientConfig> {
    let its_own = tls_of(shown).client_auth_cert_resolver.clone();
    let mut config = trusting(member).with_client_cert_resolver(its_own);
    config.alpn_protocols = vec![ALPN_PIECES.to_vec()];
    Arc::new(config)
}

fn trusting(member: &NodeIdentity) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let mut roots = RootCertStore::empty();
    roots.add(member.ca().clone()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
}
