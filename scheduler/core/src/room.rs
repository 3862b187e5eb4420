//! Room in the planner's books: it goes to who asks for little.
//!
//! A blob that is known takes memory for as long as a peer holds or wants it, and anyone may say that it does. Who made
//! it known pays for it. Where the books are full, what the largest payer alone has a part in makes room for others.

use std::cmp::Reverse;
use std::time::{Duration, Instant};

use flotilla_proto::{Failure, Layout};

use crate::failure::too_many_blobs;
use crate::peer::Peer;
use crate::scheduler::Scheduler;
use crate::task::{Task, TaskSlot};
use crate::{Limits, Output, PeerKey};

impl Scheduler {
    /// Makes room for a blob that a peer makes known. Where the books are full, costs a pass over the peers, and one over
    /// what the largest payer has a part in.
    pub(crate) fn make_room(&mut self, now: Instant, payer: PeerKey, layout: Layout) -> Result<(), Failure> {
        let weight = weight(layout, &self.limits);
        if self.tasks.weight() + weight <= self.limits.pieces_max {
            return Ok(());
        }
        // A seed's inventory is what the region reads from the registry if it is forgotten.
        let may_pay = |peer: &Peer| !peer.rest.facts.seed;
        let weight_of = |key: PeerKey| self.peers.get(key).map_or(0, |peer| peer.rest.weight);
        let payers = self.peers.iter().filter(|(_, peer)| may_pay(peer));
        let largest = payers.max_by_key(|(key, peer)| (peer.rest.weight, Reverse(*key))).map(|(key, _)| key);
        let is_larger = |key: &PeerKey| weight_of(*key) > weight_of(payer) + weight;
        let looked_lately = self.cleared_out_at.is_some_and(|at| now < at + LOOK_AGAIN);
        if let Some(largest) = largest.filter(|key| is_larger(key) && !looked_lately) {
            // Some more, so that not everyone who comes has to look.
            let wanted = weight + self.limits.pieces_max / 64;
            self.clear_out(now, largest, wanted);
            let is_full = self.tasks.weight() + weight > self.limits.pieces_max;
            self.cleared_out_at = is_full.then_some(now);
        }
        let has_room = self.tasks.weight() + weight <= self.limits.pieces_max;
        if has_room { Ok(()) } else { Err(too_many_blobs(self.limits.tasks_max, self.limits.pieces_max)) }
    }

    /// Forgets blobs that a peer made known, and in which nobody else has a part, until so much is free.
    fn clear_out(&mut self, now: Instant, payer: PeerKey, wanted: u64) {
        let is_spare = |slot: &TaskSlot| self.tasks[*slot].member_count() == 1;
        let seats = self.peers[payer].rest.seats.keys().copied();
        let mut spare: Vec<TaskSlot> = seats.filter(is_spare).collect();
        spare.sort_unstable();
        let before = self.tasks.weight();
        for slot in spare {
            if before - self.tasks.weight() >= wanted {
                return;
            }
            // What forgetting another leads to may have changed this one.
            if self.seat(payer, slot).is_some() && self.tasks[slot].member_count() == 1 {
                self.forget_task(now, slot);
            }
        }
    }

    /// Nobody has a part in a blob any more. Who wants it is told.
    fn forget_task(&mut self, now: Instant, slot: TaskSlot) {
        let task = &self.tasks[slot];
        let digest = task.digest;
        let members: Vec<(PeerKey, bool)> =
            task.members().map(|(_, member)| (member.peer, member.wish.is_some())).collect();
        for (peer, wants) in members {
            if wants {
                let failure = too_many_blobs(self.limits.tasks_max, self.limits.pieces_max);
                self.outputs.push_back(Output::FailTask { peer, digest, failure, root: None });
            }
            // Nothing is left to mend: who sent it something has a free slot, and finds others at the next event.
            drop(self.detach(now, peer, slot));
        }
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

/// What a blob takes: its pieces, and as much as so many blobs of none may.
fn weight(layout: Layout, limits: &Limits) -> u64 {
    let each = limits.pieces_max / u64::try_from(limits.tasks_max).unwrap_or(u64::MAX).max(1);
    u64::from(layout.piece_count()) + each
}

/// Full books of which nobody could be cleared out are looked at so often.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
