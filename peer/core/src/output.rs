//! What to do.

use std::time::Duration;

use flotilla_proto::{Digest, Failure, Layout, PeerId, PieceHash, PieceSet, Root, Variant};

use crate::outbox::Batch;
use crate::{FetchError, UploadId};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Fetch a piece, verify it, write it, and tell.
    Fetch {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// Which piece.
        piece: u32,
        /// From whom.
        parent: PeerId,
        /// What it must hash to.
        hash: PieceHash,
        /// Whether only peers say so: nobody reads it before the whole is right.
        hearsay: bool,
        /// When to give up.
        patience: Patience,
        /// Whether this peer chose parent and piece by itself.
        picked: bool,
    },
    /// Stop a fetch; nothing need be told.
    AbortFetch {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// Ask a parent for a piece of its choice, verify it, write it, and tell.
    Take {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// From whom.
        parent: PeerId,
        /// Among which pieces.
        lacking: PieceSet,
        /// When to give up.
        patience: Patience,
    },
    /// Stop a take; nothing need be told.
    AbortTake {
        /// Which blob.
        digest: Digest,
        /// From whom.
        parent: PeerId,
    },
    /// Follow what a partner holds of a blob: everything at first, then what comes.
    Follow {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// Whom.
        partner: PeerId,
    },
    /// Follow it no more; nothing need be told.
    Unfollow {
        /// Which blob.
        digest: Digest,
        /// Whom.
        partner: PeerId,
    },
    /// Send a piece to whoever asked, and tell.
    Upload {
        /// Which request.
        upload: UploadId,
        /// Which piece of the blob that was asked for.
        piece: u32,
    },
    /// Tell whoever asked that there is none.
    RefuseUpload {
        /// Which request.
        upload: UploadId,
        /// Why.
        why: UploadRefusal,
    },
    /// Hand the clients' credentials for a blob to the seed that reads it.
    OfferCredentials {
        /// Which blob.
        digest: Digest,
        /// The seed.
        seed: PeerId,
    },
    /// Read pieces from the registry, write them, and tell. Seeds only.
    ReadSource {
        /// Which blob.
        digest: Digest,
        /// How it is cut.
        layout: Layout,
        /// The pieces.
        pieces: PieceSet,
    },
    /// Read no piece at or above an index for the present. Seeds only.
    PaceSource {
        /// Which blob.
        digest: Digest,
        /// The index.
        until: u32,
    },
    /// Stop reading from the registry. Seeds only.
    StopSource {
        /// Which blob.
        digest: Digest,
    },
    /// Clients may read this piece. The last piece of a blob is released by
    /// [`Output::Complete`].
    Release {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// Hash the blob from end to end, following the pieces as they come.
    Hash {
        /// Which blob.
        digest: Digest,
    },
    /// The blob is whole and right: keep it, and release its last piece.
    Complete {
        /// Which blob.
        digest: Digest,
    },
    /// Nobody waits for the blob any more: what was wanted of it is held.
    Satisfied {
        /// Which blob.
        digest: Digest,
    },
    /// The download failed: tell its clients.
    Fail {
        /// Which blob.
        digest: Digest,
        /// Why.
        failure: Failure,
    },
    /// Nothing of the blob is held, wanted or on its way any more: its size may be another next time.
    Forget {
        /// Which blob.
        digest: Digest,
    },
    /// Drop whatever is held of the blob, and with that remember what was purged.
    Purge {
        /// Which blob.
        digest: Digest,
        /// How it was cut.
        layout: Layout,
        /// What was purged, if it has a name that is not remembered yet.
        root: Option<Root>,
    },
    /// Remember that a variant was purged.
    Entomb {
        /// Which.
        variant: Variant,
    },
    /// Send this to the scheduler.
    Flush(Batch),
}

/// How long a child waits for a parent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// The parent is given up when it sends nothing for so long.
    pub stall: Duration,
    /// It is given up when it sends fewer bytes a second over such a time; 0: whatever it sends
    /// will do.
    pub least_bytes_per_s: u64,
}

/// Why a child is sent no piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum UploadRefusal {
    /// Too many wait already.
    Busy,
    /// Nothing of what it asked for is here.
    NotHeld,
}

/// What the scheduler is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Report {
    /// This peer wants a blob, or some pieces of it. What it said before of what it wants of it is void.
    Want {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What is wanted.
        pieces: PieceSet,
    },
    /// This peer gave a download up, or has what it wanted of the blob; what it holds of it, it keeps.
    Unwant {
        /// Which blob.
        digest: Digest,
    },
    /// This peer holds these pieces, besides those announced before.
    Announce {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The pieces.
        pieces: PieceSet,
        /// Their hashes, in order, if they came from the registry; otherwise empty.
        hashes: Vec<PieceHash>,
    },
    /// This peer holds nothing of the blob any more.
    Withdraw {
        /// Which blob.
        digest: Digest,
    },
    /// The hashes of what is held of a blob, but for hearsay; the shell reads them from the store.
    Hashes {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
    },
    /// A fetch failed.
    FetchFailed {
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// From whom.
        parent: PeerId,
        /// Why.
        error: FetchError,
    },
    /// The next piece the slowest client needs.
    Reader {
        /// Which blob.
        digest: Digest,
        /// The piece.
        piece: u32,
    },
    /// This seed reads these pieces from the registry already, by an earlier order.
    Reading {
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The pieces that are still to come.
        pieces: PieceSet,
    },
    /// This peer held a whole blob, and its SHA-256 is another.
    WrongBytes {
        /// What it held.
        variant: Variant,
    },
    /// This variant was purged, before the scheduler came.
    Entombed {
        /// Which.
        variant: Variant,
    },
    /// Everything held and read when the scheduler came has been told.
    InventoryTold,
    /// The registry did not deliver.
    SourceFailed {
        /// Which blob.
        digest: Digest,
        /// Why.
        failure: Failure,
    },
}
