//! The planner alone: what it says to a few inputs.

use std::time::{Duration, Instant};

use flotilla_proto::{Failure, FailureCause, Layout, PieceSet};
use flotilla_scheduler_core::{FailureReason, Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

use super::{SIZE, digest, next_told, piece_hash};

#[test]
fn without_a_seed_a_download_fails_in_time_and_says_so() {
    let mut scheduler = Scheduler::new(Limits::default(), 1);
    let now = Instant::now();
    let facts = PeerFacts { id: "p".parse().unwrap(), seed: false, zone: Zone(0) };
    scheduler.handle(now, Input::PeerJoined { peer: PeerKey(0), facts });
    scheduler.handle(
        now,
        Input::Wanted { peer: PeerKey(0), digest: digest(0), size: SIZE, part: None, reader: true },
    );
    assert_eq!(next_told(&mut scheduler), None);
    scheduler.handle_timeout(scheduler.poll_timeout().unwrap());
    let Some(Output::FailTask { failure, .. }) = next_told(&mut scheduler) else { panic!("no failure") };
    assert_eq!((failure.status, failure.is_poisoned()), (503, false));
}

#[test]
fn of_two_claims_the_first_is_tried_and_what_a_seed_has_seen_is_told_to_all() {
    let mut scheduler = Scheduler::new(Limits::default(), 1);
    let (now, digest) = (Instant::now(), digest(0));
    let (seed, first, second) = (PeerKey(0), PeerKey(1), PeerKey(2));
    for (peer, name) in [(seed, "s"), (first, "a"), (second, "b")] {
        let facts = PeerFacts { id: name.parse().unwrap(), seed: peer == seed, zone: Zone(0) };
        scheduler.handle(now, Input::PeerJoined { peer, facts });
    }
    let want = |peer, size| Input::Wanted { peer, digest, size, part: None, reader: true };
    let failures = |scheduler: &mut Scheduler| {
        let told = std::iter::from_fn(|| next_told(scheduler));
        let failed = told.filter_map(|output| match output {
            Output::FailTask { peer, failure, .. } => Some((peer, failure.cause)),
            _ => None,
        });
        failed.collect::<Vec<_>>()
    };
    scheduler.handle(now, want(first, SIZE + 1));
    scheduler.handle(now, want(second, SIZE));
    assert_eq!(failures(&mut scheduler), [(second, FailureCause::Contested)], "nobody has seen it");

    let failure = Failure::new(502, "SIZE_INVALID", String::new(), FailureCause::OtherSize(SIZE));
    scheduler.handle(now, Input::SourceFailed { seed, digest, failure });
    let told = failures(&mut scheduler);
    assert!(told.contains(&(first, FailureCause::OtherSize(SIZE))), "{told:?}");

    scheduler.handle(now, want(second, SIZE));
    let mut pieces = PieceSet::new(12);
    pieces.insert(0);
    let hashes = vec![piece_hash(digest, 0)];
    scheduler.handle(now, Input::Announced { peer: seed, digest, size: SIZE, pieces, hashes });
    failures(&mut scheduler);
    scheduler.handle(now, want(first, SIZE + 1));
    assert_eq!(failures(&mut scheduler), [(first, FailureCause::OtherSize(SIZE))]);
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
    scheduler.handle(
        now,
        Input::Wanted { peer: PeerKey(0), digest: digest(0), size: SIZE, part: None, reader: true },
    );
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
    scheduler.handle(
        now,
        Input::Wanted { peer: PeerKey(0), digest: digest(0), size: SIZE, part: None, reader: true },
    );
    assert_eq!(next_told(&mut scheduler), None);
    scheduler.handle_timeout(scheduler.poll_timeout().unwrap());
    assert!(matches!(next_told(&mut scheduler), Some(Output::ReadSource { seed: PeerKey(1), .. })));
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

/// With blob 0; what an input makes it assign, as (child, parent, piece).
/// What crossed into a zone does not cross again, and its holder need not be among the partners that were drawn.
#[test]
fn who_wants_a_part_is_sent_it_by_the_one_of_its_zone_that_holds_it() {
    let limits = Limits { partners_drawn: 1, full_mesh_max: 0, ..Limits::default() };
    let mut planner = Planner::new(limits, 1);
    let (seed, other, holder, child) = (PeerKey(0), PeerKey(1), PeerKey(2), PeerKey(3));
    planner.join(seed, true);
    for peer in [other, holder, child] {
        planner.join_in(peer, false, Zone(1));
    }
    planner.want_piece(holder, 5);
    assert_eq!(planner.announce(seed, 5..6), [(holder, seed, 5)]);
    planner.announce(holder, 5..6);
    planner.input(Input::Unwanted { peer: holder, digest: digest(0) });
    // It wants all, and is drawn as a partner.
    planner.want(other);
    assert_eq!(planner.want_piece(child, 5), [(child, holder, 5)]);
}

struct Planner {
    scheduler: Scheduler,
    now: Instant,
    /// Who was to read how many pieces from the registry.
    reads: Vec<(PeerKey, u32)>,
    /// Who was to have how many pieces of a holder in question.
    relays: Vec<(PeerKey, u32)>,
    assigned: Vec<(PeerKey, PeerKey, u32)>,
    failed: Vec<(PeerKey, FailureCause)>,
}

impl Planner {
    fn new(limits: Limits, seed: u64) -> Self {
        let scheduler = Scheduler::new(limits, seed);
        Self {
            scheduler,
            now: Instant::now(),
            reads: vec![],
            relays: vec![],
            assigned: vec![],
            failed: vec![],
        }
    }

    fn join(&mut self, peer: PeerKey, seed: bool) {
        self.join_in(peer, seed, Zone(0));
    }

    fn join_in(&mut self, peer: PeerKey, seed: bool, zone: Zone) {
        let id = format!("p{}", peer.0).parse().unwrap();
        self.input(Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone } });
    }

    /// Wants one piece.
    fn want_piece(&mut self, peer: PeerKey, piece: u32) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut part = PieceSet::new(12);
        part.insert(piece);
        self.input(Input::Wanted { peer, digest: digest(0), size: SIZE, part: Some(part), reader: true })
    }

    fn want(&mut self, peer: PeerKey) -> Vec<(PeerKey, PeerKey, u32)> {
        self.input(Input::Wanted { peer, digest: digest(0), size: SIZE, part: None, reader: true })
    }

    fn announce(&mut self, peer: PeerKey, indices: std::ops::Range<u32>) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut pieces = PieceSet::new(Layout::of(SIZE).unwrap().piece_count());
        let hashes = indices.clone().map(|piece| piece_hash(digest(0), piece)).collect();
        for piece in indices {
            pieces.insert(piece);
        }
        self.input(Input::Announced { peer, digest: digest(0), size: SIZE, pieces, hashes })
    }

    /// A peer has a piece that its parent sent it.
    fn announce_from(&mut self, peer: PeerKey, piece: u32) {
        let mut pieces = PieceSet::new(12);
        pieces.insert(piece);
        self.input(Input::Announced { peer, digest: digest(0), size: SIZE, pieces, hashes: vec![] });
    }

    fn input(&mut self, input: Input) -> Vec<(PeerKey, PeerKey, u32)> {
        self.scheduler.handle(self.now, input);
        self.drain()
    }

    /// Lets time pass until something is so.
    fn wait_for(&mut self, is_so: impl Fn(&Self) -> bool) {
        while !is_so(self) {
            self.now = self.scheduler.poll_timeout().expect("something is due");
            self.scheduler.handle_timeout(self.now);
            self.drain();
        }
    }

    /// What it makes it assign.
    fn drain(&mut self) -> Vec<(PeerKey, PeerKey, u32)> {
        let mut assigned = Vec::new();
        while let Some(output) = self.scheduler.poll_output() {
            match output {
                Output::Assign { child, parent, piece, .. } => assigned.push((child, parent, piece)),
                Output::ReadSource { seed, pieces, .. } => self.reads.push((seed, pieces.count())),
                Output::Relay { seed, pieces, .. } => self.relays.push((seed, pieces.count())),
                Output::FailTask { peer, failure, .. } => self.failed.push((peer, failure.cause)),
                _ => {}
            }
        }
        self.assigned.extend(&assigned);
        assigned
    }
}

/// A region with a seed, a holder that gives nothing, and clients.
fn beside_a_liar() -> (Planner, [PeerKey; 4]) {
    let mut planner = Planner::new(Limits::default(), 1);
    let all @ [seed, liar, one, other] = [0, 1, 2, 3].map(PeerKey);
    planner.join(seed, true);
    for peer in [liar, one, other] {
        planner.join(peer, false);
    }
    planner.announce(liar, 0..12);
    (planner, all)
}

#[test]
fn a_holder_that_fails_a_child_and_a_seed_holds_nothing_and_its_pieces_are_read() {
    let (mut planner, [seed, liar, one, other]) = beside_a_liar();
    let planned = planner.want(one);
    assert!(planned.iter().all(|(_, parent, _)| *parent == liar) && !planned.is_empty());
    assert_eq!((&planner.reads[..], &planner.relays[..]), (&[][..], &[(seed, 1)][..]), "a seed asks it, too");
    let (digest, reason) = (digest(0), FailureReason::Unreachable);
    let failed = |child, piece| Input::Failed { child, parent: liar, digest, piece, reason };
    planner.input(failed(one, planned[0].2));
    assert_eq!(planner.relays, [(seed, 1), (seed, 12)], "the seed tries what nobody else has");
    assert_eq!(planner.reads, [], "one child's word costs nothing at the registry");

    let tried = planner.want(seed);
    assert_eq!(tried, [(seed, liar, tried[0].2)], "one at a time, until it shows what it can");
    planner.input(failed(seed, tried[0].2));
    assert_eq!(planner.reads, [(seed, 12)]);
    planner.announce(liar, 0..12);
    assert!(planner.want(other).is_empty(), "its word counts no more");
    assert!(planner.announce(seed, 0..1).iter().all(|(_, parent, _)| *parent == seed));
}

#[test]
fn a_holder_that_gives_neither_its_first_child_nor_a_seed_anything_is_found_out_at_once() {
    let (mut planner, [seed, liar, one, _]) = beside_a_liar();
    let began_at = planner.now;
    assert!(!planner.want(one).is_empty());
    let probed = planner.want_piece(seed, 0);
    assert_eq!(probed.iter().map(|(child, parent, _)| (*child, *parent)).collect::<Vec<_>>(), [(seed, liar)]);
    planner.wait_for(|planner| !planner.reads.is_empty());
    assert_eq!(planner.reads, [(seed, 12)]);
    assert!(planner.now - began_at < Duration::from_secs(2), "{:?}", planner.now - began_at);
}

#[test]
fn a_holder_that_a_child_slanders_is_asked_by_the_seed_and_stays_one() {
    let (mut planner, [seed, holder, slanderer, other]) = beside_a_liar();
    let planned = planner.want(slanderer);
    let (digest, reason) = (digest(0), FailureReason::TimedOut);
    planner.input(Input::Failed { child: slanderer, parent: holder, digest, piece: planned[0].2, reason });
    let tried = planner.want(seed);
    planner.announce_from(seed, tried[0].2);
    let reason = FailureReason::TimedOut;
    for (child, parent, piece) in planner.want(other) {
        planner.input(Input::Failed { child, parent, digest, piece, reason });
    }
    assert_eq!(planner.reads, []);
}

#[test]
fn one_that_sends_its_first_piece_a_byte_at_a_time_is_found_out_in_five_seconds() {
    let (mut planner, [seed, _, one, _]) = beside_a_liar();
    let began_at = planner.now;
    planner.want(one);
    planner.wait_for(|planner| !planner.relays.is_empty());
    planner.want(seed);
    planner.wait_for(|planner| !planner.reads.is_empty());
    let took = planner.now - began_at;
    assert!(took < Duration::from_millis(5500), "{took:?}");
    assert_eq!(planner.reads, [(seed, 12)]);
}

#[test]
fn a_liar_that_comes_again_under_its_name_is_not_believed_and_is_heard_again_after_a_while() {
    let (mut planner, [seed, liar, one, other]) = beside_a_liar();
    let (digest, reason) = (digest(0), FailureReason::Unreachable);
    for child in [one, seed] {
        let planned = planner.want(child);
        planner.input(Input::Failed { child, parent: liar, digest, piece: planned[0].2, reason });
    }
    for peer in [liar, one, seed] {
        planner.input(Input::PeerLeft { peer });
    }
    planner.join(liar, false);
    planner.join(seed, true);
    planner.announce(liar, 0..12);
    planner.reads.clear();
    assert!(planner.want(other).is_empty());
    assert_eq!(planner.reads, [(seed, 12)]);
    planner.wait_for(|planner| planner.assigned.iter().any(|(_, parent, _)| *parent == liar));
}

#[test]
fn a_size_that_only_a_holder_claims_keeps_nobody_out() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, liar, child, accomplice] = [0, 1, 2, 3].map(PeerKey);
    planner.join(seed, true);
    for peer in [liar, child, accomplice] {
        planner.join(peer, false);
    }
    let (digest, size) = (digest(0), SIZE + (1 << 20));
    let pieces = PieceSet::full(Layout::of(size).unwrap().piece_count());
    let hashes = pieces.iter().map(|piece| piece_hash(digest, piece)).collect();
    planner.input(Input::Announced { peer: liar, digest, size, pieces, hashes });
    planner.input(Input::Wanted { peer: accomplice, digest, size, part: None, reader: true });
    assert!(planner.want(child).is_empty());
    assert_eq!((planner.reads.clone(), planner.failed.clone()), (vec![(seed, 12)], vec![]));
    planner.announce(seed, 0..1);
    assert!(planner.assigned.contains(&(child, seed, 0)));
    let told = |peer| planner.failed.contains(&(peer, FailureCause::OtherSize(SIZE)));
    assert!(told(liar) && told(accomplice) && !told(child), "{:?}", planner.failed);
    planner.input(Input::Wanted { peer: accomplice, digest, size, part: None, reader: true });
    assert_eq!(planner.failed.len(), 3, "it is known from here on");
}

#[test]
fn who_wants_ever_more_has_so_many_read_at_once_and_holds_up_nobody_else() {
    let limits = Limits { reads_max: 2, wants_max: 8, ..Limits::default() };
    let mut planner = Planner::new(limits, 1);
    let [seed, greedy, other] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(greedy, false);
    planner.join(other, false);
    let want =
        |peer, blob| Input::Wanted { peer, digest: digest(blob), size: SIZE, part: None, reader: true };
    for blob in 0..8 {
        planner.input(want(greedy, blob));
    }
    for blob in 0..8 {
        // What was ordered for it still is.
        planner.input(Input::Unwanted { peer: greedy, digest: digest(blob) });
        planner.input(want(greedy, blob + 8));
    }
    assert_eq!(planner.reads.len(), 2);
    planner.input(want(greedy, 100));
    assert!(matches!(planner.failed[..], [(PeerKey(1), FailureCause::Region)]), "{:?}", planner.failed);
    planner.input(want(other, 101));
    assert_eq!(planner.reads.len(), 3, "another's read begins at once");
    let failure = Failure::unavailable("no credential".into());
    planner.input(Input::SourceFailed { seed, digest: digest(0), failure });
    planner.wait_for(|planner| planner.reads.len() == 4);
}

#[test]
fn a_read_that_has_to_wait_is_looked_at_twice_a_second_whatever_happens_meanwhile() {
    let limits = Limits { reads_max: 1, ..Limits::default() };
    let mut planner = Planner::new(limits, 1);
    let [seed, greedy] = [0, 1].map(PeerKey);
    planner.join(seed, true);
    planner.join(greedy, false);
    let want =
        |blob, reader| Input::Wanted { peer: greedy, digest: digest(blob), size: SIZE, part: None, reader };
    planner.input(want(0, true));
    for turn in 0..50 {
        planner.now += Duration::from_millis(1);
        planner.input(want(1, turn % 2 == 0));
    }
    assert_eq!(planner.reads.len(), 1);
    let (until, mut looks) = (planner.now + Duration::from_secs(2), 0);
    while let Some(at) = planner.scheduler.poll_timeout().filter(|at| *at <= until) {
        planner.now = at;
        planner.scheduler.handle_timeout(at);
        planner.drain();
        looks += 1;
    }
    assert!((2..=6).contains(&looks), "{looks} looks in two seconds");
}
