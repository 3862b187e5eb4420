//! Feeding: giving free upload slots to children that can use them.
//!
//! Nothing scans the swarm. An event feeds the parent whose slot it freed, the child whose
//! window it freed, and the child as a new parent. An assignment costs a look at the
//! partners of one member in each task that it serves, or in one that it wants, and the words
//! of a bitset for at most [`Limits::candidates`](crate::Limits::candidates) of them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use flotilla_proto::bits;

use crate::explain::Obstacle;
use crate::member::Flight;
use crate::peer::Landed;
use crate::rank::{ChildRank, ParentRank, PieceScore, tie};
use crate::records::Accused;
use crate::scheduler::{Deadline, Scheduler};
use crate::task::{Landing, Seat, Task, TaskSlot, TaskZone};
use crate::zone::{Way, ZonePlace};
use crate::{Output, PeerKey};

/// One piece about to be planned.
#[derive(Debug, Clone, Copy)]
struct Choice {
    slot: TaskSlot,
    child: Seat,
    parent: Seat,
    piece: u32,
}

impl Scheduler {
    /// Feeds the seeds, where one may give, or get, more than before. Costs as much as feeding each.
    pub(crate) fn feed_seeds_if_due(&mut self, now: Instant) {
        if std::mem::take(&mut self.readers_are_due) {
            for seed in self.seeds.clone() {
                self.feed_downloads(now, seed);
            }
        }
        if std::mem::take(&mut self.seeds_are_due) {
            for seed in self.seeds.clone() {
                self.feed_parent(now, seed);
            }
        }
    }

    /// Gives a parent's free slots to its least served children.
    pub(crate) fn feed_parent(&mut self, now: Instant, parent: PeerKey) {
        let tasks = &self.tasks;
        let Some(peer) = self.peers.get_mut(parent) else { return };
        peer.rest.serves.retain(|slot| tasks[*slot].is_wanted());
        while let Some(choice) = self.choose_child(now, parent) {
            self.assign(now, choice);
        }
    }

    /// Fills a child's free window with pieces of one blob, from its best parents.
    pub(crate) fn feed_child(&mut self, now: Instant, slot: TaskSlot, child: Seat) {
        while let Some(choice) = self.choose_parent(now, slot, child) {
            self.assign(now, choice);
        }
    }

    /// Fills a child's free window with pieces of the blobs that it wants, in turn: what one
    /// download freed serves the others too. Of very many, some are looked at.
    pub(crate) fn feed_downloads(&mut self, now: Instant, child: PeerKey) {
        let Some(peer) = self.peers.get(child) else { return };
        let wanted = &peer.rest.wants;
        let turn = if wanted.len() > 1 { self.rng.u32(..) } else { 0 };
        let mut hungry: VecDeque<TaskSlot> = rotate(wanted, turn).take(FEW_WANTS).copied().collect();
        while let Some(slot) = hungry.pop_front() {
            let Some(seat) = self.seat(child, slot) else { continue };
            let Some(choice) = self.choose_parent(now, slot, seat) else { continue };
            self.assign(now, choice);
            hungry.push_back(slot);
        }
    }

    /// Lets pieces cross into a zone whose gate may have opened, to some of its members.
    pub(crate) fn feed_zone(&mut self, now: Instant, slot: TaskSlot, zone: u32) {
        let task = &self.tasks[slot];
        let TaskZone { seats, place, .. } = &task.zones[zone as usize];
        let gate = &self.zone_links[place.0 as usize].inbound;
        if task.zones.len() == 1 || seats.is_empty() || !gate.is_open(now, task.piece_len()) {
            return;
        }
        let turn = self.rng.usize(..seats.len());
        let some: Vec<Seat> =
            seats[turn..].iter().chain(&seats[..turn]).take(self.limits.candidates).copied().collect();
        for seat in some {
            self.feed_child(now, slot, seat);
        }
    }

    /// The budget of a zone's link lets something across again, one way. Costs a pass over all
    /// tasks, and a look at the zone's members in each until the budget is spent.
    pub(crate) fn feed_across(&mut self, now: Instant, place: ZonePlace, way: Way) {
        let turn = self.rng.u32(..);
        let slots: Vec<TaskSlot> = self.tasks.iter().map(|(slot, _)| slot).collect();
        for slot in rotate(&slots, turn).copied() {
            let task = &self.tasks[slot];
            let piece_len = task.piece_len();
            let zone = task.zones.iter().find(|zone| zone.place == place);
            let Some(zone) = zone.filter(|_| task.is_wanted() && task.zones.len() > 1) else { continue };
            for seat in rotate(&zone.seats, turn).copied().collect::<Vec<_>>() {
                if !self.zone_links[place.0 as usize].gate(way).is_open(now, piece_len) {
                    break;
                }
                match way {
                    Way::In => self.feed_child(now, slot, seat),
                    Way::Out => self.feed_parent(now, self.tasks[slot].member(seat).peer),
                }
            }
        }
    }

    /// Whom first, then what: the least served child among some that `parent` can help, then
    /// the piece that serves it best.
    fn choose_child(&mut self, now: Instant, parent: PeerKey) -> Option<Choice> {
        let turn = self.rng.u32(..);
        let peer = self.peers.get(parent)?;
        let mut best: Option<(ChildRank, TaskSlot, Seat, Seat)> = None;
        let mut seen = 0;
        for slot in rotate(&peer.rest.serves, turn) {
            let task = &self.tasks[*slot];
            let seat = peer.rest.seats[slot];
            if !peer.has_upload_room(now, self.slots(task), task.piece_len(), &self.limits) {
                continue;
            }
            for child in rotate(&task.member(seat).ties.partners, turn) {
                if seen == self.limits.candidates {
                    break;
                }
                if self.child_obstacle(now, task, seat, *child).is_some() || !task.can_help(seat, *child) {
                    continue;
                }
                seen += 1;
                let rank = self.child_rank(now, task, seat, *child);
                if best.is_none_or(|(other, ..)| rank < other) {
                    best = Some((rank, *slot, seat, *child));
                }
            }
        }
        let (_, slot, parent, child) = best?;
        let (_, piece) = self.tasks[slot].best_piece(parent, child)?;
        Some(Choice { slot, child, parent, piece })
    }

    /// The parent, among some with a free slot, that offers `child` the best piece.
    fn choose_parent(&mut self, now: Instant, slot: TaskSlot, child: Seat) -> Option<Choice> {
        let turn = self.rng.u32(..);
        let task = &self.tasks[slot];
        self.window_obstacle(task, child).is_none().then_some(())?;
        let mut best: Option<(ParentRank, Seat, u32)> = None;
        let mut seen = 0;
        for parent in rotate(&task.member(child).ties.partners, turn) {
            if seen == self.limits.candidates {
                break;
            }
            if self.parent_obstacle(now, task, *parent).is_some()
                || self.pair_obstacle(now, task, *parent, child).is_some()
            {
                continue;
            }
            let Some((score, piece)) = task.best_piece(*parent, child) else { continue };
            seen += 1;
            let rank = self.parent_rank(now, task, *parent, child, score);
            if best.is_none_or(|(other, ..)| rank < other) {
                best = Some((rank, *parent, piece));
            }
        }
        best.map(|(_, parent, piece)| Choice { slot, child, parent, piece })
    }

    /// What keeps `parent` from sending `child` anything at this moment, whatever it holds.
    pub(crate) fn obstacle(&self, now: Instant, task: &Task, parent: Seat, child: Seat) -> Option<Obstacle> {
        self.parent_obstacle(now, task, parent).or_else(|| self.child_obstacle(now, task, parent, child))
    }

    fn parent_obstacle(&self, now: Instant, task: &Task, parent: Seat) -> Option<Obstacle> {
        let peer = &self.peers[task.member(parent).peer];
        let has_room = peer.has_upload_room(now, self.slots(task), task.piece_len(), &self.limits);
        (!has_room).then_some(Obstacle::QueueFull)
    }

    fn child_obstacle(&self, now: Instant, task: &Task, parent: Seat, child: Seat) -> Option<Obstacle> {
        self.window_obstacle(task, child).or_else(|| self.pair_obstacle(now, task, parent, child))
    }

    fn window_obstacle(&self, task: &Task, child: Seat) -> Option<Obstacle> {
        let member = task.member(child);
        if member.wish.is_none() || member.taken_count == task.piece_count() {
            return Some(Obstacle::NothingWanted);
        }
        let peer = &self.peers[member.peer];
        let piece_len = task.piece_len();
        let is_first = !member.awaits() && u32::from(peer.credit) >= self.limits.window_max;
        let within_count = is_first || peer.has_window(self.slots(task), piece_len, &self.limits);
        let has_room = within_count && peer.has_memory(piece_len, &self.limits);
        (!has_room).then_some(Obstacle::WindowFull)
    }

    fn pair_obstacle(&self, now: Instant, task: &Task, parent: Seat, child: Seat) -> Option<Obstacle> {
        let (from, to) = (task.member(parent), task.member(child));
        if !to.accepts(parent, now) {
            return Some(Obstacle::KeptApart);
        }
        if !to.seed && task.is_tried(now, parent) {
            return Some(Obstacle::KeptApart);
        }
        if !to.seed && task.is_probed(now, parent) {
            // The last of what it may owe is the seed's.
            let peer = &self.peers[from.peer];
            let queue = peer.queue(now, self.slots(task), task.piece_len(), &self.limits);
            if peer.up.count > 0 && peer.up.count + 1 >= queue {
                return Some(Obstacle::QueueFull);
            }
        }
        if !from.believed && self.is_disbelieved(now, from.peer) {
            return Some(Obstacle::Disbelieved);
        }
        if from.zone == to.zone {
            return task.picking.then_some(Obstacle::PicksItself);
        }
        let gates = self.gates(task, from.zone, to.zone);
        gates.iter().any(|gate| !gate.is_open(now, task.piece_len())).then_some(Obstacle::GateClosed)
    }

    fn child_rank(&self, now: Instant, task: &Task, parent: Seat, child: Seat) -> ChildRank {
        let (from, to) = (task.member(parent), task.member(child));
        let peer = &self.peers[to.peer];
        let reads = to.reads();
        let starves = reads && now.saturating_duration_since(to.progress_at) > self.limits.starving;
        ChildRank {
            fed_lately: !starves,
            crosses_last: (from.zone == to.zone) != from.seed,
            preheats: !reads,
            fill: 64 * peer.down.count / peer.window(self.slots(task), task.piece_len(), &self.limits),
            completeness: portion(to.held_count, task.piece_count()),
            tie: tie(self.seed, to.peer, from.peer),
        }
    }

    pub(crate) fn parent_rank(
        &self,
        now: Instant,
        task: &Task,
        parent: Seat,
        child: Seat,
        score: PieceScore,
    ) -> ParentRank {
        let (from, to) = (task.member(parent), task.member(child));
        let peer = &self.peers[from.peer];
        let queue = peer.queue(now, self.slots(task), task.piece_len(), &self.limits);
        ParentRank {
            blamed: peer.is_blamed(now),
            stays_in_zone: from.zone == to.zone,
            score,
            fill: 64 * peer.up.count / queue,
            tie: tie(self.seed, to.peer, from.peer),
        }
    }

    /// Pieces sent and received at once where nothing is unusual (K, `docs/design.md` §4b).
    fn slots(&self, task: &Task) -> u32 {
        if task.piece_count() > MANY_PIECES { self.limits.slots_many } else { self.limits.slots_few }
    }

    fn assign(&mut self, now: Instant, choice: Choice) {
        let Choice { slot, child, parent, piece } = choice;
        let task = &mut self.tasks[slot];
        let hash = task.hash(piece).expect("only pieces with a known hash help");
        let hearsay = !bits::contains(task.hashes.checked_words(), piece);
        task.launch(child, Flight { piece, parent, planned_at: now, weighs: true });
        task.moved_lately += 1;
        let bytes = task.layout.piece_size(piece);
        let (digest, from, to) = (task.digest, task.member(parent), task.member(child));
        let (sender, receiver) = (from.peer, to.peer);
        if from.zone != to.zone {
            let [out_of, into] = [from, to].map(|member| task.zones[member.zone as usize].place);
            let left = self.zone_links[out_of.0 as usize].outbound.launch(now, bytes);
            let entered = self.zone_links[into.0 as usize].inbound.launch(now, bytes);
            self.deadlines.extend(left.map(|at| (at, Deadline::Link(out_of, Way::Out))));
            self.deadlines.extend(entered.map(|at| (at, Deadline::Link(into, Way::In))));
        }
        self.peers.known_mut(sender).sends(now, bytes);
        self.peers.known_mut(receiver).receives(now, bytes);
        self.outputs.push_back(Output::Assign {
            child: receiver,
            parent: sender,
            digest,
            piece,
            hash,
            hearsay,
        });
        self.watch_unproven(now, slot, child, parent, piece);
        self.watch_taking(now, receiver);
    }

    /// A piece's way ends: the books of child and parent are settled. The parent, if the piece
    /// was on its way.
    pub(crate) fn land(
        &mut self,
        now: Instant,
        slot: TaskSlot,
        child: Seat,
        piece: u32,
        landing: Landing,
    ) -> Option<PeerKey> {
        let task = &mut self.tasks[slot];
        let flight = task.land(child, piece, landing)?;
        self.seeds_are_due |= landing == Landing::Lost;
        let bytes = task.layout.piece_size(piece);
        let arrived = landing == Landing::Held;
        let mut was_doubted = false;
        if arrived {
            task.member_mut(child).progress_at = now;
            let (receiver, parent) = (task.member(child).peer, task.member(flight.parent).peer);
            let peer = &self.peers[parent];
            let parent = task.member_mut(flight.parent);
            let suspicion = &mut parent.ties.suspicion;
            suspicion.corrupt = suspicion.corrupt.filter(|accused| match accused {
                Accused::By(child) => *child == receiver,
                Accused::ByMany => peer.is_accused_of_corrupt(now, &self.limits),
            });
            was_doubted = suspicion.questioned_at.take().is_some() || !parent.believed;
            (suspicion.tried_until, suspicion.failed_seed_at) = (None, None);
            parent.proven = true;
            if !parent.counted && parent.ties.suspicion.corrupt.is_none() && parent.believed {
                task.set_counted(flight.parent, true);
            }
        }
        let (from, to) = (task.member(flight.parent), task.member(child));
        let (sender, receiver) = (from.peer, to.peer);
        if from.zone != to.zone {
            let took = arrived.then(|| now.saturating_duration_since(flight.planned_at));
            let zones = [task.zones[from.zone as usize].place, task.zones[to.zone as usize].place];
            self.zone_links[zones[0].0 as usize].outbound.land(now, bytes.into(), took);
            self.zone_links[zones[1].0 as usize].inbound.land(now, bytes.into(), took);
        }
        let beside = self.shedding.interval + BESIDE_CONTROL;
        let landed = Landed { bytes, arrived, weighed: flight.weighs, beside };
        self.peers.known_mut(sender).sent(now, receiver, landed, &mut self.usual_up, &self.limits);
        self.peers.known_mut(receiver).received(now, landed, &mut self.usual_down, &self.limits);
        if was_doubted {
            self.believe(now, sender);
        }
        Some(sender)
    }
}

/// The slice from a random place on, and around.
fn rotate<T>(items: &[T], turn: u32) -> impl Iterator<Item = &T> {
    let start = turn as usize % items.len().max(1);
    items[start..].iter().chain(&items[..start])
}

/// In 1024ths.
fn portion(count: u32, of: u32) -> u32 {
    u32::try_from(u64::from(count) * 1024 / u64::from(of).max(1)).expect("at most 1024")
}

/// So many of a peer's downloads are looked at for one event.
pub(crate) const FEW_WANTS: usize = 64;

/// Above so many pieces, more of them are sent at once.
const MANY_PIECES: u32 = 512;

/// What passes beside the control round trip between two pieces of one slot: the request, the
/// check and the disk at the child. Without it even-50 ends at 1.18 × the bound, with it at 1.13.
const BESIDE_CONTROL: Duration = Duration::from_millis(3);
