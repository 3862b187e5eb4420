//! Why the planner fails a download, in its clients' words.

use flotilla_proto::{Digest, Failure, FailureCause, Layout};

pub(crate) fn no_seed() -> Failure {
    Failure::unavailable("no seed peer is connected in this region".into())
}

pub(crate) fn too_many_blobs(blobs: usize, pieces: u64) -> Failure {
    too_many(format!(
        "the scheduler has no room for another blob: at most {blobs}, of {pieces} pieces together"
    ))
}

pub(crate) fn too_many_wants(max: usize) -> Failure {
    too_many(format!("this peer wants {max} blobs already, its limit"))
}

fn too_many(message: String) -> Failure {
    Failure::new(503, "TOOMANYREQUESTS", message, FailureCause::Region)
}

/// A manifest is a claim of who pushed it. Which of two sizes is right shows when a seed sees the blob: until
/// then the first claim is tried, and a later one waits.
pub(crate) fn size_differs(digest: Digest, size: u64, known: u64, is_seen: bool) -> Failure {
    let message = format!("{digest} has {known} bytes, not {size} as the manifest says");
    let cause = if is_seen { FailureCause::OtherSize(known) } else { FailureCause::Contested };
    Failure::new(502, "SIZE_INVALID", message, cause)
}

pub(crate) fn too_large(digest: Digest, size: u64) -> Failure {
    let max = Layout::MAX_SIZE;
    let message = format!("{digest} with {size} bytes is larger than the {max} bytes a blob may have");
    Failure::new(502, "SIZE_INVALID", message, FailureCause::Region)
}

pub(crate) fn only_corrupt(digest: Digest) -> Failure {
    let message = format!("every peer that holds {digest} sent corrupt pieces of it");
    Failure::new(502, "DIGEST_INVALID", message, FailureCause::Region)
}

/// What the region holds is worthless.
pub(crate) fn wrong_bytes(digest: Digest) -> Failure {
    Failure::wrong_bytes(format!("the bytes of {digest} that this region held hash to something else"))
}

/// What one peer holds is.
pub(crate) fn other_bytes(digest: Digest) -> Failure {
    Failure::wrong_bytes(format!("what this peer held of {digest} is not what its registry has"))
}
