//! Images of our own making: valid layers of bytes that nothing can compress or guess.

use std::collections::BTreeSet;

use flotilla_proto::Digest;
use serde_json::{Value, json};

/// What an image shall be like.
#[derive(Debug, Clone)]
pub struct ImageSpec {
    /// The family of media types.
    pub format: Format,
    /// The length in bytes of the one file in each layer.
    pub layer_lens: Vec<usize>,
}

/// A family of media types. Layers are plain tar in both, so a layer's digest is its diff id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Docker image manifest V2, schema 2.
    Docker,
    /// OCI image spec v1.
    Oci,
}

/// An image for linux/amd64: manifest, config and layers.
#[derive(Debug, Clone)]
pub struct Image {
    /// Without the registry's host.
    pub repository: String,
    /// The manifest's media type.
    pub media_type: &'static str,
    /// The manifest.
    pub manifest: Blob,
    /// The config.
    pub config: Blob,
    /// The layers, the base first.
    pub layers: Vec<Blob>,
}

/// Some bytes and their name.
#[derive(Debug, Clone)]
pub struct Blob {
    digest: Digest,
    content: Vec<u8>,
}

impl Format {
    /// The family of a manifest's media type.
    pub fn of_manifest(media_type: &str) -> Self {
        if media_type == MediaTypes::of(Self::Docker).manifest { Self::Docker } else { Self::Oci }
    }

    /// The media type of its index.
    pub fn index_media_type(self) -> &'static str {
        match self {
            Self::Docker => "application/vnd.docker.distribution.manifest.list.v2+json",
            Self::Oci => "application/vnd.oci.image.index.v1+json",
        }
    }
}

impl ImageSpec {
    /// Four layers of 2 to 8 MiB around a tiny one: several pieces each, and none.
    pub fn multi_layer(format: Format) -> Self {
        Self { format, layer_lens: vec![8 << 20, 3 << 20, 10, 5 << 20, 2 << 20] }
    }

    /// The image, its bytes drawn from `seed`.
    pub fn build(&self, repository: &str, seed: u64) -> Image {
        let mut random = fastrand::Rng::with_seed(seed);
        let layers: Vec<_> =
            self.layer_lens.iter().enumerate().map(|(index, len)| layer(index, *len, &mut random)).collect();
        let types = MediaTypes::of(self.format);
        let config = Blob::of(config(&layers));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": types.manifest,
            "config": config.descriptor(types.config),
            "layers": layers.iter().map(|layer| layer.descriptor(types.layer)).collect::<Vec<_>>(),
        });
        Image {
            repository: repository.to_owned(),
            media_type: types.manifest,
            manifest: Blob::of(manifest.to_string().into_bytes()),
            config,
            layers,
        }
    }
}

impl Image {
    /// Config and layers: what is read as blobs.
    pub fn blobs(&self) -> impl Iterator<Item = &Blob> {
        std::iter::once(&self.config).chain(&self.layers)
    }

    /// The digests of manifest, config and layers.
    pub fn digests(&self) -> BTreeSet<Digest> {
        self.blobs().chain([&self.manifest]).map(Blob::digest).collect()
    }

    /// The blobs' sizes together, in bytes.
    pub fn size(&self) -> u64 {
        self.blobs().map(Blob::size).sum()
    }
}

impl Blob {
    /// Those bytes.
    pub fn of(content: Vec<u8>) -> Self {
        Self { digest: Digest::of(&content), content }
    }

    /// Its name.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.content.len() as u64
    }

    /// Its bytes.
    pub fn content(&self) -> &[u8] {
        &self.content
    }

    pub(crate) fn descriptor(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "size": self.size(), "digest": self.digest.to_string() })
    }
}

fn layer(index: usize, len: usize, random: &mut fastrand::Rng) -> Blob {
    let mut content = vec![0; len];
    random.fill(&mut content);
    let mut header = tar::Header::new_gnu();
    header.set_size(len as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    let path = format!("layer-{index}");
    archive.append_data(&mut header, path, &content[..]).expect("writing to memory does not fail");
    Blob::of(archive.into_inner().expect("writing to memory does not fail"))
}

fn config(layers: &[Blob]) -> Vec<u8> {
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.digest.to_string()).collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    config.to_string().into_bytes()
}

struct MediaTypes {
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

impl MediaTypes {
    fn of(format: Format) -> Self {
        match format {
            Format::Docker => Self {
                manifest: "application/vnd.docker.distribution.manifest.v2+json",
                config: "application/vnd.docker.container.image.v1+json",
                layer: "application/vnd.docker.image.rootfs.diff.tar",
            },
            Format::Oci => Self {
                manifest: "application/vnd.oci.image.manifest.v1+json",
                config: "application/vnd.oci.image.config.v1+json",
                layer: "application/vnd.oci.image.layer.v1.tar",
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn an_image_names_all_its_parts_by_their_digests() {
        for format in [Format::Docker, Format::Oci] {
            let image = ImageSpec { format, layer_lens: vec![3000, 10] }.build("team/app", 1);
            let manifest: Value = serde_json::from_slice(image.manifest.content()).unwrap();
            let config: Value = serde_json::from_slice(image.config.content()).unwrap();
            assert_eq!(manifest["mediaType"], image.media_type);
            assert_eq!(manifest["config"]["digest"], Digest::of(image.config.content()).to_string());
            for (index, layer) in image.layers.iter().enumerate() {
                let digest = Digest::of(layer.content()).to_string();
                assert_eq!(manifest["layers"][index]["digest"], digest);
                assert_eq!(manifest["layers"][index]["size"], layer.content().len());
                assert_eq!(config["rootfs"]["diff_ids"][index], digest);
            }
        }
    }

    #[test]
    fn a_layer_is_a_tar_that_unpacks() {
        let image = ImageSpec { format: Format::Oci, layer_lens: vec![3000] }.build("team/app", 1);
        let mut archive = tar::Archive::new(image.layers[0].content());
        let mut file = archive.entries().unwrap().next().unwrap().unwrap();
        let mut content = Vec::new();
        file.read_to_end(&mut content).unwrap();
        assert_eq!(content.len(), 3000);
    }

    #[test]
    fn a_seed_decides_every_byte() {
        let spec = ImageSpec::multi_layer(Format::Oci);
        let digest = |seed| spec.build("team/app", seed).manifest.digest();
        assert_eq!(digest(1), digest(1));
        assert_ne!(digest(1), digest(2));
    }
}
