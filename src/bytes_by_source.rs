//! Where a peer's pieces came from, read from its `/metrics`.

use std::time::Duration;

use anyhow::Context as _;
use hyper::Uri;
use serde::Serialize;

use crate::http::HttpClient;

/// Bytes of pieces by source (docs/design.md §2).
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct BytesBySource {
    /// Held at the start.
    pub(crate) store: u64,
    /// From another peer.
    pub(crate) peer: u64,
    /// From a seed.
    pub(crate) seed: u64,
    /// From the registry itself.
    pub(crate) registry: u64,
}

impl BytesBySource {
    /// Asks the peer whose admin URL this is.
    pub(crate) async fn of(http: &HttpClient, admin: &str) -> anyhow::Result<Self> {
        let uri: Uri = format!("{admin}/metrics").parse().context("read the admin address")?;
        let (status, text) =
            http.get_text(uri.clone(), ANSWER_WITHIN).await.with_context(|| format!("ask {uri}"))?;
        anyhow::ensure!(status.is_success(), "{uri} answers {status}");
        Ok(Self::parse(&text))
    }

    /// The counters of a scrape; one that is not there has counted nothing.
    fn parse(text: &str) -> Self {
        let mut bytes = Self::default();
        for (source, value) in text.lines().filter_map(sample) {
            match source {
                "store" => bytes.store += value,
                "peer" => bytes.peer += value,
                "seed" => bytes.seed += value,
                "registry" => bytes.registry += value,
                _ => {}
            }
        }
        bytes
    }

    /// From wherever.
    pub(crate) fn total(self) -> u64 {
        let Self { store, peer, seed, registry } = self;
        store + peer + seed + registry
    }

    /// What was counted since `before`. A peer that started again counts from zero.
    pub(crate) fn since(self, before: Self) -> Self {
        let since = |now: u64, before: u64| now.checked_sub(before).unwrap_or(now);
        Self {
            store: since(self.store, before.store),
            peer: since(self.peer, before.peer),
            seed: since(self.seed, before.seed),
            registry: since(self.registry, before.registry),
        }
    }
}

/// Source and value of `flotilla_peer_piece_bytes_total{…,source="…",…} value`.
fn sample(line: &str) -> Option<(&str, u64)> {
    let (labels, value) = line.strip_prefix(FAMILY)?.strip_prefix('{')?.rsplit_once('}')?;
    let label = labels.split(',').find_map(|label| label.trim().strip_prefix("source=\""))?;
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some((label.strip_suffix('"')?, value))
}

const FAMILY: &str = "flotilla_peer_piece_bytes_total";

/// A peer answers from memory.
const ANSWER_WITHIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_among_all_others() {
        let text = "# TYPE flotilla_peer_piece_bytes counter\n\
                    flotilla_peer_piece_bytes_total{source=\"peer\"} 5\n\
                    flotilla_peer_piece_bytes_total{region=\"a\",source=\"peer\"} 2\n\
                    flotilla_peer_piece_bytes_total{source=\"seed\"} 3 1700000000\n\
                    flotilla_peer_piece_bytes_total{source=\"unheard\"} 9\n\
                    flotilla_peer_piece_bytes_total 9\n\
                    flotilla_peer_piece_bytes_total_more{source=\"seed\"} 9\n\
                    flotilla_peer_source_bytes_total{source=\"seed\"} 9\n\
                    # EOF\n";
        let bytes = BytesBySource::parse(text);
        assert_eq!(bytes, BytesBySource { peer: 7, seed: 3, ..Default::default() });
    }

    #[test]
    fn only_what_came_since_is_counted() {
        let before = BytesBySource { peer: 5, seed: 9, ..Default::default() };
        let now = BytesBySource { peer: 7, seed: 1, registry: 2, ..Default::default() };
        assert_eq!(now.since(before), BytesBySource { peer: 2, seed: 1, registry: 2, ..Default::default() });
    }
}
