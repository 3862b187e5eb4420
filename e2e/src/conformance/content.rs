//! What the registry under test holds: the data sets that the suites push, and blobs of which no
//! manifest speaks.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha512};

use crate::image::{Blob, Format, Image, ImageSpec};

/// All of it.
#[derive(Debug)]
pub(super) struct Content {
    /// Layers of several pieces, of less than one, and of a few bytes.
    pub(super) image: Image,
    /// As the first suite has it: a second manifest with another config.
    pub(super) second: Image,
    /// The same in Docker's media types.
    pub(super) docker: Image,
    /// In [`OTHER`].
    pub(super) elsewhere: Image,
    /// A blob of no bytes.
    pub(super) empty: Blob,
    /// A blob by its SHA-512.
    pub(super) other_algorithm: (String, Bytes),
    /// Manifests beside those of the images, each behind what it refers to.
    pub(super) manifests: Vec<Manifest>,
    /// The layer that a manifest says is to be had elsewhere. The registry does not hold it.
    pub(super) foreign: Blob,
    /// In no manifest, one for each column of the table.
    pub(super) loose: Vec<Blob>,
}

/// A manifest that is not an image's of ours.
#[derive(Debug)]
pub(super) struct Manifest {
    /// Its tag.
    pub(super) tag: &'static str,
    pub(super) media_type: &'static str,
    pub(super) blob: Blob,
}

impl Content {
    /// The same each time.
    pub(super) fn new() -> Self {
        let spec = |format, layer_lens: &[usize]| ImageSpec { format, layer_lens: layer_lens.to_vec() };
        let image = spec(Format::Oci, &[5 << 20, 300_000, 10]).build(REPOSITORY, 1);
        let config = Blob::of(b"{}".to_vec());
        let foreign = Blob::of(noise(7, 5000));
        let other = noise(9, 300_000);
        Self {
            manifests: manifests(&image, &config, &foreign),
            second: spec(Format::Oci, &[100_000]).build(REPOSITORY, 2),
            docker: spec(Format::Docker, &[100_000]).build(REPOSITORY, 3),
            elsewhere: spec(Format::Oci, &[200_000]).build(OTHER, 4),
            empty: Blob::of(Vec::new()),
            other_algorithm: (format!("sha512:{}", hex::encode(Sha512::digest(&other))), other.into()),
            foreign,
            loose: (0..MAX_COLUMNS).map(|index| Blob::of(noise(100 + index, 3 << 20))).collect(),
            image,
        }
    }

    /// What is published with `v1` and the other tags of images.
    pub(super) fn images(&self) -> [(&Image, &'static str); 4] {
        [(&self.image, "v1"), (&self.second, "v2"), (&self.docker, "docker"), (&self.elsewhere, "v1")]
    }

    /// Blobs of [`REPOSITORY`] that are in no image.
    pub(super) fn blobs(&self) -> impl Iterator<Item = Blob> {
        let config = Blob::of(b"{}".to_vec());
        [config, self.empty.clone()].into_iter().chain(self.loose.clone())
    }

    /// The tags of [`REPOSITORY`], in the order of a list.
    pub(super) fn tags(&self) -> Vec<&'static str> {
        let images = self.images().into_iter().filter(|(image, _)| image.repository == REPOSITORY);
        let images = images.map(|(_, tag)| tag);
        let mut tags: Vec<_> = images.chain(self.manifests.iter().map(|manifest| manifest.tag)).collect();
        tags.sort_unstable();
        tags
    }

    pub(super) fn manifest(&self, tag: &str) -> &Manifest {
        self.manifests.iter().find(|manifest| manifest.tag == tag).expect("a row names a manifest there is")
    }
}

fn manifests(image: &Image, config: &Blob, foreign: &Blob) -> Vec<Manifest> {
    let empty_config = config.descriptor("application/vnd.oci.empty.v1+json");
    let of = |tag, media_type, value: Value| Manifest {
        tag,
        media_type,
        blob: Blob::of(value.to_string().into_bytes()),
    };
    let with_layer = |layer: Value| json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": empty_config, "layers": [layer] });
    let subject = image.manifest.descriptor(OCI_MANIFEST);
    let mut artifact = with_layer(image.layers[2].descriptor("application/vnd.test.thing"));
    artifact["artifactType"] = json!(ARTIFACT_TYPE);
    artifact["subject"] = subject.clone();
    artifact["annotations"] = json!({ "org.test.of": "the image" });

    let mut large = with_layer(image.layers[2].descriptor("application/vnd.test.thing"));
    let annotations = (0..39).map(|index| (format!("org.test.{index}"), json!("x".repeat(100_000))));
    large["annotations"] = Value::Object(annotations.collect());

    let mut layer = foreign.descriptor("application/vnd.oci.image.layer.nondistributable.v1.tar");
    layer["urls"] = json!(["https://elsewhere.test/layer"]);

    let index = of("index", OCI_INDEX, index(&[subject]));
    let nested = index_of(&index);
    vec![
        of("artifact", OCI_MANIFEST, artifact),
        of("large", OCI_MANIFEST, large),
        of("foreign", OCI_MANIFEST, with_layer(layer)),
        index,
        of("nested", OCI_INDEX, nested),
        of("empty-index", OCI_INDEX, self::index(&[])),
    ]
}

fn index_of(child: &Manifest) -> Value {
    index(&[child.blob.descriptor(child.media_type)])
}

fn index(manifests: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests })
}

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    fastrand::Rng::with_seed(seed).fill(&mut bytes);
    bytes
}

/// The repository that most rows are about.
pub(super) const REPOSITORY: &str = "priv/app";
/// One more of the same project.
pub(super) const OTHER: &str = "priv/other";
/// One of whose manifests a policy lets none pass, where there are policies.
pub(super) const BLOCKED: &str = "blocked/app";
pub(super) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(super) const ARTIFACT_TYPE: &str = "application/vnd.test.artifact";
/// A table has no more.
pub(super) const MAX_COLUMNS: u64 = 4;
