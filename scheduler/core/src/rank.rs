//! The orders in which the planner prefers: plain structs, weightiest field first, lower
//! is better, a seeded hash last so that equals spread.

use std::fmt;

use crate::PeerKey;

/// Which child a free upload slot serves: the least served, then the least complete, so
/// that leaders do not run away from the rest (`scheduling.md` §2e).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChildRank {
    pub(crate) other_zone: bool,
    /// Pieces it awaits already.
    pub(crate) awaited_count: usize,
    /// Pieces it holds.
    pub(crate) held_count: u32,
    pub(crate) tie: u64,
}

/// Which parent a child with room takes a piece from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ParentRank {
    /// It sent a corrupt piece, or failed several children of late.
    pub blamed: bool,
    /// It is in another zone.
    pub other_zone: bool,
    /// Of the piece that it offers.
    pub score: PieceScore,
    /// Pieces it owes already.
    pub owed_count: u32,
    /// A hash of the two peers.
    pub tie: u64,
}

/// Which piece: rarity by doublings, then nearness to the reader (`scheduling.md` §2d):
/// `64 · ⌊log2(copies + 1)⌋ + (index − reader)`.
///
/// A piece that has not left the seeds comes before any that has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceScore {
    second_copy_from_seed: bool,
    value: u32,
}

impl PieceScore {
    /// The score of piece `index`, which `copies` peers other than seeds hold or receive.
    /// `reader` is the child's next piece in order; `None` where nobody reads.
    pub(crate) fn new(index: u32, copies: u16, reader: Option<Reader>, from_seed: bool) -> Self {
        let doublings = (u32::from(copies) + 1).ilog2();
        let distance = reader.map_or(0, |reader| reader.distance_to(index));
        Self { second_copy_from_seed: from_seed && copies > 0, value: PER_DOUBLING * doublings + distance }
    }
}

/// Where a client reads: pieces before its position come last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reader {
    pub(crate) piece: u32,
    pub(crate) piece_count: u32,
}

impl Reader {
    fn distance_to(self, index: u32) -> u32 {
        match index.checked_sub(self.piece) {
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
        let Self { blamed, other_zone, score, owed_count, tie: _ } = self;
        let zone = if *other_zone { "other zone" } else { "same zone" };
        let standing = if *blamed { "blamed" } else { "trusted" };
        write!(f, "{standing}, {zone}, score {score}, owes {owed_count}")
    }
}

/// A hash of (child, parent) under the scheduler's seed (the finaliser of SplitMix64,
/// Steele, Lea & Flood 2014).
pub(crate) fn tie(seed: u64, child: PeerKey, parent: PeerKey) -> u64 {
    let mut z = seed ^ (u64::from(child.0) << 32 | u64::from(parent.0));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 32 to 64 points a doubling are best, 8 or 128 are worse (`scheduling.md` §2d).
const PER_DOUBLING: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    const START: Option<Reader> = Some(Reader { piece: 0, piece_count: 1024 });

    #[test]
    fn a_doubling_of_copies_weighs_as_much_as_64_pieces_of_distance() {
        let score = |index, copies| PieceScore::new(index, copies, START, false);
        assert!(score(63, 0) < score(0, 1));
        assert_eq!(score(64, 0), score(0, 1));
        assert!(score(65, 0) > score(0, 2));
    }

    #[test]
    fn what_has_not_left_the_seed_comes_first_from_it() {
        let score = |index, copies| PieceScore::new(index, copies, START, true);
        assert!(score(1000, 0) < score(0, 1));
    }

    #[test]
    fn pieces_behind_the_reader_come_last() {
        let reader = Some(Reader { piece: 10, piece_count: 20 });
        let score = |index| PieceScore::new(index, 0, reader, false);
        assert!(score(10) < score(19) && score(19) < score(0));
    }
}
