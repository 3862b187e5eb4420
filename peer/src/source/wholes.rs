//! Readings of parts that became readings of the whole, because the registry gives nothing less: one of a blob
//! at a time, for it brings what the others are to bring.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use flotilla_proto::Digest;

/// The blobs that are read whole for the sake of a part; clones share them.
#[derive(Debug, Clone, Default)]
pub(super) struct Wholes(Arc<Mutex<HashSet<Digest>>>);

/// One of them; dropped, it is read no more.
#[derive(Debug)]
pub(super) struct Whole {
    wholes: Wholes,
    digest: Digest,
}

impl Wholes {
    /// Whether the blob is being read whole.
    pub(super) fn contains(&self, digest: Digest) -> bool {
        self.with(|digests| digests.contains(&digest))
    }

    /// From now on the blob is read whole; `None` if it is already.
    pub(super) fn begin(&self, digest: Digest) -> Option<Whole> {
        self.with(|digests| digests.insert(digest)).then(|| Whole { wholes: self.clone(), digest })
    }

    fn with<T>(&self, act: impl FnOnce(&mut HashSet<Digest>) -> T) -> T {
        act(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Whole {
    fn drop(&mut self) {
        self.wholes.with(|digests| digests.remove(&self.digest));
    }
}
