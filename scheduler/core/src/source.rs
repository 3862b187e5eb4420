//! Who reads a blob from the registry: one seed at a time, and only the pieces that somebody wants and nobody
//! in the region holds (docs/design.md §1.1, §5.4), or none of which it is certain what they are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Failure, PeerId, PieceSet, rendezvous_order};

use crate::failure::no_seed;
use crate::member::Member;
use crate::pace::Pace;
use crate::scheduler::{Deadline, Scheduler};
use crate::task::TaskSlot;
use crate::{Output, PeerKey};

/// How a task's blob comes from the registry.
#[derive(Debug)]
pub(crate) enum Source {
    /// It need not.
    Idle,
    /// A seed reads.
    Reading {
        /// Which.
        seed: PeerKey,
        /// What it was told to read and has not announced yet.
        ordered: PieceSet,
        /// How far it may read.
        pace: Pace,
        /// Seeds that were told before, and could not.
        failed: BTreeSet<PeerKey>,
    },
    /// The seed that was reading vanished; until then it may still read under its lease.
    Leased(Instant),
    /// There is no seed. The download fails at that time.
    Awaiting(Instant),
    /// The planner is fresh: a seed that is not back yet may hold or read it.
    Settling,
}

impl Source {
    /// The seed that reads, if one does.
    pub(crate) fn reader(&self) -> Option<PeerKey> {
        match self {
            Self::Reading { seed, .. } => Some(*seed),
            Self::Idle | Self::Leased(_) | Self::Awaiting(_) | Self::Settling => None,
        }
    }

    /// What a peer is to read and has not announced yet, if it reads, and up to which piece it may at this moment.
    pub(crate) fn ordered_of(&self, peer: PeerKey) -> Option<(&PieceSet, u32)> {
        match self {
            Self::Reading { seed, ordered, pace, .. } if *seed == peer => Some((ordered, pace.until())),
            _ => None,
        }
    }

    /// A peer holds the piece: unless it is the reading seed itself, the piece would outlive it.
    pub(crate) fn spread(&mut self, holder: PeerKey, piece: u32) {
        if let Self::Reading { seed, pace, .. } = self
            && *seed != holder
        {
            pace.spread(piece);
        }
    }
}

impl Scheduler {
    /// Orders from the registry what is wanted and held by nobody.
    ///
    /// A read that is under way is never stopped for want of demand: bytes on their way would
    /// be read again for the client that comes back. While it is in doubt what is right, the seed
    /// that reads is asked for everything, as far as it can.
    pub(crate) fn ensure_source(&mut self, now: Instant, digest: Digest) {
        for slot in self.tasks.slots(digest).to_vec() {
            if self.tasks.is(slot, digest) {
                self.ensure_source_of(now, slot);
            }
        }
    }

    /// The same, of a blob with the size that the task has. While a seed tries another size, this one waits.
    fn ensure_source_of(&mut self, now: Instant, slot: TaskSlot) {
        let unsettled_until = self.unsettled_until(now);
        let task = &self.tasks[slot];
        if !task.is_wanted() {
            return;
        }
        let digest = task.digest;
        let is_tried = |other: &TaskSlot| *other != slot && self.tasks[*other].source.reader().is_some();
        if self.tasks.slots(digest).iter().any(is_tried) {
            return self.look_again(now, slot);
        }
        if let Some(seed) = task.source.reader() {
            self.appoint(slot, seed);
        }
        // Many may wait for that: it costs less than to find out what is missing.
        if matches!(self.tasks[slot].source, Source::Idle) && self.payer(slot).is_none() {
            return self.look_again(now, slot);
        }
        let has_seed = !self.seeds.is_empty();
        let task = &mut self.tasks[slot];
        let missing = task.to_be_read();
        if let (Source::Idle | Source::Settling, Some(until)) = (&task.source, unsettled_until)
            && !missing.is_empty()
        {
            task.source = Source::Settling;
            self.deadlines.insert((until, Deadline::Source(digest)));
            return;
        }
        match &mut task.source {
            Source::Reading { seed, ordered, pace, .. } => {
                let fresh = missing.difference(ordered);
                if fresh.is_empty() {
                    return;
                }
                ordered.union_with(&fresh);
                let (seed, size) = (*seed, task.layout.size());
                if task.hashes.in_doubt().is_some() {
                    pace.lift();
                    self.pace_source(slot);
                    self.outputs.push_back(Output::ReadSource { seed, digest, size, pieces: fresh });
                    return;
                }
                pace.extend(&fresh);
                self.outputs.push_back(Output::ReadSource { seed, digest, size, pieces: fresh });
                self.pace_anew(slot);
            }
            Source::Leased(until) if now < *until => {}
            Source::Idle | Source::Leased(_) | Source::Awaiting(_) | Source::Settling
                if missing.is_empty() =>
            {
                task.source = Source::Idle;
            }
            Source::Awaiting(until) if now >= *until && !has_seed => {
                self.fail_task(now, slot, &no_seed(), None, None);
            }
            Source::Idle | Source::Leased(_) | Source::Awaiting(_) | Source::Settling => {
                if self.charge_read(slot) {
                    self.order_source(now, slot, BTreeSet::new());
                } else {
                    self.look_again(now, slot);
                }
            }
        }
    }

    /// Looks once more after a while whether the task's read may begin.
    fn look_again(&mut self, now: Instant, slot: TaskSlot) {
        let (at, task) = (now + LOOK_AGAIN, &mut self.tasks[slot]);
        if task.looked_at_again.is_none_or(|before| before <= now) {
            task.looked_at_again = Some(at);
            self.deadlines.insert((at, Deadline::Source(task.digest)));
        }
    }

    /// Counts a read that is about to begin among those of a peer that wants the blob. `false` where each of them
    /// has as many as it may. Costs a pass over the members.
    fn charge_read(&mut self, slot: TaskSlot) -> bool {
        let charged_before = self.tasks[slot].read_for.is_some();
        let Some((peer, is_seed)) = self.payer(slot) else { return false };
        if !is_seed && !charged_before {
            self.peers.known_mut(peer).rest.reads += 1;
            self.tasks[slot].read_for = Some(peer);
        }
        true
    }

    /// Who wants the blob and may have it read, or has it charged to it already; `true`: a seed. Costs a pass over the
    /// members.
    fn payer(&self, slot: TaskSlot) -> Option<(PeerKey, bool)> {
        let task = &self.tasks[slot];
        if let Some(peer) = task.read_for {
            return Some((peer, false));
        }
        let has_room = |peer: PeerKey| self.peers[peer].rest.reads < self.peers[peer].rest.reads_max;
        let may_pay = |member: &&Member| member.wish.is_some() && (member.seed || has_room(member.peer));
        let payer = task.members().map(|(_, member)| member).find(may_pay);
        payer.map(|member| (member.peer, member.seed))
    }

    /// How a read went says how many more the peer that it is for may have at once: one that asks for what no registry
    /// gives, or without its credentials, has few.
    fn grade_reads(&mut self, slot: TaskSlot, grade: impl Fn(u32) -> u32) {
        let (most, least) = (self.limits.reads_max, self.limits.reads_max.min(FEW_READS));
        if let Some(peer) = self.tasks[slot].read_for.and_then(|peer| self.peers.get_mut(peer)) {
            peer.rest.reads_max = grade(peer.rest.reads_max).clamp(least, most);
        }
    }

    /// A blob is not being read any more.
    pub(crate) fn discharge_read(&mut self, slot: TaskSlot) {
        let Some(peer) = self.tasks[slot].read_for.take() else { return };
        if let Some(peer) = self.peers.get_mut(peer) {
            // Another peer may have the key since.
            peer.rest.reads = peer.rest.reads.saturating_sub(1);
        }
    }

    /// A seed goes on with a read that this planner did not order. Where another was ordered
    /// meanwhile, both read: a partition costs one more read, and no less can be known. Whoever is no
    /// seed has not read anything: it may not say that the registry's bytes are wrong, nor which.
    pub(crate) fn source_reading(
        &mut self,
        now: Instant,
        seed: PeerKey,
        digest: Digest,
        size: u64,
        pieces: PieceSet,
    ) {
        if self.peers.get(seed).is_none_or(|peer| !peer.rest.facts.seed) {
            return;
        }
        let Ok(slot) = self.open_task(now, seed, (digest, size)) else { return };
        if pieces.len() != self.tasks[slot].piece_count() {
            self.close_if_empty(slot);
            return;
        }
        let Some((seat, _)) = self.enter_only(now, seed, slot) else { return };
        let task = &mut self.tasks[slot];
        task.set_believed(seat, true);
        if task.source.reader().is_none() {
            let pace = Pace::new(pieces.clone());
            task.source = Source::Reading { seed, ordered: pieces, pace, failed: BTreeSet::new() };
            self.draw_partners(slot, seat);
            self.tell_seed_to_all(slot);
            self.pace_anew(slot);
            self.reach_all(now, slot);
        }
    }

    /// Looks again at what waits for seeds. Costs a pass over all tasks.
    pub(crate) fn seeds_changed(&mut self, now: Instant) {
        let waits = |source: &Source| matches!(source, Source::Awaiting(_) | Source::Settling);
        let waiting = self.tasks.iter().filter(|(_, task)| waits(&task.source));
        let waiting: Vec<Digest> = waiting.map(|(_, task)| task.digest).collect();
        for digest in waiting {
            self.ensure_source(now, digest);
        }
    }

    /// Until when no source read is ordered; `None` once every configured seed has told what
    /// it holds and reads, or has had the time for it.
    fn unsettled_until(&self, now: Instant) -> Option<Instant> {
        let until = self.started_at? + self.limits.settle;
        let has_told = |id: &PeerId| {
            let mut attached = self.seeds.iter().map(|key| &self.peers[*key]);
            attached.any(|peer| peer.rest.facts.id == *id && peer.rest.inventory_told)
        };
        (now < until && !self.configured_seeds.iter().all(has_told)).then_some(until)
    }

    /// The seed could not read: another tries, until all have.
    pub(crate) fn source_failed(&mut self, now: Instant, seed: PeerKey, digest: Digest, failure: &Failure) {
        let reads = |slot: &&TaskSlot| self.tasks[**slot].source.reader() == Some(seed);
        let Some(slot) = self.tasks.slots(digest).iter().find(reads).copied() else { return };
        let Source::Reading { failed, .. } = &mut self.tasks[slot].source else { return };
        let mut failed = std::mem::take(failed);
        failed.insert(seed);
        self.tasks[slot].source = Source::Idle;
        self.seeds_are_due = true;
        if !failure.voids_pieces() && self.tasks[slot].to_be_read().is_empty() {
            // Others hold what was to be read.
            self.discharge_read(slot);
            return self.feed_downloads(now, seed);
        }
        let root = failure.is_poisoned().then(|| self.tasks[slot].hashes.root_so_far());
        if failure.voids_pieces() || self.next_seed(now, digest, &failed).is_none() {
            self.grade_reads(slot, |reads_max| reads_max / 2);
            let found_by = failure.voids_pieces().then_some(seed);
            return self.fail_task(now, slot, failure, root, found_by);
        }
        // It goes on, for the same peer.
        self.order_source(now, slot, failed);
        self.feed_downloads(now, seed);
    }

    /// Tells a wanting peer which seed reads, if one does.
    pub(crate) fn tell_seed(&mut self, child: PeerKey, slot: TaskSlot) {
        let task = &self.tasks[slot];
        if let Some(seed) = task.source.reader() {
            self.outputs.push_back(Output::UseSeed { child, seed, digest: task.digest });
        }
    }

    /// A seed announced pieces: they are ordered no more.
    pub(crate) fn source_delivered(&mut self, seed: PeerKey, slot: TaskSlot, pieces: &PieceSet) {
        let task = &mut self.tasks[slot];
        let Source::Reading { seed: reading, ordered, .. } = &mut task.source else { return };
        if *reading != seed {
            return;
        }
        for piece in pieces.iter() {
            ordered.remove(piece);
        }
        let is_over = ordered.is_empty();
        self.grade_reads(slot, |reads_max| reads_max * 2);
        if is_over {
            self.tasks[slot].source = Source::Idle;
            self.discharge_read(slot);
            self.seeds_are_due = true;
        }
    }

    /// Costs a pass over the members, who are told.
    fn order_source(&mut self, now: Instant, slot: TaskSlot, failed: BTreeSet<PeerKey>) {
        let digest = self.tasks[slot].digest;
        if self.tasks[slot].to_be_read().is_empty() {
            // Nobody wants what is missing any more.
            self.tasks[slot].source = Source::Idle;
            self.discharge_read(slot);
            return;
        }
        let Some(seed) = self.next_seed(now, digest, &failed) else {
            let until = now + self.limits.seed_wait;
            self.tasks[slot].source = Source::Awaiting(until);
            self.discharge_read(slot);
            self.deadlines.insert((until, Deadline::Source(digest)));
            return;
        };
        let Some((seat, _)) = self.enter_only(now, seed, slot) else {
            if self.tasks.is(slot, digest) {
                self.discharge_read(slot);
                self.look_again(now, slot);
            }
            return;
        };
        // What it left behind may have been ordered meanwhile, or this one.
        if self.tasks[slot].source.reader().is_some() {
            return;
        }
        let slots = self.tasks.slots(digest);
        if slots.iter().any(|other| self.tasks[*other].source.reader().is_some()) {
            self.discharge_read(slot);
            return self.look_again(now, slot);
        }
        self.tasks[slot].set_believed(seat, true);
        self.draw_partners(slot, seat);
        // Left partners are drawn again.
        self.seeds_are_due |= self.tasks[slot].is_wanted_in_part();
        self.appoint(slot, seed);
        let task = &mut self.tasks[slot];
        let (size, missing) = (task.layout.size(), task.to_be_read());
        let in_doubt = task.hashes.in_doubt().is_some();
        let pace = if in_doubt { Pace::free(missing.len()) } else { Pace::new(missing.clone()) };
        task.source = Source::Reading { seed, ordered: missing.clone(), pace, failed };
        self.outputs.push_back(Output::ReadSource { seed, digest, size, pieces: missing });
        self.pace_anew(slot);
        self.tell_seed_to_all(slot);
        self.reach_all(now, slot);
    }

    fn tell_seed_to_all(&mut self, slot: TaskSlot) {
        let members = self.tasks[slot].members();
        let wanting: Vec<PeerKey> =
            members.filter(|(_, member)| member.wish.is_some()).map(|(_, member)| member.peer).collect();
        for child in wanting {
            self.tell_seed(child, slot);
        }
    }

    /// The attached seed that comes first for this digest and has not failed it, nor its children, where there is
    /// another. Over all configured seeds this is the home seed while it lives.
    pub(crate) fn next_seed(
        &self,
        now: Instant,
        digest: Digest,
        failed: &BTreeSet<PeerKey>,
    ) -> Option<PeerKey> {
        let believed = |key: &&PeerKey| !failed.contains(key) && !self.is_disbelieved(now, **key);
        let is_any = self.seeds.iter().any(|key| believed(&key));
        let able = self.seeds.iter().filter(|key| if is_any { believed(key) } else { !failed.contains(key) });
        let named: Vec<(&str, PeerKey)> =
            able.map(|key| (self.peers[*key].rest.facts.id.as_str(), *key)).collect();
        let first = *rendezvous_order(digest.as_bytes(), named.iter().map(|(name, _)| *name)).first()?;
        named.iter().find(|(name, _)| *name == first).map(|(_, key)| *key)
    }
}

/// A peer may have so many at once although none of them gives anything: what its clients pull at a time.
const FEW_READS: u32 = 8;

/// A read that may not begin yet, since another size is tried or its peers have too many, is looked at so often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
