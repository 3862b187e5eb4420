//! Who a daemon is: its name, its role, and the identity its certificate carries.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Defines a name that is one DNS label (RFC 1123 §2.1), so that it fits a certificate's
/// DNS SAN, a metric label and a file name.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = ParseLabelError;

            fn from_str(text: &str) -> Result<Self, ParseLabelError> {
                check_label(text)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = ParseLabelError;

            fn try_from(text: String) -> Result<Self, ParseLabelError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

label! {
    /// One daemon's name, unique in its cluster.
    PeerId
}

label! {
    /// A region's name: one scheduler set, one set of seeds, cheap traffic inside.
    RegionName
}

label! {
    /// What registries have in common that share trust (docs/design.md §7).
    TrustName
}

impl PeerId {
    /// The DNS name that this daemon's certificate carries and that dialling it verifies.
    pub fn dns_name(&self) -> String {
        format!("{}.flotilla", self.0)
    }
}

/// What a daemon, or a person, may do in the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Holds the topology and the CA.
    Manager,
    /// Plans who fetches what from whom.
    Scheduler,
    /// Swaps pieces, serves the clients of its node.
    Peer,
    /// A peer that may read from the registry.
    Seed,
    /// A person at the command line.
    Admin,
}

impl Role {
    /// Every role, as the command line lists them.
    pub const ALL: [Self; 5] = [Self::Manager, Self::Scheduler, Self::Peer, Self::Seed, Self::Admin];

    /// The word in identities, tokens and tables.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manager => "manager",
            Self::Scheduler => "scheduler",
            Self::Peer => "peer",
            Self::Seed => "seed",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Role {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(ParseIdentityError::Role)
    }
}

/// What a certificate of the cluster says of its holder, as a URI SAN:
/// `flotilla://cluster/region/role/id`. The manager and admins have the region `-`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: RegionName,
    /// The region; `None` for those who belong to the whole cluster.
    pub region: Option<RegionName>,
    /// The role.
    pub role: Role,
    /// The daemon's own name.
    pub id: PeerId,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let region = self.region.as_ref().map_or("-", RegionName::as_str);
        write!(f, "flotilla://{}/{region}/{}/{}", self.cluster, self.role, self.id)
    }
}

impl FromStr for Identity {
    type Err = ParseIdentityError;

    fn from_str(text: &str) -> Result<Self, ParseIdentityError> {
        let path = text.strip_prefix("flotilla://").ok_or(ParseIdentityError::Form)?;
        let parts: Vec<&str> = path.split('/').collect();
        let [cluster, region, role, id] = parts[..] else {
            return Err(ParseIdentityError::Form);
        };
        let region = match region {
            "-" => None,
            name => Some(name.parse()?),
        };
        Ok(Self { cluster: cluster.parse()?, region, role: role.parse()?, id: id.parse()? })
    }
}

fn check_label(text: &str) -> Result<(), ParseLabelError> {
    let legal = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    let edge = |b: Option<&u8>| b.is_some_and(|b| *b != b'-');
    let bytes = text.as_bytes();
    if bytes.len() > MAX_LABEL_LEN
        || !bytes.iter().copied().all(legal)
        || !edge(bytes.first())
        || !edge(bytes.last())
    {
        return Err(ParseLabelError);
    }
    Ok(())
}

/// RFC 1035 §2.3.4.
const MAX_LABEL_LEN: usize = 63;

/// Why a text is no name of a daemon, a region or the like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a name has 1 to 63 of a-z, 0-9 and '-', and neither starts nor ends with '-'")]
pub struct ParseLabelError;

/// Why a text is no identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseIdentityError {
    /// Not of the form `flotilla://cluster/region/role/id`.
    #[error("an identity reads flotilla://cluster/region/role/id")]
    Form,
    /// No such role.
    #[error("a role is one of manager, scheduler, peer, seed, admin")]
    Role,
    /// A part that is no name.
    #[error(transparent)]
    Label(#[from] ParseLabelError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_as_it_was_written() {
        for text in ["flotilla://prod/eu-west/seed/seed-0", "flotilla://prod/-/admin/ann"] {
            assert_eq!(text.parse::<Identity>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_name_that_is_no_dns_label_is_refused() {
        for text in ["", "-a", "a-", "A", "a.b", "a/b", "ä", &"a".repeat(64)] {
            assert_eq!(text.parse::<PeerId>(), Err(ParseLabelError), "{text}");
        }
        assert_eq!("flotilla://a/b/king/c".parse::<Identity>(), Err(ParseIdentityError::Role));
        assert_eq!("https://a/b/peer/c".parse::<Identity>(), Err(ParseIdentityError::Form));
    }
}
