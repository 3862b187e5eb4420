//! The one thread that changes anything: files, index, catalog.
//!
//! It takes commands in the order they were given. Pieces that wait together are written together: all
//! bytes go to their offsets, each file is synced once, one transaction makes them held, all are answered.
//! The order is always the same: file first, index second, catalog last; and the other way round where
//! something goes away. So the index never claims a byte that is not on disk, whenever the process dies.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{Digest, Layout, Origins, PieceHash, RegistryMark, Root, Variant};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::blob_file::{BlobFile, PieceFault};
use super::catalog::Entry;
use super::error::{BeginError, CompleteError, WriteError};
use super::files::Place;
use super::index::{BlobRow, Change, Index};
use super::{FolderLock, Shared};

/// How long the order of use may stay unsaved while nothing else is written. A `kill -9` forgets at most
/// this much of it.
const SAVE_USES_AFTER: Duration = Duration::from_secs(30);

/// What the writer is asked, each with where to answer.
pub(super) enum Command {
    Begin { digest: Digest, layout: Layout, reply: oneshot::Sender<Result<Arc<BlobFile>, BeginError>> },
    Write(PieceWrite),
    Complete { file: Arc<BlobFile>, reply: oneshot::Sender<Result<(), CompleteError>> },
    Purge { digest: Digest, root: Option<Root>, reply: oneshot::Sender<bool> },
    Entomb { variant: Variant, reply: oneshot::Sender<()> },
    Delivered { digest: Digest, mark: RegistryMark, reply: oneshot::Sender<()> },
    Recheck { file: Arc<BlobFile>, piece: u32, reply: oneshot::Sender<()> },
}

/// A command and the room it takes in the queue until it is answered.
pub(super) struct Queued {
    pub(super) command: Command,
    pub(super) room: OwnedSemaphorePermit,
}

/// One verified piece to be held. It has the length its place in the blob asks for.
pub(super) struct PieceWrite {
    pub(super) file: Arc<BlobFile>,
    pub(super) piece: u32,
    pub(super) hash: PieceHash,
    pub(super) bytes: Bytes,
    /// The registries that gave them.
    pub(super) origins: Origins,
    /// Whether only peers say that it hashes to that.
    pub(super) hearsay: bool,
    pub(super) reply: oneshot::Sender<Result<(), WriteError>>,
}

impl PieceWrite {
    fn key(&self) -> (Digest, u32) {
        (self.file.digest(), self.piece)
    }

    fn answer(self, result: Result<(), WriteError>) {
        // Whoever asked may have stopped waiting; the piece is held or not all the same.
        let _ = self.reply.send(result);
    }
}

/// The thread's state. Dropped in this order: the lock outlives the index it guards.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) index: Index,
    pub(super) evictions: mpsc::Sender<Digest>,
    pub(super) _lock: FolderLock,
}

impl Writer {
    /// Works until every sender of the queue is gone and the queue is empty.
    pub(super) fn run(mut self, queue: &Receiver<Queued>) {
        let mut next = None;
        loop {
            let queued = match next.take() {
                Some(queued) => Ok(queued),
                None => queue.recv_timeout(SAVE_USES_AFTER),
            };
            match queued {
                Ok(queued) => next = self.handle(queued, queue),
                Err(RecvTimeoutError::Timeout) => self.save_uses(),
                Err(RecvTimeoutError::Disconnected) => break,
            }
        }
        self.save_uses();
    }

    /// Returns the command that has to come next, if this took one too many from the queue.
    fn handle(&mut self, Queued { command, room }: Queued, queue: &Receiver<Queued>) -> Option<Queued> {
        // A reply nobody waits for any more is no failure: what was asked has happened.
        match command {
            Command::Begin { digest, layout, reply } => {
                let _ = reply.send(self.begin(digest, layout));
            }
            Command::Write(first) => return self.write_with_what_waits(first, room, queue),
            Command::Complete { file, reply } => {
                let _ = reply.send(self.complete(&file));
            }
            Command::Purge { digest, root, reply } => {
                let _ = reply.send(self.purge(digest, root.map(|root| Variant { digest, root })));
            }
            Command::Entomb { variant, reply } => {
                self.entomb(variant);
                let _ = reply.send(());
            }
            Command::Delivered { digest, mark, reply } => {
                self.delivered(digest, mark);
                let _ = reply.send(());
            }
            Command::Recheck { file, piece, reply } => {
                self.recheck(&file, piece);
                let _ = reply.send(());
            }
        }
        drop(room);
        None
    }

    /// Writes `first` and the pieces that wait right behind it as one batch. Returns the command that
    /// ended the batch: another kind, or a piece that is in it already.
    fn write_with_what_waits(
        &mut self,
        first: PieceWrite,
        room: OwnedSemaphorePermit,
        queue: &Receiver<Queued>,
    ) -> Option<Queued> {
        let mut rooms = room;
        let mut batch = vec![first];
        let mut next = None;
        while let Ok(queued) = queue.try_recv() {
            match queued {
                Queued { command: Command::Write(write), room }
                    if batch.iter().all(|other| other.key() != write.key()) =>
                {
                    rooms.merge(room);
                    batch.push(write);
                }
                other => {
                    next = Some(other);
                    break;
                }
            }
        }
        self.write(batch);
        drop(rooms);
        next
    }

    fn begin(&mut self, digest: Digest, layout: Layout) -> Result<Arc<BlobFile>, BeginError> {
        let held = self.shared.open_file(digest).map_err(|cause| BeginError::Io { digest, cause })?;
        if let Some(file) = held {
            self.shared.catalog().touch(digest);
            if file.layout() == layout {
                return Ok(file);
            }
            if !file.held().is_empty() {
                let held_size = file.layout().size();
                return Err(BeginError::SizeDiffers { digest, held_size, size: layout.size() });
            }
            // It lost its last piece.
            self.purge(digest, None);
        }
        // A size that no piece bears out is somebody's mere word, and so is this one.
        let mut catalog = self.shared.catalog();
        if let Some(file) = catalog.begun_file(digest).filter(|file| file.layout() == layout) {
            return Ok(file);
        }
        if !catalog.could_hold(layout.size()) {
            return Err(BeginError::NoRoom { needed: layout.size(), quota: catalog.quota() });
        }
        Ok(catalog.begin(digest, layout))
    }

    /// Evicts until the pieces fit. Answers those that do not, and evicts nothing for them.
    fn make_room(&mut self, batch: Vec<PieceWrite>) -> Vec<PieceWrite> {
        let mut fit: Vec<PieceWrite> = Vec::with_capacity(batch.len());
        let (mut bytes, mut fresh) = (0, HashSet::new());
        for write in batch {
            let digest = write.file.digest();
            let is_fresh = write.file.held().is_empty() && !fresh.contains(&digest);
            let needed = bytes + write.bytes.len() as u64;
            match self.evict_for(needed, fresh.len() + usize::from(is_fresh)) {
                Ok(()) => {
                    bytes = needed;
                    fresh.extend(is_fresh.then_some(digest));
                    fit.push(write);
                }
                Err(quota) => write.answer(Err(WriteError::NoRoom { digest, quota })),
            }
        }
        fit
    }

    /// Evicts until so much more fits; evicts nothing if that cannot be, and says what the quota is.
    fn evict_for(&mut self, bytes: u64, blobs: usize) -> Result<(), u64> {
        let mut withdrawn = Vec::new();
        {
            let mut catalog = self.shared.catalog();
            let victims = catalog.victims_for(bytes, blobs).ok_or(catalog.quota())?;
            withdrawn
                .extend(victims.into_iter().filter_map(|digest| Some((digest, catalog.remove(digest)?))));
            self.shared.metrics.observe(&catalog);
        }
        for (digest, entry) in withdrawn {
            // A daemon that stops has dropped the receiver: nobody is left to withdraw from.
            let _ = self.evictions.blocking_send(digest);
            self.shared.metrics.evictions.inc();
            self.unlink(digest, &entry);
        }
        Ok(())
    }

    /// The tombstone is written with what it makes go, never before: who knows of a purge is believed to
    /// hold nothing from before it.
    fn purge(&mut self, digest: Digest, tombstone: Option<Variant>) -> bool {
        let entry = self.shared.forget(digest);
        if let Some(entry) = &entry {
            self.unlink(digest, entry);
        }
        let purged = match tombstone {
            Some(variant) => self.index.commit(&[Change::PutTombstone(variant)]),
            None => self.index.settle(),
        };
        if let Err(error) = purged {
            tracing::warn!(blob = digest.short(), %error, "purged blob stays in the index until it can be written");
        }
        entry.is_some()
    }

    fn entomb(&mut self, variant: Variant) {
        if let Err(error) = self.index.commit(&[Change::PutTombstone(variant)]) {
            tracing::warn!(blob = variant.digest.short(), %error, "a purge is forgotten at the next start");
        }
    }

    /// What cannot be written is known until the next start.
    fn delivered(&mut self, digest: Digest, mark: RegistryMark) {
        if self.shared.catalog().deliveries.contains(digest, mark) {
            return;
        }
        if let Err(error) = self.index.commit(&[Change::PutDelivery(digest, mark)]) {
            tracing::warn!(blob = digest.short(), %error, "that a registry delivered a blob is forgotten at the next start");
        }
        self.shared.catalog().deliveries.insert(digest, mark);
    }

    /// Unlinks the file of a blob that has left the catalog, and leaves its rows to the next commit: a
    /// row without a file is dropped at the next open.
    fn unlink(&mut self, digest: Digest, entry: &Entry) {
        if let Err(error) = self.shared.files.remove(digest, Place::of(entry.complete)) {
            tracing::warn!(blob = digest.short(), %error, "file of a withdrawn blob stays until the next start");
        }
        self.index.owe_removal(digest);
    }

    fn complete(&mut self, file: &BlobFile) -> Result<(), CompleteError> {
        let digest = file.digest();
        let Some(row) = self.shared.current_row(file) else {
            let is_begun = self.shared.catalog().is_current(file);
            return Err(if is_begun {
                CompleteError::PiecesMissing { digest }
            } else {
                CompleteError::Gone { digest }
            });
        };
        if row.complete {
            return Ok(());
        }
        if !file.held().is_full() {
            return Err(CompleteError::PiecesMissing { digest });
        }
        // Were the row second, a file under blobs/ could be unknown to be whole. A move that fails is
        // made up for at the next open.
        let deliverer = file.origins().only();
        let news = deliverer.filter(|mark| !self.shared.catalog().deliveries.contains(digest, *mark));
        let mut changes = vec![Change::PutBlob(digest, BlobRow { complete: true, ..row })];
        changes.extend(news.map(|mark| Change::PutDelivery(digest, mark)));
        self.index.commit(&changes).map_err(|cause| CompleteError::Index { digest, cause })?;
        self.shared
            .files
            .move_to(digest, Place::Complete)
            .map_err(|cause| CompleteError::Io { digest, cause })?;
        file.held().vouch_all();
        let mut catalog = self.shared.catalog();
        if let Some(mark) = deliverer {
            catalog.deliveries.insert(digest, mark);
        }
        catalog.set_complete(digest, true);
        catalog.touch(digest);
        Ok(())
    }

    /// Drops the piece if it really is corrupt. The reader that says so may be late: the piece may have
    /// been dropped and written again in between.
    fn recheck(&mut self, file: &BlobFile, piece: u32) {
        let digest = file.digest();
        let Some(hash) = file.held().hash_of(piece) else {
            return;
        };
        if !matches!(file.read_piece(piece, hash), Err(PieceFault::Corrupt)) {
            return;
        }
        tracing::warn!(blob = digest.short(), piece, "dropped a corrupt piece");
        self.shared.metrics.corrupt_pieces.inc();
        self.shared.catalog().lose(file, piece);
        let Some(row) = self.shared.current_row(file) else {
            return;
        };
        self.shared.catalog().set_complete(digest, false);
        let changes =
            [Change::RemovePiece(digest, piece), Change::PutBlob(digest, BlobRow { complete: false, ..row })];
        if let Err(error) = self.index.commit(&changes) {
            tracing::warn!(blob = digest.short(), piece, %error, "corrupt piece stays in the index until it can be written");
        }
        if row.complete
            && let Err(error) = self.shared.files.move_to(digest, Place::Partial)
        {
            tracing::warn!(blob = digest.short(), %error, "file of a blob that lost a piece stays where it was");
        }
    }

    fn write(&mut self, batch: Vec<PieceWrite>) {
        let batch = self.refuse_unfit(batch);
        let batch = self.make_room(batch);
        if batch.is_empty() {
            return;
        }
        // After the evictions: a row that is still to be removed must not speak of the file that is made now.
        if let Err(cause) = self.index.settle() {
            return fail_all(batch, |digest| WriteError::Index { digest, cause: cause.clone() });
        }
        let fresh = batch.iter().filter(|write| !write.file.has_file());
        let fresh: Vec<Arc<BlobFile>> = fresh.map(|write| Arc::clone(&write.file)).collect();
        let batch = self.write_out(batch);
        let batch = self.sync(batch);
        self.commit(batch);
        for file in fresh.iter().filter(|file| file.has_file() && file.held().is_empty()) {
            self.drop_empty(file);
        }
    }

    /// Nothing is held of the blob: nothing is left of its file. It may be written again.
    fn drop_empty(&mut self, file: &Arc<BlobFile>) {
        file.set_file(None);
        if let Err(error) = self.shared.files.remove(file.digest(), Place::Partial) {
            tracing::warn!(blob = file.digest().short(), %error, "an empty file stays until the next start");
        }
        self.index.owe_removal(file.digest());
    }

    /// Puts the pieces at their offsets, into files that are made where they are missing. Returns those
    /// that were written.
    fn write_out(&self, batch: Vec<PieceWrite>) -> Vec<PieceWrite> {
        let mut written = Vec::with_capacity(batch.len());
        for write in batch {
            let digest = write.file.digest();
            let made = if write.file.has_file() { Ok(()) } else { self.create(&write.file) };
            match made.and_then(|()| write.file.write_piece(write.piece, &write.bytes)) {
                Ok(()) => written.push(write),
                Err(cause) => write.answer(Err(WriteError::Io { digest, cause: Arc::new(cause) })),
            }
        }
        written
    }

    fn create(&self, file: &BlobFile) -> io::Result<()> {
        let made = self.shared.files.create(file.digest(), file.layout().size())?;
        file.set_file(Some(made));
        Ok(())
    }

    /// Answers the writes that need none or must not be; the rest is written.
    fn refuse_unfit(&self, batch: Vec<PieceWrite>) -> Vec<PieceWrite> {
        let mut fit = Vec::with_capacity(batch.len());
        for write in batch {
            let (digest, piece) = write.key();
            if !self.shared.catalog().is_current(&write.file) {
                write.answer(Err(WriteError::Gone { digest }));
                continue;
            }
            match write.file.held().hash_of(piece) {
                None => fit.push(write),
                Some(held) if held == write.hash => {
                    if !write.hearsay {
                        write.file.held().vouch(piece);
                    }
                    write.answer(Ok(()));
                }
                // Whoever asks for it anew knows better, or as little.
                Some(_) if write.file.held().is_hearsay(piece) == Some(true) => fit.push(write),
                Some(_) => write.answer(Err(WriteError::Conflict { digest, piece })),
            }
        }
        fit
    }

    /// Syncs each file once, and the folder's entry of a file that holds its first piece. Returns what
    /// is on disk.
    fn sync(&self, batch: Vec<PieceWrite>) -> Vec<PieceWrite> {
        let mut result_by_digest: HashMap<Digest, Result<(), Arc<io::Error>>> = HashMap::new();
        let mut synced = Vec::with_capacity(batch.len());
        for write in batch {
            let digest = write.file.digest();
            let result = result_by_digest
                .entry(digest)
                .or_insert_with(|| self.sync_file(&write.file).map_err(Arc::new))
                .clone();
            match result {
                Ok(()) => synced.push(write),
                Err(cause) => write.answer(Err(WriteError::Io { digest, cause })),
            }
        }
        synced
    }

    fn sync_file(&self, file: &BlobFile) -> io::Result<()> {
        file.sync()?;
        if file.held().is_empty() {
            self.shared.files.sync_partial_folder()?;
        }
        Ok(())
    }

    /// Makes the pieces held, with the rows of their blobs, in one transaction.
    fn commit(&mut self, batch: Vec<PieceWrite>) {
        if batch.is_empty() {
            return;
        }
        self.enter(&batch);
        let mut changes: Vec<Change> = Vec::with_capacity(batch.len());
        for write in &batch {
            let digest = write.file.digest();
            changes.push(Change::PutPiece(digest, write.piece, write.hash));
            let was_hearsay = write.file.held().is_hearsay(write.piece) == Some(true);
            if write.hearsay {
                changes.push(Change::PutHearsay(digest, write.piece));
            } else if was_hearsay {
                changes.push(Change::RemoveHearsay(digest, write.piece));
            }
            let added = write.file.held().added_by(&write.origins);
            changes.extend(added.into_iter().map(|mark| Change::PutOrigin(digest, mark)));
        }
        changes.extend(self.shared.touch_all(batch.iter().map(|write| write.file.digest())));
        if let Err(cause) = self.index.commit(&changes) {
            self.leave(&batch);
            return fail_all(batch, |digest| WriteError::Index { digest, cause: cause.clone() });
        }
        let mut catalog = self.shared.catalog();
        for write in &batch {
            catalog.hold(write);
        }
        self.shared.metrics.observe(&catalog);
        drop(catalog);
        for write in batch {
            write.answer(Ok(()));
        }
    }

    /// Puts blobs into the catalog whose first pieces are to be held.
    fn enter(&self, batch: &[PieceWrite]) {
        let mut catalog = self.shared.catalog();
        for write in batch {
            if catalog.current_entry(&write.file).is_none() {
                catalog.enter(&write.file);
            }
        }
    }

    /// Takes those out again of which nothing is held after all.
    fn leave(&self, batch: &[PieceWrite]) {
        let mut catalog = self.shared.catalog();
        for write in batch {
            if write.file.held().is_empty() && catalog.current_entry(&write.file).is_some() {
                catalog.leave(&write.file);
            }
        }
    }

    fn save_uses(&mut self) {
        let unsaved = self.shared.catalog().take_unsaved();
        let saved = if unsaved.is_empty() { self.index.settle() } else { self.index.commit(&unsaved) };
        if let Err(error) = saved {
            tracing::warn!(%error, "save the order of use");
        }
    }
}

fn fail_all(batch: Vec<PieceWrite>, error: impl Fn(Digest) -> WriteError) {
    for write in batch {
        let digest = write.file.digest();
        write.answer(Err(error(digest)));
    }
}
