//! Who has a part in which task, and the bookkeeping that follows from it.

use std::num::NonZeroU64;
use std::time::Instant;

use flotilla_proto::{Digest, Failure, Layout, PieceSet};

use crate::failure::{only_corrupt, size_differs, too_large};
use crate::member::{Member, Wish};
use crate::records::Suspicion;
use crate::scheduler::{Deadline, Scheduler};
use crate::source::Source;
use crate::task::{Landing, Seat, Task, TaskSlot};
use crate::zone::{Gate, Way, ZoneLink, ZonePlace};
use crate::{Output, PeerKey, Zone};

impl Scheduler {
    /// The task of a blob with that size, opened if nobody spoke of it before. Sizes are claims of who wrote a
    /// manifest, or says that it holds the blob: one that a seed has seen rules out the others, and one that a seed
    /// tries goes first. The peer that wants or announces it pays for the room that it takes.
    pub(crate) fn open_task(
        &mut self,
        now: Instant,
        payer: PeerKey,
        (digest, size): (Digest, u64),
    ) -> Result<TaskSlot, Failure> {
        let slots = self.tasks.slots(digest);
        if let Some(slot) = slots.iter().find(|slot| self.tasks[**slot].layout.size() == size) {
            return Ok(*slot);
        }
        let is_tried = |task: &Task| task.seen || task.source.reader().is_some();
        let mut tasks = slots.iter().map(|slot| &self.tasks[*slot]);
        if let Some(task) = tasks.find(|task| is_tried(task) || slots.len() >= MOST_SIZES) {
            return Err(size_differs(digest, size, task.layout.size(), task.seen));
        }
        let layout = Layout::of(size).ok_or_else(|| too_large(digest, size))?;
        self.make_room(now, payer, layout)?;
        Ok(self.enter_books(payer, Task::new(digest, layout)))
    }

    /// Ends a task that nobody has a part in. Whether it did.
    pub(crate) fn close_if_empty(&mut self, slot: TaskSlot) -> bool {
        let empty = self.tasks[slot].member_count() == 0;
        if empty {
            self.forget_shed(slot);
            self.settle_bill(slot);
            self.tasks.remove(slot);
        }
        empty
    }

    /// Where a peer sits in a task, if it does.
    pub(crate) fn seat(&self, key: PeerKey, slot: TaskSlot) -> Option<Seat> {
        self.peers.get(key)?.rest.seats.get(&slot).copied()
    }

    /// The task of a blob and a peer's seat in it.
    pub(crate) fn find(&self, key: PeerKey, digest: Digest) -> Option<(TaskSlot, Seat)> {
        self.tasks.slots(digest).iter().find_map(|slot| Some((*slot, self.seat(key, *slot)?)))
    }

    /// Makes a peer a member of a task, and of none of the blob with another size. Its seat, and whether it is new there;
    /// `None` if it is none after all: what it leaves behind with another size may need it more, if it is a seed.
    pub(crate) fn enter_only(&mut self, now: Instant, key: PeerKey, slot: TaskSlot) -> Option<(Seat, bool)> {
        let digest = self.tasks[slot].digest;
        let (seat, is_new) = self.enter(now, key, slot);
        if self.tasks.slots(digest).len() == 1 {
            return Some((seat, is_new));
        }
        self.leave_other_sizes(now, key, slot);
        let still_is = self.tasks.is(slot, digest) && self.seat(key, slot) == Some(seat);
        still_is.then_some((seat, is_new))
    }

    /// A peer that speaks of a blob with one size has no part in it with another.
    fn leave_other_sizes(&mut self, now: Instant, key: PeerKey, slot: TaskSlot) {
        let digest = self.tasks[slot].digest;
        let others: Vec<TaskSlot> =
            self.tasks.slots(digest).iter().copied().filter(|other| *other != slot).collect();
        for gap in others.into_iter().filter_map(|other| self.detach(now, key, other)).collect::<Vec<_>>() {
            self.mend(now, &gap);
        }
    }

    /// A seed has seen the blob with the size of this task: who claims another is told.
    pub(crate) fn size_is_seen(&mut self, now: Instant, slot: TaskSlot) {
        let task = &mut self.tasks[slot];
        if std::mem::replace(&mut task.seen, true) {
            return;
        }
        let (digest, size) = (task.digest, task.layout.size());
        let others: Vec<TaskSlot> =
            self.tasks.slots(digest).iter().copied().filter(|other| *other != slot).collect();
        for other in others {
            let claimed = self.tasks[other].layout.size();
            self.fail_task(now, other, &size_differs(digest, claimed, size, true), None, None);
        }
    }

    /// Makes a peer a member of a task. Its seat, and whether it is new there.
    pub(crate) fn enter(&mut self, now: Instant, key: PeerKey, slot: TaskSlot) -> (Seat, bool) {
        let peer = self.peers.known_mut(key);
        if let Some(seat) = peer.rest.seats.get(&slot) {
            return (*seat, false);
        }
        let seat = self.tasks[slot].join(key, peer.rest.facts.seed, peer.rest.zone, now);
        peer.rest.seats.insert(slot, seat);
        let (id, digest) = (&peer.rest.facts.id, self.tasks[slot].digest);
        if self.records.disbelieved_until(now, id).is_some() {
            self.tasks[slot].set_believed(seat, false);
        }
        if let Some(suspicion) = self.records.part(now, id, digest) {
            let task = &mut self.tasks[slot];
            task.member_mut(seat).ties.suspicion = suspicion;
            if suspicion.questioned_at.is_some() || suspicion.corrupt.is_some() {
                task.set_counted(seat, false);
            }
        }
        (seat, true)
    }

    /// The place of a zone, given to it when the first of its peers comes.
    pub(crate) fn zone_place(&mut self, zone: Zone) -> ZonePlace {
        let place = self.zones.iter().position(|known| *known == zone).unwrap_or_else(|| {
            self.zones.push(zone);
            self.zone_links.push(ZoneLink::default());
            self.zones.len() - 1
        });
        ZonePlace(u32::try_from(place).expect("bounded by the number of peers"))
    }

    /// States what may cross a zone's link.
    pub(crate) fn link_limited(&mut self, now: Instant, zone: Zone, bytes_per_s: Option<NonZeroU64>) {
        let place = self.zone_place(zone);
        self.zone_links[place.0 as usize].limit(bytes_per_s);
        for way in [Way::In, Way::Out] {
            self.feed_across(now, place, way);
        }
    }

    /// The gates between two zones of a task.
    pub(crate) fn gates(&self, task: &Task, from: u32, to: u32) -> [&Gate; 2] {
        let place = |zone: u32| task.zones[zone as usize].place.0 as usize;
        [&self.zone_links[place(from)].outbound, &self.zone_links[place(to)].inbound]
    }

    /// What a member owes in a task: the children and the pieces. Costs a look at what its
    /// partners await.
    pub(crate) fn owed(&self, slot: TaskSlot, owner: Seat) -> Vec<(Seat, u32)> {
        let task = &self.tasks[slot];
        let of_child = |child: &Seat| {
            let flights = task.member(*child).ties.in_flight.iter().filter(|flight| flight.parent == owner);
            flights.map(|flight| (*child, flight.piece)).collect::<Vec<_>>()
        };
        task.member(owner).ties.partners.iter().flat_map(of_child).collect()
    }

    /// Takes a peer out of a task's books. What it leaves behind is for [`Self::mend`], once it
    /// is out of all the tasks it leaves.
    pub(crate) fn detach(&mut self, now: Instant, key: PeerKey, slot: TaskSlot) -> Option<Gap> {
        let seat = self.seat(key, slot)?;
        let (mut parents, mut children) = (Vec::new(), Vec::new());
        let awaited: Vec<u32> =
            self.tasks[slot].member(seat).ties.in_flight.iter().map(|flight| flight.piece).collect();
        for piece in awaited {
            parents.extend(self.land(now, slot, seat, piece, Landing::Lost));
        }
        for (child, piece) in self.owed(slot, seat) {
            self.land(now, slot, child, piece, Landing::Lost);
            children.push(self.tasks[slot].member(child).peer);
        }
        if !children.is_empty() && self.tasks[slot].is_unproven(seat) {
            // It leaves while it owes its first piece.
            self.tasks[slot].member_mut(seat).ties.suspicion.questioned_at = Some(now);
            // One event, however many wait.
            let accuser = self.peers[children[0]].rest.facts.id.clone();
            self.peers.known_mut(key).accused_by(&accuser, false, now, &self.limits);
        }
        let digest = self.tasks[slot].digest;
        self.tasks[slot].hashes.dismiss(key);
        if self.tasks[slot].source.reader() == Some(key) {
            let until = now + self.limits.read_lease;
            self.tasks[slot].source = Source::Leased(until);
            self.discharge_read(slot);
            self.deadlines.insert((until, Deadline::Source(digest)));
        }
        let partners = self.take_seat(now, key, slot, seat);
        let is_over = self.close_if_empty(slot);
        self.disbelieve_if_useless(now, key);
        if is_over {
            return None;
        }
        Some(Gap { digest, partners, parents, children })
    }

    /// Removes a member, and tells its partners. Who they were.
    fn take_seat(&mut self, now: Instant, key: PeerKey, slot: TaskSlot, seat: Seat) -> Vec<PeerKey> {
        self.drop_wish(slot, seat);
        self.pass_bill(slot, key);
        let task = &mut self.tasks[slot];
        let digest = task.digest;
        let member = task.leave(seat);
        self.seeds_are_due = true;
        let partners: Vec<PeerKey> =
            member.ties.partners.iter().map(|partner| task.member(*partner).peer).collect();
        for &peer in &partners {
            self.outputs.push_back(Output::Unlink { peer, partner: key, digest });
        }
        let peer = self.peers.known_mut(key);
        let suspicion = member.ties.suspicion;
        if suspicion != Suspicion::default() {
            self.records.keep_part(now, &peer.rest.facts.id, digest, suspicion, self.limits.question);
        }
        peer.rest.seats.remove(&slot);
        peer.rest.serves.retain(|other| *other != slot);
        partners
    }

    /// What a peer that left was sending is planned anew, and what only it held is read again.
    pub(crate) fn mend(&mut self, now: Instant, gap: &Gap) {
        for &partner in &gap.partners {
            if let Some((slot, seat)) = self.find(partner, gap.digest)
                && self.is_lonely(slot, seat)
            {
                self.draw_partners(slot, seat);
                self.feed_downloads(now, partner);
                self.feed_parent(now, partner);
            }
        }
        self.ensure_source(now, gap.digest);
        for &partner in &gap.partners {
            if let Some((slot, seat)) = self.find(partner, gap.digest) {
                self.reach(now, slot, seat);
            }
        }
        for &parent in &gap.parents {
            self.feed_parent(now, parent);
        }
        for &child in &gap.children {
            self.feed_downloads(now, child);
        }
    }

    /// A member wants the blob no more.
    pub(crate) fn drop_wish(&mut self, slot: TaskSlot, seat: Seat) {
        self.end_watch(slot, seat);
        self.set_wish(slot, seat, None, None);
    }

    /// States whether a member wants the blob, and which part where that is not all.
    pub(crate) fn set_wish(
        &mut self,
        slot: TaskSlot,
        seat: Seat,
        wish: Option<Wish>,
        part: Option<PieceSet>,
    ) {
        let task = &mut self.tasks[slot];
        let before = task.member(seat).wish.is_some();
        let key = task.member(seat).peer;
        task.set_wish(seat, wish, part);
        if before == wish.is_some() {
            return self.pace_source(slot);
        }
        let peer = self.peers.known_mut(key);
        if before {
            peer.rest.wants.retain(|other| *other != slot);
            if peer.rest.wants.is_empty() {
                self.shedding.downloading_count -= 1;
            }
        } else {
            if peer.rest.wants.is_empty() {
                self.shedding.downloading_count += 1;
            }
            peer.rest.wants.push(slot);
            self.partners_serve(slot, seat);
        }
        self.pace_reports();
        self.pace_source(slot);
    }

    /// Starts the clock of a download that was sent corrupt pieces, at its want or at the piece.
    pub(crate) fn watch_hope(&mut self, now: Instant, slot: TaskSlot, seat: Seat) {
        let due = now + self.limits.hopeless;
        let task = &mut self.tasks[slot];
        let digest = task.digest;
        let member = task.member_mut(seat);
        member.progress_at = now;
        if member.was_sent_corrupt() {
            self.deadlines.insert((due, Deadline::Hope(digest, member.peer)));
        }
    }

    /// Fails a download that was sent corrupt pieces and gets nothing any more, because it is
    /// barred from every holder: a clear error is better than a client that waits for ever.
    pub(crate) fn fail_if_hopeless(&mut self, now: Instant, child: PeerKey, digest: Digest) {
        let Some((slot, seat)) = self.find(child, digest) else { return };
        let task = &self.tasks[slot];
        let member = task.member(seat);
        if member.wish.is_none() {
            return;
        }
        let due = member.progress_at + self.limits.hopeless;
        let reader = task.source.reader().and_then(|reader| self.seat(reader, slot));
        let may_come = reader.is_some_and(|reader| !member.bans(reader));
        if due > now || member.awaits() || may_come {
            let again = due.max(now + self.limits.hopeless);
            self.deadlines.insert((again, Deadline::Hope(digest, child)));
            return;
        }
        let failure = only_corrupt(digest);
        self.outputs.push_back(Output::FailTask { peer: child, digest, failure, root: None });
        self.drop_wish(slot, seat);
        self.ensure_source(now, digest);
        self.forget_if_unused(now, child, digest);
    }

    /// Forgets a member that neither wants nor holds anything, and a task without members. What it
    /// turned out not to hold after all it may still owe.
    pub(crate) fn forget_if_unused(&mut self, now: Instant, key: PeerKey, digest: Digest) {
        let Some((slot, seat)) = self.find(key, digest) else { return };
        let task = &self.tasks[slot];
        let unused = |member: &Member| member.wish.is_none() && member.held_count == 0;
        if !unused(task.member(seat)) || task.source.reader() == Some(key) {
            return;
        }
        let mut children = Vec::new();
        for (child, piece) in self.owed(slot, seat) {
            self.land(now, slot, child, piece, Landing::Lost);
            let child = self.tasks[slot].member(child).peer;
            self.outputs.push_back(Output::Cancel { child, digest, piece });
            children.push(child);
        }
        self.take_seat(now, key, slot, seat);
        self.close_if_empty(slot);
        for child in children {
            self.feed_downloads(now, child);
        }
    }

    /// Whether one more idle holder of a blob is worth knowing.
    pub(crate) fn has_room_for_holder(&self, key: PeerKey, digest: Digest) -> bool {
        self.tasks.slots(digest).iter().all(|slot| {
            let task = &self.tasks[*slot];
            task.is_wanted()
                || self.seat(key, *slot).is_some()
                || task.member_count() < self.limits.holders_max
        })
    }
}

/// Sizes that may be claimed of one digest.
const MOST_SIZES: usize = 4;

/// What a peer leaves behind in a task.
#[derive(Debug)]
pub(crate) struct Gap {
    digest: Digest,
    partners: Vec<PeerKey>,
    /// Those it was taking from: they have free slots.
    parents: Vec<PeerKey>,
    /// Those it was sending to: they have free windows.
    children: Vec<PeerKey>,
}
