//! Pieces that were written or read lately, still in memory: a piece that has just arrived is
//! wanted at once by other peers, by the SHA-256 of its blob and by this node's clients, and each
//! of them would read it from the disk and hash it again.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard};

use bytes::Bytes;
use flotilla_proto::{Digest, PieceHash};

/// Verified pieces, at most [`RECENT_BYTES`] of them; the one that came first goes first.
#[derive(Debug, Default)]
pub(super) struct Recent {
    /// Held for a look-up or an insertion, never across IO.
    pieces: Mutex<Pieces>,
}

#[derive(Debug, Default)]
struct Pieces {
    piece_by_place: HashMap<(Digest, u32), (PieceHash, Bytes)>,
    order: VecDeque<(Digest, u32)>,
    bytes: usize,
}

impl Recent {
    /// The piece, if it is here and has this hash.
    pub(super) fn piece(&self, digest: Digest, piece: u32, hash: PieceHash) -> Option<Bytes> {
        let pieces = self.lock();
        let (found, bytes) = pieces.piece_by_place.get(&(digest, piece))?;
        (*found == hash).then(|| bytes.clone())
    }

    /// Keeps a piece whose bytes have this hash.
    pub(super) fn keep(&self, digest: Digest, piece: u32, hash: PieceHash, bytes: Bytes) {
        let mut pieces = self.lock();
        let len = bytes.len();
        match pieces.piece_by_place.insert((digest, piece), (hash, bytes)) {
            Some((_, former)) => pieces.bytes -= former.len(),
            None => pieces.order.push_back((digest, piece)),
        }
        pieces.bytes += len;
        while pieces.bytes > RECENT_BYTES {
            pieces.drop_first();
        }
    }

    #[cfg(test)]
    pub(super) fn clear(&self) {
        *self.lock() = Pieces::default();
    }

    fn lock(&self) -> MutexGuard<'_, Pieces> {
        self.pieces.lock().expect("no panic while the pieces are locked")
    }
}

impl Pieces {
    fn drop_first(&mut self) {
        let first = self.order.pop_front().expect("bytes are of pieces");
        let (_, bytes) = self.piece_by_place.remove(&first).expect("every place in order has its piece");
        self.bytes -= bytes.len();
    }
}

/// The node's budget for sending (docs/design.md §5): what is sent is mostly what is here.
const RECENT_BYTES: usize = 32 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_piece_is_found_under_its_hash_only() {
        let recent = Recent::default();
        let (digest, bytes) = (Digest::of(b"blob"), Bytes::from_static(b"piece"));
        let hash = PieceHash::of(&bytes);
        recent.keep(digest, 3, hash, bytes.clone());
        assert_eq!(recent.piece(digest, 3, hash), Some(bytes));
        assert_eq!(recent.piece(digest, 3, PieceHash::of(b"other")), None);
        assert_eq!(recent.piece(digest, 2, hash), None);
        assert_eq!(recent.piece(Digest::of(b"other"), 3, hash), None);
    }

    #[test]
    fn the_first_goes_first_and_the_budget_holds() {
        let recent = Recent::default();
        let (digest, bytes) = (Digest::of(b"blob"), Bytes::from(vec![0; RECENT_BYTES / 4]));
        let hash = PieceHash::of(&bytes);
        for piece in [0, 1, 2, 0, 3, 4] {
            recent.keep(digest, piece, hash, bytes.clone());
            assert!(recent.lock().bytes <= RECENT_BYTES);
        }
        let kept: Vec<u32> = (0..5).filter(|piece| recent.piece(digest, *piece, hash).is_some()).collect();
        assert_eq!(kept, [1, 2, 3, 4]);
    }
}
