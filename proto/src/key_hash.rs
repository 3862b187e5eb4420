//! Which key a certificate is for.

use std::fmt;

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

/// The SHA-256 of a public key, as certificates carry it (`SubjectPublicKeyInfo` in DER, RFC 5280
/// §4.1). It outlives renewals, which keep the key, and tells two daemons of one name apart.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyHash([u8; 32]);

impl KeyHash {
    /// The hash of a `SubjectPublicKeyInfo` in DER.
    pub fn of(subject_public_key_info: &[u8]) -> Self {
        Self(Sha256::digest(subject_public_key_info).into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The first twelve hex digits, for logs.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyHash({})", self.short())
    }
}

impl TryFrom<&[u8]> for KeyHash {
    type Error = KeyHashLenError;

    fn try_from(bytes: &[u8]) -> Result<Self, KeyHashLenError> {
        bytes.try_into().map(Self).map_err(|_| KeyHashLenError { len: bytes.len() })
    }
}

impl From<KeyHash> for Bytes {
    fn from(hash: KeyHash) -> Self {
        Self::copy_from_slice(&hash.0)
    }
}

/// Bytes that are no hash of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the hash of a key has 32 bytes, not {len}")]
pub struct KeyHashLenError {
    /// How many there are.
    pub len: usize,
}
