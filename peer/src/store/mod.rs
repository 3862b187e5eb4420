//! The piece store of one peer: crash-safe, verified, bounded.
//!
//! Below one folder lie `index.redb`, `partial/<hex>`, `blobs/sha256/<hex>` and `lock`. The index says
//! what is held; a file it does not speak of is removed at the next open. Three promises:
//!
//! * **Held means held.** [`Store::write`] returns once the piece survives `kill -9` and a power cut: its
//!   bytes are synced before the index knows of them.
//! * **What is read is what was written.** Each read from the disk checks the piece's BLAKE3. A piece that
//!   fails is dropped and the error says so; its bytes go nowhere. A piece of late is read from memory.
//! * **Bounded.** The pieces that are held never exceed the quota; the least recently used blobs that nobody has
//!   open make room for pieces that came. A size that is only claimed takes and evicts nothing. Every map
//!   here has an entry for each blob (at most 65 536, and those that somebody has begun) or piece of such a blob;
//!   the queue to the writer holds 32 MiB, and callers wait while it is full; eight reads go on at a time.
//!
//! One thread owns all changes (`writer.rs`). Reads pass it by. Whether a whole blob has the right SHA-256,
//! and what is announced to whom, is for others to decide.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use bytesize::ByteSize;
use flotilla_daemon::files::create_closed_dir;
use flotilla_proto::{Digest, Layout, Origins, PieceHash, PieceSet, RegistryMark, Root, Variant};
use prometheus_client::registry::Registry;
use serde::{Deserialize, Serialize};
use tokio::sync::{Semaphore, mpsc, oneshot};

mod blob_file;
mod catalog;
mod deliveries;
mod error;
mod files;
mod index;
mod metrics;
mod recent;
mod recovery;
mod trouble;
mod writer;

pub use self::blob_file::BlobFile;
pub use self::error::{BeginError, CompleteError, OpenBlobError, OpenStoreError, ReadPieceError, WriteError};
pub use self::index::IndexError;

use self::blob_file::PieceFault;
use self::catalog::{Catalog, Entry, MAX_BLOBS};
use self::files::{Files, Place};
use self::index::{BlobRow, Change, Index};
use self::metrics::Metrics;
use self::recent::Recent;
use self::recovery::RecoverError;
use self::trouble::Trouble;
use self::writer::{Command, PieceWrite, Queued, Writer};

/// Bytes that may wait for the writer or be in its hands.
const QUEUE_BYTES: u32 = 32 << 20;
/// What any command takes of [`QUEUE_BYTES`] at least, so that small ones are bounded too: 512 of them.
const COMMAND_BYTES: u32 = 64 << 10;
/// Reads in progress at a time: with pieces of at most 4 MiB, 32 MiB. Others wait in order.
const READS_AT_ONCE: usize = 8;

/// `[store]` of the peer's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StoreConfig {
    /// Bytes that all blobs together may have, partial ones at their full size. The cache's own size,
    /// not the disk's. With 0 nothing is stored.
    #[serde(with = "flotilla_daemon::config::size")]
    pub quota: ByteSize,
}

impl Default for StoreConfig {
    fn default() -> Self {
        Self { quota: ByteSize::gib(50) }
    }
}

/// A handle to the store; clones share it.
///
/// When the last one is dropped, what is queued is written, the order of use is saved and the folder is
/// free for another store. That drop waits for the writer: at most 32 MiB of disk writes.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// One blob of which at least one piece is held.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldBlob {
    /// The blob's name.
    pub digest: Digest,
    /// How it is cut into pieces.
    pub layout: Layout,
    /// Which of them are held.
    pub pieces: PieceSet,
    /// Those of which only peers say what they hash to.
    pub hearsay: PieceSet,
    /// Whether the whole blob was found to have the right SHA-256.
    pub complete: bool,
}

impl Store {
    /// Opens the store in `dir`, making the folder if it is not there. Blocks while the index is checked
    /// and the folders are made to agree with it.
    ///
    /// The receiver tells which blobs were evicted, each before its file is unlinked, so that they can be
    /// un-announced; a digest may have been begun again by the time it is received. It must be drained:
    /// with 65 536 digests in it the writer waits. One call of [`Self::write`] sends no more than that.
    pub fn open(
        dir: &Path,
        config: &StoreConfig,
        metrics: &mut Registry,
    ) -> Result<(Self, mpsc::Receiver<Digest>), OpenStoreError> {
        let io = |cause| OpenStoreError::Io { dir: dir.to_owned(), cause };
        let index_failed = |cause| OpenStoreError::Index { dir: dir.to_owned(), cause };
        create_closed_dir(dir).map_err(io)?;
        let lock = FolderLock::take(dir)?;
        let files = Files::create_folders(dir).map_err(io)?;
        let mut index = Index::open(&dir.join("index.redb")).map_err(index_failed)?;
        let catalog =
            recovery::recover(&mut index, &files, config.quota.as_u64()).map_err(|error| match error {
                RecoverError::Index(cause) => index_failed(cause),
                RecoverError::Io(cause) => io(cause),
            })?;
        let tombstones = index.tombstones().map_err(index_failed)?;
        let metrics = Metrics::register(metrics);
        let trouble = Trouble::new(dir, metrics.failures.clone());
        let shared = Shared { files, catalog: Mutex::new(catalog), metrics, trouble };
        shared.metrics.observe(&shared.catalog());
        let shared = Arc::new(shared);

        let (evictions, evicted) = mpsc::channel(MAX_BLOBS);
        let writer = Writer { shared: Arc::clone(&shared), index, evictions, _lock: lock };
        let (queue, commands) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(&commands))
            .map_err(io)?;
        let inner = Inner {
            shared,
            queue: Some(queue),
            room: Arc::new(Semaphore::new(QUEUE_BYTES as usize)),
            reads: Arc::new(Semaphore::new(READS_AT_ONCE)),
            recent: Recent::default(),
            tombstones,
            thread: Some(thread),
        };
        Ok((Self { inner: Arc::new(inner) }, evicted))
    }

    /// Everything that is held, in no order.
    pub fn inventory(&self) -> Vec<HeldBlob> {
        let entries: Vec<_> = self
            .catalog()
            .entries()
            .map(|(digest, entry)| (digest, Arc::clone(&entry.held), entry.complete))
            .collect();
        entries
            .into_iter()
            .map(|(digest, held, complete)| HeldBlob {
                digest,
                layout: held.layout(),
                pieces: held.pieces(),
                hearsay: held.hearsay(),
                complete,
            })
            .filter(|blob| !blob.pieces.is_empty())
            .collect()
    }

    /// The blob's held pieces in order, each with its hash, but those of which only peers say it; `None` if the blob is
    /// not in the store.
    pub fn hashes(&self, digest: Digest) -> Option<Vec<(u32, PieceHash)>> {
        let held = Arc::clone(&self.catalog().entry(digest)?.held);
        Some(held.hashes())
    }

    /// The hashes of these pieces of a blob, in order; `None` if one of them is not held.
    pub fn hashes_of(&self, digest: Digest, pieces: &PieceSet) -> Option<Vec<PieceHash>> {
        let held = Arc::clone(&self.catalog().entry(digest)?.held);
        held.hashes_of(pieces)
    }

    /// Opens a blob to write its pieces. A blob that is there, whole or in part, is opened as it is; of any other
    /// nothing is on disk, and nothing goes for it, before its first piece is written.
    ///
    /// # Errors
    ///
    /// If the blob could not be held beside those that somebody has open now, or pieces are held of
    /// another size.
    pub async fn begin(&self, digest: Digest, layout: Layout) -> Result<Arc<BlobFile>, BeginError> {
        if layout.size() == 0 {
            return Err(BeginError::Empty);
        }
        self.ask(0, |reply| Command::Begin { digest, layout, reply }).await
    }

    /// Whether anything is held of the blob, or somebody has begun it.
    pub(crate) fn knows(&self, digest: Digest) -> bool {
        let catalog = self.catalog();
        catalog.entry(digest).is_some() || catalog.begun_file(digest).is_some()
    }

    /// Whether only peers say what a piece hashes to; `None` where it is not held.
    pub(crate) fn is_hearsay(&self, digest: Digest, piece: u32) -> Option<bool> {
        self.catalog().entry(digest)?.held.is_hearsay(piece)
    }

    /// The whole is right, whoever told of its pieces: nothing replaces them any more.
    pub(crate) fn vouch_all(&self, digest: Digest) {
        if let Some(entry) = self.catalog().entry(digest) {
            entry.held.vouch_all();
        }
    }

    /// Whether pieces may be written through `file`: the blob was not purged since it was opened.
    pub(crate) fn is_current(&self, file: &BlobFile) -> bool {
        self.catalog().is_current(file)
    }

    /// Opens a blob that is in the store, whole or in part; `None` if it is not.
    pub async fn open_blob(&self, digest: Digest) -> Result<Option<Arc<BlobFile>>, OpenBlobError> {
        self.touch(digest);
        if let Some(file) = self.catalog().open_file(digest) {
            return Ok(Some(file));
        }
        let shared = Arc::clone(&self.inner.shared);
        blocking(move || shared.open_file(digest)).await.map_err(|cause| OpenBlobError { digest, cause })
    }

    /// Holds a piece that these registries gave. The caller has checked that `bytes` have this hash, which is `hearsay`
    /// where only peers say that it is the right one. It stands instead of another that was hearsay.
    ///
    /// `Ok` once the piece survives `kill -9`. A piece that is held with the same hash is `Ok` at once.
    /// If the caller stops waiting, the piece may be held or not.
    pub async fn write(
        &self,
        file: &Arc<BlobFile>,
        piece: u32,
        hash: PieceHash,
        bytes: Bytes,
        origins: Origins,
        hearsay: bool,
    ) -> Result<(), WriteError> {
        let digest = file.digest();
        if piece >= file.layout().piece_count() {
            return Err(WriteError::NoSuchPiece { digest, piece });
        }
        let expected = file.layout().piece_size(piece);
        if bytes.len() != expected as usize {
            return Err(WriteError::WrongLength { digest, piece, expected, len: bytes.len() });
        }
        debug_assert_eq!(PieceHash::of(&bytes), hash, "verified before it is written");
        let (file, written) = (Arc::clone(file), bytes.clone());
        let write = |reply| Command::Write(PieceWrite { file, piece, hash, bytes, origins, hearsay, reply });
        let held = self.ask(expected, write).await;
        match &held {
            Ok(()) => self.inner.shared.trouble.note(expected.into(), Ok(())),
            Err(error @ (WriteError::Io { .. } | WriteError::Index { .. })) => {
                self.inner.shared.trouble.note(expected.into(), Err(error));
            }
            // The disk was not asked.
            Err(_) => {}
        }
        held?;
        self.inner.recent.keep(digest, piece, hash, written);
        Ok(())
    }

    /// Reads a piece, from memory if it was written or read of late; from the disk its BLAKE3 is
    /// checked. One that fails is dropped from the store before this returns
    /// [`ReadPieceError::Corrupt`], and its blob is no longer complete.
    pub async fn read(&self, file: &Arc<BlobFile>, piece: u32) -> Result<Bytes, ReadPieceError> {
        let digest = file.digest();
        let Some(hash) = file.hash_of(piece) else {
            return Err(ReadPieceError::NotHeld { digest, piece });
        };
        self.touch(digest);
        if let Some(bytes) = self.inner.recent.piece(digest, piece, hash) {
            return Ok(bytes);
        }
        let reads = Arc::clone(&self.inner.reads);
        let turn = reads.acquire_owned().await.expect("never closed");
        let opened = Arc::clone(file);
        let read = blocking(move || {
            let _turn = turn;
            opened.read_piece(piece, hash)
        });
        match read.await {
            Ok(bytes) => {
                self.inner.recent.keep(digest, piece, hash, bytes.clone());
                Ok(bytes)
            }
            Err(PieceFault::Io(cause)) => Err(ReadPieceError::Io { digest, piece, cause }),
            Err(PieceFault::Corrupt) => {
                let file = Arc::clone(file);
                self.ask(0, |reply| Command::Recheck { file, piece, reply }).await;
                Err(ReadPieceError::Corrupt { digest, piece })
            }
        }
    }

    /// Makes the blob complete and its file one of `blobs/sha256/`. The caller has checked the SHA-256 of
    /// the whole. A blob that is complete already is `Ok`.
    pub async fn complete(&self, file: &Arc<BlobFile>) -> Result<(), CompleteError> {
        let file = Arc::clone(file);
        let done = self.ask(0, |reply| Command::Complete { file, reply }).await;
        if let Err(error @ (CompleteError::Io { .. } | CompleteError::Index { .. })) = &done {
            self.inner.shared.trouble.note(0, Err(error));
        }
        done
    }

    /// Remembers, beyond the blob's life, that a registry has delivered all of it, and it was right.
    pub async fn delivered(&self, digest: Digest, mark: RegistryMark) {
        self.ask(0, |reply| Command::Delivered { digest, mark, reply }).await;
    }

    /// Whether that registry is known to have delivered the whole blob.
    pub fn is_delivered(&self, digest: Digest, mark: RegistryMark) -> bool {
        self.catalog().deliveries.contains(digest, mark)
    }

    /// Forgets the blob and unlinks its file, open or not; true if it was there. Whoever has it open can
    /// still read what was held, and write nothing. With a root, that variant is remembered as purged.
    pub async fn purge(&self, digest: Digest, root: Option<Root>) -> bool {
        self.ask(0, |reply| Command::Purge { digest, root, reply }).await
    }

    /// Remembers that a variant was purged.
    pub async fn entomb(&self, variant: Variant) {
        self.ask(0, |reply| Command::Entomb { variant, reply }).await;
    }

    /// What was known to be purged when the store was opened, the oldest first; 1 024 at most.
    pub fn tombstones(&self) -> &[Variant] {
        &self.inner.tombstones
    }

    /// Makes the blob the last one to be evicted. Opening, reading and writing do so by themselves.
    /// Saved within half a minute, or with the next write.
    pub fn touch(&self, digest: Digest) {
        self.catalog().touch(digest);
    }

    /// Puts a command into the writer's queue, waiting until there is room, and waits for its answer.
    async fn ask<T>(&self, bytes: u32, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> T {
        let room = Arc::clone(&self.inner.room);
        let room = room.acquire_many_owned(bytes.max(COMMAND_BYTES)).await.expect("never closed");
        let (reply, answer) = oneshot::channel();
        let queue = self.inner.queue.as_ref().expect("open until the last handle is dropped");
        queue.send(Queued { command: command(reply), room }).expect("the writer outlives its queue");
        answer.await.expect("the writer answers every command")
    }

    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.inner.shared.catalog()
    }

    /// Lets every next read come from the disk.
    #[cfg(test)]
    fn forget_recent(&self) {
        self.inner.recent.clear();
    }
}

/// What all handles share. Ends the writer when the last of them goes.
struct Inner {
    shared: Arc<Shared>,
    /// `None` while being dropped.
    queue: Option<std::sync::mpsc::Sender<Queued>>,
    /// Bytes the queue still takes.
    room: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    recent: Recent,
    /// As of the opening.
    tombstones: Vec<Variant>,
    /// `None` while being dropped.
    thread: Option<JoinHandle<()>>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the store's writer panicked");
        }
    }
}

/// What the writer and the readers both need.
struct Shared {
    files: Files,
    /// Protects the in-memory view of the index. Held for look-ups and updates, never across IO or an
    /// await. Blobs come and go only in the writer, so what it saw under the lock stays true for it.
    catalog: Mutex<Catalog>,
    metrics: Metrics,
    trouble: Trouble,
}

impl Shared {
    fn catalog(&self) -> MutexGuard<'_, Catalog> {
        self.catalog.lock().expect("no panic while the catalog is locked")
    }

    /// Opens the blob, or joins whoever has it open. Blocks.
    ///
    /// The file is opened without the lock; if the blob was purged, evicted or completed meanwhile, that
    /// attempt does not count.
    fn open_file(&self, digest: Digest) -> io::Result<Option<Arc<BlobFile>>> {
        loop {
            let (held, complete) = {
                let catalog = self.catalog();
                if let Some(file) = catalog.open_file(digest) {
                    return Ok(Some(file));
                }
                let Some(entry) = catalog.entry(digest) else {
                    return Ok(None);
                };
                (Arc::clone(&entry.held), entry.complete)
            };
            let opened = self.files.open(digest, Place::of(complete));
            let mut catalog = self.catalog();
            if let Some(file) = catalog.open_file(digest) {
                return Ok(Some(file));
            }
            let unchanged = |entry: &Entry| Arc::ptr_eq(&entry.held, &held) && entry.complete == complete;
            if catalog.entry(digest).is_some_and(unchanged) {
                return opened.map(|file| Some(catalog.adopt(BlobFile::opened(digest, file, held))));
            }
        }
    }

    /// Takes the blob out of the catalog.
    fn forget(&self, digest: Digest) -> Option<Entry> {
        let mut catalog = self.catalog();
        let entry = catalog.remove(digest)?;
        self.metrics.observe(&catalog);
        Some(entry)
    }

    /// The row of the blob that `file` was opened for, unless it was purged since.
    fn current_row(&self, file: &BlobFile) -> Option<BlobRow> {
        self.catalog().current_entry(file).map(Entry::row)
    }

    /// Marks the blobs as used. Returns their rows, and those of all others used since the last save.
    fn touch_all(&self, digests: impl Iterator<Item = Digest>) -> Vec<Change> {
        let mut catalog = self.catalog();
        digests.for_each(|digest| catalog.touch(digest));
        catalog.take_unsaved()
    }
}

/// The folder's lock, held until this is dropped.
struct FolderLock(File);

impl FolderLock {
    fn take(dir: &Path) -> Result<Self, OpenStoreError> {
        let io = |cause| OpenStoreError::Io { dir: dir.to_owned(), cause };
        let file =
            File::options().write(true).create(true).truncate(false).open(dir.join("lock")).map_err(io)?;
        match file.try_lock() {
            Ok(()) => Ok(Self(file)),
            Err(TryLockError::WouldBlock) => Err(OpenStoreError::InUse { dir: dir.to_owned() }),
            Err(TryLockError::Error(cause)) => Err(io(cause)),
        }
    }
}

impl Drop for FolderLock {
    /// Closing would not do: a process forked at this moment has the file open until it runs
    /// another program.
    fn drop(&mut self) {
        if let Err(error) = self.0.unlock() {
            tracing::warn!(%error, "unlock the store's folder");
        }
    }
}

/// Runs `work` where blocking is allowed.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work).await.expect("reading a blob does not panic")
}

#[cfg(test)]
mod tests;
