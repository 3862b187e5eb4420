//! A blob that several places may give: the trouble of one is not the reading's.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use flotilla_proto::Authorization;
use http::header;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::fake::{Ending, FakeRegistry, Reply, ending_after, serve, status, text, with};
use super::{Bench, HOST, blob, credential, host, quick_config};
use crate::source::{Credentials, ReadCredential, SourceConfig, Verdict};

/// 128 KiB, the length of these blobs' pieces.
const PIECE: usize = 128 << 10;

fn in_repository(repository: &str) -> ReadCredential {
    ReadCredential { repository: repository.parse().unwrap(), ..credential("") }
}

/// Repositories in this order, each for an anonymous client.
fn offered(repositories: &[&str]) -> Credentials {
    let list = Credentials::new();
    for repository in repositories {
        list.offer(in_repository(repository));
    }
    list
}

#[tokio::test]
async fn a_repository_in_trouble_leaves_the_blob_to_another_and_only_its_own_client_is_told() {
    type Answer = fn() -> Reply;
    // A failure that may pass is told when it did not; by then the other has given the blob.
    let cases: [(Answer, &str); 6] = [
        (|| status(500).into(), "nothing"),
        (|| with(status(503), header::RETRY_AFTER, "3600").into(), "failed"),
        (|| status(429).into(), "nothing"),
        (|| with(status(307), header::LOCATION, "/v2/bad/blobs/x").into(), "failed"),
        (|| Reply::HangUp, "nothing"),
        (|| text(403, "no").into(), "refused"),
    ];
    for (index, (answer, expected)) in cases.into_iter().enumerate() {
        let content = blob(3 * PIECE);
        let registry = FakeRegistry::start({
            let content = content.clone();
            move |seen| {
                if seen.path.starts_with("/v2/bad/") { answer() } else { serve(&content, seen).into() }
            }
        })
        .await;
        let credentials = offered(&["bad", "good"]);
        let began = Instant::now();
        Bench::new(&[registry.url()]).read(&content, &credentials).await.assert_whole(&content);
        assert!(began.elapsed() < Duration::from_secs(2), "{index}: {:?}", began.elapsed());
        assert!(matches!(credentials.said(&in_repository("good")), Some(Verdict::Accepted)), "{index}");
        let told = match credentials.said(&in_repository("bad")) {
            None => "nothing",
            Some(Verdict::Accepted) => "accepted",
            Some(Verdict::Failed(_)) => "failed",
            Some(Verdict::Refused(_)) => "refused",
        };
        assert_eq!(told, expected, "{index}");
    }
}

#[tokio::test]
async fn a_place_that_hangs_is_left_when_another_is_offered_meanwhile() {
    let content = blob(3 * PIECE);
    let asked = Arc::new(Notify::new());
    let registry = FakeRegistry::start({
        let (content, asked) = (content.clone(), Arc::clone(&asked));
        move |seen| {
            if seen.path.starts_with("/v2/bad/") {
                asked.notify_one();
                return Reply::Hang;
            }
            serve(&content, seen).into()
        }
    })
    .await;
    let config = SourceConfig { header_timeout: Duration::from_secs(8), ..quick_config() };
    let bench = Bench::with_config(&[registry.url()], config);
    let credentials = offered(&["bad"]);
    let began = Instant::now();
    let offer = async {
        asked.notified().await;
        credentials.offer(in_repository("good"));
    };
    let (outcome, ()) = tokio::join!(bench.read(&content, &credentials), offer);
    outcome.assert_whole(&content);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

#[tokio::test]
async fn other_bytes_of_one_place_are_told_to_its_client_alone_and_the_next_reading_begins_elsewhere() {
    let content = blob(3 * PIECE);
    let wrong: Bytes = content.iter().map(|byte| !byte).collect();
    let good = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bad = FakeRegistry::start(move |seen| serve(&wrong, seen)).await;
    let bench = Bench::new(&[good.url()]);
    bench.set_upstreams(&[(HOST, good.url()), ("other.test", bad.url())]);
    let credentials = Credentials::new();
    let lied_to = ReadCredential {
        upstream: "other.test".parse().unwrap(),
        repository: "app".parse().unwrap(),
        authorization: Authorization::ANONYMOUS,
    };
    credentials.offer(lied_to.clone());
    let well_served = ReadCredential { upstream: host(), ..lied_to.clone() };
    credentials.offer(well_served.clone());
    bench.read(&content, &credentials).await.result.unwrap_err();
    assert!(matches!(credentials.said(&lied_to), Some(Verdict::Failed(_))));
    assert!(credentials.said(&well_served).is_none());
    bench.read(&content, &credentials).await.assert_whole(&content);
    assert_eq!(bad.blob_ranges().len(), 1, "it is not asked again");
}

#[tokio::test]
async fn a_registry_that_restarts_in_the_middle_of_a_blob_costs_a_wait() {
    let content = blob(8 * PIECE);
    let script = {
        let content = content.clone();
        move |seen: &super::fake::Seen| ending_after(3 * PIECE, Ending::Cut, serve(&content, seen), &content)
    };
    let before = FakeRegistry::start(script).await;
    let address = before.address;
    let bench = Bench::new(&[before.url()]);
    let restart = async {
        // Five seconds without anybody behind the port.
        let begun = Instant::now();
        while before.blob_ranges().is_empty() {
            tokio::task::yield_now().await;
        }
        drop(before);
        // The outage itself, not a wait for anything.
        tokio::time::sleep(Duration::from_secs(5)).await;
        let listener = TcpListener::bind(address).await.unwrap();
        let content = content.clone();
        let after = FakeRegistry::on(listener, move |seen| serve(&content, seen));
        (begun.elapsed(), after)
    };
    let anonymous = super::anonymous();
    let (outcome, (away, after)) = tokio::join!(bench.read(&content, &anonymous), restart);
    let summary = outcome.assert_whole(&content);
    assert!(away >= Duration::from_secs(5));
    assert!(summary.source_bytes < 9 * PIECE as u64, "only what was missing is read again");
    assert!(!after.blob_ranges().is_empty());
}

#[tokio::test]
async fn a_registry_that_asks_for_patience_in_the_middle_of_a_blob_is_given_it() {
    let content = blob(8 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.index {
            0 => ending_after(3 * PIECE, Ending::Cut, serve(&content, seen), &content),
            1 => with(status(503), header::RETRY_AFTER, "2"),
            _ => serve(&content, seen),
        }
    })
    .await;
    let began = Instant::now();
    Bench::new(&[registry.url()]).read(&content, &super::anonymous()).await.assert_whole(&content);
    assert!(began.elapsed() >= Duration::from_secs(2));
    assert_eq!(registry.seen().len(), 3);
}
