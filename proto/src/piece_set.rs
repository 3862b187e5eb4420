//! A set of pieces of one blob, as a bitset.

use crate::{Run, bits};

/// Which pieces of a blob of `len` pieces: 1 bit each, the count kept beside.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct PieceSet {
    words: Vec<u64>,
    len: u32,
    count: u32,
}

impl PieceSet {
    /// An empty set over a blob of `len` pieces.
    pub fn new(len: u32) -> Self {
        Self { words: vec![0; len.div_ceil(64) as usize], len, count: 0 }
    }

    /// A set over a blob of `len` pieces that holds all of them.
    pub fn full(len: u32) -> Self {
        let mut set = Self::new(len);
        set.insert_all();
        set
    }

    /// How many pieces the blob has.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// How many pieces are in the set.
    pub const fn count(&self) -> u32 {
        self.count
    }

    /// Whether no piece is in the set.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether every piece of the blob is in the set. True of a blob without pieces.
    pub const fn is_full(&self) -> bool {
        self.count == self.len
    }

    /// Whether the piece is in the set; false for an index the blob does not have.
    pub fn contains(&self, piece: u32) -> bool {
        piece < self.len && bits::contains(&self.words, piece)
    }

    /// Adds the piece. True if it was not there; false too for an index the blob does not have.
    pub fn insert(&mut self, piece: u32) -> bool {
        let is_new = piece < self.len && bits::insert(&mut self.words, piece);
        self.count += u32::from(is_new);
        is_new
    }

    /// Removes the piece. True if it was there.
    pub fn remove(&mut self, piece: u32) -> bool {
        let was_there = piece < self.len && bits::remove(&mut self.words, piece);
        self.count -= u32::from(was_there);
        was_there
    }

    /// Adds every piece of the blob.
    pub fn insert_all(&mut self) {
        self.words = bits::full(self.len);
        self.count = self.len;
    }

    /// Adds every piece of `other`, a set over the same blob.
    pub fn union_with(&mut self, other: &Self) {
        assert_eq!(self.len, other.len, "sets over different blobs");
        for (word, more) in self.words.iter_mut().zip(&other.words) {
            *word |= more;
        }
        self.count = self.words.iter().map(|word| word.count_ones()).sum();
    }

    /// The 64-piece words, lowest piece in the lowest bit; unused bits are zero.
    pub fn words(&self) -> &[u64] {
        &self.words
    }

    /// The pieces, in order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        bits::ones(&self.words)
    }

    /// The first piece at or after `from` that is not in the set; `len` if there is none.
    pub fn first_missing(&self, from: u32) -> u32 {
        bits::first_missing(&self.words, from, self.len)
    }

    /// The longest runs that make up the set, in order.
    pub fn runs(&self) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for piece in self.iter() {
            match runs.last_mut() {
                Some(run) if run.first + run.count == piece => run.count += 1,
                _ => runs.push(Run { first: piece, count: 1 }),
            }
        }
        runs
    }

    /// The set over `len` pieces that these runs make up; `None` if one leaves the blob, or
    /// two overlap: what is said costs no more than what it says.
    pub fn from_runs(len: u32, runs: impl IntoIterator<Item = Run>) -> Option<Self> {
        let mut set = Self::new(len);
        for run in runs {
            let end = run.first.checked_add(run.count)?;
            if end > len || !(run.first..end).all(|piece| set.insert(piece)) {
                return None;
            }
        }
        Some(set)
    }

    /// Whether any piece is in both sets, which are over the same blob.
    pub fn intersects(&self, other: &Self) -> bool {
        assert_eq!(self.len, other.len, "sets over different blobs");
        self.words.iter().zip(&other.words).any(|(one, other)| one & other != 0)
    }

    /// The pieces that are not in `other`, a set over the same blob.
    pub fn difference(&self, other: &Self) -> Self {
        assert_eq!(self.len, other.len, "sets over different blobs");
        let words: Vec<u64> =
            self.words.iter().zip(&other.words).map(|(word, other)| word & !other).collect();
        let count = words.iter().map(|word| word.count_ones()).sum();
        Self { words, len: self.len, count }
    }

    /// The pieces that are in `other` too, a set over the same blob.
    pub fn intersection(&self, other: &Self) -> Self {
        self.difference(&other.complement())
    }

    /// Whether every piece of `other`, a set over the same blob, is in this one.
    pub fn is_superset(&self, other: &Self) -> bool {
        other.difference(self).is_empty()
    }

    /// The pieces that are not in the set.
    pub fn complement(&self) -> Self {
        Self::full(self.len).difference(self)
    }
}

impl std::fmt::Debug for PieceSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PieceSet({}/{})", self.count, self.len)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_piece_the_blob_does_not_have_is_never_in_the_set() {
        let mut set = PieceSet::new(3);
        assert!(!set.insert(3));
        assert!(!set.contains(3) && !set.contains(u32::MAX));
        assert_eq!(PieceSet::from_runs(3, [Run { first: 2, count: 2 }]), None);
        assert_eq!(PieceSet::from_runs(3, [Run { first: u32::MAX, count: 2 }]), None);
        assert_eq!(PieceSet::from_runs(3, [Run { first: 0, count: 2 }, Run { first: 1, count: 1 }]), None);
    }

    proptest! {
        /// The bitset against the plainest model there is.
        #[test]
        fn it_behaves_like_a_sorted_set(len in 1_u32..300, steps in proptest::collection::vec((any::<bool>(), any::<u32>()), 0..200)) {
            let mut set = PieceSet::new(len);
            let mut model = BTreeSet::new();
            for (add, piece) in steps {
                let piece = piece % len;
                if add {
                    prop_assert_eq!(set.insert(piece), model.insert(piece));
                } else {
                    prop_assert_eq!(set.remove(piece), model.remove(&piece));
                }
            }
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), model.iter().copied().collect::<Vec<_>>());
            prop_assert_eq!(set.count() as usize, model.len());
            prop_assert_eq!(PieceSet::from_runs(len, set.runs()), Some(set.clone()));
            prop_assert_eq!(set.complement().complement(), set.clone());
            for from in 0..len {
                let missing = (from..len).find(|piece| !model.contains(piece)).unwrap_or(len);
                prop_assert_eq!(set.first_missing(from), missing);
            }
        }
    }
}
