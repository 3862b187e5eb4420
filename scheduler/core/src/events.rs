//! What follows from each input.

use std::time::Instant;

use flotilla_proto::{Digest, Failure, PieceHash, PieceSet, Root, Variant};

use crate::failure::{size_differs, too_many_wants};
use crate::hashes::{Learnt, Word};
use crate::member::Wish;
use crate::peer::Peer;
use crate::plan::FEW_WANTS;
use crate::scheduler::{Deadline, Scheduler};
use crate::source::Source;
use crate::task::{Landing, Seat, TaskSlot};
use crate::{Output, PeerFacts, PeerKey};

impl Scheduler {
    pub(crate) fn peer_joined(&mut self, now: Instant, key: PeerKey, facts: PeerFacts) {
        if key.0 >= self.limits.peers_max || self.peers.get(key).is_some() {
            return;
        }
        let (seed, zone) = (facts.seed, self.zone_place(facts.zone));
        let disbelieved_until = self.records.disbelieved_until(now, &facts.id);
        self.deadlines.extend(disbelieved_until.map(|at| (at, Deadline::Parent(key))));
        let credit = self.records.credit(now, &facts.id);
        self.peers.insert(key, Peer::new(facts, zone, credit, &self.limits, self.hash));
        self.tell_pace_of_reports(key);
        if seed {
            self.seeds.push(key);
            self.seeds_changed(now);
        }
    }

    pub(crate) fn inventory_told(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get_mut(key) else { return };
        peer.rest.inventory_told = true;
        if peer.rest.facts.seed {
            self.seeds_changed(now);
        }
    }

    pub(crate) fn peer_left(&mut self, now: Instant, key: PeerKey) {
        let Some(peer) = self.peers.get(key) else { return };
        let mut slots: Vec<TaskSlot> = peer.rest.seats.keys().copied().collect();
        slots.sort_unstable();
        let untaken = slots.iter().find_map(|slot| {
            let seat = self.seat(key, *slot)?;
            self.tasks[*slot].member(seat).awaits().then_some((*slot, seat))
        });
        if let Some((slot, seat)) = untaken {
            self.leaves_untaken(now, slot, seat);
        }
        let gaps: Vec<_> = slots.into_iter().filter_map(|slot| self.detach(now, key, slot)).collect();
        self.forget_deadlines(now, key);
        let peer = &self.peers[key];
        if u32::from(peer.credit) < self.limits.window_max {
            self.records.keep_credit(now, &peer.rest.facts.id, peer.credit);
        }
        self.peers.remove(key);
        self.seeds.retain(|seed| *seed != key);
        for gap in gaps {
            self.mend(now, &gap);
        }
    }

    /// Nothing is due any more for a peer that leaves: another may have its key.
    fn forget_deadlines(&mut self, now: Instant, key: PeerKey) {
        let peer = &self.peers[key];
        let times = [peer.blamed_until(), self.records.disbelieved_until(now, &peer.rest.facts.id)];
        for at in times.into_iter().flatten() {
            self.deadlines.remove(&(at, Deadline::Parent(key)));
        }
        if let Some(at) = peer.rest.taking_looked_at {
            self.deadlines.remove(&(at, Deadline::Taking(key)));
        }
    }

    pub(crate) fn wanted(
        &mut self,
        now: Instant,
        peer: PeerKey,
        (digest, size): (Digest, u64),
        part: Option<PieceSet>,
        reader: bool,
    ) {
        if self.peers.get(peer).is_none() {
            return;
        }
        let has_room =
            self.find(peer, digest).is_some() || self.peers[peer].rest.wants.len() < self.limits.wants_max;
        let opened = if has_room {
            self.open_task(now, peer, (digest, size))
        } else {
            Err(too_many_wants(self.limits.wants_max))
        };
        let slot = match opened {
            Ok(slot) => slot,
            Err(failure) => {
                return self.outputs.push_back(Output::FailTask { peer, digest, failure, root: None });
            }
        };
        if part.as_ref().is_some_and(|part| part.len() != self.tasks[slot].piece_count()) {
            self.close_if_empty(slot);
            return;
        }
        let part = part.filter(|part| !part.is_full());
        if !self.tasks[slot].is_wanted() {
            self.look_at_beliefs(now, slot);
        }
        let Some((seat, _)) = self.enter_only(now, peer, slot) else {
            let known =
                self.tasks.slots(digest).first().map_or(size, |other| self.tasks[*other].layout.size());
            let failure = size_differs(digest, size, known, false);
            return self.outputs.push_back(Output::FailTask { peer, digest, failure, root: None });
        };
        self.set_wish(slot, seat, Some(Wish { reads: reader, is_part: part.is_some() }), part);
        if reader {
            self.tasks[slot].set_reader(seat, 0);
        }
        self.watch_hope(now, slot, seat);
        self.watch_starving(now, slot, seat);
        self.draw_first_partners(slot, seat);
        self.ensure_source(now, digest);
        let Some((slot, seat)) = self.find(peer, digest) else { return };
        self.reach(now, slot, seat);
        self.tell_seed(peer, slot);
        self.ask_hashes(now, slot, None);
        if self.tasks[slot].picking {
            self.outputs.push_back(Output::Picking { peer, digest, picks: true });
        } else {
            self.foresee_load(now, slot);
        }
        if self.peers[peer].rest.wants.len() <= FEW_WANTS {
            self.feed_downloads(now, peer);
        } else {
            // Its other downloads are most likely as they were, and a look at each would be one at thousands.
            self.feed_child(now, slot, seat);
        }
        // What it holds from an earlier life may help the partners it has just drawn.
        self.feed_parent(now, peer);
    }

    pub(crate) fn unwanted(&mut self, now: Instant, peer: PeerKey, digest: Digest) {
        let Some((slot, seat)) = self.find(peer, digest) else { return };
        let member = self.tasks[slot].member(seat);
        if member.wish.is_none() {
            return;
        }
        let pieces: Vec<u32> = member.ties.in_flight.iter().map(|flight| flight.piece).collect();
        let wanted_part = member.part().is_some();
        self.leaves_untaken(now, slot, seat);
        self.drop_wish(slot, seat);
        for piece in pieces {
            self.outputs.push_back(Output::Cancel { child: peer, digest, piece });
            if let Some(parent) = self.land(now, slot, seat, piece, Landing::Lost) {
                self.feed_parent(now, parent);
            }
        }
        if wanted_part {
            self.leave_idle(slot, seat);
        }
        self.ensure_source(now, digest);
        self.feed_downloads(now, peer);
        self.forget_if_unused(now, peer, digest);
    }

    pub(crate) fn announced(
        &mut self,
        now: Instant,
        peer: PeerKey,
        digest: Digest,
        size: u64,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) {
        // A peer that holds a part may be about to want the rest: it is always known.
        let is_idle_holder = pieces.is_full() && !self.has_room_for_holder(peer, digest);
        let Some(known) = self.peers.get(peer) else { return };
        if is_idle_holder || known.rest.has_to_drop(digest) {
            return;
        }
        let Ok(slot) = self.open_task(now, peer, (digest, size)) else { return };
        if pieces.len() != self.tasks[slot].piece_count() {
            self.close_if_empty(slot);
            return;
        }
        let Some((seat, newcomer)) = self.enter_only(now, peer, slot) else { return };
        let task = &self.tasks[slot];
        // What a seed has of other peers is their word.
        if task.member(seat).seed && (task.source.reader() == Some(peer) || pieces.is_full()) {
            self.size_is_seen(now, slot);
        }
        let member = self.tasks[slot].member(seat);
        let is_first = member.held_count == 0;
        let is_found = is_first && !member.awaits() && hashes.is_empty() && !pieces.is_full();
        let lacked_hashes = !hashes.is_empty() && !self.tasks[slot].knows_what_is_held();
        let Some(parents) = self.take_pieces(now, slot, seat, pieces, hashes) else { return };
        if is_found && !self.peers[peer].rest.inventory_told {
            self.found(now, slot, seat);
        }
        self.source_delivered(peer, slot, pieces);
        self.pace_source(slot);
        if self.tasks[slot].member(seat).held_count == self.tasks[slot].piece_count() {
            self.drop_wish(slot, seat);
        }
        if newcomer && self.tasks[slot].is_wanted() {
            self.draw_partners(slot, seat);
        }
        let task = &self.tasks[slot];
        if task.is_wanted() && !task.hashes.are_usable(pieces) {
            self.ask_hashes(now, slot, Some(seat));
        }
        if is_first {
            self.befriend_if_lonely(slot, seat);
        }
        self.reach_all(now, slot);
        if parents.is_empty() && self.tasks[slot].is_left_to_peers() {
            return;
        }
        for parent in parents {
            self.feed_parent(now, parent);
        }
        self.feed_parent(now, peer);
        self.feed_downloads(now, peer);
        if lacked_hashes {
            self.break_silence(now, slot);
            self.feed_holders(now, slot);
        }
        self.feed_neighbours(now, slot, seat);
    }

    /// Hashes became known: whoever holds the pieces may send them. Costs a pass over the members.
    pub(crate) fn feed_holders(&mut self, now: Instant, slot: TaskSlot) {
        let holders: Vec<PeerKey> = self.tasks[slot].members().map(|(_, member)| member.peer).collect();
        for holder in holders {
            self.feed_parent(now, holder);
        }
    }

    /// What happened to a member may let its zone take another piece across.
    pub(crate) fn feed_neighbours(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        let zone = self.tasks[slot].member(seat).zone;
        self.feed_zone(now, slot, zone);
    }

    /// Writes down what a member holds. The parents whose slots that frees; `None` if the member has no part any more: the
    /// hashes that a seed overrules may leave another size to be read, by that seed. Told with hashes that
    /// overrule others, it costs a pass over the members.
    fn take_pieces(
        &mut self,
        now: Instant,
        slot: TaskSlot,
        seat: Seat,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) -> Option<Vec<PeerKey>> {
        let mut parents = Vec::new();
        let peer = self.tasks[slot].member(seat).peer;
        if self.tasks[slot].picking {
            self.tasks[slot].moved_lately += pieces.count();
        }
        self.trust_again(now, slot, seat);
        let word = self.word(slot, seat, true);
        let is_believed = self.tasks[slot].member(seat).believed;
        let mut overruled: Option<PieceSet> = None;
        for (index, piece) in pieces.iter().enumerate() {
            let told = hashes.get(index).filter(|_| is_believed);
            let learnt = told.map(|hash| {
                let task = &mut self.tasks[slot];
                // Nobody else holds the piece: the peer that told a different hash has left.
                let is_alone = task.source.reader() == Some(peer) && task.holder_count(piece) == 0;
                task.hashes.learn(peer, piece, *hash, if is_alone { Word::Judge } else { word })
            });
            match learnt {
                None | Some(Learnt::Agrees) => {}
                Some(Learnt::Overrules) => {
                    overruled.get_or_insert_with(|| PieceSet::new(pieces.len())).insert(piece);
                }
                Some(Learnt::Differs) => continue,
            }
            if let Some(parent) = self.land(now, slot, seat, piece, Landing::Held)
                && !parents.contains(&parent)
            {
                parents.push(parent);
            }
            if self.tasks[slot].member(seat).believed {
                self.tasks[slot].source.spread(peer, piece);
            }
        }
        if let Some(overruled) = overruled {
            let digest = self.tasks[slot].digest;
            self.overrule(now, slot, seat, &overruled);
            if self.find(peer, digest) != Some((slot, seat)) {
                return None;
            }
        }
        Some(parents)
    }

    /// A peer whose download ends with this knows it itself; one that goes on wants it anew.
    pub(crate) fn withdrawn(&mut self, now: Instant, peer: PeerKey, digest: Digest) {
        if self.peers.get_mut(peer).is_some_and(|peer| peer.rest.has_dropped(digest)) {
            // What it held counts no more since it was told, and a read that was ordered since then goes on.
            return self.unwanted(now, peer, digest);
        }
        let Some((slot, seat)) = self.find(peer, digest) else { return };
        self.leaves_untaken(now, slot, seat);
        if let Some(gap) = self.detach(now, peer, slot) {
            self.mend(now, &gap);
        }
        self.feed_parent(now, peer);
        self.feed_downloads(now, peer);
    }

    pub(crate) fn reader_moved(&mut self, peer: PeerKey, digest: Digest, piece: u32) {
        if let Some((slot, seat)) = self.find(peer, digest) {
            self.tasks[slot].set_reader(seat, piece);
        }
    }

    /// The blob cannot be had: everyone who wants it is told, and where its bytes are wrong or cut for
    /// another size, everyone who holds any of it, with the root of what is purged. But not the one that found it out: it
    /// has dropped its own, and what it has begun to read or to want since is sound. Costs a pass over the members.
    pub(crate) fn fail_task(
        &mut self,
        now: Instant,
        slot: TaskSlot,
        failure: &Failure,
        root: Option<Root>,
        found_by: Option<PeerKey>,
    ) {
        self.discharge_read(slot);
        let task = &mut self.tasks[slot];
        task.source = Source::Idle;
        task.hashes.drop_doubt();
        self.seeds_are_due = true;
        let digest = task.digest;
        if let Some(root) = root {
            self.tombstones.entomb(Variant { digest, root });
        }
        let task = &self.tasks[slot];
        let everyone: Vec<(Seat, PeerKey)> =
            task.members().map(|(seat, member)| (seat, member.peer)).collect();
        for &(seat, peer) in &everyone {
            let member = self.tasks[slot].member(seat);
            if !failure.voids_pieces() && member.wish.is_none() {
                continue;
            }
            let pieces: Vec<u32> = member.ties.in_flight.iter().map(|flight| flight.piece).collect();
            if Some(peer) != found_by {
                self.tell_of_failure(peer, digest, failure, root);
            }
            for piece in pieces {
                self.land(now, slot, seat, piece, Landing::Lost);
            }
            self.drop_wish(slot, seat);
        }
        if failure.voids_pieces() {
            for &(seat, _) in &everyone {
                self.tasks[slot].drop_all(seat);
                self.seeds_are_due = true;
            }
        }
        // The seeds that were to read, too: who has no part keeps no task, nor its size.
        for &(_, peer) in &everyone {
            self.forget_if_unused(now, peer, digest);
        }
        for (_, peer) in everyone {
            self.feed_parent(now, peer);
            self.feed_downloads(now, peer);
        }
    }

    /// A peer that drops what it holds is believed to hold none of the blob until it says that it has: what it
    /// announced before it heard is void.
    pub(crate) fn tell_of_failure(
        &mut self,
        peer: PeerKey,
        digest: Digest,
        failure: &Failure,
        root: Option<Root>,
    ) {
        if failure.voids_pieces() {
            self.peers.known_mut(peer).rest.is_to_drop(digest);
        }
        self.outputs.push_back(Output::FailTask { peer, digest, failure: failure.clone(), root });
    }
}
