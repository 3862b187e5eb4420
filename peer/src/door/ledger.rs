//! How many bytes of answers are on their way, and who may have more of them there.
//!
//! One budget for all clients of a node. Each owner (a local user, an address) has at most as many bytes as are left
//! free beside its own: one alone takes half of them, two a third each, and some are always left for one who comes
//! later (Choudhury and Hahne, "Dynamic queue length thresholds", 1998). Who may not have more waits.
//!
//! Of an owner's clients those that have nothing to read come first, in turn; what is made ready for one that has
//! something already may take a third of the budget at most, so that clients that stand still leave room for others.
//!
//! No IO and no clock; [`Flight`](super::flight::Flight) acts on it.

use std::collections::{HashMap, VecDeque};

use flotilla_daemon::owner::Owner;

/// The bytes under way, by whose they are.
#[derive(Debug)]
pub(super) struct Ledger {
    capacity: usize,
    used: usize,
    books: HashMap<Owner, Book>,
    next_ticket: u64,
}

#[derive(Debug, Default)]
struct Book {
    held: usize,
    /// How much of what is under way each account reads.
    reading_by_account: HashMap<u64, usize>,
    waiting: VecDeque<Wish>,
}

#[derive(Debug)]
struct Wish {
    ticket: Ticket,
    account: u64,
    bytes: usize,
}

/// An account, and whose it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) owner: Owner,
    pub(super) account: u64,
}

/// A wish that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Ticket(u64);

impl Ledger {
    pub(super) fn new(capacity: usize) -> Self {
        Self { capacity, used: 0, books: HashMap::new(), next_ticket: 0 }
    }

    /// Bytes that are under way.
    pub(super) fn used(&self) -> usize {
        self.used
    }

    /// Bytes that are waited for by clients that have nothing to read.
    pub(super) fn needed(&self) -> usize {
        let wishes = self.books.values().flat_map(|book| book.waiting.iter().map(move |wish| (book, wish)));
        wishes.filter(|(book, wish)| !book.is_ahead(wish.account)).map(|(_, wish)| wish.bytes).sum()
    }

    /// Takes bytes for this account; a ticket if it must wait for them. Nobody takes more than there are.
    pub(super) fn take(&mut self, holder: Holder, bytes: usize) -> Result<(), Ticket> {
        debug_assert!(bytes <= self.capacity, "no wish is larger than the budget");
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let book = self.books.entry(holder.owner).or_default();
        book.waiting.push_back(Wish { ticket, account: holder.account, bytes });
        // Nothing was given back, so that no other wish fits that did not before.
        let granted = self.grant_of(holder.owner);
        if granted == Some(ticket) { Ok(()) } else { Err(ticket) }
    }

    /// Bytes of this owner are under way no longer. Whose wishes are granted by that.
    pub(super) fn give_back(&mut self, owner: Owner, bytes: usize) -> Vec<Ticket> {
        self.used -= bytes;
        self.books.get_mut(&owner).expect("who holds bytes has a book").held -= bytes;
        self.forget_blank(owner);
        self.grant()
    }

    /// The account reads what is under way already, for somebody else.
    pub(super) fn read(&mut self, holder: Holder) {
        let book = self.books.entry(holder.owner).or_default();
        *book.reading_by_account.entry(holder.account).or_default() += 1;
    }

    /// The account has read one thing of those that it took, or reads: its next wish is one of a client that has
    /// nothing, if that was all.
    pub(super) fn read_to_end(&mut self, holder: Holder) -> Vec<Ticket> {
        let book = self.books.get_mut(&holder.owner).expect("who reads has a book");
        let reading = book.reading_by_account.get_mut(&holder.account).expect("who reads is written down");
        *reading -= 1;
        if *reading > 0 {
            return Vec::new();
        }
        book.reading_by_account.remove(&holder.account);
        let has_wish = book.waiting.iter().any(|wish| wish.account == holder.account);
        self.forget_blank(holder.owner);
        if has_wish { self.grant() } else { Vec::new() }
    }

    /// Nobody waits for the ticket any more. `Err` if its bytes were granted before: they are still to be given back.
    pub(super) fn withdraw(&mut self, owner: Owner, ticket: Ticket) -> Result<Vec<Ticket>, AlreadyGranted> {
        let book = self.books.get_mut(&owner).ok_or(AlreadyGranted)?;
        let place = book.waiting.iter().position(|wish| wish.ticket == ticket).ok_or(AlreadyGranted)?;
        book.waiting.remove(place);
        self.forget_blank(owner);
        // A smaller wish may have waited behind it.
        Ok(self.grant())
    }

    /// The owner that holds most.
    pub(super) fn busiest(&self) -> Option<Owner> {
        let holders = self.books.iter().filter(|(_, book)| book.held > 0);
        holders.max_by_key(|(owner, book)| (book.held, **owner)).map(|(owner, _)| *owner)
    }

    /// Grants what there is room for, those who hold least first.
    fn grant(&mut self) -> Vec<Ticket> {
        let waiting = self.books.iter().filter(|(_, book)| !book.waiting.is_empty());
        let mut owners: Vec<_> = waiting.map(|(owner, book)| (book.held, *owner)).collect();
        owners.sort_unstable();
        let mut granted = Vec::new();
        for (_, owner) in owners {
            granted.extend(std::iter::from_fn(|| self.grant_of(owner)));
        }
        granted
    }

    /// Grants the next wish of one owner, if there is room for it.
    fn grant_of(&mut self, owner: Owner) -> Option<Ticket> {
        let free = self.capacity - self.used;
        let book = self.books.get_mut(&owner)?;
        let needy = book.waiting.iter().position(|wish| !book.is_ahead(wish.account));
        let place = needy.unwrap_or(0);
        let bytes = book.waiting.get(place)?.bytes;
        if !book.has_room_for(bytes, if needy.is_some() { free } else { free / 2 }) {
            return None;
        }
        let wish = book.waiting.remove(place).expect("found there");
        book.held += bytes;
        *book.reading_by_account.entry(wish.account).or_default() += 1;
        self.used += bytes;
        Some(wish.ticket)
    }

    fn forget_blank(&mut self, owner: Owner) {
        if self.books.get(&owner).is_some_and(Book::is_blank) {
            self.books.remove(&owner);
        }
    }
}

impl Book {
    /// Who holds nothing may take all that is free: a manifest may be larger than a share.
    fn has_room_for(&self, bytes: usize, free: usize) -> bool {
        bytes <= free && (self.held == 0 || self.held + bytes <= free)
    }

    /// Whether what this account wishes for is beside what it reads.
    fn is_ahead(&self, account: u64) -> bool {
        self.reading_by_account.contains_key(&account)
    }

    fn is_blank(&self) -> bool {
        self.held == 0 && self.waiting.is_empty() && self.reading_by_account.is_empty()
    }
}

/// The bytes of a ticket were granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct AlreadyGranted;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOG: Owner = Owner::User(65_534);
    const ROOT: Owner = Owner::User(0);

    fn of(owner: Owner, account: u64) -> Holder {
        Holder { owner, account }
    }

    /// The account has read what it took.
    fn done(ledger: &mut Ledger, holder: Holder, bytes: usize) -> Vec<Ticket> {
        let mut granted = ledger.read_to_end(holder);
        granted.extend(ledger.give_back(holder.owner, bytes));
        granted
    }

    #[test]
    fn one_alone_takes_half_and_leaves_some_for_the_next() {
        let mut ledger = Ledger::new(64);
        let taken = (0..64).filter(|account| ledger.take(of(HOG, *account), 1).is_ok()).count();
        assert_eq!(taken, 32);
        assert_eq!(ledger.busiest(), Some(HOG));
        let taken = (0..64).filter(|account| ledger.take(of(ROOT, *account), 1).is_ok()).count();
        assert_eq!(taken, 16, "as many as are left free beside its own");
        assert!(ledger.take(of(Owner::User(7), 0), 16).is_ok(), "who has nothing takes what is there");
    }

    #[test]
    fn who_waits_is_served_in_turn_and_the_one_with_least_first() {
        let mut ledger = Ledger::new(64);
        ledger.take(of(HOG, 0), 32).unwrap();
        let [first, second] = [1, 2].map(|account| ledger.take(of(HOG, account), 1).unwrap_err());
        ledger.take(of(ROOT, 0), 30).unwrap();
        let honest = ledger.take(of(ROOT, 1), 1).unwrap_err();
        assert_eq!(ledger.needed(), 3);
        assert_eq!(done(&mut ledger, of(HOG, 0), 32), [first, second, honest], "it holds nothing then");
        assert_eq!(done(&mut ledger, of(ROOT, 0), 30), []);
        assert_eq!((ledger.used(), ledger.needed(), ledger.busiest()), (3, 0, Some(HOG)));
    }

    #[test]
    fn a_large_wish_that_is_withdrawn_lets_a_small_one_pass() {
        let mut ledger = Ledger::new(64);
        ledger.take(of(HOG, 0), 20).unwrap();
        let large = ledger.take(of(HOG, 1), 40).unwrap_err();
        let small = ledger.take(of(HOG, 2), 1).unwrap_err();
        assert_eq!(ledger.withdraw(HOG, large), Ok(vec![small]));
        assert_eq!(ledger.withdraw(HOG, small), Err(AlreadyGranted));
        done(&mut ledger, of(HOG, 0), 20);
        done(&mut ledger, of(HOG, 2), 1);
        assert_eq!((ledger.used(), ledger.books.len()), (0, 0));
    }

    #[test]
    fn what_is_read_ahead_leaves_room_for_those_that_have_nothing() {
        let mut ledger = Ledger::new(66);
        for account in 0..10 {
            ledger.take(of(HOG, account), 1).unwrap();
        }
        let ahead = (0..20).filter(|round| ledger.take(of(HOG, round % 10), 1).is_ok()).count();
        assert_eq!(ahead, 12, "22 of 66 are a third");
        assert_eq!(ledger.needed(), 0);
        assert!(ledger.take(of(HOG, 10), 10).is_ok());
        let needy = ledger.take(of(HOG, 11), 10).unwrap_err();
        assert_eq!(ledger.needed(), 10);
        assert_eq!(done(&mut ledger, of(HOG, 10), 10), [needy], "it came last");
    }

    #[test]
    fn who_reads_what_another_took_has_something_too() {
        let mut ledger = Ledger::new(66);
        ledger.take(of(HOG, 0), 22).unwrap();
        ledger.read(of(HOG, 1));
        // Only the other one's reading is at an end: the bytes are under way still.
        assert_eq!(ledger.read_to_end(of(HOG, 0)), []);
        let ahead = ledger.take(of(HOG, 1), 1).unwrap_err();
        assert_eq!(ledger.needed(), 0);
        assert!(ledger.take(of(HOG, 0), 1).is_ok(), "it has nothing");
        assert_eq!(ledger.read_to_end(of(HOG, 1)), [ahead]);
    }

    /// An owner, one of its accounts, and how many bytes; or which of what is held, or waited for, ends.
    #[derive(Debug, Clone)]
    enum Step {
        Take(u32, u64, usize),
        GiveBack(usize),
        Withdraw(usize),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0..4_u32, 0..3_u64, 1..40_usize)
                .prop_map(|(owner, account, bytes)| Step::Take(owner, account, bytes)),
            any::<usize>().prop_map(Step::GiveBack),
            any::<usize>().prop_map(Step::Withdraw),
        ]
    }

    proptest! {
        /// In every history: no more is under way than the budget; what is held is what was granted and not given
        /// back; nobody waits while nothing is under way; in the end nothing is left.
        #[test]
        fn the_budget_holds_and_nobody_is_forgotten(steps in proptest::collection::vec(step(), 0..200)) {
            let mut ledger = Ledger::new(64);
            let (mut held, mut waiting) = (Vec::new(), HashMap::new());
            for step in steps.into_iter().chain(std::iter::repeat_n(Step::GiveBack(0), 500)) {
                let granted = match step {
                    Step::Take(user, account, bytes) => {
                        let holder = of(Owner::User(user), account);
                        match ledger.take(holder, bytes) {
                            Ok(()) => held.push((holder, bytes)),
                            Err(ticket) => drop(waiting.insert(ticket, (holder, bytes))),
                        }
                        Vec::new()
                    }
                    Step::GiveBack(which) if !held.is_empty() => {
                        let (holder, bytes) = held.swap_remove(which % held.len());
                        done(&mut ledger, holder, bytes)
                    }
                    Step::Withdraw(which) if !waiting.is_empty() => {
                        let ticket = *waiting.keys().nth(which % waiting.len()).unwrap();
                        let (holder, _) = waiting.remove(&ticket).unwrap();
                        ledger.withdraw(holder.owner, ticket).unwrap()
                    }
                    Step::GiveBack(_) | Step::Withdraw(_) => Vec::new(),
                };
                held.extend(granted.iter().map(|ticket| waiting.remove(ticket).unwrap()));
                prop_assert!(ledger.used() <= 64);
                prop_assert_eq!(ledger.used(), held.iter().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert!(ledger.needed() <= waiting.values().map(|(_, bytes)| bytes).sum::<usize>());
                prop_assert!(ledger.used() > 0 || waiting.is_empty());
            }
            prop_assert!(held.is_empty() && waiting.is_empty() && ledger.books.is_empty());
        }
    }
}
