//! What clients count while they pull.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of all clients of one peer.
#[derive(Debug, Default)]
pub(crate) struct NodeProgress {
    expected: AtomicU64,
    received: AtomicU64,
}

impl NodeProgress {
    /// A client will receive these.
    pub(crate) fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A client has received these.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// (received, expected).
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }
}
