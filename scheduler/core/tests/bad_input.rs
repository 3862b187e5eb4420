//! The planner under inputs that make no sense, in any order, while time may stand still.
//!
//! Invariants, after every input:
//!
//! 1. nothing panics;
//! 2. nothing grows but with what is attached and wanted: once every peer has left, no peer and
//!    no task is known, and no deadline refers to one for longer than the limits say;
//! 3. work conserving: no parent has a free slot beside a partner that lacks what it may give.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Failure, FailureCause, Layout, PieceHash, PieceSet, Root, Variant};
use flotilla_scheduler_core::{FailureReason, Input, Limits, PeerFacts, PeerKey, Scheduler, Zone};
use proptest::prelude::*;

/// Two sizes for the same digests: peers disagree.
const SIZES: [u64; 2] = [12 * (128 << 10) - 5, 70 * (128 << 10)];

fn peer() -> impl Strategy<Value = PeerKey> {
    prop_oneof![20 => (0_u32..6).prop_map(PeerKey), 1 => Just(PeerKey(u32::MAX))]
}

fn digest() -> impl Strategy<Value = Digest> {
    (0_u8..3).prop_map(|byte| Digest::from_bytes([byte; 32]))
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![20 => Just(SIZES[0]), 4 => Just(SIZES[1]), 1 => Just(0), 1 => Just(u64::MAX)]
}

/// Pieces of a blob of `size` bytes, or of another.
fn pieces() -> impl Strategy<Value = PieceSet> {
    (any::<u64>(), 0..3_usize).prop_map(|(bits, length)| {
        let count = [12, 70, 3][length];
        (0..count).filter(|piece| bits >> (piece % 64) & 1 == 1).fold(
            PieceSet::new(count),
            |mut set, piece| {
                set.insert(piece);
                set
            },
        )
    })
}

fn hashes() -> impl Strategy<Value = Vec<PieceHash>> {
    proptest::collection::vec((0_u8..2).prop_map(|byte| PieceHash::from_bytes([byte; 32])), 0..80)
}

fn reason() -> impl Strategy<Value = FailureReason> {
    prop_oneof![
        Just(FailureReason::TimedOut),
        Just(FailureReason::Unreachable),
        Just(FailureReason::NotHeld),
        Just(FailureReason::Busy),
        Just(FailureReason::Corrupt),
    ]
}

fn joined() -> impl Strategy<Value = Input> {
    (peer(), any::<bool>(), 0_u32..3).prop_map(|(peer, seed, zone)| {
        let id = format!("p{}", peer.0).parse().unwrap();
        Input::PeerJoined { peer, facts: PeerFacts { id, seed, zone: Zone(zone) } }
    })
}

/// Of a list that is told now and then: all hashes alike, of a blob of twelve pieces.
fn variant() -> impl Strategy<Value = Variant> {
    (digest(), 0_u8..3).prop_map(|(digest, byte)| {
        let hash = PieceHash::from_bytes([byte; 32]);
        Variant { digest, root: Root::of(vec![Some(hash); 12]) }
    })
}

/// Everything of a blob, with one hash.
fn whole() -> impl Strategy<Value = Input> {
    (peer(), digest(), 0_u8..2, any::<bool>()).prop_map(|(peer, digest, byte, asked)| {
        let pieces = PieceSet::full(12);
        let hashes = vec![PieceHash::from_bytes([byte; 32]); 12];
        if asked {
            Input::HashesTold { peer, digest, pieces, hashes }
        } else {
            Input::Announced { peer, digest, size: SIZES[0], pieces, hashes }
        }
    })
}

fn input() -> impl Strategy<Value = Input> {
    let cause = prop_oneof![
        Just(FailureCause::Region),
        Just(FailureCause::Source),
        Just(FailureCause::WrongBytes),
        size().prop_map(FailureCause::OtherSize),
    ];
    let failure = cause.prop_map(|cause| Failure::new(502, "X", String::new(), cause));
    prop_oneof![
        4 => joined(),
        1 => peer().prop_map(|peer| Input::PeerLeft { peer }),
        6 => (peer(), digest(), size(), proptest::option::of(pieces()), any::<bool>())
            .prop_map(|(peer, digest, size, part, reader)| Input::Wanted { peer, digest, size, part, reader }),
        1 => (peer(), digest()).prop_map(|(peer, digest)| Input::Unwanted { peer, digest }),
        9 => (peer(), digest(), size(), pieces(), hashes()).prop_map(|(peer, digest, size, pieces, hashes)| {
            Input::Announced { peer, digest, size, pieces, hashes }
        }),
        2 => (peer(), digest(), pieces(), hashes())
            .prop_map(|(peer, digest, pieces, hashes)| Input::HashesTold { peer, digest, pieces, hashes }),
        1 => (peer(), digest()).prop_map(|(peer, digest)| Input::Withdrawn { peer, digest }),
        9 => (peer(), peer(), digest(), 0_u32..80, reason()).prop_map(|(child, parent, digest, piece, reason)| {
            Input::Failed { child, parent, digest, piece, reason }
        }),
        2 => (peer(), digest(), any::<u32>())
            .prop_map(|(peer, digest, piece)| Input::ReaderMoved { peer, digest, piece }),
        1 => peer().prop_map(|peer| Input::InventoryTold { peer }),
        2 => (peer(), digest(), size(), pieces())
            .prop_map(|(seed, digest, size, pieces)| Input::SourceReading { seed, digest, size, pieces }),
        1 => (peer(), digest(), failure)
            .prop_map(|(seed, digest, failure)| Input::SourceFailed { seed, digest, failure }),
        3 => whole(),
        2 => (peer(), variant()).prop_map(|(peer, variant)| Input::WrongBytes { peer, variant }),
        1 => (peer(), variant()).prop_map(|(peer, variant)| Input::Entombed { peer, variant }),
        1 => (peer(), any::<u32>()).prop_map(|(peer, millis)| {
            Input::RoundTripMeasured { peer, round_trip: Duration::from_millis(millis.into()) }
        }),
        2 => (0_u8..=100).prop_map(|load_percent| Input::LoadMeasured { load_percent }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn no_input_breaks_the_planner(
        seed: u64,
        inputs in proptest::collection::vec((input(), 0_u64..400), 1..200),
    ) {
        let mut scheduler = Scheduler::new(Limits::default(), seed);
        let mut now = Instant::now();
        for (input, millis) in inputs {
            // Half of the time stands still.
            now += Duration::from_millis(millis.saturating_sub(200));
            scheduler.handle_timeout(now);
            scheduler.handle(now, input);
            while scheduler.poll_output().is_some() {}
            prop_assert_eq!(scheduler.find_idle(now), None);
        }
        for peer in (0..6).chain([u32::MAX]).map(PeerKey) {
            scheduler.handle(now, Input::PeerLeft { peer });
        }
        prop_assert_eq!(scheduler.counts(), (0, 0));
        let end = now + Limits::default().blame;
        scheduler.handle_timeout(end);
        prop_assert_eq!(scheduler.poll_timeout(), None);
    }
}

#[test]
fn whoever_claims_everything_and_serves_nothing_is_left_aside() {
    let (mut scheduler, now) = (Scheduler::new(Limits::default(), 1), Instant::now());
    let digest = Digest::from_bytes([0; 32]);
    let count = Layout::of(SIZES[0]).unwrap().piece_count();
    for (key, seed) in [(0, true), (1, false), (2, false), (3, false), (4, false)] {
        let id = format!("p{key}").parse().unwrap();
        let facts = PeerFacts { id, seed, zone: Zone(0) };
        scheduler.handle(now, Input::PeerJoined { peer: PeerKey(key), facts });
    }
    let hashes = vec![PieceHash::from_bytes([0; 32]); count as usize];
    for peer in [PeerKey(0), PeerKey(1)] {
        let (pieces, hashes) = (PieceSet::full(count), hashes.clone());
        scheduler.handle(now, Input::Announced { peer, digest, size: SIZES[0], pieces, hashes });
    }
    for peer in [2, 3, 4].map(PeerKey) {
        scheduler.handle(now, Input::Wanted { peer, digest, size: SIZES[0], part: None, reader: true });
    }
    let claimed = |scheduler: &Scheduler| {
        let owner = |child| scheduler.explain(now, PeerKey(child), digest, 0);
        [2, 3, 4]
            .into_iter()
            .filter_map(owner)
            .flat_map(|told| told.candidates)
            .filter(|candidate| candidate.parent == PeerKey(1))
            .all(|candidate| candidate.rank.blamed)
    };
    assert!(!claimed(&scheduler));
    for child in [2, 3, 4].map(PeerKey) {
        for piece in 0..count {
            let (parent, reason) = (PeerKey(1), FailureReason::TimedOut);
            scheduler.handle(now, Input::Failed { child, parent, digest, piece, reason });
        }
    }
    assert!(claimed(&scheduler));
}

/// It was forgotten with what it owed, and its seat given to another.
#[test]
fn whoever_turns_out_to_hold_nothing_of_what_it_owes_is_forgotten_with_it() {
    let (mut scheduler, now) = (Scheduler::new(Limits::default(), 1), Instant::now());
    let digest = Digest::from_bytes([0; 32]);
    let (child, holder) = (PeerKey(0), PeerKey(1));
    for (peer, seed) in [(child, true), (holder, false)] {
        let facts = PeerFacts { id: format!("p{}", peer.0).parse().unwrap(), seed, zone: Zone(0) };
        scheduler.handle(now, Input::PeerJoined { peer, facts });
    }
    scheduler.handle(now, Input::Wanted { peer: child, digest, size: SIZES[0], part: None, reader: true });
    let (pieces, hashes) = (PieceSet::full(12), |byte| vec![PieceHash::from_bytes([byte; 32]); 12]);
    let announced =
        Input::Announced { peer: holder, digest, size: SIZES[0], pieces: pieces.clone(), hashes: hashes(0) };
    scheduler.handle(now, announced);
    scheduler.handle(now, Input::HashesTold { peer: holder, digest, pieces, hashes: hashes(1) });
    scheduler.handle(now, Input::Wanted { peer: holder, digest, size: SIZES[0], part: None, reader: true });
    scheduler.handle(now, Input::Unwanted { peer: holder, digest });
    assert_eq!(scheduler.find_idle(now), None);
    scheduler.handle(now, Input::PeerLeft { peer: child });
    assert_eq!(scheduler.counts(), (1, 0));
}

#[test]
fn a_peer_that_is_no_seed_does_not_read_and_so_purges_nothing() {
    let (mut scheduler, now) = (Scheduler::new(Limits::default(), 1), Instant::now());
    let digest = Digest::from_bytes([0; 32]);
    let (holder, liar) = (PeerKey(0), PeerKey(1));
    for peer in [holder, liar] {
        let facts =
            PeerFacts { id: format!("p{}", peer.0).parse().unwrap(), seed: peer == holder, zone: Zone(0) };
        scheduler.handle(now, Input::PeerJoined { peer, facts });
    }
    let (size, pieces) = (SIZES[0], PieceSet::full(12));
    let hashes = vec![PieceHash::from_bytes([0; 32]); 12];
    scheduler.handle(now, Input::Announced { peer: holder, digest, size, pieces: pieces.clone(), hashes });
    scheduler.handle(now, Input::SourceReading { seed: liar, digest, size, pieces });
    let failure = Failure::wrong_bytes(String::new());
    scheduler.handle(now, Input::SourceFailed { seed: liar, digest, failure });
    assert_eq!(scheduler.poll_output(), None);
}
