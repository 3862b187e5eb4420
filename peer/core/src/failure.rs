//! Why this peer itself gives a download up, in its clients' words.

use flotilla_proto::{Digest, Failure, FailureCause};

pub(crate) fn wrong_bytes(digest: Digest) -> Failure {
    Failure::wrong_bytes(format!("the bytes of {digest} that reached this peer hash to something else"))
}

pub(crate) fn purged(digest: Digest) -> Failure {
    Failure::wrong_bytes(format!("a part of {digest} that this peer held was wrong bytes of its registry"))
}

/// What its clients were shown may be right all the same: it was not what only peers had told.
pub(crate) fn made_up(digest: Digest) -> Failure {
    let message = format!("bytes of {digest} that another peer gave hash to something else");
    Failure::new(502, "DIGEST_INVALID", message, FailureCause::Contested)
}

/// What was wanted, or held, with another size cannot be had with it.
pub(crate) fn other_size(digest: Digest, size: u64) -> Failure {
    let message = format!("{digest} has {size} bytes");
    Failure::new(502, "SIZE_INVALID", message, FailureCause::OtherSize(size))
}

pub(crate) fn evicted(digest: Digest) -> Failure {
    Failure::unavailable(format!("{digest} was evicted from this peer's store while it was downloading"))
}

pub(crate) fn no_scheduler() -> Failure {
    Failure::unavailable("no scheduler of this region is reachable".into())
}
