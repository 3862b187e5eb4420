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
        if self.peers[child].rest.taking_looked_at.is_some() {
            return;
        }
        let at = now + self.time_to_take(child);
        self.peers.known_mut(child).rest.taking_looked_at = Some(at);
        self.deadlines.insert((at, Deadline::Taking(child)));
    }

    /// Looks whether a child takes what is on its way to it. Costs a look at all of that, where it got nothing for long.
    pub(crate) fn look_at_taking(&mut self, now: Instant, child: PeerKey) {
        let time = if self.peers.get(child).is_some() { self.time_to_take(child) } else { return };
        let peer = self.peers.known_mut(child);
        if peer.rest.taking_looked_at.is_none_or(|at| at > now) {
            // Another peer has the key since.
            return;
        }
        let due = peer.rest.taken_at.filter(|_| peer.down.count > 0).map(|taken_at| taken_at + time);
        let next = if due.is_some_and(|due| due <= now) {
            self.discount_flights(now, child, time);
            let oldest = self.oldest_flight(child);
            oldest.map(|planned_at| (planned_at + time).max(now + self.limits.unproven))
        } else {
            due
        };
        self.peers.known_mut(child).rest.taking_looked_at = next;
        self.deadlines.extend(next.map(|at| (at, Deadline::Taking(child))));
    }

    /// What is on its way to a child for so long weighs no more. A parent that has delivered nothing meanwhile may be
    /// the one to blame: it is rid of one piece, and others have a try at it; not so a seed.
    fn discount_flights(&mut self, now: Instant, child: PeerKey, time: Duration) {
        let Some(since) = now.checked_sub(time) else { return };
        let (mut freed, mut discounts): (Vec<PeerKey>, bool) = (Vec::new(), false);
        for slot in self.peers[child].rest.wants.clone() {
            let Some(seat) = self.seat(child, slot) else { continue };
            for flight in self.tasks[slot].old_flights(seat, since) {
                let task = &self.tasks[slot];
                let parent = task.member(flight.parent).peer;
                let (is_seed, peer) = (task.member(flight.parent).seed, &self.peers[parent]);
                let is_alive = is_seed || peer.has_delivered_since(flight.planned_at);
                if !is_alive && freed.contains(&parent) {
                    continue;
                }
                discounts |= is_alive;
                let bytes = task.layout.piece_size(flight.piece);
                self.tasks[slot].discount(seat, flight.piece);
                self.peers.known_mut(parent).is_rid_of(bytes);
                self.peers.known_mut(child).discounted += 1;
                if !freed.contains(&parent) {
                    freed.push(parent);
                }
            }
        }
        if discounts {
            self.disappointed_by(now, child);
        }
        self.seeds_are_due |= !freed.is_empty();
        for parent in &freed {
            self.feed_parent(now, *parent);
        }
        if !freed.is_empty() {
            self.feed_downloads(now, child);
        }
    }

    /// When the oldest of what is on its way to a child, and weighs, was planned.
    fn oldest_flight(&self, child: PeerKey) -> Option<Instant> {
        let peer = self.peers.get(child)?;
        let seats = peer.rest.wants.iter().filter_map(|slot| Some((*slot, self.seat(child, *slot)?)));
        let flights = seats.flat_map(|(slot, seat)| self.tasks[slot].member(seat).ties.in_flight.iter());
        flights.filter(|flight| flight.weighs).map(|flight| flight.planned_at).min()
    }

    /// A child takes its wish back, or leaves, while pieces are on their way to it, of which it has taken none since.
    pub(crate) fn leaves_untaken(&mut self, now: Instant, slot: TaskSlot, child: Seat) {
        let member = self.tasks[slot].member(child);
        let oldest = member.ties.in_flight.iter().map(|flight| flight.planned_at).min();
        if oldest.is_some_and(|oldest| !self.peers[member.peer].has_taken_since(oldest)) {
            self.disappointed_by(now, member.peer);
        }
    }

    /// A child may await less. What a seed awaits is for others. A client that goes takes back many wishes at once.
    pub(crate) fn disappointed_by(&mut self, now: Instant, child: PeerKey) {
        let peer = self.peers.known_mut(child);
        let is_new = peer.rest.disappointed_at.is_none_or(|at| now >= at + AT_ONCE);
        if !peer.rest.facts.seed && is_new {
            peer.rest.disappointed_at = Some(now);
            peer.disappoints();
        }
    }

    /// How long a child may get nothing, for all that is on its way to it.
    fn time_to_take(&self, child: PeerKey) -> Duration {
        let usual = self.usual_up.value().map_or(SLOW_LINK, |usual| usual / SLOWER);
        let awaited = self.peers[child].down.bytes;
        self.limits.unproven + Duration::from_secs_f64(f64::from(awaited) / usual.clamp(SLOWEST, SLOW_LINK))
    }
}

/// Disappointments within that time are one.
const AT_ONCE: Duration = Duration::from_millis(100);

/// A link so many times slower than usual is still one.
const SLOWER: f64 = 4.0;

/// Bytes a second: no link is waited for that is slower.
const SLOWEST: f64 = 64.0 * 1024.0;
