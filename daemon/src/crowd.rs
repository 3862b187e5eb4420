//! Strangers at a door: those that have not shown yet who they are.
//!
//! A server that admits a fixed number of them and lets the others wait is blocked by clients that connect and
//! send nothing. Here nobody waits. Once there are many, the address with the most of them loses its oldest, if that
//! one has been here for a while. A rush of honest callers, one from each address, is admitted as it comes.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Strangers at one door; clones share them.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// For so long nobody is turned away, up to [`Self::MOST`].
    patience: Duration,
    /// Held for one operation.
    seats: Arc<Mutex<Seats>>,
}

/// One stranger. Dropped, it is none any more.
#[derive(Debug)]
pub struct Seat {
    crowd: Crowd,
    number: u64,
    turned_away: CancellationToken,
}

#[derive(Debug, Default)]
struct Seats {
    /// By number. A lower number came earlier.
    strangers: HashMap<u64, Stranger>,
    numbers_by_source: HashMap<IpAddr, BTreeSet<u64>>,
    /// How many each source has, and which of them is its oldest; of equals the one with the oldest is the last.
    sources: BTreeSet<(usize, Reverse<u64>, IpAddr)>,
    next: u64,
}

#[derive(Debug)]
struct Stranger {
    source: IpAddr,
    came_at: Instant,
    turned_away: CancellationToken,
}

impl Crowd {
    /// From so many on, those that have stood here longer than the patience make room.
    pub const MANY: usize = 256;
    /// There are never more.
    pub const MOST: usize = 4096;

    /// A door with nobody at it.
    pub fn new(patience: Duration) -> Self {
        Self { patience, seats: Arc::default() }
    }

    /// Lets one more in. Where that makes many, another may be turned away.
    pub fn enter(&self, address: IpAddr) -> Seat {
        let (now, turned_away) = (Instant::now(), CancellationToken::new());
        let mut seats = self.lock();
        if let Some(number) = seats.to_turn_away(now, self.patience)
            && let Some(stranger) = seats.remove(number)
        {
            stranger.turned_away.cancel();
        }
        let source = source(address);
        let number = seats.insert(Stranger { source, came_at: now, turned_away: turned_away.clone() });
        Seat { crowd: self.clone(), number, turned_away }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().strangers.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Seats> {
        self.seats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seats {
    fn insert(&mut self, stranger: Stranger) -> u64 {
        let number = self.next;
        self.next += 1;
        self.change(stranger.source, |numbers| numbers.insert(number));
        self.strangers.insert(number, stranger);
        number
    }

    fn remove(&mut self, number: u64) -> Option<Stranger> {
        let stranger = self.strangers.remove(&number)?;
        self.change(stranger.source, |numbers| numbers.remove(&number));
        Some(stranger)
    }

    fn change(&mut self, source: IpAddr, change: impl FnOnce(&mut BTreeSet<u64>) -> bool) {
        let rank = |numbers: &BTreeSet<u64>| Some((numbers.len(), Reverse(*numbers.first()?), source));
        let numbers = self.numbers_by_source.entry(source).or_default();
        if let Some(rank) = rank(numbers) {
            self.sources.remove(&rank);
        }
        change(numbers);
        match rank(numbers) {
            Some(rank) => drop(self.sources.insert(rank)),
            None => drop(self.numbers_by_source.remove(&source)),
        }
    }

    /// The oldest of the source that has most, of several such sources the one that came first; while there is
    /// room, only if it is not its source's only one, and has had its time.
    fn to_turn_away(&self, now: Instant, patience: Duration) -> Option<u64> {
        if self.strangers.len() < Crowd::MANY {
            return None;
        }
        let (most, Reverse(oldest), _) = *self.sources.last()?;
        let came_at = self.strangers.get(&oldest)?.came_at;
        let had_its_time = most > 1 && now.saturating_duration_since(came_at) >= patience;
        (had_its_time || self.strangers.len() >= Crowd::MOST).then_some(oldest)
    }
}

impl Seat {
    /// Returns once it is turned away.
    pub fn turned_away(&self) -> impl Future<Output = ()> + Send + use<> {
        self.turned_away.clone().cancelled_owned()
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.number);
    }
}

/// The owner of one IPv6 address usually has its whole /64, so that counts as one.
fn source(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(1);

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
        assert_eq!(source(address("::ffff:192.0.2.1")), address("192.0.2.1"));
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
}
