//! Manifests and indexes by tag or digest (§2.2, §2.7).

use hyper::{Method, StatusCode};

use super::answer::{Answer, Effect};
use super::call::Call;
use super::content::{Manifest, Repository};

/// A read of a manifest.
pub(super) struct Read<'a> {
    pub(super) call: &'a Call,
    pub(super) name: &'a str,
    /// None if nothing was ever put there.
    pub(super) repository: Option<&'a Repository>,
    /// The message of the policy that no manifest of the project passes.
    pub(super) policy: Option<&'a str>,
}

impl Read<'_> {
    /// Answers GET and HEAD by tag or digest. Ranges do not matter here.
    pub(super) fn answer(self, reference: &str) -> Answer {
        let Self { call, name, repository, policy } = self;
        let Some((digest, manifest)) = repository.and_then(|repository| repository.manifest(reference))
        else {
            return not_found(name, reference);
        };
        // The policy is judged before all else, also before a 304.
        if let Some(message) = policy {
            let status = StatusCode::PRECONDITION_FAILED;
            return Answer::error(status, "PROJECTPOLICYVIOLATION", message);
        }
        if is_held(call, &digest.to_string()) {
            return Answer { digest: Some(digest), ..Answer::new(StatusCode::NOT_MODIFIED) };
        }
        if !is_accepted(call, &manifest.media_type) {
            let message = "OCI manifest found, but accept header does not support OCI manifests";
            return Answer::not_found("MANIFEST_UNKNOWN", message);
        }
        let answer = Answer::ok(&manifest.media_type, manifest.content.clone())
            .about(digest)
            .with("docker-distribution-api-version", "registry/2.0");
        Answer { effect: is_pull(call).then(|| Effect::Pull(name.to_owned())), ..answer }
    }
}

/// 404, as Harbor says it of a manifest.
pub(super) fn not_found(name: &str, reference: &str) -> Answer {
    let separator = if reference.contains(':') { '@' } else { ':' };
    Answer::not_found("NOT_FOUND", &format!("artifact {name}{separator}{reference} not found"))
}

/// Whether `If-None-Match` names the digest: as its one value, quoted or bare. `*`, a weak tag or
/// a list of tags is not understood.
fn is_held(call: &Call, digest: &str) -> bool {
    call.header("if-none-match").is_some_and(|value| value == digest || value == format!("\"{digest}\""))
}

/// An OCI manifest or index comes only to those who name that very type; `*/*` does not.
fn is_accepted(call: &Call, media_type: &str) -> bool {
    let accepted = call.headers.get_all("accept").iter().filter_map(|value| value.to_str().ok());
    let mut accepted = accepted.flat_map(|value| value.split(','));
    let names = |range: &str| range.split(';').next().is_some_and(|range| range.trim() == media_type);
    !media_type.starts_with("application/vnd.oci.image.") || accepted.any(names)
}

/// A HEAD is no pull, nor is a read by Harbor's own client, whose name nothing may surround.
fn is_pull(call: &Call) -> bool {
    call.method == Method::GET && call.header("user-agent") != Some("harbor-registry-client")
}

/// What a manifest says it is, in a list of referrers.
pub(super) fn artifact_type(manifest: &Manifest) -> Option<&str> {
    let json = &manifest.json;
    json["artifactType"].as_str().or(json["config"]["mediaType"].as_str())
}
