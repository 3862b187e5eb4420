//! One blob being spread: who holds what, who wants it, what is on its way.

mod offer;

use std::time::Instant;

use flotilla_proto::{Digest, Layout, PieceHash, PieceSet, Rarity, bits};

use crate::PeerKey;
use crate::demand::Demand;
use crate::doubt::FoundLately;
use crate::hashes::Hashes;
pub(crate) use crate::member::Seat;
use crate::member::{Flight, Member, Wish};
use crate::rows::{Row, Rows};
use crate::source::Source;
use crate::zone::ZonePlace;

/// A task's index among the scheduler's. It is used again after the task ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaskSlot(pub(crate) u32);

/// The planner's record of one blob. It lives as long as it has a member.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    members: Vec<Option<Member>>,
    free_seats: Vec<Seat>,
    pub(crate) rows: Rows,
    /// Members that are seeds.
    pub(crate) seeds: Vec<Seat>,
    /// The task's part in each zone that ever had a member; found by a pass at a join.
    pub(crate) zones: Vec<TaskZone>,
    /// Per piece: members that hold it, as far as they are believed.
    holder_counts: Vec<u32>,
    /// Members that are not believed.
    disbelieved_count: u32,
    unheld: Vec<u64>,
    /// Per piece: members other than seeds that hold or await it, in all zones.
    copy_counts: Vec<u32>,
    /// Pieces that any of them does.
    shared: Vec<u64>,
    pub(crate) hashes: Hashes,
    pub(crate) found_lately: FoundLately,
    /// What members want, and those of them that are no seeds.
    demand: Demand,
    pub(crate) peers_demand: Demand,
    /// Members that want a part.
    part_seats: Vec<Seat>,
    /// Whether any member ever wanted a part: some may want nothing and hold little.
    is_wanted_in_part: bool,
    pub(crate) source: Source,
    /// When it is looked at whether the read may begin, or was last.
    pub(crate) looked_at_again: Option<Instant>,
    /// When it is looked at whether holders have told their hashes.
    pub(crate) hashes_due_at: Option<Instant>,
    /// What it takes in the planner's books.
    pub(crate) weight: u64,
    /// Who made it known, or a member since that one left.
    pub(crate) payer: Option<PeerKey>,
    /// Whose read it is: one that wanted it when it began.
    pub(crate) read_for: Option<PeerKey>,
    /// Whether a seed has seen that the blob has this size.
    pub(crate) seen: bool,
    /// Whether the members choose their pieces by themselves.
    pub(crate) picking: bool,
    /// Whether they ever did: then one may hold a piece whose hash only somebody else has told.
    pub(crate) has_picked: bool,
    /// Pieces planned since the load was last measured; where members pick, those they told of.
    pub(crate) moved_lately: u32,
}

/// What a task has in one zone.
#[derive(Debug)]
pub(crate) struct TaskZone {
    pub(crate) place: ZonePlace,
    pub(crate) rarity: Rarity,
    pub(crate) seats: Vec<Seat>,
}

/// How a piece's way ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Landing {
    /// The child holds it.
    Held,
    /// It did not arrive.
    Lost,
}

impl Task {
    pub(crate) fn new(digest: Digest, layout: Layout) -> Self {
        let piece_count = layout.piece_count();
        let unheld = bits::full(piece_count);
        Self {
            digest,
            layout,
            members: Vec::new(),
            free_seats: Vec::new(),
            rows: Rows::new(piece_count),
            seeds: Vec::new(),
            zones: Vec::new(),
            holder_counts: vec![0; piece_count as usize],
            disbelieved_count: 0,
            copy_counts: vec![0; piece_count as usize],
            shared: vec![0; unheld.len()],
            unheld,
            hashes: Hashes::new(piece_count),
            found_lately: FoundLately::default(),
            demand: Demand::new(piece_count),
            peers_demand: Demand::new(piece_count),
            part_seats: Vec::new(),
            is_wanted_in_part: false,
            source: Source::Idle,
            looked_at_again: None,
            hashes_due_at: None,
            weight: 0,
            payer: None,
            read_for: None,
            seen: false,
            picking: false,
            has_picked: false,
            moved_lately: 0,
        }
    }

    pub(crate) fn piece_count(&self) -> u32 {
        self.layout.piece_count()
    }

    pub(crate) fn piece_len(&self) -> u32 {
        self.layout.piece_len().bytes()
    }

    pub(crate) fn is_wanted(&self) -> bool {
        self.demand.count() > 0
    }

    /// Whether nothing is planned of it: its members pick, and there is no other zone to cross to.
    pub(crate) fn is_left_to_peers(&self) -> bool {
        self.picking && self.zones.len() == 1
    }

    /// Members, in the order of their seats.
    pub(crate) fn members(&self) -> impl Iterator<Item = (Seat, &Member)> {
        (0..).zip(&self.members).filter_map(|(seat, member)| Some((Seat(seat), member.as_ref()?)))
    }

    pub(crate) fn member_count(&self) -> usize {
        self.members.len() - self.free_seats.len()
    }

    /// One more than the highest seat.
    pub(crate) fn seat_count(&self) -> u32 {
        u32::try_from(self.members.len()).expect("fewer members than 2^32")
    }

    /// The member at a seat, if it is taken.
    pub(crate) fn seated(&self, seat: Seat) -> Option<&Member> {
        self.members.get(seat.0 as usize)?.as_ref()
    }

    pub(crate) fn member(&self, seat: Seat) -> &Member {
        self.members[seat.0 as usize].as_ref().expect("a known seat is taken")
    }

    pub(crate) fn member_mut(&mut self, seat: Seat) -> &mut Member {
        self.members[seat.0 as usize].as_mut().expect("a known seat is taken")
    }

    pub(crate) fn join(&mut self, peer: PeerKey, seed: bool, place: ZonePlace, now: Instant) -> Seat {
        let zone = self.zones.iter().position(|zone| zone.place == place).unwrap_or_else(|| {
            let rarity = Rarity::new(self.layout.piece_count());
            self.zones.push(TaskZone { place, rarity, seats: Vec::new() });
            self.zones.len() - 1
        });
        let row = self.rows.add();
        let index = u32::try_from(zone).expect("fewer zones than 2^32");
        let member = Some(Member::new(peer, seed, index, row, now));
        let seat = self.free_seats.pop().unwrap_or_else(|| {
            self.members.push(None);
            Seat(self.seat_count() - 1)
        });
        self.members[seat.0 as usize] = member;
        if seed {
            self.seeds.push(seat);
        }
        self.zones[zone].seats.push(seat);
        seat
    }

    /// Takes a member out with everything it held; what was in flight to it or from it has
    /// been lost before. Costs a pass over the pieces, and over the zone's members.
    pub(crate) fn leave(&mut self, seat: Seat) -> Member {
        self.set_wish(seat, None, None);
        self.drop_all(seat);
        self.set_believed(seat, true);
        let member = self.members[seat.0 as usize].take().expect("a known seat is taken");
        assert!(member.ties.in_flight.is_empty(), "what was in flight is lost before");
        self.free_seats.push(seat);
        self.seeds.retain(|other| *other != seat);
        self.rows.remove(member.row);
        self.zones[member.zone as usize].seats.retain(|other| *other != seat);
        for partner in &member.ties.partners {
            self.member_mut(*partner).forget(seat);
        }
        member
    }

    /// States whether a member wants the blob, and which part where that is not all.
    pub(crate) fn set_wish(&mut self, seat: Seat, wish: Option<Wish>, part: Option<PieceSet>) {
        let member = self.members[seat.0 as usize].as_mut().expect("a known seat is taken");
        let seed = member.seed;
        let former = std::mem::replace(&mut member.wish, wish);
        let former_part = std::mem::replace(&mut member.ties.part, part);
        let part = member.ties.part.as_ref();
        let peers = (!seed).then_some(&mut self.peers_demand);
        for demand in [Some(&mut self.demand), peers].into_iter().flatten() {
            if former.is_some() {
                demand.remove(former_part.as_ref());
            }
            if wish.is_some() {
                demand.add(part);
            }
        }
        self.is_wanted_in_part |= part.is_some();
        if former_part.is_some() != part.is_some() {
            match part {
                Some(_) => self.part_seats.push(seat),
                None => self.part_seats.retain(|other| *other != seat),
            }
        }
    }

    /// Whether any member ever wanted a part.
    pub(crate) fn is_wanted_in_part(&self) -> bool {
        self.is_wanted_in_part
    }

    /// Whether this member will have every piece to give: it holds all, wants all, or is a seed.
    pub(crate) fn is_way(&self, seat: Seat) -> bool {
        let member = self.member(seat);
        let wants_all = member.wish.is_some_and(|wish| !wish.is_part);
        !self.is_wanted_in_part || member.seed || wants_all || member.held_count == self.piece_count()
    }

    /// Members that want a part.
    pub(crate) fn part_seats(&self) -> &[Seat] {
        &self.part_seats
    }

    /// What the piece must hash to, if that is told and not in doubt.
    pub(crate) fn hash(&self, piece: u32) -> Option<PieceHash> {
        self.hashes.usable(piece)
    }

    /// Whether a member holds a piece that is not planned for want of its hash.
    pub(crate) fn has_unknown(&self, member: &Member) -> bool {
        let held = self.rows.held(member.row);
        held.iter().zip(self.hashes.usable_words()).any(|(held, known)| held & !known != 0)
    }

    /// Members that hold such a piece.
    pub(crate) fn lacking_hashes(&self) -> Vec<Seat> {
        self.members().filter(|(_, member)| self.has_unknown(member)).map(|(seat, _)| seat).collect()
    }

    /// Whether a member holds any of these pieces.
    pub(crate) fn holds_any(&self, seat: Seat, pieces: &PieceSet) -> bool {
        let held = self.rows.held(self.member(seat).row);
        held.iter().zip(pieces.words()).any(|(held, word)| held & word != 0)
    }

    pub(crate) fn holds(&self, seat: Seat, piece: u32) -> bool {
        bits::contains(self.rows.held(self.member(seat).row), piece)
    }

    /// A piece starts on its way.
    pub(crate) fn launch(&mut self, child: Seat, flight: Flight) {
        let row = self.own_row(child);
        let fresh = bits::insert(self.rows.taken_mut(row), flight.piece);
        assert!(fresh, "piece {} planned twice to one child", flight.piece);
        let member = self.member_mut(child);
        member.taken_count += 1;
        member.ties.in_flight.push(flight);
        self.count_copy(child, flight.piece, true);
    }

    /// A piece's way ends, or a piece is held that was never on its way. The flight, if it was.
    pub(crate) fn land(&mut self, child: Seat, piece: u32, landing: Landing) -> Option<Flight> {
        let member = self.member_mut(child);
        let place = member.ties.in_flight.iter().position(|flight| flight.piece == piece);
        let flight = place.map(|place| member.ties.in_flight.swap_remove(place));
        let weighs = flight.is_none_or(|flight| flight.weighs);
        match landing {
            Landing::Held => {
                self.hold(child, piece);
                if !weighs {
                    self.count_copy(child, piece, true);
                }
            }
            Landing::Lost if flight.is_some() => {
                let row = self.own_row(child);
                bits::remove(self.rows.taken_mut(row), piece);
                self.member_mut(child).taken_count -= 1;
                if weighs {
                    self.count_copy(child, piece, false);
                }
            }
            Landing::Lost => {}
        }
        flight
    }

    /// What is on its way to a child since then or longer, and counts as a copy to be.
    pub(crate) fn old_flights(&self, child: Seat, since: Instant) -> Vec<Flight> {
        let flights = self.member(child).ties.in_flight.iter();
        flights.filter(|flight| flight.weighs && flight.planned_at <= since).copied().collect()
    }

    /// It counts as one no more.
    pub(crate) fn discount(&mut self, child: Seat, piece: u32) {
        let flights = &mut self.member_mut(child).ties.in_flight;
        if let Some(flight) = flights.iter_mut().find(|flight| flight.piece == piece && flight.weighs) {
            flight.weighs = false;
            self.count_copy(child, piece, false);
        }
    }

    fn hold(&mut self, seat: Seat, piece: u32) {
        if self.holds(seat, piece) {
            return;
        }
        let row = self.own_row(seat);
        bits::insert(self.rows.held_mut(row), piece);
        let fresh = bits::insert(self.rows.taken_mut(row), piece);
        let piece_count = self.piece_count();
        let next = self.member(seat).next_piece;
        let next =
            if next == piece { bits::first_missing(self.rows.held(row), next, piece_count) } else { next };
        let member = self.member_mut(seat);
        member.next_piece = next;
        member.held_count += 1;
        if fresh {
            member.taken_count += 1;
            self.count_copy(seat, piece, true);
        }
        if self.member(seat).believed {
            self.count_holder(piece, true);
        }
        if self.member(seat).held_count == piece_count {
            self.rows.remove(row);
            let member = self.member_mut(seat);
            member.row = Row::FULL;
            member.ties.in_flight = Vec::new();
        }
    }

    /// A member does not hold the piece after all.
    pub(crate) fn drop_piece(&mut self, seat: Seat, piece: u32) {
        if piece >= self.piece_count() || !self.holds(seat, piece) {
            return;
        }
        let row = self.own_row(seat);
        bits::remove(self.rows.held_mut(row), piece);
        bits::remove(self.rows.taken_mut(row), piece);
        let member = self.member_mut(seat);
        member.held_count -= 1;
        member.taken_count -= 1;
        member.next_piece = member.next_piece.min(piece);
        self.count_copy(seat, piece, false);
        if self.member(seat).believed {
            self.count_holder(piece, false);
        }
    }

    fn count_holder(&mut self, piece: u32, more: bool) {
        let count = &mut self.holder_counts[piece as usize];
        if more {
            *count += 1;
            bits::remove(&mut self.unheld, piece);
            return;
        }
        *count -= 1;
        if *count == 0 {
            bits::insert(&mut self.unheld, piece);
        }
    }

    /// States whether what a member says that it holds counts as held, and as copies. Costs a pass over the pieces.
    pub(crate) fn set_believed(&mut self, seat: Seat, believed: bool) {
        let member = self.member_mut(seat);
        if member.believed == believed {
            return;
        }
        member.believed = believed;
        let counted = believed && member.ties.suspicion.corrupt.is_none();
        self.set_counted(seat, counted);
        let held: Vec<u32> = bits::ones(self.rows.held(self.member(seat).row)).collect();
        for piece in held {
            self.count_holder(piece, believed);
        }
        if believed {
            self.disbelieved_count -= 1;
        } else {
            self.disbelieved_count += 1;
        }
    }

    /// Whether every member is believed.
    pub(crate) fn all_believed(&self) -> bool {
        self.disbelieved_count == 0
    }

    /// How many members that are believed hold a piece.
    pub(crate) fn holder_count(&self, piece: u32) -> u32 {
        self.holder_counts[piece as usize]
    }

    /// Those of some pieces that members want.
    pub(crate) fn demanded_of(&self, pieces: PieceSet) -> PieceSet {
        self.demand.of(pieces)
    }

    /// A member holds nothing any more. Costs a pass over the pieces.
    pub(crate) fn drop_all(&mut self, seat: Seat) {
        let held: Vec<u32> = bits::ones(self.rows.held(self.member(seat).row)).collect();
        for piece in held {
            self.drop_piece(seat, piece);
        }
    }

    /// States whether what a member holds and awaits counts as copies. Costs a pass over the pieces.
    pub(crate) fn set_counted(&mut self, seat: Seat, counted: bool) {
        let member = self.member(seat);
        if member.counted == counted {
            return;
        }
        let weighs = |piece: &u32| member.flight(*piece).is_none_or(|flight| flight.weighs);
        let taken: Vec<u32> = bits::ones(self.rows.taken(member.row)).filter(weighs).collect();
        self.member_mut(seat).counted = true;
        for piece in taken {
            self.count_copy(seat, piece, counted);
        }
        self.member_mut(seat).counted = counted;
    }

    fn count_copy(&mut self, seat: Seat, piece: u32, more: bool) {
        let Member { zone, seed, counted, .. } = *self.member(seat);
        if !counted {
            return;
        }
        let rarity = &mut self.zones[zone as usize].rarity;
        let copies = &mut self.copy_counts[piece as usize];
        if more {
            rarity.add(piece, seed);
            *copies += u32::from(!seed);
        } else {
            rarity.remove(piece, seed);
            *copies -= u32::from(!seed);
        }
        if *copies > 0 {
            bits::insert(&mut self.shared, piece);
        } else {
            bits::remove(&mut self.shared, piece);
        }
    }

    fn own_row(&mut self, seat: Seat) -> Row {
        let row = self.rows.own(self.member(seat).row);
        self.member_mut(seat).row = row;
        row
    }

    /// The client's position moved.
    pub(crate) fn set_reader(&mut self, seat: Seat, piece: u32) {
        let row = self.member(seat).row;
        let next = bits::first_missing(self.rows.held(row), piece, self.piece_count());
        let member = self.member_mut(seat);
        if let Some(wish) = &mut member.wish {
            wish.reads = true;
            member.next_piece = next;
        }
    }

    /// What a seed is to read: what somebody wants and nobody holds. In doubt it reads whatever it does
    /// not hold itself: everything is ordered whose hash it has not told, and what it holds it says.
    pub(crate) fn to_be_read(&self) -> PieceSet {
        if let Some(open) = self.hashes.in_doubt() {
            return open.clone();
        }
        self.demand.of(self.held_by_nobody())
    }

    fn held_by_nobody(&self) -> PieceSet {
        let mut missing = PieceSet::new(self.piece_count());
        for piece in bits::ones(&self.unheld) {
            missing.insert(piece);
        }
        missing
    }

    /// Whether every piece that anyone holds has a known hash.
    pub(crate) fn knows_what_is_held(&self) -> bool {
        let full = bits::full(self.piece_count());
        let known = self.hashes.usable_words();
        self.unheld.iter().zip(known).zip(full).all(|((unheld, known), full)| unheld | known == full)
    }
}
