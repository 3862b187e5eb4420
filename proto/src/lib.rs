//! Flotilla's shared words and wire messages.
//!
//! Everything here is pure: no IO, no clock, no async. A word is parsed once, at the
//! edge, into a type that cannot be wrong; the messages under [`wire`] carry them
//! between daemons.

mod authorization;
pub mod bits;
mod digest;
mod failure;
pub mod frame;
mod id;
mod join_token;
mod key_hash;
mod mix;
mod name;
mod origins;
mod piece;
mod piece_set;
mod rarity;
mod rendezvous;
mod token_bucket;
pub mod wire;

pub use authorization::{Authorization, CredentialHash};
pub use digest::{Digest, ParseDigestError};
pub use failure::{Failure, FailureCause};
pub use id::{Identity, ParseIdentityError, ParseLabelError, PeerId, RegionName, Role, TrustName};
pub use join_token::{JoinTokenText, ParseJoinTokenError};
pub use key_hash::{KeyHash, KeyHashLenError};
pub use mix::mix;
pub use name::{ParseNameError, RegistryHost, RepositoryName};
pub use origins::{Origins, RegistryMark};
pub use piece::{Layout, PieceHash, PieceLen, Root, Run, Variant};
pub use piece_set::PieceSet;
pub use rarity::{Rarity, Reader};
pub use rendezvous::{rendezvous_order, weighted_score};
pub use token_bucket::TokenBucket;

/// Version of every wire protocol between daemons of one cluster. A daemon talks to the
/// previous version too; 1 is the first.
pub const PROTOCOL: u32 = 1;

/// ALPN of the piece transport, with the protocol's major version.
pub const ALPN_PIECES: &[u8] = b"flotilla/1";
