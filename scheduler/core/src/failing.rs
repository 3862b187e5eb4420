//! What follows from a piece that a parent did not deliver, as its child says.
//!
//! One child's word concerns that pair; the region blames a parent on the word of several, or where nothing speaks
//! against it: a parent that has delivered to others meanwhile, or does so next, was slandered, or is out of that child's
//! reach. A child that says what is contradicted may await less.

use std::time::Instant;

use flotilla_proto::Digest;

use crate::records::Accused;
use crate::scheduler::{Deadline, Scheduler};
use crate::task::{Landing, Seat, TaskSlot};
use crate::{FailureReason, Output, PeerKey};

impl Scheduler {
    pub(crate) fn transfer_failed(
        &mut self,
        now: Instant,
        child: PeerKey,
        parent: PeerKey,
        digest: Digest,
        piece: u32,
        reason: FailureReason,
    ) {
        let Some((slot, seat)) = self.find(child, digest) else { return };
        let Some(owner) = self.seat(parent, slot) else { return };
        let task = &self.tasks[slot];
        let flight = task.member(seat).flight(piece).copied();
        let Some(planned_at) = flight.filter(|flight| flight.parent == owner).map(|flight| flight.planned_at)
        else {
            // A child that picks by itself, and could not have it there.
            let is_picked = task.picking && flight.is_none() && piece < task.piece_count();
            if is_picked && reason.is_doubtful() && task.member(seat).ties.partners.contains(&owner) {
                self.question(now, slot, seat, owner, piece);
                self.feed_downloads(now, child);
                self.feed_parent(now, parent);
            }
            return;
        };
        self.land(now, slot, seat, piece, Landing::Lost);
        if self.is_questionable(now, slot, seat, owner, piece, reason) {
            self.question(now, slot, seat, owner, piece);
        }
        if let Some((slot, seat)) = self.find(child, digest)
            && let Some(owner) = self.seat(parent, slot)
        {
            self.blame_for(now, (slot, seat), (parent, owner), (piece, planned_at), reason);
        }
        self.feed_downloads(now, child);
        self.feed_parent(now, parent);
        if let Some((slot, seat)) = self.find(child, digest) {
            self.feed_neighbours(now, slot, seat);
        }
    }

    /// Whether a failure says that the parent may not hold what it announced, or not give it.
    fn is_questionable(
        &self,
        now: Instant,
        slot: TaskSlot,
        child: Seat,
        parent: Seat,
        piece: u32,
        reason: FailureReason,
    ) -> bool {
        let task = &self.tasks[slot];
        let (is_probed, by_seed) = (task.is_probed(now, parent), task.member(child).seed);
        match reason {
            FailureReason::TimedOut | FailureReason::Unreachable | FailureReason::Corrupt => true,
            // Busy though it owes nothing, it gives nothing. Nor does one that is busy for a seed that asks for one piece.
            FailureReason::Busy => {
                let owed = self.peers[task.member(parent).peer].up.count;
                !task.member(parent).proven && (is_probed && by_seed || owed <= u32::from(is_probed))
            }
            FailureReason::NotHeld => self.is_hearsay(slot, child, piece),
        }
    }

    /// Whether it is a child's word alone that a parent does not hold a piece which few others do: a seed is to ask it,
    /// before the registry is.
    fn is_hearsay(&self, slot: TaskSlot, child: Seat, piece: u32) -> bool {
        let task = &self.tasks[slot];
        !task.member(child).seed && task.few_hold(piece) && !self.seeds.is_empty()
    }

    /// What a failure means for the parent and for the pair.
    fn blame_for(
        &mut self,
        now: Instant,
        (slot, seat): (TaskSlot, Seat),
        (parent, owner): (PeerKey, Seat),
        (piece, planned_at): (u32, Instant),
        reason: FailureReason,
    ) {
        let (child, digest) = (self.tasks[slot].member(seat).peer, self.tasks[slot].digest);
        match reason {
            FailureReason::TimedOut | FailureReason::Unreachable => {
                self.rest_pair(now, slot, seat, owner);
                let accusers = self.accused(now, child, parent, planned_at);
                let is_certain = accusers.is_some_and(|accusers| accusers > 1);
                if accusers.is_some() && self.peers.known_mut(parent).fails(now, &self.limits) {
                    self.blame(now, parent, (!is_certain).then_some(child));
                    self.remove_parent(now, parent, (!is_certain).then_some(child));
                }
            }
            FailureReason::Busy => self.rest_pair(now, slot, seat, owner),
            FailureReason::Corrupt => {
                let by_seed = self.tasks[slot].member(seat).seed;
                self.tasks[slot].member_mut(seat).ban(owner);
                if let Some(accusers) = self.accused(now, child, parent, planned_at) {
                    let alone = (accusers == 1 && !by_seed).then_some(child);
                    self.blame(now, parent, alone);
                    let task = &mut self.tasks[slot];
                    task.member_mut(owner).ties.suspicion.corrupt =
                        Some(alone.map_or(Accused::ByMany, Accused::By));
                    task.set_counted(owner, false);
                }
                self.seeds_are_due = true;
                self.watch_hope(now, slot, seat);
                self.reach(now, slot, seat);
            }
            FailureReason::NotHeld if self.is_hearsay(slot, seat, piece) => {
                self.rest_pair(now, slot, seat, owner);
            }
            FailureReason::NotHeld => {
                self.tasks[slot].drop_piece(owner, piece);
                self.seeds_are_due = true;
                self.ensure_source(now, digest);
                if self.tasks.is(slot, digest) {
                    self.reach_all(now, slot);
                }
            }
        }
    }

    /// A child says that a parent failed it. How many say so, where nothing speaks against it.
    fn accused(
        &mut self,
        now: Instant,
        child: PeerKey,
        parent: PeerKey,
        planned_at: Instant,
    ) -> Option<usize> {
        let parent = self.peers.known_mut(parent);
        let accusers = parent.accused_by(child, now, &self.limits);
        let is_contradicted = accusers == 1 && parent.has_sent_since(planned_at);
        if is_contradicted {
            self.peers.known_mut(child).disappoints();
        }
        (!is_contradicted).then_some(accusers)
    }

    fn blame(&mut self, now: Instant, parent: PeerKey, by: Option<PeerKey>) {
        self.blame_until(parent, now + self.limits.blame, by);
    }

    /// On that child's word alone, or on better grounds.
    pub(crate) fn blame_until(&mut self, parent: PeerKey, until: Instant, by: Option<PeerKey>) {
        self.peers.known_mut(parent).blame(until, by);
        self.deadlines.insert((until, Deadline::Parent(parent)));
    }

    /// What a parent that several children gave up on still owes is planned anew, from others
    /// where there are any; where it was one child, only what it owes that one. What it holds does not count until it is
    /// heard of again.
    pub(crate) fn remove_parent(&mut self, now: Instant, parent: PeerKey, by: Option<PeerKey>) {
        let slots = self.peers[parent].rest.serves.clone();
        let mut children = Vec::new();
        for slot in slots {
            let Some(owner) = self.seat(parent, slot) else { continue };
            let digest = self.tasks[slot].digest;
            for (seat, piece) in self.owed(slot, owner) {
                let child = self.tasks[slot].member(seat).peer;
                if by.is_some_and(|accuser| accuser != child) {
                    continue;
                }
                self.land(now, slot, seat, piece, Landing::Lost);
                self.outputs.push_back(Output::Cancel { child, digest, piece });
                self.rest_pair(now, slot, seat, owner);
                children.push(child);
            }
            self.tasks[slot].set_counted(owner, false);
            self.seeds_are_due = true;
        }
        for child in children {
            self.feed_downloads(now, child);
        }
    }

    /// A member that was removed as a parent is heard of again.
    pub(crate) fn trust_again(&mut self, slot: TaskSlot, seat: Seat) {
        let member = self.tasks[slot].member(seat);
        let is_doubted = !member.believed || member.ties.suspicion.questioned_at.is_some();
        if !member.counted && member.ties.suspicion.corrupt.is_none() && !is_doubted {
            self.tasks[slot].set_counted(seat, true);
        }
    }

    /// Keeps a child from a parent that failed it, for a while.
    pub(crate) fn rest_pair(&mut self, now: Instant, slot: TaskSlot, child: Seat, parent: Seat) {
        let until = now + self.limits.pair_rest;
        let task = &mut self.tasks[slot];
        let member = task.member_mut(child);
        member.rest(parent, now, until);
        let deadline = Deadline::Feed(task.digest, task.member(child).peer);
        self.deadlines.insert((until, deadline));
    }
}
