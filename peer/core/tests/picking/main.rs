//! A peer that picks by itself, and one that serves, under random histories and by example.
//!
//! Invariants:
//! 1. a piece that is held or known to be on its way is asked of nobody;
//! 2. at most one request that this peer chose is under way to each partner, and no more than
//!    the window over all;
//! 3. what is picked is picked from partners that are followed, that told of it, that sent
//!    nothing corrupt, and that are in this zone while there is a scheduler;
//! 4. while a partner that could be asked holds something that is lacking and the window has
//!    room, the peer does not idle;
//! 5. of children, eight at most are served at once; each is answered once;
//! 6. when what is due was done, nothing is due at that same time.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

mod histories;
mod model;

use std::time::Duration;

use flotilla_peer_core::{FetchError, Input, Output, Report, UploadId, UploadRefusal, UploadWish};
use flotilla_proto::PeerId;

use model::*;

#[test]
fn the_rarest_piece_comes_first_and_among_equals_the_one_nearest_to_the_reader() {
    let mut peer = Peer::picking();
    for partner in ["a", "b", "c"] {
        peer.name(partner, false, true);
    }
    peer.input(Input::ReaderMoved { digest: digest(), piece: 5 });
    let first = peer.holds("a", [2, 5, 6]);
    assert_eq!(fetches(&first), [(5, "a")], "one request to each partner");
    peer.holds("b", [6]);
    peer.holds("c", [6, 7]);
    assert_eq!(peer.fetching[&6].0, id("b"));
    assert_eq!(peer.fetching[&7].0, id("c"));
    assert_eq!(fetches(&peer.fetched(5)), [(2, "a")], "behind the reader, but all that is left");
}

#[test]
fn a_seed_is_asked_for_a_piece_of_its_choice_and_declined_what_comes_by_another_way() {
    let mut peer = Peer::picking();
    peer.name("s", true, true);
    peer.name("a", false, true);
    let outputs = peer.holds("s", 0..PIECES);
    assert!(matches!(&outputs[..], [Output::Take { lacking, .. }] if lacking.is_full()), "{outputs:?}");
    peer.holds("a", [3]);
    let begun = |piece| Input::TakeBegun { digest: digest(), parent: id("s"), piece };
    let outputs = peer.input(begun(3));
    assert!(matches!(outputs[0], Output::AbortTake { .. }), "it comes from a already");
    assert!(matches!(&outputs[1], Output::Take { lacking, .. } if !lacking.contains(3)));
    assert_eq!(peer.input(begun(0)), []);
    let taken = Input::Taken { digest: digest(), parent: id("s"), piece: 0, first_byte: Duration::ZERO };
    let outputs = peer.input(taken);
    assert!(outputs.contains(&Output::Release { digest: digest(), piece: 0 }));
    assert!(outputs.iter().any(|output| matches!(output, Output::Take { .. })), "and the next");
}

#[test]
fn what_a_seed_can_only_mean_is_asked_of_nobody_else_and_what_came_otherwise_not_awaited() {
    let mut peer = Peer::picking();
    peer.name("s", true, true);
    peer.name("a", false, true);
    for piece in 2..PIECES {
        peer.fetched(piece);
    }
    let outputs = peer.holds("s", 0..PIECES);
    assert!(matches!(&outputs[..], [Output::Take { lacking, .. }] if *lacking == set([0, 1])));
    assert_eq!(fetches(&peer.holds("a", [0, 1])), [(0, "a")], "the seed may choose either");
    assert_eq!(fetches(&peer.fetched(0)), [], "now it can only choose the other");
    let outputs = peer.fetched(1);
    assert!(outputs.contains(&Output::AbortTake { digest: digest(), parent: id("s") }));
}

#[test]
fn what_a_seed_sends_already_is_kept_and_what_was_only_just_asked_for_given_up() {
    let mut peer = Peer::picking();
    peer.name("s", true, true);
    peer.name("a", false, true);
    peer.holds("s", 0..PIECES);
    peer.wait(Duration::from_millis(50));
    assert_eq!(fetches(&peer.holds("a", [3])), [(3, "a")]);
    peer.wait(Duration::from_millis(1));
    let outputs = peer.input(Input::TakeBegun { digest: digest(), parent: id("s"), piece: 3 });
    assert_eq!(outputs, [Output::AbortFetch { digest: digest(), piece: 3 }]);
}

#[test]
fn a_seed_may_not_choose_what_others_hold_and_is_asked_for_it_by_name() {
    let mut peer = Peer::picking();
    peer.name("a", false, true);
    peer.name("s", true, true);
    let outputs = peer.holds("a", 0..PIECES - 1);
    let (of_a, _) = fetches(&outputs)[0];
    let outputs = peer.holds("s", 0..PIECES);
    assert!(matches!(&outputs[..], [Output::Take { lacking, .. }] if *lacking == set([PIECES - 1])));
    let last = Input::TakeBegun { digest: digest(), parent: id("s"), piece: PIECES - 1 };
    peer.input(last);
    let (parent, first_byte) = (id("s"), Duration::ZERO);
    let outputs = peer.input(Input::Taken { digest: digest(), parent, piece: PIECES - 1, first_byte });
    let by_name = fetches(&outputs);
    assert!(matches!(by_name[..], [(piece, "s")] if piece != of_a), "{outputs:?}");
}

#[test]
fn only_partners_of_the_same_zone_are_picked_from_unless_there_is_no_scheduler() {
    let mut peer = Peer::picking();
    peer.name("near", false, true);
    peer.name("far", false, false);
    assert_eq!(peer.followed.keys().map(PeerId::as_str).collect::<Vec<_>>(), ["near"]);
    peer.input(Input::SchedulerDown);
    peer.wait(Duration::from_secs(2));
    peer.holds("far", [1]);
    assert_eq!(peer.fetching[&1].0, id("far"));
}

#[test]
fn a_download_goes_on_from_its_partners_a_second_after_its_scheduler_is_gone() {
    let mut peer = Peer::new();
    peer.input(Input::SchedulerUp);
    peer.input(wanted());
    peer.name("a", false, true);
    peer.name("b", false, true);
    let parent = id("a");
    peer.input(Input::Assigned { digest: digest(), piece: 0, parent, hash: hash(0), hearsay: false });
    peer.input(Input::SchedulerDown);
    assert_eq!(peer.wait(Duration::from_millis(999)), []);
    peer.wait(Duration::from_millis(1));
    for partner in ["a", "b"] {
        peer.holds(partner, 0..PIECES);
    }
    while let Some(piece) = peer.fetching.keys().next().copied() {
        peer.fetched(piece);
    }
    assert_eq!(peer.on_disk.len(), PIECES as usize);
    let outputs = peer.input(Input::Hashed { digest: digest(), result: Ok(()) });
    assert!(outputs.contains(&Output::Complete { digest: digest() }));
    assert!(peer.followed.is_empty());
}

#[test]
fn a_scheduler_that_comes_back_plans_on_and_nothing_under_way_is_lost_or_doubled() {
    let mut peer = Peer::new();
    peer.input(Input::SchedulerUp);
    peer.input(wanted());
    peer.name("a", false, true);
    peer.input(Input::SchedulerDown);
    peer.wait(Duration::from_secs(1));
    peer.holds("a", [4]);
    assert!(peer.fetching.contains_key(&4));
    let outputs = peer.input(Input::SchedulerUp);
    assert!(outputs.contains(&Output::Unfollow { digest: digest(), partner: id("a") }));
    assert!(peer.fetching.contains_key(&4), "it goes on");
    let assigned = |parent| Input::Assigned {
        digest: digest(),
        piece: 4,
        parent: id(parent),
        hash: hash(4),
        hearsay: false,
    };
    assert_eq!(peer.input(assigned("b")), [], "set aside");
    assert_eq!(fetches(&peer.fail(4, FetchError::Stalled)), [(4, "b")]);
    let outputs = peer.fetched(4);
    assert!(matches!(reports(&outputs)[..], [Report::Announce { .. }]));
}

#[test]
fn a_partner_that_claims_everything_and_serves_nothing_holds_nobody_up_for_long() {
    let mut peer = Peer::picking();
    peer.name("liar", false, true);
    peer.name("honest", false, true);
    peer.holds("liar", 0..PIECES);
    peer.holds("honest", 0..PIECES);
    let mut stalls = 0;
    while peer.on_disk.len() < PIECES as usize {
        let of = |name: &str| {
            peer.fetching.iter().find(|(_, (parent, _))| *parent == id(name)).map(|(piece, _)| *piece)
        };
        let (lied, served) = (of("liar"), of("honest"));
        if let Some(piece) = served {
            peer.fetched(piece);
        }
        peer.wait(Duration::from_millis(10));
        if let Some(piece) = lied.filter(|piece| served.is_none() || piece % 4 == 0) {
            stalls += 1;
            peer.fail(piece, FetchError::Stalled);
        }
    }
    assert!(stalls <= 4, "{stalls}");
}

#[test]
fn whoever_sends_a_corrupt_piece_is_never_asked_for_the_blob_again() {
    let mut peer = Peer::picking();
    peer.name("a", false, true);
    peer.holds("a", 0..PIECES);
    let piece = *peer.fetching.keys().next().unwrap();
    let outputs = peer.fail(piece, FetchError::Corrupt);
    assert!(matches!(reports(&outputs)[..], [Report::FetchFailed { error: FetchError::Corrupt, .. }]));
    peer.wait(Duration::from_secs(600));
    assert!(peer.fetching.is_empty());
    let parent = id("a");
    let outputs =
        peer.input(Input::Assigned { digest: digest(), piece, parent, hash: hash(piece), hearsay: false });
    assert!(fetches(&outputs).is_empty(), "not even where the scheduler says so");
}

/// A history that broke invariant 4.
#[test]
fn a_partner_that_turns_out_to_be_in_this_zone_is_asked_for_what_it_told_before() {
    let mut peer = Peer::picking();
    peer.name("a", false, true);
    peer.name("a", false, false);
    peer.holds("a", [1]);
    assert!(peer.fetching.is_empty(), "what crosses zones is the scheduler's to plan");
    peer.name("a", false, true);
    assert!(peer.fetching.contains_key(&1));
}

#[test]
fn a_busy_partner_is_asked_again_soon_and_the_scheduler_hears_nothing_of_it() {
    let mut peer = Peer::picking();
    peer.name("a", false, true);
    peer.holds("a", [1]);
    assert_eq!(peer.fail(1, FetchError::Busy), []);
    let outputs = peer.wait(Duration::from_millis(20));
    assert_eq!(fetches(&outputs), [(1, "a")]);
}

#[test]
fn a_child_is_answered_by_what_is_held_and_how_many_are_served() {
    let mut peer = Peer::picking();
    peer.fetched(2);
    let mut ask = |upload, wish| {
        peer.input(Input::UploadAsked { upload: UploadId(upload), child: id("c"), digest: digest(), wish })
    };
    let why = UploadRefusal::NotHeld;
    assert_eq!(ask(1, piece(3)), [Output::RefuseUpload { upload: UploadId(1), why }]);
    assert_eq!(ask(2, piece(2)), [Output::Upload { upload: UploadId(2), piece: 2 }]);
    let any = UploadWish::Any { lacking: set(0..PIECES) };
    assert_eq!(ask(3, any), [Output::Upload { upload: UploadId(3), piece: 2 }]);
}
