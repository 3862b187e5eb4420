//! One peer under random histories, and by example.
//!
//! Invariants:
//! 1. a piece is announced only when it is on disk, and read by clients only then;
//! 2. the last piece is released by `Complete` alone, and `Complete` comes only after the
//!    SHA-256 was found right;
//! 3. at most one fetch of a piece runs at a time, and none of a piece that is held;
//! 4. nothing is told without a scheduler; one that comes hears of everything held and wanted;
//! 5. nothing is read from the registry that was not ordered, nor twice;
//! 6. what SHA-256 has found right is never purged;
//! 7. whoever wants a part is done as soon as it is on disk, and no sooner.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla_peer_core::{FetchError, Input, Limits, Output, Report, Swarm};
use flotilla_proto::{Digest, Failure, FailureCause, Layout, PeerId, PieceHash, PieceSet, Root, Variant};
use proptest::prelude::*;

/// 6 pieces of 128 KiB.
const SIZE: u64 = 6 * (128 << 10) - 7;
const LAST: u32 = 5;

struct Peer {
    swarm: Swarm,
    now: Instant,
    up: bool,
    on_disk: BTreeSet<u32>,
    hashed_right: bool,
    fetching: BTreeSet<u32>,
    reading: BTreeSet<u32>,
    /// What clients want that have not been told of an end.
    wish: BTreeSet<u32>,
    hashing: bool,
    outputs: Vec<Output>,
}

impl Peer {
    fn new() -> Self {
        Self {
            swarm: Swarm::new(Limits::default(), 7),
            now: Instant::now(),
            up: false,
            on_disk: BTreeSet::new(),
            hashed_right: false,
            fetching: BTreeSet::new(),
            reading: BTreeSet::new(),
            wish: BTreeSet::new(),
            hashing: false,
            outputs: Vec::new(),
        }
    }

    fn attached() -> Self {
        let mut peer = Self::new();
        peer.input(Input::SchedulerUp);
        peer
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.note(&input);
        self.swarm.handle(self.now, input);
        self.drain()
    }

    /// What the world looks like after the input, as far as invariants ask.
    fn note(&mut self, input: &Input) {
        match input {
            Input::SchedulerUp => self.up = true,
            Input::SchedulerDown => self.up = false,
            Input::Wanted { pieces, .. } => self.wish.extend(pieces.iter()),
            Input::Fetched { piece, .. } => {
                self.fetching.remove(piece);
                self.on_disk.insert(*piece);
            }
            Input::SourceRead { piece, .. } => {
                self.reading.remove(piece);
                self.on_disk.insert(*piece);
            }
            Input::FetchFailed { piece, .. } => {
                self.fetching.remove(piece);
            }
            Input::Found { pieces, complete, .. } => {
                self.on_disk = pieces.iter().collect();
                self.hashed_right = *complete;
            }
            Input::Damaged { piece, .. } => {
                self.on_disk.remove(piece);
                self.hashed_right = false;
                if self.hashing {
                    self.wish = (0..6).collect();
                }
            }
            Input::Evicted { .. } => {
                self.on_disk.clear();
                self.hashed_right = false;
            }
            Input::Hashed { result, .. } => {
                self.hashing = false;
                self.hashed_right = result.is_ok() && self.on_disk.len() == 6;
            }
            Input::SourceEnded { result, .. } => {
                self.hashed_right |= *result == Ok(true) && self.on_disk.len() == 6;
                self.reading.clear();
            }
            _ => {}
        }
    }

    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.swarm.poll_output() {
            self.check(&output);
            outputs.push(output);
        }
        let is_met = !self.wish.is_empty() && self.wish.is_subset(&self.on_disk);
        assert!(!is_met || self.on_disk.len() == 6, "invariant 7: it waits for what it has");
        self.outputs.extend(outputs.iter().cloned());
        outputs
    }

    fn check(&mut self, output: &Output) {
        match output {
            Output::Fetch { piece, .. } => {
                assert!(self.fetching.insert(*piece), "invariant 3: fetched twice at a time");
                assert!(!self.on_disk.contains(piece), "invariant 3: it is held");
            }
            Output::AbortFetch { piece, .. } => assert!(self.fetching.remove(piece)),
            Output::ReadSource { pieces, .. } => {
                for piece in pieces.iter() {
                    assert!(self.reading.insert(piece), "invariant 5: read twice");
                    assert!(!self.on_disk.contains(&piece), "invariant 5: it is held");
                }
            }
            Output::StopSource { .. } => self.reading.clear(),
            Output::Release { piece, .. } => {
                assert!(self.on_disk.contains(piece), "invariant 1");
                assert!(*piece != LAST || self.hashed_right, "invariant 2");
            }
            Output::Complete { .. } => {
                assert!(self.hashed_right, "invariant 2");
                self.wish.clear();
            }
            Output::Satisfied { .. } => {
                assert!(self.hashed_right || self.wish.is_subset(&self.on_disk), "invariant 7");
                self.wish.clear();
            }
            Output::Purge { .. } => {
                assert!(!self.hashed_right, "invariant 6");
                self.on_disk.clear();
            }
            Output::Flush(batch) => {
                assert!(self.up, "invariant 4");
                for report in batch.reports() {
                    if let Report::Announce { pieces, .. } = report {
                        assert!(pieces.iter().all(|piece| self.on_disk.contains(&piece)), "invariant 1");
                    }
                }
            }
            Output::Hash { .. } => self.hashing = true,
            Output::OfferCredentials { .. } | Output::Entomb { .. } | Output::Forget { .. } => {}
            Output::Fail { .. } => {
                self.wish.clear();
                self.hashing = false;
            }
            Output::Take { .. }
            | Output::AbortTake { .. }
            | Output::Follow { .. }
            | Output::Unfollow { .. }
            | Output::PaceSource { .. } => {}
            Output::Upload { .. } | Output::RefuseUpload { .. } => panic!("nobody asked"),
        }
    }
}

fn digest() -> Digest {
    Digest::from_bytes([7; 32])
}

fn layout() -> Layout {
    Layout::of(SIZE).unwrap()
}

fn peer_id(name: &str) -> PeerId {
    name.parse().unwrap()
}

fn hash(piece: u32) -> PieceHash {
    PieceHash::from_bytes([u8::try_from(piece).unwrap(); 32])
}

fn wanted() -> Input {
    Input::Wanted { digest: digest(), layout: layout(), pieces: PieceSet::full(layout().piece_count()) }
}

fn part_wanted(pieces: impl IntoIterator<Item = u32>) -> Input {
    Input::Wanted { digest: digest(), layout: layout(), pieces: set(pieces) }
}

/// As the scheduler hears that all of the blob is wanted.
fn want(layout: Layout) -> Report {
    let pieces = PieceSet::full(layout.piece_count());
    Report::Want { digest: digest(), size: layout.size(), pieces }
}

fn set(pieces: impl IntoIterator<Item = u32>) -> PieceSet {
    pieces.into_iter().fold(PieceSet::new(6), |mut set, piece| {
        set.insert(piece);
        set
    })
}

fn assigned(piece: u32, parent: &str) -> Input {
    Input::Assigned { digest: digest(), piece, parent: peer_id(parent), hash: hash(piece) }
}

fn fetched(piece: u32) -> Input {
    Input::Fetched { digest: digest(), piece, first_byte: Duration::from_millis(1) }
}

fn read_ordered(pieces: impl IntoIterator<Item = u32>) -> Input {
    Input::ReadOrdered { digest: digest(), layout: layout(), pieces: set(pieces) }
}

fn found(pieces: std::ops::Range<u32>, complete: bool) -> Input {
    let run = flotilla_proto::Run { first: pieces.start, count: pieces.end - pieces.start };
    let pieces = PieceSet::from_runs(6, [run]).unwrap();
    Input::Found { digest: digest(), layout: layout(), pieces, complete }
}

fn hashed(matches: bool) -> Input {
    Input::Hashed { digest: digest(), result: if matches { Ok(()) } else { Err(root()) } }
}

fn task_failed(poisoned: bool, root: Option<Root>) -> Input {
    Input::TaskFailed { digest: digest(), failure: failure(poisoned), root }
}

/// Of what was purged, in every test.
fn root() -> Root {
    Root::of([Some(hash(0))])
}

fn variant() -> Variant {
    Variant { digest: digest(), root: root() }
}

fn failure(poisoned: bool) -> Failure {
    let cause = if poisoned { FailureCause::WrongBytes } else { FailureCause::Source };
    Failure::new(502, "X", "x".into(), cause)
}

/// What the outputs tell the scheduler.
fn told(outputs: &[Output]) -> Vec<Report> {
    let batches = outputs.iter().filter_map(|output| match output {
        Output::Flush(batch) => Some(batch.reports().to_vec()),
        _ => None,
    });
    batches.flatten().collect()
}

fn failed(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Fail { .. }))
}

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
    assert!(outputs.contains(&Output::Purge { digest: digest(), root: None }));
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
    peer.input(Input::Found { digest: digest(), layout, pieces, complete: true });
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
    assert!(outputs.contains(&Output::Purge { digest: digest(), root: Some(root()) }));
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
fn what_sha256_has_found_right_is_never_purged() {
    let mut peer = Peer::attached();
    peer.input(found(0..6, true));
    let outputs = peer.input(task_failed(true, Some(root())));
    assert_eq!(outputs[0], Output::Entomb { variant: variant() });
    let pieces = PieceSet::full(6);
    assert_eq!(told(&outputs), [Report::Announce { digest: digest(), size: SIZE, pieces, hashes: vec![] }]);
}

#[test]
fn a_part_from_before_a_purge_goes_and_what_came_after_it_stays() {
    let purge = || Output::Purge { digest: digest(), root: Some(root()) };
    let entombed = || Input::Entombed { variant: variant() };
    let mut peer = Peer::attached();
    peer.input(found(0..2, false));
    let outputs = peer.input(entombed());
    assert!(outputs.contains(&purge()));
    assert_eq!(told(&outputs), [Report::Withdraw { digest: digest() }]);
    peer.input(found(0..2, false));
    assert_eq!(peer.input(entombed()), [], "it heard of that before");
    // But a purge that is under way goes for everything.
    assert!(
        peer.input(task_failed(true, Some(root()))).contains(&Output::Purge { digest: digest(), root: None })
    );

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
        peer.input(Input::SourceRead { digest: digest(), piece, hash: hash(piece) });
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
    peer.input(Input::SourceRead { digest: digest(), piece: 0, hash: hash(0) });
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
    peer.input(Input::SourceRead { digest: digest(), piece: 0, hash: hash(0) });
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

fn step() -> impl Strategy<Value = Input> {
    let digest = digest();
    let piece = 0_u32..6;
    let errors = prop_oneof![Just(FetchError::Stalled), Just(FetchError::Busy), Just(FetchError::Corrupt)];
    prop_oneof![
        3 => Just(wanted()),
        3 => (0_u32..64).prop_map(|mask| part_wanted((0..6).filter(|piece| mask >> piece & 1 == 1))),
        1 => Just(Input::SchedulerUp),
        1 => Just(Input::SchedulerDown),
        6 => (piece.clone(), "[ab]").prop_map(|(piece, parent)| assigned(piece, &parent)),
        6 => piece.clone().prop_map(fetched),
        2 => (piece.clone(), errors).prop_map(move |(piece, error)| Input::FetchFailed { digest, piece, error }),
        1 => piece.clone().prop_map(move |piece| Input::Cancelled { digest, piece }),
        2 => Just(read_ordered(0..6)),
        4 => piece.clone().prop_map(move |piece| Input::SourceRead { digest, piece, hash: hash(piece) }),
        1 => any::<bool>().prop_map(move |ok| Input::SourceEnded { digest, result: if ok { Ok(true) } else { Err(failure(false)) } }),
        2 => any::<bool>().prop_map(hashed),
        1 => Just(Input::Entombed { variant: variant() }),
        1 => any::<[bool; 2]>().prop_map(move |[poisoned, named]| task_failed(poisoned, named.then(root))),
        1 => piece.prop_map(move |piece| Input::Damaged { digest, piece }),
        1 => Just(Input::Evicted { digest }),
        1 => Just(Input::GivenUp { digest, failure: failure(false) }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    /// A fetch or a read that was not under way cannot end: such inputs are left out.
    #[test]
    fn every_history_keeps_the_invariants(steps in proptest::collection::vec(step(), 1..80)) {
        let mut peer = Peer::new();
        for input in steps {
            let possible = match &input {
                Input::Fetched { piece, .. } | Input::FetchFailed { piece, .. } => peer.fetching.contains(piece),
                Input::SourceRead { piece, .. } => peer.reading.contains(piece),
                Input::SourceEnded { result, .. } => result.is_err() || peer.reading.is_empty(),
                Input::Damaged { piece, .. } => peer.on_disk.contains(piece),
                Input::SchedulerUp => !peer.up,
                Input::SchedulerDown => peer.up,
                _ => true,
            };
            if possible {
                peer.input(input);
            }
        }
    }
}
