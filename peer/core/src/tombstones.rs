//! What this peer knows to have been purged.

use std::collections::{BTreeSet, VecDeque};

use flotilla_proto::Variant;

/// Variants that were found wrong. Beyond [`MAX_TOMBSTONES`] the oldest is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    known: BTreeSet<Variant>,
    by_age: VecDeque<Variant>,
}

impl Tombstones {
    /// Remembers one. False if it was known.
    pub(crate) fn insert(&mut self, variant: Variant) -> bool {
        if !self.known.insert(variant) {
            return false;
        }
        self.by_age.push_back(variant);
        if self.by_age.len() > MAX_TOMBSTONES
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    /// The oldest first.
    pub(crate) fn by_age(&self) -> impl Iterator<Item = Variant> {
        self.by_age.iter().copied()
    }
}

/// As many as the store keeps (`peer/src/store/index.rs`).
const MAX_TOMBSTONES: usize = 1024;
