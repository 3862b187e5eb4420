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

/// A piece that a parent did not deliver, as its child says.
#[derive(Debug, Clone, Copy)]
struct Fault {
    slot: TaskSlot,
    child: Seat,
    parent: Seat,
    piece: u32,
    planned_at: Instant,
    reason: FailureReason,
}

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
        let fault = Fault { slot, child: seat, parent: owner, piece, planned_at, reason };
        let is_questionable = self.is_questionable(now, &fault);
        if is_questionable {
            self.question(now, slot, seat, owner, piece);
        }
        // The question may have ended either's part.
        if self.find(child, digest) == Some((slot, seat)) && self.seat(parent, slot) == Some(owner) {
            self.blame_for(now, &fault, is_questionable);
        }
        self.feed_downloads(now, child);
        self.feed_parent(now, parent);
        if let Some((slot, seat)) = self.find(child, digest) {
            self.feed_neighbours(now, slot, seat);
        }
    }

    /// Whether a failure says that the parent may not hold what it announced, or not give it.
    fn is_questionable(&self, now: Instant, fault: &Fault) -> bool {
        let task = &self.tasks[fault.slot];
        let (parent, child) = (task.member(fault.parent), task.member(fault.child));
        match fault.reason {
            FailureReason::TimedOut | FailureReason::Unreachable | FailureReason::Corrupt => true,
            // Busy though it owes nothing, it gives nothing. Nor does one that is busy for a seed that asks for one piece.
            FailureReason::Busy => {
                let (is_probed, owed) = (task.is_probed(now, fault.parent), self.peers[parent.peer].up.count);
                !parent.proven && (is_probed && child.seed || owed <= u32::from(is_probed))
            }
            FailureReason::NotHeld => self.is_hearsay(now, fault),
        }
    }

    /// Whether only a child says that a parent does not hold a piece, and few others hold it: then a seed asks the parent
    /// before anyone reads the registry. Not once a seed had the time to ask, and not where the parent is a seed.
    fn is_hearsay(&self, now: Instant, fault: &Fault) -> bool {
        let task = &self.tasks[fault.slot];
        let (parent, child) = (task.member(fault.parent), task.member(fault.child));
        let was_tried = parent.ties.suspicion.tried_until.is_some_and(|until| until <= now);
        let is_between_peers = !child.seed && !parent.seed;
        is_between_peers
            && task.few_hold(fault.piece)
            && !was_tried
            && self.next_seed(now, task.digest, &[parent.peer].into()).is_some()
    }

    /// What a failure means for the parent and for the pair.
    fn blame_for(&mut self, now: Instant, fault: &Fault, was_questionable: bool) {
        let Fault { slot, child, parent, piece, .. } = *fault;
        match fault.reason {
            FailureReason::TimedOut | FailureReason::Unreachable => self.blame_for_silence(now, fault),
            FailureReason::Corrupt => self.blame_for_corruption(now, fault),
            FailureReason::Busy => self.rest_pair(now, slot, child, parent),
            FailureReason::NotHeld if was_questionable => self.rest_pair(now, slot, child, parent),
            FailureReason::NotHeld => {
                let digest = self.tasks[slot].digest;
                self.tasks[slot].drop_piece(parent, piece);
                self.seeds_are_due = true;
                self.ensure_source(now, digest);
                if self.tasks.is(slot, digest) {
                    self.reach_all(now, slot);
                }
            }
        }
    }

    fn blame_for_silence(&mut self, now: Instant, fault: &Fault) {
        let (child, parent) = self.pair_of(fault);
        self.rest_pair(now, fault.slot, fault.child, fault.parent);
        let Some(accusers) = self.accused(now, fault) else { return };
        if self.peers.known_mut(parent).fails(now, accusers, &self.limits) {
            let alone = (accusers == 1).then_some(child);
            self.blame(now, parent, alone);
            self.remove_parent(now, parent, alone);
        }
        self.disbelieve_if_useless(now, parent);
    }

    fn blame_for_corruption(&mut self, now: Instant, fault: &Fault) {
        let (child, parent) = self.pair_of(fault);
        let task = &mut self.tasks[fault.slot];
        task.member_mut(fault.child).ban(fault.parent);
        let (by_seed, of_seed) = (task.member(fault.child).seed, task.member(fault.parent).seed);
        if let Some(accusers) = self.accused(now, fault) {
            let enough = if of_seed { self.limits.timeouts_to_blame } else { 2 };
            let alone = (accusers < enough && !by_seed).then_some(child);
            self.blame(now, parent, alone);
            let task = &mut self.tasks[fault.slot];
            let accused = &mut task.member_mut(fault.parent).ties.suspicion.corrupt;
            if *accused != Some(Accused::ByMany) {
                *accused = Some(alone.map_or(Accused::ByMany, Accused::By));
            }
            task.set_counted(fault.parent, false);
        }
        self.seeds_are_due = true;
        self.watch_hope(now, fault.slot, fault.child);
        self.reach(now, fault.slot, fault.child);
        // Last: it may end either's part.
        self.disbelieve_if_useless(now, parent);
    }

    /// The child's key and the parent's.
    fn pair_of(&self, fault: &Fault) -> (PeerKey, PeerKey) {
        let task = &self.tasks[fault.slot];
        (task.member(fault.child).peer, task.member(fault.parent).peer)
    }

    /// A child says that a parent failed it, perhaps by a corrupt piece. How many say so, where nothing speaks against
    /// it. A child that has taken nothing from anyone meanwhile may await less.
    fn accused(&mut self, now: Instant, fault: &Fault) -> Option<usize> {
        let (child, parent) = self.pair_of(fault);
        let accuser = self.peers[child].rest.facts.id.clone();
        let has_taken = self.peers[child].has_taken_since(fault.planned_at);
        let is_corrupt = fault.reason == FailureReason::Corrupt;
        let parent = self.peers.known_mut(parent);
        let accusers = parent.accused_by(&accuser, is_corrupt, now, &self.limits);
        let is_contradicted = accusers == 1 && parent.has_delivered_since(fault.planned_at);
        if is_contradicted && !has_taken {
            self.disappointed_by(now, child);
        }
        (!is_contradicted).then_some(accusers)
    }

    /// Disbelieves a parent that several children say has failed them, and that nobody has got anything from.
    pub(crate) fn disbelieve_if_useless(&mut self, now: Instant, parent: PeerKey) {
        let peer = &self.peers[parent];
        let is_useless = !peer.has_delivered() && !peer.rest.facts.seed;
        if is_useless && peer.accuser_count(now, &self.limits) >= self.limits.timeouts_to_blame {
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

    /// Plans again what a parent owes, after several children gave up on it; after one did, only what it owes that
    /// child. What the parent holds does not count until it is heard of again.
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
        if member.counted || !member.believed {
            return;
        }
        let suspicion = &member.ties.suspicion;
        let is_questioned = suspicion.questioned_at.is_some_and(|at| now < at + self.limits.question);
        if suspicion.corrupt.is_none() && !is_questioned {
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
