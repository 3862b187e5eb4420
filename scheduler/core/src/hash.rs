//! Hashers for maps on the planner's hot path: seeded, so that a digest made up by a peer
//! does not choose its place, and the same in every run with the same seed.

use std::hash::{BuildHasher, Hasher};

use flotilla_proto::mix;

/// Builds [`KeyHasher`]s under the scheduler's seed.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct KeyHash {
    seed: u64,
}

/// Mixes what it is given, eight bytes at a time.
#[derive(Debug)]
pub(crate) struct KeyHasher(u64);

impl KeyHash {
    pub(crate) fn new(seed: u64) -> Self {
        Self { seed }
    }
}

impl BuildHasher for KeyHash {
    type Hasher = KeyHasher;

    fn build_hasher(&self) -> KeyHasher {
        KeyHasher(self.seed)
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u32(&mut self, word: u32) {
        self.write_u64(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = mix(self.0 ^ word);
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
