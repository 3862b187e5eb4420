//! Whether a peer holds what it says.
//!
//! Beside the first child of a holder that has delivered nothing of a blob yet, and that few or none share it with, a
//! seed asks it for a piece, too: a *probe*. One that fails a child, and has delivered nothing since, is *in question*. Failed
//! the seed as well, it is disbelieved. Else a seed then fetches from it, as
//! a child, what clients want and nobody else holds: a *relay*. If that comes, everyone has it from the seed, and
//! a child that lied about its parent, or cannot reach it, has cost nothing at the registry. If the seed
//! gets nothing either, the holder is *disbelieved*: what it says that it holds counts as held by nobody, so it
//! is read from the registry, and nobody is sent there. It is believed again once it delivers, or
//! after a while that doubles each time.

use std::time::{Duration, Instant};

use flotilla_proto::{Digest, PieceSet, bits};

use crate::member::{Flight, Member};
use crate::scheduler::{Deadline, Scheduler};
use crate::task::{Landing, Seat, Task, TaskSlot};
use crate::{Output, PeerKey};

impl Scheduler {
    /// A holder did not deliver a piece to a child. Where few hold the piece, costs a pass over the members.
    pub(crate) fn question(&mut self, now: Instant, slot: TaskSlot, child: Seat, holder: Seat, piece: u32) {
        let task = &mut self.tasks[slot];
        let by_seed = task.member(child).seed;
        let suspicion = &mut task.member_mut(holder).ties.suspicion;
        let is_in_question = suspicion.questioned_at.is_some_and(|at| now < at + self.limits.question);
        if by_seed {
            // A seed's own trouble is no more than one child's.
            suspicion.failed_seed_at = Some(now);
            if is_in_question && !self.tasks[slot].member(holder).seed {
                self.disbelieve(now, slot, holder);
            }
            return;
        }
        suspicion.questioned_at = Some(now);
        let has_failed_seed = suspicion.failed_seed_at.is_some_and(|at| now < at + self.limits.question);
        if has_failed_seed && task.is_unproven(holder) && task.few_hold(piece) {
            self.disbelieve(now, slot, holder);
            return;
        }
        if !task.few_hold(piece) {
            return;
        }
        if task.is_unproven(holder) {
            // A seed that reads gives what only this one is said to have.
            task.set_counted(holder, false);
            self.seeds_are_due = true;
        }
        if self.relay(now, slot, holder) && self.tasks[slot].is_unproven(holder) {
            self.take_back(now, slot, child, holder);
        }
    }

    /// A child is to have nothing from a parent: it has room for the seed.
    fn take_back(&mut self, now: Instant, slot: TaskSlot, child: Seat, holder: Seat) {
        let task = &self.tasks[slot];
        let (digest, peer) = (task.digest, task.member(child).peer);
        let of_holder = task.member(child).ties.in_flight.iter().filter(|flight| flight.parent == holder);
        for piece in of_holder.map(|flight| flight.piece).collect::<Vec<u32>>() {
            self.outputs.push_back(Output::Cancel { child: peer, digest, piece });
            self.land(now, slot, child, piece, Landing::Lost);
        }
    }

    /// Has a seed fetch from a holder in question what is wanted and nobody else holds. Whether there is anything.
    fn relay(&mut self, now: Instant, slot: TaskSlot, holder: Seat) -> bool {
        let task = &self.tasks[slot];
        let (key, digest, size) = (task.member(holder).peer, task.digest, task.layout.size());
        let mut pieces = task.held_alone(holder, |at| now < at + self.limits.question);
        let Some(seed) = self.next_seed(now, digest, &[key].into()) else { return false };
        if let Some((ordered, _)) = self.tasks[slot].source.ordered_of(seed) {
            pieces = pieces.difference(ordered);
        }
        if let Some(seat) = self.seat(seed, slot) {
            let task = &self.tasks[slot];
            let has = |piece: &u32| {
                task.holds(seat, *piece) || task.member(seat).wish.is_some() && task.wants(seat, *piece)
            };
            for piece in pieces.clone().iter().filter(has) {
                pieces.remove(piece);
            }
        }
        if pieces.is_empty() {
            return false;
        }
        if self.tasks[slot].is_unproven(holder) {
            self.peers.known_mut(key).mistrust();
        }
        let until = now + 2 * self.limits.unproven;
        self.tasks[slot].member_mut(holder).ties.suspicion.tried_until = Some(until);
        self.deadlines.insert((until, Deadline::Parent(key)));
        self.outputs.push_back(Output::Relay { seed, digest, size, pieces });
        true
    }

    /// Has a seed ask a holder for a piece that it is about to send its first child, once for each blob: where it
    /// gives neither anything, both show it at the same time. Not where a seed holds the piece or reads the blob: then
    /// nobody depends on this one.
    fn probe(&mut self, now: Instant, slot: TaskSlot, child: Seat, holder: Seat, piece: u32) {
        let task = &self.tasks[slot];
        let is_had = |(seat, member): (Seat, &Member)| member.seed && task.holds(seat, piece);
        if task.member(child).seed
            || task.member(holder).ties.suspicion.probed_at.is_some()
            || task.source.reader().is_some()
            || task.members().any(is_had)
        {
            return;
        }
        let (key, digest, size) = (task.member(holder).peer, task.digest, task.layout.size());
        let Some(seed) = self.next_seed(now, digest, &[key].into()) else { return };
        let mut pieces = PieceSet::new(self.tasks[slot].piece_count());
        pieces.insert(piece);
        self.tasks[slot].member_mut(holder).ties.suspicion.probed_at = Some(now);
        self.outputs.push_back(Output::Relay { seed, digest, size, pieces });
    }

    /// Disbelieves the peer that a member is.
    fn disbelieve(&mut self, now: Instant, slot: TaskSlot, holder: Seat) {
        self.disbelieve_peer(now, self.tasks[slot].member(holder).peer);
    }

    /// From now on what a peer says that it holds counts as held by nobody, unless it is so already. Costs a pass over its part in all blobs, and over what
    /// it holds of those that somebody wants.
    pub(crate) fn disbelieve_peer(&mut self, now: Instant, key: PeerKey) {
        let id = &self.peers[key].rest.facts.id;
        if self.records.disbelieved_until(now, id).is_some() {
            return;
        }
        let until = self.records.disbelieve(now, id, self.limits.blame);
        self.blame_until(now, key, until, None);
        let mut wanted = Vec::new();
        for (slot, seat) in self.wanted_seats(key) {
            let task = &mut self.tasks[slot];
            if task.source.reader() != Some(key) {
                task.set_believed(seat, false);
                wanted.push((slot, task.digest));
            }
        }
        self.remove_parent(now, key, None);
        for (slot, digest) in wanted {
            self.ensure_source(now, digest);
            if self.tasks.is(slot, digest) {
                self.reach_all(now, slot);
            }
        }
    }

    /// A peer delivered: it holds what it says.
    pub(crate) fn believe(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get(key) else { return };
        self.records.believe(&peer.rest.facts.id);
        self.believe_in_all(now, key);
    }

    /// The time for which a peer was to be disbelieved may be over.
    pub(crate) fn believe_after_a_while(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get(key) else { return };
        if self.records.disbelieved_until(now, &peer.rest.facts.id).is_none() {
            self.believe_in_all(now, key);
        }
    }

    fn believe_in_all(&mut self, now: Instant, key: PeerKey) {
        for (slot, seat) in self.wanted_seats(key) {
            let task = &mut self.tasks[slot];
            let member = task.member_mut(seat);
            if !member.believed && !member.ties.silent {
                self.seeds_are_due = true;
                member.ties.suspicion.questioned_at = None;
                task.set_believed(seat, true);
                // What it told of them meanwhile was not heard.
                self.ask_hashes(now, slot, Some(seat));
            }
        }
    }

    /// Where a peer sits in tasks that somebody wants, in a steady order.
    fn wanted_seats(&self, key: PeerKey) -> Vec<(TaskSlot, Seat)> {
        let seats = self.peers[key].rest.seats.iter().map(|(slot, seat)| (*slot, *seat));
        let mut wanted: Vec<_> = seats.filter(|(slot, _)| self.tasks[*slot].is_wanted()).collect();
        wanted.sort_unstable();
        wanted
    }

    /// A blob begins to be wanted: what its members hold counts as they are believed now. Costs a pass over them.
    pub(crate) fn look_at_beliefs(&mut self, now: Instant, slot: TaskSlot) {
        if self.records.are_all_believed(now) && self.tasks[slot].all_believed() {
            return;
        }
        let members: Vec<(Seat, PeerKey)> =
            self.tasks[slot].members().map(|(seat, member)| (seat, member.peer)).collect();
        for (seat, key) in members {
            let task = &self.tasks[slot];
            let is_reader = task.source.reader() == Some(key);
            let believed = is_reader || !self.is_disbelieved(now, key) && !task.member(seat).ties.silent;
            self.seeds_are_due |= believed != self.tasks[slot].member(seat).believed;
            self.tasks[slot].set_believed(seat, believed);
        }
    }

    pub(crate) fn is_disbelieved(&self, now: Instant, key: PeerKey) -> bool {
        self.peers
            .get(key)
            .is_some_and(|peer| self.records.disbelieved_until(now, &peer.rest.facts.id).is_some())
    }

    /// A piece is on its way from a parent that has not delivered any of this blob yet: it is looked at, where few
    /// hold the piece.
    pub(crate) fn watch_unproven(
        &mut self,
        now: Instant,
        slot: TaskSlot,
        child: Seat,
        parent: Seat,
        piece: u32,
    ) {
        let task = &self.tasks[slot];
        if !task.is_unproven(parent) || !task.few_hold(piece) {
            return;
        }
        let digest = task.digest;
        self.probe(now, slot, child, parent, piece);
        let at = now + self.time_to_prove(slot, parent);
        let task = &mut self.tasks[slot];
        let member = task.member_mut(child);
        if member.ties.late_at.is_none() {
            member.ties.late_at = Some(at);
            self.deadlines.insert((at, Deadline::Late(digest, member.peer)));
        }
    }

    /// Looks at what a child awaits of parents that have not delivered any of this blob: what has been on its way for
    /// long is lost.
    pub(crate) fn give_up_late(&mut self, now: Instant, child: PeerKey, digest: Digest) {
        let Some((slot, seat)) = self.find(child, digest) else { return };
        let task = &self.tasks[slot];
        let flights =
            task.member(seat).ties.in_flight.iter().filter(|flight| task.is_unproven(flight.parent));
        let due = |flight: &Flight| flight.planned_at + self.time_to_prove(slot, flight.parent);
        let (late, young): (Vec<Flight>, Vec<Flight>) =
            flights.copied().partition(|flight| due(flight) <= now);
        let next = young.iter().map(due).min();
        self.tasks[slot].member_mut(seat).ties.late_at = next;
        self.deadlines.extend(next.map(|at| (at, Deadline::Late(digest, child))));
        for flight in late {
            let still_is = self.find(child, digest) == Some((slot, seat));
            if !still_is || self.tasks[slot].member(seat).flight(flight.piece) != Some(&flight) {
                continue;
            }
            if !self.tasks[slot].few_hold(flight.piece) {
                continue;
            }
            self.outputs.push_back(Output::Cancel { child, digest, piece: flight.piece });
            let parent = self.land(now, slot, seat, flight.piece, Landing::Lost);
            self.rest_pair(now, slot, seat, flight.parent);
            self.question(now, slot, seat, flight.parent, flight.piece);
            if let Some(parent) = parent {
                self.feed_parent(now, parent);
            }
        }
        self.feed_downloads(now, child);
    }

    /// How long a parent has to deliver its first piece of a blob, for all that it owes.
    fn time_to_prove(&self, slot: TaskSlot, parent: Seat) -> Duration {
        let owed = self.peers[self.tasks[slot].member(parent).peer].up.bytes;
        self.limits.unproven + Duration::from_secs_f64(f64::from(owed) / SLOW_LINK)
    }
}

impl Task {
    /// Whether only a seed may be sent what a member holds.
    pub(crate) fn is_tried(&self, now: Instant, holder: Seat) -> bool {
        let member = self.member(holder);
        self.is_unproven(holder) && member.ties.suspicion.tried_until.is_some_and(|until| now < until)
    }

    /// Whether a seed was told lately to ask a member for a piece, and it has yet to deliver its first.
    pub(crate) fn is_probed(&self, now: Instant, holder: Seat) -> bool {
        let probed_at = self.member(holder).ties.suspicion.probed_at;
        probed_at.is_some_and(|at| now < at + PROBED_FOR) && self.is_unproven(holder)
    }

    /// Whether a parent has not delivered any of this blob. A seed that is slow has too much to do.
    pub(crate) fn is_unproven(&self, parent: Seat) -> bool {
        let member = self.member(parent);
        !member.proven && !member.seed
    }

    /// Whether so few hold a piece that it matters whether each of them does.
    pub(crate) fn few_hold(&self, piece: u32) -> bool {
        self.holder_count(piece) <= FEW
    }

    /// What is wanted of a blob and held by nobody who is believed and not in question, but by this member.
    fn held_alone(&self, holder: Seat, is_in_question: impl Fn(Instant) -> bool) -> PieceSet {
        let mut others = vec![0_u64; bits::full(self.piece_count()).len()];
        for (seat, member) in self.members() {
            let is_doubtful =
                !member.believed || member.ties.suspicion.questioned_at.is_some_and(&is_in_question);
            if seat != holder && !is_doubtful {
                let held = self.rows.held(member.row);
                others.iter_mut().zip(held).for_each(|(others, held)| *others |= held);
            }
        }
        let held = self.rows.held(self.member(holder).row);
        let mut alone = PieceSet::new(self.piece_count());
        let words: Vec<u64> = held.iter().zip(&others).map(|(held, others)| held & !others).collect();
        for piece in bits::ones(&words) {
            alone.insert(piece);
        }
        self.demanded_of(alone)
    }
}

/// What the slowest of the links that people use carry, in bytes a second: 24 Mbit/s.
pub(crate) const SLOW_LINK: f64 = 3.0 * 1024.0 * 1024.0;

/// For so long a holder keeps a place for the seed that was told to ask it.
const PROBED_FOR: Duration = Duration::from_secs(2);

/// Where more hold a piece, others give it, and nobody need be questioned.
const FEW: u32 = 4;
