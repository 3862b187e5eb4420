//! Wrong bytes: whose word on them counts, and who drops what.
//!
//! A digest may have several variants, lists of piece hashes of which SHA-256 knows the right one.
//! What was never verified may be any of them. A variant is purged from the region on the word of
//! a seed, or of two peers that held it whole (docs/design.md §5). One peer's word raises a doubt: the
//! seed that reads tells its own hashes and reads what it does not hold, and whoever holds
//! anything else drops it. If the seed was wrong itself, its own SHA-256 says so next.

use std::time::{Duration, Instant};

use flotilla_proto::{Digest, PieceHash, PieceSet, Variant};

use crate::failure::{other_bytes, wrong_bytes};
use crate::hashes::{Learnt, Word};
use crate::member::Member;
use crate::scheduler::{Deadline, Scheduler};
use crate::task::{Landing, Seat, TaskSlot};
use crate::{Output, PeerKey};

impl Scheduler {
    pub(crate) fn wrong_bytes(&mut self, now: Instant, peer: PeerKey, variant: Variant) {
        let Some(is_certain) = self.heed(peer, variant) else { return };
        let digest = variant.digest;
        let Some((slot, _)) = self.find(peer, digest) else { return };
        // It held something else than the region does.
        if self.tasks[slot].hashes.root().is_some_and(|root| root != variant.root) {
            return;
        }
        if is_certain {
            return self.fail_task(now, slot, &wrong_bytes(digest), Some(variant.root), Some(peer));
        }
        // Where nobody can decide, what there is is better than nothing.
        if !self.seeds.is_empty() && self.tasks[slot].hashes.raise_doubt() {
            self.ensure_source(now, digest);
        }
    }

    pub(crate) fn entombed(&mut self, peer: PeerKey, variant: Variant) {
        if self.heed(peer, variant) != Some(true) {
            return;
        }
        let tasks = self.tasks.slots(variant.digest).iter().map(|slot| &self.tasks[*slot]);
        let found = tasks.flat_map(|task| task.members().filter(|(_, member)| member.found));
        let told: Vec<PeerKey> = found.map(|(_, member)| member.peer).collect();
        self.outputs.extend(told.into_iter().map(|peer| Output::Entomb { peer, variant }));
    }

    /// Whether a peer's word makes it certain that a variant is wrong; `None` of a stranger.
    fn heed(&mut self, peer: PeerKey, variant: Variant) -> Option<bool> {
        let facts = &self.peers.get(peer)?.rest.facts;
        Some(self.tombstones.word(variant, &facts.id, facts.seed))
    }

    /// A member came with a part from an earlier life, which nobody has checked: it hears of what was
    /// purged, and its hashes are compared with what is known, unless a whole region comes like that.
    pub(crate) fn found(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        let task = &mut self.tasks[slot];
        let (digest, is_asked) = (task.digest, task.found_lately.is_one_of_few(now));
        let member = task.member_mut(seat);
        member.found = true;
        if is_asked {
            member.ties.asked_hashes_at = Some(now);
        }
        let peer = member.peer;
        self.outputs.extend(self.tombstones.of(digest).map(|variant| Output::Entomb { peer, variant }));
        if is_asked {
            self.outputs.push_back(Output::AskHashes { peer, digest });
        }
    }

    pub(crate) fn hashes_told(
        &mut self,
        now: Instant,
        peer: PeerKey,
        digest: Digest,
        pieces: &PieceSet,
        hashes: &[PieceHash],
    ) {
        let Some((slot, seat)) = self.find(peer, digest) else { return };
        if pieces.len() != self.tasks[slot].piece_count() || self.peers[peer].rest.has_to_drop(digest) {
            return;
        }
        let is_whole = pieces.is_full() && hashes.len() == pieces.len() as usize;
        let word = self.word(slot, seat, is_whole);
        let told: Vec<(u32, PieceHash)> = pieces.iter().zip(hashes.iter().copied()).collect();
        let task = &mut self.tasks[slot];
        let is_refuted = told.iter().any(|(piece, hash)| task.hashes.is_refuted(*piece, *hash));
        if is_refuted && word == Word::Hearsay && task.source.reader() != Some(peer) {
            return self.expel(now, slot, &[peer]);
        }
        let mut overruled = PieceSet::new(pieces.len());
        for (piece, hash) in told {
            match task.hashes.learn(peer, piece, hash, word) {
                Learnt::Agrees => {}
                Learnt::Overrules => drop(overruled.insert(piece)),
                Learnt::Differs => {
                    task.drop_piece(seat, piece);
                    self.seeds_are_due = true;
                }
            }
        }
        self.break_silence(now, slot);
        self.overrule(now, slot, seat, &overruled);
        if self.tasks.is(slot, digest) {
            self.feed_holders(now, slot);
        }
        self.ensure_source(now, digest);
    }

    /// Asks holders for hashes nobody told: a fresh scheduler knows who holds what, but not
    /// what it must hash to. One of them, or all: that costs a pass over the members while any hash is unknown.
    pub(crate) fn ask_hashes(&mut self, now: Instant, slot: TaskSlot, one: Option<Seat>) {
        let task = &self.tasks[slot];
        // In doubt the judge tells.
        if task.knows_what_is_held() || task.hashes.in_doubt().is_some() {
            return;
        }
        let digest = task.digest;
        let lacking = match one {
            Some(seat) if task.has_unknown(task.member(seat)) => vec![seat],
            Some(_) => vec![],
            None => task.lacking_hashes(),
        };
        for seat in lacking {
            let member = self.tasks[slot].member_mut(seat);
            if member.ties.asked_hashes_at.is_none() {
                self.outputs.push_back(Output::AskHashes { peer: member.peer, digest });
            }
            let asked_at = *member.ties.asked_hashes_at.get_or_insert(now);
            let peer = member.peer;
            let at = (asked_at + self.time_to_tell(now, peer)).max(now);
            let task = &mut self.tasks[slot];
            if task.hashes_due_at.is_none_or(|due| at < due) {
                task.hashes_due_at = Some(at);
                self.deadlines.insert((at, Deadline::Hashes(digest)));
            }
        }
    }

    /// How long a holder may take to tell hashes. A peer that did not tell some of late has no time at all.
    fn time_to_tell(&self, now: Instant, holder: PeerKey) -> Duration {
        let is_silent = self.records.is_silent(now, &self.peers[holder].rest.facts.id);
        if is_silent { Duration::ZERO } else { self.limits.hashes_wait }
    }

    /// Looks whether holders have told the hashes that they were asked for.
    pub(crate) fn look_at_hashes(&mut self, now: Instant, digest: Digest) {
        for slot in self.tasks.slots(digest).to_vec() {
            if self.tasks.is(slot, digest) && self.tasks[slot].hashes_due_at.is_some_and(|at| at <= now) {
                self.tasks[slot].hashes_due_at = None;
                self.give_up_hashes(now, slot);
            }
        }
    }

    /// What a member holds without having told its hashes in time counts as held by nobody: nobody could be sent it. Not
    /// so a seed's, who would be the one to read it. Costs a pass over the members.
    fn give_up_hashes(&mut self, now: Instant, slot: TaskSlot) {
        let task = &self.tasks[slot];
        if !task.is_wanted() || task.hashes.in_doubt().is_some() {
            return;
        }
        let digest = task.digest;
        let due = |seat: &Seat| {
            let member = task.member(*seat);
            member.ties.asked_hashes_at.map(|at| at + self.time_to_tell(now, member.peer))
        };
        let may_be_silent = |seat: &Seat| task.member(*seat).believed && !task.member(*seat).seed;
        let lacking = task.lacking_hashes().into_iter().filter(may_be_silent);
        let (late, young): (Vec<Seat>, Vec<Seat>) =
            lacking.partition(|seat| due(seat).is_some_and(|due| due <= now));
        if let Some(at) = young.iter().filter_map(due).min() {
            self.tasks[slot].hashes_due_at = Some(at);
            self.deadlines.insert((at, Deadline::Hashes(digest)));
        }
        if late.is_empty() {
            return;
        }
        for seat in late {
            let task = &mut self.tasks[slot];
            task.member_mut(seat).ties.silent = true;
            task.set_believed(seat, false);
            let peer = task.member(seat).peer;
            self.records.note_silence(now, &self.peers[peer].rest.facts.id, self.limits.blame);
        }
        self.seeds_are_due = true;
        self.ensure_source(now, digest);
        if self.tasks.is(slot, digest) {
            self.reach_all(now, slot);
        }
    }

    /// What those who were silent hold counts once its hashes are known. Costs a pass over the members.
    pub(crate) fn break_silence(&mut self, now: Instant, slot: TaskSlot) {
        let task = &self.tasks[slot];
        if task.all_believed() {
            return;
        }
        let known = task.members().filter(|(_, member)| member.ties.silent && !task.has_unknown(member));
        for (seat, peer) in known.map(|(seat, member)| (seat, member.peer)).collect::<Vec<_>>() {
            let is_disbelieved = self.is_disbelieved(now, peer);
            let task = &mut self.tasks[slot];
            task.member_mut(seat).ties.silent = false;
            task.set_believed(seat, !is_disbelieved);
            self.seeds_are_due = true;
        }
    }

    /// What a member's word on hashes is worth. `has_checked`: it has just read the pieces, or
    /// holds the whole.
    pub(crate) fn word(&self, slot: TaskSlot, seat: Seat, has_checked: bool) -> Word {
        let task = &self.tasks[slot];
        let member = task.member(seat);
        if task.hashes.judge() == Some(member.peer) {
            Word::Judge
        } else if member.seed && has_checked {
            Word::Checked
        } else {
            Word::Hearsay
        }
    }

    /// A seed reads: where there is a doubt, it tells what it holds already.
    pub(crate) fn appoint(&mut self, slot: TaskSlot, seed: PeerKey) {
        let task = &mut self.tasks[slot];
        if task.hashes.appoint(seed) {
            self.outputs.push_back(Output::AskHashes { peer: seed, digest: task.digest });
        }
    }

    /// Hashes were told that stand over others: whoever holds such a piece holds another variant.
    /// The seed that reads only loses those pieces: it will find out by itself. Where members ever chose
    /// pieces by themselves, they may hold the right ones: those were never held against the hash that
    /// somebody told, who alone is known to be wrong. Costs a pass over the members, and the leaving of those.
    pub(crate) fn overrule(&mut self, now: Instant, slot: TaskSlot, by: Seat, pieces: &PieceSet) {
        if pieces.is_empty() {
            return;
        }
        self.cancel(now, slot, pieces);
        let task = &mut self.tasks[slot];
        let holds_other = |seat: &Seat| *seat != by && task.holds_any(*seat, pieces);
        let others: Vec<Seat> = task.members().map(|(seat, _)| seat).filter(holds_other).collect();
        let (mut expelled, mut false_tellers) = (Vec::new(), Vec::new());
        for seat in others {
            let peer = task.member(seat).peer;
            if task.hashes.told_by(peer, pieces) && !task.member(seat).seed {
                false_tellers.push(peer);
            }
            if task.source.reader() == Some(peer) {
                pieces.iter().for_each(|piece| task.drop_piece(seat, piece));
                self.seeds_are_due = true;
            } else if !task.has_picked || task.hashes.told_by(peer, pieces) {
                expelled.push(peer);
            }
        }
        task.hashes.forget_tellers(pieces);
        self.expel(now, slot, &expelled);
        for peer in false_tellers {
            // It fails a download with each blob whose hashes it makes up: the next one is not to hear of them.
            self.disbelieve_peer(now, peer);
        }
    }

    /// Pieces on their way are not wanted any more.
    fn cancel(&mut self, now: Instant, slot: TaskSlot, pieces: &PieceSet) {
        let task = &self.tasks[slot];
        let digest = task.digest;
        let of_member = |(seat, member): (Seat, &Member)| {
            let flights = member.ties.in_flight.iter().filter(|flight| pieces.contains(flight.piece));
            flights.map(|flight| (seat, member.peer, flight.piece)).collect::<Vec<_>>()
        };
        let flights: Vec<(Seat, PeerKey, u32)> = task.members().flat_map(of_member).collect();
        let mut freed = Vec::new();
        for (seat, child, piece) in flights {
            self.outputs.push_back(Output::Cancel { child, digest, piece });
            freed.extend(self.land(now, slot, seat, piece, Landing::Lost));
            freed.push(child);
        }
        for peer in freed {
            self.feed_parent(now, peer);
            self.feed_downloads(now, peer);
        }
    }

    /// Members hold other bytes than those that stand: each drops them, and its clients come again.
    /// Costs as much as their leaving.
    pub(crate) fn expel(&mut self, now: Instant, slot: TaskSlot, peers: &[PeerKey]) {
        let digest = self.tasks[slot].digest;
        let mut gaps = Vec::new();
        for &peer in peers {
            let Some(seat) = self.seat(peer, slot) else { continue };
            let zone = self.tasks[slot].member(seat).zone;
            for (child, piece) in self.owed(slot, seat) {
                let child = self.tasks[slot].member(child).peer;
                self.outputs.push_back(Output::Cancel { child, digest, piece });
            }
            self.tell_of_failure(peer, digest, &other_bytes(digest), None);
            gaps.push((zone, self.detach(now, peer, slot)));
        }
        for (zone, gap) in gaps {
            let Some(gap) = gap else { continue };
            self.mend(now, &gap);
            if self.tasks.is(slot, digest) {
                self.feed_zone(now, slot, zone);
            }
        }
        for &peer in peers {
            self.feed_parent(now, peer);
            self.feed_downloads(now, peer);
        }
    }
}

/// How many members of a task came lately with a part from an earlier life. After a scheduler's
/// restart that may be all of them, each with 32 bytes a piece to tell: then SHA-256 finds out, as it
/// does anyway, and costs whoever holds wrong bytes one pull.
#[derive(Debug, Default)]
pub(crate) struct FoundLately {
    since: Option<Instant>,
    count: u32,
}

impl FoundLately {
    fn is_one_of_few(&mut self, now: Instant) -> bool {
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= LATELY) {
            *self = Self { since: Some(now), count: 0 };
        }
        self.count += 1;
        self.count <= FEW
    }
}

const LATELY: Duration = Duration::from_secs(60);
const FEW: u32 = 32;
