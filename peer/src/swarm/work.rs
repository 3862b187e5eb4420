//! What the driver sets going: each piece of work runs by itself and ends by telling.

use std::sync::Arc;
use std::time::Duration;

use flotilla_peer_core::{FetchError, Input, Patience};
use flotilla_proto::{Digest, Failure, FailureCause, Layout, PeerId, PieceHash, PieceSet, Root};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::driver::DriverParts;
use super::{Event, Live, Lives, Swarm};
use crate::egress::Egress;
use crate::metrics::{PieceBytes, PieceSource};
use crate::seed::Seed;
use crate::source::{ReadCredential, ReadError, ReadSummary, SourcePiece};
use crate::store::{BlobFile, ReadPieceError, Store};
use crate::transport::{Offered, Received, Transport};

/// A piece to be had from another peer.
pub(super) struct PieceOrder {
    pub(super) digest: Digest,
    pub(super) layout: Layout,
    /// The blob, if it is open already.
    pub(super) file: Option<Arc<BlobFile>>,
    pub(super) parent: PeerId,
    pub(super) patience: Patience,
}

/// Which piece, and what is known of it.
pub(super) struct Asked {
    pub(super) piece: u32,
    pub(super) hash: PieceHash,
    /// Whether only peers say that it hashes to that.
    pub(super) hearsay: bool,
    pub(super) picked: bool,
}

/// Pieces to be had from the registry.
pub(super) struct ReadTask {
    pub(super) digest: Digest,
    pub(super) layout: Layout,
    pub(super) pieces: PieceSet,
    /// No piece at or above it is read for the present.
    pub(super) until: watch::Receiver<u32>,
}

/// What work is done with; a clone works with the same.
#[derive(Clone)]
pub(super) struct Work {
    pub(super) swarm: Swarm,
    pub(super) store: Store,
    pub(super) transport: Transport,
    egress: Arc<Egress>,
    seed: Option<Arc<Seed>>,
    piece_bytes: PieceBytes,
    /// KiB of pieces that may be on their way here at a time, over all downloads.
    receiving: Arc<Semaphore>,
}

impl Work {
    pub(super) fn new(parts: DriverParts) -> Self {
        let DriverParts { swarm, store, transport, egress, seed, piece_bytes, readiness: _ } = parts;
        let receiving = Arc::new(Semaphore::new(RECEIVE_BUDGET_KIB));
        Self { swarm, store, transport, egress, seed, piece_bytes, receiving }
    }

    /// Fetches a piece from another peer, verifies it, writes it.
    pub(super) async fn fetch(&self, order: PieceOrder, asked: Asked) {
        let Asked { piece, hash, hearsay, picked } = asked;
        let _budget = self.room(order.layout).await;
        let blob = (order.digest, order.layout);
        let fetched = self.transport.fetch_piece(&order.parent, blob, piece, picked, order.patience).await;
        let kept = match fetched {
            Ok(received) => self.keep(&order, (piece, hash, hearsay), received).await,
            Err(error) => Err(error),
        };
        let digest = order.digest;
        match kept {
            Ok(Some(first_byte)) => {
                self.swarm.tell(Input::Fetched { digest, piece, hearsay, first_byte }).await;
            }
            Ok(None) => {}
            Err(error) => {
                note_failure(&order, Some(piece), error);
                self.swarm.tell(Input::FetchFailed { digest, piece, error }).await;
            }
        }
    }

    /// Asks another peer for a piece of its choice, verifies it, writes it.
    pub(super) async fn take(&self, order: PieceOrder, lacking: PieceSet) {
        let _budget = self.room(order.layout).await;
        let (digest, parent) = (order.digest, order.parent.clone());
        let taken = async {
            let blob = (digest, order.layout);
            let chosen = self.transport.take_piece(&parent, blob, &lacking, order.patience).await?;
            let (piece, hash) = (chosen.piece, chosen.hash);
            self.swarm.tell(Input::TakeBegun { digest, parent: parent.clone(), piece }).await;
            let received = chosen.receive(order.patience).await?;
            let kept = self.keep(&order, (piece, hash, false), received).await?;
            Ok(kept.map(|first_byte| (piece, first_byte)))
        };
        match taken.await {
            Ok(Some((piece, first_byte))) => {
                self.swarm.tell(Input::Taken { digest, parent, piece, first_byte }).await;
            }
            Ok(None) => {}
            Err(error) => {
                note_failure(&order, None, error);
                self.swarm.tell(Input::TakeFailed { digest, parent, error }).await;
            }
        }
    }

    /// Waits until the node may receive one more piece.
    async fn room(&self, layout: Layout) -> SemaphorePermit<'_> {
        self.receiving.acquire_many(layout.piece_len().bytes() / 1024).await.expect("never closed")
    }

    /// Verifies a piece and writes it. `None` where the disk fails, and the download with it.
    async fn keep(
        &self,
        order: &PieceOrder,
        (piece, hash, hearsay): (u32, PieceHash, bool),
        received: Received,
    ) -> Result<Option<Duration>, FetchError> {
        let Received { bytes, origins, first_byte } = received;
        if PieceHash::of(&bytes) != hash {
            return Err(FetchError::Corrupt);
        }
        let len = bytes.len() as u64;
        let written = async {
            let file = match order.file.clone() {
                Some(file) => file,
                None => {
                    self.swarm.cleared(order.digest).await;
                    self.store.begin(order.digest, order.layout).await.map_err(|error| error.to_string())?
                }
            };
            let written = self.store.write(&file, piece, hash, bytes, origins, hearsay).await;
            written.map_err(|error| error.to_string())
        };
        match written.await {
            Ok(()) => {
                let seed = self.transport.is_seed(&order.parent);
                self.piece_bytes.add(if seed { PieceSource::Seed } else { PieceSource::Peer }, len);
                Ok(Some(first_byte))
            }
            Err(reason) => {
                self.give_up(order.digest, &reason).await;
                Ok(None)
            }
        }
    }

    /// Follows what a partner holds, and tells.
    pub(super) async fn follow(&self, digest: Digest, layout: Layout, partner: PeerId) {
        let (told, mut news) = mpsc::channel(NEWS_AHEAD);
        let hear = async {
            while let Some((pieces, hashes)) = news.recv().await {
                let partner = partner.clone();
                self.swarm.tell(Input::PartnerHolds { digest, partner, pieces, hashes }).await;
            }
        };
        let follow = async {
            let ended = self.transport.follow(&partner, (digest, layout), &told).await;
            drop(told);
            ended
        };
        if let (Err(error), ()) = tokio::join!(follow, hear) {
            tracing::debug!(task = %digest.short(), %partner, %error, "follow a partner");
        }
        self.swarm.tell(Input::FollowEnded { digest, partner }).await;
    }

    /// Hands a client's credential to the seed that reads the blob.
    pub(super) async fn offer(&self, digest: Digest, seed: &PeerId, credential: ReadCredential) {
        match self.egress.offer(seed, digest, &credential).await {
            Ok(Offered::Confirmed) => {}
            Ok(Offered::Refused(refusal)) => {
                let failure = refused(&credential, &refusal);
                self.swarm.send(Event::Refused { digest, credential, failure }).await;
            }
            // The seed's own trouble is the scheduler's to see; it names another.
            Err(error) => tracing::debug!(task = %digest.short(), %seed, %error, "offer a credential"),
        }
    }

    /// Reads pieces from the registry and writes them, as fast as the disk takes them and as
    /// far as the scheduler lets it.
    pub(super) async fn read(&self, task: ReadTask, lives: Lives, cancel: CancellationToken) {
        let ReadTask { digest, layout, pieces, until } = task;
        let Some(seed) = &self.seed else {
            tracing::warn!(task = %digest.short(), "ordered to read from the registry, but this peer is no seed");
            return self.source_failed(digest, not_a_seed()).await;
        };
        self.swarm.cleared(digest).await;
        let file = match self.store.begin(digest, layout).await {
            Ok(file) => file,
            Err(error) => return self.source_failed(digest, store_failure(&error.to_string())).await,
        };
        if !open_for_read(&lives, digest, layout, &file, &cancel) {
            return;
        }
        let lacking = pieces.difference(&file.pieces().difference(&file.hearsay()));
        // What came by another read since this one was ordered.
        for piece in pieces.difference(&lacking).iter() {
            if let Some(hash) = file.hash_of(piece) {
                self.swarm.tell(Input::SourceRead { digest, piece, hash }).await;
            }
        }
        let (sink, read) = mpsc::channel(PIECES_AHEAD);
        let reading = seed.read(digest, layout, lacking, until, sink, cancel.clone());
        let (result, ()) = tokio::join!(reading, self.keep_source_pieces(file, read, cancel.clone()));
        match result {
            Ok(ReadSummary { is_verified, source_bytes, .. }) => {
                tracing::debug!(task = %digest.short(), source_bytes, is_verified, "source read ended");
                self.swarm.tell(Input::SourceEnded { digest, result: Ok(is_verified) }).await;
            }
            Err(ReadError::Cancelled) => {}
            Err(error) => {
                tracing::warn!(task = %digest.short(), %error, "source read failed");
                self.source_failed(digest, source_failure(&error)).await;
            }
        }
    }

    /// Writes several pieces at a time, so that the disk's writer can commit them together.
    async fn keep_source_pieces(
        &self,
        file: Arc<BlobFile>,
        mut read: mpsc::Receiver<SourcePiece>,
        cancel: CancellationToken,
    ) {
        let mut writes = JoinSet::new();
        while let Some(piece) = read.recv().await {
            if writes.len() >= WRITES_AT_ONCE {
                writes.join_next().await;
            }
            writes.spawn(self.clone().keep_source_piece(file.clone(), piece, cancel.clone()));
        }
        writes.join_all().await;
    }

    async fn keep_source_piece(self, file: Arc<BlobFile>, read: SourcePiece, cancel: CancellationToken) {
        let SourcePiece { piece, hash, bytes, origins, .. } = read;
        let (digest, len) = (file.digest(), bytes.len() as u64);
        match self.store.write(&file, piece, hash, bytes, origins, false).await {
            Ok(()) => {
                self.piece_bytes.add(PieceSource::Registry, len);
                self.swarm.tell(Input::SourceRead { digest, piece, hash }).await;
            }
            Err(_) if cancel.is_cancelled() => {}
            Err(error) => {
                cancel.cancel();
                self.give_up(digest, &error.to_string()).await;
            }
        }
    }

    async fn source_failed(&self, digest: Digest, failure: Failure) {
        self.swarm.tell(Input::SourceEnded { digest, result: Err(failure) }).await;
    }

    /// Hashes the blob from end to end, following its pieces as they reach the disk.
    pub(super) async fn hash(&self, live: &Live) {
        let digest = live.digest();
        match self.hash_pieces(live).await {
            Ok(Some((found, root))) => {
                let result = if found == digest { Ok(()) } else { Err(root) };
                self.swarm.tell(Input::Hashed { digest, result }).await;
            }
            // The download failed meanwhile.
            Ok(None) => {}
            Err(failure) => {
                tracing::warn!(task = %digest.short(), reason = failure.message, "a blob is not hashed");
                self.swarm.tell(Input::GivenUp { digest, failure }).await;
            }
        }
    }

    /// The SHA-256 of all pieces, and of which list they are.
    async fn hash_pieces(&self, live: &Live) -> Result<Option<(Digest, Root)>, Failure> {
        let opened = self.store.begin(live.digest(), live.layout()).await;
        let file = opened.map_err(|error| store_failure(&error.to_string()))?;
        let (mut hasher, mut hashes) = (Sha256::new(), Vec::new());
        for piece in 0..live.layout().piece_count() {
            let mut was_missed = false;
            let bytes = loop {
                if live.held(piece).await.is_err() {
                    return Ok(None);
                }
                match self.store.read(&file, piece).await {
                    Ok(bytes) => break bytes,
                    Err(ReadPieceError::Corrupt { digest, piece }) => {
                        self.swarm.damaged(digest, piece).await;
                    }
                    // It went with its download; what is on the disk now is another's, who must not suffer.
                    Err(ReadPieceError::NotHeld { .. }) if live.has_failed() => return Ok(None),
                    // Another reader may have found it damaged just now.
                    Err(ReadPieceError::NotHeld { digest, piece }) if !was_missed => {
                        was_missed = true;
                        self.swarm.damaged(digest, piece).await;
                    }
                    Err(error @ ReadPieceError::NotHeld { .. }) => return Err(purged(&error)),
                    Err(error @ ReadPieceError::Io { .. }) => return Err(store_failure(&error.to_string())),
                }
            };
            hashes.push(file.hash_of(piece));
            let update = move || {
                hasher.update(&bytes);
                hasher
            };
            hasher = tokio::task::spawn_blocking(update).await.expect("hashing does not panic");
        }
        Ok(Some((Digest::from_bytes(hasher.finalize().into()), Root::of(hashes))))
    }

    /// Keeps a blob whose SHA-256 is right, and lets clients have its last piece.
    pub(super) async fn complete(&self, live: &Live) {
        let kept = async {
            let file =
                self.store.begin(live.digest(), live.layout()).await.map_err(|error| error.to_string())?;
            self.store.complete(&file).await.map_err(|error| error.to_string())
        };
        if let Err(reason) = kept.await {
            // The bytes are right all the same; only the next start finds the blob unfinished.
            tracing::warn!(task = %live.digest().short(), reason, "keep a complete blob");
        }
        live.complete();
    }

    async fn give_up(&self, digest: Digest, reason: &str) {
        tracing::warn!(task = %digest.short(), reason, "the store cannot keep a blob");
        self.swarm.tell(Input::GivenUp { digest, failure: store_failure(reason) }).await;
    }
}

/// Opens the blob that is to be read, unless the read was stopped meanwhile: nobody would close it.
/// Whoever stops a read cancels it first, and closes the blob then.
fn open_for_read(
    lives: &Lives,
    digest: Digest,
    layout: Layout,
    file: &BlobFile,
    cancel: &CancellationToken,
) -> bool {
    let entry = lives.entry(digest);
    let goes_on = !cancel.is_cancelled();
    if goes_on {
        entry.or_insert_with(|| Arc::new(Live::new(digest, layout, file.pieces(), file.hearsay(), false)));
    }
    goes_on
}

fn note_failure(order: &PieceOrder, piece: Option<u32>, error: FetchError) {
    let (task, parent) = (order.digest.short(), &order.parent);
    if error == FetchError::Corrupt {
        tracing::warn!(%task, piece, %parent, "a parent sent a corrupt piece");
    } else {
        tracing::debug!(%task, piece, %parent, ?error, "fetch failed");
    }
}

/// The client whose credential was refused reads the registry's own status.
fn refused(credential: &ReadCredential, refusal: &http::Response<bytes::Bytes>) -> Failure {
    let status = refusal.status();
    let code = match status.as_u16() {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "BLOB_UNKNOWN",
        _ => "UNKNOWN",
    };
    let message =
        format!("{} answered {status} for a blob of {}", credential.upstream, credential.repository);
    Failure::new(status.as_u16(), code, message, FailureCause::Source)
}

fn source_failure(error: &ReadError) -> Failure {
    let (status, code, cause) = match error {
        ReadError::Refused { answer, .. } => (answer.status.as_u16(), "DENIED", FailureCause::Source),
        ReadError::DigestMismatch { .. } => (502, "DIGEST_INVALID", FailureCause::WrongBytes),
        ReadError::OtherSize { size, .. } => (502, "SIZE_INVALID", FailureCause::OtherSize(*size)),
        ReadError::Upstream(_) => (404, "NAME_UNKNOWN", FailureCause::Source),
        ReadError::Endpoint { cause, .. } => {
            let code = if cause.status() == 429 { "TOOMANYREQUESTS" } else { "UNAVAILABLE" };
            (cause.status(), code, FailureCause::Source)
        }
        ReadError::NoCredential | ReadError::Cancelled => (502, "UNAVAILABLE", FailureCause::Source),
    };
    Failure::new(status, code, error.to_string(), cause)
}

pub(super) fn store_failure(reason: &str) -> Failure {
    Failure::unavailable(format!("this peer cannot store the blob: {reason}"))
}

/// The blob was purged after this download had looked at what is on the disk: whoever still wants it begins anew.
fn purged(error: &ReadPieceError) -> Failure {
    Failure::new(503, "UNAVAILABLE", format!("the blob was purged: {error}"), FailureCause::Source)
}

fn not_a_seed() -> Failure {
    let message = "a peer that is no seed was ordered to read from the registry".into();
    Failure::new(502, "UNAVAILABLE", message, FailureCause::Region)
}

/// 64 MiB, the node's receive budget (docs/design.md §5).
const RECEIVE_BUDGET_KIB: usize = 64 << 10;

/// What a partner told that may wait for the core.
const NEWS_AHEAD: usize = 4;

/// Pieces read from the registry that may wait for the disk.
const PIECES_AHEAD: usize = 2;

/// Pieces handed to the disk at a time: its writer commits what waits together.
const WRITES_AT_ONCE: usize = 8;
