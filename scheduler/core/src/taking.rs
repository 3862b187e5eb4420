//! Whether a child takes what is on its way to it.
//!
//! A piece that is planned to a child keeps a place in its parent's queue, and a seed that reads gives it to nobody
//! else. A child that never asks for it, or takes its wish back each time, would keep both from everyone. So what is on
//! its way to a child that gets nothing for long weighs nothing any more, though it may still arrive. The child's
//! *credit*, what it may await, halves each time, and doubles with each piece that it takes.

use std::time::{Duration, Instant};

use crate::PeerKey;
use crate::belief::SLOW_LINK;
use crate::scheduler::{Deadline, Scheduler};
use crate::task::{Seat, TaskSlot};

impl Scheduler {
    /// A piece is on its way to a child: it is looked at after a while.
    pub(crate) fn watch_taking(&mut self, now: Instant, child: PeerKey) {
        let at = now + self.time_to_take(child);
        let rest = &mut self.peers.known_mut(child).rest;
        if rest.taking_looked_at.is_none() {
            rest.taking_looked_at = Some(at);
            self.deadlines.insert((at, Deadline::Taking(child)));
        }
    }

    /// Looks whether a child takes what is on its way to it. Costs a look at all of that, where it got nothing for long.
    pub(crate) fn look_at_taking(&mut self, now: Instant, child: PeerKey) {
        let Some(peer) = self.peers.get_mut(child) else { return };
        if peer.rest.taking_looked_at.is_none_or(|at| at > now) {
            // Another peer has the key since.
            return;
        }
        peer.rest.taking_looked_at = None;
        let Some(taken_at) = peer.rest.taken_at.filter(|_| peer.down.count > 0) else { return };
        let time = self.time_to_take(child);
        let mut again = taken_at + time;
        if again <= now {
            self.discount_flights(now, child, time);
            again = now + self.limits.unproven;
        }
        self.peers.known_mut(child).rest.taking_looked_at = Some(again);
        self.deadlines.insert((again, Deadline::Taking(child)));
    }

    /// What is on its way to a child for so long weighs no more. A parent that has sent nothing meanwhile may be the one
    /// to blame: it has to show again what it can do.
    fn discount_flights(&mut self, now: Instant, child: PeerKey, time: Duration) {
        let Some(since) = now.checked_sub(time) else { return };
        let mut freed: Vec<PeerKey> = Vec::new();
        for slot in self.peers[child].rest.wants.clone() {
            let Some(seat) = self.seat(child, slot) else { continue };
            let task = &mut self.tasks[slot];
            for flight in task.discount_flights(seat, since) {
                let (parent, bytes) = (task.member(flight.parent).peer, task.layout.piece_size(flight.piece));
                let parent_of = self.peers.known_mut(parent);
                parent_of.is_rid_of(bytes);
                if !parent_of.has_sent_since(flight.planned_at) {
                    parent_of.mistrust();
                }
                if !freed.contains(&parent) {
                    freed.push(parent);
                }
            }
        }
        if freed.is_empty() {
            return;
        }
        self.seeds_are_due = true;
        self.peers.known_mut(child).disappoints();
        for parent in freed {
            self.feed_parent(now, parent);
        }
    }

    /// A child takes its wish back, or leaves, while pieces are on their way to it.
    pub(crate) fn leaves_untaken(&mut self, slot: TaskSlot, child: Seat) {
        let member = self.tasks[slot].member(child);
        if member.awaits() {
            self.peers.known_mut(member.peer).disappoints();
        }
    }

    /// How long a child may get nothing, for all that is on its way to it.
    fn time_to_take(&self, child: PeerKey) -> Duration {
        let awaited = self.peers[child].down.bytes;
        self.limits.unproven + Duration::from_secs_f64(f64::from(awaited) / SLOW_LINK)
    }
}
