//! What happened.

use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};

use crate::Failure;

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
        /// Whether its SHA-256 was found right.
        complete: bool,
    },
    /// A client wants a blob.
    Wanted {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
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
    /// A fetched piece was verified and is on disk.
    Fetched {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
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
        /// Whether its SHA-256 is right.
        matches: bool,
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
