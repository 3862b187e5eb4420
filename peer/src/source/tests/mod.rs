//! The registry client against real servers that misbehave on cue.

mod ahead;
mod authorising;
mod debian;
mod elsewhere;
mod endpoints;
mod fake;
mod forwarding;
mod leading;
mod places;
mod reading;
mod representation;
mod tls;
mod warm;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::settings::{Endpoint, Upstream};
use flotilla_proto::{Authorization, Digest, Layout, PieceHash, PieceSet, RegistryHost};
use prometheus_client::registry::Registry;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::via::Pseudonym;

use super::{
    Credentials, OwnDaemon, ReadCredential, ReadError, ReadOrder, ReadPurpose, ReadSummary, Source,
    SourceConfig, SourcePiece,
};

/// A source that knows one upstream, and what it counts.
pub(super) struct Bench {
    pub(super) source: Source,
    registry: Registry,
}

impl Bench {
    /// One upstream, [`HOST`], at these URLs in order; short timeouts.
    pub(super) fn new(urls: &[String]) -> Self {
        Self::with_config(urls, quick_config())
    }

    pub(super) fn with_config(urls: &[String], config: SourceConfig) -> Self {
        // The first is asked first.
        let in_order = |(index, url): (usize, &String)| Endpoint { standby: index > 0, ..endpoint(url) };
        Self::with_endpoints(urls.iter().enumerate().map(in_order).collect(), config)
    }

    pub(super) fn with_endpoints(endpoints: Vec<Endpoint>, config: SourceConfig) -> Self {
        Self::beside(Vec::new(), endpoints, config)
    }

    /// Of a daemon that listens there.
    pub(super) fn beside(listeners: Vec<SocketAddr>, endpoints: Vec<Endpoint>, config: SourceConfig) -> Self {
        let mut registry = Registry::default();
        let own = OwnDaemon { pseudonym: Pseudonym::of_cluster(b""), listeners };
        let source = Source::new(config, own, &mut registry).unwrap();
        // Without an endpoint there is no upstream.
        let upstream = Upstream::new(host(), endpoints).ok();
        source.set_upstreams(upstream.as_slice());
        Self { source, registry }
    }

    /// These upstreams, each at one URL, in place of the one.
    pub(super) fn set_upstreams(&self, urls: &[(&str, String)]) {
        let upstream =
            |(host, url): &(&str, String)| Upstream::new(host.parse().unwrap(), vec![endpoint(url)]);
        let upstreams: Vec<Upstream> = urls.iter().map(|it| upstream(it).unwrap()).collect();
        self.source.set_upstreams(&upstreams);
    }

    /// Reads all of `blob` with these credentials.
    pub(super) async fn read(&self, blob: &Bytes, credentials: &Credentials) -> Outcome {
        self.read_pieces(blob, credentials, |_| true).await
    }

    /// Reads the pieces of `blob` that `is_wanted` picks.
    pub(super) async fn read_pieces(
        &self,
        blob: &Bytes,
        credentials: &Credentials,
        is_wanted: impl Fn(u32) -> bool,
    ) -> Outcome {
        let layout = Layout::of(blob.len() as u64).unwrap();
        let mut wanted = PieceSet::new(layout.piece_count());
        for piece in (0..layout.piece_count()).filter(|piece| is_wanted(*piece)) {
            wanted.insert(piece);
        }
        let (digest, credentials) = (Digest::of(blob), credentials.clone());
        let purpose = ReadPurpose::Spread;
        let order = ReadOrder { digest, layout, wanted, until: unpaced(), credentials, purpose };
        self.run(order).await
    }

    pub(super) async fn run(&self, order: ReadOrder) -> Outcome {
        let (sink, mut pieces) = mpsc::channel(4);
        let collect = async {
            let mut collected = Vec::new();
            while let Some(piece) = pieces.recv().await {
                collected.push(piece);
            }
            collected
        };
        let reading = self.source.read_blob(order, sink, CancellationToken::new());
        let (result, pieces) = tokio::join!(reading, collect);
        Outcome { result, pieces }
    }

    /// A counter's value as `/metrics` would show it; zero if it is not there.
    pub(super) fn counter(&self, name_and_labels: &str) -> u64 {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name_and_labels)?.strip_prefix(' '));
        value.map_or(0, |value| value.parse().unwrap())
    }
}

/// An endpoint about which nothing but its URL is said.
pub(super) fn endpoint(url: &str) -> Endpoint {
    Endpoint::new(url.parse().unwrap())
}

/// The pace of a read that nobody holds back.
pub(super) fn unpaced() -> watch::Receiver<u32> {
    watch::Sender::new(u32::MAX).subscribe()
}

/// How a reading ended and what it gave.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) result: Result<ReadSummary, ReadError>,
    pub(super) pieces: Vec<SourcePiece>,
}

impl Outcome {
    pub(super) fn indices(&self) -> Vec<u32> {
        self.pieces.iter().map(|piece| piece.piece).collect()
    }

    /// The whole of `blob` came: in order, each piece hashed right, the digest checked.
    #[track_caller]
    pub(super) fn assert_whole(&self, blob: &Bytes) -> &ReadSummary {
        let summary = self.result.as_ref().unwrap_or_else(|error| panic!("{error}"));
        assert!(summary.is_verified);
        let layout = Layout::of(blob.len() as u64).unwrap();
        assert_eq!(self.indices(), (0..layout.piece_count()).collect::<Vec<_>>());
        self.assert_right(blob);
        summary
    }

    /// Each piece that came is the blob's.
    #[track_caller]
    pub(super) fn assert_right(&self, blob: &Bytes) {
        let layout = Layout::of(blob.len() as u64).unwrap();
        for piece in &self.pieces {
            let range = layout.piece_range(piece.piece);
            assert_eq!(piece.bytes, blob.slice(range.start as usize..range.end as usize));
            assert_eq!(piece.hash, PieceHash::of(&piece.bytes));
        }
    }

    #[track_caller]
    pub(super) fn error(&self) -> String {
        self.result.as_ref().expect_err("it should fail").to_string()
    }
}

/// Timeouts short enough for a test to wait for and long enough for a busy machine.
pub(super) fn quick_config() -> SourceConfig {
    SourceConfig {
        connect_timeout: Duration::from_secs(2),
        header_timeout: Duration::from_secs(2),
        stall_timeout: Duration::from_secs(1),
        ..SourceConfig::default()
    }
}

pub(super) fn host() -> RegistryHost {
    HOST.parse().unwrap()
}

/// The public host of the one upstream; nothing resolves it.
pub(super) const HOST: &str = "registry.test";

/// Bytes that differ from piece to piece.
pub(super) fn blob(len: usize) -> Bytes {
    let mut random = fastrand::Rng::with_seed(len as u64);
    std::iter::repeat_with(|| random.u8(..)).take(len).collect()
}

pub(super) fn credential(header: &str) -> ReadCredential {
    ReadCredential {
        upstream: host(),
        repository: "app/web".parse().unwrap(),
        authorization: Authorization::new(header.to_owned()),
    }
}

/// A list of credentials for the one repository; an empty text is an anonymous client.
pub(super) fn credentials(headers: &[&str]) -> Credentials {
    let list = Credentials::new();
    for header in headers {
        list.offer(credential(header));
    }
    list
}

pub(super) fn anonymous() -> Credentials {
    credentials(&[""])
}
