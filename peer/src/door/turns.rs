//! One at a time for each blob, and any number of blobs.

use std::sync::Arc;

use dashmap::DashMap;
use flotilla_proto::Digest;
use tokio::sync::{Mutex, OwnedMutexGuard};

/// Whose turn it is. Bounded by how many wait.
#[derive(Debug, Default)]
pub(crate) struct Turns(Arc<DashMap<Digest, Arc<Mutex<()>>>>);

/// A turn, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    turns: Turns,
    digest: Digest,
    guard: Option<OwnedMutexGuard<()>>,
}

impl Turns {
    /// Waits until nobody else has the blob's turn.
    pub(super) async fn turn(&self, digest: Digest) -> Turn {
        let lock = self.0.entry(digest).or_default().clone();
        let mut turn = Turn { turns: Self(self.0.clone()), digest, guard: None };
        turn.guard = Some(lock.lock_owned().await);
        turn
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.guard = None;
        // Whoever waits has it as well.
        self.turns.0.remove_if(&self.digest, |_, lock| Arc::strong_count(lock) == 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_blob_has_one_turn_at_a_time_and_leaves_nothing_behind() {
        let turns = Turns::default();
        let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
        let first = turns.turn(one).await;
        let _elsewhere = turns.turn(other).await;
        let mut second = Box::pin(turns.turn(one));
        assert!(second.as_mut().now_or_never().is_none());
        drop(first);
        drop(second.await);
        assert!(Box::pin(turns.turn(other)).now_or_never().is_none(), "given up at once");
        assert_eq!(turns.0.len(), 1, "the other's");
    }
}
