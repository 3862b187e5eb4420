//! What can go wrong, one enum for each operation. Every message names the blob and the cause.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytesize::ByteSize;
use flotilla_proto::Digest;

use super::index::IndexError;

/// Why a store did not open.
#[derive(Debug, thiserror::Error)]
pub enum OpenStoreError {
    /// Another process, or another store of this one, has the folder.
    #[error("store {} is in use by another process", dir.display())]
    InUse {
        /// The store's folder.
        dir: PathBuf,
    },
    /// The folders could not be read or made.
    #[error("open store {}: {cause}", dir.display())]
    Io {
        /// The store's folder.
        dir: PathBuf,
        /// What the system said.
        cause: io::Error,
    },
    /// The index could not be read; a folder emptied by hand is a store that starts empty.
    #[error("open store {}: {cause}", dir.display())]
    Index {
        /// The store's folder.
        dir: PathBuf,
        /// What the index said.
        cause: IndexError,
    },
}

/// Why a blob was not begun.
#[derive(Debug, thiserror::Error)]
pub enum BeginError {
    /// A blob of no bytes is never stored: whoever asks for it is answered on the spot.
    #[error("an empty blob is not stored")]
    Empty,
    /// The quota is too small, or full of blobs that are open.
    #[error("no room for {} in a store of {} whose other blobs are in use", ByteSize(*needed), ByteSize(*quota))]
    NoRoom {
        /// The blob's size in bytes.
        needed: u64,
        /// The store's quota in bytes.
        quota: u64,
    },
    /// Pieces of the blob are held that fit another size. One of the two speakers is wrong.
    #[error("blob {} has {held_size} bytes here, not {size}", digest.short())]
    SizeDiffers {
        /// The blob.
        digest: Digest,
        /// Its size in the store, in bytes.
        held_size: u64,
        /// The size that was asked for, in bytes.
        size: u64,
    },
    /// What is held of it could not be opened.
    #[error("begin blob {}: {cause}", digest.short())]
    Io {
        /// The blob.
        digest: Digest,
        /// What the system said.
        cause: io::Error,
    },
}

/// Why a blob could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("open blob {}: {cause}", digest.short())]
pub struct OpenBlobError {
    /// The blob.
    pub digest: Digest,
    /// What the system said.
    pub cause: io::Error,
}

/// Why a piece is not held.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The blob has fewer pieces.
    #[error("blob {} has no piece {piece}", digest.short())]
    NoSuchPiece {
        /// The blob.
        digest: Digest,
        /// The piece's index.
        piece: u32,
    },
    /// The bytes are not as many as the piece has.
    #[error("piece {piece} of blob {} has {expected} bytes, not {len}", digest.short())]
    WrongLength {
        /// The blob.
        digest: Digest,
        /// The piece's index.
        piece: u32,
        /// What the layout says, in bytes.
        expected: u32,
        /// What was given, in bytes.
        len: usize,
    },
    /// The piece is held with another hash. The held one stays.
    #[error("piece {piece} of blob {} is held with another hash", digest.short())]
    Conflict {
        /// The blob.
        digest: Digest,
        /// The piece's index.
        piece: u32,
    },
    /// The blob was purged after it was opened.
    #[error("blob {} is no longer in the store", digest.short())]
    Gone {
        /// The blob.
        digest: Digest,
    },
    /// The store is full of blobs that are in use.
    #[error("no room for another piece of blob {} in a store of {} whose other blobs are in use", digest.short(), ByteSize(*quota))]
    NoRoom {
        /// The blob.
        digest: Digest,
        /// The store's quota in bytes.
        quota: u64,
    },
    /// The bytes could not be written: a full disk shows here. What was held before still is.
    #[error("write blob {}: {cause}", digest.short())]
    Io {
        /// The blob.
        digest: Digest,
        /// What the system said; shared by all pieces that were synced together.
        cause: Arc<io::Error>,
    },
    /// The index could not be written. What was held before still is.
    #[error("write blob {}: {cause}", digest.short())]
    Index {
        /// The blob.
        digest: Digest,
        /// What the index said.
        cause: IndexError,
    },
}

/// Why a piece was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadPieceError {
    /// The piece is not in the store.
    #[error("piece {piece} of blob {} is not held", digest.short())]
    NotHeld {
        /// The blob.
        digest: Digest,
        /// The piece's index.
        piece: u32,
    },
    /// The disk returned other bytes than were written. The piece is no longer held.
    #[error("piece {piece} of blob {} is corrupt on disk", digest.short())]
    Corrupt {
        /// The blob.
        digest: Digest,
        /// The piece's index.
        piece: u32,
    },
    /// The disk failed. The piece is still held.
    #[error("read piece {piece} of blob {}: {cause}", digest.short())]
    Io {
        /// The blob.
        digest: Digest,
        /// The piece's index.
        piece: u32,
        /// What the system said.
        cause: io::Error,
    },
}

/// Why a blob is not complete.
#[derive(Debug, thiserror::Error)]
pub enum CompleteError {
    /// Not all of its pieces are held.
    #[error("blob {} still lacks pieces", digest.short())]
    PiecesMissing {
        /// The blob.
        digest: Digest,
    },
    /// The blob was purged after it was opened.
    #[error("blob {} is no longer in the store", digest.short())]
    Gone {
        /// The blob.
        digest: Digest,
    },
    /// Its file could not be moved; the next open of the store does it.
    #[error("complete blob {}: {cause}", digest.short())]
    Io {
        /// The blob.
        digest: Digest,
        /// What the system said.
        cause: io::Error,
    },
    /// The index could not be written. The pieces are still held.
    #[error("complete blob {}: {cause}", digest.short())]
    Index {
        /// The blob.
        digest: Digest,
        /// What the index said.
        cause: IndexError,
    },
}
