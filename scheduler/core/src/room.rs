//! Room in the planner's books: it goes to who asks for little.
//!
//! A blob that is known takes memory for as long as a peer holds or wants it, and anyone may say that it does. Who made
//! it known pays for it. Where the books are full, what the largest payer alone has a part in makes room for others.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use flotilla_proto::{Failure, Layout};

use crate::failure::too_many_blobs;
use crate::scheduler::Scheduler;
use crate::task::{Task, TaskSlot};
use crate::{Limits, Output, PeerKey};

impl Scheduler {
    /// Makes room for a blob that a peer makes known. Where the books are full, costs a pass over the peers, and one over
    /// what the largest payer has a part in.
    pub(crate) fn make_room(&mut self, now: Instant, payer: PeerKey, layout: Layout) -> Result<(), Failure> {
        let weight = weight(layout, &self.limits);
        if self.has_room(weight) {
            return Ok(());
        }
        let looked_lately = self.searched_in_vain_at.is_some_and(|at| now < at + LOOK_AGAIN);
        if let Some(largest) = self.larger_payer(payer, weight).filter(|_| !looked_lately) {
            // Some more, so that not everyone who comes has to look.
            self.clear_out(now, largest, weight + self.limits.pieces_max / 64);
            self.searched_in_vain_at = (!self.has_room(weight)).then_some(now);
        }
        if self.has_room(weight) {
            Ok(())
        } else {
            Err(too_many_blobs(self.limits.tasks_max, self.limits.pieces_max))
        }
    }

    fn has_room(&self, weight: u64) -> bool {
        self.tasks.weight() + weight <= self.limits.pieces_max
    }

    /// The peer whose blobs take most, if they take more than another's would with one more. Not a seed: the region
    /// would read from the registry what is forgotten of its inventory.
    fn larger_payer(&self, payer: PeerKey, weight: u64) -> Option<PeerKey> {
        let weight_of_payer = self.peers.get(payer).map_or(0, |peer| peer.rest.weight);
        let payers = self.peers.iter().filter(|(_, peer)| !peer.rest.facts.seed);
        let largest = payers.max_by_key(|(key, peer)| (peer.rest.weight, Reverse(*key)));
        largest.filter(|(_, peer)| peer.rest.weight > weight_of_payer + weight).map(|(key, _)| key)
    }

    /// Forgets blobs in which only that peer has a part, until so much is free.
    fn clear_out(&mut self, now: Instant, payer: PeerKey, wanted: u64) {
        let mut slots: Vec<TaskSlot> = self.peers[payer].rest.seats.keys().copied().collect();
        slots.sort_unstable();
        let before = self.tasks.weight();
        for slot in slots {
            if before - self.tasks.weight() >= wanted {
                return;
            }
            // Forgetting one blob may change the peer's part in another.
            if self.seat(payer, slot).is_some() && self.tasks[slot].member_count() == 1 {
                self.forget_task(now, payer, slot);
            }
        }
    }

    /// Forgets a blob of which a peer is the only member. If the peer wants it, it is told.
    fn forget_task(&mut self, now: Instant, peer: PeerKey, slot: TaskSlot) {
        let task = &self.tasks[slot];
        let digest = task.digest;
        if task.is_wanted() {
            let failure = too_many_blobs(self.limits.tasks_max, self.limits.pieces_max);
            self.outputs.push_back(Output::FailTask { peer, digest, failure, root: None });
        }
        // Nobody else has a part in it: no repair is needed.
        drop(self.detach(now, peer, slot));
    }

    /// A blob is known, and paid for.
    pub(crate) fn enter_books(&mut self, payer: PeerKey, mut task: Task) -> TaskSlot {
        task.weight = weight(task.layout, &self.limits);
        if let Some(peer) = self.peers.get_mut(payer) {
            peer.rest.weight += task.weight;
            task.payer = Some(payer);
        }
        self.tasks.insert(task)
    }

    /// A blob that nobody has a part in is forgotten: who made it known need not pay.
    pub(crate) fn settle_bill(&mut self, slot: TaskSlot) {
        let task = &mut self.tasks[slot];
        if let Some(payer) = task.payer.take() {
            self.peers.known_mut(payer).rest.weight -= task.weight;
        }
    }

    /// A member leaves: if it paid, another does.
    pub(crate) fn pass_bill(&mut self, slot: TaskSlot, leaver: PeerKey) {
        let task = &mut self.tasks[slot];
        if task.payer != Some(leaver) {
            return;
        }
        let heir = task.members().map(|(_, member)| member.peer).find(|peer| *peer != leaver);
        task.payer = heir;
        self.peers.known_mut(leaver).rest.weight -= task.weight;
        if let Some(heir) = heir {
            self.peers.known_mut(heir).rest.weight += task.weight;
        }
    }
}

/// What a blob takes in the books: its pieces, and a constant so that `tasks_max` blobs without pieces fill them.
fn weight(layout: Layout, limits: &Limits) -> u64 {
    let each = limits.pieces_max / u64::try_from(limits.tasks_max).unwrap_or(u64::MAX).max(1);
    u64::from(layout.piece_count()) + each
}

/// Full books are searched for blobs to forget so often, at most.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
