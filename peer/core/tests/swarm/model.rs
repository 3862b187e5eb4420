//! A peer under test: each output is held against what the world has told it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use flotilla_peer_core::{Input, Limits, Output, Report, Swarm};
use flotilla_proto::{Digest, Failure, FailureCause, Layout, PeerId, PieceHash, PieceSet, Root, Variant};

/// 6 pieces of 128 KiB.
pub(crate) const SIZE: u64 = 6 * (128 << 10) - 7;
pub(crate) const LAST: u32 = 5;

pub(crate) struct Peer {
    pub(crate) swarm: Swarm,
    pub(crate) now: Instant,
    pub(crate) up: bool,
    pub(crate) on_disk: BTreeSet<u32>,
    /// Pieces on disk of which only peers say what they hash to.
    pub(crate) hearsay: BTreeSet<u32>,
    pub(crate) hashed_right: bool,
    pub(crate) fetching: BTreeSet<u32>,
    pub(crate) reading: BTreeSet<u32>,
    /// What clients want that have not been told of an end.
    pub(crate) wish: BTreeSet<u32>,
    pub(crate) hashing: bool,
    pub(crate) outputs: Vec<Output>,
}

impl Peer {
    pub(crate) fn new() -> Self {
        Self {
            swarm: Swarm::new(Limits::default(), 7),
            now: Instant::now(),
            up: false,
            on_disk: BTreeSet::new(),
            hearsay: BTreeSet::new(),
            hashed_right: false,
            fetching: BTreeSet::new(),
            reading: BTreeSet::new(),
            wish: BTreeSet::new(),
            hashing: false,
            outputs: Vec::new(),
        }
    }

    pub(crate) fn attached() -> Self {
        let mut peer = Self::new();
        peer.input(Input::SchedulerUp);
        peer
    }

    pub(crate) fn input(&mut self, input: Input) -> Vec<Output> {
        self.note(&input);
        self.swarm.handle(self.now, input);
        self.drain()
    }

    /// What the world looks like after the input, as far as invariants ask.
    pub(crate) fn note(&mut self, input: &Input) {
        match input {
            Input::SchedulerUp => self.up = true,
            Input::SchedulerDown => self.up = false,
            Input::Wanted { pieces, .. } => self.wish.extend(pieces.iter()),
            Input::Fetched { piece, hearsay, .. } => {
                self.fetching.remove(piece);
                if self.on_disk.insert(*piece) && *hearsay {
                    self.hearsay.insert(*piece);
                }
            }
            Input::SourceRead { piece, .. } => {
                self.reading.remove(piece);
                self.hearsay.remove(piece);
                self.on_disk.insert(*piece);
            }
            Input::FetchFailed { piece, .. } => {
                self.fetching.remove(piece);
            }
            Input::Found { pieces, complete, .. } => {
                self.on_disk = pieces.iter().collect();
                self.hearsay.clear();
                self.hashed_right = *complete;
            }
            Input::Damaged { piece, .. } => {
                self.on_disk.remove(piece);
                self.hearsay.remove(piece);
                self.hashed_right = false;
                if self.hashing {
                    self.wish = (0..6).collect();
                }
            }
            Input::Evicted { .. } => {
                self.on_disk.clear();
                self.hearsay.clear();
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

    pub(crate) fn drain(&mut self) -> Vec<Output> {
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

    pub(crate) fn check(&mut self, output: &Output) {
        match output {
            Output::Fetch { piece, .. } => {
                assert!(self.fetching.insert(*piece), "invariant 3: fetched twice at a time");
                assert!(!self.on_disk.contains(piece), "invariant 3: it is held");
            }
            Output::AbortFetch { piece, .. } => assert!(self.fetching.remove(piece)),
            Output::ReadSource { pieces, .. } => {
                for piece in pieces.iter() {
                    assert!(self.reading.insert(piece), "invariant 5: read twice");
                    let is_vouched = self.on_disk.contains(&piece) && !self.hearsay.contains(&piece);
                    assert!(!is_vouched, "invariant 5: it is held");
                }
            }
            Output::StopSource { .. } => self.reading.clear(),
            Output::Release { piece, .. } => {
                assert!(self.on_disk.contains(piece), "invariant 1");
                let is_early = *piece == LAST || self.hearsay.contains(piece);
                assert!(!is_early || self.hashed_right, "invariant 2");
            }
            Output::Complete { .. } => {
                assert!(self.hashed_right, "invariant 2");
                self.hearsay.clear();
                self.wish.clear();
            }
            Output::Satisfied { .. } => {
                assert!(self.hashed_right || self.wish.is_subset(&self.on_disk), "invariant 7");
                self.wish.clear();
            }
            Output::Purge { .. } => {
                assert!(!self.hashed_right, "invariant 6");
                self.on_disk.clear();
                self.hearsay.clear();
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

pub(crate) fn digest() -> Digest {
    Digest::from_bytes([7; 32])
}

pub(crate) fn layout() -> Layout {
    Layout::of(SIZE).unwrap()
}

pub(crate) fn peer_id(name: &str) -> PeerId {
    name.parse().unwrap()
}

pub(crate) fn hash(piece: u32) -> PieceHash {
    PieceHash::from_bytes([u8::try_from(piece).unwrap(); 32])
}

pub(crate) fn wanted() -> Input {
    Input::Wanted { digest: digest(), layout: layout(), pieces: PieceSet::full(layout().piece_count()) }
}

pub(crate) fn part_wanted(pieces: impl IntoIterator<Item = u32>) -> Input {
    Input::Wanted { digest: digest(), layout: layout(), pieces: set(pieces) }
}

/// As the scheduler hears that all of the blob is wanted.
pub(crate) fn want(layout: Layout) -> Report {
    let pieces = PieceSet::full(layout.piece_count());
    Report::Want { digest: digest(), size: layout.size(), pieces }
}

pub(crate) fn set(pieces: impl IntoIterator<Item = u32>) -> PieceSet {
    pieces.into_iter().fold(PieceSet::new(6), |mut set, piece| {
        set.insert(piece);
        set
    })
}

pub(crate) fn assigned(piece: u32, parent: &str) -> Input {
    Input::Assigned { digest: digest(), piece, parent: peer_id(parent), hash: hash(piece), hearsay: false }
}

pub(crate) fn fetched(piece: u32) -> Input {
    Input::Fetched { digest: digest(), piece, hearsay: false, first_byte: Duration::from_millis(1) }
}

/// As [`fetched`], where only peers say what it hashes to.
pub(crate) fn heard(piece: u32) -> Input {
    Input::Fetched { digest: digest(), piece, hearsay: true, first_byte: Duration::from_millis(1) }
}

pub(crate) fn source_read(piece: u32) -> Input {
    Input::SourceRead { digest: digest(), piece, hash: hash(piece) }
}

pub(crate) fn read_ordered(pieces: impl IntoIterator<Item = u32>) -> Input {
    Input::ReadOrdered { digest: digest(), layout: layout(), pieces: set(pieces) }
}

pub(crate) fn found(pieces: std::ops::Range<u32>, complete: bool) -> Input {
    let run = flotilla_proto::Run { first: pieces.start, count: pieces.end - pieces.start };
    let pieces = PieceSet::from_runs(6, [run]).unwrap();
    Input::Found { digest: digest(), layout: layout(), pieces, hearsay: set([]), complete }
}

pub(crate) fn hashed(matches: bool) -> Input {
    Input::Hashed { digest: digest(), result: if matches { Ok(()) } else { Err(root()) } }
}

pub(crate) fn task_failed(poisoned: bool, root: Option<Root>) -> Input {
    Input::TaskFailed { digest: digest(), failure: failure(poisoned), root }
}

/// Of what was purged, in every test.
pub(crate) fn root() -> Root {
    Root::of([Some(hash(0))])
}

pub(crate) fn variant() -> Variant {
    Variant { digest: digest(), root: root() }
}

pub(crate) fn failure(poisoned: bool) -> Failure {
    let cause = if poisoned { FailureCause::WrongBytes } else { FailureCause::Source };
    Failure::new(502, "X", "x".into(), cause)
}

/// What the outputs tell the scheduler.
pub(crate) fn told(outputs: &[Output]) -> Vec<Report> {
    let batches = outputs.iter().filter_map(|output| match output {
        Output::Flush(batch) => Some(batch.reports().to_vec()),
        _ => None,
    });
    batches.flatten().collect()
}

pub(crate) fn failed(outputs: &[Output]) -> bool {
    outputs.iter().any(|output| matches!(output, Output::Fail { .. }))
}
