//! What clients take of a node that ask for much, read nothing, or say nothing: not what others need.

use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::cluster::within;
use crate::region::{Node, Region, blob_path, noise};
use crate::registry::{HOST, MANIFEST};

/// As many as there is room for, and some.
const IDLE: usize = 4096 + 64;

#[tokio::test]
async fn thousands_of_idle_connections_keep_nobody_out() {
    open_many_files();
    let region = Region::start().await;
    let blob = noise(1, 300_000);
    region.registry.push("app", "v1", &[&blob]);
    let mut idle = Vec::with_capacity(IDLE);
    for _ in 0..IDLE {
        idle.push(within(TcpStream::connect(region.one.client.door)).await.unwrap());
    }
    // Of one user's idle connections those go that came first.
    let mut first = idle.swap_remove(0);
    assert_eq!(within(first.read(&mut [0; 1])).await.unwrap(), 0);
    assert_eq!(region.one.client.mirror("/v2/app/manifests/v1").await.status, 200);
    assert_eq!(region.one.client.mirror(&blob_path("app", &blob)).await.body, blob);
    assert!(region.one.bounds("made_room").await >= 64);
    assert_eq!(region.one.bounds("connections").await, 0);
}

#[tokio::test]
async fn manifests_that_nobody_reads_take_a_bounded_part_of_memory_and_leave_the_rest_to_others() {
    let region = Region::start().await;
    let (node, registry) = (&region.one, &region.registry);
    let blob = noise(2, 300_000);
    registry.push("app", "v1", &[&blob]);
    for number in 0..MANIFESTS {
        registry.put(&format!("/v2/app/manifests/big-{number}"), MANIFEST, big_manifest(number));
    }
    let mut stalled = Vec::new();
    for number in 0..MANIFESTS {
        stalled.push(ask_and_read_nothing(node, &format!("/v2/app/manifests/big-{number}?ns={HOST}")).await);
    }
    // They are there for as long as nobody waits for what they hold.
    let mut turn = tokio::time::interval(Duration::from_millis(20));
    within(async {
        while node.answer_bytes().await < 3 * BIG {
            turn.tick().await;
        }
    })
    .await;
    assert_eq!(node.client.mirror("/v2/app/manifests/v1").await.status, 200);
    assert_eq!(node.client.mirror(&blob_path("app", &blob)).await.body, blob);

    // The same owner's share is used up until those are cut that stand still.
    let refused_or_served = within(async {
        loop {
            assert!(node.answer_bytes().await <= BUDGET / 2, "one owner has half of it");
            let answer = node.client.mirror("/v2/app/manifests/big-0").await;
            if answer.status == 200 {
                return answer;
            }
            assert_eq!((answer.status.as_u16(), answer.error().0.as_str()), (503, "UNAVAILABLE"));
            assert_eq!(answer.header("retry-after"), "5");
            assert!(node.bounds("answer_bytes").await > 0);
        }
    });
    assert_eq!(refused_or_served.await.body, big_manifest(0));
    assert!(node.bounds("pressed").await > 0);
}

#[tokio::test]
async fn equal_manifests_under_way_count_once() {
    let region = Region::start().await;
    let node = &region.one;
    region.registry.put("/v2/app/manifests/big", MANIFEST, big_manifest(0));
    let path = format!("/v2/app/manifests/big?ns={HOST}");
    let mut stalled = vec![ask_and_read_nothing(node, &path).await];
    let mut turn = tokio::time::interval(Duration::from_millis(20));
    within(async {
        while node.answer_bytes().await < BIG {
            turn.tick().await;
        }
    })
    .await;
    for _ in 0..6 {
        let mut next = ask_and_read_nothing(node, &path).await;
        // Its answer has begun.
        assert_eq!(within(next.read_u8()).await.unwrap(), b'H');
        stalled.push(next);
    }
    assert_eq!(node.answer_bytes().await, BIG);
}

/// A client with as little room of its own as the kernel allows.
async fn ask_and_read_nothing(node: &Node, path: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(node.client.door).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept: {MANIFEST}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// As long as a manifest may be, another for each number.
fn big_manifest(number: usize) -> Bytes {
    let mut manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{MANIFEST}","number":{number},"padding":""#);
    let len = usize::try_from(BIG).unwrap() - 2;
    manifest.extend(std::iter::repeat_n('x', len - manifest.len()));
    manifest.push_str("\"}");
    manifest.into()
}

/// A node with thousands of clients has as many files open; here they are their clients', too.
fn open_many_files() {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }).unwrap();
    assert!(
        limit.maximum.is_none_or(|most| most > 3 * IDLE as u64),
        "raise the hard limit of open files: {limit:?}"
    );
}

const MANIFESTS: usize = 10;
const BIG: u64 = 8 << 20;
const BUDGET: u64 = 48 << 20;
