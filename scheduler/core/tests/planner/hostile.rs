//! Peers that lie, and what the planner makes of them.

use std::time::Duration;

use flotilla_proto::{Failure, FailureCause, Layout, PieceSet, Root, Variant};
use flotilla_scheduler_core::{FailureReason, Input, Limits, PeerKey};

use super::driver::Planner;
use super::{SIZE, digest, piece_hash};

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

fn failed(child: PeerKey, parent: PeerKey, piece: u32, reason: FailureReason) -> Input {
    Input::Failed { child, parent, digest: digest(0), piece, reason }
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
fn what_a_holder_does_not_tell_the_hashes_of_is_read_and_counts_again_once_it_does() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, holder, child] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(holder, false);
    planner.join(child, false);
    let bare = || Input::Announced {
        peer: holder,
        digest: digest(0),
        size: SIZE,
        pieces: PieceSet::full(12),
        hashes: vec![],
    };
    planner.input(bare());
    let began_at = planner.now;
    assert!(planner.want(child).is_empty() && planner.reads.is_empty(), "it is asked");
    for _ in 0..4 {
        // Announced anew it is no younger.
        planner.now += Duration::from_millis(200);
        planner.input(bare());
    }
    planner.wait_for(|planner| !planner.reads.is_empty());
    assert!(planner.now - began_at < Duration::from_secs(3), "{:?}", planner.now - began_at);
    let hashes = (0..12).map(|piece| piece_hash(digest(0), piece)).collect();
    let told = Input::HashesTold { peer: holder, digest: digest(0), pieces: PieceSet::full(12), hashes };
    assert!(planner.input(told).iter().any(|(to, from, _)| (*to, *from) == (child, holder)));
}

#[test]
fn who_fills_the_books_makes_room_for_others_and_not_they_for_it() {
    let limits = Limits { pieces_max: 1200, tasks_max: 100, ..Limits::default() };
    let mut planner = Planner::new(limits, 1);
    let [seed, liar, holder, child] = [0, 1, 2, 3].map(PeerKey);
    planner.join(seed, true);
    for peer in [liar, holder, child] {
        planner.join(peer, false);
    }
    let announced = |peer, blob| Input::Announced {
        peer,
        digest: digest(blob),
        size: SIZE,
        pieces: PieceSet::full(12),
        hashes: vec![],
    };
    for blob in 100..=200 {
        let want = Input::Wanted { peer: liar, digest: digest(blob), size: SIZE, part: None, reader: true };
        planner.input(if blob % 2 == 0 { want } else { announced(liar, blob) });
    }
    assert_eq!(planner.scheduler.counts().1, 50);
    assert!(planner.failed.iter().all(|(peer, _)| *peer == liar));
    for blob in 1..20 {
        planner.input(announced(holder, blob));
        let want = Input::Wanted { peer: child, digest: digest(blob), size: SIZE, part: None, reader: true };
        planner.input(want);
        assert!(planner.failed.iter().all(|(peer, _)| *peer == liar), "blob {blob}: {:?}", planner.failed);
    }
    assert!(planner.scheduler.counts().1 <= 50);
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
fn a_holder_that_comes_again_is_asked_for_its_hashes_again() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, holder, child] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(child, false);
    let bare =
        |pieces| Input::Announced { peer: holder, digest: digest(0), size: SIZE, pieces, hashes: vec![] };
    for _ in 0..2 {
        planner.join(holder, false);
        planner.input(bare(PieceSet::full(12)));
        planner.want(child);
        assert_eq!(planner.asked.pop(), Some(holder));
        assert_eq!(planner.reads, []);
        planner.input(Input::Unwanted { peer: child, digest: digest(0) });
        planner.input(Input::PeerLeft { peer: holder });
        planner.now += Duration::from_secs(4);
    }
}

#[test]
fn a_holder_that_adds_pieces_without_hashes_is_asked_for_them() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [holder, child] = [1, 2].map(PeerKey);
    planner.join(holder, false);
    planner.join(child, false);
    planner.announce(holder, 0..1);
    planner.want(child);
    assert_eq!(planner.asked, []);
    let pieces = PieceSet::full(12);
    planner.input(Input::Announced { peer: holder, digest: digest(0), size: SIZE, pieces, hashes: vec![] });
    assert_eq!(planner.asked, [holder]);
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

/// Its bytes match its hashes: only the SHA-256 of the whole tells.
#[test]
fn a_seed_that_was_sent_a_forged_piece_drops_it_before_it_reads_and_the_forger_is_believed_no_more() {
    let (mut planner, [seed, liar, child, other]) = beside_a_liar();
    planner.want(child);
    for piece in 0..12 {
        planner.announce_from(child, piece);
    }
    planner.want_piece(seed, 0);
    planner.announce_from(seed, 0);
    planner.input(Input::Unwanted { peer: seed, digest: digest(0) });
    planner.want(other);
    let root = Root::of((0..12).map(|piece| Some(piece_hash(digest(0), piece))));
    let variant = Variant { digest: digest(0), root };
    planner.input(Input::WrongBytes { peer: child, variant });
    assert!(planner.failed.contains(&(seed, FailureCause::WrongBytes)), "{:?}", planner.failed);
    assert_eq!(planner.reads, [(seed, 12)]);
    let mut pieces = PieceSet::new(12);
    pieces.insert(0);
    let hashes = vec![piece_hash(digest(9), 0)];
    planner.input(Input::Announced { peer: seed, digest: digest(0), size: SIZE, pieces, hashes });
    assert!(planner.failed.contains(&(liar, FailureCause::WrongBytes)), "{:?}", planner.failed);

    // Of the next blob it is not believed anything.
    let announced = Input::Announced {
        peer: liar,
        digest: digest(1),
        size: SIZE,
        pieces: PieceSet::full(12),
        hashes: (0..12).map(|piece| piece_hash(digest(9), piece)).collect(),
    };
    planner.input(announced);
    let want = Input::Wanted { peer: other, digest: digest(1), size: SIZE, part: None, reader: true };
    assert_eq!((planner.input(want), planner.reads.pop()), (vec![], Some((seed, 12))));
}

/// What a seed leaves behind with one size is ordered of it anew, so that it cannot read the other.
#[test]
fn a_seed_that_two_claims_of_a_size_need_serves_the_one_that_has_bytes() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, holder, child, other] = [0, 1, 2, 3].map(PeerKey);
    planner.join(seed, true);
    for peer in [holder, child, other] {
        planner.join(peer, false);
    }
    for (peer, indices) in [(seed, 0..1), (holder, 1..12)] {
        let mut pieces = PieceSet::new(12);
        for piece in indices {
            pieces.insert(piece);
        }
        planner.input(Input::Announced { peer, digest: digest(0), size: SIZE, pieces, hashes: vec![] });
    }
    planner.want(child);
    assert_eq!(planner.reads, []);
    let size = SIZE + (8 << 20);
    planner.input(Input::Wanted { peer: other, digest: digest(0), size, part: None, reader: true });
    assert!(
        !planner.reads.is_empty() && planner.reads.iter().all(|read| *read == (seed, 1)),
        "{:?}",
        planner.reads
    );
}

fn of_size(peer: PeerKey, size: u64, piece: u32, hash: u32) -> Input {
    let mut pieces = PieceSet::new(Layout::of(size).unwrap().piece_count());
    pieces.insert(piece);
    Input::Announced { peer, digest: digest(0), size, pieces, hashes: vec![piece_hash(digest(0), hash)] }
}

/// The hash that the seed overrules leaves the other size to be read, and that takes the seed away.
#[test]
fn a_seed_that_overrules_a_hash_of_one_size_may_be_needed_for_another() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, liar, child] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(liar, false);
    planner.join(child, false);
    planner.input(of_size(liar, SIZE, 0, 7));
    let size = SIZE + (8 << 20);
    planner.input(Input::Wanted { peer: child, digest: digest(0), size, part: None, reader: true });
    assert_eq!(planner.reads, [(seed, 76)]);
    planner.input(of_size(seed, SIZE, 1, 1));
    // The read lease is over, and nobody has looked at that yet.
    planner.now += Duration::from_secs(4);
    planner.input(of_size(seed, SIZE, 0, 0));
    planner.wait_for(|planner| planner.reads.len() > 1);
}

#[test]
fn what_only_a_seed_that_is_gone_has_told_of_a_piece_does_not_bind_the_next() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [first, second, child] = [0, 1, 2].map(PeerKey);
    planner.join(first, true);
    planner.join(child, false);
    planner.want(child);
    planner.input(of_size(first, SIZE, 0, 7));
    planner.input(Input::PeerLeft { peer: first });
    planner.join(second, true);
    planner.wait_for(|planner| planner.reads.last() == Some(&(second, 12)));
    planner.assigned.clear();
    planner.input(of_size(second, SIZE, 0, 0));
    assert_eq!(planner.assigned, [(child, second, 0)]);
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
