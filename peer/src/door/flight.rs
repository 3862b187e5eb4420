//! Bytes of answers from the moment they leave the store or the registry until the client's socket took them.
//!
//! All of a node's clients share [`BUDGET`]; `ledger` decides who may have more. A chunk of an answer carries what it
//! takes of the budget, and gives it back when the last of its bytes is written, or its client is gone. Where bytes
//! are waited for, a client that takes nothing is cut after [`PRESSED`] already: of the owner that holds most, those
//! that have stood still longest.
//!
//! Equal manifests, and equal pieces, that are under way at the same time are the same bytes, and count once.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use flotilla_daemon::owner::Owner;
use flotilla_daemon::watched::Movement;
use flotilla_proto::{Digest, PieceHash};
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use super::ledger::{Holder, Ledger, Ticket};

/// The answers under way at one node; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Flight(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Held for one operation, never across an await, nor while a load or a reading is dropped: those ask for it.
    books: Mutex<Books>,
    /// Held for one operation.
    shelf: Mutex<Shelf>,
    bytes: Gauge<u64, AtomicU64>,
    unread: Semaphore,
}

#[derive(Debug)]
struct Books {
    ledger: Ledger,
    /// Who waits for which ticket.
    waiting: HashMap<Ticket, oneshot::Sender<()>>,
    loads: HashMap<u64, Weak<Load>>,
    next: u64,
    relieved_at: Option<Instant>,
}

/// What is on its way to somebody, for others who are sent the same.
#[derive(Debug, Default)]
struct Shelf {
    parcels: HashMap<Content, Weak<Parcel>>,
    /// With so many entries it is looked which are void.
    swept_at: usize,
}

/// What bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Content {
    Manifest(Digest),
    Piece(PieceHash),
}

/// One client's connection, as its answers see it.
#[derive(Debug)]
pub(crate) struct Account {
    flight: Flight,
    number: u64,
    owner: Owner,
    movement: Arc<Movement>,
    cut: CancellationToken,
}

/// Bytes of the budget, for a client that reads them, or is about to.
#[derive(Debug)]
pub(crate) struct Held {
    load: Arc<Load>,
    reading: Arc<Reading>,
}

/// Bytes of the budget; dropped, they are given back.
#[derive(Debug)]
struct Load {
    flight: Flight,
    number: u64,
    owner: Owner,
    bytes: AtomicUsize,
    /// Held for one operation.
    readers: Mutex<Vec<Weak<Reading>>>,
}

/// A client that reads a load, until it has.
#[derive(Debug)]
struct Reading {
    account: Arc<Account>,
}

/// Bytes under way, for all clients that read them.
#[derive(Debug)]
struct Parcel {
    bytes: Bytes,
    load: Arc<Load>,
}

impl Flight {
    pub(crate) fn register(metrics: &mut Registry) -> Self {
        let flight = Self::new(BUDGET);
        let help = "Bytes of answers that clients were not sent yet, as they count in the budget";
        metrics.register("flotilla_peer_answer_bytes", help, flight.0.bytes.clone());
        flight
    }

    fn new(budget: usize) -> Self {
        let books = Books {
            ledger: Ledger::new(budget),
            waiting: HashMap::new(),
            loads: HashMap::new(),
            next: 0,
            relieved_at: None,
        };
        let inner = Inner {
            books: Mutex::new(books),
            shelf: Mutex::default(),
            bytes: Gauge::default(),
            unread: Semaphore::new(UNREAD),
        };
        Self(Arc::new(inner))
    }

    /// An account for a connection of this owner's.
    pub(super) fn account(&self, owner: Owner, movement: Arc<Movement>) -> Arc<Account> {
        let number = self.books().number();
        Arc::new(Account { flight: self.clone(), number, owner, movement, cut: CancellationToken::new() })
    }

    /// Whether these bytes are on their way to somebody.
    pub(super) fn has(&self, content: Content) -> bool {
        self.shelf().parcels.get(&content).is_some_and(|parcel| parcel.strong_count() > 0)
    }

    /// Cuts clients that take nothing, until what they keep under way is as much as those wait for that have nothing:
    /// of what the busiest owner has there, what stands still at all of its readers, the longest first.
    fn relieve(&self, now: Instant) {
        let (loads, busiest, mut needed): (Vec<Arc<Load>>, _, _) = {
            let mut books = self.books();
            let is_soon = books.relieved_at.is_some_and(|before| now < before + RELIEF_TURN / 2);
            let needed = books.ledger.needed();
            // Somebody who waits for what is ahead of its client leads to no cut, and takes nobody's turn.
            let Some(busiest) = books.ledger.busiest().filter(|_| !is_soon && needed > 0) else { return };
            books.relieved_at = Some(now);
            (books.loads.values().filter_map(Weak::upgrade).collect(), busiest, needed)
        };
        let of_busiest = loads.iter().filter(|load| load.owner == busiest);
        let stalled = of_busiest.map(|load| (load.stalled_for(now), load));
        let mut stalled: Vec<_> = stalled.filter(|(stalled, _)| *stalled >= PRESSED).collect();
        stalled.sort_by_key(|(stalled, _)| std::cmp::Reverse(*stalled));
        for (_, load) in stalled {
            if needed == 0 {
                return;
            }
            // What was cut before may take a moment to go.
            needed = needed.saturating_sub(load.bytes.load(Ordering::Relaxed));
            load.readers().iter().for_each(|reading| reading.account.cut.cancel());
        }
    }

    fn give_back(&self, owner: Owner, bytes: usize) {
        let mut books = self.books();
        let granted = books.ledger.give_back(owner, bytes);
        self.settle(&mut books, &granted);
    }

    /// Tells those whose wishes were granted. One that is gone gives its bytes back by itself.
    fn settle(&self, books: &mut Books, granted: &[Ticket]) {
        for ticket in granted {
            if let Some(waiter) = books.waiting.remove(ticket) {
                let _ = waiter.send(());
            }
        }
        self.0.bytes.set(books.ledger.used() as u64);
    }

    fn books(&self) -> MutexGuard<'_, Books> {
        self.0.books.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.0.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Books {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }
}

impl Shelf {
    /// As many void entries as others are kept at most.
    fn put(&mut self, content: Content, parcel: Weak<Parcel>) {
        if self.parcels.len() >= self.swept_at {
            self.parcels.retain(|_, parcel| parcel.strong_count() > 0);
            self.swept_at = LEAST_SWEPT.max(2 * self.parcels.len());
        }
        self.parcels.insert(content, parcel);
    }
}

impl Account {
    /// Takes bytes of the budget, as soon as there is room for them. A wish for more than all of it is one for all.
    pub(super) async fn take(self: &Arc<Self>, bytes: usize) -> Held {
        let bytes = bytes.min(BUDGET);
        match self.ask(bytes) {
            Ok(held) => held,
            Err(asking) => self.granted(asking).await,
        }
    }

    async fn granted(&self, mut asking: Asking) -> Held {
        loop {
            self.flight.relieve(Instant::now());
            tokio::select! {
                _granted = &mut asking.granted => return asking.granted(),
                () = tokio::time::sleep(RELIEF_TURN) => {}
            }
        }
    }

    /// As [`Self::take`], for an answer that a seed sends meanwhile: only a few wait, until then.
    pub(super) async fn take_for_sent(self: &Arc<Self>, bytes: usize, until: Instant) -> Option<Held> {
        let asking = match self.ask(bytes.min(BUDGET)) {
            Ok(held) => return Some(held),
            Err(asking) => asking,
        };
        let _place = self.flight.0.unread.try_acquire().ok()?;
        timeout_at(until, self.granted(asking)).await.ok()
    }

    fn ask(self: &Arc<Self>, bytes: usize) -> Result<Held, Asking> {
        let mut books = self.flight.books();
        match books.ledger.take(self.holder(), bytes) {
            Ok(()) => {
                self.flight.0.bytes.set(books.ledger.used() as u64);
                drop(books);
                Ok(Held::new(self, bytes))
            }
            Err(ticket) => {
                let (tell, granted) = oneshot::channel();
                books.waiting.insert(ticket, tell);
                Err(Asking { account: self.clone(), bytes, ticket: Some(ticket), granted })
            }
        }
    }

    /// These very bytes, if they are on their way to somebody.
    pub(super) fn share(self: &Arc<Self>, content: Content) -> Option<Bytes> {
        let parcel = self.flight.shelf().parcels.get(&content)?.upgrade()?;
        self.flight.books().ledger.read(self.holder());
        let reading = Arc::new(Reading { account: self.clone() });
        parcel.load.add(&reading);
        Some(Bytes::from_owner(Carried { parcel, _reading: reading }))
    }

    /// Where equal bytes meet.
    pub(super) fn flight(&self) -> &Flight {
        &self.flight
    }

    /// Returns once the connection must end for others' sake.
    pub(super) fn cut(&self) -> impl Future<Output = ()> + Send + use<> {
        self.cut.clone().cancelled_owned()
    }

    fn holder(&self) -> Holder {
        Holder { owner: self.owner, account: self.number }
    }
}

impl Held {
    /// What was just granted.
    fn new(account: &Arc<Account>, bytes: usize) -> Self {
        let (flight, owner) = (account.flight.clone(), account.owner);
        let reading = Arc::new(Reading { account: account.clone() });
        let readers = Mutex::new(vec![Arc::downgrade(&reading)]);
        let mut books = account.flight.books();
        let number = books.number();
        let load = Arc::new(Load { flight, number, owner, bytes: AtomicUsize::new(bytes), readers });
        books.loads.insert(number, Arc::downgrade(&load));
        drop(books);
        Self { load, reading }
    }

    /// Gives back what is more than `bytes`.
    pub(super) fn shrink(&mut self, bytes: usize) {
        let before = self.load.bytes.fetch_min(bytes, Ordering::Relaxed);
        self.load.flight.give_back(self.load.owner, before.saturating_sub(bytes));
    }

    /// The same bytes. What is held for them is given back when every client has been sent the last of them.
    pub(super) fn carry(self, content: Content, bytes: Bytes) -> Bytes {
        let Self { load, reading } = self;
        let flight = load.flight.clone();
        let parcel = Arc::new(Parcel { bytes, load });
        flight.shelf().put(content, Arc::downgrade(&parcel));
        Bytes::from_owner(Carried { parcel, _reading: reading })
    }
}

impl Load {
    fn add(&self, reading: &Arc<Reading>) {
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|reading| reading.strong_count() > 0);
        readers.push(Arc::downgrade(reading));
    }

    fn readers(&self) -> Vec<Arc<Reading>> {
        let readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        readers.iter().filter_map(Weak::upgrade).collect()
    }

    /// How long all of its readers have taken nothing.
    fn stalled_for(&self, now: Instant) -> Duration {
        let readers = self.readers();
        let stalled = readers.iter().map(|reading| reading.account.movement.stalled_for(now));
        stalled.min().unwrap_or_default()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let mut books = self.flight.books();
        books.loads.remove(&self.number);
        let granted = books.ledger.give_back(self.owner, *self.bytes.get_mut());
        self.flight.settle(&mut books, &granted);
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        let flight = &self.account.flight;
        let mut books = flight.books();
        let granted = books.ledger.read_to_end(self.account.holder());
        flight.settle(&mut books, &granted);
    }
}

/// A wish that waits. Dropped, nobody waits for it any more.
struct Asking {
    account: Arc<Account>,
    bytes: usize,
    /// `None` once its bytes are somebody's.
    ticket: Option<Ticket>,
    granted: oneshot::Receiver<()>,
}

impl Asking {
    fn granted(mut self) -> Held {
        self.ticket = None;
        Held::new(&self.account, self.bytes)
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let (flight, holder) = (&self.account.flight, self.account.holder());
        let mut books = flight.books();
        books.waiting.remove(&ticket);
        let granted = match books.ledger.withdraw(holder.owner, ticket) {
            Ok(granted) => granted,
            Err(_already_granted) => {
                let mut granted = books.ledger.read_to_end(holder);
                granted.extend(books.ledger.give_back(holder.owner, self.bytes));
                granted
            }
        };
        flight.settle(&mut books, &granted);
    }
}

/// Bytes under way to one reader.
struct Carried {
    parcel: Arc<Parcel>,
    _reading: Arc<Reading>,
}

impl AsRef<[u8]> for Carried {
    fn as_ref(&self) -> &[u8] {
        &self.parcel.bytes
    }
}

/// Bytes of all answers under way. One owner alone has half of them: three of the largest manifests, six pieces of
/// the largest blobs, 192 of others.
pub(super) const BUDGET: usize = 48 << 20;

/// Where others wait for bytes, a client that takes nothing for so long is cut.
const PRESSED: Duration = Duration::from_secs(5);

/// Answers of seeds that may wait for room. What is not read fills the connection to the seed, which is all others',
/// too.
const UNREAD: usize = 4;

/// How often who waits looks for somebody to cut.
const RELIEF_TURN: Duration = Duration::from_secs(1);

/// From so many entries on, the shelf is swept.
const LEAST_SWEPT: usize = 64;

#[cfg(test)]
mod tests {
    use flotilla_daemon::watched::Watched;
    use futures_util::FutureExt as _;
    use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    const HOG: Owner = Owner::User(65_534);
    const ROOT: Owner = Owner::User(0);

    /// A connection whose other end takes `taken` bytes and then nothing.
    fn client(flight: &Flight, owner: Owner, taken: usize) -> (Arc<Account>, DuplexStream) {
        let (stream, other) = duplex(taken);
        let mut stream = Watched::new(stream, Duration::from_secs(3600));
        let account = flight.account(owner, stream.movement());
        tokio::spawn(async move { stream.write_all(&[0; 8]).await });
        (account, other)
    }

    #[tokio::test]
    async fn bytes_are_given_back_with_the_last_chunk_of_them() {
        let flight = Flight::new(BUDGET);
        let (account, _other) = client(&flight, ROOT, 8);
        let bytes = Bytes::from(vec![7; 1 << 20]);
        let content = Content::Manifest(Digest::of(&bytes));
        let mut held = account.take(2 << 20).await;
        held.shrink(bytes.len());
        let mut carried = held.carry(content, bytes.clone());
        let same = account.share(content).unwrap();
        assert_eq!(flight.0.bytes.get(), 1 << 20, "it counts once");
        assert_eq!(carried, bytes);
        let first = carried.split_to(10);
        drop((carried, same));
        assert_eq!(flight.0.bytes.get(), 1 << 20, "ten bytes hold all of it");
        drop(first);
        assert!(flight.0.bytes.get() == 0 && flight.books().loads.is_empty());
        assert_eq!(account.share(content), None);
    }

    #[tokio::test]
    async fn who_waits_no_longer_leaves_its_turn() {
        let flight = Flight::new(BUDGET);
        let (account, _other) = client(&flight, ROOT, 8);
        let held = account.take(BUDGET).await;
        let [mut first, mut second] = [account.take(1), account.take(1)].map(Box::pin);
        assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
        drop(held);
        // Its byte was granted, and nobody took it.
        drop(first);
        let held = second.await;
        assert_eq!(flight.0.bytes.get(), 1);
        drop(held);
        assert!(flight.books().waiting.is_empty() && flight.0.bytes.get() == 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_stands_still_makes_room_once_others_wait_and_nobody_else_does() {
        let flight = Flight::new(BUDGET);
        let (stalled, _unread) = client(&flight, HOG, 1);
        let (taking, _read) = client(&flight, HOG, 8);
        let (honest, _other) = client(&flight, ROOT, 8);
        let _of_stalled = stalled.take(BUDGET / 4).await;
        let _of_taking = taking.take(BUDGET / 4).await;
        tokio::time::sleep(2 * PRESSED).await;
        assert!(!stalled.cut.is_cancelled(), "nobody waited");
        let mut asked = Box::pin(honest.take(BUDGET));
        assert!(asked.as_mut().now_or_never().is_none());
        assert!(stalled.cut.is_cancelled(), "at once");
        assert!(!taking.cut.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn others_do_not_wait_long_for_who_takes_nothing() {
        let flight = Flight::new(BUDGET);
        let (stalled, _unread) = client(&flight, HOG, 1);
        let (honest, _other) = client(&flight, HOG, 8);
        let held = stalled.take(BUDGET / 2).await;
        let served = tokio::spawn({
            let stalled = stalled.clone();
            async move {
                stalled.cut().await;
                drop(held);
            }
        });
        let began_at = Instant::now();
        let _held = honest.take(1 << 20).await;
        assert!(began_at.elapsed() <= PRESSED + 2 * RELIEF_TURN, "{:?}", began_at.elapsed());
        served.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_one_reader_has_read_others_may_still_hold_up() {
        let flight = Flight::new(BUDGET);
        let (bringer, _read) = client(&flight, HOG, 8);
        let (stalled, _unread) = client(&flight, HOG, 1);
        let (honest, _other) = client(&flight, ROOT, 8);
        let content = Content::Manifest(Digest::of(b"manifest"));
        let brought = bringer.take(BUDGET).await.carry(content, Bytes::from_static(b"manifest"));
        let _shared = stalled.share(content).unwrap();
        drop(brought);
        tokio::time::sleep(2 * PRESSED).await;
        let mut asked = Box::pin(honest.take(1));
        assert!(asked.as_mut().now_or_never().is_none());
        assert!(stalled.cut.is_cancelled());
        assert!(!bringer.cut.is_cancelled(), "it has read its own");
    }

    #[tokio::test]
    async fn the_shelf_keeps_no_names_of_what_is_gone() {
        let flight = Flight::new(BUDGET);
        let (account, _other) = client(&flight, ROOT, 8);
        for number in 0..10 * LEAST_SWEPT {
            let content = Content::Piece(PieceHash::of(&number.to_le_bytes()));
            drop(account.take(1).await.carry(content, Bytes::from_static(b"x")));
        }
        assert!(flight.shelf().parcels.len() <= LEAST_SWEPT);
    }
}
