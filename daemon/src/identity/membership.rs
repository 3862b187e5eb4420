//! Whether a daemon is still one of the cluster, as two small files beside its identity say.
//!
//! `token` holds a hash of the join token that the identity came from. `removed` is there
//! once the manager has said that the daemon was removed: from then on the identity is
//! nobody's, and only another token gets a new one. Without the hash, a token that is good
//! for many uses would undo every removal at once.

use std::io;
use std::path::{Path, PathBuf};

use flotilla_proto::JoinTokenText;

use super::bundle::{self, BundleError};
use crate::files::{Access, write_atomic};

/// The files of one identity's directory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Membership<'a>(pub(super) &'a Path);

impl Membership<'_> {
    pub(super) fn is_removed(self) -> bool {
        // What cannot be seen may be there, and a removed daemon must not serve.
        self.file(REMOVED_FILE).try_exists().unwrap_or(true)
    }

    /// The daemon was removed. `current` is the token that stands in its configuration, which
    /// counts as the used one where an older version has kept none.
    pub(super) fn remove(self, current: Option<&JoinTokenText>) -> Result<(), BundleError> {
        if let (None, Some(token)) = (self.used_token(), current) {
            self.write(TOKEN_FILE, &fingerprint(token))?;
        }
        // It may be the key that was revoked.
        bundle::forget_joining_key(self.0)?;
        self.write(REMOVED_FILE, "removed from the topology; a new join token enrols this daemon again\n")
    }

    /// Whether the identity came from this very token.
    pub(super) fn came_from(self, token: &JoinTokenText) -> bool {
        self.used_token().is_some_and(|used| used.trim() == fingerprint(token))
    }

    /// The daemon has joined with this token.
    pub(super) fn joined(self, token: &JoinTokenText) -> Result<(), BundleError> {
        self.write(TOKEN_FILE, &fingerprint(token))?;
        let removed = self.file(REMOVED_FILE);
        match std::fs::remove_file(&removed) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(BundleError::Write { file: removed, source })
            }
            Err(_) | Ok(()) => Ok(()),
        }
    }

    fn used_token(self) -> Option<String> {
        std::fs::read_to_string(self.file(TOKEN_FILE)).ok()
    }

    fn file(self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn write(self, name: &str, text: &str) -> Result<(), BundleError> {
        let file = self.file(name);
        write_atomic(&file, text.as_bytes(), Access::Private)
            .map_err(|source| BundleError::Write { file, source })
    }
}

/// Tells one secret from another and gives neither away.
fn fingerprint(token: &JoinTokenText) -> String {
    blake3::hash(token.token().secret.as_bytes()).to_hex().to_string()
}

const REMOVED_FILE: &str = "removed";
const TOKEN_FILE: &str = "token";
