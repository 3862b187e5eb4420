//! Which peers one download may exchange pieces with: a bounded random graph per task
//! (`docs/design.md` §4f), with a path to a holder: for parts see [`crate::reach`].
//!
//! Inside a small zone everyone is everyone's partner, so that a piece that crossed into it
//! reaches all. Across zones each member has a few: through them pieces enter. A draw costs
//! some looks per partner wanted, however many members there are.

use crate::member::Member;
use crate::scheduler::Scheduler;
use crate::task::{Seat, Task, TaskSlot};
use crate::{Limits, Output};

impl Scheduler {
    /// Draws partners for a member that just came, or that lost some.
    pub(crate) fn draw_partners(&mut self, slot: TaskSlot, seat: Seat) {
        self.draw(slot, seat, usize::MAX);
    }

    /// Draws partners for a member that begins to want. Where it has warm connections, those at
    /// their other ends may be about to want the blob too: few strangers are drawn until that is
    /// known ([`Self::befriend_if_lonely`]). Of an image of 40 layers, three at a time, 200 peers
    /// else meet 92 others each, and 30 so.
    pub(crate) fn draw_first_partners(&mut self, slot: TaskSlot, seat: Seat) {
        let member = self.tasks[slot].member(seat);
        let warm_count = self.peers[member.peer].rest.warm.len();
        let has_warm = !member.seed && warm_count >= self.limits.partners_drawn;
        self.draw(slot, seat, if has_warm { STRANGERS_FIRST } else { usize::MAX });
    }

    /// Draws more partners for a member that still has few when its first piece is there. Not at
    /// each: a small zone never has enough.
    pub(crate) fn befriend_if_lonely(&mut self, slot: TaskSlot, seat: Seat) {
        if self.is_lonely(slot, seat) {
            self.draw_partners(slot, seat);
        }
    }

    fn draw(&mut self, slot: TaskSlot, seat: Seat, strangers_max: usize) {
        let zone = self.tasks[slot].member(seat).zone;
        self.draw_inside(slot, seat, zone, strangers_max);
        if self.tasks[slot].zones.len() > 1 {
            self.draw_across(slot, seat, zone);
        }
        if self.tasks[slot].member(seat).ties.partners.is_empty() {
            self.draw_any(slot, seat);
        }
    }

    /// Warm ones first, then seeds and complete holders, then others: strangers only until there
    /// are `strangers_max` drawn in all.
    fn draw_inside(&mut self, slot: TaskSlot, seat: Seat, zone: u32, strangers_max: usize) {
        let mut rng = self.rng.fork();
        let task = &self.tasks[slot];
        let member = task.member(seat);
        let inside = &task.zones[zone as usize].seats;
        let small = inside.len() <= self.limits.full_mesh_max + 1;
        let wanted = if member.seed {
            self.limits.seed_partners_max
        } else if small {
            self.limits.full_mesh_max
        } else {
            self.limits.partners_drawn
        };
        let wanted = wanted.saturating_sub(member.ties.partners.len());
        let fits = |other: &Seat| self.fits(task, seat, *other);
        let mut chosen: Vec<Seat> = self.warm_seats(slot, seat, zone).filter(fits).take(wanted).collect();
        let wanted = wanted.min(strangers_max.max(chosen.len()));
        let mut drawn = if task.is_wanted_in_part() {
            let ways: Vec<Seat> = inside.iter().copied().filter(|other| task.is_way(*other)).collect();
            sample(&mut rng, &ways, wanted)
        } else {
            sample(&mut rng, inside, wanted)
        };
        drawn.retain(fits);
        let is_source = |other: &Seat| self.is_source(task, *other);
        let (sources, others): (Vec<Seat>, Vec<Seat>) = drawn.into_iter().partition(is_source);
        let late = sources.len().min(SOURCES_FIRST);
        let seeds = task.seeds.iter().filter(|other| task.member(**other).zone == zone && fits(other));
        let order = seeds.take(SOURCES_FIRST).chain(&sources[..late]).chain(&others).chain(&sources[late..]);
        for other in order {
            if chosen.len() >= wanted {
                break;
            }
            if !chosen.contains(other) {
                chosen.push(*other);
            }
        }
        for other in chosen {
            self.link(slot, seat, other);
        }
    }

    /// Seeds first, as long as they have partners to spare for this zone.
    fn draw_across(&mut self, slot: TaskSlot, seat: Seat, zone: u32) {
        let mut rng = self.rng.fork();
        let (task, limits) = (&self.tasks[slot], &self.limits);
        let member = task.member(seat);
        let across = member.ties.partners.iter().filter(|other| task.member(**other).zone != zone).count();
        let wanted = if member.seed { limits.seed_partners_max } else { limits.partners_across };
        let wanted = wanted.saturating_sub(across);
        let for_each_zone = (limits.seed_partners_max / task.zones.len()).max(1);
        let has_spare = |seed: &Seat| {
            let partners = task.member(*seed).ties.partners.iter();
            partners.filter(|other| task.member(**other).zone == zone).count() < for_each_zone
        };
        let outside = |other: &Seat| task.member(*other).zone != zone && self.fits(task, seat, *other);
        let mut chosen: Vec<Seat> = task.seeds.iter().copied().filter(outside).filter(has_spare).collect();
        let everyone: Vec<Seat> = if task.member_count() <= FEW {
            task.members().map(|(other, _)| other).collect()
        } else {
            let any = |_| Seat(rng.u32(..task.seat_count()));
            (0..LOOKS * wanted).map(any).filter(|other| task.seated(*other).is_some()).collect()
        };
        let drawn = sample(&mut rng, &everyone, everyone.len());
        for other in drawn.iter().filter(|other| outside(other)) {
            if !chosen.contains(other) && !task.member(*other).seed {
                chosen.push(*other);
            }
        }
        chosen.truncate(wanted);
        for other in chosen {
            self.link(slot, seat, other);
        }
    }

    /// Where nobody has room, somebody makes it: whoever wants has a way to the bytes.
    fn draw_any(&mut self, slot: TaskSlot, seat: Seat) {
        let mut rng = self.rng.fork();
        let task = &self.tasks[slot];
        let useful = |(other, _): &(Seat, &Member)| self.is_useful(task, seat, *other);
        let turn = rng.u32(..task.seat_count());
        let after = || task.members().filter(useful).filter(|(other, _)| other.0 >= turn);
        let before = || task.members().filter(useful).filter(|(other, _)| other.0 < turn);
        let around = || after().chain(before()).map(|(other, _)| other);
        let found = around().find(|other| task.is_way(*other)).or_else(|| around().next());
        if let Some(other) = found {
            self.link(slot, seat, other);
        }
    }

    /// Partners of late that have a part in this task too: their connections stand.
    fn warm_seats(&self, slot: TaskSlot, seat: Seat, zone: u32) -> impl Iterator<Item = Seat> {
        let task = &self.tasks[slot];
        let warm = self.peers[task.member(seat).peer].rest.warm.iter().rev();
        let seats = warm.filter_map(move |key| self.seat(*key, slot));
        seats.filter(move |other| task.member(*other).zone == zone)
    }

    /// Whether the two may become partners, and have room.
    fn fits(&self, task: &Task, seat: Seat, other: Seat) -> bool {
        self.is_useful(task, seat, other)
            && task.member(other).ties.partners.len() < max_partners(task.member(other), &self.limits)
    }

    /// Whether one of the two wants, and they are no partners yet.
    fn is_useful(&self, task: &Task, seat: Seat, other: Seat) -> bool {
        let (one, two) = (task.member(seat), task.member(other));
        seat != other && (one.wish.is_some() || two.wish.is_some()) && !one.ties.partners.contains(&other)
    }

    fn is_source(&self, task: &Task, seat: Seat) -> bool {
        let member = task.member(seat);
        member.seed || member.held_count == task.piece_count()
    }

    pub(crate) fn link(&mut self, slot: TaskSlot, a: Seat, b: Seat) {
        let task = &mut self.tasks[slot];
        let (digest, same_zone) = (task.digest, !task.crosses(a, b));
        for (one, other) in [(a, b), (b, a)] {
            task.member_mut(one).ties.partners.push(other);
            let (member, partner) = (task.member(one), task.member(other));
            let peer = self.peers.known_mut(member.peer);
            peer.warms(partner.peer, &self.limits);
            if partner.wish.is_some() && !peer.rest.serves.contains(&slot) {
                peer.rest.serves.push(slot);
            }
            self.outputs.push_back(Output::Link {
                peer: member.peer,
                partner: partner.peer,
                digest,
                seed: partner.seed,
                same_zone,
            });
        }
    }

    /// A member begins to want: its partners look for work here.
    pub(crate) fn partners_serve(&mut self, slot: TaskSlot, seat: Seat) {
        let task = &self.tasks[slot];
        for partner in &task.member(seat).ties.partners {
            let peer = self.peers.known_mut(task.member(*partner).peer);
            if !peer.rest.serves.contains(&slot) {
                peer.rest.serves.push(slot);
            }
        }
    }

    /// Whether a member has so few partners that it should draw again.
    pub(crate) fn is_lonely(&self, slot: TaskSlot, seat: Seat) -> bool {
        let task = &self.tasks[slot];
        let member = task.member(seat);
        let ways = member.ties.partners.iter().filter(|other| task.is_way(**other));
        member.wish.is_some()
            && member.ties.partners.len() + 1 < task.member_count()
            && ways.take(self.limits.partners_min).count() < self.limits.partners_min
    }
}

/// Some of the seats, in random order: all where they are few, else a few looks for each wanted.
fn sample(rng: &mut fastrand::Rng, seats: &[Seat], wanted: usize) -> Vec<Seat> {
    if seats.len() <= (LOOKS * wanted).max(FEW) {
        let mut all = seats.to_vec();
        rng.shuffle(&mut all);
        return all;
    }
    (0..LOOKS * wanted).map(|_| seats[rng.usize(..seats.len())]).collect()
}

fn max_partners(member: &Member, limits: &Limits) -> usize {
    if member.seed { limits.seed_partners_max } else { limits.partners_max }
}

/// So many partners are drawn among seeds, and among complete holders, before the others.
const SOURCES_FIRST: usize = 4;

/// So many partners a member has at first, if it has warm ones elsewhere.
const STRANGERS_FIRST: usize = 4;

/// Members are looked at for each partner wanted.
const LOOKS: usize = 4;

/// So few are all looked at.
const FEW: usize = 64;
