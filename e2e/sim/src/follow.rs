//! Following: a peer that picks hears what its partners hold, everything at first, then what
//! comes, gathered for a little while.

use std::time::Duration;

use flotilla_peer_core::Input as PeerInput;
use flotilla_proto::{Digest, Layout, PeerId, PieceSet};

use crate::event::{Event, NodeIndex, Time};
use crate::node::Lane;
use crate::world::World;

/// A stream from a partner to a follower, never used again once it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FollowId(pub(crate) u64);

/// Who follows whom, and what was told.
#[derive(Debug)]
pub(crate) struct Follow {
    follower: NodeIndex,
    followed: NodeIndex,
    digest: Digest,
    told: PieceSet,
    lane: Lane,
}

impl World<'_> {
    pub(crate) fn follow(&mut self, follower: NodeIndex, digest: Digest, layout: Layout, partner: &PeerId) {
        let followed = self.node_by_id[partner];
        let told = PieceSet::new(layout.piece_count());
        let follow = Follow { follower, followed, digest, told, lane: Lane::default() };
        let id = FollowId(self.follows.insert(follow));
        self.nodes[follower.place()].follows.insert((digest, followed), id);
        self.nodes[followed.place()].followers.entry(digest).or_default().push(id);
        self.plan_telling(id, self.now + ONE_WAY);
    }

    pub(crate) fn unfollow(&mut self, follower: NodeIndex, digest: Digest, partner: &PeerId) {
        let followed = self.node_by_id[partner];
        if let Some(id) = self.nodes[follower.place()].follows.remove(&(digest, followed)) {
            self.end_follow(id);
        }
    }

    /// A node is dead: nobody hears of it, and it hears of nobody.
    pub(crate) fn end_follows(&mut self, dead: NodeIndex) {
        let concerns = |follow: &Follow| follow.follower == dead || follow.followed == dead;
        let ended: Vec<FollowId> =
            self.follows.iter().filter(|(_, follow)| concerns(follow)).map(|(id, _)| FollowId(id)).collect();
        for id in ended {
            self.end_follow(id);
        }
    }

    fn end_follow(&mut self, id: FollowId) {
        let Some(Follow { follower, followed, digest, .. }) = self.follows.remove(id.0) else { return };
        self.nodes[follower.place()].follows.remove(&(digest, followed));
        if let Some(followers) = self.nodes[followed.place()].followers.get_mut(&digest) {
            followers.retain(|other| *other != id);
        }
    }

    /// A piece is on the disk of a node that may be followed.
    pub(crate) fn tell_followers(&mut self, followed: NodeIndex, digest: Digest) {
        for id in self.nodes[followed.place()].followers.get(&digest).cloned().unwrap_or_default() {
            self.plan_telling(id, self.now);
        }
    }

    fn plan_telling(&mut self, id: FollowId, at: Time) {
        let lane = &mut self.follows.get_mut(id.0).expect("a follow is named while it is there").lane;
        if let Some(at) = lane.plan_flush(at, GATHERING) {
            self.queue.push(at, Event::FollowedTells(id));
        }
    }

    pub(crate) fn followed_tells(&mut self, id: FollowId) {
        let Some(follow) = self.follows.get_mut(id.0) else { return };
        follow.lane.flushed(self.now);
        let Some(blob) = self.nodes[follow.followed.place()].blobs.get(&follow.digest) else { return };
        let fresh = blob.held.difference(&follow.told);
        if !fresh.is_empty() {
            follow.told.union_with(&fresh);
            self.queue.push(self.now + ONE_WAY, Event::FollowerHears(id, fresh));
        }
    }

    pub(crate) fn follower_hears(&mut self, id: FollowId, pieces: PieceSet) {
        let Some(Follow { follower, followed, digest, .. }) = self.follows.get(id.0) else { return };
        let (follower, digest) = (*follower, *digest);
        let partner = self.nodes[followed.place()].id.clone();
        let hashes = pieces.iter().map(|piece| self.piece_hash(digest, piece)).collect();
        self.tell_peer(follower, PeerInput::PartnerHolds { digest, partner, pieces, hashes });
    }
}

/// Half of what a request and the first byte of its answer take.
const ONE_WAY: Duration = Duration::from_micros(150);

/// How long the daemon gathers what it tells a follower (`peer/src/transport/follow.rs`).
const GATHERING: Duration = Duration::from_millis(20);
