//! Manifests by their digest: what each grants, for answers that carry no body.
//!
//! A HEAD, or a 304, says that this credential may have that manifest, and not what it lists.
//! What it lists is known from whoever was sent it before: the digest makes it the same one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use flotilla_proto::Digest;
use http::HeaderValue;
use serde::Deserialize;

/// The manifests that were served lately. Bounded by [`MAX_BYTES`]; at the limit the one that was
/// asked for longest ago goes, and its clients' blobs are probed one by one.
#[derive(Debug, Default)]
pub(crate) struct Manifests(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    by_digest: HashMap<Digest, (Arc<Manifest>, u64)>,
    bytes: usize,
    uses: u64,
}

/// One manifest.
#[derive(Debug)]
pub(crate) struct Manifest {
    pub(crate) digest: Digest,
    /// As the registry has it.
    pub(crate) media_type: Option<HeaderValue>,
    pub(crate) bytes: Bytes,
    /// What it grants: digests and sizes.
    pub(crate) blobs: Vec<(Digest, u64)>,
}

impl Manifests {
    /// Keeps what a registry served, under the digest that it really has. What is here already stays as it is, unless
    /// it comes as another type.
    pub(crate) fn keep(&self, media_type: Option<HeaderValue>, bytes: Bytes) -> Arc<Manifest> {
        let digest = Digest::of(&bytes);
        if let Some(known) = self.find(digest).filter(|known| known.media_type == media_type) {
            return known;
        }
        let manifest = Arc::new(Manifest { digest, media_type, blobs: blobs(&bytes), bytes });
        let mut kept = self.lock();
        kept.uses += 1;
        let entry = (manifest.clone(), kept.uses);
        kept.bytes += manifest.bytes.len();
        if let Some((before, _)) = kept.by_digest.insert(manifest.digest, entry) {
            kept.bytes -= before.bytes.len();
        }
        kept.shrink();
        manifest
    }

    /// The manifest of that digest.
    pub(crate) fn find(&self, digest: Digest) -> Option<Arc<Manifest>> {
        let mut kept = self.lock();
        kept.uses += 1;
        let uses = kept.uses;
        let (manifest, used) = kept.by_digest.get_mut(&digest)?;
        *used = uses;
        Some(manifest.clone())
    }

    /// Held for one operation.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn shrink(&mut self) {
        while self.bytes > MAX_BYTES {
            let oldest = self.by_digest.iter().min_by_key(|(_, (_, used))| *used).map(|(digest, _)| *digest);
            let removed = oldest.and_then(|digest| self.by_digest.remove(&digest));
            let Some((manifest, _)) = removed else { return };
            self.bytes -= manifest.bytes.len();
        }
    }
}

/// The blobs that a manifest lists, with their sizes; none if it is an index, or nothing
/// that is known here.
///
/// Blobs to be had elsewhere (`urls`) or not to be distributed at all are left out.
pub(crate) fn blobs(manifest: &[u8]) -> Vec<(Digest, u64)> {
    let Ok(manifest) = serde_json::from_slice::<Listed>(manifest) else { return Vec::new() };
    let lists = manifest.layers.into_iter().chain(manifest.blobs).flatten();
    let listed = manifest.config.into_iter().chain(lists).filter(Descriptor::is_distributable);
    listed.filter_map(|descriptor| Some((descriptor.digest.parse().ok()?, descriptor.size))).collect()
}

/// Bytes of a manifest that is read. Registries take 4 MiB; a little more is read before one is refused.
pub(crate) const MAX_MANIFEST: usize = 8 << 20;

/// Manifests are some KiB each: a few thousand of them.
const MAX_BYTES: usize = 16 << 20;

/// An image manifest (OCI image spec, or Docker schema 2), or an artifact manifest. What is absent some tools
/// write as `null`.
#[derive(Deserialize)]
struct Listed {
    config: Option<Descriptor>,
    layers: Option<Vec<Descriptor>>,
    blobs: Option<Vec<Descriptor>>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType")]
    media_type: Option<String>,
    digest: String,
    size: u64,
    urls: Option<Vec<String>>,
}

impl Descriptor {
    fn is_distributable(&self) -> bool {
        let media_type = self.media_type.as_deref().unwrap_or_default();
        let is_elsewhere = self.urls.as_ref().is_some_and(|urls| !urls.is_empty());
        !is_elsewhere && !media_type.contains(".nondistributable.") && !media_type.contains(".foreign.")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_manifest_grants_its_config_and_layers_and_nothing_foreign() {
        let [a, b, c, d] = [b"a", b"b", b"c", b"d"].map(|bytes| Digest::of(bytes));
        let manifest = format!(
            r#"{{"schemaVersion":2,"config":{{"mediaType":"x","digest":"{a}","size":1}},"layers":[
                {{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{b}","size":2}},
                {{"mediaType":"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip","digest":"{c}","size":3}},
                {{"mediaType":"x","digest":"{d}","size":4,"urls":["https://elsewhere.test/d"]}},
                {{"mediaType":"x","digest":"sha512:00","size":5}}]}}"#
        );
        assert_eq!(blobs(manifest.as_bytes()), [(a, 1), (b, 2)]);
    }

    #[test]
    fn null_is_what_absent_is() {
        let [a, b] = [b"a", b"b"].map(|bytes| Digest::of(bytes));
        let manifest = format!(
            r#"{{"schemaVersion":2,"mediaType":null,"annotations":null,"subject":null,"blobs":null,
                "config":{{"mediaType":null,"digest":"{a}","size":1,"urls":null}},
                "layers":[{{"digest":"{b}","size":2,"urls":[],"platform":null}}]}}"#
        );
        assert_eq!(blobs(manifest.as_bytes()), [(a, 1), (b, 2)]);
        assert_eq!(blobs(br#"{"config":null,"layers":null}"#), []);
    }

    #[test]
    fn a_manifest_is_found_by_its_digest_and_the_cache_is_bounded() {
        let manifests = Manifests::default();
        let kept = manifests.keep(None, Bytes::from_static(b"{}"));
        assert_eq!(kept.digest, Digest::of(b"{}"));
        assert!(Arc::ptr_eq(&manifests.keep(None, Bytes::from_static(b"{}")), &kept), "once for all clients");
        let named = manifests.keep(Some(HeaderValue::from_static("x")), Bytes::from_static(b"{}"));
        assert!(named.media_type.is_some());
        assert!(manifests.find(Digest::of(b"[]")).is_none());
        for first in 0..40 {
            assert!(manifests.find(kept.digest).is_some(), "it was asked for all the time");
            manifests.keep(None, vec![first; 1 << 20].into());
        }
        let held = manifests.lock();
        assert!(held.bytes <= MAX_BYTES && held.by_digest.len() < 20, "{} bytes", held.bytes);
        assert_eq!(
            held.bytes,
            held.by_digest.values().map(|(manifest, _)| manifest.bytes.len()).sum::<usize>()
        );
    }

    proptest! {
        #[test]
        fn no_bytes_make_the_reading_of_a_manifest_fail(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            blobs(&bytes);
        }

        #[test]
        fn what_a_descriptor_lacks_is_not_granted(
            digest in "(sha256|sha512|md5)?:?[0-9a-f]{0,70}",
            size in any::<i64>(),
            extra in "(,\"urls\":\\[\"https://x\"\\])?",
        ) {
            let text = format!(r#"{{"layers":[{{"mediaType":"x","digest":"{digest}","size":{size}{extra}}}]}}"#);
            for (granted, bytes) in blobs(text.as_bytes()) {
                prop_assert!(granted.to_string() == digest && extra.is_empty());
                prop_assert_eq!(i128::from(bytes), i128::from(size));
            }
        }
    }

    #[test]
    fn an_index_or_nonsense_grants_nothing() {
        assert_eq!(blobs(br#"{"manifests":[{"mediaType":"x","digest":"sha256:0","size":1}]}"#), []);
        assert_eq!(blobs(b"<html>"), []);
    }
}
