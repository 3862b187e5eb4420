//! A peer under test, and the plainest mirror of what it should do: each output is held against
//! the invariants.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use flotilla_peer_core::{FetchError, Input, Limits, Output, Report, Swarm, UploadId, UploadWish};
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};

/// 20 pieces of 128 KiB.
pub(crate) const PIECES: u32 = 20;

pub(crate) const WINDOW: usize = 12;

/// A peer, and what the world knows of it.
pub(crate) struct Peer {
    pub(crate) swarm: Swarm,
    pub(crate) now: Instant,
    pub(crate) up: bool,
    pub(crate) on_disk: BTreeSet<u32>,
    pub(crate) wish: BTreeSet<u32>,
    /// By partner: seed, same zone.
    pub(crate) partners: BTreeMap<PeerId, (bool, bool)>,
    pub(crate) followed: BTreeMap<PeerId, BTreeSet<u32>>,
    /// By piece: parent, picked.
    pub(crate) fetching: BTreeMap<u32, (PeerId, bool)>,
    /// By seed: what was lacking, what it chose.
    pub(crate) taking: BTreeMap<PeerId, (PieceSet, Option<u32>)>,
    pub(crate) barred: BTreeSet<PeerId>,
    pub(crate) rested: BTreeMap<PeerId, Instant>,
    pub(crate) uploads: BTreeSet<UploadId>,
    pub(crate) unanswered: BTreeSet<UploadId>,
    pub(crate) failed: bool,
    pub(crate) picks: bool,
}

impl Peer {
    pub(crate) fn new() -> Self {
        Self {
            swarm: Swarm::new(Limits::default(), 7),
            now: Instant::now(),
            up: false,
            on_disk: BTreeSet::new(),
            wish: BTreeSet::new(),
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
    pub(crate) fn picking() -> Self {
        let mut peer = Self::new();
        peer.input(Input::SchedulerUp);
        peer.input(wanted());
        peer.input(Input::PickingOrdered { digest: digest(), picks: true });
        peer
    }

    pub(crate) fn name(&mut self, partner: &str, seed: bool, same_zone: bool) {
        let partner = id(partner);
        self.input(Input::PartnerNamed { digest: digest(), partner, seed, same_zone });
    }

    pub(crate) fn holds(&mut self, partner: &str, pieces: impl IntoIterator<Item = u32>) -> Vec<Output> {
        let pieces = set(pieces);
        let hashes = pieces.iter().map(hash).collect();
        self.input(Input::PartnerHolds { digest: digest(), partner: id(partner), pieces, hashes })
    }

    pub(crate) fn fail(&mut self, piece: u32, error: FetchError) -> Vec<Output> {
        self.input(Input::FetchFailed { digest: digest(), piece, error })
    }

    pub(crate) fn fetched(&mut self, piece: u32) -> Vec<Output> {
        self.input(Input::Fetched {
            digest: digest(),
            piece,
            hearsay: false,
            first_byte: Duration::from_millis(1),
        })
    }

    pub(crate) fn wait(&mut self, time: Duration) -> Vec<Output> {
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

    pub(crate) fn input(&mut self, input: Input) -> Vec<Output> {
        self.note(&input);
        self.swarm.handle(self.now, input);
        self.drain()
    }

    pub(crate) fn note(&mut self, input: &Input) {
        match input {
            Input::SchedulerUp => (self.up, self.picks) = (true, false),
            Input::SchedulerDown => self.up = false,
            Input::Wanted { pieces, .. } => self.wish.extend(pieces.iter()),
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

    pub(crate) fn failed_by(&mut self, parent: &PeerId, piece: Option<u32>, error: FetchError) {
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

    pub(crate) fn drain(&mut self) -> Vec<Output> {
        let mut outputs = Vec::new();
        while let Some(output) = self.swarm.poll_output() {
            self.check(&output);
            outputs.push(output);
        }
        self.check_work();
        outputs
    }

    pub(crate) fn check(&mut self, output: &Output) {
        match output {
            Output::Fetch { piece, parent, picked, hash: told, .. } => {
                assert!(!self.is_asked_for(*piece), "invariant 1: piece {piece}");
                if *picked {
                    assert!(self.wish.contains(piece), "invariant 7: piece {piece}");
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
                assert!(lacking.iter().all(|piece| self.wish.contains(&piece)), "invariant 7");
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
            Output::Satisfied { .. } | Output::Complete { .. } => {
                self.wish.clear();
                self.picks = false;
            }
            Output::Fail { .. } => {
                (self.failed, self.picks) = (true, false);
                self.wish.clear();
                if self.on_disk.is_empty() {
                    // Nothing of the blob is left, nor whom it was barred from.
                    self.barred.clear();
                }
            }
            _ => {}
        }
    }

    pub(crate) fn check_partner(&self, parent: &PeerId) {
        assert!(self.followed.contains_key(parent) && !self.barred.contains(parent), "invariant 3");
        assert!(self.partners[parent].1 || !self.up, "invariant 3: across zones");
        let asked = self.fetching.values().any(|(other, picked)| other == parent && *picked);
        assert!(!asked && !self.taking.contains_key(parent), "invariant 2");
    }

    pub(crate) fn check_window(&self) {
        let picked = self.fetching.values().filter(|(_, picked)| *picked).count();
        assert!(picked + self.taking.len() <= WINDOW, "invariant 2");
    }

    pub(crate) fn is_asked_for(&self, piece: u32) -> bool {
        self.on_disk.contains(&piece)
            || self.fetching.contains_key(&piece)
            || self.taking.values().any(|(lacking, chosen)| {
                let mut open = lacking.iter().filter(|piece| !self.on_disk.contains(piece));
                *chosen == Some(piece) || open.next() == Some(piece) && open.next().is_none()
            })
    }

    /// Invariant 4, for partners that never failed: others rest for a time that is theirs.
    pub(crate) fn check_work(&self) {
        if !self.up || !self.picks || self.failed || self.fetching.len() + self.taking.len() >= 4 {
            return;
        }
        for (partner, held) in &self.followed {
            let (seed, same_zone) = self.partners[partner];
            let is_asked = self.taking.contains_key(partner)
                || self.fetching.values().any(|(parent, _)| parent == partner);
            let rests = self.rested.get(partner).is_some_and(|until| *until > self.now);
            let could = same_zone && !is_asked && !rests && !self.barred.contains(partner);
            let helps = held.iter().any(|piece| self.wish.contains(piece) && !self.is_asked_for(*piece));
            assert!(!(could && helps), "invariant 4: {partner} (seed: {seed}) stands idle");
        }
    }
}

pub(crate) fn digest() -> Digest {
    Digest::from_bytes([7; 32])
}

pub(crate) fn layout() -> Layout {
    Layout::of(u64::from(PIECES) << 17).unwrap()
}

pub(crate) fn wanted() -> Input {
    Input::Wanted { digest: digest(), layout: layout(), pieces: PieceSet::full(layout().piece_count()) }
}

pub(crate) fn part_wanted(pieces: PieceSet) -> Input {
    Input::Wanted { digest: digest(), layout: layout(), pieces }
}

pub(crate) fn id(name: &str) -> PeerId {
    name.parse().unwrap()
}

pub(crate) fn hash(piece: u32) -> PieceHash {
    PieceHash::from_bytes([u8::try_from(piece).unwrap(); 32])
}

pub(crate) fn set(pieces: impl IntoIterator<Item = u32>) -> PieceSet {
    let mut set = PieceSet::new(PIECES);
    for piece in pieces {
        set.insert(piece);
    }
    set
}

pub(crate) fn fetches(outputs: &[Output]) -> Vec<(u32, &str)> {
    let fetches = outputs.iter().filter_map(|output| match output {
        Output::Fetch { piece, parent, .. } => Some((*piece, parent.as_str())),
        _ => None,
    });
    fetches.collect()
}

pub(crate) fn reports(outputs: &[Output]) -> Vec<Report> {
    let batches = outputs.iter().filter_map(|output| match output {
        Output::Flush(batch) => Some(batch.reports().to_vec()),
        _ => None,
    });
    batches.flatten().collect()
}

pub(crate) fn piece(piece: u32) -> UploadWish {
    UploadWish::Piece { piece, picked: true }
}
