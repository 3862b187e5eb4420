//! What to do.

use std::time::Duration;

use flotilla_proto::{Digest, Failure, PieceHash, PieceSet, Root, Variant};

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
        /// Whether only peers say so: no seed that read the piece, or holds the whole blob.
        hearsay: bool,
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
        /// The pieces: those that nobody in the region holds. In doubt, all of which the seed has
        /// not told the hash; it reads those that it does not hold.
        pieces: PieceSet,
    },
    /// Tell a seed to have pieces of a peer that failed a child, or has yet to deliver its first, as a client of its own
    /// would: nobody else holds them.
    Relay {
        /// The seed.
        seed: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The pieces, besides those that it was told before.
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
        failure: Failure,
        /// What is purged from the region, where the bytes are wrong. `None`: from this peer alone,
        /// which holds something else than the others.
        root: Option<Root>,
    },
    /// Tell a peer that a variant was purged, maybe while it was away: what it holds of the blob,
    /// never verified and from before it heard of that, goes.
    Entomb {
        /// Who is told.
        peer: PeerKey,
        /// What was purged.
        variant: Variant,
    },
    /// Tell a reading seed to read no piece at or above an index for now. A read without a
    /// word on pace is unpaced; where pacing applies, the word follows
    /// [`Output::ReadSource`] at once.
    PaceSource {
        /// The seed.
        seed: PeerKey,
        /// Which blob.
        digest: Digest,
        /// The first piece that it is not to read yet; the blob's piece count: read on.
        until: u32,
    },
    /// Tell a peer that it may exchange pieces of a blob with another. It keeps its partners
    /// when the scheduler is gone.
    Link {
        /// Who is told.
        peer: PeerKey,
        /// The partner.
        partner: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Whether the partner is a seed.
        seed: bool,
        /// Whether both are in one zone. Across zones a peer fetches only what is assigned.
        same_zone: bool,
    },
    /// Tell a peer that a partner is gone, or has no part in the blob any more.
    Unlink {
        /// Who is told.
        peer: PeerKey,
        /// The partner it had.
        partner: PeerKey,
        /// Which blob.
        digest: Digest,
    },
    /// Tell a peer whether it chooses the pieces of a download by itself from now on.
    Picking {
        /// Who is told.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Whether it does.
        picks: bool,
    },
    /// Tell a peer how long to gather what it has to tell.
    PaceReports {
        /// Who is told.
        peer: PeerKey,
        /// Zero: tell at once.
        interval: Duration,
    },
}
