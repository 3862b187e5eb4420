//! One blob at this peer: what is held, what is on its way, who waits.

use std::collections::BTreeMap;

use flotilla_proto::{Layout, PeerId, PieceSet};

/// What this peer holds and does of one blob. It lives as long as anything is held or wanted.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) layout: Layout,
    pub(crate) held: PieceSet,
    /// Whether its SHA-256 was found right. Only a full blob is.
    pub(crate) verified: bool,
    /// Whether a client waits for it.
    pub(crate) wanted: bool,
    /// Whether its bytes are being hashed from end to end.
    pub(crate) hashing: bool,
    /// Pieces on their way from other peers, and from whom.
    pub(crate) fetching: BTreeMap<u32, PeerId>,
    /// Pieces on their way from the registry.
    pub(crate) reading: PieceSet,
    /// The next piece the slowest client needs.
    pub(crate) reader: u32,
}

impl Blob {
    pub(crate) fn new(layout: Layout) -> Self {
        let piece_count = layout.piece_count();
        Self {
            layout,
            held: PieceSet::new(piece_count),
            verified: false,
            wanted: false,
            hashing: false,
            fetching: BTreeMap::new(),
            reading: PieceSet::new(piece_count),
            reader: 0,
        }
    }

    /// Whether clients may read the piece now. The last one only once the whole is verified.
    pub(crate) fn releases(&self, piece: u32) -> bool {
        self.verified || self.layout.last_piece() != Some(piece)
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && !self.wanted && self.fetching.is_empty() && self.reading.is_empty()
    }
}
