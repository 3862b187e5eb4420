//! One blob from two endpoints at once.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::settings::Endpoint;
use flotilla_proto::{Digest, Layout, PieceSet};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::fake::{Ending, FakeRegistry, Reply, Seen, ending_after, plain, serve, status};
use super::{Bench, anonymous, blob, credentials, endpoint, quick_config};
use crate::source::{ReadOrder, ReadPurpose, SourceConfig};

/// Two parts and a bit, where two endpoints share it.
const LEN: usize = 36 << 20;

/// Two registries that answer by the same script, which is told which of the two it answers for.
struct Two([FakeRegistry; 2]);

impl Two {
    async fn start<R: Into<Reply>>(script: impl Fn(usize, &Seen) -> R + Send + Sync + 'static) -> Self {
        let script = Arc::new(script);
        let other = Arc::clone(&script);
        let first = FakeRegistry::start(move |seen| script(0, seen)).await;
        Self([first, FakeRegistry::start(move |seen| other(1, seen)).await])
    }

    async fn honest(content: &Bytes) -> Self {
        let content = content.clone();
        Self::start(move |_, seen| serve(&content, seen)).await
    }

    fn bench(&self) -> Bench {
        let endpoints = self.0.iter().map(|registry| endpoint(&registry.url())).collect();
        // Short enough to be waited for; a busy machine's pause is no stall.
        let config = SourceConfig { stall_timeout: Duration::from_secs(3), ..SourceConfig::default() };
        Bench::with_endpoints(endpoints, config)
    }

    /// What each was asked for, and of both together in the order of the blob.
    fn ranges(&self) -> ([Vec<Range<u64>>; 2], Vec<Range<u64>>) {
        let each = self.0.each_ref().map(|it| it.seen().iter().filter_map(range).collect::<Vec<_>>());
        let mut all = each.concat();
        all.sort_by_key(|range| range.start);
        (each, all)
    }
}

fn range(seen: &Seen) -> Option<Range<u64>> {
    let (first, last) = seen.range().strip_prefix("bytes=")?.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()? + 1)
}

fn is_ahead(seen: &Seen) -> bool {
    range(seen).is_some_and(|range| range.start > 0)
}

#[tokio::test]
async fn a_large_blob_comes_from_both_and_each_byte_once() {
    let content = blob(LEN);
    let two = Two::honest(&content).await;
    let summary = two.bench().read(&content, &anonymous()).await;
    assert_eq!(summary.assert_whole(&content).source_bytes, LEN as u64);
    let (each, all) = two.ranges();
    assert!(each.iter().all(|ranges| !ranges.is_empty()), "{each:?}");
    assert!(all.windows(2).all(|pair| pair[0].end == pair[1].start), "{all:?}");
    assert_eq!((all[0].start, all.last().unwrap().end), (0, LEN as u64));
}

#[tokio::test]
async fn a_small_blob_and_one_with_a_standby_come_from_one_in_one_request() {
    let content = blob(7 << 20);
    let two = Two::honest(&content).await;
    two.bench().read(&content, &anonymous()).await.assert_whole(&content);
    let content = blob(LEN);
    let registry = Two::honest(&content).await;
    let standby = Endpoint { standby: true, ..endpoint(&registry.0[1].url()) };
    let bench = Bench::with_endpoints(vec![endpoint(&registry.0[0].url()), standby], quick_config());
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    for two in [two, registry] {
        assert_eq!(two.0.iter().flat_map(FakeRegistry::blob_ranges).collect::<Vec<_>>(), [""]);
    }
}

#[tokio::test]
async fn whatever_goes_wrong_ahead_the_blob_comes_whole() {
    let content = blob(LEN);
    type Fault = fn(&Bytes, &Seen) -> Reply;
    let faults: [(&str, Fault); 8] = [
        ("401", |_, _| status(401).into()),
        ("404", |_, _| status(404).into()),
        ("429", |_, _| status(429).into()),
        ("500", |_, _| status(500).into()),
        ("no ranges", |content, _| plain(content).into()),
        ("hung up", |_, _| Reply::HangUp),
        ("cut", |content, seen| with_end(content, seen, Ending::Cut).into()),
        ("stalled", |content, seen| with_end(content, seen, Ending::Stall).into()),
    ];
    for (name, fault) in faults {
        let struck = Arc::new(AtomicBool::new(false));
        let two = Two::start({
            let (content, struck) = (content.clone(), struck.clone());
            move |_, seen| match is_ahead(seen) && !struck.swap(true, Ordering::Relaxed) {
                true => fault(&content, seen),
                false => serve(&content, seen).into(),
            }
        })
        .await;
        let outcome = two.bench().read(&content, &anonymous()).await;
        assert!(struck.load(Ordering::Relaxed), "{name}: nothing was read ahead");
        assert!(outcome.result.is_ok(), "{name}: {:?}", outcome.result);
        outcome.assert_whole(&content);
    }
}

#[tokio::test]
async fn an_endpoint_that_does_not_know_a_credential_is_asked_for_it_once() {
    let (content, home) = (blob(LEN), OnceLock::new());
    let two = Two::start({
        let content = content.clone();
        move |index, seen| match *home.get_or_init(|| index) == index {
            true => serve(&content, seen),
            false => status(401),
        }
    })
    .await;
    let (bench, credential) = (two.bench(), credentials(&["Bearer t"]));
    for _ in 0..2 {
        bench.read(&content, &credential).await.assert_whole(&content);
    }
    assert_eq!(two.0.iter().map(|registry| registry.seen().len()).min(), Some(1), "{:?}", two.ranges());
}

/// The range, of which 3 MB come.
fn with_end(content: &Bytes, seen: &Seen, ending: Ending) -> http::Response<super::super::body::BodyStream> {
    let range = range(seen).unwrap();
    let body = content.slice(range.start as usize..range.end as usize);
    ending_after(3_000_000, ending, serve(content, seen), &body)
}

#[tokio::test]
async fn what_came_ahead_is_not_asked_for_again_when_the_part_before_it_stalls() {
    let content = blob(LEN);
    let struck = AtomicBool::new(false);
    let two = Two::start({
        let content = content.clone();
        move |_, seen| match !is_ahead(seen) && !struck.swap(true, Ordering::Relaxed) {
            true => with_end(&content, seen, Ending::Stall),
            false => serve(&content, seen),
        }
    })
    .await;
    two.bench().read(&content, &anonymous()).await.assert_whole(&content);
    let (_, all) = two.ranges();
    assert_eq!(all[1], 3_000_000..all[0].end, "{all:?}");
    assert!(all[1..].windows(2).all(|pair| pair[0].end == pair[1].start), "{all:?}");
}

#[tokio::test]
async fn nothing_is_read_ahead_of_the_pace() {
    let content = blob(LEN);
    let two = Two::honest(&content).await;
    let (bench, layout) = (two.bench(), Layout::of(LEN as u64).unwrap());
    let mut wanted = PieceSet::new(layout.piece_count());
    (0..layout.piece_count()).for_each(|piece| {
        wanted.insert(piece);
    });
    let pace = layout.piece_at(20 << 20);
    let (until, credentials) = (watch::Sender::new(pace), anonymous());
    let order = ReadOrder {
        digest: Digest::of(&content),
        layout,
        wanted,
        until: until.subscribe(),
        credentials,
        purpose: ReadPurpose::Spread,
    };
    let (sink, mut pieces) = mpsc::channel(4);
    let reading = bench.source.read_blob(order, sink, CancellationToken::new());
    let follow = async {
        while let Some(piece) = pieces.recv().await {
            if piece.piece + 1 == pace {
                let (_, all) = two.ranges();
                assert_eq!(all.last().unwrap().end, layout.piece_range(pace).start, "{all:?}");
                until.send_replace(u32::MAX);
            }
        }
    };
    let (summary, ()) = tokio::join!(reading, follow);
    assert!(summary.unwrap().is_verified);
}

#[tokio::test]
async fn of_two_that_gave_wrong_bytes_together_the_right_one_is_found() {
    let content = blob(LEN);
    let mut wrong = content.to_vec();
    // Somewhere in each part.
    wrong.chunks_mut(1 << 20).for_each(|chunk| chunk[0] ^= 1);
    let wrong = Bytes::from(wrong);
    let two = Two::start({
        let content = content.clone();
        move |index, seen| serve(if index == 0 { &wrong } else { &content }, seen)
    })
    .await;
    let bench = two.bench();
    let error = bench.read(&content, &anonymous()).await.error();
    let [bad, good] = two.0.each_ref().map(FakeRegistry::url);
    assert!(error.contains(&bad) && error.contains(&good), "{error}");
    let mut reads = 0;
    while bench.read(&content, &anonymous()).await.result.is_err() {
        reads += 1;
        assert!(reads < 2, "the right one was asked last");
    }
    let asked = two.0[0].seen().len();
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!(two.0[0].seen().len(), asked, "the wrong one is asked again");
}
