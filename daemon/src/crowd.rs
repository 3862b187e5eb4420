//! Clients at a door, and who of them makes room when it is full.
//!
//! A server that admits a fixed number of clients and lets the others wait is blocked by those that connect and
//! send nothing. Here nobody waits. Once there are many, the owner (an address, a local user) with the most of them
//! loses its oldest, if that one has been here for a while; one that nothing is done for goes before one that something is
//! done for. A rush of honest callers, one from each address, is admitted as it comes.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::owner::Owner;

/// Clients at one door; clones share them.
#[derive(Debug, Clone)]
pub struct Crowd {
    room: Room,
    /// Held for one operation.
    seats: Arc<Mutex<Seats>>,
}

/// How many a door has room for.
#[derive(Debug, Clone, Copy)]
pub struct Room {
    /// From so many on, those that have been here longer than the patience make room.
    pub many: usize,
    /// There are never more.
    pub most: usize,
    /// For so long nobody is turned away, up to `most`.
    pub patience: Duration,
}

/// One client's place. Dropped, there is room for another.
#[derive(Debug)]
pub struct Seat {
    crowd: Crowd,
    number: u64,
    turned_away: CancellationToken,
}

/// While there is one, something is done for the client of that seat.
#[derive(Debug)]
pub struct Work {
    crowd: Crowd,
    number: u64,
}

#[derive(Debug, Default)]
struct Seats {
    /// By number.
    clients: HashMap<u64, Client>,
    ranks_by_owner: HashMap<Owner, BTreeSet<Rank>>,
    /// How many each owner has, and which of them goes first; of equals the one whose first came first is the last.
    owners: BTreeSet<(usize, Reverse<Rank>, Owner)>,
    next: u64,
}

/// Which client of an owner goes first: one that nothing is done for, of those the one that came, or was done with,
/// the longest ago.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    is_at_work: bool,
    since: u64,
    number: u64,
}

#[derive(Debug)]
struct Client {
    owner: Owner,
    came_at: Instant,
    rank: Rank,
    works: usize,
    turned_away: CancellationToken,
}

impl Crowd {
    /// From so many strangers on, those that have stood here longer than the patience make room.
    pub const MANY: usize = 256;
    /// There are never more strangers.
    pub const MOST: usize = 4096;

    /// A door with nobody at it, for strangers: those that have not shown yet who they are.
    pub fn new(patience: Duration) -> Self {
        Self::with_room(Room { many: Self::MANY, most: Self::MOST, patience })
    }

    /// A door with nobody at it.
    pub fn with_room(room: Room) -> Self {
        Self { room, seats: Arc::default() }
    }

    /// Lets one more in. Where that makes many, another may be turned away.
    pub fn enter(&self, owner: impl Into<Owner>) -> Seat {
        self.lock().enter(owner.into(), Instant::now(), self.room).seated(self)
    }

    /// As [`Self::enter`]; `None` if another would be turned away that something is done for, and whose owner has
    /// no more than the newcomer's would have.
    pub fn try_enter(&self, owner: impl Into<Owner>) -> Option<Seat> {
        let (owner, now) = (owner.into(), Instant::now());
        let mut seats = self.lock();
        let is_fair = seats.is_fair(owner, now, self.room);
        is_fair.then(|| seats.enter(owner, now, self.room).seated(self))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().clients.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A seat that is taken, of no crowd yet.
struct Taken {
    number: u64,
    turned_away: CancellationToken,
}

impl Taken {
    fn seated(self, crowd: &Crowd) -> Seat {
        Seat { crowd: crowd.clone(), number: self.number, turned_away: self.turned_away }
    }
}

impl Seats {
    fn enter(&mut self, owner: Owner, now: Instant, room: Room) -> Taken {
        if let Some(first) = self.to_turn_away(now, room)
            && let Some(client) = self.remove(first.number)
        {
            client.turned_away.cancel();
        }
        let (number, turned_away) = (self.next(), CancellationToken::new());
        let rank = Rank { is_at_work: false, since: number, number };
        self.change(owner, |ranks| ranks.insert(rank));
        let client = Client { owner, came_at: now, rank, works: 0, turned_away: turned_away.clone() };
        self.clients.insert(number, client);
        Taken { number, turned_away }
    }

    fn remove(&mut self, number: u64) -> Option<Client> {
        let client = self.clients.remove(&number)?;
        self.change(client.owner, |ranks| ranks.remove(&client.rank));
        Some(client)
    }

    /// Something more, or less, is done for a client.
    fn work(&mut self, number: u64, change: impl FnOnce(usize) -> usize) {
        let since = self.next();
        // It may have been turned away.
        let Some(client) = self.clients.get_mut(&number) else { return };
        client.works = change(client.works);
        let rank = Rank { is_at_work: client.works > 0, since, number };
        let (before, owner) = (std::mem::replace(&mut client.rank, rank), client.owner);
        self.change(owner, |ranks| ranks.remove(&before) && ranks.insert(rank));
    }

    fn change(&mut self, owner: Owner, change: impl FnOnce(&mut BTreeSet<Rank>) -> bool) {
        let place = |ranks: &BTreeSet<Rank>| Some((ranks.len(), Reverse(*ranks.first()?), owner));
        let ranks = self.ranks_by_owner.entry(owner).or_default();
        if let Some(place) = place(ranks) {
            self.owners.remove(&place);
        }
        change(ranks);
        match place(ranks) {
            Some(place) => drop(self.owners.insert(place)),
            None => drop(self.ranks_by_owner.remove(&owner)),
        }
    }

    /// The first of the owner that has most, of several such owners the one that came first; while there is
    /// room, only if it is not its owner's only one, and has had its time.
    fn to_turn_away(&self, now: Instant, room: Room) -> Option<Rank> {
        if self.clients.len() < room.many {
            return None;
        }
        let (most, Reverse(first), _) = *self.owners.last()?;
        let came_at = self.clients.get(&first.number)?.came_at;
        let had_its_time = most > 1 && now.saturating_duration_since(came_at) >= room.patience;
        (had_its_time || self.clients.len() >= room.most).then_some(first)
    }

    /// Whether a newcomer of this owner takes nobody's place that something is done for, or leaves the one who has
    /// most with no less than its own owner has.
    fn is_fair(&self, owner: Owner, now: Instant, room: Room) -> bool {
        let Some(first) = self.to_turn_away(now, room).filter(|first| first.is_at_work) else { return true };
        let count = |owner| self.ranks_by_owner.get(&owner).map_or(0, BTreeSet::len);
        let busiest = self.clients.get(&first.number).map_or(0, |client| count(client.owner));
        count(owner) + 1 < busiest
    }

    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Seat {
    /// Returns once it is turned away.
    pub fn turned_away(&self) -> impl Future<Output = ()> + Send + use<> {
        self.turned_away.clone().cancelled_owned()
    }

    /// Something is done for its client, until the work is dropped.
    pub fn work(&self) -> Work {
        self.crowd.lock().work(self.number, |works| works + 1);
        Work { crowd: self.crowd.clone(), number: self.number }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.number);
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        self.crowd.lock().work(self.number, |works| works.saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);
    const ROOM: Room = Room { many: 4, most: 4, patience: Duration::ZERO };

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn of_network(last: usize) -> IpAddr {
        address(&format!("10.0.{}.{}", last / 256, last % 256))
    }

    fn is_turned_away(seat: &Seat) -> bool {
        seat.turned_away.is_cancelled()
    }

    #[tokio::test(start_paused = true)]
    async fn the_address_with_the_most_strangers_makes_room_for_the_others() {
        let crowd = Crowd::new(PATIENCE);
        let flood: Vec<Seat> = (0..Crowd::MANY).map(|_| crowd.enter(address("192.0.2.1"))).collect();
        tokio::time::advance(PATIENCE).await;
        let honest: Vec<Seat> = (0..10).map(|last| crowd.enter(of_network(last))).collect();
        assert!(!honest.iter().any(is_turned_away));
        let away: Vec<bool> = flood.iter().map(is_turned_away).collect();
        assert_eq!(away.iter().filter(|away| **away).count(), 10);
        assert!(away[..10].iter().all(|away| *away), "the oldest go");
        assert_eq!(crowd.len(), Crowd::MANY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rush_of_honest_callers_starves_nobody() {
        let crowd = Crowd::new(PATIENCE);
        let rush: Vec<Seat> = (0..Crowd::MOST).map(|last| crowd.enter(of_network(last))).collect();
        tokio::time::advance(10 * PATIENCE).await;
        assert!(!rush.iter().any(is_turned_away), "each is its address's only one");
        let _one_more = crowd.enter(address("192.0.2.1"));
        assert!(is_turned_away(&rush[0]) && !is_turned_away(&rush[1]));
        assert_eq!(crowd.len(), Crowd::MOST);
    }

    #[tokio::test(start_paused = true)]
    async fn one_network_of_many_addresses_is_one_source() {
        let crowd = Crowd::new(PATIENCE);
        let honest = crowd.enter(address("2001:db8:1::1"));
        let many = |last: usize| crowd.enter(address(&format!("2001:db8:2::{last:x}")));
        let _flood: Vec<Seat> = (1..2 * Crowd::MOST).map(many).collect();
        assert!(!is_turned_away(&honest));
    }

    #[tokio::test(start_paused = true)]
    async fn a_stranger_that_is_done_leaves_room() {
        let crowd = Crowd::new(PATIENCE);
        let first = crowd.enter(address("192.0.2.1"));
        for _ in 0..2 * Crowd::MOST {
            tokio::time::advance(PATIENCE).await;
            drop(crowd.enter(address("192.0.2.1")));
        }
        assert!(!is_turned_away(&first) && crowd.len() == 1);
        drop(first);
        assert!(crowd.is_empty());
    }

    #[tokio::test]
    async fn who_waits_idly_goes_before_whom_something_is_done_for() {
        let crowd = Crowd::with_room(ROOM);
        let hog: Vec<Seat> = (0..4).map(|_| crowd.enter(Owner::User(7))).collect();
        let _works: Vec<Work> = hog.iter().take(3).map(Seat::work).collect();
        let _honest = crowd.try_enter(Owner::User(0)).unwrap();
        let away: Vec<bool> = hog.iter().map(is_turned_away).collect();
        assert_eq!(away, [false, false, false, true]);
    }

    #[tokio::test]
    async fn of_the_idle_goes_who_was_done_with_longest_ago() {
        let crowd = Crowd::with_room(ROOM);
        let clients: Vec<Seat> = (0..4).map(|_| crowd.enter(Owner::User(7))).collect();
        for client in [&clients[0], &clients[1]] {
            drop(client.work());
        }
        let _next = [crowd.try_enter(Owner::User(7)).unwrap(), crowd.try_enter(Owner::User(7)).unwrap()];
        let away: Vec<bool> = clients.iter().map(is_turned_away).collect();
        assert_eq!(away, [false, false, true, true]);
    }

    #[tokio::test]
    async fn only_who_has_less_takes_the_place_of_one_at_work() {
        let crowd = Crowd::with_room(ROOM);
        let hog: Vec<Seat> = (0..4).map(|_| crowd.enter(Owner::User(7))).collect();
        let works: Vec<Work> = hog.iter().map(Seat::work).collect();
        assert!(crowd.try_enter(Owner::User(7)).is_none(), "its own share is used up");
        let one = crowd.try_enter(Owner::User(0)).unwrap();
        let _at_work = one.work();
        assert!(is_turned_away(&hog[0]) && !is_turned_away(&hog[1]));
        let two = crowd.try_enter(Owner::User(0)).unwrap();
        let _at_work = two.work();
        assert!(crowd.try_enter(Owner::User(0)).is_none(), "both have two");
        assert!(!is_turned_away(&hog[2]) && crowd.len() == 4);
        drop(works);
        assert!(crowd.try_enter(Owner::User(0)).is_some(), "an idle one makes room");
    }
}
