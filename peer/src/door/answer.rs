//! The answerer that all doors share: manifests and everything else go to the registry
//! with the client's own credential; blobs come from the region.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use flotilla_daemon::settings::Receiver;
use flotilla_proto::{Digest, RepositoryName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::error::{REFUSED_BY, not_forwarded, refusal};
use super::route::Target;
use super::turns::Turns;
use super::{blob, prefetch, token};
use crate::body;
use crate::egress::{Egress, PATIENCE};
use crate::grant::{Confirmed, Grants, Holder, MAX_MANIFEST, Manifest, Manifests, life};
use crate::http_wire::authorization;
use crate::metrics::PieceBytes;
use crate::resource::{Resource, is_prompt};
use crate::source::{BodyStream, NO_TOKEN_SERVICE, Purpose, ReadCredential};
use crate::store::Store;
use crate::swarm::Swarm;

/// What requests are answered from.
pub(crate) struct Answerer {
    pub(crate) store: Store,
    pub(crate) swarm: Swarm,
    pub(crate) egress: Arc<Egress>,
    /// What is settled of the registries.
    pub(crate) settings: Receiver,
    pub(crate) grants: Grants,
    /// Blobs that a registry is known to hold in a repository.
    pub(crate) confirmed: Confirmed,
    pub(crate) manifests: Manifests,
    pub(crate) piece_bytes: PieceBytes,
    /// Who asks a seed for a small blob.
    pub(crate) asking: Turns,
}

impl Answerer {
    /// Answers a client's request for a registry.
    pub(super) async fn answer(
        self: &Arc<Self>,
        target: &Target,
        request: Request<BodyStream>,
    ) -> Response<BodyStream> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && !target.door.plays_registry() {
            let message =
                format!("{} is not supported through a mirror; go to the registry", request.method());
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", &message);
        }
        match Resource::of(target.path.path()) {
            Resource::Manifest(repository) if reads => self.manifest(target, repository, request).await,
            Resource::Blob(repository, digest) if reads => {
                blob::answer(self, target, repository, &digest, request).await
            }
            Resource::Manifest(_) | Resource::Blob(..) | Resource::Other => self.pass(target, request).await,
        }
    }

    /// Gets a token for a client of a mirror or a prefix.
    pub(super) async fn token(&self, target: &Target, request: Request<BodyStream>) -> Response<BodyStream> {
        if request.method() != Method::GET {
            // Clients that try OAuth2's POST first go on to GET, as with Harbor.
            let message = "tokens are asked for with GET";
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message);
        }
        let credential = request.headers().get(header::AUTHORIZATION).cloned();
        let answer = match self.forward(target, request, Purpose::Token).await {
            Ok(answer) => answer,
            Err(refused) => return refused,
        };
        if !answer.headers().contains_key(NO_TOKEN_SERVICE) {
            return answer;
        }
        let mut answer = Response::new(body::full(token::own(credential.as_ref())));
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }

    /// Sends the request on as it is.
    pub(super) async fn pass(&self, target: &Target, request: Request<BodyStream>) -> Response<BodyStream> {
        self.forward(target, request, Purpose::Pass).await.unwrap_or_else(|refused| refused)
    }

    async fn forward(
        &self,
        target: &Target,
        mut request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Result<Response<BodyStream>, Response<BodyStream>> {
        *request.uri_mut() = target.path.clone().into();
        let key = match Resource::of(target.path.path()) {
            Resource::Manifest(repository) | Resource::Blob(repository, _) => repository.to_string(),
            Resource::Other => target.upstream.to_string(),
        };
        let prompt = is_prompt(request.method(), target.path.path());
        let patience = if prompt { PATIENCE } else { PATIENT };
        let answer = self.egress.forward(&key, &target.upstream, request, purpose, patience);
        let Ok(answer) = tokio::time::timeout(patience + GRACE, answer).await else {
            let message = format!("{} did not answer in time", target.upstream);
            return Err(refusal(StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE", &message));
        };
        let mut answer = answer.map_err(|error| {
            tracing::info!(registry = %target.upstream, %error, "request not forwarded");
            not_forwarded(&error)
        })?;
        // Ours alone to say.
        answer.headers_mut().remove(REFUSED_BY);
        Ok(answer)
    }

    /// The registry decides about every manifest; what it serves, it has granted.
    async fn manifest(
        self: &Arc<Self>,
        target: &Target,
        repository: RepositoryName,
        request: Request<BodyStream>,
    ) -> Response<BodyStream> {
        let authorization = authorization(request.headers());
        let credential = ReadCredential { upstream: target.upstream.clone(), repository, authorization };
        let asked = request.method().clone();
        let known = single_tag(request.headers());
        let answer = match self.forward(target, request, Purpose::Pass).await {
            Ok(answer) => answer,
            Err(refused) => return refused,
        };
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.grants.revoke(&holder(&credential)),
            StatusCode::OK if asked == Method::GET => return self.served(target, &credential, answer).await,
            StatusCode::OK => self.grant_known(&credential, digest_of(answer.headers())),
            StatusCode::NOT_MODIFIED => self.grant_known(&credential, known),
            _ => {}
        }
        answer
    }

    /// A manifest on its way to the client, and what it grants.
    async fn served(
        self: &Arc<Self>,
        target: &Target,
        credential: &ReadCredential,
        answer: Response<BodyStream>,
    ) -> Response<BodyStream> {
        let (head, body) = answer.into_parts();
        let Some(bytes) = body::read_whole(body, MAX_MANIFEST).await else {
            let message =
                format!("{} sent a broken manifest, or one above {MAX_MANIFEST} bytes", target.upstream);
            return refusal(StatusCode::BAD_GATEWAY, "MANIFEST_INVALID", &message);
        };
        let manifest = self.manifests.keep(bytes);
        let reference = target.path.path().rsplit('/').next().unwrap_or_default();
        if reference.parse::<Digest>().is_ok_and(|asked| asked != manifest.digest) {
            let message = format!("{} sent another manifest than {reference}", target.upstream);
            return refusal(StatusCode::BAD_GATEWAY, "MANIFEST_INVALID", &message);
        }
        self.grant(credential, &manifest);
        prefetch::begin(self, target, credential, &manifest);
        Response::from_parts(head, body::full(manifest.bytes.clone()))
    }

    /// An answer without a body says which manifest the credential may have.
    fn grant_known(&self, credential: &ReadCredential, digest: Option<Digest>) {
        if let Some(manifest) = digest.and_then(|digest| self.manifests.find(digest)) {
            self.grant(credential, &manifest);
        }
    }

    fn grant(&self, credential: &ReadCredential, manifest: &Manifest) {
        let life = life(&credential.authorization, SystemTime::now());
        self.grants.record(holder(credential), manifest.blobs.iter().copied(), life, Instant::now());
    }
}

/// The digest that an answer names itself by; Harbor's proxy-cache sends the header empty at first.
fn digest_of(headers: &HeaderMap) -> Option<Digest> {
    headers.get("docker-content-digest")?.to_str().ok()?.parse().ok()
}

/// The one digest that a client says it has, quoted or bare: of several, a 304 means any.
fn single_tag(headers: &HeaderMap) -> Option<Digest> {
    let tag = headers.get(header::IF_NONE_MATCH)?.to_str().ok()?.trim();
    tag.strip_prefix('"').and_then(|tag| tag.strip_suffix('"')).unwrap_or(tag).parse().ok()
}

/// Whom a grant is for.
pub(super) fn holder(credential: &ReadCredential) -> Holder {
    Holder {
        upstream: credential.upstream.clone(),
        repository: credential.repository.clone(),
        credential: credential.authorization.hash(),
    }
}

/// For a dial, and for several seeds that each take their least share.
const GRACE: Duration = Duration::from_millis(400);

/// What registries' own front ends allow.
const PATIENT: Duration = Duration::from_secs(900);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_says_which_one_manifest_it_has() {
        let digest = Digest::of(b"{}");
        let tag = |value: String| {
            single_tag(&[(header::IF_NONE_MATCH, value.parse().unwrap())].into_iter().collect())
        };
        assert_eq!(tag(format!("\"{digest}\"")), Some(digest));
        assert_eq!(tag(format!(" {digest}")), Some(digest));
        for several in [format!("\"{digest}\", \"{digest}\""), format!("W/\"{digest}\""), "*".to_owned()] {
            assert_eq!(tag(several.clone()), None, "{several}");
        }
        assert_eq!(single_tag(&HeaderMap::new()), None);
    }

    #[test]
    fn an_empty_digest_is_none() {
        let headers = |value: &'static str| {
            [(header::HeaderName::from_static("docker-content-digest"), HeaderValue::from_static(value))]
                .into_iter()
                .collect()
        };
        assert_eq!(digest_of(&headers("")), None);
        assert_eq!(digest_of(&headers(" ")), None);
    }
}
