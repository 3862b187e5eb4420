//! Which registries have ever delivered which blobs, every byte of them.
//!
//! It outlives the blobs: a registry need not do so twice, and one that never did opens nobody a blob of another's.

use std::collections::{HashSet, VecDeque};

use flotilla_proto::{Digest, RegistryMark};

/// As the index knows them, bounded: beyond [`MAX_DELIVERIES`] the oldest is forgotten, and asked for again.
#[derive(Default)]
pub(super) struct Deliveries {
    known: HashSet<(Digest, RegistryMark)>,
    oldest_first: VecDeque<(Digest, RegistryMark)>,
}

impl Deliveries {
    pub(super) fn contains(&self, digest: Digest, mark: RegistryMark) -> bool {
        self.known.contains(&(digest, mark))
    }

    pub(super) fn insert(&mut self, digest: Digest, mark: RegistryMark) {
        if self.known.insert((digest, mark)) {
            self.oldest_first.push_back((digest, mark));
        }
        if self.oldest_first.len() > MAX_DELIVERIES
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

/// Some 100 bytes each, and as many on the disk.
pub(super) const MAX_DELIVERIES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_are_remembered_and_the_oldest_goes() {
        let (mut deliveries, mark) = (Deliveries::default(), RegistryMark::from_bits(7));
        let digest = |number: usize| Digest::of(&number.to_be_bytes());
        for number in 0..=MAX_DELIVERIES {
            deliveries.insert(digest(number), mark);
            deliveries.insert(digest(number), mark);
        }
        assert!(!deliveries.contains(digest(0), mark));
        assert!(deliveries.contains(digest(1), mark));
        assert!(!deliveries.contains(digest(1), RegistryMark::from_bits(8)));
    }
}
