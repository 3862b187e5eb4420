//! The driver of the peer's core: what clients, other peers, the scheduler and the disk
//! say goes in; fetches, reads, announcements and releases come out.
//!
//! `driver` owns the core and is one dull loop; `work` is what it sets going; `live` is
//! what readers and followers wait on; `turn` is what children wait for; `wire` speaks the
//! scheduler's language.

mod driver;
mod live;
mod turn;
mod wire;
mod work;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use dashmap::DashMap;
use flotilla_peer_core::{Input, UploadId, UploadRefusal, UploadWish};
use flotilla_proto::wire::scheduler::{FromPeer, ToPeer};
use flotilla_proto::{Digest, Failure, FailureCause, Layout, Origins, PeerId, PieceHash, PieceSet};
use futures_util::future::try_join_all;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::source::ReadCredential;
use crate::store::{BeginError, BlobFile, Store};

pub(crate) use driver::{Driver, DriverParts};
pub(crate) use live::Live;
pub(crate) use turn::Turn;

use turn::Request;
use work::store_failure;

/// A handle on this peer's downloads; clones share them.
#[derive(Clone)]
pub(crate) struct Swarm {
    events: mpsc::Sender<Event>,
    lives: Lives,
    store: Store,
    next_reader: Arc<AtomicU64>,
    next_upload: Arc<AtomicU64>,
}

/// Every blob of which anything is held or wanted. Bounded by the store's count of blobs.
type Lives = Arc<DashMap<Digest, Arc<Live>>>;

/// What the driver is told.
pub(crate) enum Event {
    /// For the core.
    Input(Input),
    /// A client wants a blob.
    Wanted(Want),
    /// A blob that nobody wanted from here is whole on disk.
    Kept { digest: Digest, layout: Layout, known: oneshot::Sender<()> },
    /// The stream to the scheduler stands; this is the way out.
    LinkUp(mpsc::Sender<FromPeer>),
    /// The scheduler said something.
    Heard(Box<ToPeer>),
    /// The stream to the scheduler is gone.
    LinkDown,
    /// Another peer asks for a piece.
    UploadAsked { upload: UploadId, child: PeerId, digest: Digest, wish: UploadWish, granted: Granted },
    /// What was void of a blob is off the disk.
    Purged(Digest),
    /// A registry refused a client's credential for a blob.
    Refused { digest: Digest, credential: ReadCredential, failure: Failure },
}

/// How a child's request comes out: the piece to send, or why there is none.
type Granted = oneshot::Sender<Result<u32, UploadRefusal>>;

/// What a client reads of a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// All of it: its last piece is to be had once the whole is verified.
    Whole,
    /// These pieces, each as soon as it is here: nobody takes a part for the whole.
    Part(PieceSet),
}

impl Wish {
    fn pieces(&self, layout: Layout) -> PieceSet {
        match self {
            Self::Whole => PieceSet::full(layout.piece_count()),
            Self::Part(pieces) if pieces.len() == layout.piece_count() => pieces.clone(),
            // The blob has another size than was claimed. The client is told, and asks again.
            Self::Part(_) => PieceSet::new(layout.piece_count()),
        }
    }
}

/// A wish for a blob: a client's, with its credential, or the scheduler's.
pub(crate) struct Want {
    digest: Digest,
    layout: Layout,
    pieces: PieceSet,
    file: Arc<BlobFile>,
    credential: Option<ReadCredential>,
    /// `None`: the blob was purged after it was opened.
    live: oneshot::Sender<Option<Arc<Live>>>,
}

impl std::fmt::Debug for Swarm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Swarm({} blobs)", self.lives.len())
    }
}

impl Swarm {
    /// The handle, and the driver's end of it.
    pub(crate) fn new(store: Store) -> (Self, mpsc::Receiver<Event>) {
        let (events, waiting) = mpsc::channel(EVENTS_WAITING);
        let lives = Lives::default();
        for held in store.inventory() {
            let live = Live::new(held.digest, held.layout, held.pieces, held.hearsay, held.complete);
            lives.insert(held.digest, Arc::new(live));
        }
        (Self { events, lives, store, next_reader: Arc::default(), next_upload: Arc::default() }, waiting)
    }

    /// Tells the core. Nothing is told once the driver has ended.
    pub(crate) async fn tell(&self, input: Input) {
        self.send(Event::Input(input)).await;
    }

    /// A piece on disk is not what it was. From here on nobody is told that it can be read,
    /// nor that the blob is complete: whoever wants it next starts to fetch it.
    pub(crate) async fn damaged(&self, digest: Digest, piece: u32) {
        if let Some(live) = self.live(digest) {
            live.lose(piece);
        }
        self.tell(Input::Damaged { digest, piece }).await;
    }

    pub(crate) async fn send(&self, event: Event) {
        // Without a driver the daemon is stopping.
        let _ = self.events.send(event).await;
    }

    /// The blob, if anything is held or fetched of it.
    pub(crate) fn live(&self, digest: Digest) -> Option<Arc<Live>> {
        self.lives.get(&digest).map(|live| live.clone())
    }

    /// How many blobs are known, and how many of them are complete.
    pub(crate) fn counts(&self) -> (usize, usize) {
        (self.lives.len(), self.lives.iter().filter(|live| live.is_complete()).count())
    }

    /// The blob, being fetched as far as it is wished for if it is not complete. The credential is what the registry
    /// may be asked with. The layout is a claim: where the blob was seen with another size, it comes
    /// with that; while another claim is tried, this one waits.
    ///
    /// # Errors
    ///
    /// If the store has no room for it, or holds pieces that were cut for another size, or another
    /// claim takes long.
    pub(crate) async fn want(
        &self,
        digest: Digest,
        layout: Layout,
        wish: &Wish,
        credential: ReadCredential,
    ) -> Result<Arc<Live>, Failure> {
        self.wish(digest, layout, wish, Some(credential)).await
    }

    /// Has pieces of other peers for those that wait for them elsewhere: the scheduler says so.
    async fn relay(&self, digest: Digest, layout: Layout, pieces: PieceSet) {
        if let Err(failure) = self.wish(digest, layout, &Wish::Part(pieces), None).await {
            tracing::debug!(task = %digest.short(), reason = failure.message, "relay");
        }
    }

    async fn wish(
        &self,
        digest: Digest,
        layout: Layout,
        wish: &Wish,
        credential: Option<ReadCredential>,
    ) -> Result<Arc<Live>, Failure> {
        loop {
            let seen = timeout(CLAIM_WAIT, self.settled(digest, layout)).await;
            let known = seen.map_err(|_| contested(digest))?;
            if let Some(complete) = known.as_ref().filter(|live| live.is_complete()) {
                return Ok(Arc::clone(complete));
            }
            let layout = known.map_or(layout, |live| live.layout());
            let file = self.store.begin(digest, layout).await.map_err(|error| no_room(&error))?;
            let (sender, live) = oneshot::channel();
            let (pieces, credential) = (wish.pieces(layout), credential.clone());
            self.send(Event::Wanted(Want { digest, layout, pieces, file, credential, live: sender })).await;
            if let Some(live) = live.await.map_err(|_| stopping())? {
                return Ok(live);
            }
        }
    }

    /// The blob, if it is known with this layout or was seen with another. Waits while it is only claimed
    /// to have another.
    async fn settled(&self, digest: Digest, layout: Layout) -> Option<Arc<Live>> {
        loop {
            let live = self.live(digest)?;
            if !live.has_failed() && (live.layout() == layout || live.seen().await) {
                return Some(live);
            }
            live.gone().await;
        }
    }

    /// Waits until nothing is left of a download that failed: what comes next would be purged with it.
    async fn cleared(&self, digest: Digest) {
        while let Some(failed) = self.live(digest).filter(|live| live.has_failed()) {
            failed.gone().await;
        }
    }

    /// Keeps a whole blob that came in one go and that these registries gave, and lets clients and other peers have it.
    ///
    /// # Errors
    ///
    /// In words, if its SHA-256 is another, or the store has no room for it. What was written of it
    /// stays, for the next download.
    pub(crate) async fn keep(
        &self,
        digest: Digest,
        layout: Layout,
        bytes: Bytes,
        origins: &Origins,
    ) -> Result<(), String> {
        if bytes.len() as u64 != layout.size() || Digest::of(&bytes) != digest {
            return Err("other bytes came".to_owned());
        }
        self.cleared(digest).await;
        let file = self.store.begin(digest, layout).await.map_err(|error| error.to_string())?;
        let writes = (0..layout.piece_count()).map(|piece| {
            let range = layout.piece_range(piece);
            let within = |offset: u64| usize::try_from(offset).expect("the blob is in memory");
            let bytes = bytes.slice(within(range.start)..within(range.end));
            self.store.write(&file, piece, PieceHash::of(&bytes), bytes, origins.clone(), false)
        });
        try_join_all(writes).await.map_err(|error| error.to_string())?;
        self.store.complete(&file).await.map_err(|error| error.to_string())?;
        let (sender, known) = oneshot::channel();
        self.send(Event::Kept { digest, layout, known: sender }).await;
        known.await.map_err(|_| "this peer is stopping".to_owned())
    }

    /// Waits until a child's request has its turn.
    ///
    /// # Errors
    ///
    /// If the core refuses it.
    pub(crate) async fn upload(
        &self,
        child: &PeerId,
        digest: Digest,
        wish: UploadWish,
    ) -> Result<Turn, UploadRefusal> {
        let upload = UploadId(self.next_upload.fetch_add(1, Ordering::Relaxed));
        let request = Request::new(self.clone(), upload);
        let (granted, turn) = oneshot::channel();
        self.send(Event::UploadAsked { upload, child: child.clone(), digest, wish, granted }).await;
        // Without a driver the daemon is stopping.
        let piece = turn.await.unwrap_or(Err(UploadRefusal::Busy))?;
        Ok(request.granted(piece))
    }

    /// Marks a client as reading from a piece on, until the guard is dropped.
    pub(crate) async fn read_from(&self, live: Arc<Live>, piece: u32) -> Reading {
        let reader = self.next_reader.fetch_add(1, Ordering::Relaxed);
        if let Some(piece) = live.join_reader(reader, piece) {
            self.tell(Input::ReaderMoved { digest: live.digest(), piece }).await;
        }
        Reading { swarm: self.clone(), live, reader }
    }
}

/// A client that reads. Dropped, it reads no more.
pub(crate) struct Reading {
    swarm: Swarm,
    live: Arc<Live>,
    reader: u64,
}

impl Reading {
    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Waits until a client that wishes for this may have the piece.
    ///
    /// # Errors
    ///
    /// If the download fails first.
    pub(crate) async fn released(&self, wish: &Wish, piece: u32) -> Result<(), Failure> {
        match wish {
            Wish::Whole => self.live.released(piece).await,
            Wish::Part(_) => self.live.held(piece).await,
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        if let Some(piece) = self.live.leave_reader(self.reader) {
            let moved = Input::ReaderMoved { digest: self.live.digest(), piece };
            // A hint to the planner: where the driver is busy it is not worth waiting for.
            let _ = self.swarm.events.try_send(Event::Input(moved));
        }
    }
}

/// How long a client waits while the blob is read as somebody else claims it to be.
const CLAIM_WAIT: Duration = Duration::from_secs(5);

/// Events that may wait for the driver; beyond, whoever tells waits.
const EVENTS_WAITING: usize = 4096;

fn no_room(error: &BeginError) -> Failure {
    match error {
        BeginError::SizeDiffers { held_size, .. } => {
            Failure::new(502, "SIZE_INVALID", error.to_string(), FailureCause::OtherSize(*held_size))
        }
        BeginError::Empty | BeginError::NoRoom { .. } | BeginError::Io { .. } => {
            store_failure(&error.to_string())
        }
    }
}

fn contested(digest: Digest) -> Failure {
    let message = format!("{digest} is being read with another size than its manifest says");
    Failure::new(502, "SIZE_INVALID", message, FailureCause::Contested)
}

/// For those who follow a blob that is gone.
fn evicted() -> Failure {
    Failure::unavailable("the blob was evicted from this peer's store".into())
}

fn stopping() -> Failure {
    Failure::unavailable("this peer is stopping".into())
}
