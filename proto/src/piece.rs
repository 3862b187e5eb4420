//! Piece arithmetic: how a blob is cut, and which pieces a byte range touches.

use std::fmt;
use std::ops::Range;

use crate::{Digest, PieceSet};

/// The length of every piece of a blob but the last: a power of two from 128 KiB to 4 MiB.
///
/// A pure function of the blob's size, so that two peers that never spoke cut alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PieceLen(u32);

impl PieceLen {
    /// Below this the control round trip shows (`docs/design.md` §4a).
    pub const MIN: Self = Self(128 << 10);
    /// Above this the windows of many connections break a peer's memory budget.
    pub const MAX: Self = Self(4 << 20);
    /// Pieces a blob is cut into, roughly: this many reach 1.07 of the lower bound.
    const PIECES_AIMED_AT: u64 = 1024;

    /// The piece length for a blob of `size` bytes: `size / 1024` rounded up to a power
    /// of two, within [`Self::MIN`] and [`Self::MAX`].
    pub fn for_blob(size: u64) -> Self {
        let wanted = size.div_ceil(Self::PIECES_AIMED_AT).next_power_of_two();
        let bounded = wanted.clamp(Self::MIN.0.into(), Self::MAX.0.into());
        Self(u32::try_from(bounded).expect("at most 4 MiB"))
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// How one blob is cut into pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    size: u64,
    piece_len: PieceLen,
    /// Kept, because the planner asks for it several times a piece.
    piece_count: u32,
}

impl Layout {
    /// Blobs above this are refused: 2^20 pieces of 4 MiB, 4 TiB.
    pub const MAX_SIZE: u64 = (1 << 20) * (4 << 20);

    /// The layout of a blob of `size` bytes; `None` above [`Self::MAX_SIZE`].
    pub fn of(size: u64) -> Option<Self> {
        let piece_len = PieceLen::for_blob(size);
        let piece_count = u32::try_from(size.div_ceil(piece_len.0.into())).ok()?;
        (size <= Self::MAX_SIZE).then_some(Self { size, piece_len, piece_count })
    }

    /// The blob's size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// The length of every piece but the last.
    pub const fn piece_len(&self) -> PieceLen {
        self.piece_len
    }

    /// How many pieces there are; none in an empty blob.
    pub const fn piece_count(&self) -> u32 {
        self.piece_count
    }

    /// The index of the last piece; `None` in an empty blob.
    pub fn last_piece(&self) -> Option<u32> {
        self.piece_count().checked_sub(1)
    }

    /// Where the piece lies in the blob, in bytes.
    ///
    /// # Panics
    /// If there is no such piece.
    pub fn piece_range(&self, piece: u32) -> Range<u64> {
        assert!(piece < self.piece_count(), "piece {piece} of {}", self.piece_count());
        let start = u64::from(piece) * u64::from(self.piece_len.0);
        start..(start + u64::from(self.piece_len.0)).min(self.size)
    }

    /// How many bytes the piece has.
    ///
    /// # Panics
    /// If there is no such piece.
    pub fn piece_size(&self, piece: u32) -> u32 {
        let range = self.piece_range(piece);
        u32::try_from(range.end - range.start).expect("at most a piece length")
    }

    /// The piece that holds the byte at `offset`.
    pub fn piece_at(&self, offset: u64) -> u32 {
        debug_assert!(offset < self.size, "offset {offset} of {}", self.size);
        u32::try_from(offset / u64::from(self.piece_len.0)).expect("bounded by MAX_SIZE")
    }

    /// The pieces that a byte range touches; empty for an empty range.
    pub fn pieces_of(&self, bytes: &Range<u64>) -> Range<u32> {
        if bytes.is_empty() {
            return 0..0;
        }
        self.piece_at(bytes.start)..self.piece_at(bytes.end - 1) + 1
    }

    /// How many bytes these pieces have together.
    pub fn bytes_in(&self, pieces: &PieceSet) -> u64 {
        let full = u64::from(pieces.count()) * u64::from(self.piece_len.0);
        let last_is_in = self.last_piece().is_some_and(|last| pieces.contains(last));
        let missing_at_end = u64::from(self.piece_count()) * u64::from(self.piece_len.0) - self.size;
        if last_is_in { full - missing_at_end } else { full }
    }
}

/// Consecutive pieces `[first, first + count)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Run {
    /// The first piece's index.
    pub first: u32,
    /// How many pieces.
    pub count: u32,
}

impl Run {
    /// The indices; empty where `first + count` overflows.
    pub fn pieces(&self) -> Range<u32> {
        match self.first.checked_add(self.count) {
            Some(end) => self.first..end,
            None => 0..0,
        }
    }
}

/// The BLAKE3 of one piece: what it is checked against before anyone else sees it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct PieceHash([u8; 32]);

impl PieceHash {
    /// Length on the wire and on disk, in bytes.
    pub const LEN: usize = 32;

    /// The hash whose 32 bytes these are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The hash of a piece's bytes.
    pub fn of(piece: &[u8]) -> Self {
        Self(*blake3::hash(piece).as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for PieceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PieceHash({})", hex::encode(&self.0[..6]))
    }
}

/// The name of one list of piece hashes, and so of one variant of a blob's bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Root([u8; 32]);

impl Root {
    /// The root whose 32 bytes these are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The BLAKE3 of the hashes of a blob's pieces, in the order of their index. Where one is not
    /// known, of 32 zeros in its place.
    pub fn of(hashes: impl IntoIterator<Item = Option<PieceHash>>) -> Self {
        let mut hasher = blake3::Hasher::new();
        for hash in hashes {
            hasher.update(&hash.map_or([0; PieceHash::LEN], |hash| hash.0));
        }
        Self(*hasher.finalize().as_bytes())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for Root {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Root({})", hex::encode(&self.0[..6]))
    }
}

/// What is spread under a digest, by the list of its piece hashes. Where a registry sent wrong
/// bytes, a digest has several, of which SHA-256 knows the right one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Variant {
    /// Whose bytes they are said to be.
    pub digest: Digest,
    /// Which list.
    pub root: Root,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn piece_length_follows_the_blob_and_stays_within_bounds() {
        let len = |size| PieceLen::for_blob(size).bytes();
        assert_eq!(len(0), 128 << 10);
        assert_eq!(len(128 << 20), 128 << 10);
        assert_eq!(len((128 << 20) + 1), 256 << 10);
        assert_eq!(len(512 << 20), 512 << 10);
        assert_eq!(len(20 << 30), 4 << 20);
    }

    #[test]
    fn an_empty_blob_has_no_pieces() {
        let layout = Layout::of(0).unwrap();
        assert_eq!((layout.piece_count(), layout.last_piece()), (0, None));
        assert_eq!(layout.pieces_of(&(0..0)), 0..0);
    }

    #[test]
    fn a_blob_too_large_has_no_layout() {
        assert!(Layout::of(Layout::MAX_SIZE).is_some());
        assert!(Layout::of(Layout::MAX_SIZE + 1).is_none());
    }

    proptest! {
        #[test]
        fn pieces_tile_the_blob(size in 1_u64..(6 << 30)) {
            let layout = Layout::of(size).unwrap();
            let last = layout.last_piece().unwrap();
            prop_assert_eq!(layout.piece_range(0).start, 0);
            prop_assert_eq!(layout.piece_range(last).end, size);
            for piece in [0, last / 2, last.saturating_sub(1)] {
                if piece < last {
                    prop_assert_eq!(layout.piece_range(piece).end, layout.piece_range(piece + 1).start);
                }
            }
            let mut all = PieceSet::new(layout.piece_count());
            all.insert_all();
            prop_assert_eq!(layout.bytes_in(&all), size);
        }

        #[test]
        fn a_byte_range_lies_inside_the_pieces_it_touches(size in 1_u64..(1 << 30), a: u64, b: u64) {
            let layout = Layout::of(size).unwrap();
            let (a, b) = (a % size, b % size);
            let bytes = a.min(b)..a.max(b) + 1;
            let pieces = layout.pieces_of(&bytes);
            prop_assert!(layout.piece_range(pieces.start).contains(&bytes.start));
            prop_assert!(layout.piece_range(pieces.end - 1).contains(&(bytes.end - 1)));
        }
    }
}
