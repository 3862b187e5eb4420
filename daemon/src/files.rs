//! Writing small files so that a crash leaves the old one or the new one, never a part.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Only the daemon's own user (0600).
    Private,
    /// Everyone (0644).
    Public,
}

/// Replaces the file at `path` by one that holds `bytes`. When this returns, the file and
/// its name are on disk.
///
/// # Errors
///
/// Whatever the file system says; the file that was there is then still there.
pub fn write_atomic(path: &Path, bytes: &[u8], access: Access) -> io::Result<()> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "a path without a file name"));
    };
    let mut temporary_name = std::ffi::OsString::from(".");
    temporary_name.push(name);
    temporary_name.push(".part");
    let temporary = dir.join(temporary_name);
    // A leftover of a crash may have another mode.
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Err(_) | Ok(()) => {}
    }
    let mode = match access {
        Access::Private => 0o600,
        Access::Public => 0o644,
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

/// Creates `dir` and its parents where missing; what it creates only the daemon's user may
/// enter (0700).
///
/// # Errors
///
/// Whatever the file system says.
pub fn create_private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// As [`create_private_dir`] for a directory that is the daemon's alone: one that others may enter is closed
/// to them. If it is somebody else's to close, a warning says so.
///
/// # Errors
///
/// Whatever the file system says when it is created.
pub fn create_closed_dir(dir: &Path) -> io::Result<()> {
    create_private_dir(dir)?;
    let mode = std::fs::metadata(dir)?.permissions().mode() & 0o7777;
    if mode & OTHERS != 0
        && let Err(error) = std::fs::set_permissions(dir, Permissions::from_mode(mode & !OTHERS))
    {
        let mode = format!("{mode:04o}");
        tracing::warn!(dir = %dir.display(), mode, %error, "others may enter this directory: chmod 0700 it");
    }
    Ok(())
}

/// What its group and everyone else may do.
const OTHERS: u32 = 0o077;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_others_could_enter_is_closed_to_them() {
        let dir = tempfile::tempdir().unwrap();
        let open = dir.path().join("open");
        std::fs::create_dir(&open).unwrap();
        std::fs::set_permissions(&open, Permissions::from_mode(0o2755)).unwrap();
        create_private_dir(&open).unwrap();
        assert_eq!(
            std::fs::metadata(&open).unwrap().permissions().mode() & 0o7777,
            0o2755,
            "it may be shared"
        );
        create_closed_dir(&open).unwrap();
        assert_eq!(std::fs::metadata(&open).unwrap().permissions().mode() & 0o7777, 0o2700);
    }

    #[test]
    fn a_private_file_is_readable_by_its_owner_only_even_over_a_leftover() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key.pem");
        std::fs::write(dir.path().join(".key.pem.part"), "left by a crash").unwrap();
        write_atomic(&path, b"one", Access::Private).unwrap();
        write_atomic(&path, b"two", Access::Private).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
