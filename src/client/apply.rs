//! Carrying a plan out.

use super::journal::{Journal, JournalError, Setup};
use super::plan::Edit;
use super::tree::{Rights, Tree, TreeError};

/// Writes what is missing, once the journal has it. Nothing to write leaves no journal.
pub(super) fn apply(tree: &Tree, setup: &Setup, edits: &[Edit]) -> Result<(), ApplyError> {
    let known = Journal::open(tree, false).map_err(ApplyError::Journal)?;
    if !edits.iter().any(Edit::changes) && known.changes.is_empty() {
        return Ok(());
    }
    let mut journal = Journal::open(tree, true).map_err(ApplyError::Journal)?;
    journal.record(setup, edits).map_err(ApplyError::Journal)?;
    edits.iter().filter(|edit| edit.changes()).try_for_each(|edit| {
        write(tree, edit).map_err(|error| ApplyError::Stopped { error, setup: setup.clone() })
    })
}

fn write(tree: &Tree, edit: &Edit) -> Result<(), TreeError> {
    if let Some(dir) = edit.path.parent() {
        tree.make_dir(dir, 0o755)?;
    }
    let metadata = tree.metadata(&edit.path)?;
    let rights = metadata.as_ref().map_or(Rights::fresh(edit.secret), Rights::of);
    tree.write(&edit.path, edit.after.as_bytes(), rights)
}

/// Why a plan was not carried out.
#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    /// Nothing was written.
    #[error(transparent)]
    Journal(JournalError),
    /// Files before it may be written.
    #[error("{error}. To take back what was written before: flotilla client setup {setup} --undo")]
    Stopped {
        /// The file.
        error: TreeError,
        /// Whose.
        setup: Setup,
    },
}
