//! Why this peer itself gives a download up, in its clients' words.

use flotilla_proto::Digest;

use crate::Failure;

pub(crate) fn wrong_bytes(digest: Digest) -> Failure {
    Failure {
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: format!("the bytes of {digest} that reached this peer hash to something else"),
        poisoned: true,
    }
}

pub(crate) fn purged(digest: Digest) -> Failure {
    Failure {
        status: 502,
        code: "DIGEST_INVALID".into(),
        message: format!("a part of {digest} that this peer held was wrong bytes of its registry"),
        poisoned: true,
    }
}

pub(crate) fn evicted(digest: Digest) -> Failure {
    let message = format!("{digest} was evicted from this peer's store while it was downloading");
    unavailable(message)
}

pub(crate) fn no_scheduler() -> Failure {
    unavailable("no scheduler of this region is reachable".into())
}

fn unavailable(message: String) -> Failure {
    Failure { status: 503, code: "UNAVAILABLE".into(), message, poisoned: false }
}
