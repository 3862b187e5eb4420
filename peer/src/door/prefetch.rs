//! Small blobs of a manifest, fetched before its client asks for them (docs/design.md §3).
//!
//! A client reads a manifest before it asks for a blob, and then asks for a few at a time. For blobs
//! of some KiB that is nearly all of the time a pull takes, when the registry is far. So all of
//! them are asked for at once, under the credential that was just accepted; the client finds them
//! here, or on their way. What is larger the seed starts by itself, and sends when asked.

use std::sync::Arc;

use flotilla_proto::Layout;

use super::answer::Answerer;
use super::blob::BlobRequest;
use super::route::Target;
use crate::grant::Manifest;
use crate::source::ReadCredential;

/// Begins to fetch what of the manifest is small, and not here.
pub(super) fn begin(door: &Arc<Answerer>, target: &Target, credential: &ReadCredential, manifest: &Manifest) {
    let small = manifest.blobs.iter().filter(|(_, size)| (1..=PREFETCHED).contains(size));
    for (digest, size) in small.take(MOST) {
        let digest = *digest;
        let Some(layout) = Layout::of(*size).filter(|_| door.swarm.live(digest).is_none()) else { continue };
        let (door, credential, registry) = (door.clone(), credential.clone(), target.upstream.clone());
        tokio::spawn(async move {
            if let Err(ended) = BlobRequest::new(&door, digest, credential).small(layout).await {
                // Who asks for it is told why.
                tracing::debug!(task = %digest.short(), %registry, ?ended, "a small blob is not fetched ahead");
            }
        });
    }
}

/// Bytes of a blob that is fetched ahead.
const PREFETCHED: u64 = 64 << 10;

/// Of one manifest: 1 MiB together.
const MOST: usize = 16;
