//! What a store finds when it opens: the index is believed, the folders are made to agree with it.
//!
//! A process can die between any two steps of the writer. What that leaves is a file no row speaks of, a
//! row whose file is gone, or a file in the wrong one of the two folders; each is put right here.

use std::collections::BTreeSet;
use std::io;

use flotilla_proto::{Digest, Layout, Origins, RegistryMark};

use super::blob_file::HeldPieces;
use super::catalog::{Catalog, Entry};
use super::files::{Files, Place};
use super::index::{Change, Index, IndexError, IndexedBlob};

/// The catalog of what is really there.
pub(super) fn recover(index: &mut Index, files: &Files, quota: u64) -> Result<Catalog, RecoverError> {
    let mut catalog = Catalog::new(quota);
    let mut changes = Vec::new();
    let indexed = index.load()?;
    for (digest, mark) in index.deliveries()? {
        catalog.deliveries.insert(digest, mark);
    }
    for (digest, blob) in indexed {
        match restore(files, digest, &blob)? {
            Some(entry) => {
                // What nobody noted is noted before others give the rest.
                if blob.origins.is_empty() {
                    changes.push(Change::PutOrigin(digest, RegistryMark::UNKNOWN));
                }
                catalog.insert(digest, entry);
            }
            None => changes.push(Change::RemoveBlob(digest)),
        }
    }
    let is_removal = |change: &&Change| matches!(change, Change::RemoveBlob(_));
    let dropped_rows = changes.iter().filter(is_removal).count();
    // The quota may be smaller than it was.
    let evicted = catalog.victims_beyond_quota().expect("nobody has a blob open yet");
    for digest in &evicted {
        catalog.remove(*digest);
        changes.push(Change::RemoveBlob(*digest));
    }
    index.commit(&changes)?;
    let is_known =
        |digest, place| catalog.entry(digest).is_some_and(|entry| Place::of(entry.complete) == place);
    let removed_files = files.remove_orphans(is_known)?;
    tracing::info!(
        blobs = catalog.blob_count(),
        bytes = catalog.used_bytes(),
        dropped_rows,
        evicted = evicted.len(),
        removed_files,
        "store opened"
    );
    Ok(catalog)
}

/// The blob as far as its row makes sense and its file is there in full length; its file is in the
/// right folder then.
fn restore(files: &Files, digest: Digest, blob: &IndexedBlob) -> io::Result<Option<Entry>> {
    let Some(held) = held_pieces(blob) else {
        return Ok(None);
    };
    // A complete blob that lost a piece may have died before its row said so.
    let complete = blob.row.complete && held.is_full();
    let place = Place::of(complete);
    let len = match files.len(digest, place)? {
        Some(len) => len,
        None => match files.len(digest, place.other())? {
            Some(len) => {
                files.move_to(digest, place)?;
                len
            }
            None => return Ok(None),
        },
    };
    Ok((len >= blob.row.size).then(|| Entry::new(held, complete, blob.row.last_use)))
}

/// The pieces the row and its hashes speak of; `None` if there are none or they cannot be of one blob.
fn held_pieces(blob: &IndexedBlob) -> Option<HeldPieces> {
    let layout = Layout::of(blob.row.size).filter(|layout| layout.size() > 0)?;
    if blob.hash_by_piece.is_empty() {
        return None;
    }
    let mut hash_by_piece = vec![None; layout.piece_count() as usize];
    for (piece, hash) in &blob.hash_by_piece {
        *hash_by_piece.get_mut(*piece as usize)? = Some(*hash);
    }
    let origins = if blob.origins.is_empty() { Origins::unknown() } else { blob.origins.clone() };
    let hearsay = if blob.row.complete { BTreeSet::new() } else { blob.hearsay.clone() };
    Some(HeldPieces::from_hashes(layout, hash_by_piece, hearsay, origins))
}

/// Why the store's folders could not be made to agree with its index.
#[derive(Debug, thiserror::Error)]
pub(super) enum RecoverError {
    #[error(transparent)]
    Index(#[from] IndexError),
    #[error(transparent)]
    Io(#[from] io::Error),
}
