//! The secret of a join token: shown once, kept as a hash.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs;

/// 32 random bytes as text. There are too many to guess, so a plain hash protects them at
/// rest, and finding the hash in an index tells nothing by its timing.
pub(crate) struct JoinSecret(String);

impl JoinSecret {
    pub(crate) fn generate() -> Self {
        Self(URL_SAFE_NO_PAD.encode(random::<32>()))
    }

    /// As a daemon shows it.
    pub(crate) fn presented(text: String) -> Self {
        Self(text)
    }

    pub(crate) fn expose(&self) -> &str {
        &self.0
    }

    /// What the store keeps, and finds a token by.
    pub(crate) fn hash(&self) -> [u8; 32] {
        blake3::derive_key("flotilla 2026 join token secret", self.0.as_bytes())
    }
}

/// Random bytes that nobody can foresee.
pub(crate) fn random<const LEN: usize>() -> [u8; LEN] {
    let mut bytes = [0; LEN];
    aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .expect("the system gives random bytes, or nothing here is safe");
    bytes
}
