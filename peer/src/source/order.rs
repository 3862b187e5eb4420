//! What a reading is asked for, gives and comes to.

use std::sync::Arc;

use bytes::Bytes;
use flotilla_proto::{Digest, Layout, Origins, PieceHash, PieceSet, RegistryHost, RepositoryName};
use tokio::sync::watch;

use super::ReadBy;
use super::credential::{Credentials, RegistryAnswer};
use super::failure::EndpointFailure;
use super::upstream::UpstreamError;
use super::wholes::Whole;

/// What to read, and with whose credentials.
#[derive(Debug, Clone)]
pub struct ReadOrder {
    /// The blob.
    pub digest: Digest,
    /// How it is cut.
    pub layout: Layout,
    /// The pieces to read. All of them: the blob is read in one plain GET and its SHA-256 checked.
    pub wanted: PieceSet,
    /// No byte of a piece at or above it is taken from the registry for the present.
    pub until: watch::Receiver<u32>,
    /// Used in order; may grow meanwhile.
    pub credentials: Credentials,
    /// What for.
    pub purpose: ReadPurpose,
}

/// What a reading is for, and counted as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadPurpose {
    /// To spread the blob in the region.
    Spread,
    /// To see whether the registry has the blob, which others hold.
    Confirm,
}

/// A piece as the registry sent it.
#[derive(Debug, Clone)]
pub struct SourcePiece {
    /// Its index.
    pub piece: u32,
    /// Its BLAKE3.
    pub hash: PieceHash,
    /// Its bytes.
    pub bytes: Bytes,
    /// The registries that gave it, or a piece before it in the same reading.
    pub origins: Origins,
    /// Kept until the piece is on the disk: until then nobody else reads the blob for the sake of a part.
    pub(super) whole: Option<Arc<Whole>>,
}

/// What a reading came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSummary {
    /// Bytes of blob bodies received, those read twice included.
    pub source_bytes: u64,
    /// Whether the whole blob was read and its SHA-256 is its digest.
    pub is_verified: bool,
    /// Who the registry served last; `None` if nothing had to be asked.
    pub read_by: Option<ReadBy>,
}

/// Why a reading ended without every wanted piece. The pieces sent before are as the registry gave them.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no way to the registry of the last credential.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The order named no credential, not even an anonymous one.
    #[error("no credential to read with")]
    NoCredential,
    /// Every credential was refused; this is what the last client's was told.
    #[error("{upstream} refuses to serve {repository}: {}", .answer.status)]
    Refused {
        /// The registry.
        upstream: RegistryHost,
        /// The repository asked.
        repository: RepositoryName,
        /// For the client.
        answer: Arc<RegistryAnswer>,
    },
    /// The blob is there, with another size than was ordered, and no place has it with that.
    #[error("{upstream} at {endpoint} has it with {size} bytes")]
    OtherSize {
        /// The registry.
        upstream: RegistryHost,
        /// The URL of the endpoint that said so.
        endpoint: String,
        /// The blob's size in bytes.
        size: u64,
    },
    /// No endpoint gave the bytes.
    #[error("{upstream} at {endpoint} {cause}")]
    Endpoint {
        /// The registry.
        upstream: RegistryHost,
        /// The URL of the endpoint that failed last.
        endpoint: String,
        /// How.
        cause: EndpointFailure,
    },
    /// The whole blob came, and its SHA-256 is not its digest. Its last piece was not sent.
    #[error("wrong bytes from {}", .endpoints.join(" or "))]
    DigestMismatch {
        /// The URLs of those that sent a part of it.
        endpoints: Vec<String>,
    },
    /// Cancelled, or nobody takes the pieces any more.
    #[error("cancelled")]
    Cancelled,
}
