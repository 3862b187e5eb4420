//! Variants of blobs that were found wrong, and on how many words.

use std::collections::{BTreeMap, VecDeque};

use flotilla_proto::{Digest, PeerId, Root, Variant};

/// What peers said to be wrong, in one life of the planner or before. Beyond [`MAX_TOMBSTONES`]
/// the oldest is forgotten.
#[derive(Debug, Default)]
pub(crate) struct Tombstones {
    /// `None`: it is certain. Else the one peer that said so.
    teller_by_variant: BTreeMap<Variant, Option<PeerId>>,
    by_age: VecDeque<Variant>,
}

impl Tombstones {
    /// A peer says that a variant is wrong. Whether that makes it certain: a seed has read it
    /// from the registry, and of others it takes two.
    pub(crate) fn word(&mut self, variant: Variant, teller: &PeerId, seed: bool) -> bool {
        let known = self.teller_by_variant.get(&variant);
        let is_second = known.is_some_and(|first| first.as_ref().is_none_or(|first| first != teller));
        let is_certain = seed || is_second;
        self.put(variant, (!is_certain).then(|| teller.clone()));
        is_certain
    }

    /// A variant is purged.
    pub(crate) fn entomb(&mut self, variant: Variant) {
        self.put(variant, None);
    }

    fn put(&mut self, variant: Variant, teller: Option<PeerId>) {
        if self.teller_by_variant.insert(variant, teller).is_none() {
            self.by_age.push_back(variant);
        }
        if self.by_age.len() > MAX_TOMBSTONES
            && let Some(oldest) = self.by_age.pop_front()
        {
            self.teller_by_variant.remove(&oldest);
        }
    }

    /// What is certainly wrong of a digest.
    pub(crate) fn of(&self, digest: Digest) -> impl Iterator<Item = Variant> {
        let [first, last] =
            [[0; 32], [u8::MAX; 32]].map(|root| Variant { digest, root: Root::from_bytes(root) });
        let variants = self.teller_by_variant.range(first..=last);
        variants.filter(|(_, teller)| teller.is_none()).map(|(variant, _)| *variant)
    }
}

/// Some 100 bytes each.
const MAX_TOMBSTONES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn variant(root: u16) -> Variant {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&root.to_be_bytes());
        Variant { digest: Digest::from_bytes([1; 32]), root: Root::from_bytes(bytes) }
    }

    #[test]
    fn it_takes_a_seed_or_two_peers_and_nobody_twice() {
        let [one, two] = ["one", "two"].map(|name| name.parse::<PeerId>().unwrap());
        let mut tombstones = Tombstones::default();
        assert!(!tombstones.word(variant(1), &one, false) && !tombstones.word(variant(1), &one, false));
        assert!(!tombstones.word(variant(2), &two, false), "of another variant");
        assert_eq!(tombstones.of(variant(1).digest).count(), 0);
        assert!(tombstones.word(variant(1), &two, false));
        assert!(tombstones.word(variant(3), &one, true));
        assert!(tombstones.of(variant(1).digest).eq([variant(1), variant(3)]));
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut tombstones = Tombstones::default();
        for root in 0..5000 {
            tombstones.entomb(variant(root));
        }
        assert_eq!(tombstones.of(variant(0).digest).next(), Some(variant(5000 - 4096)));
        assert_eq!(tombstones.teller_by_variant.len(), tombstones.by_age.len());
    }
}
