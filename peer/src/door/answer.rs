//! The answerer that all doors share: manifests and everything else go to the registry
//! with the client's own credential; blobs come from the region.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use flotilla_proto::{Authorization, RepositoryName};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};

use super::error::{REFUSED_BY, not_forwarded, refusal};
use super::route::{Resource, Target};
use super::turns::Turns;
use super::{blob, manifest, token};
use crate::body;
use crate::confirmed::Confirmed;
use crate::egress::{Egress, PATIENCE};
use crate::grant::{Grants, Holder, life};
use crate::metrics::PieceBytes;
use crate::source::{BodyStream, NO_TOKEN_SERVICE, Purpose};
use crate::store::Store;
use crate::swarm::Swarm;

/// What requests are answered from.
pub(crate) struct Answerer {
    pub(crate) store: Store,
    pub(crate) swarm: Swarm,
    pub(crate) egress: Arc<Egress>,
    pub(crate) grants: Grants,
    /// Blobs that a registry is known to hold in a repository.
    pub(crate) confirmed: Confirmed,
    pub(crate) piece_bytes: PieceBytes,
    /// Who asks a seed for a small blob.
    pub(crate) asking: Turns,
}

impl Answerer {
    /// Answers a client's request for a registry.
    pub(super) async fn answer(&self, target: &Target, request: Request<BodyStream>) -> Response<BodyStream> {
        let reads = matches!(*request.method(), Method::GET | Method::HEAD);
        if !reads && !target.door.plays_registry() {
            let message =
                format!("{} is not supported through a mirror; go to the registry", request.method());
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", &message);
        }
        match Resource::of(target.path.path()) {
            Resource::Manifest(repository) if reads => self.manifest(target, &repository, request).await,
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
        let prompt = is_prompt(target.path.path(), request.method());
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
        &self,
        target: &Target,
        repository: &RepositoryName,
        request: Request<BodyStream>,
    ) -> Response<BodyStream> {
        let credential = authorization(request.headers());
        let holder = holder(target, repository, &credential);
        let method = request.method().clone();
        let answer = match self.forward(target, request, Purpose::Pass).await {
            Ok(answer) => answer,
            Err(refused) => return refused,
        };
        match answer.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.grants.revoke(&holder),
            StatusCode::OK if method == Method::GET => {
                let (head, body) = answer.into_parts();
                let Some(manifest) = body::read_whole(body, MAX_MANIFEST).await else {
                    let message = format!(
                        "{} sent a broken manifest, or one above {MAX_MANIFEST} bytes",
                        target.upstream
                    );
                    return refusal(StatusCode::BAD_GATEWAY, "MANIFEST_INVALID", &message);
                };
                let life = life(&credential, SystemTime::now());
                self.grants.record(holder, manifest::blobs(&manifest), life, Instant::now());
                return Response::from_parts(head, body::full(manifest));
            }
            _ => {}
        }
        answer
    }
}

/// Whether a client waits for the first header of a pull: a manifest, a blob, a token, or
/// `/v2/` (DESIGN.md §8). A push or a listing may take its time.
fn is_prompt(path: &str, method: &Method) -> bool {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    let pull = match Resource::of(path) {
        Resource::Manifest(_) | Resource::Blob(..) => true,
        Resource::Other => path == "/v2/" || !path.starts_with("/v2/"),
    };
    reads && pull
}

/// The client's credential.
pub(super) fn authorization(headers: &HeaderMap) -> Authorization {
    headers.get(header::AUTHORIZATION).map_or(Authorization::ANONYMOUS, |value| {
        Authorization::new(Bytes::copy_from_slice(value.as_bytes()))
    })
}

/// Whom a grant is for.
pub(super) fn holder(target: &Target, repository: &RepositoryName, credential: &Authorization) -> Holder {
    Holder {
        upstream: target.upstream.clone(),
        repository: repository.clone(),
        credential: credential.hash(),
    }
}

/// For a dial, and for several seeds that each take their least share.
const GRACE: Duration = Duration::from_millis(400);

/// What registries' own front ends allow.
const PATIENT: Duration = Duration::from_secs(900);

/// Registries take manifests of 4 MiB at most; a little more is read before one is refused.
const MAX_MANIFEST: usize = 8 << 20;
