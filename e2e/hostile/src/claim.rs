//! What a hostile peer says that it holds.

use flotilla_proto::wire::join_hashes;
use flotilla_proto::wire::scheduler::{Announce, Run, Want};
use flotilla_proto::{Digest, Layout, PieceHash};

use crate::answers::forged_piece;

/// Pieces of a blob.
#[derive(Debug, Clone)]
pub struct Claim {
    /// Of which blob.
    pub digest: Digest,
    /// Its size in bytes, or another one.
    pub size: u64,
    /// The first piece.
    pub first: u32,
    /// What the pieces from that on hash to, or something else.
    pub hashes: Vec<PieceHash>,
}

impl Claim {
    /// The first pieces of a blob that is known, with their true hashes. The size may be another.
    ///
    /// # Panics
    ///
    /// If no blob may be so long.
    #[must_use]
    pub fn of(blob: &[u8], size: u64, pieces: u32) -> Self {
        let layout = Layout::of(size).expect("a size that a blob may have");
        let within =
            |offset: u64| usize::try_from(offset).map_or(blob.len(), |offset| offset.min(blob.len()));
        let hash = |piece| {
            let range = layout.piece_range(piece);
            PieceHash::of(&blob[within(range.start)..within(range.end)])
        };
        Self { digest: Digest::of(blob), size, first: 0, hashes: (0..pieces).map(hash).collect() }
    }

    /// All of a blob that it has never seen.
    ///
    /// # Panics
    ///
    /// If no blob may be so long.
    #[must_use]
    pub fn made_up(digest: Digest, size: u64) -> Self {
        let layout = Layout::of(size).expect("a size that a blob may have");
        let hash = |piece: u32| PieceHash::of(&piece.to_be_bytes());
        Self { digest, size, first: 0, hashes: (0..layout.piece_count()).map(hash).collect() }
    }

    /// A blob from a piece on, with the hashes of other bytes, which [`Manner::Forges`](crate::Manner::Forges) sends.
    ///
    /// # Panics
    ///
    /// If no blob may be so long.
    #[must_use]
    pub fn forged(digest: Digest, size: u64, first: u32) -> Self {
        let layout = Layout::of(size).expect("a size that a blob may have");
        let hash = |piece: u32| PieceHash::of(&forged_piece(layout, piece));
        Self { digest, size, first, hashes: (first..layout.piece_count()).map(hash).collect() }
    }

    pub(crate) fn announcement(&self) -> Announce {
        let count = u32::try_from(self.hashes.len()).expect("few pieces");
        let (size, runs) = (self.size, vec![Run { first: self.first, count }]);
        Announce { digest: self.digest.into(), size, runs, hashes: join_hashes(&self.hashes) }
    }

    pub(crate) fn want(&self) -> Want {
        Want { digest: self.digest.into(), size: self.size, reader: true, ..Default::default() }
    }
}
