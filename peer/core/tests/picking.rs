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
//! 5. of children, eight are served at once; each is answered once;
//! 6. when what is due was done, nothing is due at that same time.

#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // a test may read the clock, once, and unwrap

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flotilla_peer_core::{
    FetchError, Input, Limits, Output, Report, Swarm, UploadId, UploadRefusal, UploadWish,
};
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};
use proptest::prelude::*;

/// 20 pieces of 128 KiB.
const PIECES: u32 = 20;

const WINDOW: usize = 12;

/// A peer, and what the world knows of it.
struct Peer {
    swarm: Swarm,
    now: Instant,
    up: bool,
    on_disk: BTreeSet<u32>,
    /// By partner: seed, same zone.
    partners: BTreeMap<PeerId, (bool, bool)>,
    followed: BTreeMap<PeerId, BTreeSet<u32>>,
    /// By piece: parent, picked.
    fetching: BTreeMap<u32, (PeerId, bool)>,
    /// By seed: what was lacking, what it chose.
    taking: BTreeMap<PeerId, (PieceSet, Option<u32>)>,
    barred: BTreeSet<PeerId>,
    rested: BTreeMap<PeerId, Instant>,
    uploads: BTreeSet<UploadId>,
    unanswered: BTreeSet<UploadId>,
    failed: bool,
    picks: bool,
}

impl Peer {
    fn new() -> Self {
        Self {
            swarm: Swarm::new(Limits::default(), 7),
            now: Instant::now(),
            up: false,
            on_disk: BTreeSet::new(),
            partners: BTreeMap::new(),
            followed: BTreeMap::new(),
            fetching: BTreeMap::new(),
            taking: BTreeMap::new(),
            barred: BTreeSet::new(),
            rested: BTreeMap::new(),
            uploads: BTreeSet::new(),
            unanswered: BTreeSet::new(),
            failed: false,
            picks: false,
        }
    }

    /// Attached, wanting, and told to pick.
    fn picking() -> Self {
        let mut peer = Self::new();
        peer.input(Input::SchedulerUp);
        peer.input(wanted());
        peer.input(Input::PickingOrdered { digest: digest(), picks: true });
        peer
    }

    fn name(&mut self, partner: &str, seed: bool, same_zone: bool) {
        let partner = id(partner);
        self.input(Input::PartnerNamed { digest: digest(), partner, seed, same_zone });
    }

    fn holds(&mut self, partner: &str, pieces: impl IntoIterator<Item = u32>) -> Vec<Output> {
        let pieces = set(pieces);
        let hashes = pieces.iter().map(hash).collect();
        self.input(Input::PartnerHolds { digest: digest(), partner: id(partner), pieces, hashes })
    }

    fn fail(&mut self, piece: u32, error: FetchError) -> Vec<Output> {
        self.input(Input::FetchFailed { digest: digest(), piece, error })
    }

    fn fetched(&mut self, piece: u32) -> Vec<Output> {
        self.input(Input::Fetched { digest: digest(), piece, first_byte: Duration::from_millis(1) })
    }

    fn wait(&mut self, time: Duration) -> Vec<Output> {
        let until = self.now + time;
        let mut outputs = Vec::new();
        while let Some(due) = self.swarm.poll_timeout().filter(|due| *due <= until) {
            self.now = due.max(self.now);
            self.swarm.handle_timeout(self.now);
            outputs.extend(self.drain());
            let due = self.swarm.poll_timeout();
            assert!(due.is_none_or(|due| due > self.now), "invariant 6");
        }
        self.now = until;
        outputs
    }

    fn input(&mut self, input: Input) -> Vec<Output> {
        self.note(&input);
        self.swarm.handle(self.now, input);
        self.drain()
    }

    fn note(&mut self, input: &Input) {
        match input {
            Input::SchedulerUp => (self.up, self.picks) = (true, false),
            Input::SchedulerDown => self.up = false,
            Input::PickingOrdered { picks, .. } => self.picks = *picks,
            Input::PartnerNamed { partner, seed, same_zone, .. } => {
                self.partners.insert(partner.clone(), (*seed, *same_zone));
            }
            Input::PartnerHolds { partner, pieces, hashes, .. } => {
                let makes_sense = pieces.len() == PIECES && hashes.len() == pieces.count() as usize;
                if let Some(held) = self.followed.get_mut(partner).filter(|_| makes_sense) {
                    held.extend(pieces.iter());
                }
            }
            Input::FollowEnded { partner, .. } => drop(self.followed.remove(partner)),
            Input::Fetched { piece, .. } => {
                self.fetching.remove(piece);
                self.on_disk.insert(*piece);
            }
            Input::FetchFailed { piece, error, .. } => {
                if let Some((parent, _)) = self.fetching.remove(piece) {
                    self.failed_by(&parent, Some(*piece), *error);
                }
            }
            Input::TakeBegun { parent, piece, .. } => {
                if let Some((_, chosen)) = self.taking.get_mut(parent) {
                    *chosen = Some(*piece);
                }
            }
            Input::Taken { parent, piece, .. } => {
                self.taking.remove(parent);
                self.on_disk.insert(*piece);
            }
            Input::TakeFailed { parent, error, .. } => {
                self.taking.remove(parent);
                self.failed_by(parent, None, *error);
                self.rested.insert(parent.clone(), self.now + Duration::from_secs(60));
            }
            Input::UploadAsked { upload, .. } => drop(self.unanswered.insert(*upload)),
            Input::UploadEnded { upload, .. } => {
                self.uploads.remove(upload);
                self.unanswered.remove(upload);
            }
            _ => {}
        }
    }

    fn failed_by(&mut self, parent: &PeerId, piece: Option<u32>, error: FetchError) {
        match error {
            FetchError::Corrupt => drop(self.barred.insert(parent.clone())),
            FetchError::NotHeld => {
                if let (Some(held), Some(piece)) = (self.followed.get_mut(parent), piece) {
                    held.remove(&piece);
                }
            }
            // At the longest, as far as invariant 4 asks.
            FetchError::Stalled | FetchError::Unreachable | FetchError::Busy => {
                self.rested.insert(parent.clone(), self.now + Duration::from_secs(60));
            }
        }
    }

    fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.swarm.poll_output() {
            self.check(&output);
            outputs.push(output);
        }
        self.check_work();
        outputs
    }

    fn check(&mut self, output: &Output) {
        match output {
            Output::Fetch { piece, parent, picked, hash: told, .. } => {
                assert!(!self.is_asked_for(*piece), "invariant 1: piece {piece}");
                if *picked {
                    self.check_partner(parent);
                    assert!(self.followed[parent].contains(piece), "invariant 3: it never told of it");
                    assert_eq!(*told, hash(*piece));
                }
                self.fetching.insert(*piece, (parent.clone(), *picked));
                self.check_window();
            }
            Output::Take { parent, lacking, .. } => {
                self.check_partner(parent);
                assert!(lacking.iter().all(|piece| !self.is_asked_for(piece)), "invariant 1");
                assert!(self.partners[parent].0, "only a seed chooses");
                self.taking.insert(parent.clone(), (lacking.clone(), None));
                self.check_window();
            }
            Output::AbortFetch { piece, .. } => assert!(self.fetching.remove(piece).is_some()),
            Output::AbortTake { parent, .. } => assert!(self.taking.remove(parent).is_some()),
            Output::Follow { partner, .. } => {
                assert!(self.up <= self.partners[partner].1, "invariant 3: another zone's");
                assert!(self.followed.insert(partner.clone(), BTreeSet::new()).is_none());
            }
            Output::Unfollow { partner, .. } => assert!(self.followed.remove(partner).is_some()),
            Output::Upload { upload, .. } => {
                assert!(self.unanswered.remove(upload), "invariant 5: answered twice");
                self.uploads.insert(*upload);
                assert!(self.uploads.len() <= 8, "invariant 5");
            }
            Output::RefuseUpload { upload, .. } => assert!(self.unanswered.remove(upload), "invariant 5"),
            Output::Fail { .. } => {
                self.failed = true;
                if self.on_disk.is_empty() {
                    // Nothing of the blob is left, nor whom it was barred from.
                    self.barred.clear();
                }
            }
            _ => {}
        }
    }

    fn check_partner(&self, parent: &PeerId) {
        assert!(self.followed.contains_key(parent) && !self.barred.contains(parent), "invariant 3");
        assert!(self.partners[parent].1 || !self.up, "invariant 3: across zones");
        let asked = self.fetching.values().any(|(other, picked)| other == parent && *picked);
        assert!(!asked && !self.taking.contains_key(parent), "invariant 2");
    }

    fn check_window(&self) {
        let picked = self.fetching.values().filter(|(_, picked)| *picked).count();
        assert!(picked + self.taking.len() <= WINDOW, "invariant 2");
    }

    fn is_asked_for(&self, piece: u32) -> bool {
        self.on_disk.contains(&piece)
            || self.fetching.contains_key(&piece)
            || self.taking.values().any(|(_, chosen)| *chosen == Some(piece))
    }

    /// Invariant 4, for partners that never failed: others rest for a time that is theirs.
    fn check_work(&self) {
        if !self.up || !self.picks || self.failed || self.fetching.len() + self.taking.len() >= 4 {
            return;
        }
        for (partner, held) in &self.followed {
            let (seed, same_zone) = self.partners[partner];
            let is_asked = self.taking.contains_key(partner)
                || self.fetching.values().any(|(parent, _)| parent == partner);
            let rests = self.rested.get(partner).is_some_and(|until| *until > self.now);
            let could = same_zone && !is_asked && !rests && !self.barred.contains(partner);
            let helps = held.iter().any(|piece| !self.is_asked_for(*piece));
            assert!(!(could && helps), "invariant 4: {partner} (seed: {seed}) stands idle");
        }
    }
}

fn digest() -> Digest {
    Digest::from_bytes([7; 32])
}

fn layout() -> Layout {
    Layout::of(u64::from(PIECES) << 17).unwrap()
}

fn wanted() -> Input {
    Input::Wanted { digest: digest(), layout: layout() }
}

fn id(name: &str) -> PeerId {
    name.parse().unwrap()
}

fn hash(piece: u32) -> PieceHash {
    PieceHash::from_bytes([u8::try_from(piece).unwrap(); 32])
}

fn set(pieces: impl IntoIterator<Item = u32>) -> PieceSet {
    let mut set = PieceSet::new(PIECES);
    for piece in pieces {
        set.insert(piece);
    }
    set
}

fn fetches(outputs: &[Output]) -> Vec<(u32, &str)> {
    let fetches = outputs.iter().filter_map(|output| match output {
        Output::Fetch { piece, parent, .. } => Some((*piece, parent.as_str())),
        _ => None,
    });
    fetches.collect()
}

fn reports(outputs: &[Output]) -> Vec<Report> {
    let batches = outputs.iter().filter_map(|output| match output {
        Output::Flush(batch) => Some(batch.reports().to_vec()),
        _ => None,
    });
    batches.flatten().collect()
}

fn piece(piece: u32) -> UploadWish {
    UploadWish::Piece { piece, picked: true }
}

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
    peer.input(Input::Assigned { digest: digest(), piece: 0, parent, hash: hash(0) });
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
    let outputs = peer.input(Input::Hashed { digest: digest(), matches: true });
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
    let assigned = |parent| Input::Assigned { digest: digest(), piece: 4, parent: id(parent), hash: hash(4) };
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
    let outputs = peer.input(Input::Assigned { digest: digest(), piece, parent, hash: hash(piece) });
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

/// What may happen; the numbers choose among what there is.
#[derive(Debug, Clone)]
enum Step {
    Input(Input),
    Wait(u64),
    EndFetch(usize, Option<FetchError>),
    BeginTake(usize, u32),
    EndTake(usize, Option<FetchError>),
    AskUpload(UploadWish),
    EndUpload(usize, bool),
}

fn steps() -> impl Strategy<Value = Step> {
    let partner = prop_oneof!["[a-e]", Just("s".to_owned()), Just("t".to_owned())];
    let partner = partner.prop_map(|name| id(&name));
    let error = prop_oneof![
        Just(FetchError::Stalled),
        Just(FetchError::Unreachable),
        Just(FetchError::NotHeld),
        Just(FetchError::Busy),
        Just(FetchError::Corrupt),
    ];
    let end = prop_oneof![3 => Just(None), 1 => error.prop_map(Some)];
    let digest = digest();
    let input = prop_oneof![
        1 => Just(Input::SchedulerUp),
        1 => Just(Input::SchedulerDown),
        2 => Just(wanted()),
        3 => any::<bool>().prop_map(move |picks| Input::PickingOrdered { digest, picks }),
        4 => (partner.clone(), any::<bool>()).prop_map(move |(partner, same_zone)| {
            let seed = partner.as_str() > "e";
            Input::PartnerNamed { digest, partner, seed, same_zone }
        }),
        1 => partner.clone().prop_map(move |partner| Input::PartnerLost { digest, partner }),
        1 => partner.clone().prop_map(move |partner| Input::FollowEnded { digest, partner }),
        8 => (partner.clone(), any::<u32>()).prop_map(move |(partner, mask)| {
            let pieces = set((0..PIECES).filter(|piece| mask >> piece & 1 == 1));
            let hashes = pieces.iter().map(hash).collect();
            Input::PartnerHolds { digest, partner, pieces, hashes }
        }),
        2 => (partner.clone(), 0_u32..40, 0_usize..4).prop_map(move |(partner, len, hash_count)| {
            let (pieces, hashes) = (PieceSet::full(len), vec![hash(1); hash_count]);
            Input::PartnerHolds { digest, partner, pieces, hashes }
        }),
        3 => (0_u32..PIECES + 3, partner.clone()).prop_map(move |(piece, parent)| {
            Input::Assigned { digest, piece, parent, hash: hash(piece) }
        }),
        1 => (0_u32..PIECES + 3).prop_map(move |piece| Input::Cancelled { digest, piece }),
        1 => (0_u32..40).prop_map(move |until| Input::SourcePaced { digest, until }),
        1 => Just(Input::Evicted { digest }),
        1 => (0_u64..2_000_000).prop_map(|us| Input::ReportsPaced { interval: Duration::from_micros(us) }),
    ];
    let lacking = (0_u32..40).prop_map(|len| UploadWish::Any { lacking: PieceSet::full(len) });
    let one = (0_u32..40, any::<bool>()).prop_map(|(piece, picked)| UploadWish::Piece { piece, picked });
    prop_oneof![
        8 => input.prop_map(Step::Input),
        3 => (0_u64..3000).prop_map(Step::Wait),
        6 => (0_usize..40, end.clone()).prop_map(|(index, end)| Step::EndFetch(index, end)),
        2 => (0_usize..4, 0_u32..PIECES + 3).prop_map(|(index, piece)| Step::BeginTake(index, piece)),
        3 => (0_usize..4, end).prop_map(|(index, end)| Step::EndTake(index, end)),
        2 => prop_oneof![lacking, one].prop_map(Step::AskUpload),
        1 => (0_usize..40, any::<bool>()).prop_map(|(index, delivered)| Step::EndUpload(index, delivered)),
    ]
}

fn nth<T: Clone>(items: impl IntoIterator<Item = T>, index: usize) -> Option<T> {
    let items: Vec<T> = items.into_iter().collect();
    (!items.is_empty()).then(|| items[index % items.len()].clone())
}

impl Peer {
    fn step(&mut self, step: Step, count: u64) {
        match step {
            Step::Input(Input::SchedulerUp) if self.up => {}
            Step::Input(Input::SchedulerDown) if !self.up => {}
            Step::Input(Input::Evicted { digest }) => {
                self.on_disk.clear();
                (self.failed, self.picks) = (true, false);
                self.barred.clear();
                self.input(Input::Evicted { digest });
            }
            Step::Input(Input::Wanted { digest, layout }) => {
                self.failed &= !self.up;
                self.input(Input::Wanted { digest, layout });
            }
            Step::Input(input) => drop(self.input(input)),
            Step::Wait(ms) => drop(self.wait(Duration::from_millis(ms))),
            Step::EndFetch(index, error) => {
                let Some(piece) = nth(self.fetching.keys().copied(), index) else { return };
                match error {
                    None => self.fetched(piece),
                    Some(error) => self.fail(piece, error),
                };
            }
            Step::BeginTake(index, piece) => {
                let undecided = self.taking.iter().filter(|(_, (_, chosen))| chosen.is_none());
                let Some(parent) = nth(undecided.map(|(parent, _)| parent.clone()), index) else { return };
                self.input(Input::TakeBegun { digest: digest(), parent, piece });
            }
            Step::EndTake(index, error) => {
                let Some((parent, chosen)) =
                    nth(self.taking.iter().map(|(parent, (_, chosen))| (parent.clone(), *chosen)), index)
                else {
                    return;
                };
                let (digest, first_byte) = (digest(), Duration::from_millis(1));
                match (error, chosen) {
                    (Some(error), _) => self.input(Input::TakeFailed { digest, parent, error }),
                    (None, Some(piece)) => self.input(Input::Taken { digest, parent, piece, first_byte }),
                    (None, None) => return,
                };
            }
            Step::AskUpload(wish) => {
                let (upload, child) = (UploadId(count), id("c"));
                self.input(Input::UploadAsked { upload, child, digest: digest(), wish });
            }
            Step::EndUpload(index, delivered) => {
                let all = self.uploads.iter().chain(&self.unanswered).copied();
                let Some(upload) = nth(all, index) else { return };
                self.input(Input::UploadEnded { upload, delivered });
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn every_history_keeps_the_invariants(steps in proptest::collection::vec(steps(), 1..120)) {
        let mut peer = Peer::new();
        for (count, step) in (0..).zip(steps) {
            peer.step(step, count);
        }
    }

    /// Time that stands still, or runs backwards, changes nothing but what is waited for.
    #[test]
    fn time_may_stand_still(steps in proptest::collection::vec(steps(), 1..60)) {
        let mut peer = Peer::new();
        let now = peer.now;
        for (count, step) in (0..).zip(steps) {
            if !matches!(step, Step::Wait(_)) {
                peer.step(step, count);
            }
            peer.swarm.handle_timeout(now);
            peer.drain();
            peer.swarm.handle_timeout(now.checked_sub(Duration::from_secs(1)).unwrap_or(now));
            peer.drain();
        }
    }
}
