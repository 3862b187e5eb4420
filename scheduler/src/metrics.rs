//! What the scheduler counts.

use std::sync::atomic::AtomicI64;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The scheduler's metrics; a clone counts into the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) assignments: Counter,
    pub(crate) source_orders: Counter,
    pub(crate) relays: Counter,
    batches: Family<Labels, Counter>,
    peers: Gauge<i64, AtomicI64>,
    tasks: Gauge<i64, AtomicI64>,
}

impl Metrics {
    pub(crate) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register("flotilla_scheduler_assignments", "Pieces planned", metrics.assignments.clone());
        registry.register(
            "flotilla_scheduler_source_orders",
            "Orders to a seed to read from a registry",
            metrics.source_orders.clone(),
        );
        registry.register(
            "flotilla_scheduler_relays",
            "Orders to a seed to have pieces of a peer that failed another",
            metrics.relays.clone(),
        );
        registry.register(
            "flotilla_scheduler_batches",
            "Messages between the scheduler and its peers",
            metrics.batches.clone(),
        );
        registry.register("flotilla_scheduler_peers", "Peers attached", metrics.peers.clone());
        registry.register("flotilla_scheduler_tasks", "Blobs known", metrics.tasks.clone());
        metrics
    }

    pub(crate) fn count_batch(&self, direction: Direction) {
        self.batches.get_or_create(&Labels { direction }).inc();
    }

    pub(crate) fn show_counts(&self, peers: usize, tasks: usize) {
        self.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    direction: Direction,
}

/// Which way a batch went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Direction {
    /// From a peer.
    In,
    /// To a peer.
    Out,
}

impl EncodeLabelValue for Direction {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> std::fmt::Result {
        let label = match self {
            Self::In => "in",
            Self::Out => "out",
        };
        label.encode(encoder)
    }
}
