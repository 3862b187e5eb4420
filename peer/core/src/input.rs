//! What happened.

use std::time::Duration;

use flotilla_proto::{Digest, Failure, Layout, PeerId, PieceHash, PieceSet, Root, Variant};

/// What happened to this peer. An input about a download or piece that is not there any
/// more is late news and changes nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The store holds this of a blob, from an earlier life of the daemon.
    Found {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// What is held.
        pieces: PieceSet,
        /// Those of which only peers say what they hash to.
        hearsay: PieceSet,
        /// Whether its SHA-256 was found right.
        complete: bool,
    },
    /// The store remembers that a variant was purged, from an earlier life of the daemon.
    TombstoneFound {
        /// Which.
        variant: Variant,
    },
    /// A client wants a blob, or some pieces of it; besides what others want.
    Wanted {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// What is wanted.
        pieces: PieceSet,
    },
    /// A client's position in a blob moved: the next piece it needs, the slowest client's if
    /// there are several.
    ReaderMoved {
        /// Which blob.
        digest: Digest,
        /// The piece.
        piece: u32,
    },
    /// The stream to the scheduler stands.
    SchedulerUp,
    /// The stream to the scheduler is gone.
    SchedulerDown,
    /// The scheduler says: fetch this piece.
    Assigned {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// From whom.
        parent: PeerId,
        /// What it must hash to.
        hash: PieceHash,
        /// Whether only peers say so.
        hearsay: bool,
    },
    /// The scheduler says: that piece is not wanted any more.
    Cancelled {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// The scheduler says: the blob cannot be had.
    TaskFailed {
        /// Which blob.
        digest: Digest,
        /// Why.
        failure: Failure,
        /// What is purged from the region, if anything is.
        root: Option<Root>,
    },
    /// The scheduler says that a variant was purged, maybe while this peer was away.
    Entombed {
        /// Which.
        variant: Variant,
    },
    /// The scheduler says which seed reads the blob.
    SeedNamed {
        /// Which blob.
        digest: Digest,
        /// The seed.
        seed: PeerId,
    },
    /// The scheduler lacks the hashes of a blob.
    HashesWanted {
        /// Which blob.
        digest: Digest,
    },
    /// The scheduler orders a read from the registry. Seeds only.
    ReadOrdered {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// The pieces.
        pieces: PieceSet,
    },
    /// The scheduler says: exchange pieces of this blob with that peer.
    PartnerNamed {
        /// Which blob.
        digest: Digest,
        /// With whom.
        partner: PeerId,
        /// Whether it is a seed: it chooses itself what it gives.
        seed: bool,
        /// Whether it is in this peer's zone. What crosses zones is the scheduler's to plan.
        same_zone: bool,
    },
    /// The scheduler says: that peer is no partner any more.
    PartnerLost {
        /// Which blob.
        digest: Digest,
        /// Who.
        partner: PeerId,
    },
    /// The scheduler says whether this peer chooses the pieces of a download by itself.
    PickingOrdered {
        /// Which blob.
        digest: Digest,
        /// Whether it does, from here on.
        picks: bool,
    },
    /// The scheduler says how far a read from the registry may go. Seeds only.
    SourcePaced {
        /// Which blob.
        digest: Digest,
        /// No piece at or above this index is read for the present.
        until: u32,
    },
    /// The scheduler says how long reports are gathered.
    ReportsPaced {
        /// From one batch to the next; zero: at once.
        interval: Duration,
    },
    /// A partner that is followed holds these pieces, besides those it told before.
    PartnerHolds {
        /// Which blob.
        digest: Digest,
        /// Who.
        partner: PeerId,
        /// What.
        pieces: PieceSet,
        /// The hash of each, in order.
        hashes: Vec<PieceHash>,
    },
    /// A partner is followed no more: it said so, or cannot be reached.
    FollowEnded {
        /// Which blob.
        digest: Digest,
        /// Who.
        partner: PeerId,
    },
    /// A fetched piece was verified and is on disk.
    Fetched {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// Whether only peers say what it must hash to.
        hearsay: bool,
        /// From the request to the first byte of the piece.
        first_byte: Duration,
    },
    /// A fetch ended without its piece.
    FetchFailed {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// Why.
        error: FetchError,
    },
    /// The parent of an [`Output::Take`](crate::Output::Take) chose a piece, and begins to
    /// send it.
    TakeBegun {
        /// Which blob.
        digest: Digest,
        /// From whom.
        parent: PeerId,
        /// Which piece.
        piece: u32,
    },
    /// The piece that a parent chose was verified and is on disk.
    Taken {
        /// Which blob.
        digest: Digest,
        /// From whom.
        parent: PeerId,
        /// Which piece.
        piece: u32,
        /// From the request to the first byte of the piece.
        first_byte: Duration,
    },
    /// A take ended without a piece.
    TakeFailed {
        /// Which blob.
        digest: Digest,
        /// From whom.
        parent: PeerId,
        /// Why.
        error: FetchError,
    },
    /// Another peer asks for a piece.
    UploadAsked {
        /// What this request is called until it ends.
        upload: UploadId,
        /// Who asks.
        child: PeerId,
        /// Which blob.
        digest: Digest,
        /// Which piece of it.
        wish: UploadWish,
    },
    /// A request for a piece ended: served, or given up by either side.
    UploadEnded {
        /// Which request.
        upload: UploadId,
        /// Whether the whole piece was sent.
        delivered: bool,
    },
    /// A piece came from the registry and is on disk. Seeds only.
    SourceRead {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// What it hashes to.
        hash: PieceHash,
    },
    /// A read from the registry came to its end, or failed. Seeds only.
    SourceEnded {
        /// Which blob.
        digest: Digest,
        /// `Ok(true)` if the whole blob was read in one go and its SHA-256 is right.
        result: Result<bool, Failure>,
    },
    /// The bytes of a blob were hashed from end to end.
    Hashed {
        /// Which blob.
        digest: Digest,
        /// `Ok` if its SHA-256 is right; else of which list of piece hashes it is not.
        result: Result<(), Root>,
    },
    /// This peer cannot go on with a download: its disk is full, or every client's credential
    /// was refused.
    GivenUp {
        /// Which blob.
        digest: Digest,
        /// Why.
        failure: Failure,
    },
    /// A piece on disk is not what it was: it is held no more.
    Damaged {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// The store evicted a blob.
    Evicted {
        /// Which blob.
        digest: Digest,
    },
}

/// A request for a piece, as the shell names it. No two that run at a time share a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UploadId(pub u64);

/// What a child asks a parent for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadWish {
    /// One piece.
    Piece {
        /// Which.
        piece: u32,
        /// Whether the child chose parent and piece by itself: it has others to turn to, and
        /// is told *busy* early.
        picked: bool,
    },
    /// A piece that the parent chooses.
    Any {
        /// Among these, which the child lacks.
        lacking: PieceSet,
    },
}

/// Why a fetch ended without its piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FetchError {
    /// The parent sent nothing for as long as [`Output::Fetch`](crate::Output::Fetch) allowed.
    Stalled,
    /// No connection to the parent, or it broke.
    Unreachable,
    /// The parent does not hold the piece.
    NotHeld,
    /// The parent's queue is full.
    Busy,
    /// What arrived is not the piece.
    Corrupt,
}
