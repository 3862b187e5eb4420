//! The orders in which the planner prefers: plain structs, weightiest field first, lower
//! is better, a seeded hash last so that equals spread.

use std::fmt;

use crate::PeerKey;
use crate::hash::mix;

/// Which child a free upload slot serves: the least served, then the least complete, so
/// that leaders do not run away from the rest (`scheduling.md` §2e).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChildRank {
    /// Nothing reached it for so long that its client may give up comes first.
    pub(crate) fed_lately: bool,
    /// A crossing into another zone comes first: thin links are the scarcest, and the zone's
    /// gate lets no more cross than they carry. Not so from a seed, whose uplink is scarcer:
    /// what it gives its own zone crosses from there.
    pub(crate) crosses_last: bool,
    /// No client waits.
    pub(crate) preheats: bool,
    /// What it awaits over all its downloads, in 64ths of what it may.
    pub(crate) fill: u32,
    /// What it holds of the blob, in 1024ths.
    pub(crate) completeness: u32,
    pub(crate) tie: u64,
}

/// Which parent a child with room takes a piece from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRank {
    /// It sent a corrupt piece, or failed several children of late.
    pub blamed: bool,
    /// A crossing from another zone comes first.
    pub stays_in_zone: bool,
    /// Of the piece that it offers.
    pub score: PieceScore,
    /// What it owes, in 64ths of what it may.
    pub fill: u32,
    /// A hash of the two peers.
    pub tie: u64,
}

/// Which piece: rarity by doublings, then nearness to the reader (`scheduling.md` §2d):
/// `64 · ⌊log2(copies + 1)⌋ + (index − reader)`.
///
/// A piece that has not left the seeds comes before any that has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceScore {
    /// A seed would send a copy of what it sent before.
    pub second_copy_from_seed: bool,
    /// The sum.
    pub value: u32,
}

impl PieceScore {
    /// The score of piece `index`, which `copies` peers of the child's zone other than seeds
    /// hold or await.
    pub(crate) fn new(index: u32, copies: u32, reader: Reader, second_copy_from_seed: bool) -> Self {
        let value = PER_DOUBLING * (copies + 1).ilog2() + reader.distance_to(index);
        Self { second_copy_from_seed, value }
    }
}

/// Where a client reads: pieces before its position come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reader {
    /// The next piece in order; where nobody reads, any, from which equals are looked at.
    pub(crate) piece: u32,
    pub(crate) piece_count: u32,
    /// Whether a client reads.
    pub(crate) reads: bool,
}

impl Reader {
    pub(crate) fn distance_to(self, index: u32) -> u32 {
        match index.checked_sub(self.piece) {
            _ if !self.reads => 0,
            Some(ahead) => ahead,
            None => self.piece_count - self.piece + index,
        }
    }
}

impl fmt::Display for PieceScore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let second = if self.second_copy_from_seed { "+" } else { "" };
        write!(f, "{}{second}", self.value)
    }
}

impl fmt::Display for ParentRank {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { blamed, stays_in_zone, score, fill, tie: _ } = self;
        let standing = if *blamed { "blamed" } else { "trusted" };
        let way = if *stays_in_zone { "same zone" } else { "crossing" };
        write!(f, "{standing}, {way}, score {score}, owes {fill}/64")
    }
}

/// A hash of (child, parent) under the scheduler's seed.
pub(crate) fn tie(seed: u64, child: PeerKey, parent: PeerKey) -> u64 {
    mix(seed ^ (u64::from(child.0) << 32 | u64::from(parent.0)))
}

/// 32 to 64 points a doubling are best, 8 or 128 are worse (`scheduling.md` §2d).
pub(crate) const PER_DOUBLING: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const START: Reader = Reader { piece: 0, piece_count: 1024, reads: true };

    #[test]
    fn a_doubling_of_copies_weighs_as_much_as_64_pieces_of_distance() {
        let score = |index, copies| PieceScore::new(index, copies, START, false);
        assert!(score(63, 0) < score(0, 1));
        assert_eq!(score(64, 0), score(0, 1));
        assert!(score(65, 0) > score(0, 2));
    }

    #[test]
    fn what_has_not_left_the_seed_comes_first_from_it() {
        let score = |index, second| PieceScore::new(index, 0, START, second);
        assert!(score(1000, false) < score(0, true));
    }

    #[test]
    fn pieces_behind_the_reader_come_last() {
        let reader = Reader { piece: 10, piece_count: 20, reads: true };
        let score = |index| PieceScore::new(index, 0, reader, false);
        assert!(score(10) < score(19) && score(19) < score(0));
    }
}
