//! What the planner does under too much load: hands blobs to the peers, stretches their reports,
//! and takes both back.

#![allow(clippy::disallowed_methods)] // a test may read the clock, once

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Layout, PieceHash, PieceSet};
use flotilla_scheduler_core::{Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

/// 64 pieces of 128 KiB.
const SIZE: u64 = 64 * (128 << 10);

/// A seed that holds the blob, and peers that want it.
struct Swarm {
    scheduler: Scheduler,
    now: Instant,
    picks: BTreeMap<PeerKey, bool>,
    intervals: Vec<Duration>,
    assigned_count: u64,
}

impl Swarm {
    fn new(limits: Limits, peers: u32) -> Self {
        let now = Instant::now();
        let scheduler = Scheduler::new(limits, 1);
        let mut swarm =
            Self { scheduler, now, picks: BTreeMap::new(), intervals: Vec::new(), assigned_count: 0 };
        swarm.load(0);
        for key in 0..=peers {
            let id = format!("p{key}").parse().expect("a DNS label");
            let facts = PeerFacts { id, seed: key == 0, zone: Zone::default() };
            swarm.input(Input::PeerJoined { peer: PeerKey(key), facts });
        }
        let hashes = (0..64_u32).map(|piece| PieceHash::of(&piece.to_le_bytes())).collect();
        swarm.announce(PeerKey(0), PieceSet::full(64), hashes);
        for key in 1..=peers {
            swarm.input(Input::Wanted {
                peer: PeerKey(key),
                digest: digest(),
                size: SIZE,
                part: None,
                reader: true,
            });
        }
        swarm
    }

    fn input(&mut self, input: Input) {
        self.scheduler.handle(self.now, input);
        while let Some(output) = self.scheduler.poll_output() {
            match output {
                Output::Picking { peer, picks, .. } => drop(self.picks.insert(peer, picks)),
                Output::PaceReports { interval, .. } => self.intervals.push(interval),
                Output::Assign { .. } => self.assigned_count += 1,
                _ => {}
            }
        }
    }

    fn announce(&mut self, peer: PeerKey, pieces: PieceSet, hashes: Vec<PieceHash>) {
        self.input(Input::Announced { peer, digest: digest(), size: SIZE, pieces, hashes });
    }

    /// Each peer tells of a piece that it picked.
    fn pick(&mut self, piece: u32) {
        let peers: Vec<PeerKey> = self.picks.keys().copied().collect();
        for peer in peers {
            let mut pieces = PieceSet::new(Layout::of(SIZE).expect("a size that may be").piece_count());
            pieces.insert(piece);
            self.announce(peer, pieces, Vec::new());
        }
    }

    fn load(&mut self, load_percent: u8) {
        self.now += Duration::from_secs(1);
        self.input(Input::LoadMeasured { load_percent });
    }

    fn all_pick(&self) -> bool {
        !self.picks.is_empty() && self.picks.values().all(|picks| *picks)
    }
}

fn digest() -> Digest {
    Digest::of(b"blob")
}

#[test]
fn a_blob_is_taken_back_once_what_its_members_move_would_fit() {
    let mut swarm = Swarm::new(Limits::default(), 20);
    swarm.load(100);
    assert!(swarm.all_pick());
    let planned = swarm.assigned_count;
    for piece in 0..10 {
        swarm.pick(piece);
        swarm.load(20);
        assert!(swarm.all_pick(), "20 pieces a second would be too much beside that: {planned} were all");
    }
    swarm.load(20);
    assert!(swarm.picks.values().all(|picks| !picks), "they pick no more, it may be planned again");
}

#[test]
fn a_blob_that_is_plainly_too_much_is_handed_over_before_it_is_planned() {
    // At 1 Gbit/s a peer takes some 950 pieces of 128 KiB a second.
    let limits = Limits { planned_per_s: 3_000, ..Limits::default() };
    let few = Swarm::new(limits, 8);
    assert!(few.picks.is_empty());
    let many = Swarm::new(limits, 12);
    assert!(many.all_pick());
    assert_eq!(many.picks.len(), 12, "those who came before, too");
}

#[test]
fn a_thread_that_was_busy_with_other_things_plans_new_blobs_as_before() {
    let mut swarm = Swarm::new(Limits::default(), 1);
    swarm.load(100);
    assert!(swarm.all_pick());
    for _ in 0..5 {
        swarm.load(0);
    }
    assert!(!swarm.all_pick(), "taken back");
    let other = Digest::of(b"other");
    swarm.input(Input::Wanted { peer: PeerKey(1), digest: other, size: SIZE, part: None, reader: true });
    assert!(!swarm.all_pick(), "and the next is planned");
}

#[test]
fn where_reports_alone_are_too_much_they_are_gathered_longer_until_they_are_not() {
    let mut swarm = Swarm::new(Limits { reports_per_s: 1_000, ..Limits::default() }, 20);
    let usual = *swarm.intervals.last().expect("20 peers gather for 20 ms");
    swarm.load(100);
    assert!(swarm.all_pick());
    assert_eq!(swarm.intervals.last(), Some(&usual), "nothing but planning was too much yet");
    swarm.load(100);
    assert!(*swarm.intervals.last().expect("told above") >= usual * 2);
    for piece in 0..3 {
        swarm.load(100);
        swarm.pick(piece);
    }
    let longest = *swarm.intervals.last().expect("told above");
    assert!(longest >= usual * 4 && longest <= Limits::default().report_interval_max);
    for _ in 0..5 {
        swarm.pick(5);
        swarm.load(10);
    }
    assert!(*swarm.intervals.last().expect("told above") <= usual * 3 / 2);
}

#[test]
fn a_thread_that_is_asked_for_far_more_than_it_plans_hands_nothing_over() {
    let mut swarm = Swarm::new(Limits::default(), 20);
    let planned = swarm.assigned_count;
    for blob in 0..8 * planned {
        let digest = Digest::of(&blob.to_be_bytes());
        swarm.input(Input::Wanted { peer: PeerKey(1), digest, size: SIZE, part: None, reader: true });
    }
    swarm.load(100);
    assert!(swarm.picks.is_empty(), "the {planned} pieces are not what costs");
    swarm.load(0);
}
