//! Children that fetch nothing, speak ill of their parents, or ask for more than anybody.

use std::time::Duration;

use flotilla_proto::{Failure, FailureCause, PieceSet};
use flotilla_scheduler_core::{FailureReason, Input, Limits, PeerKey};

use super::driver::{Planner, beside_a_liar, failed};
use super::{SIZE, digest, piece_hash};

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

#[test]
fn a_child_that_fetches_nothing_gives_its_places_to_others() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, liar, child] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(liar, false);
    planner.join(child, false);
    planner.want(liar);
    planner.announce(seed, 0..6);
    assert_eq!(planner.assigned.len(), 6, "all that there is, and all that the seed may owe");
    assert!(planner.want(child).is_empty(), "a seed that reads gives nothing twice");
    let began_at = planner.now;
    planner.wait_for(|planner| planner.assigned.contains(&(child, seed, 0)));
    let took = planner.now - began_at;
    assert!(took < Duration::from_secs(2), "{took:?}");
    // What arrives all the same is as good as ever.
    planner.announce_from(liar, 3);
    planner.announce_from(child, 0);
    assert!(planner.assigned.iter().filter(|(to, ..)| *to == child).count() > 2);
}

#[test]
fn a_child_that_takes_its_wish_back_each_time_awaits_one_piece_at_a_time_until_it_takes_some() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, liar] = [0, 1].map(PeerKey);
    planner.join(seed, true);
    planner.join(liar, false);
    planner.announce(seed, 0..12);
    assert_eq!(planner.want(liar).len(), 6);
    for turn in 0..8 {
        planner.now += Duration::from_millis(100);
        match turn % 2 {
            0 => planner.input(Input::Unwanted { peer: liar, digest: digest(0) }),
            _ => planner.input(Input::Withdrawn { peer: liar, digest: digest(0) }),
        };
        planner.want(liar);
    }
    planner.input(Input::PeerLeft { peer: liar });
    planner.join(liar, false);
    let awaited = planner.want(liar);
    assert_eq!(awaited.len(), 1, "under its name it is known");
    let before = planner.assigned.len();
    planner.announce_from(liar, awaited[0].2);
    assert_eq!(planner.assigned.len() - before, 2, "twice as many with each that it takes");
}

/// One that lies about its parents costs them nothing, and has less of them.
#[test]
fn a_parent_that_others_get_pieces_from_is_not_blamed_on_one_childs_word() {
    for reason in [FailureReason::Corrupt, FailureReason::TimedOut] {
        let mut planner = Planner::new(Limits { window_max: 2, ..Limits::default() }, 1);
        let [seed, parent, liar, child, other] = [0, 1, 2, 3, 4].map(PeerKey);
        planner.join(seed, true);
        for peer in [parent, liar, child, other] {
            planner.join(peer, false);
        }
        planner.announce(parent, 0..12);
        let slandered: Vec<u32> = planner.want(liar).iter().map(|(_, _, piece)| *piece).collect();
        let (_, _, piece) = planner.want(child)[0];
        planner.now += Duration::from_millis(10);
        planner.announce_from(child, piece);
        for piece in slandered {
            planner.input(failed(liar, parent, piece, reason));
        }
        assert_eq!(planner.reads, []);
        let served = planner.want(other);
        assert!(served.len() > 1, "{reason:?}: a parent that is blamed owes one piece: {served:?}");
    }
}

#[test]
fn a_parent_that_one_child_slanders_before_it_has_sent_anything_is_cleared_by_the_next() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [parent, liar, child] = [1, 2, 3].map(PeerKey);
    for peer in [parent, liar, child] {
        planner.join(peer, false);
    }
    planner.announce(parent, 0..12);
    for (_, _, piece) in planner.want(liar) {
        planner.input(failed(liar, parent, piece, FailureReason::Corrupt));
    }
    let first = planner.want(child);
    assert_eq!(first.len(), 1, "one piece at a time");
    planner.now += Duration::from_millis(10);
    let before = planner.assigned.len();
    planner.announce_from(child, first[0].2);
    let from_parent = planner.assigned[before..].iter().filter(|(_, from, _)| *from == parent);
    assert_eq!(from_parent.count(), 2, "and twice as many from then on");
}

#[test]
fn that_a_holder_lacks_a_piece_is_asked_of_it_by_a_seed_before_the_registry_is() {
    let (mut planner, [seed, holder, slanderer, _]) = beside_a_liar();
    for (_, _, piece) in planner.want(slanderer) {
        planner.input(failed(slanderer, holder, piece, FailureReason::NotHeld));
    }
    assert_eq!(planner.reads, []);
    assert!(planner.relays.contains(&(seed, 12)), "{:?}", planner.relays);
    let (_, _, piece) = planner.want(seed)[0];
    planner.input(failed(seed, holder, piece, FailureReason::NotHeld));
    assert_eq!(planner.reads, [(seed, 1)], "that one it lacks");
}

#[test]
fn what_the_only_seed_turns_out_to_lack_is_read_again_at_once() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, child] = [0, 1].map(PeerKey);
    planner.join(seed, true);
    planner.join(child, false);
    planner.announce(seed, 0..12);
    let (_, parent, piece) = planner.want(child)[0];
    planner.input(failed(child, parent, piece, FailureReason::NotHeld));
    assert_eq!(planner.reads, [(seed, 1)]);
}

#[test]
fn who_asks_for_what_no_registry_gives_has_few_reads_at_once_until_one_succeeds() {
    let mut planner = Planner::new(Limits { reads_max: 32, ..Limits::default() }, 1);
    let [seed, greedy] = [0, 1].map(PeerKey);
    planner.join(seed, true);
    planner.join(greedy, false);
    let want =
        |blob| Input::Wanted { peer: greedy, digest: digest(blob), size: SIZE, part: None, reader: true };
    for blob in 0..64 {
        planner.input(want(blob));
    }
    assert_eq!(planner.reads.len(), 32);
    for blob in 0..32 {
        let failure = Failure::new(502, "UNAVAILABLE", String::new(), FailureCause::Source);
        planner.input(Input::SourceFailed { seed, digest: digest(blob), failure });
    }
    planner.now += Duration::from_secs(1);
    planner.scheduler.handle_timeout(planner.now);
    planner.drain();
    assert_eq!(planner.reads.len(), 40);
    let mut pieces = PieceSet::new(12);
    pieces.insert(0);
    let read = (32..64).find(|blob| {
        let hashes = vec![piece_hash(digest(*blob), 0)];
        let pieces = pieces.clone();
        planner.input(Input::Announced { peer: seed, digest: digest(*blob), size: SIZE, pieces, hashes });
        planner.assigned.iter().any(|(child, ..)| *child == greedy)
    });
    assert!(read.is_some());
    planner.now += Duration::from_secs(1);
    planner.scheduler.handle_timeout(planner.now);
    planner.drain();
    assert_eq!(planner.reads.len(), 48);
}
