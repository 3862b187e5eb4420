//! A client's credential, as it travels: never printed, never compared in clear.

use std::fmt;

use bytes::Bytes;

/// The value of a client's `Authorization` header; empty for an anonymous client.
///
/// `Debug` says only of which scheme it is.
#[derive(Clone, Default)]
pub struct Authorization(Bytes);

impl Authorization {
    /// A client without a credential.
    pub const ANONYMOUS: Self = Self(Bytes::new());

    /// The header's value.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self(value.into())
    }

    /// The header's value, for the request that carries it on.
    pub fn expose(&self) -> &Bytes {
        &self.0
    }

    /// Whether there is none.
    pub fn is_anonymous(&self) -> bool {
        self.0.is_empty()
    }

    /// How it authenticates, from the first word.
    pub fn scheme(&self) -> &'static str {
        let scheme = self.0.split(|b| *b == b' ').next().unwrap_or_default();
        match scheme {
            b"" => "anonymous",
            _ if scheme.eq_ignore_ascii_case(b"basic") => "basic",
            _ if scheme.eq_ignore_ascii_case(b"bearer") => "bearer",
            _ => "other",
        }
    }

    /// What identifies this credential in a table of grants.
    pub fn hash(&self) -> CredentialHash {
        CredentialHash(*blake3::hash(&self.0).as_bytes())
    }
}

impl fmt::Debug for Authorization {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Authorization({})", self.scheme())
    }
}

/// The BLAKE3 of a credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CredentialHash([u8; 32]);

impl fmt::Debug for CredentialHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CredentialHash(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credential_never_prints() {
        let secret = Authorization::new("Bearer c2VjcmV0");
        let shown = format!("{secret:?} {:?}", secret.hash());
        assert!(!shown.contains("c2Vj"), "{shown}");
        assert_eq!(secret.scheme(), "bearer");
        assert_eq!(Authorization::ANONYMOUS.scheme(), "anonymous");
    }
}
