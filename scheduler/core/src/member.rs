//! One peer's part in a task: as a child, as a parent, or both.

use std::time::Instant;

use crate::PeerKey;
use crate::rank::Reader;
use crate::rows::Row;

/// A member's index in its task. It is used again after the member left, and whoever knew it
/// is told before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seat(pub(crate) u32);

#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) peer: PeerKey,
    pub(crate) seed: bool,
    /// Its zone's place in the task.
    pub(crate) zone: u32,
    /// What it holds and awaits.
    pub(crate) row: Row,
    pub(crate) held_count: u32,
    /// Held or in flight to it.
    pub(crate) taken_count: u32,
    /// What is in flight to it; at most [`Limits::window_max`](crate::Limits::window_max) and a few.
    pub(crate) in_flight: Vec<Flight>,
    /// What it wants, if it does.
    pub(crate) wish: Option<Wish>,
    /// Whom it may exchange with; the relation is symmetric.
    pub(crate) partners: Vec<Seat>,
    /// Partners that lately failed it, until when it leaves them alone.
    pub(crate) resting: Vec<(Seat, Instant)>,
    /// Partners that sent it a corrupt piece of this blob.
    pub(crate) banned: Vec<Seat>,
    /// Whether what it holds counts as copies: not if it sent a corrupt piece, or was removed.
    pub(crate) counted: bool,
    /// Whether it sent a corrupt piece of this blob.
    pub(crate) corrupt: bool,
    /// When it began to want, or a piece last reached it from a parent.
    pub(crate) progress_at: Instant,
    /// Whether it was asked for the hashes of what it holds.
    pub(crate) asked_hashes: bool,
    /// The next piece that its client lacks, or would.
    pub(crate) next_piece: u32,
}

/// A piece on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) piece: u32,
    pub(crate) parent: Seat,
    pub(crate) planned_at: Instant,
}

/// A download's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// The next piece that the slowest client needs; `None` where no client waits.
    pub(crate) reader: Option<u32>,
}

impl Member {
    pub(crate) fn new(peer: PeerKey, seed: bool, zone: u32, row: Row, now: Instant) -> Self {
        Self {
            peer,
            seed,
            zone,
            row,
            held_count: 0,
            taken_count: 0,
            in_flight: Vec::new(),
            wish: None,
            partners: Vec::new(),
            resting: Vec::new(),
            banned: Vec::new(),
            counted: true,
            corrupt: false,
            progress_at: now,
            asked_hashes: false,
            next_piece: 0,
        }
    }

    pub(crate) fn flight(&self, piece: u32) -> Option<&Flight> {
        self.in_flight.iter().find(|flight| flight.piece == piece)
    }

    /// Whether it takes pieces from that partner at this moment.
    pub(crate) fn accepts(&self, parent: Seat, now: Instant) -> bool {
        !self.banned.contains(&parent)
            && !self.resting.iter().any(|(seat, until)| *seat == parent && *until > now)
    }

    /// Keeps it from a partner for a while.
    pub(crate) fn rest(&mut self, parent: Seat, now: Instant, until: Instant) {
        self.resting.retain(|(seat, until)| *seat != parent && *until > now);
        self.resting.push((parent, until));
    }

    /// Forgets a partner.
    pub(crate) fn forget(&mut self, partner: Seat) {
        self.partners.retain(|seat| *seat != partner);
        self.resting.retain(|(seat, _)| *seat != partner);
        self.banned.retain(|seat| *seat != partner);
    }

    /// Where its client reads. Where none does, equals are looked at from a place of its own,
    /// so that members without readers do not all want the same.
    pub(crate) fn reader(&self, piece_count: u32) -> Reader {
        let reads = self.wish.is_some_and(|wish| wish.reader.is_some());
        let own = self.peer.0.wrapping_mul(0x9e37_79b1) % piece_count.max(1);
        let piece = if reads { self.next_piece.min(piece_count) } else { own };
        Reader { piece, piece_count, reads }
    }
}
