//! Where pieces came from.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Bytes of pieces by where they came from; a clone counts into the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct PieceBytes(Family<Labels, Counter>);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    source: PieceSource,
}

/// Where a piece came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, EncodeLabelValue)]
#[allow(non_camel_case_types, reason = "the label's values as they are written")]
pub(crate) enum PieceSource {
    /// This peer's disk: it was held when a client asked.
    store,
    /// Another peer.
    peer,
    /// A seed.
    seed,
    /// The registry.
    registry,
}

impl PieceBytes {
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let bytes = Self::default();
        metrics.register("flotilla_peer_piece_bytes", "Bytes of pieces, by where they came from", bytes.0.clone());
        for source in [PieceSource::store, PieceSource::peer, PieceSource::seed, PieceSource::registry] {
            bytes.add(source, 0);
        }
        bytes
    }

    pub(crate) fn add(&self, source: PieceSource, bytes: u64) {
        self.0.get_or_create(&Labels { source }).inc_by(bytes);
    }
}
