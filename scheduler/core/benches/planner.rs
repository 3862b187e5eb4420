//! How fast one core plans, and what a download costs in memory.
//!
//! A swarm that drives itself: each assignment is answered with the announcement of its piece,
//! in the order in which pieces were planned, until the pieces of the bench are delivered. What
//! is timed is the planner's [`Scheduler::handle`] with all that follows from it; the harness
//! keeps no books but the queue.

#![allow(clippy::disallowed_methods)] // a bench may read the clock, and the kernel's books

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use divan::Bencher;
use divan::counter::ItemsCount;
use flotilla_proto::{Digest, Layout, PieceHash, PieceSet};
use flotilla_scheduler_core::{Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

fn main() {
    // Whoever names a bench wants its time only.
    let all = std::env::args().nth(1).is_none_or(|first| first.starts_with("--"));
    for peers in PEERS.into_iter().filter(|_| all) {
        let before = resident_bytes();
        let swarm = Swarm::new(peers, 0);
        let bytes = resident_bytes().saturating_sub(before) / u64::from(peers);
        println!("{peers} peers: {bytes} bytes a peer and task, peer and partners included");
        drop(swarm);
    }
    divan::main();
}

/// Pieces planned a second, when a download of 1024 pieces has just begun: few pieces have left
/// the seed, and most partners have nothing for each other.
#[divan::bench(args = PEERS, sample_count = 3, sample_size = 1)]
fn beginning(bencher: Bencher<'_, '_>, peers: u32) {
    assignments(bencher, || Swarm::new(peers, 0));
}

/// The same, when every peer holds half of the blob.
#[divan::bench(args = PEERS, sample_count = 3, sample_size = 1)]
fn midway(bencher: Bencher<'_, '_>, peers: u32) {
    assignments(bencher, || Swarm::new(peers, 50));
}

/// Pieces announced a second of a blob that was handed over, gathered as so many peers are told
/// to: what is left to do for whoever picks by themselves.
#[divan::bench(args = PEERS, sample_count = 3, sample_size = 1)]
fn handed_over(bencher: Bencher<'_, '_>, peers: u32) {
    bencher
        .counter(ItemsCount::new(DELIVERIES))
        .with_inputs(|| {
            let mut swarm = Swarm::new(peers, 0);
            swarm.input(Input::LoadMeasured { load_percent: 100 });
            swarm
        })
        .bench_values(|mut swarm| swarm.announce_picked(DELIVERIES));
}

fn assignments(bencher: Bencher<'_, '_>, swarm: impl Fn() -> Swarm + Sync) {
    bencher
        .counter(ItemsCount::new(DELIVERIES))
        .with_inputs(swarm)
        .bench_values(|mut swarm| swarm.deliver(DELIVERIES));
}

/// One blob, one seed that holds it, and everyone else who wants it.
struct Swarm {
    scheduler: Scheduler,
    now: Instant,
    planned: VecDeque<(PeerKey, u32)>,
}

impl Swarm {
    /// Each peer holds so many percent of the pieces, others than its neighbours.
    fn new(peers: u32, held_percent: u32) -> Self {
        // Nothing is handed over unasked: what is measured is what a planner can do.
        let limits = Limits { planned_per_s: u32::MAX, ..Limits::default() };
        let scheduler = Scheduler::new(limits, 1);
        let mut swarm = Self { scheduler, now: Instant::now(), planned: VecDeque::new() };
        for key in 0..=peers {
            let id = format!("p{key}").parse().expect("a DNS label");
            let facts = PeerFacts { id, seed: key == 0, zone: Zone::default() };
            swarm.input(Input::PeerJoined { peer: PeerKey(key), facts });
        }
        let count = Layout::of(SIZE).expect("a blob that may be").piece_count();
        let hashes = (0..count).map(|piece| PieceHash::of(&piece.to_le_bytes())).collect();
        let pieces = PieceSet::full(count);
        swarm.input(Input::Announced { peer: PeerKey(0), digest: digest(), size: SIZE, pieces, hashes });
        let mut rng = fastrand::Rng::with_seed(1);
        for key in (1..=peers).filter(|_| held_percent > 0) {
            let mut pieces = PieceSet::new(count);
            for piece in (0..count).filter(|_| rng.u32(..100) < held_percent) {
                pieces.insert(piece);
            }
            let (peer, digest) = (PeerKey(key), digest());
            swarm.input(Input::Announced { peer, digest, size: SIZE, pieces, hashes: Vec::new() });
        }
        for key in 1..=peers {
            swarm.input(Input::Wanted {
                peer: PeerKey(key),
                digest: digest(),
                size: SIZE,
                part: None,
                reader: true,
            });
        }
        swarm.deliver(u64::from(peers) * WARM_UP);
        swarm
    }

    fn deliver(&mut self, count: u64) {
        let layout = Layout::of(SIZE).expect("a blob that may be");
        for _ in 0..count {
            let (peer, piece) = self.planned.pop_front().expect("the download is far from its end");
            self.now += Duration::from_nanos(500);
            let mut pieces = PieceSet::new(layout.piece_count());
            pieces.insert(piece);
            self.input(Input::Announced { peer, digest: digest(), size: SIZE, pieces, hashes: Vec::new() });
        }
    }

    /// Peers that pick announce so many pieces together, [`GATHERED`] at a time.
    fn announce_picked(&mut self, count: u64) {
        let layout = Layout::of(SIZE).expect("a blob that may be");
        let peers = u32::try_from(self.scheduler.counts().0 - 1).expect("fewer than 2^32");
        let mut rng = fastrand::Rng::with_seed(2);
        for turn in (0..count / GATHERED).map(|turn| u32::try_from(turn).expect("few turns")) {
            let peer = PeerKey(1 + turn % peers);
            let mut pieces = PieceSet::new(layout.piece_count());
            for _ in 0..GATHERED {
                pieces.insert(rng.u32(..layout.piece_count()));
            }
            self.now += Duration::from_micros(5);
            self.input(Input::Announced { peer, digest: digest(), size: SIZE, pieces, hashes: Vec::new() });
        }
    }

    fn input(&mut self, input: Input) {
        self.scheduler.handle(self.now, input);
        while let Some(output) = self.scheduler.poll_output() {
            if let Output::Assign { child, piece, .. } = output {
                self.planned.push_back((child, piece));
            }
        }
    }
}

fn digest() -> Digest {
    Digest::of(b"bench")
}

/// What the process has in memory, as the kernel sees it.
fn resident_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or_default();
    pages * 4096
}

const PEERS: [u32; 3] = [1_000, 10_000, 100_000];

/// 1024 pieces.
const SIZE: u64 = 512 << 20;

/// Pieces that each peer has before anything is timed.
const WARM_UP: u64 = 5;

/// Pieces in one announcement: of 1 MiB at 1 Gbit/s in the 100 ms of 10 000 peers.
const GATHERED: u64 = 10;

const DELIVERIES: u64 = 100_000;
