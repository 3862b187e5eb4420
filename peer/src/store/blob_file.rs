//! One blob opened for reading and writing, and the hashes its pieces are held to.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use flotilla_proto::{Digest, Layout, Origins, PieceHash, PieceSet, RegistryMark};

/// A blob of the store, opened, or begun and not there yet.
///
/// While one lives, its blob is not evicted: whoever reads, downloads or serves a blob keeps one for
/// as long as that takes, and drops it then. A purge does not wait for it: the file is unlinked, and
/// what was held can still be read through this. All holders of one blob share one file descriptor.
///
/// A blob that was begun takes nothing of the disk until its first piece comes.
#[derive(Debug)]
pub struct BlobFile {
    digest: Digest,
    layout: Layout,
    /// `None` while nothing is held. Locked for as long as it takes to copy the handle; only the writer changes it.
    file: Mutex<Option<Arc<File>>>,
    held: Arc<HeldPieces>,
}

impl BlobFile {
    /// A blob of which nothing is there.
    pub(super) fn begun(digest: Digest, layout: Layout) -> Self {
        Self { digest, layout, file: Mutex::default(), held: Arc::new(HeldPieces::none(layout)) }
    }

    /// A blob whose file is there.
    pub(super) fn opened(digest: Digest, file: File, held: Arc<HeldPieces>) -> Self {
        Self { digest, layout: held.layout, file: Mutex::new(Some(Arc::new(file))), held }
    }

    /// Gives the blob its file, or takes it.
    pub(super) fn set_file(&self, file: Option<File>) {
        *self.lock_file() = file.map(Arc::new);
    }

    pub(super) fn has_file(&self) -> bool {
        self.lock_file().is_some()
    }

    fn file(&self) -> io::Result<Arc<File>> {
        self.lock_file().clone().ok_or_else(|| io::Error::other("nothing is held of the blob"))
    }

    fn lock_file(&self) -> MutexGuard<'_, Option<Arc<File>>> {
        self.file.lock().expect("no panic while the handle is locked")
    }

    /// The blob's name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// How the blob is cut into pieces.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The pieces that [`Store::read`](super::Store::read) would find.
    pub fn pieces(&self) -> PieceSet {
        self.held.pieces()
    }

    /// Those of which only peers say what they hash to.
    pub fn hearsay(&self) -> PieceSet {
        self.held.hearsay()
    }

    /// The hash of a piece that is held.
    pub fn hash_of(&self, piece: u32) -> Option<PieceHash> {
        self.held.hash_of(piece)
    }

    /// The registries that gave any of what is held, or was since the blob was begun. A piece that is held is never
    /// from another.
    pub fn origins(&self) -> Origins {
        self.held.list().origins.clone()
    }

    pub(super) fn held(&self) -> &Arc<HeldPieces> {
        &self.held
    }

    /// Puts a piece's bytes at their offset. They survive this process after [`Self::sync`] only.
    pub(super) fn write_piece(&self, piece: u32, bytes: &[u8]) -> io::Result<()> {
        self.file()?.write_all_at(bytes, self.layout.piece_range(piece).start)
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.file()?.sync_data()
    }

    /// A held piece's bytes, if they still are what `hash` says.
    pub(super) fn read_piece(&self, piece: u32, hash: PieceHash) -> Result<Bytes, PieceFault> {
        let file = self.file().map_err(PieceFault::Io)?;
        let len = self.layout.piece_size(piece) as usize;
        let mut bytes = Vec::with_capacity(len);
        let mut offset = self.layout.piece_range(piece).start;
        while bytes.len() < len {
            // The capacity may be more than was asked for; what lies behind the piece is not its.
            let read = rustix::io::pread(&file, rustix::buffer::spare_capacity(&mut bytes), offset);
            match read {
                Ok(0) => return Err(PieceFault::Corrupt),
                Ok(count) => offset += count as u64,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(PieceFault::Io(errno.into())),
            }
        }
        bytes.truncate(len);
        if PieceHash::of(&bytes) != hash {
            return Err(PieceFault::Corrupt);
        }
        Ok(bytes.into())
    }
}

/// Why a held piece did not come back from the disk.
pub(super) enum PieceFault {
    /// Other bytes, or too few.
    Corrupt,
    Io(io::Error),
}

/// Which pieces of one blob survive `kill -9`, by hash.
///
/// The lock protects the list alone and is held for a look-up or a copy, never across IO. Only the
/// writer changes the list, and only after the index has. It outlives the blob's place in the
/// catalog for as long as someone has the blob open.
#[derive(Debug)]
pub(super) struct HeldPieces {
    layout: Layout,
    list: Mutex<List>,
}

#[derive(Debug, Default)]
struct List {
    /// Empty until the first piece comes: a claimed size costs no memory.
    hash_by_piece: Box<[Option<PieceHash>]>,
    /// Held pieces of which only peers say what they hash to.
    hearsay: BTreeSet<u32>,
    bytes: u64,
    origins: Origins,
}

impl HeldPieces {
    pub(super) fn none(layout: Layout) -> Self {
        Self { layout, list: Mutex::default() }
    }

    /// One entry for each piece of the layout.
    pub(super) fn from_hashes(
        layout: Layout,
        hash_by_piece: Vec<Option<PieceHash>>,
        hearsay: BTreeSet<u32>,
        origins: Origins,
    ) -> Self {
        debug_assert_eq!(hash_by_piece.len(), layout.piece_count() as usize);
        let held = (0..).zip(&hash_by_piece).filter(|(_, hash)| hash.is_some());
        let bytes = held.map(|(piece, _)| u64::from(layout.piece_size(piece))).sum();
        let hash_by_piece = hash_by_piece.into();
        Self { layout, list: Mutex::new(List { hash_by_piece, hearsay, bytes, origins }) }
    }

    pub(super) fn layout(&self) -> Layout {
        self.layout
    }

    pub(super) fn hash_of(&self, piece: u32) -> Option<PieceHash> {
        self.list().hash_by_piece.get(piece as usize).copied().flatten()
    }

    pub(super) fn insert(&self, piece: u32, hash: PieceHash, hearsay: bool, origins: &Origins) {
        let mut list = self.list();
        if hearsay {
            list.hearsay.insert(piece);
        } else {
            list.hearsay.remove(&piece);
        }
        list.origins.extend(origins);
        if list.hash_by_piece.is_empty() {
            list.hash_by_piece = vec![None; self.layout.piece_count() as usize].into();
        }
        if list.hash_by_piece[piece as usize].replace(hash).is_none() {
            list.bytes += u64::from(self.layout.piece_size(piece));
        }
    }

    /// Whether only peers say what a piece hashes to; `None` where it is not held.
    pub(super) fn is_hearsay(&self, piece: u32) -> Option<bool> {
        let list = self.list();
        list.hash_by_piece.get(piece as usize)?.map(|_| list.hearsay.contains(&piece))
    }

    /// Somebody who ought to know says the same of a piece.
    pub(super) fn vouch(&self, piece: u32) {
        self.list().hearsay.remove(&piece);
    }

    /// The whole is right.
    pub(super) fn vouch_all(&self) {
        self.list().hearsay.clear();
    }

    pub(super) fn hearsay(&self) -> PieceSet {
        let mut pieces = PieceSet::new(self.layout.piece_count());
        for piece in &self.list().hearsay {
            pieces.insert(*piece);
        }
        pieces
    }

    pub(super) fn remove(&self, piece: u32) {
        let mut list = self.list();
        list.hearsay.remove(&piece);
        if list.hash_by_piece.get_mut(piece as usize).and_then(Option::take).is_some() {
            list.bytes -= u64::from(self.layout.piece_size(piece));
        }
    }

    /// Whom of these registries nothing is held of yet, as far as they are told apart.
    pub(super) fn added_by(&self, origins: &Origins) -> Vec<RegistryMark> {
        let before = self.list().origins.clone();
        let mut after = before.clone();
        after.extend(origins);
        after.marks().iter().copied().filter(|mark| !before.marks().contains(mark)).collect()
    }

    /// But of those that are hearsay.
    pub(super) fn hashes(&self) -> Vec<(u32, PieceHash)> {
        let list = self.list();
        let held = (0..).zip(&list.hash_by_piece).filter_map(|(piece, hash)| Some((piece, (*hash)?)));
        held.filter(|(piece, _)| !list.hearsay.contains(piece)).collect()
    }

    pub(super) fn hashes_of(&self, pieces: &PieceSet) -> Option<Vec<PieceHash>> {
        let list = self.list();
        pieces.iter().map(|piece| list.hash_by_piece.get(piece as usize).copied().flatten()).collect()
    }

    pub(super) fn pieces(&self) -> PieceSet {
        let mut pieces = PieceSet::new(self.layout.piece_count());
        for (piece, hash) in (0..).zip(&self.list().hash_by_piece) {
            if hash.is_some() {
                pieces.insert(piece);
            }
        }
        pieces
    }

    /// Bytes of the pieces that are held.
    pub(super) fn bytes(&self) -> u64 {
        self.list().bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes() == 0
    }

    pub(super) fn is_full(&self) -> bool {
        self.bytes() == self.layout.size()
    }

    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().expect("no panic while the list is locked")
    }
}
