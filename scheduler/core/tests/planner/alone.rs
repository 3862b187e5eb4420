//! The planner alone: what it says to a few inputs.

use std::time::Instant;

use flotilla_proto::{Failure, FailureCause, PieceSet};
use flotilla_scheduler_core::{FailureReason, Input, Limits, Output, PeerFacts, PeerKey, Scheduler, Zone};

use super::driver::Planner;
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
