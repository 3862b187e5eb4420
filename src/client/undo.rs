//! Taking a setup back: each file as it was, byte for byte.
//!
//! All of it is decided before the first file is touched. A file that somebody else changed
//! since is nobody's to overwrite, so nothing is done then.

use std::collections::HashMap;
use std::path::PathBuf;

use super::journal::{Change, Journal, JournalError, Setup, hash};
use super::tree::{Rights, Tree, TreeError};

/// What is done about one file.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) file: PathBuf,
    pub(super) action: Action,
    /// What makes the client read it.
    pub(super) reload: Option<String>,
    made_dirs: Vec<PathBuf>,
}

/// How a file comes back.
#[derive(Debug)]
pub(super) enum Action {
    /// These bytes are put back.
    Restore(Vec<u8>, Rights),
    /// It was not there.
    Remove,
    /// It is as it was.
    AsItWas,
    /// Others need it so.
    Keep(Vec<Setup>),
}

/// The steps, and the changes that stay.
#[derive(Debug)]
pub(super) struct Undo {
    pub(super) steps: Vec<Step>,
    left: Vec<Change>,
}

impl Undo {
    /// Takes back what these setups changed, the last change first.
    pub(super) fn of(
        tree: &Tree,
        journal: &Journal,
        gone: impl Fn(&Setup) -> bool,
    ) -> Result<Self, UndoError> {
        let (mut steps, mut left) = (Vec::new(), Vec::new());
        let mut hash_by_file: HashMap<&PathBuf, Option<String>> = HashMap::new();
        for change in journal.changes.iter().rev() {
            let staying: Vec<Setup> = change.setups.iter().filter(|setup| !gone(setup)).cloned().collect();
            if staying.len() == change.setups.len() {
                left.push(change.clone());
                continue;
            }
            let action = if staying.is_empty() {
                refuse_under_another(change, &left)?;
                let now = match hash_by_file.get(&change.file) {
                    Some(hash) => hash.clone(),
                    None => tree.bytes(&change.file)?.map(hash),
                };
                let before = change.before.as_ref().map(|backup| backup.sha256.clone());
                let action = back(journal, change, now.as_deref(), before.as_deref())?;
                hash_by_file.insert(&change.file, before);
                action
            } else {
                left.push(Change { setups: staying.clone(), ..change.clone() });
                Action::Keep(staying)
            };
            let Change { file, reload, made_dirs, .. } = change.clone();
            steps.push(Step { file, action, reload, made_dirs });
        }
        left.reverse();
        Ok(Self { steps, left })
    }

    /// Does it. What a crash leaves undone, the same command does the next time.
    pub(super) fn perform(self, tree: &Tree, journal: &mut Journal) -> Result<Vec<Step>, UndoError> {
        for step in &self.steps {
            match &step.action {
                Action::Restore(bytes, rights) => tree.write(&step.file, bytes, *rights)?,
                Action::Remove => {
                    tree.remove(&step.file)?;
                    step.made_dirs.iter().rev().try_for_each(|dir| tree.remove_empty_dir(dir))?;
                }
                Action::AsItWas | Action::Keep(_) => {}
            }
        }
        journal.replace(self.left)?;
        Ok(self.steps)
    }
}

/// Of two changes of a file the older cannot be taken back alone.
fn refuse_under_another(change: &Change, left: &[Change]) -> Result<(), UndoError> {
    match left.iter().find(|later| later.file == change.file) {
        None => Ok(()),
        Some(later) => {
            let setup = later.setups.first().cloned().expect("a change has a setup");
            Err(UndoError::Later { file: change.file.clone(), setup })
        }
    }
}

fn back(
    journal: &Journal,
    change: &Change,
    now: Option<&str>,
    before: Option<&str>,
) -> Result<Action, UndoError> {
    if now == before {
        return Ok(Action::AsItWas);
    }
    if now != Some(&change.after) {
        let kept = change.before.as_ref().map(super::journal::Backup::path);
        return Err(UndoError::Changed { file: change.file.clone(), kept });
    }
    Ok(match &change.before {
        None => Action::Remove,
        Some(backup) => {
            let (bytes, rights) = journal.backup(backup)?;
            Action::Restore(bytes, rights)
        }
    })
}

/// Why nothing was undone.
#[derive(Debug, thiserror::Error)]
pub(super) enum UndoError {
    /// Somebody was there.
    #[error(
        "{} was changed by somebody else since, so nothing is undone. {}, then run this again",
        file.display(), advice(kept.as_ref())
    )]
    Changed {
        /// Which.
        file: PathBuf,
        /// What stood there before.
        kept: Option<PathBuf>,
    },
    /// Another setup came after it.
    #[error(
        "{} was changed again for another setup, so nothing is undone. Before it, run: \
         flotilla client setup {setup} --undo", file.display()
    )]
    Later {
        /// Which.
        file: PathBuf,
        /// For whom.
        setup: Setup,
    },
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// A file.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

fn advice(kept: Option<&PathBuf>) -> String {
    match kept {
        Some(kept) => format!("Put it back by hand (what it was is in {})", kept.display()),
        None => "Remove it by hand (there was none)".to_owned(),
    }
}
