//! The files of a machine, or of an image that is being built: everything below one root.

use std::fs::{self, DirBuilder, Metadata, Permissions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

/// Paths given to it are absolute, as the machine itself will see them.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    root: PathBuf,
}

/// Who may do what with a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) mode: u32,
    /// User and group; whoever writes where there are none.
    pub(super) owner: Option<(u32, u32)>,
}

impl Tree {
    /// The files below `root`.
    pub(super) fn at(root: &Path) -> Result<Self, TreeError> {
        let error = |error| TreeError::Read { file: root.to_owned(), error };
        let root = root.canonicalize().map_err(error)?;
        Ok(Self { root })
    }

    /// Where the file lies now. A symbolic link is followed: what it names is replaced, not it.
    pub(super) fn locate(&self, path: &Path) -> Result<PathBuf, TreeError> {
        let plain = self.root.join(path.strip_prefix("/").unwrap_or(path));
        let (there, missing) = nearest(&plain);
        let real = there.canonicalize().map_err(|error| TreeError::Read { file: plain.clone(), error })?;
        if !real.starts_with(&self.root) {
            return Err(TreeError::Outside { file: plain, leads_to: real });
        }
        Ok(if missing.as_os_str().is_empty() { real } else { real.join(missing) })
    }

    /// The bytes of a file; `None` where there is none.
    pub(super) fn bytes(&self, path: &Path) -> Result<Option<Vec<u8>>, TreeError> {
        let file = self.locate(path)?;
        match fs::read(&file) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(TreeError::Read { file, error }),
        }
    }

    /// The text of a file; `None` where there is none.
    pub(super) fn text(&self, path: &Path) -> Result<Option<String>, TreeError> {
        let Some(bytes) = self.bytes(path)? else { return Ok(None) };
        String::from_utf8(bytes).map(Some).map_err(|_| TreeError::NoText { file: path.to_owned() })
    }

    /// The files of a directory whose names end so, sorted by name as their readers sort them.
    pub(super) fn files(&self, dir: &Path, extension: &str) -> Result<Vec<PathBuf>, TreeError> {
        let located = self.locate(dir)?;
        let entries = match fs::read_dir(&located) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(TreeError::Read { file: located, error }),
        };
        let names = entries.filter_map(|entry| Some(dir.join(entry.ok()?.file_name())));
        let mut files: Vec<PathBuf> =
            names.filter(|file| file.extension().is_some_and(|found| found == extension)).collect();
        files.sort();
        Ok(files)
    }

    /// What there is to a file beside its bytes.
    pub(super) fn metadata(&self, path: &Path) -> Result<Option<Metadata>, TreeError> {
        Ok(fs::metadata(self.locate(path)?).ok())
    }

    /// The directories above the file that are not there, the outermost first.
    pub(super) fn missing_dirs(&self, path: &Path) -> Result<Vec<PathBuf>, TreeError> {
        let mut missing = Vec::new();
        for dir in path.ancestors().skip(1) {
            if self.locate(dir)?.exists() {
                break;
            }
            missing.insert(0, dir.to_owned());
        }
        Ok(missing)
    }

    /// Makes a directory and those above it.
    pub(super) fn make_dir(&self, dir: &Path, mode: u32) -> Result<(), TreeError> {
        for missing in self.missing_dirs(&dir.join("file"))? {
            let located = self.locate(&missing)?;
            let made = DirBuilder::new().mode(mode).create(&located);
            // Whatever the umask: others read what lies here.
            let made = made.and_then(|()| fs::set_permissions(&located, Permissions::from_mode(mode)));
            made.map_err(|error| TreeError::Write { file: located, error })?;
        }
        Ok(())
    }

    /// Replaces a file by one that holds `bytes`: a crash leaves the old one or the whole of
    /// the other.
    pub(super) fn write(&self, path: &Path, bytes: &[u8], rights: Rights) -> Result<(), TreeError> {
        let file = self.locate(path)?;
        let dir = file.parent().unwrap_or(&self.root);
        let written = || {
            let mut part = tempfile::Builder::new().prefix(".flotilla-").tempfile_in(dir)?;
            part.write_all(bytes)?;
            if let Some((user, group)) = rights.owner {
                chown(part.path(), Some(user), Some(group))?;
            }
            part.as_file().set_permissions(Permissions::from_mode(rights.mode))?;
            part.as_file().sync_all()?;
            part.persist(&file).map_err(|error| error.error)?;
            fs::File::open(dir)?.sync_all()
        };
        written().map_err(|error| TreeError::Write { file: file.clone(), error })
    }

    /// Removes a file; one that is not there is removed.
    pub(super) fn remove(&self, path: &Path) -> Result<(), TreeError> {
        let file = self.locate(path)?;
        match fs::remove_file(&file) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(TreeError::Write { file, error }),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Removes a directory if nothing is in it.
    pub(super) fn remove_empty_dir(&self, path: &Path) -> Result<(), TreeError> {
        // It stays where somebody else put something into it.
        let _ = fs::remove_dir(self.locate(path)?);
        Ok(())
    }
}

impl Rights {
    /// Those of a file that is there.
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self { mode: metadata.mode() & 0o7777, owner: Some((metadata.uid(), metadata.gid())) }
    }

    /// Of a file that the command makes.
    pub(super) fn fresh(secret: bool) -> Self {
        Self { mode: if secret { 0o600 } else { 0o644 }, owner: None }
    }
}

/// The longest part of the path that is there, and what is behind it.
fn nearest(path: &Path) -> (&Path, &Path) {
    let is_there = |part: &&Path| part.symlink_metadata().is_ok();
    let there = path.ancestors().find(is_there).unwrap_or(Path::new("/"));
    (there, path.strip_prefix(there).expect("an ancestor is a prefix"))
}

/// Why a file cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub(super) enum TreeError {
    /// It cannot be read.
    #[error("read {}: {error}{}", file.display(), as_root(error))]
    Read {
        /// Which.
        file: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// It cannot be written.
    #[error("write {}: {error}{}", file.display(), as_root(error))]
    Write {
        /// Which.
        file: PathBuf,
        /// The system's words.
        error: io::Error,
    },
    /// It is no text.
    #[error("{} is no UTF-8 text", file.display())]
    NoText {
        /// Which.
        file: PathBuf,
    },
    /// A link in an image that is being built leads to the machine that builds it.
    #[error("{} leads to {}, out of --root", file.display(), leads_to.display())]
    Outside {
        /// Which.
        file: PathBuf,
        /// Where to.
        leads_to: PathBuf,
    },
}

fn as_root(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied { "; run it as root" } else { "" }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_file_keeps_its_rights_and_a_link_stays_a_link() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path()).unwrap();
        fs::write(dir.path().join("real"), "one").unwrap();
        symlink("real", dir.path().join("link")).unwrap();
        let rights = Rights { mode: 0o640, owner: None };
        tree.write(Path::new("/link"), b"two", rights).unwrap();
        assert!(dir.path().join("link").is_symlink());
        assert_eq!(fs::read(dir.path().join("real")).unwrap(), b"two");
        let metadata = tree.metadata(Path::new("/link")).unwrap().unwrap();
        assert_eq!(Rights::of(&metadata).mode, 0o640);
    }

    #[test]
    fn nothing_outside_the_root_is_touched() {
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        symlink(other.path(), dir.path().join("etc")).unwrap();
        let tree = Tree::at(dir.path()).unwrap();
        let error = tree.text(Path::new("/etc/hosts")).unwrap_err().to_string();
        assert!(error.ends_with(", out of --root"), "{error}");
    }

    #[test]
    fn missing_directories_are_made_for_everybody() {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::at(dir.path()).unwrap();
        let file = Path::new("/etc/docker/certs.d/a/b.crt");
        assert_eq!(tree.missing_dirs(file).unwrap().len(), 4);
        tree.make_dir(file.parent().unwrap(), 0o755).unwrap();
        assert!(tree.missing_dirs(file).unwrap().is_empty());
        let metadata = fs::metadata(dir.path().join("etc/docker")).unwrap();
        assert_eq!(metadata.mode() & 0o777, 0o755);
    }
}
