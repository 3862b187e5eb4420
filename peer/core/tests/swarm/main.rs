//! One peer under random histories, and by example.
//!
//! Invariants:
//! 1. a piece is announced only when it is on disk, and read by clients only then;
//! 2. the last piece, and hearsay, is released by `Complete` alone, and `Complete` comes only after the
//!    SHA-256 was found right;
//! 3. at most one fetch of a piece runs at a time, and none of a piece that is held;
//! 4. nothing is told without a scheduler; one that comes hears of everything held and wanted;
//! 5. nothing is read from the registry that was not ordered, nor twice;
//! 6. what SHA-256 has found right is never purged;
//! 7. a wish for a part ends as soon as the part is on disk, and no sooner.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

mod histories;
mod model;

use std::time::Duration;

use flotilla_peer_core::{FetchError, Input, Output, Report};
use flotilla_proto::{Failure, FailureCause, Layout, PieceSet};

use model::*;

#[test]
fn a_download_goes_out_in_order_and_its_last_piece_only_when_verified() {
    let mut peer = Peer::attached();
    let outputs = peer.input(wanted());
    assert_eq!(outputs[0], Output::Hash { digest: digest() });
    assert_eq!(told(&outputs), [want(layout())]);
    for piece in 0..6 {
        peer.input(assigned(piece, "parent"));
        let outputs = peer.input(fetched(piece));
        let released = outputs.contains(&Output::Release { digest: digest(), piece });
        assert_eq!(released, piece != LAST);
    }
    let outputs = peer.input(hashed(true));
    assert_eq!(outputs, [Output::Complete { digest: digest() }]);
}

#[test]
fn a_part_is_wanted_alone_and_had_as_soon_as_it_is_here() {
    let mut peer = Peer::attached();
    let outputs = peer.input(part_wanted([0, 5]));
    assert_eq!(told(&outputs), [Report::Want { digest: digest(), size: SIZE, pieces: set([0, 5]) }]);
    assert_eq!(outputs.len(), 1, "nothing is hashed from end to end: {outputs:?}");
    for piece in [5, 0] {
        peer.input(assigned(piece, "parent"));
        assert!(!peer.outputs.contains(&Output::Satisfied { digest: digest() }));
        peer.input(fetched(piece));
    }
    assert!(peer.outputs.contains(&Output::Satisfied { digest: digest() }));
    assert!(told(&peer.outputs).ends_with(&[Report::Unwant { digest: digest() }]));
    // Who comes next need not ask anybody.
    assert_eq!(peer.input(part_wanted([5])), [Output::Satisfied { digest: digest() }]);
    assert_eq!(told(&peer.input(part_wanted([4, 5])))[0], {
        Report::Want { digest: digest(), size: SIZE, pieces: set([4, 5]) }
    });
}

#[test]
fn a_wish_grows_with_its_clients_and_is_told_anew_to_a_scheduler_that_comes() {
    let mut peer = Peer::attached();
    peer.input(part_wanted([1]));
    let grown = Report::Want { digest: digest(), size: SIZE, pieces: set([1, 2]) };
    assert_eq!(told(&peer.input(part_wanted([2]))), std::slice::from_ref(&grown));
    assert_eq!(told(&peer.input(part_wanted([1]))), [], "that is known");
    peer.input(Input::SchedulerDown);
    assert_eq!(told(&peer.input(Input::SchedulerUp)), [grown, Report::InventoryTold]);
    let outputs = peer.input(wanted());
    assert_eq!(told(&outputs), [want(layout())]);
    assert!(outputs.contains(&Output::Hash { digest: digest() }), "somebody reads it to its end");
}

#[test]
fn parts_that_make_up_the_whole_are_found_right_together() {
    let mut peer = Peer::attached();
    peer.input(found(0..5, false));
    peer.input(part_wanted([5]));
    peer.input(assigned(5, "parent"));
    assert!(peer.input(fetched(5)).contains(&Output::Hash { digest: digest() }));
    assert_eq!(peer.input(hashed(true)), [Output::Complete { digest: digest() }]);
}

#[test]
fn what_was_cut_for_another_size_is_purged_and_wanted_with_the_right_one() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    peer.input(assigned(0, "parent"));
    peer.input(fetched(0));
    let failure = Failure::new(502, "X", "x".into(), FailureCause::OtherSize(SIZE + 1));
    let outputs = peer.input(Input::TaskFailed { digest: digest(), failure, root: None });
    assert!(outputs.contains(&Output::Purge { digest: digest(), layout: layout(), root: None }));
    assert!(told(&outputs).contains(&Report::Withdraw { digest: digest() }) && failed(&outputs));
    let right = Layout::of(SIZE + 1).unwrap();
    let outputs = peer.input(Input::Wanted {
        digest: digest(),
        layout: right,
        pieces: PieceSet::full(right.piece_count()),
    });
    assert_eq!(told(&outputs), [want(right)]);
}

#[test]
fn a_read_that_is_ordered_with_another_size_makes_way_for_what_was_not_found_right_alone() {
    let other = Layout::of(SIZE + 1).unwrap();
    let pieces = PieceSet::full(other.piece_count());
    let order = || Input::ReadOrdered { digest: digest(), layout: other, pieces: pieces.clone() };
    let mut peer = Peer::attached();
    peer.input(wanted());
    let outputs = peer.input(order());
    assert!(
        outputs.iter().any(|output| matches!(output, Output::ReadSource { layout, .. } if *layout == other))
    );

    let mut peer = Peer::attached();
    let (layout, pieces) =
        (Layout::of(SIZE).unwrap(), PieceSet::full(Layout::of(SIZE).unwrap().piece_count()));
    let hearsay = PieceSet::new(layout.piece_count());
    peer.input(Input::Found { digest: digest(), layout, pieces, hearsay, complete: true });
    let outputs = peer.input(order());
    assert!(!outputs.iter().any(|output| matches!(output, Output::ReadSource { .. } | Output::Purge { .. })));
    let said = told(&outputs).into_iter().find_map(|report| match report {
        Report::SourceFailed { failure, .. } => failure.other_size(),
        _ => None,
    });
    assert_eq!(said, Some(SIZE), "what was found right knows its size");
}

#[test]
fn a_blob_whose_hash_is_wrong_is_purged_and_its_clients_are_told() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    for piece in 0..6 {
        peer.input(assigned(piece, "parent"));
        peer.input(fetched(piece));
    }
    let outputs = peer.input(hashed(false));
    assert!(outputs.contains(&Output::Purge { digest: digest(), layout: layout(), root: Some(root()) }));
    assert!(told(&outputs).contains(&Report::Withdraw { digest: digest() }));
    assert!(failed(&outputs));
}

#[test]
fn wrong_bytes_are_told_of_before_they_are_withdrawn_and_again_to_a_scheduler_that_comes() {
    let mut peer = Peer::attached();
    peer.input(found(0..6, false));
    let told_of = told(&peer.input(hashed(false)));
    assert_eq!(told_of, [Report::WrongBytes { variant: variant() }, Report::Withdraw { digest: digest() }]);
    peer.input(Input::SchedulerDown);
    let told_of = told(&peer.input(Input::SchedulerUp));
    assert_eq!(told_of, [Report::Entombed { variant: variant() }, Report::InventoryTold]);
}

#[test]
fn a_whole_blob_from_an_earlier_life_that_nobody_checked_is_checked() {
    let mut peer = Peer::attached();
    assert!(peer.input(found(0..6, false)).contains(&Output::Hash { digest: digest() }));
    assert_eq!(peer.input(hashed(true)), [Output::Complete { digest: digest() }]);
}

#[test]
fn what_only_peers_vouch_for_is_released_with_the_last_piece() {
    let released = |outputs: &[Output]| outputs.contains(&Output::Release { digest: digest(), piece: 1 });
    for is_right in [true, false] {
        let mut peer = Peer::attached();
        peer.input(wanted());
        assert!(!released(&peer.input(heard(1))));
        for piece in [0, 2, 3, 4, 5] {
            peer.input(fetched(piece));
        }
        let outputs = peer.input(hashed(is_right));
        assert_eq!(outputs.contains(&Output::Complete { digest: digest() }), is_right);
        let causes = outputs.iter().filter_map(|output| match output {
            Output::Fail { failure, .. } => Some(failure.cause),
            _ => None,
        });
        let expected = if is_right { vec![] } else { vec![FailureCause::Contested] };
        assert_eq!(causes.collect::<Vec<_>>(), expected, "what was shown may be right: it goes on");
    }
}

#[test]
fn what_only_peers_vouch_for_is_read_where_that_is_ordered_and_hashed_again() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    peer.input(heard(1));
    peer.input(fetched(2));
    let outputs = peer.input(read_ordered(0..6));
    let read = Output::ReadSource { digest: digest(), layout: layout(), pieces: set([0, 1, 3, 4, 5]) };
    assert!(outputs.contains(&read), "{outputs:?}");
    let outputs = peer.input(source_read(1));
    assert!(outputs.contains(&Output::Release { digest: digest(), piece: 1 }), "{outputs:?}");
    for piece in [0, 3, 4, 5] {
        peer.input(source_read(piece));
    }
    // What was hashed may have been the piece that is there no more.
    assert_eq!(peer.input(hashed(false)), [Output::Hash { digest: digest() }]);
    assert!(peer.input(hashed(true)).contains(&Output::Complete { digest: digest() }));
}

#[test]
fn what_sha256_has_found_right_is_never_purged() {
    let mut peer = Peer::attached();
    peer.input(found(0..6, true));
    let outputs = peer.input(task_failed(true, Some(root())));
    assert_eq!(outputs[0], Output::Entomb { variant: variant() });
    let pieces = PieceSet::full(6);
    let again = Report::Announce { digest: digest(), size: SIZE, pieces, hashes: vec![] };
    assert_eq!(told(&outputs), [Report::Withdraw { digest: digest() }, again]);
}

#[test]
fn a_peer_that_is_told_to_drop_a_blob_says_that_it_holds_none_even_if_it_never_did() {
    let mut peer = Peer::attached();
    assert_eq!(told(&peer.input(task_failed(true, None))), [Report::Withdraw { digest: digest() }]);
    assert_eq!(told(&peer.input(task_failed(false, None))), []);
}

#[test]
fn a_part_from_before_a_purge_goes_and_what_came_after_it_stays() {
    let purge = || Output::Purge { digest: digest(), layout: layout(), root: Some(root()) };
    let entombed = || Input::Entombed { variant: variant() };
    let mut peer = Peer::attached();
    peer.input(found(0..2, false));
    let outputs = peer.input(entombed());
    assert!(outputs.contains(&purge()));
    assert_eq!(told(&outputs), [Report::Withdraw { digest: digest() }]);
    peer.input(found(0..2, false));
    assert_eq!(peer.input(entombed()), [], "it heard of that before");
    // But a purge that is under way goes for everything.
    assert!(peer.input(task_failed(true, Some(root()))).contains(&Output::Purge {
        digest: digest(),
        layout: layout(),
        root: None
    }));

    let mut peer = Peer::attached();
    peer.input(Input::TombstoneFound { variant: variant() });
    peer.input(found(0..2, false));
    assert_eq!(peer.input(entombed()), []);
    assert_eq!(Peer::attached().input(entombed()), [Output::Entomb { variant: variant() }]);
}

#[test]
fn a_seed_that_is_ordered_what_it_holds_whole_checks_it() {
    let mut peer = Peer::attached();
    peer.input(read_ordered(0..6));
    for piece in 0..6 {
        peer.input(source_read(piece));
    }
    assert!(peer.input(read_ordered(0..6)).contains(&Output::Hash { digest: digest() }));
}

#[test]
fn a_scheduler_that_comes_back_hears_of_everything() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    peer.input(assigned(0, "parent"));
    peer.input(Input::SchedulerDown);
    assert_eq!(peer.input(fetched(0)), [Output::Release { digest: digest(), piece: 0 }]);
    let told = told(&peer.input(Input::SchedulerUp));
    let mut pieces = PieceSet::new(6);
    pieces.insert(0);
    assert_eq!(told[0], Report::Announce { digest: digest(), size: SIZE, pieces, hashes: vec![] });
    assert_eq!(told[1], want(layout()));
    assert_eq!(told.last(), Some(&Report::InventoryTold));
}

#[test]
fn a_failed_fetch_is_reported_with_its_parent() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    peer.input(assigned(3, "slow"));
    let error = FetchError::Stalled;
    let outputs = peer.input(Input::FetchFailed { digest: digest(), piece: 3, error });
    let parent = peer_id("slow");
    assert_eq!(told(&outputs), [Report::FetchFailed { digest: digest(), piece: 3, parent, error }]);
}

#[test]
fn a_read_that_came_to_nothing_and_that_nobody_waited_for_leaves_nothing_behind() {
    let mut peer = Peer::attached();
    peer.input(read_ordered(0..6));
    let outputs = peer.input(Input::SourceEnded { digest: digest(), result: Err(failure(false)) });
    assert!(outputs.contains(&Output::Forget { digest: digest() }), "{outputs:?}");
    // Its size may have been a lie.
    let other = Layout::of(SIZE / 2).unwrap();
    let outputs = peer.input(Input::Wanted {
        digest: digest(),
        layout: other,
        pieces: PieceSet::full(other.piece_count()),
    });
    assert_eq!(told(&outputs), [want(other)]);
}

#[test]
fn a_scheduler_that_comes_back_hears_what_is_being_read() {
    let mut peer = Peer::attached();
    peer.input(read_ordered(0..6));
    peer.input(source_read(0));
    peer.input(Input::SchedulerDown);
    let outputs = peer.input(Input::SchedulerUp);
    let rest = PieceSet::from_runs(6, [flotilla_proto::Run { first: 1, count: 5 }]).unwrap();
    assert!(told(&outputs).contains(&Report::Reading { digest: digest(), size: SIZE, pieces: rest }));
}

#[test]
fn a_source_read_stops_when_its_lease_cannot_be_renewed() {
    let mut peer = Peer::attached();
    peer.input(read_ordered(0..6));
    peer.input(Input::SchedulerDown);
    peer.now = peer.swarm.poll_timeout().unwrap();
    peer.swarm.handle_timeout(peer.now);
    // Whoever closes what was read of it must know first that the read is stopped.
    let ended = [Output::StopSource { digest: digest() }, Output::Forget { digest: digest() }];
    assert_eq!(peer.drain(), ended);
}

#[test]
fn an_order_that_comes_again_reads_nothing_twice() {
    let mut peer = Peer::attached();
    peer.input(read_ordered(0..4));
    peer.input(source_read(0));
    let outputs = peer.input(read_ordered(0..6));
    let fresh = PieceSet::from_runs(6, [flotilla_proto::Run { first: 4, count: 2 }]).unwrap();
    assert!(outputs.contains(&Output::ReadSource { digest: digest(), layout: layout(), pieces: fresh }));
}

#[test]
fn without_a_scheduler_a_client_hears_so_in_time() {
    let mut peer = Peer::new();
    peer.input(wanted());
    let begun_at = peer.now;
    while !failed(&peer.outputs) {
        peer.now = peer.swarm.poll_timeout().unwrap();
        peer.swarm.handle_timeout(peer.now);
        peer.drain();
    }
    assert!(peer.now - begun_at < Duration::from_secs(10));
}

#[test]
fn a_blob_that_only_waits_for_its_hash_waits_for_no_scheduler() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    for piece in 0..6 {
        peer.input(assigned(piece, "parent"));
        peer.input(fetched(piece));
    }
    peer.input(Input::SchedulerDown);
    while let Some(due) = peer.swarm.poll_timeout() {
        peer.now = due;
        peer.swarm.handle_timeout(due);
        assert!(!failed(&peer.drain()));
    }
    let outputs = peer.input(hashed(true));
    assert_eq!(outputs, [Output::Complete { digest: digest() }]);
}

#[test]
fn a_full_disk_fails_the_download_and_keeps_what_is_held() {
    let mut peer = Peer::attached();
    peer.input(wanted());
    peer.input(assigned(0, "parent"));
    peer.input(fetched(0));
    let outputs = peer.input(Input::GivenUp { digest: digest(), failure: failure(false) });
    assert!(failed(&outputs) && told(&outputs).contains(&Report::Unwant { digest: digest() }));
    assert!(!outputs.iter().any(|output| matches!(output, Output::Purge { .. })));
    let outputs = peer.input(assigned(0, "parent"));
    assert!(matches!(told(&outputs)[..], [Report::Announce { .. }]), "piece 0 is still held");
}
