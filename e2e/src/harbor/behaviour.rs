//! What differs between one Harbor's configuration and another's.

use std::time::Duration;

/// How the fake behaves from here on.
#[derive(Debug, Clone)]
pub struct Behaviour {
    /// Before the header of each answer.
    pub latency: Duration,
    /// Blobs are answered with 307 to the object store (§2.2).
    pub redirect_blobs: bool,
    /// For how long such a URL is good; with zero it has expired when it is followed.
    pub signed_url_life: Duration,
    /// The object store refuses every HEAD, whatever the URL was signed for (§2.2).
    pub storage_forbids_head: bool,
    /// Whole blobs go without `Content-Length` and digest, as a proxy-cache project's do (§2.3).
    pub chunked_blobs: bool,
    /// HEAD of a blob is 404, as while its garbage is collected (§2.2).
    pub head_blob_404: bool,
    /// Blobs always come whole, with 200.
    pub ignore_range: bool,
    /// What the token service states as `expires_in` and `exp` (§2.1).
    pub token_life: Duration,
    /// For how long a token is good before and after what it states (§2.1).
    pub token_leeway: Duration,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self {
            latency: Duration::ZERO,
            redirect_blobs: false,
            signed_url_life: Duration::from_secs(20 * 60),
            storage_forbids_head: false,
            chunked_blobs: false,
            head_blob_404: false,
            ignore_range: false,
            token_life: Duration::from_secs(30 * 60),
            token_leeway: Duration::from_secs(60),
        }
    }
}
