//! One blob at this peer: what is held, what is on its way, who waits.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use flotilla_proto::{Layout, PeerId, PieceSet};

use crate::partner::{Partner, Picking};
use crate::requests::{Choice, Requests};

/// What this peer holds and does of one blob. It lives as long as anything is held or wanted.
#[derive(Debug)]
pub(crate) struct Blob {
    pub(crate) layout: Layout,
    pub(crate) held: PieceSet,
    /// Pieces that match what only peers say that they hash to.
    pub(crate) hearsay: PieceSet,
    /// Whether its SHA-256 was found right. Only a full blob is.
    pub(crate) verified: bool,
    /// The pieces that clients wait for or have had since somebody began to wait; `None` while nobody waits.
    pub(crate) wish: Option<PieceSet>,
    /// Whether its bytes are being hashed from end to end.
    pub(crate) hashing: bool,
    /// Whether that may have begun with a piece that was replaced since.
    pub(crate) hashes_former: bool,
    /// What was asked of other peers.
    pub(crate) requests: Requests,
    /// What the scheduler assigned while the piece was on its way already: should that fail.
    pub(crate) set_aside: BTreeMap<u32, Choice>,
    /// Parents that sent a corrupt piece: never asked again for this blob.
    pub(crate) barred: BTreeSet<PeerId>,
    /// Pieces on their way from the registry.
    pub(crate) reading: PieceSet,
    /// The next piece the slowest client needs.
    pub(crate) reader: u32,
    /// When a piece last came, or the wait for the first began.
    pub(crate) progress_at: Instant,
    /// With whom the scheduler had it exchange pieces.
    pub(crate) partners: BTreeMap<PeerId, Partner>,
    /// Whether the scheduler left the choice of pieces to this peer.
    pub(crate) picks_ordered: bool,
    /// What it picks by, while it does.
    pub(crate) picking: Option<Picking>,
}

impl Blob {
    pub(crate) fn new(layout: Layout, now: Instant) -> Self {
        let piece_count = layout.piece_count();
        Self {
            layout,
            held: PieceSet::new(piece_count),
            hearsay: PieceSet::new(piece_count),
            verified: false,
            wish: None,
            hashing: false,
            hashes_former: false,
            requests: Requests::default(),
            set_aside: BTreeMap::new(),
            barred: BTreeSet::new(),
            reading: PieceSet::new(piece_count),
            reader: 0,
            progress_at: now,
            partners: BTreeMap::new(),
            picks_ordered: false,
            picking: None,
        }
    }

    /// Whether clients may read the piece now. The last one, and hearsay, only once the whole is verified.
    pub(crate) fn releases(&self, piece: u32) -> bool {
        self.verified || self.layout.last_piece() != Some(piece) && !self.hearsay.contains(piece)
    }

    /// Whether nothing would be lost by forgetting it.
    pub(crate) fn is_idle(&self) -> bool {
        self.held.is_empty() && self.wish.is_none() && !self.is_under_way()
    }

    /// Whether everything is held that clients wait for. Of the whole blob that is not enough: it is to be right.
    pub(crate) fn is_wish_met(&self) -> bool {
        !self.held.is_full() && self.wish.as_ref().is_some_and(|wish| self.held.is_superset(wish))
    }

    /// Whether any piece is on its way.
    pub(crate) fn is_under_way(&self) -> bool {
        self.requests.len() > 0 || !self.reading.is_empty()
    }

    /// What clients wait for that is neither held nor known to be on its way.
    pub(crate) fn lacking(&self) -> PieceSet {
        let Some(wish) = &self.wish else { return PieceSet::new(self.layout.piece_count()) };
        let mut lacking = wish.difference(&self.held).difference(&self.reading);
        self.requests.strike_awaited(&mut lacking);
        lacking
    }

    /// Bytes of pieces that were asked of other peers, at most.
    pub(crate) fn awaited_bytes(&self) -> u64 {
        self.requests.len() as u64 * u64::from(self.layout.piece_len().bytes())
    }
}
