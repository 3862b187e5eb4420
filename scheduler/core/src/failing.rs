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
        let is_questionable = self.is_questionable(now, slot, seat, owner, piece, reason);
        if is_questionable {
            self.question(now, slot, seat, owner, piece);
        }
        if let Some((slot, seat)) = self.find(child, digest)
            && let Some(owner) = self.seat(parent, slot)
        {
            let failed = (piece, planned_at, is_questionable);
            self.blame_for(now, (slot, seat), (parent, owner), failed, reason);
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
            FailureReason::NotHeld => self.is_hearsay(now, slot, child, parent, piece),
        }
    }

    /// Whether it is a child's word alone that a parent does not hold a piece which few others do: a seed is to ask it,
    /// before the registry is. Not once a seed had the time to, and not of a seed's own.
    fn is_hearsay(&self, now: Instant, slot: TaskSlot, child: Seat, parent: Seat, piece: u32) -> bool {
        let task = &self.tasks[slot];
        let holder = task.member(parent);
        let was_tried = holder.ties.suspicion.tried_until.is_some_and(|until| until <= now);
        let is_one_child_s = !task.member(child).seed && !holder.seed && task.few_hold(piece) && !was_tried;
        is_one_child_s && self.next_seed(now, task.digest, &[holder.peer].into()).is_some()
    }

    /// What a failure means for the parent and for the pair.
    fn blame_for(
        &mut self,
        now: Instant,
        (slot, seat): (TaskSlot, Seat),
        (parent, owner): (PeerKey, Seat),
        (piece, planned_at, was_questionable): (u32, Instant, bool),
        reason: FailureReason,
    ) {
        let (child, digest) = (self.tasks[slot].member(seat).peer, self.tasks[slot].digest);
        match reason {
            FailureReason::TimedOut | FailureReason::Unreachable => {
                self.rest_pair(now, slot, seat, owner);
                let Some(accusers) = self.accused(now, (child, parent), false, planned_at) else { return };
                if self.peers.known_mut(parent).fails(now, accusers, &self.limits) {
                    let alone = (accusers == 1).then_some(child);
                    self.blame(now, parent, alone);
                    self.remove_parent(now, parent, alone);
                }
                self.disbelieve_if_useless(now, parent);
            }
            FailureReason::Busy => self.rest_pair(now, slot, seat, owner),
            FailureReason::Corrupt => {
                let by_seed = self.tasks[slot].member(seat).seed;
                self.tasks[slot].member_mut(seat).ban(owner);
                if let Some(accusers) = self.accused(now, (child, parent), true, planned_at) {
                    let enough =
                        if self.tasks[slot].member(owner).seed { self.limits.timeouts_to_blame } else { 2 };
                    let alone = (accusers < enough && !by_seed).then_some(child);
                    self.blame(now, parent, alone);
                    let task = &mut self.tasks[slot];
                    let accused = &mut task.member_mut(owner).ties.suspicion.corrupt;
                    if *accused != Some(Accused::ByMany) {
                        *accused = Some(alone.map_or(Accused::ByMany, Accused::By));
                    }
                    task.set_counted(owner, false);
                }
                self.seeds_are_due = true;
                self.watch_hope(now, slot, seat);
                self.reach(now, slot, seat);
                self.disbelieve_if_useless(now, parent);
            }
            FailureReason::NotHeld if was_questionable => {
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

    /// A child says that a parent failed it, perhaps by a corrupt piece. How many say so, where nothing speaks against
    /// it. A child that has taken nothing from anyone meanwhile may await less.
    fn accused(
        &mut self,
        now: Instant,
        (child, parent): (PeerKey, PeerKey),
        corrupt: bool,
        planned_at: Instant,
    ) -> Option<usize> {
        let (accuser, has_taken) =
            (self.peers[child].rest.facts.id.clone(), self.peers[child].has_taken_since(planned_at));
        let parent = self.peers.known_mut(parent);
        let accusers = parent.accused_by(&accuser, corrupt, now, &self.limits);
        let is_contradicted = accusers == 1 && parent.has_delivered_since(planned_at);
        if is_contradicted && !has_taken {
            self.disappointed_by(now, child);
        }
        (!is_contradicted).then_some(accusers)
    }

    /// Disbelieves a parent that several children say has failed them, and that nobody has got anything from.
    pub(crate) fn disbelieve_if_useless(&mut self, now: Instant, parent: PeerKey) {
        let peer = &self.peers[parent];
        let is_useless = !peer.has_sent && !peer.rest.facts.seed;
        if is_useless
            && peer.accuser_count(now, &self.limits) >= self.limits.timeouts_to_blame
            && !self.is_disbelieved(now, parent)
        {
            self.disbelieve_peer(now, parent);
        }
    }

    fn blame(&mut self, now: Instant, parent: PeerKey, by: Option<PeerKey>) {
        self.blame_until(now, parent, now + self.limits.blame, by);
    }

    /// On that child's word alone, or on better grounds.
    pub(crate) fn blame_until(&mut self, now: Instant, parent: PeerKey, until: Instant, by: Option<PeerKey>) {
        self.peers.known_mut(parent).blame(now, until, by);
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
    pub(crate) fn trust_again(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        let member = self.tasks[slot].member(seat);
        let questioned_at = member.ties.suspicion.questioned_at;
        let is_questioned = questioned_at.is_some_and(|at| now < at + self.limits.question);
        let is_doubted = !member.believed || is_questioned;
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
