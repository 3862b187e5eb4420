//! What an operator sees of the store.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::catalog::Catalog;

/// Bytes and counts never go below zero.
type UnsignedGauge = Gauge<u64, AtomicU64>;

/// The store's metrics, registered under their full names.
#[derive(Default)]
pub(super) struct Metrics {
    /// Bytes of the pieces that are held.
    pub(super) bytes: UnsignedGauge,
    /// What [`Self::bytes`] never exceeds.
    pub(super) quota_bytes: UnsignedGauge,
    /// Blobs of which something is held.
    pub(super) blobs: UnsignedGauge,
    /// Blobs withdrawn to make room.
    pub(super) evictions: Counter,
    /// Pieces dropped because they no longer read back as they were written.
    pub(super) corrupt_pieces: Counter,
    /// Changes that the disk did not take.
    pub(super) failures: Counter,
}

impl Metrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "flotilla_peer_store_bytes",
            "Bytes of the pieces in the store",
            metrics.bytes.clone(),
        );
        registry.register(
            "flotilla_peer_store_quota_bytes",
            "Bytes the store may use",
            metrics.quota_bytes.clone(),
        );
        registry.register(
            "flotilla_peer_store_blobs",
            "Blobs in the store, complete or not",
            metrics.blobs.clone(),
        );
        registry.register(
            "flotilla_peer_store_evictions",
            "Blobs evicted to make room for others",
            metrics.evictions.clone(),
        );
        registry.register(
            "flotilla_peer_store_corrupt_pieces",
            "Pieces dropped because the disk returned other bytes than were written",
            metrics.corrupt_pieces.clone(),
        );
        registry.register(
            "flotilla_peer_store_failures",
            "Blobs, pieces and moves that the disk did not take",
            metrics.failures.clone(),
        );
        metrics
    }

    /// Shows how full the catalog is.
    pub(super) fn observe(&self, catalog: &Catalog) {
        self.bytes.set(catalog.used_bytes());
        self.quota_bytes.set(catalog.quota());
        self.blobs.set(catalog.blob_count() as u64);
    }
}
