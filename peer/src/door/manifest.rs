//! What a manifest grants: the blobs it lists.

use flotilla_proto::Digest;
use serde::Deserialize;

/// The blobs that a manifest lists, with their sizes; none if it is an index, or nothing
/// that is known here.
///
/// Blobs to be had elsewhere (`urls`) or not to be distributed at all are left out.
pub(super) fn blobs(manifest: &[u8]) -> Vec<(Digest, u64)> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else { return Vec::new() };
    let descriptors = manifest.config.into_iter().chain(manifest.layers).chain(manifest.blobs);
    let listed = descriptors.filter(|descriptor| descriptor.urls.is_empty() && descriptor.is_distributable());
    listed.filter_map(|descriptor| Some((descriptor.digest.parse().ok()?, descriptor.size))).collect()
}

/// An image manifest (OCI image spec, or Docker schema 2), or an artifact manifest.
#[derive(Deserialize)]
struct Manifest {
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    blobs: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    #[serde(default, rename = "mediaType")]
    media_type: String,
    digest: String,
    size: u64,
    #[serde(default)]
    urls: Vec<String>,
}

impl Descriptor {
    fn is_distributable(&self) -> bool {
        !self.media_type.contains(".nondistributable.") && !self.media_type.contains(".foreign.")
    }
}

#[cfg(test)]
mod tests {
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
    fn an_index_or_nonsense_grants_nothing() {
        assert_eq!(blobs(br#"{"manifests":[{"mediaType":"x","digest":"sha256:0","size":1}]}"#), []);
        assert_eq!(blobs(b"<html>"), []);
    }
}
