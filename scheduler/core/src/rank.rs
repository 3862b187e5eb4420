//! The orders in which the planner prefers: plain structs, weightiest field first, lower
//! is better, a seeded hash last so that equals spread.

use std::fmt;

use flotilla_proto::{Reader, mix};

use crate::PeerKey;

/// Which child a free upload slot serves: the least served, then the least complete, so
/// that leaders do not run away from the rest (`docs/design.md` §4e).
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

/// Which piece: rarity by doublings, then nearness to the reader ([`Reader::score`]).
///
/// A piece that has not left the seeds comes before any that has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PieceScore {
    /// A seed would send a copy of what it sent before.
    pub second_copy_from_seed: bool,
    /// By rarity and nearness.
    pub value: u32,
}

impl PieceScore {
    /// The score of piece `index`, which `copies` peers of the child's zone other than seeds
    /// hold or await.
    pub(crate) fn new(index: u32, copies: u32, reader: Reader, second_copy_from_seed: bool) -> Self {
        Self { second_copy_from_seed, value: reader.score(index, copies) }
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

#[cfg(test)]
mod tests {
    use super::*;

    const START: Reader = Reader { piece: 0, piece_count: 1024, reads: true };

    #[test]
    fn what_has_not_left_the_seed_comes_first_from_it() {
        let score = |index, second| PieceScore::new(index, 0, START, second);
        assert!(score(1000, false) < score(0, true));
    }
}
