//! The index as this process sees it: what is held, how full the quota is, who goes next.
//!
//! A blob is here from its first piece on; until then it is *begun*, and lasts as long as somebody has it open.
//!
//! Bounded by the quota and by [`MAX_BLOBS`]: about 300 bytes a blob and 33 bytes a piece, and a blob of
//! more than one piece has pieces of at least 128 KiB. A full quota of 50 GiB costs some 13 MiB.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Weak};

use flotilla_proto::{Digest, Layout};

use super::blob_file::{BlobFile, HeldPieces};
use super::deliveries::Deliveries;
use super::index::{BlobRow, Change};
use super::writer::PieceWrite;

/// Blobs held at most, however small they are. Beyond it the least recently used goes, as with bytes.
pub(super) const MAX_BLOBS: usize = 1 << 16;

/// Everything held, in the order of its last use.
#[derive(Default)]
pub(super) struct Catalog {
    quota: u64,
    used_bytes: u64,
    entry_by_digest: HashMap<Digest, Entry>,
    /// Every blob once with its entry's `last_use`: the order of eviction.
    by_last_use: BTreeSet<(u64, Digest)>,
    next_use: u64,
    /// Blobs used since their row was last written. At most one for each entry.
    unsaved: HashSet<Digest>,
    begun: Begun,
    pub(super) deliveries: Deliveries,
}

/// Blobs of which nothing is held yet. Those that nobody has open any more are forgotten in bulk.
#[derive(Default)]
struct Begun {
    file_by_digest: HashMap<Digest, Weak<BlobFile>>,
    sweep_at: usize,
}

impl Begun {
    fn file(&self, digest: Digest) -> Option<Arc<BlobFile>> {
        self.file_by_digest.get(&digest)?.upgrade()
    }

    fn insert(&mut self, file: &Arc<BlobFile>) {
        if self.file_by_digest.len() >= self.sweep_at {
            self.file_by_digest.retain(|_, file| file.strong_count() > 0);
            self.sweep_at = 2 * self.file_by_digest.len() + 64;
        }
        self.file_by_digest.insert(file.digest(), Arc::downgrade(file));
    }
}

/// One blob.
pub(super) struct Entry {
    pub(super) held: Arc<HeldPieces>,
    pub(super) complete: bool,
    /// Alive while anyone has the blob open. Made and upgraded under the catalog's lock only, so that
    /// "nobody has it open" stays true until the lock is let go.
    open: Weak<BlobFile>,
    /// Rank among all uses; not a time, so that no clock can turn the order round.
    last_use: u64,
}

impl Entry {
    pub(super) fn new(held: HeldPieces, complete: bool, last_use: u64) -> Self {
        Self { held: Arc::new(held), complete, open: Weak::new(), last_use }
    }

    pub(super) fn layout(&self) -> Layout {
        self.held.layout()
    }

    pub(super) fn row(&self) -> BlobRow {
        BlobRow { size: self.layout().size(), complete: self.complete, last_use: self.last_use }
    }
}

impl Catalog {
    pub(super) fn new(quota: u64) -> Self {
        Self { quota, ..Self::default() }
    }

    pub(super) fn quota(&self) -> u64 {
        self.quota
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(super) fn blob_count(&self) -> usize {
        self.entry_by_digest.len()
    }

    pub(super) fn entry(&self, digest: Digest) -> Option<&Entry> {
        self.entry_by_digest.get(&digest)
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = (Digest, &Entry)> {
        self.entry_by_digest.iter().map(|(digest, entry)| (*digest, entry))
    }

    /// The blob that `file` was opened for; `None` if it was purged since, even if begun again, or nothing is held of
    /// it.
    pub(super) fn current_entry(&self, file: &BlobFile) -> Option<&Entry> {
        self.entry(file.digest()).filter(|entry| Arc::ptr_eq(&entry.held, file.held()))
    }

    /// Whether pieces may be written through `file`: the blob was not purged since it was opened.
    pub(super) fn is_current(&self, file: &BlobFile) -> bool {
        let is_it = |begun: Arc<BlobFile>| Arc::ptr_eq(begun.held(), file.held());
        self.current_entry(file).is_some() || self.begun.file(file.digest()).is_some_and(is_it)
    }

    /// The blob's first piece is about to be held.
    pub(super) fn enter(&mut self, file: &Arc<BlobFile>) {
        self.begun.file_by_digest.remove(&file.digest());
        let open = Arc::downgrade(file);
        let entry = Entry { held: Arc::clone(file.held()), complete: false, open, last_use: 0 };
        self.insert(file.digest(), entry);
    }

    /// Nothing is held of the blob any more, or yet.
    pub(super) fn leave(&mut self, file: &Arc<BlobFile>) {
        self.remove(file.digest());
        self.begun.insert(file);
    }

    /// A piece is on disk, and the index knows it.
    pub(super) fn hold(&mut self, write: &PieceWrite) {
        let PieceWrite { file, piece, hash, hearsay, origins, .. } = write;
        let before = file.held().bytes();
        file.held().insert(*piece, *hash, *hearsay, origins);
        self.used_bytes += file.held().bytes() - before;
    }

    /// A piece is not what it was.
    pub(super) fn lose(&mut self, file: &BlobFile, piece: u32) {
        let before = file.held().bytes();
        file.held().remove(piece);
        if self.current_entry(file).is_some() {
            self.used_bytes -= before - file.held().bytes();
        }
    }

    /// Adds a blob that is not there.
    pub(super) fn insert(&mut self, digest: Digest, entry: Entry) {
        self.used_bytes += entry.held.bytes();
        self.by_last_use.insert((entry.last_use, digest));
        self.next_use = self.next_use.max(entry.last_use.saturating_add(1));
        let replaced = self.entry_by_digest.insert(digest, entry);
        assert!(replaced.is_none(), "blob {} was there", digest.short());
    }

    /// Forgets the blob, and says what it was.
    pub(super) fn remove(&mut self, digest: Digest) -> Option<Entry> {
        self.begun.file_by_digest.remove(&digest);
        let entry = self.entry_by_digest.remove(&digest)?;
        self.used_bytes -= entry.held.bytes();
        self.by_last_use.remove(&(entry.last_use, digest));
        self.unsaved.remove(&digest);
        Some(entry)
    }

    pub(super) fn set_complete(&mut self, digest: Digest, complete: bool) {
        if let Some(entry) = self.entry_by_digest.get_mut(&digest) {
            entry.complete = complete;
        }
    }

    /// Makes the blob the last one to be evicted. Nothing, if it is not there.
    pub(super) fn touch(&mut self, digest: Digest) {
        let Some(entry) = self.entry_by_digest.get_mut(&digest) else {
            return;
        };
        self.by_last_use.remove(&(entry.last_use, digest));
        entry.last_use = self.next_use;
        self.by_last_use.insert((entry.last_use, digest));
        self.next_use = self.next_use.saturating_add(1);
        self.unsaved.insert(digest);
    }

    /// The rows whose last use the index does not know yet. They count as saved from here on; if
    /// writing them fails, the order of eviction after a restart is a little older.
    pub(super) fn take_unsaved(&mut self) -> Vec<Change> {
        let digests = std::mem::take(&mut self.unsaved);
        let row = |digest| Some(Change::PutBlob(digest, self.entry(digest)?.row()));
        digests.into_iter().filter_map(row).collect()
    }

    /// Whether a blob of that size could be held beside those that somebody has open.
    pub(super) fn could_hold(&self, size: u64) -> bool {
        self.quota.checked_sub(size).is_some_and(|kept| self.victims_until(kept, MAX_BLOBS - 1).is_some())
    }

    /// The least recently used blobs nobody has open, as many as must go so that `bytes` more, and the first
    /// piece of so many `blobs` more, fit; `None` if all of them would not do.
    pub(super) fn victims_for(&self, bytes: u64, blobs: usize) -> Option<Vec<Digest>> {
        self.victims_until(self.quota.checked_sub(bytes)?, MAX_BLOBS.checked_sub(blobs)?)
    }

    /// The least recently used blobs that must go for the rest to be within its limits; `None` if too
    /// many are open.
    pub(super) fn victims_beyond_quota(&self) -> Option<Vec<Digest>> {
        self.victims_until(self.quota, MAX_BLOBS)
    }

    fn victims_until(&self, bytes_kept: u64, blobs_kept: usize) -> Option<Vec<Digest>> {
        let mut victims = Vec::new();
        let (mut used_bytes, mut blob_count) = (self.used_bytes, self.blob_count());
        let mut idle =
            self.by_last_use.iter().map(|(_, digest)| *digest).filter(|digest| !self.is_open(*digest));
        while used_bytes > bytes_kept || blob_count > blobs_kept {
            let victim = idle.next()?;
            used_bytes -= self.entry_by_digest[&victim].held.bytes();
            blob_count -= 1;
            victims.push(victim);
        }
        Some(victims)
    }

    /// The blob, opened, if anyone has it open and something is held of it.
    pub(super) fn open_file(&self, digest: Digest) -> Option<Arc<BlobFile>> {
        self.entry(digest)?.open.upgrade()
    }

    /// The blob, if it was begun, nothing is held of it, and somebody has it open.
    pub(super) fn begun_file(&self, digest: Digest) -> Option<Arc<BlobFile>> {
        self.begun.file(digest)
    }

    /// Begins a blob, instead of how it may have been begun before.
    pub(super) fn begin(&mut self, digest: Digest, layout: Layout) -> Arc<BlobFile> {
        let file = Arc::new(BlobFile::begun(digest, layout));
        self.begun.insert(&file);
        file
    }

    /// Makes `file` the one through which everyone reads its blob, or returns the one that already is.
    pub(super) fn adopt(&mut self, file: BlobFile) -> Arc<BlobFile> {
        let entry = self.entry_by_digest.get_mut(&file.digest()).expect("the caller has looked");
        entry.open.upgrade().unwrap_or_else(|| {
            let file = Arc::new(file);
            entry.open = Arc::downgrade(&file);
            file
        })
    }

    fn is_open(&self, digest: Digest) -> bool {
        self.entry(digest).is_some_and(|entry| entry.open.strong_count() > 0)
    }
}
