//! The history's log: every event and every decision of a core, as one hash.

use std::fmt::{self, Write as _};

use crate::event::Time;

/// Hashes what happens. Two runs of one seed end with the same hash, or something in them
/// depends on more than the seed.
#[derive(Debug, Default)]
pub(crate) struct Log {
    hasher: blake3::Hasher,
    waiting: Vec<u8>,
    text: String,
}

impl Log {
    /// Records something rare, as it prints.
    pub(crate) fn record(&mut self, at: Time, what: &impl fmt::Debug) {
        self.text.clear();
        write!(self.text, "{what:?}").expect("a string takes everything");
        self.stamp(at);
        self.waiting.extend_from_slice(self.text.as_bytes());
        self.hash_if_full();
    }

    /// Records something that happens for every piece: a tag and what tells it from others of
    /// its kind. Printing it would take longer than letting it happen.
    pub(crate) fn record_often(&mut self, at: Time, tag: u8, what: [u64; 3]) {
        self.stamp(at);
        self.waiting.push(tag);
        for word in what {
            self.waiting.extend_from_slice(&word.to_le_bytes());
        }
        self.hash_if_full();
    }

    /// The hash of everything recorded, in hex.
    pub(crate) fn finish(mut self) -> String {
        self.hash_waiting();
        self.hasher.finalize().to_hex().to_string()
    }

    fn stamp(&mut self, at: Time) {
        self.waiting.extend_from_slice(&at.as_secs().to_le_bytes());
        self.waiting.extend_from_slice(&at.subsec_nanos().to_le_bytes());
    }

    fn hash_if_full(&mut self) {
        if self.waiting.len() > HASHED_AT_ONCE {
            self.hash_waiting();
        }
    }

    fn hash_waiting(&mut self) {
        self.hasher.update(&self.waiting);
        self.waiting.clear();
    }
}

/// BLAKE3 is slow on crumbs.
const HASHED_AT_ONCE: usize = 64 << 10;
