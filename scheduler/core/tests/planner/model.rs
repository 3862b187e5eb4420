//! A region as the planner sees it: what each peer truly holds and awaits, and what it answers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Failure, Layout, PieceHash, PieceSet, Root, Variant};
use flotilla_scheduler_core::{FailureReason, Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};
use proptest::prelude::*;

use super::{SIZE, digest, piece_hash};

const BLOBS: u8 = 3;

#[derive(Debug, Clone)]
pub(crate) enum Step {
    Join,
    Leave(usize),
    Want(usize, u8),
    WantPart(usize, u8, u32),
    Unwant(usize, u8),
    Deliver(usize),
    Fail(usize, FailureReason),
    SeedReads(usize),
    Lie(u8),
    Wait,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
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
        2 => (any::<usize>(), 0..BLOBS, 1_u32..4096).prop_map(|(peer, blob, mask)| Step::WantPart(peer, blob, mask)),
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
pub(crate) struct Transfer {
    child: PeerKey,
    parent: PeerKey,
    digest: Digest,
    piece: u32,
}

pub(crate) struct Swarm {
    pub(crate) scheduler: Scheduler,
    limits: Limits,
    pub(crate) now: Instant,
    next_key: u32,
    pub(crate) held: BTreeMap<PeerKey, BTreeMap<Digest, PieceSet>>,
    /// Which pieces.
    pub(crate) wants: BTreeMap<(PeerKey, Digest), PieceSet>,
    pub(crate) transfers: BTreeSet<Transfer>,
    /// When each was planned last.
    planned_at: BTreeMap<Transfer, Instant>,
    pub(crate) reads: BTreeMap<Digest, (PeerKey, BTreeSet<u32>)>,
    /// How far the seed may read.
    until: BTreeMap<Digest, u32>,
    pub(crate) failures: Vec<(PeerKey, Digest, Failure)>,
    lies: BTreeSet<Digest>,
    /// Parents that failed a child that is no seed, and a seed.
    doubted: (BTreeSet<PeerKey>, BTreeSet<PeerKey>),
    /// What peers answer to what they were told.
    answers: VecDeque<Input>,
}

impl Swarm {
    pub(crate) fn new(seed: u64) -> Self {
        Self::with(Limits::default(), seed)
    }

    pub(crate) fn with(limits: Limits, seed: u64) -> Self {
        let mut swarm = Self {
            scheduler: Scheduler::new(limits, seed),
            limits,
            now: Instant::now(),
            next_key: 0,
            held: BTreeMap::new(),
            wants: BTreeMap::new(),
            transfers: BTreeSet::new(),
            planned_at: BTreeMap::new(),
            reads: BTreeMap::new(),
            until: BTreeMap::new(),
            failures: Vec::new(),
            lies: BTreeSet::new(),
            doubted: Default::default(),
            answers: VecDeque::new(),
        };
        swarm.join(true);
        swarm.join(false);
        swarm
    }

    pub(crate) fn input(&mut self, input: Input) {
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

    pub(crate) fn obey(&mut self, output: Output) {
        match output {
            Output::Assign { child, parent, digest, piece, hash, hearsay: _ } => {
                assert_eq!(hash, piece_hash(digest, piece));
                assert!(self.holds(parent, digest, piece), "invariant 1: the parent holds the piece");
                assert!(
                    self.wants[&(child, digest)].contains(piece),
                    "invariant 6: the child wants the piece"
                );
                assert!(!self.holds(child, digest, piece), "invariant 1: the child lacks the piece");
                let awaited = |t: &&Transfer| t.child == child && t.digest == digest;
                assert!(self.transfers.iter().filter(awaited).all(|t| t.piece != piece), "invariant 1");
                let transfer = Transfer { child, parent, digest, piece };
                self.transfers.insert(transfer);
                self.planned_at.insert(transfer, self.now);
                let is_young = |t: &&Transfer| self.now < self.planned_at[t] + self.limits.unproven;
                let young: Vec<&Transfer> = self.transfers.iter().filter(is_young).collect();
                let owed = young.iter().filter(|t| t.parent == parent).count();
                assert!(owed <= self.limits.queue_max as usize, "invariant 2: {owed} owed");
                let awaited = young.iter().filter(|t| t.child == child && t.digest == digest);
                assert!(awaited.count() <= self.limits.window_max as usize, "invariant 2");
            }
            Output::Cancel { child, digest, piece } => {
                let is_it = |t: &&Transfer| (t.child, t.digest, t.piece) == (child, digest, piece);
                if let Some(t) = self.transfers.iter().find(is_it).copied() {
                    self.doubt(&t);
                    self.transfers.remove(&t);
                }
            }
            Output::ReadSource { seed, digest, pieces, .. } => {
                let (held, lacking): (Vec<u32>, Vec<u32>) =
                    pieces.iter().partition(|piece| self.holds(seed, digest, *piece));
                let may_read =
                    |piece: &u32| self.lies.contains(&digest) || !self.anyone_believed_holds(digest, *piece);
                assert!(lacking.iter().all(may_read), "invariant 3: {lacking:?}");
                let is_wanted = |piece: &u32| {
                    self.wants.iter().any(|((_, of), wanted)| *of == digest && wanted.contains(*piece))
                };
                assert!(self.lies.contains(&digest) || lacking.iter().all(is_wanted), "invariant 6");
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
                    if !self.reads.contains_key(&digest) {
                        self.until.remove(&digest);
                    }
                    let (reader, ordered) = self.reads.entry(digest).or_insert((seed, BTreeSet::new()));
                    assert_eq!(*reader, seed, "invariant 3: one reader");
                    ordered.extend(lacking);
                }
            }
            Output::Relay { seed, digest, size, pieces } => {
                let wish = self.wants.entry((seed, digest)).or_insert_with(|| PieceSet::new(pieces.len()));
                wish.union_with(&pieces);
                let part = Some(wish.clone());
                self.answers.push_back(Input::Wanted { peer: seed, digest, size, part, reader: true });
            }
            Output::FailTask { peer, digest, failure, root: _ } => {
                self.wants.remove(&(peer, digest));
                self.transfers.retain(|t| (t.child, t.digest) != (peer, digest));
                if failure.voids_pieces() {
                    self.drops(peer, digest);
                }
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
            Output::PaceSource { digest, until, .. } => drop(self.until.insert(digest, until)),
            Output::Entomb { .. }
            | Output::Link { .. }
            | Output::Unlink { .. }
            | Output::Picking { .. }
            | Output::PaceReports { .. } => {}
        }
    }

    /// What it holds whole it knows to be right.
    fn drops(&mut self, peer: PeerKey, digest: Digest) {
        self.answers.push_back(Input::Withdrawn { peer, digest });
        let Some(held) = self.held.get_mut(&peer).and_then(|held| held.remove(&digest)) else { return };
        if held.is_full() {
            let (pieces, hashes) = (held.clone(), vec![]);
            self.answers.push_back(Input::Announced { peer, digest, size: SIZE, pieces, hashes });
            self.held.get_mut(&peer).unwrap().insert(digest, held);
        }
    }

    /// As a driver does: what is due comes before what happens.
    fn pass(&mut self) {
        self.wait(Duration::from_millis(1));
    }

    pub(crate) fn step(&mut self, step: &Step) {
        self.pass();
        match *step {
            Step::Join => self.join(false),
            Step::Leave(pick) => self.leave(pick),
            Step::Want(pick, blob) => {
                let (peer, digest) = (self.peer(pick), digest(blob));
                if !self.held[&peer].get(&digest).is_some_and(PieceSet::is_full) {
                    self.wants.insert((peer, digest), PieceSet::full(12));
                    self.input(Input::Wanted { peer, digest, size: SIZE, part: None, reader: true });
                }
            }
            Step::WantPart(pick, blob, mask) => {
                let (peer, digest) = (self.peer(pick), digest(blob));
                let part = set_of((0..12).filter(|piece| mask >> piece & 1 == 1).collect());
                if !self.held[&peer].get(&digest).is_some_and(|held| held.is_superset(&part)) {
                    self.wants.insert((peer, digest), part.clone());
                    self.input(Input::Wanted { peer, digest, size: SIZE, part: Some(part), reader: true });
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
                    self.doubt(&t);
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

    pub(crate) fn join(&mut self, seed: bool) {
        let peer = PeerKey(self.next_key);
        self.next_key += 1;
        self.held.insert(peer, BTreeMap::new());
        let id = format!("p{}", peer.0).parse().unwrap();
        self.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone: Zone(0) } });
    }

    /// The first seed stays: without one, wants fail, which a test of its own shows.
    pub(crate) fn leave(&mut self, pick: usize) {
        let peer = self.peer(pick);
        if peer == PeerKey(0) {
            return;
        }
        self.held.remove(&peer);
        self.wants.retain(|(key, _), _| *key != peer);
        self.transfers.retain(|t| t.child != peer && t.parent != peer);
        self.input(Input::PeerLeft { peer });
    }

    pub(crate) fn deliver(&mut self, pick: usize) {
        self.pass();
        let Some(t) = choose(&self.transfers, pick) else { return };
        self.transfers.remove(&t);
        self.announce(t.child, t.digest, t.piece, Vec::new());
    }

    pub(crate) fn seed_reads(&mut self, pick: usize) {
        self.pass();
        let digests: Vec<Digest> = self.readable().collect();
        let Some(&digest) = digests.get(pick % digests.len().max(1)) else { return };
        let (seed, ordered) = self.reads.get_mut(&digest).unwrap();
        let seed = *seed;
        let piece = ordered.pop_first().unwrap();
        if ordered.is_empty() {
            self.reads.remove(&digest);
        }
        self.announce(seed, digest, piece, vec![piece_hash(digest, piece)]);
    }

    /// What a seed may go on reading.
    fn readable(&self) -> impl Iterator<Item = Digest> {
        let may = |(digest, (_, ordered)): &(&Digest, &(PeerKey, BTreeSet<u32>))| {
            let until = self.until.get(digest).copied().unwrap_or(u32::MAX);
            ordered.first().is_some_and(|piece| *piece < until)
        };
        self.reads.iter().filter(may).map(|(digest, _)| *digest)
    }

    fn announce(&mut self, peer: PeerKey, digest: Digest, piece: u32, hashes: Vec<PieceHash>) {
        let count = Layout::of(SIZE).unwrap().piece_count();
        let held = self.held.get_mut(&peer).unwrap().entry(digest).or_insert_with(|| PieceSet::new(count));
        held.insert(piece);
        let (is_met, is_full) = match self.wants.get(&(peer, digest)) {
            Some(wanted) => (held.is_superset(wanted), held.is_full()),
            None => (false, false),
        };
        if is_full {
            self.wants.remove(&(peer, digest));
        }
        let mut pieces = PieceSet::new(count);
        pieces.insert(piece);
        self.input(Input::Announced { peer, digest, size: SIZE, pieces, hashes });
        if is_met && !is_full {
            self.wants.remove(&(peer, digest));
            self.input(Input::Unwanted { peer, digest });
        }
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        while let Some(at) = self.scheduler.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.scheduler.handle_timeout(self.now);
            self.drain();
        }
        self.now = until;
    }

    /// Delivers everything until nothing moves.
    pub(crate) fn settle(&mut self) {
        for _ in 0..20_000 {
            if !self.transfers.is_empty() {
                self.deliver(0);
            } else if self.readable().next().is_some() {
                self.seed_reads(0);
            } else if self.wants.is_empty() {
                return;
            } else {
                self.wait(Duration::from_secs(4));
            }
        }
        panic!("invariant 5: {:?} never completed", self.wants);
    }

    pub(crate) fn peer(&self, pick: usize) -> PeerKey {
        *self.held.keys().nth(pick % self.held.len()).unwrap()
    }

    pub(crate) fn holds(&self, peer: PeerKey, digest: Digest, piece: u32) -> bool {
        self.held[&peer].get(&digest).is_some_and(|held| held.contains(piece))
    }

    fn anyone_believed_holds(&self, digest: Digest, piece: u32) -> bool {
        let (by_peers, by_seeds) = &self.doubted;
        let believed = |peer: &&PeerKey| !by_peers.contains(peer) || !by_seeds.contains(peer);
        self.held.keys().filter(believed).any(|peer| self.holds(*peer, digest, piece))
    }

    /// A parent did not deliver.
    fn doubt(&mut self, t: &Transfer) {
        let is_seed = t.child == PeerKey(0);
        let doubted = if is_seed { &mut self.doubted.1 } else { &mut self.doubted.0 };
        doubted.insert(t.parent);
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
