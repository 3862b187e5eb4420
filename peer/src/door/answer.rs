//! The answerer that all doors share: manifests and everything else go to the registry
//! with the client's own credential; blobs come from the region.

use std::sync::Arc;
use std::time::{Duration, Instant};

use flotilla_daemon::settings::Receiver;
use flotilla_proto::{Digest, RegistryHost, RepositoryName};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};

use super::bypass::Bypasses;
use super::client::{Client, RETRY_AFTER};
use super::error::{REFUSED_BY, not_forwarded, refusal};
use super::offline::KeptTokens;
use super::probing::Probes;
use super::route::Target;
use super::turns::Turns;
use super::{blob, token};
use crate::body;
use crate::egress::{Egress, PATIENCE};
use crate::grant::{Confirmed, Grants, Holder, Manifests};
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
    pub(crate) grants: Arc<Grants>,
    /// Blobs that a registry is known to hold in a repository.
    pub(crate) confirmed: Confirmed,
    /// Manifests that a registry has sent from a repository, and not only named.
    pub(crate) served: Confirmed,
    pub(crate) manifests: Manifests,
    /// What clients were given by token services, for while these are unreachable.
    pub(crate) kept_tokens: KeptTokens,
    pub(crate) piece_bytes: PieceBytes,
    pub(crate) bypasses: Bypasses,
    /// Who asks a seed for a small blob.
    pub(crate) asking: Turns,
    /// Whose credential is being judged for which blob.
    pub(crate) probes: Probes,
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
            Resource::Manifest(repository, reference) if reads => {
                self.manifest(target, repository, &reference, request).await
            }
            Resource::Blob(repository, digest) if reads => {
                blob::answer(self, target, repository, &digest, request).await
            }
            // Where the registry's realm is taken as it is, so is its token service's path.
            Resource::Other if reads && !target.path.path().starts_with("/v2/") => {
                self.through_token_service(target, request, Purpose::Pass).await
            }
            resource @ (Resource::Manifest(..) | Resource::Blob(..)) => {
                self.change(target, resource, request).await
            }
            Resource::Other => self.pass(target, request).await,
        }
    }

    /// Sends on what changes a repository, and drops what may be untrue then. A registry that fails with a 5xx may
    /// have done it.
    async fn change(
        &self,
        target: &Target,
        resource: Resource,
        request: Request<BodyStream>,
    ) -> Response<BodyStream> {
        let method = request.method().clone();
        let answer = self.pass(target, request).await;
        let is_of_registry = !answer.headers().contains_key(REFUSED_BY);
        if answer.status().is_client_error() || !is_of_registry {
            return answer;
        }
        let upstream = &target.upstream;
        match (method, resource) {
            (Method::DELETE, Resource::Blob(repository, digest)) => {
                if let Ok(digest) = digest.parse() {
                    self.forget_blob(upstream, &repository, digest);
                }
            }
            (Method::DELETE, Resource::Manifest(repository, _)) => {
                self.grants.forget_repository(upstream, &repository);
                self.confirmed.remove(upstream, &repository, None);
                self.served.remove(upstream, &repository, None);
            }
            (_, Resource::Manifest(repository, reference)) => {
                self.grants.forget_reference(upstream, &repository, &reference);
            }
            (_, Resource::Blob(..) | Resource::Other) => {}
        }
        answer
    }

    /// The repository holds the blob no longer.
    pub(super) fn forget_blob(&self, upstream: &RegistryHost, repository: &RepositoryName, digest: Digest) {
        self.grants.forget_blob(upstream, repository, digest);
        self.confirmed.remove(upstream, repository, Some(digest));
    }

    /// Gets a token for a client of a mirror or a prefix.
    pub(super) async fn token(&self, target: &Target, request: Request<BodyStream>) -> Response<BodyStream> {
        if request.method() != Method::GET {
            // Clients that try OAuth2's POST first go on to GET, as with Harbor.
            let message = "tokens are asked for with GET";
            return refusal(StatusCode::METHOD_NOT_ALLOWED, "UNSUPPORTED", message);
        }
        let credential = request.headers().get(header::AUTHORIZATION).cloned();
        let answer = self.through_token_service(target, request, Purpose::Token).await;
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

    /// `Err` is an answer too, of ours: the registry could not be asked.
    pub(super) async fn forward(
        &self,
        target: &Target,
        mut request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Result<Response<BodyStream>, Response<BodyStream>> {
        let resource = Resource::of(target.path.path());
        *request.uri_mut() = canonical(&target.path, &resource).into();
        let key = match resource {
            Resource::Manifest(repository, _) | Resource::Blob(repository, _) => repository.to_string(),
            Resource::Other => target.upstream.to_string(),
        };
        let prompt = is_prompt(request.method(), target.path.path());
        let patience = if prompt { PATIENCE } else { PATIENT };
        let (came_at, client) = (Instant::now(), request.extensions().get::<Arc<Client>>().cloned());
        let _turn = match &client {
            Some(client) => Some(client.turn(prompt, patience).await.ok_or_else(too_many)?),
            // It belongs to a request that has its turn.
            None => None,
        };
        let patience = patience.saturating_sub(came_at.elapsed());
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
}

/// What a client is told whose owner asks too much at a time.
fn too_many() -> Response<BodyStream> {
    let message = "other requests of yours wait for registries: there is no turn for one more";
    let mut refused = refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", message);
    refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    refused
}

/// A path as it goes to the registry. A manifest's or blob's that came encoded goes as what it was read as: a front
/// end that reads it in another way would answer for something else than what is granted.
fn canonical(path: &PathAndQuery, resource: &Resource) -> PathAndQuery {
    let Some(plain) = resource.path().filter(|_| path.path().contains('%')) else { return path.clone() };
    let query = path.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{plain}{query}").parse().expect("names, and a query that was one")
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
