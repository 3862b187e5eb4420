//! The peer's state and its one surface: inputs in, outputs out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use fastrand::Rng;
use flotilla_proto::{Digest, Failure, Layout, PeerId, PieceHash, PieceSet};

use crate::download::Blob;
use crate::health::Health;
use crate::intake::Intake;
use crate::outbox::Outbox;
use crate::requests::Choice;
use crate::scheduler::Scheduler;
use crate::tombstones::Tombstones;
use crate::uploads::Uploads;
use crate::{Input, Output, Patience, Report, UploadId, UploadWish};

/// The bounds of a peer's waiting, and of its memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A source read goes on for so long without a scheduler: the read lease (docs/design.md §3).
    pub read_lease: Duration,
    /// After so long without a scheduler a peer picks by itself.
    pub scheduler_grace: Duration,
    /// Without a scheduler, a download fails after so long without a piece, if none is on its
    /// way.
    pub scheduler_wait: Duration,
    /// Without a scheduler, a download fails after so long without a piece, whatever is on its
    /// way: partners may promise and not deliver.
    pub hopeless: Duration,
    /// Bytes of pieces under way to this peer that it picked, over all downloads. At the bound
    /// nothing more is picked until a piece has come.
    pub receive_budget: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            read_lease: Duration::from_millis(2500),
            scheduler_grace: Duration::from_secs(1),
            scheduler_wait: Duration::from_secs(8),
            hopeless: Duration::from_secs(60),
            receive_budget: 64 << 20,
        }
    }
}

/// One peer's downloads, and what it gives to others.
#[derive(Debug)]
pub struct Swarm {
    pub(crate) limits: Limits,
    /// Of all ties that are broken.
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    /// When the last input or timeout came; `None` before the first.
    now: Option<Instant>,
    pub(crate) blobs: BTreeMap<Digest, Blob>,
    /// Blobs that clients wait for.
    pub(crate) wanted: BTreeSet<Digest>,
    pub(crate) scheduler: Scheduler,
    /// Parents that were asked for anything. Forgotten, beyond [`MAX_PARENTS`], by name.
    pub(crate) health_by_parent: BTreeMap<PeerId, Health>,
    pub(crate) intake: Intake,
    pub(crate) uploads: Uploads,
    pub(crate) tombstones: Tombstones,
    pub(crate) outbox: Outbox,
    pub(crate) outputs: VecDeque<Output>,
}

impl Swarm {
    /// A peer that holds nothing and knows no scheduler. The seed breaks ties.
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            limits,
            seed,
            rng: Rng::with_seed(seed),
            now: None,
            blobs: BTreeMap::new(),
            wanted: BTreeSet::new(),
            scheduler: Scheduler::Down { since: None, reads_end_at: None, alone: false },
            health_by_parent: BTreeMap::new(),
            intake: Intake::default(),
            uploads: Uploads::default(),
            tombstones: Tombstones::default(),
            outbox: Outbox::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes in what happened. Drain [`Self::poll_output`] afterwards; several inputs may come
    /// before, and what is to be told of them makes one batch.
    pub fn handle(&mut self, now: Instant, input: Input) {
        self.pass(now);
        match input {
            Input::Found { digest, layout, pieces, hearsay, complete } => {
                self.found(digest, layout, (pieces, hearsay), complete);
            }
            Input::Wanted { digest, layout, pieces } => self.wanted(digest, layout, &pieces),
            Input::ReaderMoved { digest, piece } => self.reader_moved(digest, piece),
            Input::SchedulerUp => self.scheduler_up(),
            Input::SchedulerDown => self.scheduler_down(),
            Input::Assigned { digest, piece, parent, hash, hearsay } => {
                self.assigned(digest, piece, Choice { parent, hash, hearsay });
            }
            Input::Cancelled { digest, piece } => self.cancelled(digest, piece),
            Input::TombstoneFound { variant } => drop(self.tombstones.insert(variant)),
            Input::TaskFailed { digest, failure, root } => self.task_failed(digest, failure, root),
            Input::Entombed { variant } => self.entombed(variant),
            Input::SeedNamed { digest, seed } => self.seed_named(digest, seed),
            Input::HashesWanted { digest } => self.hashes_wanted(digest),
            Input::ReadOrdered { digest, layout, pieces } => self.read_ordered(digest, layout, &pieces),
            Input::PartnerNamed { digest, partner, seed, same_zone } => {
                self.partner_named(digest, &partner, seed, same_zone);
            }
            Input::PartnerLost { digest, partner } => self.partner_lost(digest, &partner),
            Input::PickingOrdered { digest, picks } => self.picking_ordered(digest, picks),
            Input::SourcePaced { digest, until } => self.source_paced(digest, until),
            Input::ReportsPaced { interval } => self.outbox.pace(interval),
            Input::PartnerHolds { digest, partner, pieces, hashes } => {
                self.partner_holds(digest, &partner, &pieces, &hashes);
            }
            Input::FollowEnded { digest, partner } => self.follow_ended(digest, &partner),
            Input::Fetched { digest, piece, hearsay, first_byte } => {
                self.fetched(digest, piece, hearsay, first_byte);
            }
            Input::FetchFailed { digest, piece, error } => self.fetch_failed(digest, piece, error),
            Input::TakeBegun { digest, parent, piece } => self.take_begun(digest, parent, piece),
            Input::Taken { digest, parent, piece, first_byte } => {
                self.taken(digest, &parent, piece, first_byte);
            }
            Input::TakeFailed { digest, parent, error } => self.take_failed(digest, parent, error),
            Input::UploadAsked { upload, child, digest, wish } => {
                self.upload_asked(upload, &child, digest, wish);
            }
            Input::UploadEnded { upload, delivered } => self.upload_ended(upload, delivered),
            Input::SourceRead { digest, piece, hash } => self.source_read(digest, piece, hash),
            Input::SourceEnded { digest, result } => self.source_ended(digest, result),
            Input::Hashed { digest, result } => self.hashed(digest, result),
            Input::GivenUp { digest, failure } => self.given_up(digest, failure),
            Input::Damaged { digest, piece } => self.damaged(digest, piece),
            Input::Evicted { digest } => self.evicted(digest),
        }
    }

    /// Does what is due. Call it at [`Self::poll_timeout`].
    pub fn handle_timeout(&mut self, now: Instant) {
        self.pass(now);
        self.do_without_scheduler();
        self.for_each_wanted(Self::pick_again);
    }

    /// Whether clients wait for the blob, or pieces of it.
    pub fn wants(&self, digest: Digest) -> bool {
        self.wanted.contains(&digest)
    }

    /// What to do next, until `None`.
    pub fn poll_output(&mut self) -> Option<Output> {
        let flush = |outbox: &mut Outbox, now| outbox.flush(now).map(Output::Flush);
        self.outputs.pop_front().or_else(|| flush(&mut self.outbox, self.now?))
    }

    /// When [`Self::handle_timeout`] is due. Costs a pass over what clients wait for.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let mut due = self.now.and_then(|now| self.outbox.due(now));
        let mut at = |deadline: Option<Instant>| due = due.into_iter().chain(deadline).min();
        at(self.scheduler_is_missed_at());
        for blob in self.wanted.iter().filter_map(|digest| self.blobs.get(digest)) {
            at(blob.pick_again_at());
            at(self.stranded_at(blob));
        }
        due
    }

    /// The time of the input at hand. Time that runs backwards stands still.
    pub(crate) fn now(&self) -> Instant {
        self.now.expect("an input came, and with it the time")
    }

    fn pass(&mut self, now: Instant) {
        let now = self.now.map_or(now, |before| before.max(now));
        self.now = Some(now);
        if let Scheduler::Down { since: since @ None, .. } = &mut self.scheduler {
            *since = Some(now);
        }
    }

    pub(crate) fn for_each_wanted(&mut self, mut act: impl FnMut(&mut Self, Digest)) {
        for digest in self.wanted.iter().copied().collect::<Vec<_>>() {
            act(self, digest);
        }
    }

    fn found(
        &mut self,
        digest: Digest,
        layout: Layout,
        (pieces, hearsay): (PieceSet, PieceSet),
        complete: bool,
    ) {
        let verified = complete && pieces.is_full();
        let mut blob = Blob::new(layout, self.now());
        (blob.held, blob.hearsay, blob.verified) = (pieces, hearsay, verified);
        let is_unchecked = blob.held.is_full() && !verified;
        self.blobs.insert(digest, blob);
        self.announce_all(digest);
        if is_unchecked {
            self.hash(digest);
        }
    }

    fn wanted(&mut self, digest: Digest, layout: Layout, pieces: &PieceSet) {
        if pieces.len() != layout.piece_count() {
            return;
        }
        if pieces.is_empty() || !self.makes_way(digest, layout) {
            return self.settle_if_unwanted(digest);
        }
        let now = self.now();
        let blob = self.blobs.entry(digest).or_insert_with(|| Blob::new(layout, now));
        // A blob that is full and not verified waits for its hash.
        let is_held = blob.verified || !blob.held.is_full() && blob.held.is_superset(pieces);
        if is_held {
            return self.settle_if_unwanted(digest);
        }
        if blob.wish.as_ref().is_some_and(|wish| wish.is_superset(pieces)) {
            return;
        }
        if self.wanted.insert(digest) {
            blob.progress_at = now;
        }
        let wish = blob.wish.get_or_insert_with(|| PieceSet::new(pieces.len()));
        wish.union_with(pieces);
        if wish.is_full() || blob.held.is_full() {
            self.hash(digest);
        }
        self.tell_wish(digest);
        self.start_or_stop_picking(digest);
    }

    /// Nothing need be done for the client that asked; for others it may be.
    fn settle_if_unwanted(&mut self, digest: Digest) {
        if !self.wants(digest) {
            self.outputs.push_back(Output::Satisfied { digest });
        }
    }

    /// Says what is wanted of a blob, and where it is read.
    pub(crate) fn tell_wish(&mut self, digest: Digest) {
        let Blob { layout, wish: Some(pieces), reader, .. } = &self.blobs[&digest] else { return };
        let (size, pieces, piece) = (layout.size(), pieces.clone(), *reader);
        self.tell(Report::Want { digest, size, pieces });
        if piece > 0 {
            self.tell(Report::Reader { digest, piece });
        }
    }

    fn reader_moved(&mut self, digest: Digest, piece: u32) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let moved = blob.wish.is_some() && blob.reader != piece;
        blob.reader = piece;
        if moved {
            self.tell(Report::Reader { digest, piece });
        }
    }

    fn seed_named(&mut self, digest: Digest, seed: PeerId) {
        if self.wanted.contains(&digest) {
            self.outputs.push_back(Output::OfferCredentials { digest, seed });
        }
    }

    fn hashes_wanted(&mut self, digest: Digest) {
        if let Some(blob) = self.blobs.get(&digest) {
            let size = blob.layout.size();
            self.tell(Report::Hashes { digest, size });
        }
    }

    fn upload_asked(&mut self, upload: UploadId, child: &PeerId, digest: Digest, wish: UploadWish) {
        let Self { blobs, uploads, outputs, .. } = self;
        let partner = blobs.get(&digest).and_then(|blob| blob.partners.get(child));
        let has = partner.map_or(0, |partner| partner.held.count());
        let held = |digest| blobs.get(&digest).map(|blob| &blob.held);
        outputs.extend(uploads.asked(&held, upload, has, digest, wish));
    }

    fn upload_ended(&mut self, upload: UploadId, delivered: bool) {
        let Self { blobs, uploads, outputs, .. } = self;
        let held = |digest| blobs.get(&digest).map(|blob| &blob.held);
        outputs.extend(uploads.ended(&held, upload, delivered));
    }

    pub(crate) fn patience(&self, parent: &PeerId) -> Patience {
        self.health_by_parent.get(parent).map_or_else(|| Health::default().patience(), Health::patience)
    }

    /// The health of a parent, to note what it did.
    pub(crate) fn health(&mut self, parent: &PeerId) -> &mut Health {
        if !self.health_by_parent.contains_key(parent) && self.health_by_parent.len() >= MAX_PARENTS {
            self.health_by_parent.pop_first();
        }
        self.health_by_parent.entry(parent.clone()).or_default()
    }

    /// A parent delivered a piece that was asked for then.
    pub(crate) fn delivered(&mut self, parent: &PeerId, begun_at: Instant, first_byte: Duration, bytes: u32) {
        let now = self.now();
        self.health(parent).delivered(first_byte, bytes, now.saturating_duration_since(begun_at));
        self.intake.landed(now, bytes);
    }

    fn given_up(&mut self, digest: Digest, failure: Failure) {
        let Some(blob) = self.blobs.get_mut(&digest) else { return };
        let (wanted, reads) = (blob.wish.is_some(), !blob.reading.is_empty());
        if reads {
            self.stop_reading(digest);
            self.tell(Report::SourceFailed { digest, failure: failure.clone() });
        }
        if wanted {
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
        blob.hearsay.remove(piece);
        blob.verified = false;
        if blob.hashing {
            // The hash that is under way needs the piece.
            blob.wish = Some(PieceSet::full(blob.held.len()));
            self.wanted.insert(digest);
        }
        self.tell(Report::Withdraw { digest });
        self.announce_all(digest);
        self.tell_wish(digest);
        self.end_if_met(digest);
        self.start_or_stop_picking(digest);
    }

    /// Ends a wish for a part that is met.
    fn end_if_met(&mut self, digest: Digest) {
        if self.blobs.get(&digest).is_some_and(Blob::is_wish_met) {
            self.tell(Report::Unwant { digest });
            self.unwanted(digest);
            self.outputs.push_back(Output::Satisfied { digest });
        }
    }

    /// A piece is on disk; whether it is hearsay.
    pub(crate) fn hold(&mut self, digest: Digest, piece: u32, hearsay: bool, hashes: Vec<PieceHash>) {
        let now = self.now();
        self.abort_others(digest, piece);
        let blob = self.blobs.get_mut(&digest).expect("the caller holds a known blob");
        if !hearsay && blob.hearsay.remove(piece) && blob.held.remove(piece) {
            // It may be another on the disk now.
            blob.hashes_former = blob.hashing;
        }
        if !blob.held.insert(piece) {
            return;
        }
        if hearsay {
            blob.hearsay.insert(piece);
        }
        blob.progress_at = now;
        if blob.releases(piece) {
            self.outputs.push_back(Output::Release { digest, piece });
        }
        // A read tells at its end what it found.
        let is_unchecked = blob.held.is_full() && (blob.wish.is_some() || hashes.is_empty());
        self.announce(digest, &[piece], hashes);
        if is_unchecked {
            self.hash(digest);
        }
        self.end_if_met(digest);
    }

    /// The whole blob is right.
    pub(crate) fn verified(&mut self, digest: Digest) {
        let blob = self.blobs.get_mut(&digest).expect("the caller holds a known blob");
        blob.verified = true;
        blob.hearsay = PieceSet::new(blob.held.len());
        self.stop_reading(digest);
        self.unwanted(digest);
        self.outputs.push_back(Output::Complete { digest });
    }

    /// Nobody waits for the blob any more.
    pub(crate) fn unwanted(&mut self, digest: Digest) {
        self.wanted.remove(&digest);
        if let Some(blob) = self.blobs.get_mut(&digest) {
            (blob.wish, blob.picks_ordered) = (None, false);
            self.start_or_stop_picking(digest);
        }
    }

    pub(crate) fn hash(&mut self, digest: Digest) {
        let blob = self.blobs.get_mut(&digest).expect("the caller holds a known blob");
        if !blob.hashing && !blob.verified {
            blob.hashing = true;
            self.outputs.push_back(Output::Hash { digest });
        }
    }

    pub(crate) fn announce_all(&mut self, digest: Digest) {
        let blob = &self.blobs[&digest];
        if !blob.held.is_empty() {
            let (size, pieces) = (blob.layout.size(), blob.held.clone());
            self.tell(Report::Announce { digest, size, pieces, hashes: Vec::new() });
        }
    }

    pub(crate) fn announce(&mut self, digest: Digest, pieces: &[u32], hashes: Vec<PieceHash>) {
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
    pub(crate) fn tell(&mut self, report: Report) {
        if self.scheduler == Scheduler::Up {
            self.outbox.add(report);
        }
    }

    pub(crate) fn forget_if_idle(&mut self, digest: Digest) {
        if self.blobs.get(&digest).is_some_and(Blob::is_idle) {
            self.blobs.remove(&digest);
            self.outputs.push_back(Output::Forget { digest });
        }
    }
}

/// Parents whose health is known.
const MAX_PARENTS: usize = 4096;
