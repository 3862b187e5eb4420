//! One peer's part in a task: as a child, as a parent, or both.

use std::time::Instant;

use flotilla_proto::{PieceSet, Reader};

use crate::PeerKey;
use crate::records::Suspicion;
use crate::rows::Row;

/// A member's index in its task. It is used again after the member left, and whoever knew it
/// is told before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Seat(pub(crate) u32);

/// What a choice among many members looks at lies in one cache line: a look at a partner that
/// is then passed over costs little else.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Member {
    pub(crate) peer: PeerKey,
    /// What it holds and awaits.
    pub(crate) row: Row,
    /// Its zone's place in the task.
    pub(crate) zone: u32,
    pub(crate) held_count: u32,
    /// Held or in flight to it.
    pub(crate) taken_count: u32,
    /// The next piece that its client lacks, or would.
    pub(crate) next_piece: u32,
    pub(crate) seed: bool,
    /// What it wants, if it does.
    pub(crate) wish: Option<Wish>,
    /// Whether what it holds counts as copies: not if it sent a corrupt piece, or was removed.
    pub(crate) counted: bool,
    /// Whether it came with a part from an earlier life, which nobody has checked.
    pub(crate) found: bool,
    /// Whether what it holds counts as held.
    pub(crate) believed: bool,
    /// Whether it has delivered any piece of this blob.
    pub(crate) proven: bool,
    /// Whether any partner ever failed it.
    wary: bool,
    /// When it began to want, or a piece last reached it from a parent.
    pub(crate) progress_at: Instant,
    pub(crate) ties: Box<Ties>,
}

/// A member's relations to others.
#[derive(Debug, Default)]
pub(crate) struct Ties {
    /// What is in flight to it; at most [`Limits::window_max`](crate::Limits::window_max) and a few.
    pub(crate) in_flight: Vec<Flight>,
    /// Whom it may exchange with; the relation is symmetric.
    pub(crate) partners: Vec<Seat>,
    /// Partners that lately failed it, until when it leaves them alone.
    resting: Vec<(Seat, Instant)>,
    /// Partners that sent it a corrupt piece of this blob.
    banned: Vec<Seat>,
    /// What it wants of the blob, where that is not all.
    pub(crate) part: Option<PieceSet>,
    /// When it is looked at, should it get nothing.
    pub(crate) watched_at: Option<Instant>,
    /// When pieces from parents that have not delivered any yet are looked at.
    pub(crate) late_at: Option<Instant>,
    /// When it was asked for the hashes of what it holds.
    pub(crate) asked_hashes_at: Option<Instant>,
    /// Whether it did not tell them in time: what it holds does not count until it does.
    pub(crate) silent: bool,
    /// What speaks against its word that it holds pieces.
    pub(crate) suspicion: Suspicion,
}

/// A piece on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Flight {
    pub(crate) piece: u32,
    pub(crate) parent: Seat,
    pub(crate) planned_at: Instant,
    /// Whether it counts as a copy to be, and as something that the parent owes: not once the child has taken nothing
    /// for so long that it may never.
    pub(crate) weighs: bool,
}

/// A download's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wish {
    /// Whether a client reads.
    pub(crate) reads: bool,
    /// Whether it is for [`Ties::part`] only.
    pub(crate) is_part: bool,
}

impl Member {
    pub(crate) fn new(peer: PeerKey, seed: bool, zone: u32, row: Row, now: Instant) -> Self {
        Self {
            peer,
            row,
            zone,
            held_count: 0,
            taken_count: 0,
            next_piece: 0,
            seed,
            wish: None,
            counted: true,
            found: false,
            believed: true,
            proven: false,
            wary: false,
            progress_at: now,
            ties: Box::default(),
        }
    }

    pub(crate) fn flight(&self, piece: u32) -> Option<&Flight> {
        self.ties.in_flight.iter().find(|flight| flight.piece == piece)
    }

    /// Whether anything is in flight to it.
    pub(crate) fn awaits(&self) -> bool {
        self.taken_count > self.held_count
    }

    /// Whether a client reads what it wants.
    pub(crate) fn reads(&self) -> bool {
        self.wish.is_some_and(|wish| wish.reads)
    }

    /// The pieces that it wants, where it does not want all.
    pub(crate) fn part(&self) -> Option<&PieceSet> {
        // The ties lie in another cache line.
        self.wish.filter(|wish| wish.is_part).and(self.ties.part.as_ref())
    }

    /// Whether it takes pieces from that partner at this moment.
    pub(crate) fn accepts(&self, parent: Seat, now: Instant) -> bool {
        !self.wary
            || !self.bans(parent)
                && !self.ties.resting.iter().any(|(seat, until)| *seat == parent && *until > now)
    }

    /// Keeps it from a partner for a while.
    pub(crate) fn rest(&mut self, parent: Seat, now: Instant, until: Instant) {
        self.wary = true;
        let resting = &mut self.ties.resting;
        resting.retain(|(seat, until)| *seat != parent && *until > now);
        resting.push((parent, until));
    }

    /// Keeps it from a partner for good.
    pub(crate) fn ban(&mut self, parent: Seat) {
        self.wary = true;
        self.ties.banned.push(parent);
    }

    /// Whether that partner sent it a corrupt piece.
    pub(crate) fn bans(&self, parent: Seat) -> bool {
        self.ties.banned.contains(&parent)
    }

    /// Whether any did.
    pub(crate) fn was_sent_corrupt(&self) -> bool {
        !self.ties.banned.is_empty()
    }

    /// Forgets a partner.
    pub(crate) fn forget(&mut self, partner: Seat) {
        self.ties.partners.retain(|seat| *seat != partner);
        self.ties.resting.retain(|(seat, _)| *seat != partner);
        self.ties.banned.retain(|seat| *seat != partner);
    }

    /// Where its client reads. Where none does, equals are looked at from a place of its own,
    /// so that members without readers do not all want the same.
    pub(crate) fn reader(&self, piece_count: u32) -> Reader {
        let reads = self.reads();
        let own = self.peer.0.wrapping_mul(0x9e37_79b1) % piece_count.max(1);
        let piece = if reads { self.next_piece.min(piece_count) } else { own };
        Reader { piece, piece_count, reads }
    }
}
