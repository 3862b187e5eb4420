//! One node: its peer core, and what its daemon's shell would keep around it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use flotilla_peer_core::{Input as PeerInput, Limits, Swarm};
use flotilla_proto::{Digest, Layout, PeerId, PieceSet};
use flotilla_scheduler_core::PeerKey;

use crate::event::{NodeIndex, Time};
use crate::fair::LinkId;
use crate::follow::FollowId;
use crate::network::bytes_f64;
use crate::region::Site;
use crate::scenario::NodeSpec;
use crate::transfer::FetchId;

/// One node of the world.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) id: PeerId,
    pub(crate) spec: NodeSpec,
    pub(crate) is_seed: bool,
    pub(crate) is_alive: bool,
    /// Blobs that its client has not asked for yet, in the order in which it will.
    pub(crate) to_want: VecDeque<usize>,
    /// Blobs that its client asked for and that are not complete.
    pub(crate) lacking_count: usize,
    pub(crate) core: Swarm,
    /// When the core is to be called, as far as the queue knows.
    pub(crate) due: Option<Time>,
    /// The scheduler's name for it, while the scheduler knows it.
    pub(crate) key: Option<PeerKey>,
    pub(crate) links: NodeLinks,
    pub(crate) blobs: BTreeMap<Digest, BlobState>,
    pub(crate) fetches: BTreeMap<(Digest, u32), FetchId>,
    /// Those it asked for a piece, or that asked it.
    pub(crate) met: BTreeSet<NodeIndex>,
    /// Fetches whose piece the parent chooses.
    pub(crate) takes: BTreeMap<(Digest, NodeIndex), FetchId>,
    /// Whom it follows.
    pub(crate) follows: BTreeMap<(Digest, NodeIndex), FollowId>,
    /// Who follows it.
    pub(crate) followers: BTreeMap<Digest, Vec<FollowId>>,
    /// Blobs that a client's credential came for. Seeds only.
    pub(crate) credentials: BTreeSet<Digest>,
    pub(crate) upward: Lane,
    /// What the scheduler gathered for it.
    pub(crate) inbox: Vec<PeerInput>,
    pub(crate) downward: Lane,
    /// When a batch last carried a probe.
    pub(crate) probed_at: Option<Time>,
}

/// The links that a node's pieces go over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NodeLinks {
    pub(crate) up: LinkId,
    pub(crate) down: LinkId,
    /// Out of its zone and into it, where the zone's link is narrow.
    pub(crate) zone: Option<(LinkId, LinkId)>,
}

/// One direction of a stream: messages keep their order.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// Whether a flush is in the queue.
    pub(crate) flush_waits: bool,
    pub(crate) flushed_at: Option<Time>,
    /// When the last message arrives.
    pub(crate) arrives_at: Time,
}

/// What a node's disk holds of a blob, and who follows it there.
#[derive(Debug)]
pub(crate) struct BlobState {
    pub(crate) layout: Layout,
    pub(crate) held: PieceSet,
    /// What clients may read.
    pub(crate) released: PieceSet,
    /// Whether its bytes were hashed from end to end.
    pub(crate) is_hashed: bool,
    /// When all of it was there and right.
    pub(crate) complete_at: Option<Time>,
    /// Hashes what is held.
    pub(crate) hasher: Option<Follower>,
    /// The client; reads what is released.
    pub(crate) client: Option<Follower>,
}

/// Takes a blob's pieces in order, as they come, at a pace of its own.
#[derive(Debug)]
pub(crate) struct Follower {
    bytes_per_s: f64,
    next_piece: u32,
    /// When it is through with what it took.
    pub(crate) free_at: Time,
    /// The longest it waited for a piece.
    pub(crate) longest_wait: Duration,
}

impl Node {
    pub(crate) fn new(site: &Site, links: NodeLinks, seed: u64) -> Self {
        Self {
            id: site.id.clone(),
            spec: site.spec,
            is_seed: site.is_seed,
            is_alive: true,
            to_want: VecDeque::new(),
            lacking_count: 0,
            core: Swarm::new(Limits::default(), seed_of(&site.id, seed)),
            due: None,
            key: None,
            links,
            blobs: BTreeMap::new(),
            fetches: BTreeMap::new(),
            met: BTreeSet::new(),
            takes: BTreeMap::new(),
            follows: BTreeMap::new(),
            followers: BTreeMap::new(),
            credentials: BTreeSet::new(),
            upward: Lane::default(),
            inbox: Vec::new(),
            downward: Lane::default(),
            probed_at: None,
        }
    }

    pub(crate) fn blob(&mut self, digest: Digest, layout: Layout) -> &mut BlobState {
        self.blobs.entry(digest).or_insert_with(|| BlobState::new(layout))
    }

    pub(crate) fn holds(&self, digest: Digest, piece: u32) -> bool {
        self.blobs.get(&digest).is_some_and(|blob| blob.held.contains(piece))
    }

    /// Whether all that was wanted of it is there and right.
    pub(crate) fn is_done(&self) -> bool {
        self.to_want.is_empty() && self.lacking_count == 0
    }
}

impl BlobState {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            held: PieceSet::new(layout.piece_count()),
            released: PieceSet::new(layout.piece_count()),
            is_hashed: false,
            complete_at: None,
            hasher: None,
            client: None,
        }
    }

    /// A piece is on disk. When the whole will have been hashed, if this lets it.
    pub(crate) fn hold(&mut self, now: Time, piece: u32) -> Option<Time> {
        self.held.insert(piece);
        self.hash(now)
    }

    /// When the whole will have been hashed, if it is there.
    pub(crate) fn hash(&mut self, now: Time) -> Option<Time> {
        self.hasher.as_mut()?.follow(now, &self.held, &self.layout)
    }

    /// The client reads what is released.
    pub(crate) fn serve(&mut self, now: Time) {
        if let Some(client) = &mut self.client {
            client.follow(now, &self.released, &self.layout);
        }
    }
}

impl Follower {
    pub(crate) fn new(now: Time, bytes_per_s: f64) -> Self {
        Self { bytes_per_s, next_piece: 0, free_at: now, longest_wait: Duration::ZERO }
    }

    /// Takes the pieces that are there, in order. When it will be through with the whole blob,
    /// once it took the last.
    pub(crate) fn follow(&mut self, now: Time, there: &PieceSet, layout: &Layout) -> Option<Time> {
        let end = there.first_missing(self.next_piece);
        if end == self.next_piece {
            return None;
        }
        self.longest_wait = self.longest_wait.max(now.saturating_sub(self.free_at));
        let last = layout.piece_range(end - 1);
        let bytes = last.end - layout.piece_range(self.next_piece).start;
        self.free_at = self.free_at.max(now) + Duration::from_secs_f64(bytes_f64(bytes) / self.bytes_per_s);
        self.next_piece = end;
        (end == layout.piece_count()).then_some(self.free_at)
    }
}

/// Every node breaks its ties in its own way.
fn seed_of(id: &PeerId, seed: u64) -> u64 {
    let digest = Digest::of(format!("{id} of history {seed}").as_bytes());
    u64::from_le_bytes(*digest.as_bytes().first_chunk().expect("32 bytes"))
}

/// One core's SHA-256 (`docs/design.md` §5).
pub(crate) const SHA256_BYTES_PER_S: f64 = 1.9e9;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_follower_waits_for_the_piece_in_order_and_catches_up_at_its_pace() {
        let layout = Layout::of(4 * (128 << 10)).unwrap();
        let piece_per_s = f64::from(128 << 10);
        let mut follower = Follower::new(Time::ZERO, piece_per_s);
        let mut there = PieceSet::new(4);
        let mut come = |second, piece| {
            there.insert(piece);
            follower.follow(Duration::from_secs(second), &there, &layout)
        };
        assert_eq!([come(1, 1), come(3, 0), come(3, 2)], [None, None, None]);
        assert_eq!(come(4, 3), Some(Duration::from_secs(7)));
        assert_eq!(follower.longest_wait, Duration::from_secs(3));
    }
}
