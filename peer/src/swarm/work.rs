//! What the driver sets going: each piece of work runs by itself and ends by telling.

use std::sync::Arc;
use std::time::Duration;

use flotilla_peer_core::{Failure, FetchError, Input};
use flotilla_proto::{Digest, Layout, PeerId, PieceHash, PieceSet};
use sha2::{Digest as _, Sha256};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::driver::DriverParts;
use super::{Event, Live, Lives, Swarm};
use crate::egress::Egress;
use crate::metrics::{PieceBytes, PieceSource};
use crate::seed::Seed;
use crate::source::{ReadCredential, ReadError, ReadSummary, SourcePiece};
use crate::store::{BlobFile, ReadPieceError, Store};
use crate::transport::{Offered, Transport};

/// What work is done with; a clone works with the same.
#[derive(Clone)]
pub(super) struct Work {
    swarm: Swarm,
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
    #[expect(clippy::too_many_arguments, reason = "the fields of Output::Fetch, taken apart once")]
    pub(super) async fn fetch(
        &self,
        digest: Digest,
        layout: Layout,
        file: Option<Arc<BlobFile>>,
        piece: u32,
        parent: PeerId,
        hash: PieceHash,
        stall: Duration,
    ) {
        let kib = layout.piece_len().bytes() / 1024;
        let _budget = self.receiving.acquire_many(kib).await.expect("never closed");
        let fetched = self.transport.fetch_piece(&parent, digest, layout, piece, stall).await;
        let bytes = match fetched {
            Ok(bytes) if PieceHash::of(&bytes) == hash => bytes,
            Ok(_) => return self.fetch_failed(digest, piece, &parent, FetchError::Corrupt).await,
            Err(error) => return self.fetch_failed(digest, piece, &parent, error).await,
        };
        let len = bytes.len() as u64;
        let written = async {
            let file = match file {
                Some(file) => file,
                None => self.store.begin(digest, layout).await.map_err(|error| error.to_string())?,
            };
            self.store.write(&file, piece, hash, bytes).await.map_err(|error| error.to_string())
        };
        match written.await {
            Ok(()) => {
                let seed = self.transport.is_seed(&parent);
                self.piece_bytes.add(if seed { PieceSource::Seed } else { PieceSource::Peer }, len);
                self.swarm.tell(Input::Fetched { digest, piece }).await;
            }
            Err(reason) => self.give_up(digest, &reason).await,
        }
    }

    async fn fetch_failed(&self, digest: Digest, piece: u32, parent: &PeerId, error: FetchError) {
        if error == FetchError::Corrupt {
            tracing::warn!(task = %digest.short(), piece, %parent, "a parent sent a corrupt piece");
        } else {
            tracing::debug!(task = %digest.short(), piece, %parent, ?error, "fetch failed");
        }
        self.swarm.tell(Input::FetchFailed { digest, piece, error }).await;
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

    /// Reads pieces from the registry and writes them, as fast as the disk takes them.
    pub(super) async fn read(
        &self,
        digest: Digest,
        layout: Layout,
        pieces: PieceSet,
        lives: Lives,
        cancel: CancellationToken,
    ) {
        let Some(seed) = &self.seed else {
            tracing::warn!(task = %digest.short(), "ordered to read from the registry, but this peer is no seed");
            return self.source_failed(digest, not_a_seed()).await;
        };
        let file = match self.store.begin(digest, layout).await {
            Ok(file) => file,
            Err(error) => return self.source_failed(digest, store_failure(&error.to_string())).await,
        };
        lives.entry(digest).or_insert_with(|| Arc::new(Live::new(digest, layout, file.pieces(), false)));
        let (sink, read) = mpsc::channel(PIECES_AHEAD);
        let reading = seed.read(digest, layout, pieces, sink, cancel.clone());
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
        let SourcePiece { piece, hash, bytes } = read;
        let (digest, len) = (file.digest(), bytes.len() as u64);
        match self.store.write(&file, piece, hash, bytes).await {
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
            Ok(Some(found)) => {
                self.swarm.tell(Input::Hashed { digest, matches: found == digest }).await;
            }
            // The download failed meanwhile.
            Ok(None) => {}
            Err(reason) => self.give_up(digest, &reason).await,
        }
    }

    async fn hash_pieces(&self, live: &Live) -> Result<Option<Digest>, String> {
        let opened = self.store.begin(live.digest(), live.layout()).await;
        let file = opened.map_err(|error| error.to_string())?;
        let mut hasher = Sha256::new();
        for piece in 0..live.layout().piece_count() {
            let bytes = loop {
                if live.held(piece).await.is_err() {
                    return Ok(None);
                }
                match self.store.read(&file, piece).await {
                    Ok(bytes) => break bytes,
                    Err(ReadPieceError::Corrupt { digest, piece }) => {
                        self.swarm.damaged(digest, piece).await;
                    }
                    Err(error) => return Err(error.to_string()),
                }
            };
            let update = move || {
                hasher.update(&bytes);
                hasher
            };
            hasher = tokio::task::spawn_blocking(update).await.expect("hashing does not panic");
        }
        Ok(Some(Digest::from_bytes(hasher.finalize().into())))
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
    Failure { status: status.as_u16(), code: code.into(), message, poisoned: false }
}

fn source_failure(error: &ReadError) -> Failure {
    let (status, code, poisoned) = match error {
        ReadError::Refused { answer, .. } => (answer.status.as_u16(), "DENIED", false),
        ReadError::RateLimited { .. } => (429, "TOOMANYREQUESTS", false),
        ReadError::DigestMismatch { .. } => (502, "DIGEST_INVALID", true),
        ReadError::Upstream(_) => (404, "NAME_UNKNOWN", false),
        ReadError::NoCredential | ReadError::Endpoint { .. } | ReadError::Cancelled => {
            (502, "UNAVAILABLE", false)
        }
    };
    Failure { status, code: code.into(), message: error.to_string(), poisoned }
}

fn store_failure(reason: &str) -> Failure {
    Failure {
        status: 503,
        code: "UNAVAILABLE".into(),
        message: format!("this peer cannot store the blob: {reason}"),
        poisoned: false,
    }
}

fn not_a_seed() -> Failure {
    Failure {
        status: 502,
        code: "UNAVAILABLE".into(),
        message: "a peer that is no seed was ordered to read from the registry".into(),
        poisoned: false,
    }
}

/// 64 MiB, the node's receive budget (DESIGN.md §7).
const RECEIVE_BUDGET_KIB: usize = 64 << 10;

/// Pieces read from the registry that may wait for the disk.
const PIECES_AHEAD: usize = 2;

/// Pieces handed to the disk at a time: its writer commits what waits together.
const WRITES_AT_ONCE: usize = 8;
