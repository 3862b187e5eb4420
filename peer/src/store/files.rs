//! Where blobs lie on disk, and the few moves a blob's file makes.
//!
//! `partial/<hex>` while pieces arrive, `blobs/sha256/<hex>` (OCI image layout 1.1, "Blobs") once the
//! whole blob is verified. A file has the blob's full length from its first moment on, and takes room for the
//! pieces that were written only.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use flotilla_daemon::files::create_closed_dir;
use flotilla_proto::Digest;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The folders of one store.
pub(super) struct Files {
    partial: PathBuf,
    complete: PathBuf,
}

/// Which of the two folders a blob's file is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Partial,
    Complete,
}

impl Place {
    pub(super) fn of(complete: bool) -> Self {
        if complete { Self::Complete } else { Self::Partial }
    }

    pub(super) fn other(self) -> Self {
        match self {
            Self::Partial => Self::Complete,
            Self::Complete => Self::Partial,
        }
    }
}

impl Files {
    /// Makes the folders below `dir` where they are missing.
    pub(super) fn create_folders(dir: &Path) -> io::Result<Self> {
        let files = Self { partial: dir.join("partial"), complete: dir.join("blobs").join("sha256") };
        for folder in [&files.partial, &files.complete] {
            create_closed_dir(folder)?;
        }
        Ok(files)
    }

    /// Makes the file of a blob that has none: `size` bytes long, and all of it a hole.
    ///
    /// Nothing is left behind on failure. A file in the way is unlinked, never truncated: someone
    /// may still read a purged blob from it.
    pub(super) fn create(&self, digest: Digest, size: u64) -> io::Result<File> {
        self.remove(digest, Place::Partial)?;
        let path = self.path(digest, Place::Partial);
        let file = File::options().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
        if let Err(error) = file.set_len(size) {
            // The first error is the one to report, and the next open removes an orphan.
            let _ = fs::remove_file(&path);
            return Err(error);
        }
        Ok(file)
    }

    /// Whether the disk has room for a file of `size` bytes: nothing is left of it.
    pub(super) fn try_room(&self, size: u64) -> io::Result<()> {
        let path = self.partial.join(TRIAL);
        let file = File::options().write(true).create(true).truncate(true).open(&path)?;
        let tried = reserve(&file, size.max(1));
        fs::remove_file(&path)?;
        tried
    }

    pub(super) fn open(&self, digest: Digest, place: Place) -> io::Result<File> {
        File::options().read(true).write(true).open(self.path(digest, place))
    }

    /// The length of the blob's file in bytes; `None` if there is none.
    pub(super) fn len(&self, digest: Digest, place: Place) -> io::Result<Option<u64>> {
        match fs::metadata(self.path(digest, place)) {
            Ok(metadata) => Ok(Some(metadata.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Moves the blob's file to `to` from the other folder.
    pub(super) fn move_to(&self, digest: Digest, to: Place) -> io::Result<()> {
        fs::rename(self.path(digest, to.other()), self.path(digest, to))
    }

    /// Unlinks the blob's file; that there is none is no error.
    pub(super) fn remove(&self, digest: Digest, place: Place) -> io::Result<()> {
        match fs::remove_file(self.path(digest, place)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Makes the names of files created in `partial/` survive a power cut.
    pub(super) fn sync_partial_folder(&self) -> io::Result<()> {
        File::open(&self.partial)?.sync_all()
    }

    /// Unlinks every file that `is_known` does not know, and says how many.
    pub(super) fn remove_orphans(&self, is_known: impl Fn(Digest, Place) -> bool) -> io::Result<usize> {
        let mut removed_count = 0;
        for (folder, place) in [(&self.partial, Place::Partial), (&self.complete, Place::Complete)] {
            for entry in fs::read_dir(folder)? {
                let entry = entry?;
                let digest = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse().ok());
                if digest.is_some_and(|digest| is_known(digest, place)) || entry.file_type()?.is_dir() {
                    continue;
                }
                fs::remove_file(entry.path())?;
                removed_count += 1;
            }
        }
        Ok(removed_count)
    }

    pub(super) fn path(&self, digest: Digest, place: Place) -> PathBuf {
        match place {
            Place::Partial => self.partial.join(digest.hex()),
            Place::Complete => self.complete.join(digest.hex()),
        }
    }
}

/// No digest: the next open of the store removes it, should it be left.
const TRIAL: &str = "trial";

/// Reserves room on the disk. A file system that cannot do so is believed to have it.
fn reserve(file: &File, size: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::empty(), 0, size) {
        Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
