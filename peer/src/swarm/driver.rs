//! The one owner of the core: a dull loop that receives, handles, drains, sleeps.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use flotilla_daemon::telemetry::Readiness;
use flotilla_peer_core::{Batch, Input, Limits, Output, Patience, UploadId, UploadRefusal};
use flotilla_proto::wire::scheduler::{FromPeer, ToPeer};
use flotilla_proto::{Digest, Failure, Layout, PeerId, PieceSet, Root};
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::work::{Asked, PieceOrder, ReadTask, Work};
use super::{Event, Granted, Live, Lives, Swarm, Want, evicted, wire};
use crate::egress::Egress;
use crate::metrics::PieceBytes;
use crate::seed::Seed;
use crate::source::ReadCredential;
use crate::store::{BlobFile, HeldBlob, Store};
use crate::transport::Transport;

/// What the driver works with.
pub(crate) struct DriverParts {
    pub(crate) swarm: Swarm,
    pub(crate) store: Store,
    pub(crate) transport: Transport,
    pub(crate) egress: Arc<Egress>,
    /// `None` in a peer that is no seed.
    pub(crate) seed: Option<Arc<Seed>>,
    pub(crate) piece_bytes: PieceBytes,
    pub(crate) readiness: Readiness,
}

/// A source read's strings.
struct SourceRead {
    cancel: CancellationToken,
    /// No piece at or above it is read for the present.
    until: watch::Sender<u32>,
}

pub(crate) struct Driver {
    core: flotilla_peer_core::Swarm,
    work: Work,
    lives: Lives,
    /// Blobs under way; an open file is not evicted.
    file_by_digest: HashMap<Digest, Arc<BlobFile>>,
    /// What clients that wait for a blob may ask the registry with.
    credentials: HashMap<Digest, Vec<ReadCredential>>,
    fetches: HashMap<(Digest, u32), AbortHandle>,
    takes: HashMap<(Digest, PeerId), AbortHandle>,
    follows: HashMap<(Digest, PeerId), AbortHandle>,
    /// Children that wait for their turn.
    uploads: HashMap<UploadId, Granted>,
    /// Source reads of a blob, under way or ended; one order may follow another.
    reads: HashMap<Digest, Vec<SourceRead>>,
    /// Purges under way.
    purges: HashMap<Digest, u32>,
    running: JoinSet<()>,
    link: Option<mpsc::Sender<FromPeer>>,
    readiness: Readiness,
}

impl Driver {
    pub(crate) fn new(parts: DriverParts) -> Self {
        let lives = parts.swarm.lives.clone();
        let mut core = flotilla_peer_core::Swarm::new(Limits::default(), fastrand::u64(..));
        for held in parts.store.inventory() {
            let HeldBlob { digest, layout, pieces, hearsay, complete } = held;
            core.handle(Instant::now(), Input::Found { digest, layout, pieces, hearsay, complete });
        }
        for variant in parts.store.tombstones() {
            core.handle(Instant::now(), Input::TombstoneFound { variant: *variant });
        }
        parts.readiness.missing(SCHEDULER, "no scheduler is connected yet");
        let readiness = parts.readiness.clone();
        Self {
            core,
            work: Work::new(parts),
            lives,
            file_by_digest: HashMap::new(),
            credentials: HashMap::new(),
            fetches: HashMap::new(),
            takes: HashMap::new(),
            follows: HashMap::new(),
            uploads: HashMap::new(),
            reads: HashMap::new(),
            purges: HashMap::new(),
            running: JoinSet::new(),
            link: None,
            readiness,
        }
    }

    /// Runs until `shutdown` is cancelled. `evicted` is the store's word on what it dropped.
    pub(crate) async fn run(
        mut self,
        mut events: mpsc::Receiver<Event>,
        mut evicted: mpsc::Receiver<Digest>,
        shutdown: CancellationToken,
    ) {
        let mut waiting = Vec::with_capacity(EVENTS_AT_ONCE);
        loop {
            let due = self.core.poll_timeout();
            tokio::select! {
                () = shutdown.cancelled() => return,
                count = events.recv_many(&mut waiting, EVENTS_AT_ONCE) => if count == 0 { return },
                Some(digest) = evicted.recv() => self.evicted(digest),
                Some(_) = self.running.join_next() => {}
                () = sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {
                    self.core.handle_timeout(Instant::now());
                }
            }
            for event in waiting.drain(..) {
                self.take(event);
            }
            self.drain();
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.input(input),
            Event::Wanted(want) => self.wanted(want),
            Event::Kept { digest, layout, known } => {
                self.kept(digest, layout);
                // A client that went away meanwhile leaves the blob behind.
                let _ = known.send(());
            }
            Event::LinkUp(link) => {
                self.link = Some(link);
                self.readiness.met(SCHEDULER);
                self.input(Input::SchedulerUp);
            }
            Event::Heard(message) => self.heard(*message),
            Event::LinkDown => self.link_down(),
            Event::Purged(digest) => self.purged(digest),
            Event::UploadAsked { upload, child, digest, wish, granted } => {
                self.uploads.insert(upload, granted);
                self.input(Input::UploadAsked { upload, child, digest, wish });
            }
            Event::Refused { digest, credential, failure } => self.refused(digest, &credential, failure),
        }
    }

    /// Shows readers what the disk holds before the core decides what follows from it.
    fn input(&mut self, mut input: Input) {
        if let Some((digest, piece)) = arrived(&input) {
            let held = self.work.store.is_hearsay(digest, piece);
            let Some(is_hearsay) = held.filter(|_| !self.purges.contains_key(&digest)) else {
                // It came for a download that has failed since: it is purged, or will be.
                return;
            };
            self.hold(digest, piece, is_hearsay);
            if let Input::Fetched { hearsay, .. } = &mut input {
                // Another may have come meanwhile.
                *hearsay = is_hearsay;
            }
        }
        match &input {
            Input::Fetched { digest, piece, .. } | Input::FetchFailed { digest, piece, .. } => {
                self.fetches.remove(&(*digest, *piece));
            }
            Input::Taken { digest, parent, .. } | Input::TakeFailed { digest, parent, .. } => {
                self.takes.remove(&(*digest, parent.clone()));
            }
            Input::FollowEnded { digest, partner } => {
                self.follows.remove(&(*digest, partner.clone()));
            }
            Input::UploadEnded { upload, .. } => drop(self.uploads.remove(upload)),
            Input::SourceEnded { digest, .. } => self.forget_ended_reads(*digest),
            Input::Damaged { digest, piece } => {
                tracing::warn!(task = %digest.short(), piece, "a piece on disk is damaged; it is dropped");
            }
            Input::Evicted { digest } => self.fail(*digest, evicted()),
            _ => {}
        }
        self.core.handle(Instant::now(), input);
    }

    fn forget_ended_reads(&mut self, digest: Digest) {
        if let Some(reads) = self.reads.get_mut(&digest) {
            reads.retain(|read| !read.until.is_closed());
            if reads.is_empty() {
                self.reads.remove(&digest);
            }
        }
    }

    fn hold(&self, digest: Digest, piece: u32, hearsay: bool) {
        if let Some(live) = self.lives.get(&digest) {
            live.hold(piece, hearsay);
        }
    }

    fn wanted(&mut self, want: Want) {
        let Want { digest, layout, pieces: wish, file, credential, live } = want;
        let has_failed = self.lives.get(&digest).is_some_and(|live| live.has_failed());
        if has_failed || !self.work.store.is_current(&file) {
            // What was opened for it is purged, or will be: its client begins again.
            let _ = live.send(None);
            return;
        }
        if let Some(credential) = credential {
            self.keep_credential(digest, credential);
        }
        let pieces = file.pieces();
        // What somebody else put on the disk meanwhile is known before it is fetched once more.
        if !pieces.is_empty() && !self.lives.contains_key(&digest) {
            let hearsay = file.hearsay();
            self.input(Input::Found { digest, layout, pieces, hearsay, complete: false });
        }
        let known = self.open_live(digest, layout, &file);
        if !known.is_complete() {
            self.file_by_digest.insert(digest, file);
        }
        self.input(Input::Wanted { digest, layout, pieces: wish });
        // A client that went away meanwhile leaves its download behind.
        let _ = live.send(Some(known));
    }

    fn keep_credential(&mut self, digest: Digest, credential: ReadCredential) {
        let credentials = self.credentials.entry(digest).or_default();
        let known = credentials.iter().any(|other| is_same(other, &credential));
        if !known && credentials.len() < MAX_CREDENTIALS {
            credentials.push(credential);
        }
    }

    fn kept(&mut self, digest: Digest, layout: Layout) {
        if self.lives.contains_key(&digest) {
            return;
        }
        let pieces = PieceSet::full(layout.piece_count());
        let hearsay = PieceSet::new(layout.piece_count());
        let live = Live::new(digest, layout, pieces.clone(), hearsay.clone(), true);
        // Its bytes came from a seed, and are counted there.
        live.claim_found();
        self.lives.insert(digest, Arc::new(live));
        self.input(Input::Found { digest, layout, pieces, hearsay, complete: true });
    }

    fn open_live(&self, digest: Digest, layout: Layout, file: &BlobFile) -> Arc<Live> {
        let fresh = || Arc::new(Live::new(digest, layout, file.pieces(), file.hearsay(), false));
        self.lives.entry(digest).or_insert_with(fresh).clone()
    }

    fn heard(&mut self, message: ToPeer) {
        if message.probe != 0 {
            self.send(FromPeer { echo: message.probe, ..Default::default() });
        }
        let relays = wire::relays(&message);
        let (named, inputs) = wire::heard(message, |id| self.work.transport.is_seed(id));
        for peer in named {
            self.work.transport.learn(peer.id, peer.address, peer.seed);
        }
        for (digest, layout, pieces) in relays {
            let swarm = self.work.swarm.clone();
            self.running.spawn(async move { swarm.relay(digest, layout, pieces).await });
        }
        for input in inputs {
            self.input(input);
        }
    }

    /// A blob that was begun again since is no longer evicted.
    fn evicted(&mut self, digest: Digest) {
        if !self.work.store.knows(digest) {
            self.input(Input::Evicted { digest });
        }
    }

    fn link_down(&mut self) {
        if self.link.take().is_some() {
            self.readiness.missing(SCHEDULER, "the connection to the scheduler is lost");
            self.input(Input::SchedulerDown);
        }
    }

    /// The last purge of a blob ended: it may be begun again.
    fn purged(&mut self, digest: Digest) {
        let pending = self.purges.get_mut(&digest).expect("each purge is counted");
        *pending -= 1;
        if *pending == 0 {
            self.purges.remove(&digest);
            self.forget(digest);
        }
    }

    /// A blob that failed goes, once nothing of it will be purged any more.
    fn forget(&mut self, digest: Digest) {
        if self.purges.contains_key(&digest) {
            return;
        }
        if let Some((_, live)) = self.lives.remove_if(&digest, |_, live| live.has_failed()) {
            live.go();
        }
    }

    /// The download goes on while any client's credential is not refused.
    fn refused(&mut self, digest: Digest, credential: &ReadCredential, failure: Failure) {
        let Some(credentials) = self.credentials.get_mut(&digest) else { return };
        credentials.retain(|other| !is_same(other, credential));
        if credentials.is_empty() {
            self.input(Input::GivenUp { digest, failure });
        }
    }

    fn drain(&mut self) {
        while let Some(output) = self.core.poll_output() {
            self.obey(output);
        }
    }

    fn obey(&mut self, output: Output) {
        match output {
            Output::Fetch { digest, layout, piece, parent, hash, hearsay, patience, picked } => {
                let (work, order) = (self.work.clone(), self.order(digest, layout, parent, patience));
                let asked = Asked { piece, hash, hearsay, picked };
                let fetch = async move { work.fetch(order, asked).await };
                self.fetches.insert((digest, piece), self.running.spawn(fetch));
            }
            Output::Take { digest, layout, parent, lacking, patience } => {
                let (work, order) = (self.work.clone(), self.order(digest, layout, parent.clone(), patience));
                let take = self.running.spawn(async move { work.take(order, lacking).await });
                self.takes.insert((digest, parent), take);
            }
            Output::AbortTake { digest, parent } => abort(self.takes.remove(&(digest, parent))),
            Output::Follow { digest, layout, partner } => {
                let (work, followed) = (self.work.clone(), partner.clone());
                let follow = async move { work.follow(digest, layout, followed).await };
                self.follows.insert((digest, partner), self.running.spawn(follow));
            }
            Output::Unfollow { digest, partner } => abort(self.follows.remove(&(digest, partner))),
            Output::Upload { upload, piece } => self.grant(upload, Ok(piece)),
            Output::RefuseUpload { upload, why } => self.grant(upload, Err(why)),
            Output::PaceSource { digest, until } => {
                for read in self.reads.get(&digest).into_iter().flatten() {
                    read.until.send_replace(until);
                }
            }
            Output::AbortFetch { digest, piece } => {
                abort(self.fetches.remove(&(digest, piece)));
            }
            Output::OfferCredentials { digest, seed } => {
                for credential in self.credentials.get(&digest).cloned().unwrap_or_default() {
                    let (work, seed) = (self.work.clone(), seed.clone());
                    self.running.spawn(async move { work.offer(digest, &seed, credential).await });
                }
            }
            Output::ReadSource { digest, layout, pieces } => {
                let (cancel, until) = (CancellationToken::new(), watch::Sender::new(u32::MAX));
                let order = ReadTask { digest, layout, pieces, until: until.subscribe() };
                self.reads.entry(digest).or_default().push(SourceRead { cancel: cancel.clone(), until });
                let (work, lives) = (self.work.clone(), self.lives.clone());
                self.running.spawn(async move { work.read(order, lives, cancel).await });
            }
            Output::StopSource { digest } => {
                for read in self.reads.remove(&digest).unwrap_or_default() {
                    read.cancel.cancel();
                }
            }
            Output::Release { digest, piece } => {
                if let Some(live) = self.lives.get(&digest) {
                    live.release(piece);
                }
            }
            Output::Hash { digest } => {
                if let Some(live) = self.lives.get(&digest).map(|live| live.clone()) {
                    let work = self.work.clone();
                    self.running.spawn(async move { work.hash(&live).await });
                }
            }
            Output::Complete { digest } => {
                self.work.store.vouch_all(digest);
                self.reads.remove(&digest);
                self.file_by_digest.remove(&digest);
                self.credentials.remove(&digest);
                if let Some(live) = self.lives.get(&digest).map(|live| live.clone()) {
                    let work = self.work.clone();
                    self.running.spawn(async move { work.complete(&live).await });
                }
            }
            // A client may have begun to want it since.
            Output::Satisfied { digest } if self.core.wants(digest) => {}
            Output::Satisfied { digest } => {
                self.file_by_digest.remove(&digest);
                self.credentials.remove(&digest);
            }
            Output::Fail { digest, failure } => {
                tracing::info!(task = %digest.short(), status = failure.status, reason = failure.message, "download failed");
                self.file_by_digest.remove(&digest);
                self.credentials.remove(&digest);
                self.fail(digest, failure);
            }
            // A read that nobody waited for leaves no client behind.
            Output::Forget { digest } => self.fail(digest, evicted()),
            Output::Purge { digest, layout, root } => self.purge(digest, layout, root),
            Output::Entomb { variant } => {
                let store = self.work.store.clone();
                self.running.spawn(async move { store.entomb(variant).await });
            }
            Output::Flush(batch) => self.flush(batch),
        }
    }

    /// A read that begins now waits for that, and so does a client: also where nobody has opened the blob yet.
    fn purge(&mut self, digest: Digest, layout: Layout, root: Option<Root>) {
        let failed = || {
            let none = PieceSet::new(layout.piece_count());
            let live = Live::new(digest, layout, none.clone(), none, false);
            live.fail(evicted());
            Arc::new(live)
        };
        self.lives.entry(digest).or_insert_with(failed);
        *self.purges.entry(digest).or_default() += 1;
        let (store, swarm) = (self.work.store.clone(), self.work.swarm.clone());
        self.running.spawn(async move {
            store.purge(digest, root).await;
            swarm.send(Event::Purged(digest)).await;
        });
    }

    fn fail(&mut self, digest: Digest, failure: Failure) {
        if let Some(live) = self.lives.get(&digest).map(|live| live.clone()) {
            live.fail(failure);
            self.forget(digest);
        }
    }

    fn order(&self, digest: Digest, layout: Layout, parent: PeerId, patience: Patience) -> PieceOrder {
        let file = self.file_by_digest.get(&digest).cloned();
        PieceOrder { digest, layout, file, parent, patience }
    }

    /// Tells a child how its request comes out. One that is gone gives its place back.
    fn grant(&mut self, upload: UploadId, result: Result<u32, UploadRefusal>) {
        let granted = self.uploads.remove(&upload).map(|child| child.send(result));
        if !matches!(granted, Some(Ok(()))) {
            self.input(Input::UploadEnded { upload, delivered: false });
        }
    }

    /// Sends a batch. A link that does not take it is given up, and with it what was to be
    /// said: a new one hears everything anew.
    fn flush(&mut self, batch: Batch) {
        if self.link.is_some() {
            self.send(wire::message(batch, &self.work.store));
        }
    }

    fn send(&mut self, message: FromPeer) {
        let Some(link) = &self.link else { return };
        if link.try_send(message).is_err() {
            self.link_down();
        }
    }
}

/// The piece of which this says that it is on the disk.
fn arrived(input: &Input) -> Option<(Digest, u32)> {
    match input {
        Input::Fetched { digest, piece, .. }
        | Input::Taken { digest, piece, .. }
        | Input::SourceRead { digest, piece, .. } => Some((*digest, *piece)),
        _ => None,
    }
}

fn abort(task: Option<AbortHandle>) {
    if let Some(task) = task {
        task.abort();
    }
}

/// Whether the registry would judge both alike.
fn is_same(one: &ReadCredential, other: &ReadCredential) -> bool {
    let place = |credential: &ReadCredential| (credential.upstream.clone(), credential.repository.clone());
    place(one) == place(other) && one.authorization.hash() == other.authorization.hash()
}

/// Events taken in before anything is flushed.
const EVENTS_AT_ONCE: usize = 512;

/// Clients' credentials kept per blob; more would not help.
const MAX_CREDENTIALS: usize = 8;

/// The name of the condition in `/readyz`.
const SCHEDULER: &str = "scheduler";
