//! What happened.

use std::num::NonZeroU64;
use std::time::Duration;

use flotilla_proto::{Digest, Failure, PeerId, PieceHash, PieceSet, Variant};

/// A peer for as long as its stream lasts: the caller allots one to each stream and does
/// not use it again while the peer is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerKey(pub u32);

/// A locality inside the region (rack, availability zone); equal numbers are the same zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Zone(pub u32);

/// What a peer is, as its certificate and its first message say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerFacts {
    /// Its name, by which home seeds are chosen.
    pub id: PeerId,
    /// Whether it may read from the registry.
    pub seed: bool,
    /// Where it is.
    pub zone: Zone,
}

/// What happened to one peer. An input that names an unknown peer, or a task or piece that
/// is not there any more, is late news and changes nothing.
///
/// # Costs
///
/// Most inputs *feed* a peer: its free slots or its free window. That costs, for each piece
/// planned and once more, a look at its partners in each task that it serves, or wants, and the
/// words of a bitset for at most [`Limits::candidates`](crate::Limits::candidates) of them. What an
/// input costs beside is said with it. A lost copy also feeds the seeds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// A peer attached.
    ///
    /// A seed also costs a pass over all tasks.
    PeerJoined {
        /// The key its stream was allotted.
        peer: PeerKey,
        /// What it is.
        facts: PeerFacts,
    },
    /// A peer's stream ended.
    ///
    /// Costs, in each task it has a part in, a look at what its partners await, and feeding
    /// those that it leaves work to. Its partners may draw anew, as with a want.
    PeerLeft {
        /// Whose.
        peer: PeerKey,
    },
    /// A peer wants a blob, or some pieces of it. What it said before of what it wants of it is void.
    ///
    /// Costs a draw of partners, some looks for each, and feeding it. The first one orders the
    /// read: a pass over the members, as while any hash is unknown. A part also costs the words of its
    /// partners' bitsets, and of all members' where none of them has a piece. Where the pace of reports
    /// changes by half, every peer is told; where the blob is plainly too much to plan, everyone
    /// who wants it.
    Wanted {
        /// Which peer.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// What it wants of it, no more; `None`: all of it.
        part: Option<PieceSet>,
        /// Whether a client waits for it, in order.
        reader: bool,
    },
    /// A peer no longer wants a blob; what it holds of it, it keeps.
    ///
    /// Costs feeding each parent that was to send, and a look at each word of the blob.
    Unwanted {
        /// Which peer.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
    },
    /// A peer holds these pieces, besides those it announced before.
    ///
    /// Costs a constant for each piece, feeding the peer as parent and as child, and each parent
    /// that was to send one; with its first, a draw of partners if they are few; where zones are
    /// joined, some children of its zone too. Told with hashes that were unknown: feeding every
    /// member. Of a blob that was handed over and has one zone: nobody is fed. Hashes that overrule
    /// others cost a pass over the members, and the leaving of those that hold other bytes.
    Announced {
        /// Which peer.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The pieces.
        pieces: PieceSet,
        /// Their hashes, in order; empty if the peer had them from here.
        hashes: Vec<PieceHash>,
    },
    /// A peer tells the hashes of pieces it holds, as [`Output::AskHashes`](crate::Output::AskHashes) wished.
    ///
    /// Costs a constant for each piece, and feeding every member. Where it holds other bytes, its
    /// leaving; where others do, theirs.
    HashesTold {
        /// Which peer.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
        /// The pieces.
        pieces: PieceSet,
        /// Their hashes, in order.
        hashes: Vec<PieceHash>,
    },
    /// A peer holds nothing of a blob any more.
    ///
    /// Costs as much as its leaving, in one task.
    Withdrawn {
        /// Which peer.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
    },
    /// A planned transfer did not deliver.
    ///
    /// Costs feeding child and parent. The one that removes a parent costs a look at what its
    /// partners await, and feeding each.
    Failed {
        /// The peer that was to receive.
        child: PeerKey,
        /// The peer that was to send.
        parent: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Which piece.
        piece: u32,
        /// Why.
        reason: FailureReason,
    },
    /// Where the slowest client of a download reads.
    ///
    /// Costs a look at each word of the blob at most.
    ReaderMoved {
        /// Which peer.
        peer: PeerKey,
        /// Which blob.
        digest: Digest,
        /// The next piece the client needs.
        piece: u32,
    },
    /// The region's seeds as configured, attached or not. A fresh planner orders no source
    /// read before all of them have told their inventory, or [`Limits::settle`](crate::Limits::settle) has passed:
    /// what one of them holds or reads need not be read again.
    ///
    /// Costs a pass over all tasks.
    SeedsConfigured {
        /// Their names.
        seeds: Vec<PeerId>,
    },
    /// A peer has told everything that it held and read when it attached.
    ///
    /// Costs a pass over all tasks, if it is a seed.
    InventoryTold {
        /// Which peer.
        peer: PeerKey,
    },
    /// A seed reads these pieces from the registry already, by an order that this planner
    /// did not give.
    ///
    /// Costs a pass over the members.
    SourceReading {
        /// Which seed.
        seed: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Its size in bytes.
        size: u64,
        /// The pieces that are still to come.
        pieces: PieceSet,
    },
    /// A seed could not read a blob from the registry.
    ///
    /// Costs a pass over the members; where the bytes are wrong, a hash over the blob's list of hashes.
    SourceFailed {
        /// Which seed.
        seed: PeerKey,
        /// Which blob.
        digest: Digest,
        /// Why, for the clients that wait.
        failure: Failure,
    },
    /// A peer held a whole blob, just now, and its SHA-256 was another.
    ///
    /// Costs a hash over the blob's list of hashes, and a pass over the members. Of one peer, which is
    /// no seed, it makes the seed that reads tell all hashes anew, and read what it does not hold: once
    /// for each blob. Of a seed or a second peer, about the same list, it purges the blob.
    WrongBytes {
        /// Which peer.
        peer: PeerKey,
        /// What it held.
        variant: Variant,
    },
    /// A peer knows of a variant that it was purged, when it attaches.
    ///
    /// Costs a pass over the members, if that is certain from here on.
    Entombed {
        /// Which peer.
        peer: PeerKey,
        /// What was purged.
        variant: Variant,
    },
    /// So long it took from a batch to the peer until the peer's echo came back, which it sent
    /// at once.
    ///
    /// Costs a constant.
    RoundTripMeasured {
        /// Which peer.
        peer: PeerKey,
        /// How long.
        round_trip: Duration,
    },
    /// What pieces may take of the link that joins a zone to all others.
    ///
    /// Costs a pass over all tasks, and feeding the zone's members.
    LinkLimited {
        /// Which zone.
        zone: Zone,
        /// At most so many bytes a second each way; `None`: what the link carries.
        bytes_per_s: Option<NonZeroU64>,
    },
    /// How busy the one thread that runs the planner was since it was last told.
    ///
    /// Costs a pass over all tasks, and over the members of those that change hands; feeding those
    /// of one that is taken back. Where the pace of reports changes by half, every peer is told.
    LoadMeasured {
        /// 0 to 100.
        load_percent: u8,
    },
}

impl Input {
    /// Whether it asks for something, or takes that back, rather than tell of a piece.
    pub(crate) fn asks(&self) -> bool {
        matches!(
            self,
            Self::Wanted { .. } | Self::Unwanted { .. } | Self::Withdrawn { .. } | Self::SourceFailed { .. }
        )
    }
}

/// Why a transfer did not deliver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureReason {
    /// The parent sent nothing for too long.
    TimedOut,
    /// No connection to the parent.
    Unreachable,
    /// The parent does not hold the piece.
    NotHeld,
    /// The parent's queue is full.
    Busy,
    /// What arrived is not the piece.
    Corrupt,
}

impl FailureReason {
    /// Whether the parent gave nothing, or something else, and did not say that it would not.
    pub(crate) fn is_doubtful(self) -> bool {
        match self {
            Self::TimedOut | Self::Unreachable | Self::Corrupt => true,
            Self::NotHeld | Self::Busy => false,
        }
    }
}
