//! Regions under noise, and the histories that are worth a name.

use std::collections::BTreeSet;
use std::time::Duration;

use flotilla_proto::{Failure, FailureCause, Layout, PieceSet};
use flotilla_scheduler_core::{Input, Limits, Output, PeerKey};
use proptest::prelude::*;

use super::model::{Step, Swarm, step};
use super::{SIZE, digest, next_told, piece_hash};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn every_history_keeps_the_invariants(seed: u64, steps in proptest::collection::vec(step(), 1..250)) {
        let mut swarm = Swarm::new(seed);
        for step in &steps {
            swarm.step(step);
        }
        swarm.settle();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Where nobody has room for partners, and seeds may not read ahead.
    #[test]
    fn every_history_of_a_crowd_keeps_the_invariants(
        seed: u64,
        steps in proptest::collection::vec(step(), 1..250),
    ) {
        let mut swarm = crowd(seed);
        for step in &steps {
            swarm.step(step);
        }
        swarm.settle();
    }
}

fn crowd(seed: u64) -> Swarm {
    let limits =
        Limits { partners_max: 1, slots_many: 1, queue_ahead_min: 0, lead_percent: 0, ..few_partners() };
    eight(limits, seed)
}

fn few_partners() -> Limits {
    Limits { partners_drawn: 1, partners_min: 1, seed_partners_max: 1, full_mesh_max: 0, ..Limits::default() }
}

fn eight(limits: Limits, seed: u64) -> Swarm {
    let mut swarm = Swarm::with(limits, seed);
    for _ in 0..8 {
        swarm.join(false);
    }
    swarm
}

#[test]
fn a_lazy_reader_in_a_crowd_waits_for_nobody() {
    let mut swarm = eight(few_partners(), 1);
    for peer in 1..8 {
        // One piece is its own, one is everyone's.
        swarm.step(&Step::WantPart(peer, 0, 1 << peer | 1 << 11));
    }
    for turn in 0..200 {
        swarm.seed_reads(0);
        swarm.deliver(turn);
    }
    assert!(swarm.wants.is_empty(), "{:?}", swarm.wants);
}

#[test]
fn the_same_seed_gives_the_same_history() {
    let history = |seed| {
        let mut swarm = Swarm::new(seed);
        let mut seen = Vec::new();
        for pick in 0..40 {
            swarm.step(&Step::Join);
            swarm.step(&Step::Want(pick, 0));
            swarm.step(&Step::SeedReads(0));
            swarm.step(&Step::Deliver(pick));
            seen.extend(swarm.transfers.iter().copied());
        }
        seen
    };
    assert_eq!(history(3), history(3));
    assert_ne!(history(3), history(4));
}

#[test]
fn a_blob_is_read_once_for_any_number_of_peers() {
    let mut swarm = Swarm::new(1);
    for _ in 0..50 {
        swarm.join(false);
    }
    let mut orders = 0;
    for peer in (1..=50).map(PeerKey) {
        swarm.wants.insert((peer, digest(0)), PieceSet::full(12));
        swarm.scheduler.handle(
            swarm.now,
            Input::Wanted { peer, digest: digest(0), size: SIZE, part: None, reader: true },
        );
        while let Some(output) = swarm.scheduler.poll_output() {
            orders += usize::from(matches!(output, Output::ReadSource { .. }));
            swarm.obey(output);
        }
    }
    swarm.settle();
    assert_eq!(orders, 1);
}

/// As lazy readers want them.
#[test]
fn what_nobody_wants_of_a_blob_is_read_neither_at_once_nor_after_its_seed_died() {
    let mut swarm = Swarm::new(1);
    swarm.join(true);
    swarm.join(false);
    swarm.step(&Step::WantPart(1, 0, 0b1000_0000_0001));
    assert_eq!(swarm.reads[&digest(0)].1, BTreeSet::from([0, 11]));
    swarm.step(&Step::WantPart(3, 0, 0b1000_0000_0110));
    assert_eq!(swarm.reads[&digest(0)].1, BTreeSet::from([0, 1, 2, 11]), "what another wants besides");
    let (dead, _) = swarm.reads.remove(&digest(0)).unwrap();
    swarm.held.remove(&dead);
    swarm.input(Input::PeerLeft { peer: dead });
    swarm.wait(Duration::from_millis(3100));
    assert_eq!(swarm.reads[&digest(0)].1, BTreeSet::from([0, 1, 2, 11]));
    swarm.settle();
    let whole = swarm.peer(0);
    swarm.wants.insert((whole, digest(0)), PieceSet::full(12));
    swarm.input(Input::Wanted { peer: whole, digest: digest(0), size: SIZE, part: None, reader: true });
    assert_eq!(swarm.reads[&digest(0)].1, (3..11).collect(), "the rest is read once");
    swarm.settle();
}

#[test]
fn a_dead_seed_is_followed_only_after_its_lease_and_for_missing_pieces_only() {
    let mut swarm = Swarm::new(1);
    swarm.join(true);
    swarm.step(&Step::Want(1, 0));
    swarm.seed_reads(0);
    let child = swarm.peer(1);
    swarm.deliver(0);
    assert!(swarm.holds(child, digest(0), 0));

    let (dead, _) = swarm.reads.remove(&digest(0)).unwrap();
    swarm.held.remove(&dead);
    swarm.input(Input::PeerLeft { peer: dead });
    swarm.wait(Duration::from_millis(2900));
    assert!(swarm.reads.is_empty(), "the lease still runs");
    swarm.wait(Duration::from_millis(200));
    let (successor, ordered) = &swarm.reads[&digest(0)];
    assert_ne!(*successor, dead);
    assert_eq!(*ordered, (1..12).collect(), "piece 0 is held by the child");
    swarm.settle();
}

#[test]
fn a_read_goes_on_when_its_only_client_leaves_and_serves_the_one_that_comes_back() {
    let mut swarm = Swarm::new(1);
    swarm.step(&Step::Want(1, 0));
    swarm.seed_reads(0);
    swarm.leave(1);
    assert_eq!(swarm.reads[&digest(0)].1.len(), 11, "the order stands");
    swarm.join(false);
    swarm.step(&Step::Want(1, 0));
    assert_eq!(swarm.reads[&digest(0)].1.len(), 11, "nothing is ordered again");
    swarm.settle();
}

#[test]
fn wrong_bytes_from_the_registry_purge_the_blob_from_everyone_else() {
    let mut swarm = Swarm::new(1);
    swarm.join(false);
    swarm.step(&Step::Want(1, 0));
    swarm.step(&Step::Want(2, 0));
    swarm.seed_reads(0);
    swarm.deliver(0);
    let failure = Failure {
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: "wrong bytes".into(),
        cause: FailureCause::WrongBytes,
    };
    let seed = swarm.reads[&digest(0)].0;
    swarm.input(Input::SourceFailed { seed, digest: digest(0), failure });
    let told: BTreeSet<PeerKey> = swarm.failures.iter().map(|(peer, ..)| *peer).collect();
    assert_eq!(told, [1, 2].map(PeerKey).into(), "both downloads: the seed knows");
    assert_eq!(swarm.scheduler.counts().1, 0, "the task is forgotten");
}

#[test]
fn a_fresh_scheduler_asks_for_hashes_before_it_plans() {
    let mut swarm = Swarm::new(1);
    let count = Layout::of(SIZE).unwrap().piece_count();
    let (holder, child) = (PeerKey(0), PeerKey(1));
    let full = PieceSet::full(count);
    swarm.held.get_mut(&holder).unwrap().insert(digest(0), full.clone());
    swarm.input(Input::Announced {
        peer: holder,
        digest: digest(0),
        size: SIZE,
        pieces: full.clone(),
        hashes: vec![],
    });
    swarm.scheduler.handle(
        swarm.now,
        Input::Wanted { peer: child, digest: digest(0), size: SIZE, part: None, reader: true },
    );
    assert_eq!(next_told(&mut swarm.scheduler), Some(Output::AskHashes { peer: holder, digest: digest(0) }));
    assert_eq!(next_told(&mut swarm.scheduler), None, "nothing is read that the region holds");
    let hashes = (0..count).map(|piece| piece_hash(digest(0), piece)).collect();
    swarm.wants.insert((child, digest(0)), PieceSet::full(12));
    swarm.input(Input::HashesTold { peer: holder, digest: digest(0), pieces: full, hashes });
    assert!(!swarm.transfers.is_empty());
    swarm.settle();
}

#[test]
fn two_manifests_that_disagree_on_a_size_do_not_share_a_task() {
    let mut swarm = Swarm::new(1);
    swarm.join(false);
    swarm.step(&Step::Want(1, 0));
    swarm.input(Input::Wanted {
        peer: PeerKey(2),
        digest: digest(0),
        size: SIZE + 1,
        part: None,
        reader: true,
    });
    let (peer, _, failure) = &swarm.failures[0];
    assert_eq!((*peer, failure.code.as_str()), (PeerKey(2), "SIZE_INVALID"));
}
