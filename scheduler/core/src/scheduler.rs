//! The planner's state and its one surface: inputs in, outputs out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use fastrand::Rng;
use flotilla_proto::{Digest, PeerId, PieceHash, PieceSet};

use crate::peer::Peer;
use crate::source::Source;
use crate::task::{Landing, Task, Wish};
use crate::{FailureReason, Input, Limits, Output, PeerFacts, PeerKey, TaskFailure};

/// The planner of one region.
///
/// All state is soft: a scheduler that starts empty learns it again from what peers
/// announce.
#[derive(Debug)]
pub struct Scheduler {
    pub(crate) limits: Limits,
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    pub(crate) peers: BTreeMap<PeerKey, Peer>,
    pub(crate) tasks: BTreeMap<Digest, Task>,
    pub(crate) outputs: VecDeque<Output>,
    pub(crate) deadlines: BTreeSet<(Instant, Deadline)>,
    pub(crate) configured_seeds: Vec<PeerId>,
    /// When the first input came.
    pub(crate) started_at: Option<Instant>,
}

/// What is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Deadline {
    /// Look again at how the blob comes from the registry.
    Source(Digest),
    /// A child may take from a parent again that failed it.
    Feed(Digest, PeerKey),
    /// Look whether a child that was sent corrupt pieces still gets any.
    Hope(Digest, PeerKey),
}

impl Scheduler {
    /// A planner that knows nobody. `seed` decides every random draw.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            rng: Rng::with_seed(seed),
            peers: BTreeMap::new(),
            tasks: BTreeMap::new(),
            outputs: VecDeque::new(),
            deadlines: BTreeSet::new(),
            configured_seeds: Vec::new(),
            started_at: None,
        }
    }

    /// Takes in what happened. Drain [`Self::poll_output`] afterwards.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.started_at.get_or_insert(now);
        match input {
            Input::SeedsConfigured { seeds } => {
                self.configured_seeds = seeds;
                self.seeds_changed(now);
            }
            Input::InventoryTold { peer } => self.inventory_told(now, peer),
            Input::SourceReading { seed, digest, size, pieces } => {
                self.source_reading(now, seed, digest, size, pieces);
            }
            Input::PeerJoined { peer, facts } => self.peer_joined(now, peer, facts),
            Input::PeerLeft { peer } => self.peer_left(now, peer),
            Input::Wanted { peer, digest, size, reader } => self.wanted(now, peer, digest, size, reader),
            Input::Unwanted { peer, digest } => self.unwanted(now, peer, digest),
            Input::Announced { peer, digest, size, pieces, hashes } => {
                self.announced(now, peer, digest, size, &pieces, &hashes);
            }
            Input::HashesTold { peer, digest, pieces, hashes } => {
                self.hashes_told(now, peer, digest, &pieces, &hashes);
            }
            Input::Withdrawn { peer, digest } => self.withdrawn(now, peer, digest),
            Input::Failed { child, parent, digest, piece, reason } => {
                self.transfer_failed(now, child, parent, digest, piece, reason);
            }
            Input::ReaderMoved { peer, digest, piece } => self.reader_moved(peer, digest, piece),
            Input::SourceFailed { seed, digest, failure } => self.source_failed(now, seed, digest, &failure),
            Input::RoundTripMeasured { .. } | Input::LoadMeasured { .. } => {}
        }
    }

    /// Does what is due. Call it at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, deadline)) = self.deadlines.first().copied() {
            if at > now {
                break;
            }
            self.deadlines.pop_first();
            match deadline {
                Deadline::Source(digest) => self.ensure_source(now, digest),
                Deadline::Feed(digest, child) => self.feed_child(now, child, digest),
                Deadline::Hope(digest, child) => self.fail_if_hopeless(now, child, digest),
            }
        }
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// How many peers are attached, and how many blobs are known.
    pub fn counts(&self) -> (usize, usize) {
        (self.peers.len(), self.tasks.len())
    }

    fn peer_joined(&mut self, now: Instant, key: PeerKey, facts: PeerFacts) {
        let seed = facts.seed;
        self.peers.insert(key, Peer::new(facts, &self.limits));
        if seed {
            self.seeds_changed(now);
        }
    }

    fn inventory_told(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(&key) else { return };
        peer.inventory_told = true;
        if peer.facts.seed {
            self.seeds_changed(now);
        }
    }

    /// Costs a pass over the members of each task the peer had a part in.
    fn peer_left(&mut self, now: Instant, key: PeerKey) {
        let Some(tasks) = self.peers.get(&key).map(|peer| peer.tasks.clone()) else { return };
        let gaps: Vec<_> = tasks.into_iter().filter_map(|digest| self.detach(now, key, digest)).collect();
        self.peers.remove(&key);
        for gap in gaps {
            self.mend(now, &gap);
        }
    }

    fn wanted(&mut self, now: Instant, peer: PeerKey, digest: Digest, size: u64, reader: bool) {
        if !self.peers.contains_key(&peer) {
            return;
        }
        if let Err(failure) = self.open_task(digest, size) {
            self.outputs.push_back(Output::FailTask { peer, digest, failure });
            return;
        }
        self.enter(now, peer, digest);
        self.set_wish(peer, digest, Some(Wish { reader: reader.then_some(0) }));
        self.watch_hope(now, peer, digest);
        self.draw_partners(peer, digest);
        self.ensure_source(now, digest);
        self.tell_seed(peer, digest);
        self.ask_hashes(digest);
        self.feed_child(now, peer, digest);
        // What it holds from an earlier life may help the partners it has just drawn.
        self.feed_parent(now, peer);
    }

    fn unwanted(&mut self, now: Instant, peer: PeerKey, digest: Digest) {
        let Some(member) = self.tasks.get(&digest).and_then(|task| task.members.get(&peer)) else { return };
        if member.wish.is_none() {
            return;
        }
        let pieces: Vec<u32> = member.in_flight().keys().copied().collect();
        self.set_wish(peer, digest, None);
        for piece in pieces {
            self.outputs.push_back(Output::Cancel { child: peer, digest, piece });
            if let Some(parent) = self.land(peer, digest, piece, Landing::Lost) {
                self.feed_parent(now, parent);
            }
        }
        self.ensure_source(now, digest);
        self.forget_if_unused(peer, digest);
    }

    fn announced(
        &mut self,
        now: Instant,
        peer: PeerKey,
        digest: Digest,
        size: u64,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) {
        if !self.peers.contains_key(&peer)
            || !self.has_room_for_holder(peer, digest)
            || self.open_task(digest, size).is_err()
        {
            return;
        }
        if pieces.len() != self.tasks[&digest].layout.piece_count() {
            return;
        }
        let newcomer = self.enter(now, peer, digest);
        let mut freed = BTreeSet::from([peer]);
        for (index, piece) in pieces.iter().enumerate() {
            if hashes.get(index).is_some_and(|hash| !self.task_mut(digest).learn_hash(piece, *hash)) {
                continue;
            }
            if let Some(parent) = self.land(peer, digest, piece, Landing::Held) {
                self.task_mut(digest).members.get_mut(&peer).expect("entered above").progress_at = now;
                self.peers.get_mut(&parent).expect("a parent in flight is attached").delivered(&self.limits);
                freed.insert(parent);
            }
        }
        self.source_delivered(peer, digest, pieces);
        if self.tasks[&digest].members[&peer].held.is_full() {
            self.set_wish(peer, digest, None);
        }
        if newcomer && self.tasks[&digest].is_wanted() {
            self.draw_partners(peer, digest);
            self.ask_hashes(digest);
        }
        for parent in freed {
            self.feed_parent(now, parent);
        }
        self.feed_child(now, peer, digest);
    }

    fn hashes_told(
        &mut self,
        now: Instant,
        peer: PeerKey,
        digest: Digest,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) {
        let Some(task) = self.tasks.get_mut(&digest) else { return };
        if !task.members.contains_key(&peer) || pieces.len() != task.layout.piece_count() {
            return;
        }
        for (piece, hash) in pieces.iter().zip(hashes) {
            if !task.learn_hash(piece, *hash) {
                task.drop_piece(peer, piece);
            }
        }
        let holders: Vec<PeerKey> = task.members.keys().copied().collect();
        for holder in holders {
            self.feed_parent(now, holder);
        }
        self.ensure_source(now, digest);
    }

    /// A peer whose download ends with this knows it itself; one that goes on wants it anew.
    fn withdrawn(&mut self, now: Instant, peer: PeerKey, digest: Digest) {
        if let Some(gap) = self.detach(now, peer, digest) {
            self.mend(now, &gap);
        }
    }

    fn transfer_failed(
        &mut self,
        now: Instant,
        child: PeerKey,
        parent: PeerKey,
        digest: Digest,
        piece: u32,
        reason: FailureReason,
    ) {
        let planned = self.tasks.get(&digest).and_then(|task| task.members.get(&child));
        if planned.and_then(|member| member.in_flight().get(&piece)) != Some(&parent) {
            return;
        }
        self.land(child, digest, piece, Landing::Lost);
        let rest_until = now + self.limits.pair_rest;
        let owner = self.peers.get_mut(&parent).expect("a parent in flight is attached");
        match reason {
            FailureReason::TimedOut | FailureReason::Unreachable => {
                owner.timed_out(child, now, &self.limits);
                self.rest_pair(child, parent, digest, rest_until);
            }
            FailureReason::Busy => self.rest_pair(child, parent, digest, rest_until),
            FailureReason::Corrupt => {
                owner.blame(now, &self.limits);
                self.task_mut(digest).members.get_mut(&child).expect("checked above").banned.insert(parent);
                self.watch_hope(now, child, digest);
            }
            FailureReason::NotHeld => {
                self.task_mut(digest).drop_piece(parent, piece);
                self.ensure_source(now, digest);
            }
        }
        self.feed_child(now, child, digest);
        self.feed_parent(now, parent);
    }

    fn reader_moved(&mut self, peer: PeerKey, digest: Digest, piece: u32) {
        let member = self.tasks.get_mut(&digest).and_then(|task| task.members.get_mut(&peer));
        if let Some(wish) = member.and_then(|member| member.wish.as_mut()) {
            wish.reader = Some(piece);
        }
    }

    /// The blob cannot be had: everyone who wants it is told, and where its bytes are wrong,
    /// everyone who holds any of it.
    pub(crate) fn fail_task(&mut self, digest: Digest, failure: &TaskFailure) {
        let task = self.task_mut(digest);
        task.source = Source::Idle;
        let concerned: Vec<PeerKey> = task
            .members
            .iter()
            .filter(|(_, member)| failure.poisoned || member.wish.is_some())
            .map(|(key, _)| *key)
            .collect();
        for &peer in &concerned {
            self.outputs.push_back(Output::FailTask { peer, digest, failure: failure.clone() });
            let pieces: Vec<u32> = self.tasks[&digest].members[&peer].in_flight().keys().copied().collect();
            for piece in pieces {
                self.land(peer, digest, piece, Landing::Lost);
            }
            self.set_wish(peer, digest, None);
        }
        if failure.poisoned {
            for peer in concerned {
                self.task_mut(digest).drop_all(peer);
            }
        }
        // The seeds that were to read, too: who has no part keeps no task, nor its size.
        let members: Vec<PeerKey> = self.tasks[&digest].members.keys().copied().collect();
        for peer in members {
            self.forget_if_unused(peer, digest);
        }
    }
}
