//! Why the planner fails a download, in its clients' words.

use flotilla_proto::{Digest, Layout};

use crate::TaskFailure;

pub(crate) fn no_seed() -> TaskFailure {
    failure(503, "UNAVAILABLE", "no seed peer is connected in this region".into())
}

pub(crate) fn too_many_tasks(max: usize) -> TaskFailure {
    failure(503, "TOOMANYREQUESTS", format!("the scheduler knows {max} blobs already, its limit"))
}

pub(crate) fn too_many_pieces(max: u64) -> TaskFailure {
    let message = format!("the blobs that the scheduler knows have {max} pieces already, its limit");
    failure(503, "TOOMANYREQUESTS", message)
}

pub(crate) fn size_differs(digest: Digest, size: u64, known: u64) -> TaskFailure {
    let message = format!("{digest} has {known} bytes, not {size} as the manifest says");
    failure(502, "SIZE_INVALID", message)
}

pub(crate) fn too_large(digest: Digest, size: u64) -> TaskFailure {
    let max = Layout::MAX_SIZE;
    let message = format!("{digest} with {size} bytes is larger than the {max} bytes a blob may have");
    failure(502, "SIZE_INVALID", message)
}

pub(crate) fn only_corrupt(digest: Digest) -> TaskFailure {
    let message = format!("every peer that holds {digest} sent corrupt pieces of it");
    failure(502, "DIGEST_INVALID", message)
}

/// What the region holds is worthless.
pub(crate) fn wrong_bytes(digest: Digest) -> TaskFailure {
    poisoned(format!("the bytes of {digest} that this region held hash to something else"))
}

/// What one peer holds is.
pub(crate) fn other_bytes(digest: Digest) -> TaskFailure {
    poisoned(format!("what this peer held of {digest} is not what its registry has"))
}

fn poisoned(message: String) -> TaskFailure {
    TaskFailure { poisoned: true, ..failure(502, "DIGEST_INVALID", message) }
}

fn failure(status: u16, code: &str, message: String) -> TaskFailure {
    TaskFailure { status, code: code.into(), message, poisoned: false }
}
