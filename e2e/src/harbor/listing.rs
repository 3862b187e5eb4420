//! Lists: tags, repositories and referrers (§2.2).

use flotilla_proto::Digest;
use hyper::StatusCode;
use serde_json::{Value, json};

use super::answer::{Answer, JSON};
use super::call::Call;
use super::content::{Content, Repository};
use super::manifests::{artifact_type, not_found};

/// `tags/list`, by `n` and `last`.
pub(super) fn tags(call: &Call, name: &str, repository: Option<&Repository>) -> Answer {
    let Some(repository) = repository else {
        return Answer::not_found("NOT_FOUND", &format!("{name} not found"));
    };
    let (tags, link) = page(call, repository.digest_by_tag.keys());
    linked(Answer::ok(JSON, json!({ "name": name, "tags": tags }).to_string()), link)
}

/// `_catalog`, by `n` and `last`.
pub(super) fn catalog(call: &Call, content: &Content) -> Answer {
    let (names, link) = page(call, content.repository_names());
    linked(Answer::ok(JSON, json!({ "repositories": names }).to_string()), link)
}

/// The index of what refers to a digest: an empty one if nothing does, or if the digest is
/// unknown.
pub(super) fn referrers(call: &Call, repository: Option<&Repository>, digest: &str) -> Answer {
    let Ok(subject) = digest.parse::<Digest>() else {
        return Answer::error(StatusCode::BAD_REQUEST, "DIGEST_INVALID", "invalid digest");
    };
    let wanted = call.query_value("artifactType");
    let manifests = repository.into_iter().flat_map(|repository| &repository.manifest_by_digest);
    let referrers = manifests.filter(|(_, manifest)| {
        let of_type = wanted.as_deref().is_none_or(|wanted| artifact_type(manifest) == Some(wanted));
        manifest.subject() == Some(subject) && of_type
    });
    let descriptors: Vec<_> = referrers
        .map(|(digest, manifest)| {
            json!({
                "mediaType": manifest.media_type,
                "size": manifest.content.len(),
                "digest": digest.to_string(),
                "artifactType": artifact_type(manifest),
                "annotations": manifest.json["annotations"],
            })
        })
        .collect();
    let count = descriptors.len().to_string();
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors });
    let answer = Answer::ok(INDEX, index.to_string()).with("x-total-count", &count);
    if wanted.is_some() { answer.with("oci-filters-applied", "artifactType") } else { answer }
}

/// DELETE of a manifest.
pub(super) fn delete(name: &str, repository: &mut Repository, reference: &str) -> Answer {
    let Some((digest, _)) = repository.manifest(reference) else { return not_found(name, reference) };
    repository.remove(digest);
    Answer::new(StatusCode::ACCEPTED)
}

/// At most `n` of the sorted names behind `last`, and the link to the rest.
fn page<'a>(call: &Call, names: impl Iterator<Item = &'a String>) -> (Value, Option<String>) {
    let last = call.query_value("last").unwrap_or_default();
    let count = call.query_value("n").and_then(|n| n.parse().ok()).unwrap_or(usize::MAX);
    let mut names = names.filter(|name| **name > last);
    let page: Vec<_> = names.by_ref().take(count).collect();
    let link = match (page.last(), names.next()) {
        (Some(last), Some(_)) => Some(format!("<{}?last={last}&n={count}>; rel=\"next\"", call.path)),
        (None, _) | (_, None) => None,
    };
    (json!(page), link)
}

fn linked(answer: Answer, link: Option<String>) -> Answer {
    match link {
        Some(link) => answer.with("link", &link),
        None => answer,
    }
}

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
