//! Holders that give nothing, and what the planner makes of them.

use std::time::Duration;

use flotilla_proto::PieceSet;
use flotilla_scheduler_core::{FailureReason, Input, Limits, PeerKey};

use super::driver::{Planner, beside_a_liar, failed};
use super::{SIZE, digest, piece_hash};

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
fn a_holder_that_withdraws_what_it_owes_and_announces_it_again_delays_a_download_by_seconds_only() {
    let (mut planner, [seed, liar, one, _]) = beside_a_liar();
    let began_at = planner.now;
    planner.want(one);
    while planner.reads.is_empty() {
        planner.now += Duration::from_millis(200);
        planner.scheduler.handle_timeout(planner.now);
        planner.drain();
        planner.want_piece(seed, 0);
        planner.input(Input::Withdrawn { peer: liar, digest: digest(0) });
        planner.announce(liar, 0..12);
        assert!(planner.now - began_at < Duration::from_secs(3), "still waiting for it");
    }
}

#[test]
fn a_seed_awaits_as_much_as_ever_whatever_its_parents_do() {
    let (mut planner, [seed, liar, one, _]) = beside_a_liar();
    for (_, _, piece) in planner.want(one) {
        planner.input(failed(one, liar, piece, FailureReason::TimedOut));
    }
    planner.want(seed);
    planner.wait_for(|planner| !planner.reads.is_empty());
    planner.input(Input::Unwanted { peer: seed, digest: digest(0) });
    let pieces = PieceSet::full(12);
    let hashes = (0..12).map(|piece| piece_hash(digest(1), piece)).collect();
    let announced = Input::Announced { peer: one, digest: digest(1), size: SIZE, pieces, hashes };
    planner.input(announced);
    let want = Input::Wanted { peer: seed, digest: digest(1), size: SIZE, part: None, reader: false };
    assert_eq!(planner.input(want).len(), 6);
}

/// Else it would keep the seed that reads from giving its pieces to anyone, each time for as long as before.
#[test]
fn what_speaks_against_a_holder_outlives_its_withdrawal() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, liar, child] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(liar, false);
    planner.join(child, false);
    planner.want(child);
    planner.announce(seed, 0..1);
    planner.announce_from(child, 0);
    for (_, _, piece) in planner.announce(liar, 0..12) {
        planner.input(failed(child, liar, piece, FailureReason::TimedOut));
    }
    planner.input(Input::Withdrawn { peer: liar, digest: digest(0) });
    planner.announce(liar, 0..12);
    let given = planner.announce(seed, 1..4);
    assert!(given.iter().any(|(_, parent, _)| *parent == seed), "{given:?}");
}
