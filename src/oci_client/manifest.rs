//! The few words of manifests and indexes that a pull needs.

use std::env::consts;

use flotilla_proto::Digest;
use serde::Deserialize;

use super::Blobs;

/// A manifest, of whichever kind.
#[derive(Debug)]
pub(super) enum Manifest {
    /// One platform's image: config and layers.
    Image(Blobs),
    /// Images of several platforms.
    Index(Index),
}

/// Images of several platforms.
#[derive(Debug, Deserialize)]
pub(super) struct Index {
    manifests: Vec<Child>,
}

#[derive(Debug, Deserialize)]
struct Child {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Debug, Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

#[derive(Deserialize)]
struct Image {
    config: Descriptor,
    layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
struct Descriptor {
    digest: Digest,
    size: u64,
}

impl Manifest {
    /// Reads it by its fields: the media type inside is optional in the OCI forms.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Either {
            Index(Index),
            Image(Image),
        }
        Ok(match serde_json::from_slice(bytes)? {
            Either::Index(index) => Self::Index(index),
            Either::Image(Image { config, layers }) => {
                let all = layers.into_iter().chain([config]);
                Self::Image(all.map(|descriptor| (descriptor.digest, descriptor.size)).collect())
            }
        })
    }
}

impl Index {
    /// The image that this machine would run.
    pub(super) fn child_for_this_machine(&self) -> Option<Digest> {
        let architecture = match consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        };
        let runs = |platform: &Platform| platform.os == "linux" && platform.architecture == architecture;
        self.manifests
            .iter()
            .find(|child| child.platform.as_ref().is_some_and(runs))
            .map(|child| child.digest)
    }
}

/// What containerd accepts, and in its order.
pub(super) const ACCEPTED: &str = "application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*";

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_image_lists_config_and_layers_each_once() {
        let [config, layer] = [b"config", b"layers"].map(|content| Digest::of(content));
        let layer_descriptor = json!({ "digest": layer, "size": 7 });
        let manifest = json!({
            "config": { "digest": config, "size": 3 },
            "layers": [layer_descriptor, layer_descriptor],
        });
        let Manifest::Image(blobs) = Manifest::parse(manifest.to_string().as_bytes()).unwrap() else {
            panic!("{manifest} is an image");
        };
        assert_eq!(blobs, [(config, 3), (layer, 7)].into());
    }

    #[test]
    fn an_index_gives_the_image_of_this_machine() {
        let digests = [&b"a"[..], b"b", b"c"].map(Digest::of);
        let child = |index: usize, architecture: &str| {
            let platform = json!({ "os": "linux", "architecture": architecture });
            json!({ "digest": digests[index], "platform": platform })
        };
        let index = json!({ "manifests": [{ "digest": digests[2] }, child(0, "amd64"), child(1, "arm64")] });
        let Manifest::Index(index) = Manifest::parse(index.to_string().as_bytes()).unwrap() else {
            panic!("{index} is an index");
        };
        let expected = match consts::ARCH {
            "x86_64" => Some(digests[0]),
            "aarch64" => Some(digests[1]),
            _ => None,
        };
        assert_eq!(index.child_for_this_machine(), expected);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "{}", r#"{"config":{"digest":"sha256:0","size":1},"layers":[]}"#] {
            assert!(Manifest::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
