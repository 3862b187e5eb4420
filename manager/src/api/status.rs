//! Errors as gRPC states them: the code for programs, the message for people.

use std::fmt::Display;
use std::str::FromStr;

use tonic::Status;

use crate::identity::IssueError;
use crate::store::{EnrolmentRefused, RegionChangeError, RegistryChangeError, TokenChangeError};

/// Parses a part of a request; the error names the part and what stands there.
pub(super) fn parse<T: FromStr<Err: Display>>(what: &str, text: &str) -> Result<T, Status> {
    text.parse().map_err(|error| Status::invalid_argument(format!("{what} `{text}`: {error}")))
}

/// The caller learns that it is not his fault, the log learns why.
pub(super) fn store_failed(error: &sqlx::Error) -> Status {
    tracing::error!(%error, "the database failed");
    Status::internal("the manager's database failed; its log says why")
}

impl From<RegionChangeError> for Status {
    fn from(error: RegionChangeError) -> Self {
        match &error {
            RegionChangeError::Exists(_) => Self::already_exists(error.to_string()),
            RegionChangeError::Unknown(_) => Self::not_found(error.to_string()),
            RegionChangeError::HasDaemons { .. } => Self::failed_precondition(error.to_string()),
            RegionChangeError::Store(source) => store_failed(source),
        }
    }
}

impl From<RegistryChangeError> for Status {
    fn from(error: RegistryChangeError) -> Self {
        match &error {
            RegistryChangeError::Unknown(_) => Self::not_found(error.to_string()),
            RegistryChangeError::TooMuch { .. } => Self::resource_exhausted(error.to_string()),
            RegistryChangeError::Store(source) => store_failed(source),
        }
    }
}

impl From<TokenChangeError> for Status {
    fn from(error: TokenChangeError) -> Self {
        match &error {
            TokenChangeError::UnknownRegion(_) | TokenChangeError::Unknown(_) => {
                Self::not_found(error.to_string())
            }
            TokenChangeError::Store(source) => store_failed(source),
        }
    }
}

impl From<EnrolmentRefused> for Status {
    fn from(error: EnrolmentRefused) -> Self {
        match &error {
            EnrolmentRefused::UnknownToken
            | EnrolmentRefused::ExpiredToken { .. }
            | EnrolmentRefused::UsedToken(_) => Self::permission_denied(error.to_string()),
            EnrolmentRefused::Taken { .. } | EnrolmentRefused::OtherKey { .. } => {
                Self::already_exists(error.to_string())
            }
            // To the daemon this code says that another key may do.
            EnrolmentRefused::RevokedKey | EnrolmentRefused::KeyTaken { .. } => {
                Self::failed_precondition(error.to_string())
            }
            EnrolmentRefused::Store(source) => store_failed(source),
        }
    }
}

impl From<IssueError> for Status {
    fn from(error: IssueError) -> Self {
        Self::invalid_argument(error.to_string())
    }
}
