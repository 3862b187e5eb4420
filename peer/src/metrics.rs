//! Where pieces came from.

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PieceSource {
    /// This peer's disk: it was there before anyone asked.
    Store,
    /// Another peer.
    Peer,
    /// A seed.
    Seed,
    /// The registry.
    Registry,
}

impl EncodeLabelValue for PieceSource {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::Store => "store",
            Self::Peer => "peer",
            Self::Seed => "seed",
            Self::Registry => "registry",
        };
        label.encode(encoder)
    }
}

impl PieceBytes {
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let bytes = Self::default();
        metrics.register(
            "flotilla_peer_piece_bytes",
            "Bytes of pieces, by where they came from",
            bytes.0.clone(),
        );
        for source in [PieceSource::Store, PieceSource::Peer, PieceSource::Seed, PieceSource::Registry] {
            bytes.add(source, 0);
        }
        bytes
    }

    pub(crate) fn add(&self, source: PieceSource, bytes: u64) {
        self.0.get_or_create(&Labels { source }).inc_by(bytes);
    }
}
