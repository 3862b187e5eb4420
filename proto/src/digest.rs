//! The name of a blob: the SHA-256 of its bytes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// A blob's digest, `sha256:` and 64 lowercase hex digits (OCI image spec, "Digests").
///
/// Other algorithms are legal in the spec and do not parse: a door passes such a request
/// through without caching it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest whose 32 bytes these are.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The digest of `content`.
    pub fn of(content: &[u8]) -> Self {
        Self(Sha256::digest(content).into())
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits, without the algorithm: a file name.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }

    /// The first twelve hex digits, for logs and tables.
    pub fn short(&self) -> String {
        hex::encode(&self.0[..6])
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({})", self.short())
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        let Some((algorithm, encoded)) = text.split_once(':') else {
            return Err(ParseDigestError::NoAlgorithm);
        };
        if algorithm != "sha256" {
            return Err(ParseDigestError::UnsupportedAlgorithm);
        }
        if encoded.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(ParseDigestError::Malformed);
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(encoded, &mut bytes).map_err(|_| ParseDigestError::Malformed)?;
        Ok(Self(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, ParseDigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<&[u8]> for Digest {
    type Error = ParseDigestError;

    fn try_from(bytes: &[u8]) -> Result<Self, ParseDigestError> {
        let bytes = bytes.try_into().map_err(|_| ParseDigestError::Malformed)?;
        Ok(Self(bytes))
    }
}

/// Why a text or some bytes are no digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseDigestError {
    /// There is no `algorithm:` in front.
    #[error("a digest reads algorithm:hex")]
    NoAlgorithm,
    /// The algorithm is not SHA-256.
    #[error("only sha256 digests are supported here")]
    UnsupportedAlgorithm,
    /// Not 64 lowercase hex digits, or not 32 bytes.
    #[error("a sha256 digest has 64 lowercase hex digits")]
    Malformed,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// NIST FIPS 180-4, the empty message.
    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(Digest::try_from(&digest.as_bytes()[..]), Ok(digest));
    }

    #[test]
    fn what_is_not_a_sha256_digest_says_why() {
        let parse = |text: &str| text.parse::<Digest>().unwrap_err();
        assert_eq!(parse("e3b0"), ParseDigestError::NoAlgorithm);
        assert_eq!(parse("sha512:00"), ParseDigestError::UnsupportedAlgorithm);
        assert_eq!(parse("sha256:zz"), ParseDigestError::Malformed);
        assert_eq!(parse(&EMPTY.to_uppercase().replace("SHA", "sha")), ParseDigestError::Malformed);
        assert_eq!(parse("sha256:../../../etc/passwd"), ParseDigestError::Malformed);
    }
}
