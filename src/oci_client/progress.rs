//! What clients count while they pull.

use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of all clients of one peer.
#[derive(Debug, Default)]
pub(crate) struct NodeProgress {
    /// Clients that know what they will receive.
    clients: AtomicU64,
    expected: AtomicU64,
    received: AtomicU64,
}

impl NodeProgress {
    /// A client will receive these.
    pub(crate) fn expect(&self, bytes: u64) {
        self.clients.fetch_add(1, Ordering::Relaxed);
        self.expected.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A client has received these.
    pub(crate) fn received(&self, bytes: u64) {
        self.received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// (received, expected) by all clients together.
    pub(crate) fn bytes(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.expected.load(Ordering::Relaxed))
    }

    /// (received, expected) by each client on average: of an image of 64 MiB, 64 MiB are expected
    /// however many pull it.
    pub(crate) fn bytes_of_each(&self) -> (u64, u64) {
        let clients = self.clients.load(Ordering::Relaxed).max(1);
        let (received, expected) = self.bytes();
        (received / clients, expected / clients)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_has_its_size_however_many_clients_pull_it() {
        let node = NodeProgress::default();
        assert_eq!(node.bytes_of_each(), (0, 0));
        for _ in 0..2 {
            node.expect(64);
        }
        node.received(64);
        assert_eq!((node.bytes_of_each(), node.bytes()), ((32, 64), (64, 128)));
        node.received(64);
        assert_eq!(node.bytes_of_each(), (64, 64));
    }
}
