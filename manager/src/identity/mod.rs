//! Who is who: the cluster's CA, the certificates it issues, the tokens it is met with.

mod ca;
mod join_secret;
mod own;

pub(crate) use ca::SigningRequest;
pub use ca::{Ca, CaError, IssueError};
pub(crate) use join_secret::{JoinSecret, random};
pub(crate) use own::{Issuing, OwnIdentities};

/// The name of the administrator whose identity the manager makes at its first start.
pub(crate) const ADMIN_ID: &str = "admin";
