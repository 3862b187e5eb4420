//! Pushes: uploads of blobs in any number of requests, and manifests (OCI distribution-spec,
//! "Push"). A blob is never mounted from another repository: the client uploads it.

use std::collections::BTreeMap;

use flotilla_proto::Digest;
use hyper::{Method, StatusCode};

use super::answer::Answer;
use super::call::Call;
use super::content::Content;

/// The uploads that have begun, by their ids.
#[derive(Debug, Default)]
pub(super) struct Uploads(BTreeMap<String, Vec<u8>>);

impl Uploads {
    /// POST: an upload begins, or is all there is if the digest is named.
    pub(super) fn begin(&mut self, call: &Call, name: &str, content: &mut Content) -> Answer {
        if let (Some(digest), false) = (call.query_value("digest"), call.body.is_empty()) {
            return store(content, name, &digest, call.body.to_vec());
        }
        let id = hex::encode(fastrand::u128(..).to_be_bytes());
        self.0.insert(id.clone(), Vec::new());
        progress(StatusCode::ACCEPTED, name, &id, 0)
    }

    /// PATCH, PUT, GET and DELETE of an upload.
    pub(super) fn go_on(&mut self, call: &Call, name: &str, id: &str, content: &mut Content) -> Answer {
        let Some(upload) = self.0.get_mut(id) else {
            return Answer::not_found("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry");
        };
        let start = call.header("content-range").and_then(|range| range.split('-').next()?.parse().ok());
        if start.is_some_and(|start: usize| start != upload.len()) {
            return progress(StatusCode::RANGE_NOT_SATISFIABLE, name, id, upload.len());
        }
        match call.method {
            Method::PATCH => {
                upload.extend_from_slice(&call.body);
                progress(StatusCode::ACCEPTED, name, id, upload.len())
            }
            Method::PUT => {
                let mut upload = self.0.remove(id).unwrap_or_default();
                upload.extend_from_slice(&call.body);
                store(content, name, &call.query_value("digest").unwrap_or_default(), upload)
            }
            Method::DELETE => {
                self.0.remove(id);
                Answer::new(StatusCode::NO_CONTENT)
            }
            Method::GET => progress(StatusCode::NO_CONTENT, name, id, upload.len()),
            _ => Answer::method_not_allowed(),
        }
    }
}

/// PUT of a manifest, by tag or digest.
pub(super) fn put_manifest(call: &Call, name: &str, reference: &str, content: &mut Content) -> Answer {
    let digest = Digest::of(&call.body);
    let named = reference.parse::<Digest>();
    if named.as_ref().is_ok_and(|named| *named != digest) {
        return digest_invalid();
    }
    let Some(media_type) = call.header("content-type") else {
        let message = "a manifest has a Content-Type";
        return Answer::error(StatusCode::BAD_REQUEST, "MANIFEST_INVALID", message);
    };
    content.put_manifest(name, media_type, call.body.clone());
    if let Some(missing) = first_missing(content, name, digest) {
        content.repository_mut(name).remove(digest);
        let message = format!("blob unknown to registry: {missing}");
        return Answer::error(StatusCode::BAD_REQUEST, "MANIFEST_BLOB_UNKNOWN", &message);
    }
    if named.is_err() {
        content.tag(name, reference, digest);
    }
    let location = format!("/v2/{name}/manifests/{digest}");
    Answer::new(StatusCode::CREATED).about(digest).with("location", &location)
}

/// What a manifest needs and the repository does not hold.
fn first_missing(content: &Content, name: &str, digest: Digest) -> Option<Digest> {
    let repository = content.repository(name)?;
    let manifest = repository.manifest_by_digest.get(&digest)?;
    let blob = manifest.blobs().into_iter().find(|blob| !repository.blobs.contains(blob));
    let lacks = |child: &Digest| !repository.manifest_by_digest.contains_key(child);
    blob.or_else(|| manifest.children().into_iter().find(lacks))
}

fn store(content: &mut Content, name: &str, digest: &str, upload: Vec<u8>) -> Answer {
    if digest.parse() != Ok(Digest::of(&upload)) {
        return digest_invalid();
    }
    let digest = content.put_blob(name, upload.into());
    let location = format!("/v2/{name}/blobs/{digest}");
    Answer::new(StatusCode::CREATED).about(digest).with("location", &location)
}

/// What the next request goes to, and how far the upload is.
fn progress(status: StatusCode, name: &str, id: &str, len: usize) -> Answer {
    Answer::new(status)
        .with("location", &format!("/v2/{name}/blobs/uploads/{id}?_state=kept"))
        .with("range", &format!("0-{}", len.saturating_sub(1)))
        .with("docker-upload-uuid", id)
}

fn digest_invalid() -> Answer {
    let message = "provided digest did not match uploaded content";
    Answer::error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", message)
}
