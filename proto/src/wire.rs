//! The wire messages, generated from `wire/*.proto`, and how shared words enter and leave
//! them.

use std::fmt;

use bytes::Bytes;

use crate::{Digest, Failure, FailureCause, ParseDigestError, PieceHash, PieceSet, Root, Run, Variant};

/// Manager: identity, settings, topology.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod manager {
    include!(concat!(env!("OUT_DIR"), "/flotilla.manager.v1.rs"));
}

/// Between peers.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod peer {
    include!(concat!(env!("OUT_DIR"), "/flotilla.peer.v1.rs"));
}

/// Between a peer and its scheduler.
#[allow(missing_docs, clippy::all, clippy::pedantic, unreachable_pub)]
pub mod scheduler {
    include!(concat!(env!("OUT_DIR"), "/flotilla.scheduler.v1.rs"));
}

impl From<Digest> for Bytes {
    fn from(digest: Digest) -> Self {
        Self::copy_from_slice(digest.as_bytes())
    }
}

impl TryFrom<&Bytes> for Digest {
    type Error = ParseDigestError;

    fn try_from(bytes: &Bytes) -> Result<Self, ParseDigestError> {
        Self::try_from(&bytes[..])
    }
}

impl From<Root> for Bytes {
    fn from(root: Root) -> Self {
        Self::copy_from_slice(root.as_bytes())
    }
}

impl From<Variant> for scheduler::Variant {
    fn from(Variant { digest, root }: Variant) -> Self {
        Self { digest: digest.into(), root: root.into() }
    }
}

impl scheduler::SourceFailed {
    /// What a seed tells of a read that failed.
    pub fn new(digest: Digest, failure: Failure) -> Self {
        Self {
            digest: digest.into(),
            status: failure.status.into(),
            poisoned: failure.is_poisoned(),
            of_source: failure.cause == FailureCause::Source,
            other_size: failure.other_size(),
            code: failure.code,
            message: failure.message,
        }
    }

    /// Why it failed.
    pub fn failure(&self) -> Failure {
        let cause = cause(self.poisoned, self.of_source, self.other_size, false);
        Failure { status: status(self.status), code: self.code.clone(), message: self.message.clone(), cause }
    }
}

impl scheduler::TaskFailed {
    /// What those who want a blob are told; with a root, what is purged of it.
    pub fn new(digest: Digest, failure: Failure, root: Option<Root>) -> Self {
        let contested = failure.cause == FailureCause::Contested;
        Self {
            digest: digest.into(),
            status: failure.status.into(),
            poisoned: failure.is_poisoned(),
            of_source: failure.cause == FailureCause::Source,
            other_size: failure.other_size(),
            code: failure.code,
            message: failure.message,
            root: root.map(Bytes::from).unwrap_or_default(),
            contested,
        }
    }

    /// Why it failed.
    pub fn failure(&self) -> Failure {
        let cause = cause(self.poisoned, self.of_source, self.other_size, self.contested);
        Failure { status: status(self.status), code: self.code.clone(), message: self.message.clone(), cause }
    }
}

/// A status that tells a client of a failure: what is none becomes 502.
fn status(said: u32) -> u16 {
    u16::try_from(said).ok().filter(|status| (400..600).contains(status)).unwrap_or(502)
}

fn cause(poisoned: bool, of_source: bool, other_size: Option<u64>, contested: bool) -> FailureCause {
    match other_size {
        _ if poisoned => FailureCause::WrongBytes,
        _ if contested => FailureCause::Contested,
        Some(size) => FailureCause::OtherSize(size),
        None if of_source => FailureCause::Source,
        None => FailureCause::Region,
    }
}

impl From<Run> for scheduler::Run {
    fn from(run: Run) -> Self {
        Self { first: run.first, count: run.count }
    }
}

impl From<&scheduler::Run> for Run {
    fn from(run: &scheduler::Run) -> Self {
        Self { first: run.first, count: run.count }
    }
}

/// The set as runs.
pub fn runs_of(pieces: &PieceSet) -> Vec<scheduler::Run> {
    pieces.runs().into_iter().map(Into::into).collect()
}

/// The set over a blob of `len` pieces that these runs make up; `None` if one leaves the blob.
pub fn pieces_from(len: u32, runs: &[scheduler::Run]) -> Option<PieceSet> {
    PieceSet::from_runs(len, runs.iter().map(Into::into))
}

/// Piece hashes one behind the other.
pub fn join_hashes<'a>(hashes: impl IntoIterator<Item = &'a PieceHash>) -> Bytes {
    let mut joined = Vec::new();
    for hash in hashes {
        joined.extend_from_slice(hash.as_bytes());
    }
    joined.into()
}

/// The piece hashes that stand one behind the other; `None` if the length is no multiple of 32.
pub fn split_hashes(joined: &[u8]) -> Option<Vec<PieceHash>> {
    let (hashes, rest) = joined.as_chunks::<{ PieceHash::LEN }>();
    rest.is_empty().then(|| hashes.iter().map(|bytes| PieceHash::from_bytes(*bytes)).collect())
}

/// The root whose 32 bytes these are; `None` if they are not as many.
pub fn root_from(bytes: &[u8]) -> Option<Root> {
    Some(Root::from_bytes(bytes.try_into().ok()?))
}

/// The variant that a message names; `None` if it names none.
pub fn variant_from(variant: &scheduler::Variant) -> Option<Variant> {
    Some(Variant { digest: Digest::try_from(&variant.digest).ok()?, root: root_from(&variant.root)? })
}

/// `Debug` for messages that carry a secret: the fields that may be seen, and no others.
macro_rules! redacted {
    ($message:ty, $($field:ident),*) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($field), &self.$field))*
                    .finish_non_exhaustive()
            }
        }
    };
}

redacted!(manager::EnrollRequest, id);
redacted!(manager::CreateTokenReply, id, expires_at);
redacted!(manager::JoinToken, manager, region, role);
redacted!(peer::Credential, upstream, repository);
redacted!(peer::Forward, upstream, method, target);
redacted!(peer::Header, name);
