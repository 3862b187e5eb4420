//! The index on disk: which blobs and pieces are held, and what was purged. What it does not know does
//! not exist.
//!
//! One redb transaction per change set, durable before it is believed. redb refuses all work after its
//! first IO error until it is opened anew, and cannot tell whether the failed commit reached the disk.
//! So a failed commit leaves a debt: the removals that make the disk agree with the answer given. The
//! debt is paid before anything else is written.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use flotilla_proto::{Digest, Origins, PieceHash, RegistryMark, Root, Variant};
use redb::{Database, ReadableDatabase, ReadableTable, ReadableTableMetadata, TableDefinition};

use super::deliveries::MAX_DELIVERIES;

/// Size in bytes, completeness, last use.
const BLOBS: TableDefinition<'_, &[u8; 32], (u64, bool, u64)> = TableDefinition::new("blobs");
/// The BLAKE3 of each held piece.
const PIECES: TableDefinition<'_, (&[u8; 32], u32), &[u8; 32]> = TableDefinition::new("pieces");
/// Held pieces of which only peers say what they hash to.
const HEARSAY: TableDefinition<'_, (&[u8; 32], u32), ()> = TableDefinition::new("hearsay");
/// The digest and root of each variant that was purged, by the order in which they were.
const TOMBSTONES: TableDefinition<'_, u64, (&[u8; 32], &[u8; 32])> = TableDefinition::new("tombstones");
/// The registries that gave parts of a blob, by their marks.
const ORIGINS: TableDefinition<'_, (&[u8; 32], u64), ()> = TableDefinition::new("origins");
/// Digests, and the mark of a registry that has delivered the whole, by the order in which they did.
const DELIVERIES: TableDefinition<'_, u64, (&[u8; 32], u64)> = TableDefinition::new("deliveries");
/// Tombstones kept; beyond, the oldest goes. As many as the core knows.
const MAX_TOMBSTONES: u64 = 1024;
/// redb's own default is 1 GiB. Rows are read at open only, so this need hold no more than a few paths.
const CACHE_BYTES: usize = 16 << 20;

/// What the index says of one blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BlobRow {
    pub(super) size: u64,
    pub(super) complete: bool,
    /// Rank among all uses of blobs; not a time.
    pub(super) last_use: u64,
}

/// One step of a transaction.
#[derive(Debug, Clone, Copy)]
pub(super) enum Change {
    PutBlob(Digest, BlobRow),
    PutPiece(Digest, u32, PieceHash),
    /// Only peers say what the piece hashes to.
    PutHearsay(Digest, u32),
    RemoveHearsay(Digest, u32),
    /// With all of its pieces.
    RemoveBlob(Digest),
    RemovePiece(Digest, u32),
    PutTombstone(Variant),
    /// The registry gave a part of the blob.
    PutOrigin(Digest, RegistryMark),
    /// The registry has delivered the whole blob, and it was right.
    PutDelivery(Digest, RegistryMark),
}

impl Change {
    /// What restores the truth if it is unknown whether this change was made. A blob's row alone claims
    /// no piece, so that one may stay; so may what claims no more than is true, or warns of too much.
    fn debt(self) -> Option<Self> {
        match self {
            Self::PutBlob(..) | Self::PutTombstone(_) | Self::PutOrigin(..) | Self::PutDelivery(..) => None,
            Self::PutHearsay(..) | Self::RemoveHearsay(..) => None,
            Self::PutPiece(digest, piece, _) => Some(Self::RemovePiece(digest, piece)),
            Self::RemoveBlob(_) | Self::RemovePiece(..) => Some(self),
        }
    }
}

/// A blob as the index holds it, its pieces by number.
pub(super) struct IndexedBlob {
    pub(super) row: BlobRow,
    pub(super) hash_by_piece: BTreeMap<u32, PieceHash>,
    /// Those of which only peers say what they hash to.
    pub(super) hearsay: BTreeSet<u32>,
    /// None are known of what an earlier release held.
    pub(super) origins: Origins,
}

/// The open index. Owned by the writer.
pub(super) struct Index {
    path: PathBuf,
    /// `None` from a failed commit until the next attempt.
    database: Option<Database>,
    /// Removals that no commit has confirmed. At most one for each held piece and blob, as nothing is
    /// written while it is not empty.
    owed: Vec<Change>,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, IndexError> {
        let database = open_database(path)?;
        Ok(Self { path: path.to_owned(), database: Some(database), owed: Vec::new() })
    }

    /// Everything the index holds.
    pub(super) fn load(&mut self) -> Result<BTreeMap<Digest, IndexedBlob>, IndexError> {
        Ok(load(self.database()?)?)
    }

    /// What was purged, the oldest first.
    pub(super) fn tombstones(&mut self) -> Result<Vec<Variant>, IndexError> {
        Ok(tombstones(self.database()?)?)
    }

    /// Which registries delivered which blobs, the oldest first.
    pub(super) fn deliveries(&mut self) -> Result<Vec<(Digest, RegistryMark)>, IndexError> {
        Ok(deliveries(self.database()?)?)
    }

    /// Makes these changes, in order, after whatever is owed; `Ok` once they survive `kill -9` and a
    /// power cut. On failure none is believed.
    pub(super) fn commit(&mut self, changes: &[Change]) -> Result<(), IndexError> {
        let all: Vec<Change> = self.owed.iter().chain(changes).copied().collect();
        let committed = self.database().and_then(|database| Ok(commit(database, &all)?));
        match committed {
            Ok(()) => self.owed.clear(),
            Err(_) => {
                self.database = None;
                self.owed.extend(changes.iter().filter_map(|change| change.debt()));
            }
        }
        committed
    }

    /// Leaves a removal to the next commit.
    pub(super) fn owe_removal(&mut self, digest: Digest) {
        self.owed.push(Change::RemoveBlob(digest));
    }

    /// Pays what is owed. Until that has worked no byte of a blob may be written: the index might hold
    /// the place where it goes for a piece.
    pub(super) fn settle(&mut self) -> Result<(), IndexError> {
        if self.owed.is_empty() { Ok(()) } else { self.commit(&[]) }
    }

    fn database(&mut self) -> Result<&Database, IndexError> {
        if self.database.is_none() {
            self.database = Some(open_database(&self.path)?);
        }
        Ok(self.database.as_ref().expect("opened above"))
    }
}

fn open_database(path: &Path) -> Result<Database, redb::Error> {
    let mut builder = Database::builder();
    // Without the check, redb may panic on a file that something else has damaged.
    builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true);
    Ok(builder.create(path)?)
}

fn commit(database: &Database, changes: &[Change]) -> Result<(), redb::Error> {
    // Immediate durability is redb's default, and the only one that survives `kill -9`.
    let transaction = database.begin_write()?;
    {
        let mut blobs = transaction.open_table(BLOBS)?;
        let mut pieces = transaction.open_table(PIECES)?;
        let mut hearsay = transaction.open_table(HEARSAY)?;
        let mut tombstones = transaction.open_table(TOMBSTONES)?;
        let mut origins = transaction.open_table(ORIGINS)?;
        let mut deliveries = transaction.open_table(DELIVERIES)?;
        for change in changes {
            match change {
                Change::PutBlob(digest, row) => {
                    blobs.insert(digest.as_bytes(), (row.size, row.complete, row.last_use))?;
                }
                Change::PutPiece(digest, piece, hash) => {
                    pieces.insert((digest.as_bytes(), *piece), hash.as_bytes())?;
                }
                Change::RemoveBlob(digest) => {
                    blobs.remove(digest.as_bytes())?;
                    let all = (digest.as_bytes(), 0)..=(digest.as_bytes(), u32::MAX);
                    pieces.retain_in(all.clone(), |_, _| false)?;
                    hearsay.retain_in(all, |_, ()| false)?;
                    let all = (digest.as_bytes(), 0)..=(digest.as_bytes(), u64::MAX);
                    origins.retain_in(all, |_, ()| false)?;
                }
                Change::RemovePiece(digest, piece) => {
                    pieces.remove((digest.as_bytes(), *piece))?;
                    hearsay.remove((digest.as_bytes(), *piece))?;
                }
                Change::PutHearsay(digest, piece) => {
                    hearsay.insert((digest.as_bytes(), *piece), ())?;
                }
                Change::RemoveHearsay(digest, piece) => {
                    hearsay.remove((digest.as_bytes(), *piece))?;
                }
                Change::PutTombstone(Variant { digest, root }) => {
                    let next = tombstones.last()?.map_or(0, |(last, _)| last.value() + 1);
                    tombstones.insert(next, (digest.as_bytes(), root.as_bytes()))?;
                    if tombstones.len()? > MAX_TOMBSTONES {
                        tombstones.pop_first()?;
                    }
                }
                Change::PutOrigin(digest, mark) => {
                    origins.insert((digest.as_bytes(), mark.bits()), ())?;
                }
                Change::PutDelivery(digest, mark) => {
                    let next = deliveries.last()?.map_or(0, |(last, _)| last.value() + 1);
                    deliveries.insert(next, (digest.as_bytes(), mark.bits()))?;
                    if deliveries.len()? > MAX_DELIVERIES as u64 {
                        deliveries.pop_first()?;
                    }
                }
            }
        }
    }
    transaction.commit()?;
    Ok(())
}

fn load(database: &Database) -> Result<BTreeMap<Digest, IndexedBlob>, redb::Error> {
    // The first transaction of a fresh index makes its tables.
    commit(database, &[])?;
    let transaction = database.begin_read()?;
    let mut blobs = BTreeMap::new();
    for entry in transaction.open_table(BLOBS)?.iter()? {
        let (key, value) = entry?;
        let (size, complete, last_use) = value.value();
        let row = BlobRow { size, complete, last_use };
        let (hash_by_piece, hearsay, origins) = Default::default();
        let blob = IndexedBlob { row, hash_by_piece, hearsay, origins };
        blobs.insert(Digest::from_bytes(*key.value()), blob);
    }
    for entry in transaction.open_table(PIECES)?.iter()? {
        let (key, value) = entry?;
        let (digest, piece) = key.value();
        // Pieces go with their blob, in one transaction, so none is left without a row.
        if let Some(blob) = blobs.get_mut(&Digest::from_bytes(*digest)) {
            blob.hash_by_piece.insert(piece, PieceHash::from_bytes(*value.value()));
        }
    }
    for entry in transaction.open_table(HEARSAY)?.iter()? {
        let (key, _) = entry?;
        let (digest, piece) = key.value();
        if let Some(blob) = blobs.get_mut(&Digest::from_bytes(*digest)) {
            blob.hearsay.insert(piece);
        }
    }
    for entry in transaction.open_table(ORIGINS)?.iter()? {
        let (key, _) = entry?;
        let (digest, mark) = key.value();
        if let Some(blob) = blobs.get_mut(&Digest::from_bytes(*digest)) {
            blob.origins.insert(RegistryMark::from_bits(mark));
        }
    }
    Ok(blobs)
}

fn deliveries(database: &Database) -> Result<Vec<(Digest, RegistryMark)>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut deliveries = Vec::new();
    for entry in transaction.open_table(DELIVERIES)?.iter()? {
        let (_, value) = entry?;
        let (digest, mark) = value.value();
        deliveries.push((Digest::from_bytes(*digest), RegistryMark::from_bits(mark)));
    }
    Ok(deliveries)
}

fn tombstones(database: &Database) -> Result<Vec<Variant>, redb::Error> {
    let transaction = database.begin_read()?;
    let mut variants = Vec::new();
    for entry in transaction.open_table(TOMBSTONES)?.iter()? {
        let (_, value) = entry?;
        let (digest, root) = value.value();
        variants.push(Variant { digest: Digest::from_bytes(*digest), root: Root::from_bytes(*root) });
    }
    Ok(variants)
}

/// What went wrong in the index file: no room, an IO error, damage.
///
/// Shared, because one failed commit answers every piece that was in it.
#[derive(Debug, Clone, thiserror::Error)]
#[error("index: {0}")]
pub struct IndexError(Arc<redb::Error>);

impl From<redb::Error> for IndexError {
    fn from(error: redb::Error) -> Self {
        Self(Arc::new(error))
    }
}
