//! Ways to the pieces that a download wants.
//!
//! A download of the whole blob gets everything through partners that want all of it too: each of them will
//! have every piece to give. A download of a part needs, for each piece, a partner that holds or reads it: its
//! other partners may not want that piece, and never have it. Any download that got nothing for
//! [`Limits::starving`](crate::Limits::starving) gets partners that hold what it lacks, for whatever reason it starves.

use std::time::Instant;

use flotilla_proto::Digest;

use crate::scheduler::{Deadline, Scheduler};
use crate::task::{Seat, TaskSlot};
use crate::{Output, PeerKey};

impl Scheduler {
    /// Gives every member that wants a part a way to each piece of it. Costs, for each such member, what
    /// [`Self::reach`] does.
    pub(crate) fn reach_all(&mut self, now: Instant, slot: TaskSlot) {
        for seat in self.tasks[slot].part_seats().to_vec() {
            self.reach(now, slot, seat);
        }
    }

    /// The same for one member, if it wants a part. The bounds on partners do not hold it back: there is no other way.
    /// Costs the words of its partners' bitsets, and of all members' where it draws one.
    pub(crate) fn reach(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        if self.tasks[slot].member(seat).part().is_some() {
            self.draw_holders(now, slot, seat);
        }
    }

    /// Looks at a download later, in case it got nothing until then.
    pub(crate) fn watch_starving(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        let (at, task) = (now + self.limits.starving, &mut self.tasks[slot]);
        let digest = task.digest;
        let member = task.member_mut(seat);
        if member.ties.watched_at.is_none() {
            member.ties.watched_at = Some(at);
            self.deadlines.insert((at, Deadline::Starving(digest, member.peer)));
        }
    }

    /// A download ends: it need not be looked at.
    pub(crate) fn end_watch(&mut self, slot: TaskSlot, seat: Seat) {
        let task = &mut self.tasks[slot];
        let digest = task.digest;
        let member = task.member_mut(seat);
        if let Some(at) = member.ties.watched_at.take() {
            self.deadlines.remove(&(at, Deadline::Starving(digest, member.peer)));
        }
    }

    /// Gives a download that got nothing for long partners that hold what it lacks, if anyone does.
    pub(crate) fn help_starving(&mut self, now: Instant, child: PeerKey, digest: Digest) {
        let Some((slot, seat)) = self.find(child, digest) else { return };
        let member = self.tasks[slot].member_mut(seat);
        member.ties.watched_at = None;
        if member.wish.is_none() {
            return;
        }
        let is_starving = !member.awaits() && member.progress_at + self.limits.starving <= now;
        self.watch_starving(now, slot, seat);
        if is_starving {
            self.draw_holders(now, slot, seat);
        }
    }

    fn draw_holders(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        let mut drew = false;
        while let Some(other) = self.out_of_reach(slot, seat) {
            self.link(slot, seat, other);
            drew = true;
        }
        if drew {
            let peer = self.tasks[slot].member(seat).peer;
            self.feed_downloads(now, peer);
            self.feed_parent(now, peer);
        }
    }

    /// A member that holds a piece that this one wants and none of its partners can give it; for a part, the seed
    /// that reads such a piece, too. All who wait for a slow registry would else become partners of its seed.
    fn out_of_reach(&self, slot: TaskSlot, seat: Seat) -> Option<Seat> {
        let task = &self.tasks[slot];
        let member = task.member(seat);
        let mut open = task.open(seat);
        let is_partner = |other: Seat| member.ties.partners.contains(&other);
        for partner in member.ties.partners.iter().filter(|partner| !member.bans(**partner)) {
            task.strike_given(&mut open, *partner, seat);
        }
        if open.iter().all(|word| *word == 0) {
            return None;
        }
        let reader = task.source.reader().and_then(|reader: PeerKey| self.seat(reader, slot));
        let reads_it = |reader: &Seat| {
            member.part().is_some() && *reader != seat && !is_partner(*reader) && task.is_unheld_in(&open)
        };
        if let Some(reader) = reader.filter(reads_it) {
            return Some(reader);
        }
        let gives =
            |other: &Seat| *other != seat && !is_partner(*other) && task.gives_any(*other, seat, &open);
        let others = task.members().map(|(other, _)| other).filter(gives);
        others.min_by_key(|other| (task.crosses(*other, seat), task.member(*other).ties.partners.len()))
    }

    /// A member that wants nothing more leaves partners that want nothing either: others need the room.
    /// A partner that sent it corrupt pieces stays, so that it is not forgotten.
    pub(crate) fn leave_idle(&mut self, slot: TaskSlot, seat: Seat) {
        let task = &self.tasks[slot];
        let member = task.member(seat);
        let is_idle = |other: &&Seat| task.member(**other).wish.is_none() && !member.bans(**other);
        let idle: Vec<Seat> = member.ties.partners.iter().filter(is_idle).copied().collect();
        for other in idle {
            self.unlink(slot, seat, other);
        }
    }

    fn unlink(&mut self, slot: TaskSlot, a: Seat, b: Seat) {
        let task = &mut self.tasks[slot];
        let digest = task.digest;
        for (one, other) in [(a, b), (b, a)] {
            let partner = task.member(other).peer;
            let member = task.member_mut(one);
            member.forget(other);
            self.outputs.push_back(Output::Unlink { peer: member.peer, partner, digest });
        }
    }
}
