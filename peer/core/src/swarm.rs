//! The peer's state and its one surface: inputs in, outputs out.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};

use crate::download::Blob;
use crate::{Failure, FetchError, Input, Output, Report};

/// The bounds of a peer's waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A parent that sends nothing for so long is given up.
    pub stall: Duration,
    /// A source read goes on for so long without a scheduler: the read lease (DESIGN.md §5.4).
    pub read_lease: Duration,
    /// A download fails after so long without a scheduler and without a piece on its way.
    pub scheduler_wait: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            stall: Duration::from_secs(2),
            read_lease: Duration::from_millis(2500),
            scheduler_wait: Duration::from_secs(8),
        }
    }
}

/// One peer's downloads.
#[derive(Debug)]
pub struct Swarm {
    limits: Limits,
    blobs: BTreeMap<Digest, Blob>,
    scheduler: Scheduler,
    outputs: VecDeque<Output>,
}

/// Whether a scheduler is there, and what falls due while it is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheduler {
    Up,
    Down { reads_end_at: Option<Instant>, downloads_fail_at: Option<Instant> },
}

impl Swarm {
    /// A peer that holds nothing and knows no scheduler.
    pub fn new(limits: Limits) -> Self {
        let scheduler = Scheduler::Down { reads_end_at: None, downloads_fail_at: None };
        Self { limits, blobs: BTreeMap::new(), scheduler, outputs: VecDeque::new() }
    }

    /// Takes in what happened. Drain [`Self::poll_output`] afterwards.
    pub fn handle(&mut self, now: Instant, input: Input) {
        match input {
            Input::Found { digest, layout, pieces, complete } => self.found(digest, layout, pieces, complete),
            Input::Wanted { digest, layout } => self.wanted(now, digest, layout),
            Input::ReaderMoved { digest, piece } => self.reader_moved(digest, piece),
            Input::SchedulerUp => self.scheduler_up(),
            Input::SchedulerDown => self.scheduler_down(now),
            Input::Assigned { digest, piece, parent, hash } => self.assigned(digest, piece, parent, hash),
            Input::Cancelled { digest, piece } => self.cancelled(digest, piece),
            Input::TaskFailed { digest, failure } => self.give_up(digest, failure),
            Input::SeedNamed { digest, seed } => self.seed_named(digest, seed),
            Input::HashesWanted { digest } => self.hashes_wanted(digest),
            Input::ReadOrdered { digest, layout, pieces } => self.read_ordered(digest, layout, &pieces),
            Input::Fetched { digest, piece } => self.fetched(digest, piece),
            Input::FetchFailed { digest, piece, error } => self.fetch_failed(digest, piece, error),
            Input::SourceRead { digest, piece, hash } => self.source_read(digest, piece, hash),
            Input::SourceEnded { digest, result } => self.source_ended(digest, result),
            Input::Hashed { digest, matches } => self.hashed(digest, matches),
            Input::GivenUp { digest, failure } => self.given_up(digest, failure),
            Input::Damaged { digest, piece } => self.damaged(digest, piece),
            Input::Evicted { digest } => self.evicted(digest),
        }
    }

    /// Does what is due. Call it at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        let Scheduler::Down { reads_end_at, downloads_fail_at } = &mut self.scheduler else { return };
        let reads_end = reads_end_at.take_if(|at| *at <= now).is_some();
        let downloads_fail = downloads_fail_at.take_if(|at| *at <= now).is_some();
        if reads_end {
            self.end_reads();
        }
        if downloads_fail {
            self.fail_stranded();
        }
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// When [`Self::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.scheduler {
            Scheduler::Up => None,
            Scheduler::Down { reads_end_at, downloads_fail_at } => {
                reads_end_at.into_iter().chain(downloads_fail_at).min()
            }
        }
    }

    fn found(&mut self, digest: Digest, layout: Layout, pieces: PieceSet, complete: bool) {
        let verified = complete && pieces.is_full();
        let mut blob = Blob::new(layout);
        (blob.held, blob.verified) = (pieces, verified);
        self.blobs.insert(digest, blob);
        self.announce_all(digest);
    }

    fn wanted(&mut self, now: Instant, digest: Digest, layout: Layout) {
        let blob = self.blobs.entry(digest).or_insert_with(|| Blob::new(layout));
        if blob.verified || blob.wanted || blob.layout != layout {
            return;
        }
        blob.wanted = true;
        self.hash(digest);
        match &mut self.scheduler {
            Scheduler::Up => self.tell(Report::Want { digest, size: layout.size() }),
            Scheduler::Down { downloads_fail_at, .. } => {
                downloads_fail_at.get_or_insert(now + self.limits.scheduler_wait);
            }
        }
    }

    fn reader_moved(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let moved = blob.wanted && blob.reader != piece;
        blob.reader = piece;
        if moved {
            self.tell(Report::Reader { digest, piece });
        }
    }

    fn scheduler_up(&mut self) {
        self.scheduler = Scheduler::Up;
        let digests: Vec<Digest> = self.blobs.keys().copied().collect();
        for digest in digests {
            self.announce_all(digest);
            let blob = &self.blobs[&digest];
            let (size, piece, wanted) = (blob.layout.size(), blob.reader, blob.wanted);
            if !blob.reading.is_empty() {
                let pieces = blob.reading.clone();
                self.tell(Report::Reading { digest, size, pieces });
            }
            if wanted {
                self.tell(Report::Want { digest, size });
                self.tell(Report::Reader { digest, piece });
            }
        }
        self.tell(Report::InventoryTold);
    }

    fn scheduler_down(&mut self, now: Instant) {
        let reads = self.blobs.values().any(|blob| !blob.reading.is_empty());
        let wants = self.blobs.values().any(|blob| blob.wanted);
        self.scheduler = Scheduler::Down {
            reads_end_at: reads.then(|| now + self.limits.read_lease),
            downloads_fail_at: wants.then(|| now + self.limits.scheduler_wait),
        };
    }

    fn assigned(&mut self, digest: Digest, piece: u32, parent: PeerId, hash: PieceHash) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if piece >= blob.layout.piece_count() {
            return;
        }
        let layout = blob.layout;
        if blob.held.contains(piece) {
            self.announce(digest, &[piece], Vec::new());
            return;
        }
        let replaces = blob.fetching.insert(piece, parent.clone()).is_some();
        if replaces {
            self.outputs.push_back(Output::AbortFetch { digest, piece });
        }
        let stall = self.limits.stall;
        self.outputs.push_back(Output::Fetch { digest, layout, piece, parent, hash, stall });
    }

    fn cancelled(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if blob.fetching.remove(&piece).is_some() {
            self.outputs.push_back(Output::AbortFetch { digest, piece });
        }
    }

    fn seed_named(&mut self, digest: Digest, seed: PeerId) {
        if self.blobs.get(&digest).is_some_and(|blob| blob.wanted) {
            self.outputs.push_back(Output::OfferCredentials { digest, seed });
        }
    }

    fn hashes_wanted(&mut self, digest: Digest) {
        if let Some(blob) = self.blobs.get(&digest) {
            let size = blob.layout.size();
            self.tell(Report::Hashes { digest, size });
        }
    }

    fn read_ordered(&mut self, digest: Digest, layout: Layout, pieces: &PieceSet) {
        let blob = self.blobs.entry(digest).or_insert_with(|| Blob::new(layout));
        if blob.layout != layout || pieces.len() != layout.piece_count() {
            return;
        }
        let mut fresh = PieceSet::new(pieces.len());
        let mut held = Vec::new();
        for piece in pieces.iter() {
            if blob.held.contains(piece) {
                held.push(piece);
            } else if blob.reading.insert(piece) {
                fresh.insert(piece);
            }
        }
        self.announce(digest, &held, Vec::new());
        if !fresh.is_empty() {
            self.outputs.push_back(Output::ReadSource { digest, layout, pieces: fresh });
        }
    }

    fn stop_reading(&mut self, digest: Digest) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if blob.reading.is_empty() {
            return;
        }
        blob.reading = PieceSet::new(blob.layout.piece_count());
        self.outputs.push_back(Output::StopSource { digest });
        self.forget_if_idle(digest);
    }

    fn fetched(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.fetching.remove(&piece);
        self.hold(digest, piece, Vec::new());
    }

    fn fetch_failed(&mut self, digest: Digest, piece: u32, error: FetchError) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if let Some(parent) = blob.fetching.remove(&piece) {
            self.tell(Report::FetchFailed { digest, piece, parent, error });
        }
    }

    fn source_read(&mut self, digest: Digest, piece: u32, hash: PieceHash) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.reading.remove(piece);
        self.hold(digest, piece, vec![hash]);
    }

    fn source_ended(&mut self, digest: Digest, result: Result<bool, Failure>) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        match result {
            Ok(true) if blob.held.is_full() => self.verified(digest),
            Ok(_) if blob.held.is_full() => self.hash(digest),
            Ok(_) => {}
            Err(failure) => {
                blob.reading = PieceSet::new(blob.layout.piece_count());
                let poisoned = failure.poisoned;
                self.tell(Report::SourceFailed { digest, failure: failure.clone() });
                if poisoned {
                    self.give_up(digest, failure);
                } else {
                    self.forget_if_idle(digest);
                }
            }
        }
    }

    fn hashed(&mut self, digest: Digest, matches: bool) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.hashing = false;
        if blob.verified || !blob.held.is_full() {
            return;
        }
        if matches {
            self.verified(digest);
        } else {
            self.give_up(digest, wrong_bytes(digest));
        }
    }

    fn given_up(&mut self, digest: Digest, failure: Failure) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let (wanted, reads) = (blob.wanted, !blob.reading.is_empty());
        if reads {
            self.stop_reading(digest);
            self.tell(Report::SourceFailed { digest, failure: failure.clone() });
        }
        if wanted {
            self.tell(Report::Unwant { digest });
            self.give_up(digest, failure);
        }
    }

    /// The scheduler knows no way to unsay one piece: it hears that nothing is held, and then
    /// of the rest.
    fn damaged(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        if !blob.held.remove(piece) {
            return;
        }
        blob.verified = false;
        let (wanted, size) = (blob.wanted, blob.layout.size());
        self.tell(Report::Withdraw { digest });
        self.announce_all(digest);
        if wanted {
            self.tell(Report::Want { digest, size });
        }
    }

    fn evicted(&mut self, digest: Digest) {
        if let Some(blob) = self.blobs.get_mut(&digest) {
            blob.held = PieceSet::new(blob.layout.piece_count());
            blob.verified = false;
            self.discard(digest);
        }
    }

    fn hold(&mut self, digest: Digest, piece: u32, hashes: Vec<PieceHash>) {
        let blob = self.blobs.get_mut(&digest).expect("the caller holds a known blob");
        if !blob.held.insert(piece) {
            return;
        }
        if blob.releases(piece) {
            self.outputs.push_back(Output::Release { digest, piece });
        }
        self.announce(digest, &[piece], hashes);
    }

    /// The whole blob is right.
    fn verified(&mut self, digest: Digest) {
        let blob = self.blobs.get_mut(&digest).expect("the caller holds a known blob");
        blob.verified = true;
        blob.wanted = false;
        self.outputs.push_back(Output::Complete { digest });
    }

    fn hash(&mut self, digest: Digest) {
        let blob = self.blobs.get_mut(&digest).expect("the caller holds a known blob");
        if !blob.hashing && !blob.verified {
            blob.hashing = true;
            self.outputs.push_back(Output::Hash { digest });
        }
    }

    /// The download ends without its blob. What is held stays, unless the bytes are wrong.
    fn give_up(&mut self, digest: Digest, failure: Failure) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        blob.wanted = false;
        blob.hashing = false;
        self.abort_fetches(digest);
        if failure.poisoned {
            self.outputs.push_back(Output::Purge { digest });
            self.discard(digest);
        }
        self.outputs.push_back(Output::Fail { digest, failure });
        self.forget_if_idle(digest);
    }

    /// Nothing is held any more: whatever is under way has lost its ground.
    fn discard(&mut self, digest: Digest) {
        self.abort_fetches(digest);
        self.stop_reading(digest);
        self.tell(Report::Withdraw { digest });
        if self.blobs.remove(&digest).is_some_and(|blob| blob.wanted) {
            self.outputs.push_back(Output::Fail { digest, failure: evicted(digest) });
        }
    }

    fn abort_fetches(&mut self, digest: Digest) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        for piece in std::mem::take(&mut blob.fetching).into_keys() {
            self.outputs.push_back(Output::AbortFetch { digest, piece });
        }
    }

    fn end_reads(&mut self) {
        let digests: Vec<Digest> = self.blobs.keys().copied().collect();
        for digest in digests {
            self.stop_reading(digest);
        }
    }

    fn fail_stranded(&mut self) {
        let stranded = |blob: &Blob| blob.wanted && blob.fetching.is_empty() && blob.reading.is_empty();
        let digests: Vec<Digest> =
            self.blobs.iter().filter(|(_, blob)| stranded(blob)).map(|(digest, _)| *digest).collect();
        for digest in digests {
            self.give_up(digest, no_scheduler());
        }
    }

    fn announce_all(&mut self, digest: Digest) {
        let blob = &self.blobs[&digest];
        if !blob.held.is_empty() {
            let (size, pieces) = (blob.layout.size(), blob.held.clone());
            self.tell(Report::Announce { digest, size, pieces, hashes: Vec::new() });
        }
    }

    fn announce(&mut self, digest: Digest, pieces: &[u32], hashes: Vec<PieceHash>) {
        let layout = self.blobs[&digest].layout;
        let mut set = PieceSet::new(layout.piece_count());
        for piece in pieces {
            set.insert(*piece);
        }
        if !set.is_empty() {
            self.tell(Report::Announce { digest, size: layout.size(), pieces: set, hashes });
        }
    }

    /// Without a scheduler nothing is said: whoever comes hears of everything.
    fn tell(&mut self, report: Report) {
        if self.scheduler == Scheduler::Up {
            self.outputs.push_back(Output::Tell(report));
        }
    }

    fn forget_if_idle(&mut self, digest: Digest) {
        if self.blobs.get(&digest).is_some_and(Blob::is_idle) {
            self.blobs.remove(&digest);
        }
    }
}

fn wrong_bytes(digest: Digest) -> Failure {
    Failure {
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: format!("the bytes of {digest} that reached this peer hash to something else"),
        poisoned: true,
    }
}

fn evicted(digest: Digest) -> Failure {
    Failure {
        status: 503,
        code: "UNAVAILABLE".into(),
        message: format!("{digest} was evicted from this peer's store while it was downloading"),
        poisoned: false,
    }
}

fn no_scheduler() -> Failure {
    Failure {
        status: 503,
        code: "UNAVAILABLE".into(),
        message: "no scheduler of this region is reachable".into(),
        poisoned: false,
    }
}
