//! The history's log: every event and every decision of a core, as one hash.

use std::fmt::{self, Write as _};

use crate::event::Time;

/// Hashes what happens. Two runs of one seed end with the same hash, or something in them
/// depends on more than the seed.
#[derive(Debug, Default)]
pub(crate) struct Log {
    hasher: blake3::Hasher,
    waiting: String,
}

impl Log {
    pub(crate) fn record(&mut self, at: Time, what: &impl fmt::Debug) {
        writeln!(self.waiting, "{} {what:?}", at.as_nanos()).expect("a string takes everything");
        if self.waiting.len() > HASHED_AT_ONCE {
            self.hash_waiting();
        }
    }

    /// The hash of everything recorded, in hex.
    pub(crate) fn finish(mut self) -> String {
        self.hash_waiting();
        self.hasher.finalize().to_hex().to_string()
    }

    fn hash_waiting(&mut self) {
        self.hasher.update(self.waiting.as_bytes());
        self.waiting.clear();
    }
}

/// BLAKE3 is slow on crumbs.
const HASHED_AT_ONCE: usize = 64 << 10;
