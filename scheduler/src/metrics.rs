//! What the scheduler counts.

use std::sync::atomic::AtomicI64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// The scheduler's metrics; a clone counts into the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Metrics {
    pub(crate) assignments: Counter,
    pub(crate) source_orders: Counter,
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
        registry.register("flotilla_scheduler_peers", "Peers attached", metrics.peers.clone());
        registry.register("flotilla_scheduler_tasks", "Blobs known", metrics.tasks.clone());
        metrics
    }

    pub(crate) fn show_counts(&self, peers: usize, tasks: usize) {
        self.peers.set(i64::try_from(peers).unwrap_or(i64::MAX));
        self.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
    }
}
