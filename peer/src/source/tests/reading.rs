//! Blobs read whole and in part, over everything that goes wrong with a body.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::settings::Endpoint;
use flotilla_proto::{Digest, Layout, PieceSet};
use http::header;
use http_body_util::BodyExt as _;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::fake::{
    Ending, FakeRegistry, Reply, chunked, dead_url, ending_after, plain, serve, status, text, with,
};
use super::{Bench, HOST, anonymous, blob, endpoint, quick_config, unpaced};
use crate::source::{Credentials, ReadError, ReadOrder, ReadPurpose, SourceConfig};

const PIECE: usize = 128 << 10;

#[tokio::test]
async fn a_whole_blob_is_one_plain_get() {
    let content = blob(5 * PIECE + 17);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let outcome = bench.read(&content, &anonymous()).await;
    let summary = outcome.assert_whole(&content);
    assert_eq!(summary.source_bytes, content.len() as u64);
    assert_eq!(summary.read_by.as_ref().unwrap().repository.as_str(), "app/web");
    let seen = registry.seen();
    assert_eq!(seen.len(), 1);
    assert_eq!(seen[0].path, format!("/v2/app/web/blobs/{}", Digest::of(&content)));
    assert_eq!((seen[0].range(), seen[0].authorization()), ("", ""));
    assert_eq!(seen[0].header(header::ACCEPT_ENCODING), "identity");
    assert_eq!(seen[0].header(header::HOST), HOST);
    assert_eq!(bench.counter("flotilla_peer_source_bytes_total{reader=\"region\"}"), content.len() as u64);
    assert_eq!(bench.counter("flotilla_peer_source_requests_total{kind=\"blob\"}"), 1);
}

#[tokio::test]
async fn a_paced_read_waits_in_the_same_answer_for_longer_than_any_stall() {
    let content = blob(6 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let pace = watch::Sender::new(2);
    let order = ReadOrder { until: pace.subscribe(), ..whole(&content, anonymous()) };
    let (sink, mut pieces) = mpsc::channel(1);
    let reading = bench.source.read_blob(order, sink, CancellationToken::new());
    let watching = async {
        for piece in 0..6 {
            if [2, 4].contains(&piece) {
                let early = tokio::time::timeout(quick_config().stall_timeout * 2, pieces.recv()).await;
                assert!(early.is_err(), "piece {piece} came before it was allowed");
                pace.send_replace(piece + 2);
            }
            assert_eq!(pieces.recv().await.unwrap().piece, piece);
        }
    };
    let (summary, ()) = tokio::join!(reading, watching);
    let summary = summary.unwrap();
    assert!(summary.is_verified);
    assert_eq!(summary.source_bytes, content.len() as u64, "every byte once");
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn the_missing_pieces_are_one_range_per_run() {
    let content = blob(9 * PIECE + 5);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let outcome = bench.read_pieces(&content, &anonymous(), |piece| [1, 2, 5, 9].contains(&piece)).await;
    let summary = outcome.result.as_ref().unwrap();
    assert_eq!(outcome.indices(), [1, 2, 5, 9]);
    outcome.assert_right(&content);
    assert!(!summary.is_verified);
    assert_eq!(summary.source_bytes as usize, 3 * PIECE + 5);
    let expected = [(PIECE, 3 * PIECE), (5 * PIECE, 6 * PIECE), (9 * PIECE, 9 * PIECE + 5)];
    let expected = expected.map(|(start, end)| format!("bytes={start}-{}", end - 1));
    assert_eq!(registry.blob_ranges(), expected);
}

#[tokio::test]
async fn a_cut_is_resumed_where_it_happened() {
    let content = blob(6 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.index {
            0 => ending_after(2 * PIECE + 1000, Ending::Cut, plain(&content), &content),
            _ => serve(&content, seen),
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let outcome = bench.read(&content, &anonymous()).await;
    let summary = outcome.assert_whole(&content);
    assert_eq!(summary.source_bytes, content.len() as u64, "every byte once");
    let ranges = registry.blob_ranges();
    assert_eq!(ranges.len(), 2);
    let start: usize = ranges[1].strip_prefix("bytes=").unwrap().split('-').next().unwrap().parse().unwrap();
    assert!(start > 0 && start <= 2 * PIECE + 1000, "{start}");
    assert_eq!(bench.counter("flotilla_peer_source_errors_total{reason=\"cut\"}"), 1);
}

#[tokio::test]
async fn a_body_that_stands_still_is_resumed() {
    let content = blob(3 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.index {
            0 => ending_after(PIECE + 7, Ending::Stall, plain(&content), &content),
            _ => serve(&content, seen),
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let summary = bench.read(&content, &anonymous()).await.assert_whole(&content).clone();
    assert_eq!(summary.source_bytes, content.len() as u64);
    assert_eq!(registry.blob_ranges()[1], format!("bytes={}-{}", PIECE + 7, 3 * PIECE - 1));
    assert_eq!(bench.counter("flotilla_peer_source_errors_total{reason=\"stall\"}"), 1);
}

#[tokio::test]
async fn a_body_that_ends_cleanly_and_too_early_is_resumed() {
    let content = blob(3 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.index {
            0 => chunked(&content, 2 * PIECE + 1, Ending::Clean),
            _ => serve(&content, seen),
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    bench.read(&content, &anonymous()).await.assert_whole(&content);
    assert_eq!(registry.blob_ranges()[1], format!("bytes={}-{}", 2 * PIECE + 1, 3 * PIECE - 1));
}

#[tokio::test]
async fn what_came_before_the_end_is_handed_out() {
    let content = blob(3 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.index {
            0 => chunked(&content, 2 * PIECE, Ending::Clean),
            _ => status(403),
        }
    })
    .await;
    let outcome = Bench::new(&[registry.url()]).read(&content, &anonymous()).await;
    assert!(matches!(outcome.result, Err(ReadError::Refused { .. })), "{outcome:?}");
    assert_eq!(outcome.indices(), [0, 1]);
    outcome.assert_right(&content);
}

#[tokio::test]
async fn a_body_without_a_length_is_read_to_its_end() {
    let content = blob(2 * PIECE + 3);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |_| chunked(&content, usize::MAX, Ending::Clean)
    })
    .await;
    Bench::new(&[registry.url()]).read(&content, &anonymous()).await.assert_whole(&content);
}

#[tokio::test]
async fn a_body_that_goes_on_after_the_blob_is_refused_and_its_last_piece_kept_back() {
    let content = blob(2 * PIECE);
    let registry = FakeRegistry::start({
        let longer: Bytes = [&content[..], b"more"].concat().into();
        move |_| chunked(&longer, usize::MAX, Ending::Clean)
    })
    .await;
    for urls in [vec![registry.url()], vec![registry.url(), dead_url().await]] {
        let outcome = Bench::new(&urls).read(&content, &anonymous()).await;
        let error = outcome.error();
        assert!(error.contains("goes on after 262144 bytes") || urls.len() == 2, "{error}");
        assert!(!outcome.indices().contains(&1), "{:?}", outcome.indices());
    }
}

/// It sends the whole, whatever range is asked for.
async fn without_ranges(content: &Bytes) -> FakeRegistry {
    let content = content.clone();
    FakeRegistry::start(move |_| plain(&content)).await
}

#[tokio::test]
async fn what_a_registry_that_ignores_ranges_sends_is_kept_and_the_whole_found_right() {
    let content = blob(6 * PIECE);
    let registry = without_ranges(&content).await;
    let bench = Bench::new(&[registry.url()]);
    let outcome = bench.read_pieces(&content, &anonymous(), |piece| [1, 3].contains(&piece)).await;
    let summary = outcome.result.as_ref().unwrap();
    assert_eq!(outcome.indices(), [0, 1, 2, 3, 4, 5], "or each part would be the whole again");
    outcome.assert_right(&content);
    assert_eq!(registry.seen().len(), 1);
    assert!(summary.is_verified && summary.source_bytes as usize == 6 * PIECE);
}

#[tokio::test]
async fn of_parts_that_a_registry_does_not_give_one_reading_brings_all() {
    let content = blob(6 * PIECE);
    let registry = without_ranges(&content).await;
    let bench = Bench::new(&[registry.url()]);
    let credentials = anonymous();
    let (first, second) = tokio::join!(
        bench.read_pieces(&content, &credentials, |piece| piece == 1),
        bench.read_pieces(&content, &credentials, |piece| piece == 4),
    );
    let mut indices = [first.indices(), second.indices()].concat();
    indices.sort_unstable();
    assert_eq!(indices, [0, 1, 2, 3, 4, 5], "each once");
    let received: u64 =
        [&first, &second].map(|outcome| outcome.result.as_ref().unwrap().source_bytes).iter().sum();
    assert_eq!(received as usize, 6 * PIECE);
}

#[tokio::test]
async fn a_registry_that_always_cuts_at_the_same_byte_is_given_up() {
    let content = blob(4 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |_| ending_after(2 * PIECE, Ending::Stall, plain(&content), &content)
    })
    .await;
    let config = SourceConfig { stall_timeout: Duration::from_millis(50), ..quick_config() };
    let outcome = Bench::with_config(&[registry.url()], config).read(&content, &anonymous()).await;
    assert!(outcome.error().contains("no byte for 50ms"), "{}", outcome.error());
    assert_eq!(registry.seen().len(), 5);
    assert!(outcome.indices().len() <= 2);
}

#[tokio::test]
async fn a_blob_of_wrong_bytes_never_gives_its_last_piece() {
    for len in [PIECE / 2, 3 * PIECE] {
        let content = blob(len);
        let mut wrong = content.to_vec();
        wrong[len / 3] ^= 1;
        let registry = FakeRegistry::start(move |_| plain(&wrong.clone().into())).await;
        let bench = Bench::new(&[registry.url()]);
        let outcome = bench.read(&content, &anonymous()).await;
        let Err(ReadError::DigestMismatch { endpoints }) = &outcome.result else { panic!("{outcome:?}") };
        assert_eq!(endpoints, &[registry.url()]);
        let last = Layout::of(len as u64).unwrap().last_piece().unwrap();
        assert!(!outcome.indices().contains(&last), "{:?}", outcome.indices());
        assert_eq!(bench.counter("flotilla_peer_source_errors_total{reason=\"digest\"}"), 1);
    }
}

#[tokio::test]
async fn an_endpoint_with_wrong_bytes_is_not_the_first_choice_next_time() {
    let content = blob(PIECE);
    let wrong = FakeRegistry::start(move |_| plain(&vec![0; PIECE].into())).await;
    let right = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::new(&[wrong.url(), right.url()]);
    bench.read(&content, &anonymous()).await.result.unwrap_err();
    bench.read(&content, &anonymous()).await.assert_whole(&content);
}

#[tokio::test]
async fn an_answer_that_cannot_be_the_blob_is_refused_by_name() {
    let content = blob(2 * PIECE);
    type Answer = fn(&Bytes) -> http::Response<crate::source::BodyStream>;
    let cases: [(Answer, &str); 6] = [
        (
            |content| with(chunked(content, usize::MAX, Ending::Clean), header::CONTENT_ENCODING, "compress"),
            "Content-Encoding",
        ),
        (|content| plain(&content.slice(1..)), "has it with 262143 bytes"),
        (|_| with(status(206), header::CONTENT_RANGE, "bytes 0-9/10"), "has it with 10 bytes"),
        (|_| with(text(416, "x"), header::CONTENT_LENGTH, "1"), "another range"),
        (|_| status(302), "cannot be used"),
        (|_| status(204), "answered 204 No Content"),
    ];
    for (answer, expected) in cases {
        let registry = FakeRegistry::start({
            let content = content.clone();
            move |_| answer(&content)
        })
        .await;
        let outcome = Bench::new(&[registry.url()]).read(&content, &anonymous()).await;
        let error = outcome.error();
        assert!(error.contains(expected) && error.contains(&registry.url()), "{error}");
        assert!(outcome.pieces.is_empty());
    }
}

#[tokio::test]
async fn the_next_endpoint_serves_where_one_is_down_or_broken() {
    let content = blob(2 * PIECE);
    let good = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let unwell = FakeRegistry::start(|_| status(503)).await;
    let confused = FakeRegistry::start(|_| with(status(200), header::CONTENT_ENCODING, "gzip")).await;
    let started = Instant::now();
    for bad in [unwell.url(), confused.url(), dead_url().await] {
        let bench = Bench::new(&[bad, good.url()]);
        bench.read(&content, &anonymous()).await.assert_whole(&content);
    }
    assert_eq!((unwell.seen().len(), confused.seen().len()), (1, 1));
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn a_registry_that_hangs_is_an_error_that_names_it_and_the_time() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start(|_| Reply::Hang).await;
    let config = SourceConfig { header_timeout: Duration::from_millis(100), ..quick_config() };
    let started = Instant::now();
    let outcome = Bench::with_config(&[registry.url()], config).read(&content, &anonymous()).await;
    assert_eq!(outcome.error(), format!("{} at {} no answer within 100ms", HOST, registry.url()));
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn two_hung_endpoints_share_the_time_of_one() {
    let registries = [FakeRegistry::start(|_| Reply::Hang).await, FakeRegistry::start(|_| Reply::Hang).await];
    let urls = registries.each_ref().map(FakeRegistry::url);
    let bench = Bench::with_config(&urls, SourceConfig::default());
    let started = Instant::now();
    let outcome = bench.read(&blob(PIECE), &anonymous()).await;
    assert!(outcome.error().contains("no answer within"), "{}", outcome.error());
    assert!(started.elapsed() < Duration::from_secs(10));
    assert!(registries.iter().all(|registry| !registry.seen().is_empty()));
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_if_it_is_short() {
    let content = blob(PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| match seen.index {
            0 => with(status(429), header::RETRY_AFTER, "1"),
            _ => serve(&content, seen),
        }
    })
    .await;
    let started = Instant::now();
    Bench::new(&[registry.url()]).read(&content, &anonymous()).await.assert_whole(&content);
    assert!(started.elapsed() >= Duration::from_secs(1));
    assert_eq!(registry.seen().len(), 2);
}

#[tokio::test]
async fn a_long_rate_limit_is_an_error_at_once() {
    let registry = FakeRegistry::start(|_| with(status(429), header::RETRY_AFTER, "3600")).await;
    let outcome = Bench::new(&[registry.url()]).read(&blob(PIECE), &anonymous()).await;
    let said = format!("{HOST} at {} answered 429 Too Many Requests: retry after 3600s", registry.url());
    assert_eq!(outcome.error(), said);
    assert_eq!(registry.seen().len(), 1);
}

#[tokio::test]
async fn a_full_sink_stops_the_reading() {
    let content = blob(64 << 20);
    let sent = Arc::new(AtomicUsize::new(0));
    let registry = FakeRegistry::start({
        let (content, sent) = (content.clone(), Arc::clone(&sent));
        move |_| {
            let sent = Arc::clone(&sent);
            plain(&content).map(|body| {
                let counted = body.map_frame(move |frame| {
                    sent.fetch_add(frame.data_ref().map_or(0, Bytes::len), Ordering::Relaxed);
                    frame
                });
                counted.boxed_unsync()
            })
        }
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let (sink, mut pieces) = mpsc::channel(1);
    let order = whole(&content, anonymous());
    let source = bench.source.clone();
    let reading = tokio::spawn(async move { source.read_blob(order, sink, CancellationToken::new()).await });
    let mut cut = vec![pieces.recv().await.unwrap()];
    assert!(sent.load(Ordering::Relaxed) < content.len() / 2);
    while let Some(piece) = pieces.recv().await {
        cut.push(piece);
    }
    assert!(reading.await.unwrap().unwrap().is_verified);
    assert_eq!(cut.len(), 512);
}

#[tokio::test]
async fn a_cancelled_reading_ends_at_once_and_so_does_one_nobody_listens_to() {
    let registry = FakeRegistry::start(|_| Reply::Hang).await;
    let bench = Bench::with_config(&[registry.url()], SourceConfig::default());
    let cancel = CancellationToken::new();
    cancel.cancel();
    let (sink, _pieces) = mpsc::channel(1);
    let result = bench.source.read_blob(whole(&blob(9), anonymous()), sink, cancel).await;
    assert!(matches!(result, Err(ReadError::Cancelled)));

    let content = blob(3 * PIECE);
    let registry = FakeRegistry::start({
        let content = content.clone();
        move |seen| serve(&content, seen)
    })
    .await;
    let bench = Bench::new(&[registry.url()]);
    let (sink, pieces) = mpsc::channel(1);
    drop(pieces);
    let result = bench.source.read_blob(whole(&content, anonymous()), sink, CancellationToken::new()).await;
    assert!(matches!(result, Err(ReadError::Cancelled)));
}

#[tokio::test]
async fn an_empty_blob_is_read_without_asking() {
    let outcome = Bench::new(&[dead_url().await]).read(&blob(0), &anonymous()).await;
    let summary = outcome.assert_whole(&blob(0));
    assert_eq!((summary.source_bytes, &summary.read_by), (0, &None));
}

#[tokio::test]
async fn a_registry_nobody_configured_is_named() {
    let broken = Endpoint { ca_pem: Some("rubbish".into()), ..endpoint("https://registry.test") };
    let bench = Bench::with_endpoints(vec![broken], quick_config());
    let unusable = bench.read(&blob(1), &anonymous()).await.error();
    assert_eq!(unusable, "registry.test cannot be used: its CA holds no certificate");
    bench.source.set_upstreams(&[]);
    let unknown = bench.read(&blob(1), &anonymous()).await.error();
    assert_eq!(unknown, "registry.test is not a configured registry");
    let nobody = bench.read(&blob(1), &Credentials::new()).await;
    assert!(matches!(nobody.result, Err(ReadError::NoCredential)));
}

fn whole(content: &Bytes, credentials: Credentials) -> ReadOrder {
    let layout = Layout::of(content.len() as u64).unwrap();
    let wanted = PieceSet::full(layout.piece_count());
    let (digest, purpose) = (Digest::of(content), ReadPurpose::Spread);
    ReadOrder { digest, layout, wanted, until: unpaced(), credentials, purpose }
}
