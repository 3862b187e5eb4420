//! What may not happen in any history.

use std::time::Duration;

use flotilla_proto::{Digest, PeerId};
use flotilla_scheduler_core::PeerKey;

/// How a history broke what always holds (docs/design.md §1), or did not end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// §2.1.
    #[error("piece {piece} of {digest:?} is read from the registry while {holder} holds it")]
    ReadThoughHeld {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// One who holds it.
        holder: PeerId,
    },
    /// §2.1: the planner ordered to read what somebody announced.
    #[error("a read of piece {piece} of {digest:?} is ordered though a peer announced it")]
    ReadOrderedThoughAnnounced {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// §2.2: a peer announced what it does not hold.
    #[error("{peer} announced piece {piece} of {digest:?}, which it does not hold")]
    AnnouncedNotHeld {
        /// Who.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// §2.2: clients were let read what is not there, or the last piece too early.
    #[error("{peer} released piece {piece} of {digest:?} before it might")]
    ReleasedTooEarly {
        /// Who.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// §2.2: a blob counts as complete though its SHA-256 was not found right.
    #[error("{peer} completed {digest:?} unverified")]
    CompletedUnverified {
        /// Who.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
    },
    /// More crossed into a zone than its link's budget lets through.
    #[error("{bytes} bytes crossed into zone {zone} in {after:?}, more than its budget allows")]
    BudgetOverrun {
        /// Which zone.
        zone: u32,
        /// So many.
        bytes: u64,
        /// So soon.
        after: Duration,
    },
    /// The planner told a child to fetch what it has, or awaits.
    #[error("piece {piece} of {digest:?} is planned to {child:?}, which has it or awaits it")]
    PlannedTwice {
        /// Who.
        child: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// The planner chose a parent that never announced the piece.
    #[error("piece {piece} of {digest:?} is planned from {parent:?}, which never announced it")]
    PlannedFromNobody {
        /// Who.
        parent: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// §2.8: a parent owes, or a child awaits, more than the limits say.
    #[error("{parent:?} owes or {child:?} awaits more than the limits allow")]
    OverLimit {
        /// Who sends.
        parent: PeerKey,
        /// Who receives.
        child: PeerKey,
    },
    /// §2.9.
    #[error("{parent:?} has a free slot and its partner {child:?} lacks a piece of {digest:?} that it holds")]
    Idle {
        /// Who could send.
        parent: PeerKey,
        /// Who could receive.
        child: PeerKey,
        /// Which blob.
        digest: Digest,
    },
    /// A child was told a wrong hash.
    #[error("{peer} was told a wrong hash for piece {piece} of {digest:?}")]
    WrongHash {
        /// Who.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// A download of a living peer failed.
    #[error("the download of {digest:?} at {peer} failed: {message}")]
    DownloadFailed {
        /// Who.
        peer: PeerId,
        /// Which blob.
        digest: Digest,
        /// What its client read.
        message: String,
    },
    /// A living peer did not get what it wants.
    #[error("{unfinished} peers, {peer} among them, were not done after {after:?}")]
    Unfinished {
        /// How many.
        unfinished: usize,
        /// One of them.
        peer: PeerId,
        /// When the history was given up.
        after: Duration,
    },
}
