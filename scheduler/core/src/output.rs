//! What to do.

use flotilla_proto::{Digest, PieceHash, PieceSet};

use crate::PeerKey;

/// What to tell a peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Tell `child` to fetch a piece from `parent`.
    Assign {
        /// Who receives.
        child: PeerKey,
        /// Who sends.
        parent: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// What the piece must hash to.
        hash: PieceHash,
    },
    /// Tell `child` that a fetch is not wanted any more.
    Cancel {
        /// Who receives.
        child: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
    },
    /// Tell a wanting peer which seed reads the blob: that seed needs its client's credential.
    UseSeed {
        /// Who wants the blob.
        child: PeerKey,
        /// The seed.
        seed: PeerKey,
        /// Which blob.
        digest: Digest,
    },
    /// Tell a seed to read pieces from the registry. At most one seed per blob is told so at a time.
    ReadSource {
        /// The seed.
        seed: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The pieces: those that nobody in the region holds.
        pieces: PieceSet,
    },
    /// Ask a peer for the hashes of what it holds.
    AskHashes {
        /// Who holds.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
    },
    /// Tell a peer that the blob cannot be had.
    FailTask {
        /// Who wants or holds it.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Why.
        failure: TaskFailure,
    },
}

/// Why a blob cannot be had, as the client will read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskFailure {
    /// The HTTP status to answer with.
    pub status: u16,
    /// The OCI error code.
    pub code: String,
    /// What failed, naming it.
    pub message: String,
    /// The registry's bytes do not match the digest: whatever is held of it is worthless.
    pub poisoned: bool,
}
