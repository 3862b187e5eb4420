//! Sizes, hashes and numbers that are not true, and what the planner makes of them.

use std::time::Duration;

use flotilla_proto::{FailureCause, Layout, PieceSet, Root, Variant};
use flotilla_scheduler_core::{Input, Limits, PeerKey};

use super::driver::{Planner, beside_a_liar};
use super::{SIZE, digest, piece_hash};

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
        // A second announcement does not restart the clock.
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

/// Its bytes match its hashes: only the SHA-256 of the whole tells.
#[test]
fn a_seed_that_was_sent_a_forged_piece_reads_that_too_and_the_forger_is_believed_no_more() {
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

/// The pieces that a seed leaves behind with one size are ordered from it again, so it cannot read the other size.
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
fn a_holder_that_was_silent_once_is_given_no_time_for_the_next_blob() {
    let mut planner = Planner::new(Limits::default(), 1);
    let [seed, holder, child] = [0, 1, 2].map(PeerKey);
    planner.join(seed, true);
    planner.join(holder, false);
    planner.join(child, false);
    let pieces = || PieceSet::full(12);
    let bare = |blob| Input::Announced {
        peer: holder,
        digest: digest(blob),
        size: SIZE,
        pieces: pieces(),
        hashes: vec![],
    };
    let want =
        |blob| Input::Wanted { peer: child, digest: digest(blob), size: SIZE, part: None, reader: true };
    for (blob, most) in [(0, 3), (1, 0)] {
        planner.input(bare(blob));
        planner.input(want(blob));
        let (began_at, before) = (planner.now, planner.reads.len());
        planner.wait_for(|planner| planner.reads.len() > before);
        assert!(
            planner.now - began_at <= Duration::from_secs(most),
            "blob {blob}: {:?}",
            planner.now - began_at
        );
    }
}
