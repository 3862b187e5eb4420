//! What was changed, for whom, and what stood there before.
//!
//! It lies in a directory of root's own, not beside the files: daemons read whatever they
//! find in `certs.d` and `registries.conf.d`, backups of `auth.json` are nobody's business,
//! and a file that was not there has no backup that could say so. Nor is it below
//! `/var/lib/flotilla`, which belongs to the daemons' user: root writes back what it finds here.
//!
//! A change is written down before it is made. So after a crash a file is what the journal
//! says it was, or what it says it became.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::plan::Edit;
use super::request::Client;
use super::tree::{Rights, Tree, TreeError};

/// All changes, the oldest first. While it is open, no other command is at work.
#[derive(Debug)]
pub(super) struct Journal {
    tree: Tree,
    pub(super) changes: Vec<Change>,
    _lock: Option<File>,
}

/// One file, changed once.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Change {
    pub(super) file: PathBuf,
    /// Who needs it so. It is undone with the last of them.
    pub(super) setups: Vec<Setup>,
    /// `None`: there was no file.
    pub(super) before: Option<Backup>,
    /// SHA-256 of what was written.
    pub(super) after: String,
    /// Directories that were made for it, the outermost first.
    pub(super) made_dirs: Vec<PathBuf>,
    /// What makes the client read the file once it is as it was.
    pub(super) reload: Option<String>,
}

/// A file as it was.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Backup {
    /// Its copy's name in the journal's directory.
    name: String,
    pub(super) sha256: String,
    mode: u32,
    user: u32,
    group: u32,
}

/// A client that was set up for a registry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Setup {
    pub(super) client: Client,
    pub(super) registry: String,
}

impl Journal {
    /// Reads it; an empty one where there is none. Only one that will be `written` is locked.
    pub(super) fn open(tree: &Tree, written: bool) -> Result<Self, JournalError> {
        let lock = if written { Some(lock(tree)?) } else { None };
        let changes = match tree.bytes(Path::new(FILE))? {
            None => Vec::new(),
            Some(bytes) => serde_json::from_slice(&bytes).map_err(JournalError::Damaged)?,
        };
        Ok(Self { tree: tree.clone(), changes, _lock: lock })
    }

    /// Keeps what stands in the way of these edits, and notes what they will write.
    pub(super) fn record(&mut self, setup: &Setup, edits: &[Edit]) -> Result<(), JournalError> {
        for edit in edits {
            if edit.changes() {
                self.record_change(setup, edit)?;
            } else {
                self.share(setup, edit);
            }
        }
        self.save()
    }

    fn record_change(&mut self, setup: &Setup, edit: &Edit) -> Result<(), JournalError> {
        let (before, after) = (edit.before.as_deref().map(hash), hash(&edit.after));
        if let Some(last) = self.changes.iter_mut().rev().find(|change| change.file == edit.path) {
            let as_written = before.as_ref() == Some(&last.after);
            let never_written = before.as_deref() == last.before.as_ref().map(|backup| &*backup.sha256);
            if never_written || as_written && last.setups == [setup.clone()] {
                last.after = after;
                last.add(setup);
                return Ok(());
            }
        }
        let backup = edit.before.as_deref().map(|text| self.back_up(&edit.path, text)).transpose()?;
        let made_dirs = self.tree.missing_dirs(&edit.path)?;
        let (file, setups) = (edit.path.clone(), vec![setup.clone()]);
        let reload = edit.unload.map(ToOwned::to_owned);
        self.changes.push(Change { file, setups, before: backup, after, made_dirs, reload });
        Ok(())
    }

    /// A file that another setup has already made as this one needs it.
    fn share(&mut self, setup: &Setup, edit: &Edit) {
        let last = self.changes.iter_mut().rev().find(|change| change.file == edit.path);
        if let Some(change) = last.filter(|change| change.after == hash(&edit.after)) {
            change.add(setup);
        }
    }

    fn back_up(&self, file: &Path, text: &str) -> Result<Backup, JournalError> {
        let sha256 = hash(text);
        let stem = file.file_name().unwrap_or_default().to_string_lossy();
        let name = format!("{}-{}-{stem}", self.next_number(), &sha256[..12]);
        self.tree.write(&backup_path(&name), text.as_bytes(), Rights::fresh(true))?;
        let metadata = self.tree.metadata(file)?;
        let rights = metadata.as_ref().map_or(Rights::fresh(false), Rights::of);
        let (user, group) = rights.owner.unwrap_or_default();
        Ok(Backup { name, sha256, mode: rights.mode, user, group })
    }

    fn next_number(&self) -> u64 {
        let number = |change: &Change| change.before.as_ref()?.name.split('-').next()?.parse().ok();
        self.changes.iter().filter_map(number).max().map_or(1, |last: u64| last + 1)
    }

    /// The file as it was, and its rights.
    pub(super) fn backup(&self, backup: &Backup) -> Result<(Vec<u8>, Rights), JournalError> {
        let path = backup_path(&backup.name);
        let bytes = self.tree.bytes(&path)?.filter(|bytes| hash(bytes) == backup.sha256);
        let bytes = bytes.ok_or(JournalError::BackupLost { file: path })?;
        Ok((bytes, Rights { mode: backup.mode, owner: Some((backup.user, backup.group)) }))
    }

    /// Forgets changes that are undone; an empty journal leaves nothing behind.
    pub(super) fn replace(&mut self, changes: Vec<Change>) -> Result<(), JournalError> {
        let old = std::mem::replace(&mut self.changes, changes);
        self.save()?;
        let kept = |name: &str| {
            self.changes.iter().any(|change| change.before.as_ref().is_some_and(|backup| backup.name == name))
        };
        for backup in old.iter().filter_map(|change| change.before.as_ref()).filter(|b| !kept(&b.name)) {
            self.tree.remove(&backup_path(&backup.name))?;
        }
        if self.changes.is_empty() {
            self.tree.remove(Path::new(FILE))?;
            self.tree.remove(Path::new(LOCK))?;
            self.tree.remove_empty_dir(Path::new(DIR))?;
        }
        Ok(())
    }

    fn save(&self) -> Result<(), JournalError> {
        let text = serde_json::to_string_pretty(&self.changes).map_err(JournalError::Damaged)? + "\n";
        Ok(self.tree.write(Path::new(FILE), text.as_bytes(), Rights::fresh(true))?)
    }
}

impl Change {
    fn add(&mut self, setup: &Setup) {
        if !self.setups.contains(setup) {
            self.setups.push(setup.clone());
        }
    }
}

impl Backup {
    /// Where a person finds it.
    pub(super) fn path(&self) -> PathBuf {
        backup_path(&self.name)
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} --registry {}", self.client, self.registry)
    }
}

/// Held until it is dropped.
fn lock(tree: &Tree) -> Result<File, JournalError> {
    tree.make_dir(Path::new(DIR), 0o700)?;
    let file = tree.locate(Path::new(LOCK))?;
    let locked = File::create(&file).and_then(|lock| lock.lock().map(|()| lock));
    locked.map_err(|error| TreeError::Write { file, error }.into())
}

/// SHA-256, in hexadecimal.
pub(super) fn hash(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(Sha256::digest(bytes))
}

fn backup_path(name: &str) -> PathBuf {
    Path::new(DIR).join(name)
}

const DIR: &str = "/var/lib/flotilla-client-setup";

const FILE: &str = "/var/lib/flotilla-client-setup/journal.json";

const LOCK: &str = "/var/lib/flotilla-client-setup/lock";

/// Why changes cannot be remembered or looked up.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    /// Somebody wrote into it.
    #[error("{FILE} is damaged: {0}")]
    Damaged(serde_json::Error),
    /// A copy is gone, or was changed.
    #[error("the copy {} is lost or changed: what it held cannot be put back", file.display())]
    BackupLost {
        /// Which.
        file: PathBuf,
    },
    /// A file.
    #[error(transparent)]
    Tree(#[from] TreeError),
}
