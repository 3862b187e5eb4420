//! The planner under random histories.
//!
//! A model plays the swarm: it keeps what each peer truly holds and awaits, delivers, fails
//! or forgets what the planner assigned, and lets peers come and go. Invariants, checked at
//! every output and after every input:
//!
//! 1. a child is sent only pieces that it neither holds nor awaits, by a partner that holds them;
//! 2. nobody owes or awaits more than the limits say;
//! 3. one seed at a time reads a blob, and only pieces that nobody holds (DESIGN.md §2.1), but for
//!    one peer that lies about wrong bytes: then once what the seed itself does not hold;
//! 4. work conserving: no parent has a free slot while a partner lacks what it may give (§2.9; a
//!    seed that reads gives nothing twice);
//!    seen from outside: a lone download beside a full holder is never left without a plan;
//! 5. when the noise ends, every download completes.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Layout, PieceHash, PieceSet, Root, Variant};
use flotilla_scheduler_core::{
    FailureReason, Input, Limits, Output, PeerFacts, PeerKey, Scheduler, TaskFailure, Zone,
};
use proptest::prelude::*;

/// 12 pieces of 128 KiB.
const SIZE: u64 = 12 * (128 << 10) - 5;
const BLOBS: u8 = 3;

#[derive(Debug, Clone)]
enum Step {
    Join,
    Leave(usize),
    Want(usize, u8),
    Unwant(usize, u8),
    Deliver(usize),
    Fail(usize, FailureReason),
    SeedReads(usize),
    Lie(u8),
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let reason = prop_oneof![
        Just(FailureReason::TimedOut),
        Just(FailureReason::Unreachable),
        Just(FailureReason::Busy),
        Just(FailureReason::Corrupt),
    ];
    prop_oneof![
        2 => Just(Step::Join),
        1 => any::<usize>().prop_map(Step::Leave),
        4 => (any::<usize>(), 0..BLOBS).prop_map(|(peer, blob)| Step::Want(peer, blob)),
        1 => (any::<usize>(), 0..BLOBS).prop_map(|(peer, blob)| Step::Unwant(peer, blob)),
        12 => any::<usize>().prop_map(Step::Deliver),
        3 => (any::<usize>(), reason).prop_map(|(pick, reason)| Step::Fail(pick, reason)),
        6 => any::<usize>().prop_map(Step::SeedReads),
        1 => (0..BLOBS).prop_map(Step::Lie),
        1 => Just(Step::Wait),
    ]
}

/// A piece on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Transfer {
    child: PeerKey,
    parent: PeerKey,
    digest: Digest,
    piece: u32,
}

struct Swarm {
    scheduler: Scheduler,
    limits: Limits,
    now: Instant,
    next_key: u32,
    held: BTreeMap<PeerKey, BTreeMap<Digest, PieceSet>>,
    wants: BTreeSet<(PeerKey, Digest)>,
    transfers: BTreeSet<Transfer>,
    reads: BTreeMap<Digest, (PeerKey, BTreeSet<u32>)>,
    failures: Vec<(PeerKey, Digest, TaskFailure)>,
    lies: BTreeSet<Digest>,
    /// What peers answer to what they were told.
    answers: VecDeque<Input>,
}

impl Swarm {
    fn new(seed: u64) -> Self {
        let limits = Limits::default();
        let mut swarm = Self {
            scheduler: Scheduler::new(limits, seed),
            limits,
            now: Instant::now(),
            next_key: 0,
            held: BTreeMap::new(),
            wants: BTreeSet::new(),
            transfers: BTreeSet::new(),
            reads: BTreeMap::new(),
            failures: Vec::new(),
            lies: BTreeSet::new(),
            answers: VecDeque::new(),
        };
        swarm.join(true);
        swarm.join(false);
        swarm
    }

    fn input(&mut self, input: Input) {
        self.now += Duration::from_millis(1);
        self.scheduler.handle(self.now, input);
        self.drain();
        while let Some(answer) = self.answers.pop_front() {
            self.scheduler.handle(self.now, answer);
            self.drain();
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.scheduler.poll_output() {
            self.obey(output);
        }
        assert_eq!(self.scheduler.find_idle(self.now), None, "invariant 4");
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Assign { child, parent, digest, piece, hash } => {
                assert_eq!(hash, piece_hash(digest, piece));
                assert!(self.holds(parent, digest, piece), "invariant 1: the parent holds the piece");
                assert!(!self.holds(child, digest, piece), "invariant 1: the child lacks the piece");
                let awaited = |t: &&Transfer| t.child == child && t.digest == digest;
                assert!(self.transfers.iter().filter(awaited).all(|t| t.piece != piece), "invariant 1");
                self.transfers.insert(Transfer { child, parent, digest, piece });
                let owed = self.transfers.iter().filter(|t| t.parent == parent).count();
                assert!(owed <= self.limits.queue_max as usize, "invariant 2: {owed} owed");
                let awaited = self.transfers.iter().filter(|t| t.child == child && t.digest == digest);
                assert!(awaited.count() <= self.limits.window_max as usize, "invariant 2");
            }
            Output::Cancel { child, digest, piece } => {
                self.transfers.retain(|t| (t.child, t.digest, t.piece) != (child, digest, piece));
            }
            Output::ReadSource { seed, digest, pieces, .. } => {
                let (held, lacking): (Vec<u32>, Vec<u32>) =
                    pieces.iter().partition(|piece| self.holds(seed, digest, *piece));
                let may_read =
                    |piece: &u32| self.lies.contains(&digest) || !self.anyone_holds(digest, *piece);
                assert!(lacking.iter().all(may_read), "invariant 3: {lacking:?}");
                if !held.is_empty() {
                    let pieces = set_of(held);
                    self.answers.push_back(Input::Announced {
                        peer: seed,
                        digest,
                        size: SIZE,
                        pieces,
                        hashes: vec![],
                    });
                }
                if !lacking.is_empty() {
                    let (reader, ordered) = self.reads.entry(digest).or_insert((seed, BTreeSet::new()));
                    assert_eq!(*reader, seed, "invariant 3: one reader");
                    ordered.extend(lacking);
                }
            }
            Output::FailTask { peer, digest, failure, root: _ } => {
                self.wants.remove(&(peer, digest));
                self.transfers.retain(|t| (t.child, t.digest) != (peer, digest));
                self.failures.push((peer, digest, failure));
            }
            Output::UseSeed { seed, .. } => assert!(self.held.contains_key(&seed)),
            Output::AskHashes { peer, digest } => {
                let count = Layout::of(SIZE).unwrap().piece_count();
                let held = self.held[&peer].get(&digest);
                let pieces = held.cloned().unwrap_or_else(|| PieceSet::new(count));
                let hashes = pieces.iter().map(|piece| piece_hash(digest, piece)).collect();
                self.answers.push_back(Input::HashesTold { peer, digest, pieces, hashes });
            }
            Output::Entomb { .. }
            | Output::PaceSource { .. }
            | Output::Link { .. }
            | Output::Unlink { .. }
            | Output::Picking { .. }
            | Output::PaceReports { .. } => {}
        }
    }

    fn step(&mut self, step: &Step) {
        match *step {
            Step::Join => self.join(false),
            Step::Leave(pick) => self.leave(pick),
            Step::Want(pick, blob) => {
                let (peer, digest) = (self.peer(pick), digest(blob));
                if !self.held[&peer].get(&digest).is_some_and(PieceSet::is_full) {
                    self.wants.insert((peer, digest));
                    self.input(Input::Wanted { peer, digest, size: SIZE, reader: true });
                }
            }
            Step::Unwant(pick, blob) => {
                let (peer, digest) = (self.peer(pick), digest(blob));
                self.wants.remove(&(peer, digest));
                self.input(Input::Unwanted { peer, digest });
            }
            Step::Deliver(pick) => self.deliver(pick),
            Step::Fail(pick, reason) => {
                if let Some(t) = choose(&self.transfers, pick) {
                    self.transfers.remove(&t);
                    let Transfer { child, parent, digest, piece } = t;
                    self.input(Input::Failed { child, parent, digest, piece, reason });
                }
            }
            Step::SeedReads(pick) => self.seed_reads(pick),
            Step::Lie(blob) => self.lie(digest(blob)),
            Step::Wait => self.wait(Duration::from_secs(4)),
        }
    }

    /// The first peer says that the right list is wrong.
    fn lie(&mut self, digest: Digest) {
        if self.held.contains_key(&PeerKey(1)) {
            self.lies.insert(digest);
            let root = Root::of((0..12).map(|piece| Some(piece_hash(digest, piece))));
            self.input(Input::WrongBytes { peer: PeerKey(1), variant: Variant { digest, root } });
        }
    }

    fn join(&mut self, seed: bool) {
        let peer = PeerKey(self.next_key);
        self.next_key += 1;
        self.held.insert(peer, BTreeMap::new());
        let id = format!("p{}", peer.0).parse().unwrap();
        self.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone: Zone(0) } });
    }

    /// The first seed stays: without one, wants fail, which a test of its own shows.
    fn leave(&mut self, pick: usize) {
        let peer = self.peer(pick);
        if peer == PeerKey(0) {
            return;
        }
        self.held.remove(&peer);
        self.wants.retain(|(key, _)| *key != peer);
        self.transfers.retain(|t| t.child != peer && t.parent != peer);
        self.input(Input::PeerLeft { peer });
    }

    fn deliver(&mut self, pick: usize) {
        let Some(t) = choose(&self.transfers, pick) else { return };
        self.transfers.remove(&t);
        self.announce(t.child, t.digest, t.piece, Vec::new());
    }

    fn seed_reads(&mut self, pick: usize) {
        let digests: Vec<Digest> = self.reads.keys().copied().collect();
        let Some(&digest) = digests.get(pick % digests.len().max(1)) else { return };
        let (seed, ordered) = self.reads.get_mut(&digest).unwrap();
        let seed = *seed;
        let Some(piece) = ordered.pop_first() else { return };
        if ordered.is_empty() {
            self.reads.remove(&digest);
        }
        self.announce(seed, digest, piece, vec![piece_hash(digest, piece)]);
    }

    fn announce(&mut self, peer: PeerKey, digest: Digest, piece: u32, hashes: Vec<PieceHash>) {
        let count = Layout::of(SIZE).unwrap().piece_count();
        let held = self.held.get_mut(&peer).unwrap().entry(digest).or_insert_with(|| PieceSet::new(count));
        held.insert(piece);
        if held.is_full() {
            self.wants.remove(&(peer, digest));
        }
        let mut pieces = PieceSet::new(count);
        pieces.insert(piece);
        self.input(Input::Announced { peer, digest, size: SIZE, pieces, hashes });
    }

    fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.scheduler.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.scheduler.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    /// Delivers everything until nothing moves.
    fn settle(&mut self) {
        for _ in 0..20_000 {
            if !self.transfers.is_empty() {
                self.deliver(0);
            } else if !self.reads.is_empty() {
                self.seed_reads(0);
            } else if self.wants.is_empty() {
                return;
            } else {
                self.wait(Duration::from_secs(4));
            }
        }
        panic!("invariant 5: {:?} never completed", self.wants);
    }

    fn peer(&self, pick: usize) -> PeerKey {
        *self.held.keys().nth(pick % self.held.len()).unwrap()
    }

    fn holds(&self, peer: PeerKey, digest: Digest, piece: u32) -> bool {
        self.held[&peer].get(&digest).is_some_and(|held| held.contains(piece))
    }

    fn anyone_holds(&self, digest: Digest, piece: u32) -> bool {
        self.held.keys().any(|peer| self.holds(*peer, digest, piece))
    }
}

fn set_of(pieces: Vec<u32>) -> PieceSet {
    pieces.into_iter().fold(PieceSet::new(12), |mut set, piece| {
        set.insert(piece);
        set
    })
}

fn choose(transfers: &BTreeSet<Transfer>, pick: usize) -> Option<Transfer> {
    transfers.iter().nth(pick % transfers.len().max(1)).copied()
}

fn digest(blob: u8) -> Digest {
    Digest::from_bytes([blob; 32])
}

fn piece_hash(digest: Digest, piece: u32) -> PieceHash {
    let mut bytes = *digest.as_bytes();
    bytes[0] = u8::try_from(piece).unwrap();
    PieceHash::from_bytes(bytes)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_history_keeps_the_invariants(seed: u64, steps in proptest::collection::vec(step(), 1..250)) {
        let mut swarm = Swarm::new(seed);
        for step in &steps {
            swarm.step(step);
        }
        swarm.settle();
    }
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut swarm = Swarm::new(seed);
        let mut seen = Vec::new();
        for pick in 0..40 {
            swarm.step(&Step::Join);
            swarm.step(&Step::Want(pick, 0));
            swarm.step(&Step::SeedReads(0));
            swarm.step(&Step::Deliver(pick));
            seen.extend(swarm.transfers.iter().copied());
        }
        seen
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(4));
}

#[test]
fn a_blob_is_read_once_for_any_number_of_peers() {
    let mut swarm = Swarm::new(1);
    for _ in 0..50 {
        swarm.join(false);
    }
    let mut orders = 0;
    for peer in (1..=50).map(PeerKey) {
        swarm.wants.insert((peer, digest(0)));
        swarm
            .scheduler
            .handle(swarm.now, Input::Wanted { peer, digest: digest(0), size: SIZE, reader: true });
        while let Some(output) = swarm.scheduler.poll_output() {
            orders += usize::from(matches!(output, Output::ReadSource { .. }));
            swarm.obey(output);
        }
    }
    swarm.settle();
    assert_eq!(orders, 1);
}

#[test]
fn without_a_seed_a_download_fails_in_time_and_says_so() {
    let mut scheduler = Scheduler::new(Limits::default(), 1);
    let now = Instant::now();
    let facts = PeerFacts { id: "p".parse().unwrap(), seed: false, zone: Zone(0) };
    scheduler.handle(now, Input::PeerJoined { peer: PeerKey(0), facts });
    scheduler.handle(now, Input::Wanted { peer: PeerKey(0), digest: digest(0), size: SIZE, reader: true });
    assert_eq!(next_told(&mut scheduler), None);
    scheduler.handle_timeout(scheduler.poll_timeout().unwrap());
    let Some(Output::FailTask { failure, .. }) = next_told(&mut scheduler) else { panic!("no failure") };
    assert_eq!((failure.status, failure.poisoned), (503, false));
}

#[test]
fn a_dead_seed_is_followed_only_after_its_lease_and_for_missing_pieces_only() {
    let mut swarm = Swarm::new(1);
    swarm.join(true);
    swarm.step(&Step::Want(1, 0));
    swarm.seed_reads(0);
    let child = swarm.peer(1);
    swarm.deliver(0);
    assert!(swarm.holds(child, digest(0), 0));

    let (dead, _) = swarm.reads.remove(&digest(0)).unwrap();
    swarm.held.remove(&dead);
    swarm.input(Input::PeerLeft { peer: dead });
    swarm.wait(Duration::from_millis(2900));
    assert!(swarm.reads.is_empty(), "the lease still runs");
    swarm.wait(Duration::from_millis(200));
    let (successor, ordered) = &swarm.reads[&digest(0)];
    assert_ne!(*successor, dead);
    assert_eq!(*ordered, (1..12).collect(), "piece 0 is held by the child");
    swarm.settle();
}

#[test]
fn a_read_goes_on_when_its_only_client_leaves_and_serves_the_one_that_comes_back() {
    let mut swarm = Swarm::new(1);
    swarm.step(&Step::Want(1, 0));
    swarm.seed_reads(0);
    swarm.leave(1);
    assert_eq!(swarm.reads[&digest(0)].1.len(), 11, "the order stands");
    swarm.join(false);
    swarm.step(&Step::Want(1, 0));
    assert_eq!(swarm.reads[&digest(0)].1.len(), 11, "nothing is ordered again");
    swarm.settle();
}

#[test]
fn a_fresh_scheduler_orders_nothing_that_a_seed_to_come_may_hold_or_read() {
    let mut scheduler = Scheduler::new(Limits::default(), 1);
    let now = Instant::now();
    let join = |key: u32, name: &str, seed| Input::PeerJoined {
        peer: PeerKey(key),
        facts: PeerFacts { id: name.parse().unwrap(), seed, zone: Zone(0) },
    };
    let seeds = vec!["s1".parse().unwrap(), "s2".parse().unwrap()];
    scheduler.handle(now, Input::SeedsConfigured { seeds });
    scheduler.handle(now, join(0, "p", false));
    scheduler.handle(now, join(1, "s1", true));
    scheduler.handle(now, Input::InventoryTold { peer: PeerKey(1) });
    scheduler.handle(now, Input::Wanted { peer: PeerKey(0), digest: digest(0), size: SIZE, reader: true });
    assert_eq!(next_told(&mut scheduler), None, "s2 may read it");
    scheduler.handle(now, join(2, "s2", true));
    assert_eq!(next_told(&mut scheduler), None, "s2 has not spoken yet");
    let pieces = PieceSet::full(12);
    scheduler.handle(now, Input::SourceReading { seed: PeerKey(2), digest: digest(0), size: SIZE, pieces });
    scheduler.handle(now, Input::InventoryTold { peer: PeerKey(2) });
    let told = Output::UseSeed { child: PeerKey(0), seed: PeerKey(2), digest: digest(0) };
    assert_eq!(next_told(&mut scheduler), Some(told));
    assert_eq!(next_told(&mut scheduler), None, "s2 reads it");
}

#[test]
fn a_fresh_scheduler_waits_for_absent_seeds_only_so_long() {
    let mut scheduler = Scheduler::new(Limits::default(), 1);
    let now = Instant::now();
    scheduler
        .handle(now, Input::SeedsConfigured { seeds: vec!["gone".parse().unwrap(), "s".parse().unwrap()] });
    for (key, name, seed) in [(0, "p", false), (1, "s", true)] {
        let facts = PeerFacts { id: name.parse().unwrap(), seed, zone: Zone(0) };
        scheduler.handle(now, Input::PeerJoined { peer: PeerKey(key), facts });
    }
    scheduler.handle(now, Input::Wanted { peer: PeerKey(0), digest: digest(0), size: SIZE, reader: true });
    assert_eq!(next_told(&mut scheduler), None);
    scheduler.handle_timeout(scheduler.poll_timeout().unwrap());
    assert!(matches!(next_told(&mut scheduler), Some(Output::ReadSource { seed: PeerKey(1), .. })));
}

#[test]
fn wrong_bytes_from_the_registry_purge_the_blob_from_everyone() {
    let mut swarm = Swarm::new(1);
    swarm.join(false);
    swarm.step(&Step::Want(1, 0));
    swarm.step(&Step::Want(2, 0));
    swarm.seed_reads(0);
    swarm.deliver(0);
    let failure = TaskFailure {
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: "wrong bytes".into(),
        poisoned: true,
    };
    let seed = swarm.reads[&digest(0)].0;
    swarm.input(Input::SourceFailed { seed, digest: digest(0), failure });
    let told: BTreeSet<PeerKey> = swarm.failures.iter().map(|(peer, ..)| *peer).collect();
    assert_eq!(told, [0, 1, 2].map(PeerKey).into(), "seed and both downloads");
    assert_eq!(swarm.scheduler.counts().1, 0, "the task is forgotten");
}

#[test]
fn a_fresh_scheduler_asks_for_hashes_before_it_plans() {
    let mut swarm = Swarm::new(1);
    let count = Layout::of(SIZE).unwrap().piece_count();
    let (holder, child) = (PeerKey(0), PeerKey(1));
    let full = PieceSet::full(count);
    swarm.held.get_mut(&holder).unwrap().insert(digest(0), full.clone());
    swarm.input(Input::Announced {
        peer: holder,
        digest: digest(0),
        size: SIZE,
        pieces: full.clone(),
        hashes: vec![],
    });
    swarm
        .scheduler
        .handle(swarm.now, Input::Wanted { peer: child, digest: digest(0), size: SIZE, reader: true });
    assert_eq!(next_told(&mut swarm.scheduler), Some(Output::AskHashes { peer: holder, digest: digest(0) }));
    assert_eq!(next_told(&mut swarm.scheduler), None, "nothing is read that the region holds");
    let hashes = (0..count).map(|piece| piece_hash(digest(0), piece)).collect();
    swarm.wants.insert((child, digest(0)));
    swarm.input(Input::HashesTold { peer: holder, digest: digest(0), pieces: full, hashes });
    assert!(!swarm.transfers.is_empty());
    swarm.settle();
}

#[test]
fn two_manifests_that_disagree_on_a_size_do_not_share_a_task() {
    let mut swarm = Swarm::new(1);
    swarm.join(false);
    swarm.step(&Step::Want(1, 0));
    swarm.input(Input::Wanted { peer: PeerKey(2), digest: digest(0), size: SIZE + 1, reader: true });
    let (peer, _, failure) = &swarm.failures[0];
    assert_eq!((*peer, failure.code.as_str()), (PeerKey(2), "SIZE_INVALID"));
}

#[test]
fn what_only_a_corrupt_parent_has_leaves_the_seed_anew_as_if_nobody_had_it() {
    let limits = Limits { queue_start: 2, queue_max: 2, window_max: 2, ..Limits::default() };
    let mut planner = Planner::new(limits, 1);
    let (seed, corrupt, child) = (PeerKey(0), PeerKey(1), PeerKey(2));
    planner.join(seed, true);
    planner.join(corrupt, false);
    planner.join(child, false);
    planner.announce(seed, 0..12);
    planner.want(corrupt);
    planner.announce(corrupt, 0..1);
    assert_eq!(planner.want(child), [(child, corrupt, 0)], "the seed's slots are taken");
    let (digest, reason) = (digest(0), FailureReason::Corrupt);
    planner.input(Input::Failed { child, parent: corrupt, digest, piece: 0, reason });
    assert_eq!(planner.announce(corrupt, 1..2), [(child, seed, 0)]);
}

#[test]
fn whoever_loses_its_last_partner_is_served_by_the_next() {
    let limits =
        Limits { partners_drawn: 1, partners_max: 1, partners_min: 1, full_mesh_max: 0, ..Limits::default() };
    for seed in 0..8 {
        let mut planner = Planner::new(limits, seed);
        let (holder, between, child) = (PeerKey(0), PeerKey(1), PeerKey(2));
        planner.join(holder, false);
        planner.join(between, false);
        planner.join(child, false);
        planner.announce(holder, 0..12);
        for (_, parent, piece) in planner.want(between) {
            let (digest, reason) = (digest(0), FailureReason::TimedOut);
            planner.input(Input::Failed { child: between, parent, digest, piece, reason });
        }
        let mut planned = planner.want(child);
        planned.extend(planner.input(Input::PeerLeft { peer: between }));
        assert!(!planned.is_empty(), "seed {seed}: the child waits for ever beside the holder");
    }
}

/// The next output that is not about partners or pace.
fn next_told(scheduler: &mut Scheduler) -> Option<Output> {
    std::iter::from_fn(|| scheduler.poll_output()).find(|output| {
        !matches!(output, Output::Link { .. } | Output::Unlink { .. } | Output::PaceSource { .. })
    })
}

/// The planner alone, with blob 0; what an input makes it assign, as (child, parent, piece).
struct Planner {
    scheduler: Scheduler,
    now: Instant,
}

impl Planner {
    fn new(limits: Limits, seed: u64) -> Self {
        Self { scheduler: Scheduler::new(limits, seed), now: Instant::now() }
    }

    fn join(&mut self, peer: PeerKey, seed: bool) {
        let id = format!("p{}", peer.0).parse().unwrap();
        self.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone: Zone(0) } });
    }

    fn want(&mut self, peer: PeerKey) -> Vec<(PeerKey, PeerKey, u32)> {
        self.input(Input::Wanted { peer, digest: digest(0), size: SIZE, reader: true })
    }

    fn announce(&mut self, peer: PeerKey, indices: std::ops::Range<u32>) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut pieces = PieceSet::new(Layout::of(SIZE).unwrap().piece_count());
        let hashes = indices.clone().map(|piece| piece_hash(digest(0), piece)).collect();
        for piece in indices {
            pieces.insert(piece);
        }
        self.input(Input::Announced { peer, digest: digest(0), size: SIZE, pieces, hashes })
    }

    fn input(&mut self, input: Input) -> Vec<(PeerKey, PeerKey, u32)> {
        self.scheduler.handle(self.now, input);
        let outputs = std::iter::from_fn(|| self.scheduler.poll_output());
        outputs
            .filter_map(|output| match output {
                Output::Assign { child, parent, piece, .. } => Some((child, parent, piece)),
                _ => None,
            })
            .collect()
    }
}
