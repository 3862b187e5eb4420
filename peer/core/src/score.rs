//! Which piece first: the planner's score, from what one peer sees (`scheduling.md` §2d).

use flotilla_proto::PeerId;

/// Rarity by doublings, then nearness to the reader:
/// `64 · ⌊log2(copies + 1)⌋ + (index − in-order prefix)`. Lower is first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PieceScore(u32);

impl PieceScore {
    /// The score of a piece that `copies` partners other than seeds hold. `reader` is the
    /// first piece that the slowest client lacks; pieces before it come last.
    pub(crate) fn new(piece: u32, copies: u16, reader: u32, piece_count: u32) -> Self {
        let doublings = (u32::from(copies) + 1).ilog2();
        let distance = piece.checked_sub(reader).unwrap_or(piece_count - reader + piece);
        Self(PER_DOUBLING * doublings + distance)
    }
}

/// A hash of (parent, piece) under the peer's seed: equals spread over parents.
pub(crate) fn tie(seed: u64, parent: &PeerId, piece: u32) -> u64 {
    let name = parent.as_str().bytes().fold(seed ^ u64::from(piece), |z, byte| mix(z ^ u64::from(byte)));
    mix(name)
}

/// The finaliser of SplitMix64 (Steele, Lea & Flood 2014).
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// 32 to 64 points a doubling are best, 8 or 128 are worse (`scheduling.md` §2d).
const PER_DOUBLING: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_doubling_of_copies_weighs_as_much_as_64_pieces_of_distance() {
        let score = |piece, copies| PieceScore::new(piece, copies, 0, 1024);
        assert!(score(63, 0) < score(0, 1));
        assert_eq!(score(64, 0), score(0, 1));
        assert!(score(65, 0) > score(0, 2));
    }

    #[test]
    fn pieces_behind_the_reader_come_last() {
        let score = |piece| PieceScore::new(piece, 0, 10, 20);
        assert!(score(10) < score(19) && score(19) < score(0));
    }
}
