//! What the registry stores, and in which repository each thing may be read.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use flotilla_proto::Digest;
use serde_json::Value;

use super::proxy_cache::Cache;

/// All blobs and repositories.
#[derive(Debug, Default)]
pub(super) struct Content {
    blob_by_digest: BTreeMap<Digest, Bytes>,
    /// Blobs by repository and a digest of another algorithm, as it is written.
    other_blob_by_name: BTreeMap<(String, String), Bytes>,
    repository_by_name: BTreeMap<String, Repository>,
}

/// One repository. In a proxy-cache project it is what upstream has.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) manifest_by_digest: BTreeMap<Digest, Manifest>,
    pub(super) digest_by_tag: BTreeMap<String, Digest>,
    /// A blob is read only through a repository that holds it.
    pub(super) blobs: BTreeSet<Digest>,
    /// Manifest reads that Harbor saw as pulls.
    pub(super) pulls: u64,
    pub(super) cache: Cache,
}

/// A manifest or an index.
#[derive(Debug, Clone)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) content: Bytes,
    /// Its content, or nothing if that is no JSON.
    pub(super) json: Value,
}

impl Content {
    pub(super) fn repository(&self, name: &str) -> Option<&Repository> {
        self.repository_by_name.get(name)
    }

    pub(super) fn repository_mut(&mut self, name: &str) -> &mut Repository {
        self.repository_by_name.entry(name.to_owned()).or_default()
    }

    pub(super) fn repository_names(&self) -> impl Iterator<Item = &String> {
        self.repository_by_name.keys()
    }

    /// The blob, if the repository holds it.
    pub(super) fn blob(&self, repository: &str, digest: Digest) -> Option<&Bytes> {
        let held = self.repository(repository)?.blobs.contains(&digest);
        if held { self.blob_by_digest.get(&digest) } else { None }
    }

    /// The blob whose digest is not SHA-256.
    pub(super) fn other_blob(&self, repository: &str, digest: &str) -> Option<&Bytes> {
        self.other_blob_by_name.get(&(repository.to_owned(), digest.to_owned()))
    }

    pub(super) fn put_other_blob(&mut self, repository: &str, digest: &str, content: Bytes) {
        self.other_blob_by_name.insert((repository.to_owned(), digest.to_owned()), content);
    }

    /// The blob, whoever holds it: the object store knows no repositories.
    pub(super) fn stored_blob(&self, digest: Digest) -> Option<&Bytes> {
        self.blob_by_digest.get(&digest)
    }

    pub(super) fn put_blob(&mut self, repository: &str, content: Bytes) -> Digest {
        let digest = Digest::of(&content);
        self.blob_by_digest.insert(digest, content);
        self.repository_mut(repository).blobs.insert(digest);
        digest
    }

    pub(super) fn put_manifest(&mut self, repository: &str, media_type: &str, content: Bytes) -> Digest {
        let digest = Digest::of(&content);
        let json = serde_json::from_slice(&content).unwrap_or_default();
        let manifest = Manifest { media_type: media_type.to_owned(), content, json };
        self.repository_mut(repository).manifest_by_digest.insert(digest, manifest);
        digest
    }

    pub(super) fn tag(&mut self, repository: &str, tag: &str, digest: Digest) {
        self.repository_mut(repository).digest_by_tag.insert(tag.to_owned(), digest);
    }
}

impl Repository {
    /// The manifest of a tag or digest.
    pub(super) fn manifest(&self, reference: &str) -> Option<(Digest, &Manifest)> {
        let digest = match reference.parse() {
            Ok(digest) => digest,
            Err(_) => *self.digest_by_tag.get(reference)?,
        };
        Some((digest, self.manifest_by_digest.get(&digest)?))
    }

    /// Forgets a manifest and its tags, or a blob.
    pub(super) fn remove(&mut self, digest: Digest) {
        self.manifest_by_digest.remove(&digest);
        self.digest_by_tag.retain(|_, tagged| *tagged != digest);
        self.blobs.remove(&digest);
    }
}

impl Manifest {
    /// Config and layers.
    pub(super) fn blobs(&self) -> Vec<Digest> {
        let layers = self.json["layers"].as_array().into_iter().flatten();
        layers.chain([&self.json["config"]]).filter_map(digest_of).collect()
    }

    /// The manifests that an index lists.
    pub(super) fn children(&self) -> Vec<Digest> {
        self.json["manifests"].as_array().into_iter().flatten().filter_map(digest_of).collect()
    }

    /// The manifest that this one refers to.
    pub(super) fn subject(&self) -> Option<Digest> {
        digest_of(&self.json["subject"])
    }
}

fn digest_of(descriptor: &Value) -> Option<Digest> {
    descriptor["digest"].as_str()?.parse().ok()
}
