//! Passing a client's request to the registry, byte for byte, and asking whether a credential may read.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::RegistryHost;
use http::header::{self, HeaderMap, HeaderName};
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::Shared;
use super::body::{self, BodyStream, Outgoing, Relayed, RelayedBlob};
use super::encoding::{Codings, plain_prefix};
use super::endpoint::{EndpointClient, Place};
use super::failure::EndpointFailure;
use super::header as wire;
use super::manifest;
use super::metrics::{FailureReason, Reader, RequestKind};
use super::token_service;
use super::trail::{Arrived, MAX_TOKEN_ANSWER, Trail};
use super::upstream::UpstreamError;
use crate::bare::is_bare;
use crate::resource::{Resource, is_prompt};

/// Why a request is forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A client wants the answer.
    Pass,
    /// Only the status matters: of a GET one byte is asked for, and the body of a consent is dropped
    /// unread. A refusal comes with its body, to be relayed.
    Probe,
    /// A client wants a token. Whatever the path, it is asked of the token service that the registry
    /// names; the query is the client's, without `service`. A registry that has no such service is
    /// asked for `/v2/` with the client's credential, and its consent is marked [`NO_TOKEN_SERVICE`].
    Token,
}

/// A header of the answer to [`Purpose::Token`]: the registry takes the credential, and issues no tokens.
pub const NO_TOKEN_SERVICE: HeaderName = HeaderName::from_static("flotilla-no-token-service");

/// One request on its way to one of several endpoints.
pub(super) struct Forwarding<'a> {
    shared: &'a Shared,
    upstream: RegistryHost,
    purpose: Purpose,
    method: Method,
    path: PathAndQuery,
    resource: Resource,
    headers: HeaderMap,
    body: Outgoing,
}

impl<'a> Forwarding<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        upstream: &RegistryHost,
        request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Self {
        let (parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut headers = parts.headers;
        wire::strip_hop_by_hop(&mut headers);
        headers.append(header::VIA, shared.dialling.pseudonym.header());
        if purpose == Purpose::Probe && parts.method == Method::GET {
            headers.insert(header::RANGE, HeaderValue::from_static("bytes=0-0"));
        }
        let resource = Resource::of(path.path());
        let (upstream, body) = (upstream.clone(), Outgoing::new(body));
        let mut forwarding =
            Self { shared, upstream, purpose, method: parts.method, path, resource, headers, body };
        if forwarding.is_read_here() || forwarding.purpose == Purpose::Probe {
            let plain = HeaderValue::from_static("identity");
            forwarding.headers.insert(header::ACCEPT_ENCODING, plain);
        }
        forwarding
    }

    /// Tries the endpoints in order: the next one where nothing was sent yet, and for a GET or HEAD
    /// also after a lost connection or a 5xx.
    pub(super) async fn run(self) -> Result<Response<BodyStream>, ForwardError> {
        let endpoints = self.shared.routes.load().find(&self.upstream)?.in_order(&self.key());
        let deadline = Instant::now() + self.shared.config.header_timeout;
        if let Some(known) = self.base(&endpoints).await {
            return Ok(known);
        }
        let mut untried = u32::try_from(endpoints.len()).unwrap_or(u32::MAX);
        let mut endpoints = endpoints.iter().peekable();
        loop {
            let endpoint = endpoints.next().expect("the loop ends with the last endpoint");
            let share = deadline.saturating_duration_since(Instant::now()) / untried;
            untried -= 1;
            let outcome = self.attempt(endpoint, share).await;
            let is_retriable = self.note(endpoint, &outcome).is_retriable(self.is_safe());
            if is_retriable && self.body.is_unsent() && endpoints.peek().is_some() {
                continue;
            }
            return outcome.map_err(|cause| {
                let endpoint = endpoint.name().to_owned();
                ForwardError::Endpoint { upstream: self.upstream, endpoint, cause }
            });
        }
    }

    /// What stays at one endpoint: all of a repository, its tokens too.
    fn key(&self) -> String {
        let named = match &self.resource {
            Resource::Manifest(repository, _) | Resource::Blob(repository, _) => Some(repository.to_string()),
            Resource::Other if self.purpose == Purpose::Token => {
                self.path.query().and_then(token_service::scoped).map(|name| name.to_string())
            }
            Resource::Other => None,
        };
        named.unwrap_or_default()
    }

    /// What anybody is told who asks for `/v2/` without a credential.
    async fn base(&self, endpoints: &[Arc<EndpointClient>]) -> Option<Response<BodyStream>> {
        let is_anonymous =
            !self.headers.contains_key(header::AUTHORIZATION) && is_bare(&self.headers, self.path.query());
        let is_base = self.path.as_str() == token_service::BASE && self.method == Method::GET;
        if !is_base || !is_anonymous || self.purpose != Purpose::Pass {
            return None;
        }
        // Where it cannot be learned, the way of every request says why.
        let share = self.shared.config.header_timeout / 2;
        let learned = token_service::base_of(endpoints.first()?, &self.shared.metrics);
        let answer = tokio::time::timeout(share, learned).await.ok()?.ok()?;
        let length = HeaderValue::from(answer.body.len());
        let mut response = Response::new(crate::body::full(answer.body));
        *response.status_mut() = answer.status;
        *response.headers_mut() = answer.headers;
        // Beyond a hop nothing else says it.
        response.headers_mut().insert(header::CONTENT_LENGTH, length);
        Some(response)
    }

    /// Whether asking twice asks for the same (RFC 9110 §9.2.1).
    fn is_safe(&self) -> bool {
        self.method == Method::GET || self.method == Method::HEAD
    }

    /// Asks one endpoint. What carries a body and may be repeated is sent once more if the connection broke
    /// before any of it went: a registry may close a warm connection in the very moment it is used again.
    async fn attempt(
        &self,
        endpoint: &EndpointClient,
        share: Duration,
    ) -> Result<Response<BodyStream>, EndpointFailure> {
        let asking = async {
            match self.send(endpoint).await {
                Err(EndpointFailure::Cut(_))
                    if self.method.is_idempotent() && self.body.is_unsent() && !self.body.is_empty() =>
                {
                    self.send(endpoint).await
                }
                answer => answer,
            }
        };
        if self.is_bounded() {
            let answer = tokio::time::timeout(share, asking).await;
            return answer.unwrap_or(Err(EndpointFailure::NoHeader { after: share }));
        }
        tokio::select! {
            answer = asking => answer,
            () = self.idle() => Err(EndpointFailure::NoHeader { after: PASS_IDLE }),
        }
    }

    /// Asks one endpoint. A read is followed wherever the registry sends it, for what that leads to is not
    /// every client's to reach. A redirect within the registry is the client's to follow where it leads to
    /// another repository, as Harbor's to `library/`, or to another manifest: what is granted is what was asked.
    async fn send(&self, endpoint: &EndpointClient) -> Result<Response<BodyStream>, EndpointFailure> {
        let place = self.place(endpoint).await?;
        let is_foreign_service = self.purpose == Purpose::Token && !place.is_home;
        let request = || {
            let lent = self.body.lend().expect("an endpoint is tried only while the body is unsent");
            let mut request = Request::new(lent);
            *request.method_mut() = self.method.clone();
            *request.headers_mut() = self.headers.clone();
            if is_foreign_service {
                wire::for_token_service(request.headers_mut());
            }
            request
        };
        let repository = match &self.resource {
            Resource::Blob(repository, _) | Resource::Manifest(repository, _) if self.is_safe() => repository,
            Resource::Blob(..) | Resource::Manifest(..) | Resource::Other => {
                self.shared.metrics.count_request(self.kind());
                let response = endpoint.send(place.clone(), request()).await?;
                return self.take_in(endpoint, Arrived { response, place, is_trusted: true }).await;
            }
        };
        let trail = Trail {
            endpoint,
            tokens: &self.shared.tokens,
            metrics: &self.shared.metrics,
            repository,
            kind: self.kind(),
        };
        let arrived = trail.follow(place, request, |next| self.is_clients(next)).await?;
        self.take_in(endpoint, arrived).await
    }

    async fn place(&self, endpoint: &EndpointClient) -> Result<Place, EndpointFailure> {
        if self.purpose != Purpose::Token {
            return Ok(Place { uri: endpoint.uri(self.path.clone()), is_home: true });
        }
        let has_password = self.headers.contains_key(header::AUTHORIZATION);
        let query = self.path.query().unwrap_or_default();
        token_service::place(endpoint, query, has_password, &self.shared.metrics).await
    }

    fn is_clients(&self, next: &Place) -> bool {
        match (&self.resource, Resource::of(next.uri.path())) {
            (Resource::Blob(here, _), Resource::Blob(there, _)) => next.is_home && *here != there,
            (Resource::Manifest(..), _) => next.is_home,
            _ => false,
        }
    }

    /// What a client is told of an answer. A stranger's 4xx (an expired signature, say) is no verdict on the
    /// credential, but that a manifest is not there.
    async fn take_in(
        &self,
        endpoint: &EndpointClient,
        arrived: Arrived,
    ) -> Result<Response<BodyStream>, EndpointFailure> {
        let Arrived { mut response, place, is_trusted } = arrived;
        let (status, headers) = (response.status(), response.headers_mut());
        wire::strip_hop_by_hop(headers);
        if self.purpose == Purpose::Token {
            if status.is_success() && token_service::is_base(&place) {
                headers.insert(NO_TOKEN_SERVICE, HeaderValue::from_static("1"));
            }
            return Ok(plain(response, MAX_TOKEN_ANSWER).await);
        }
        if !is_trusted {
            let is_missing =
                status == StatusCode::NOT_FOUND && matches!(self.resource, Resource::Manifest(..));
            if status.is_client_error() && status != StatusCode::RANGE_NOT_SATISFIABLE && !is_missing {
                return Err(EndpointFailure::Status(status));
            }
            headers.remove(header::SET_COOKIE);
            headers.remove(header::WWW_AUTHENTICATE);
        } else if status == StatusCode::UNAUTHORIZED
            && is_bare(&self.headers, self.path.query())
            && let Resource::Manifest(repository, _) | Resource::Blob(repository, _) = &self.resource
        {
            endpoint.learned.note(repository, headers);
        }
        if self.is_manifest_read() && self.method == Method::GET && status == StatusCode::OK {
            return self.manifest(response, is_trusted).await;
        }
        Ok(self.relay(endpoint, response))
    }

    /// A manifest as it is, whatever the way has made of it: its digest decides.
    async fn manifest(
        &self,
        response: Response<Incoming>,
        is_trusted: bool,
    ) -> Result<Response<BodyStream>, EndpointFailure> {
        let (mut head, body) = response.into_parts();
        let body = Relayed::new(body, READ_IDLE, None).boxed_unsync();
        let raw = manifest::read(body).await?;
        let reference = match &self.resource {
            Resource::Manifest(_, reference) => reference,
            Resource::Blob(..) | Resource::Other => "",
        };
        let bytes = manifest::plain(&mut head.headers, raw, reference).await?;
        if !is_trusted && !manifest::is_one(&bytes) {
            return Err(EndpointFailure::NoManifest);
        }
        Ok(Response::from_parts(head, crate::body::full(bytes)))
    }

    fn is_blob_read(&self) -> bool {
        self.is_safe() && matches!(self.resource, Resource::Blob(..))
    }

    fn is_manifest_read(&self) -> bool {
        self.purpose == Purpose::Pass && self.is_safe() && matches!(self.resource, Resource::Manifest(..))
    }

    /// Whether what passes is read on its way, by this seed or by the peer that asks; the head of a manifest says
    /// the same as the manifest would.
    fn is_read_here(&self) -> bool {
        self.is_manifest_read() || self.purpose == Purpose::Token
    }

    /// Whether who asks takes nothing encoded.
    fn is_plain_wanted(&self) -> bool {
        let accepted = self.headers.get(header::ACCEPT_ENCODING);
        accepted.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"))
    }

    fn kind(&self) -> RequestKind {
        match self.purpose {
            Purpose::Pass => RequestKind::Pass,
            Purpose::Probe => RequestKind::Probe,
            Purpose::Token => RequestKind::Token,
        }
    }

    /// Whether a client waits for this answer's header with little patience.
    fn is_bounded(&self) -> bool {
        is_prompt(&self.method, self.path.path())
    }

    /// Ends when nothing of the body was sent for long.
    async fn idle(&self) {
        loop {
            let limit = self.body.last_progress() + PASS_IDLE;
            if limit <= Instant::now() {
                return;
            }
            tokio::time::sleep_until(limit).await;
        }
    }

    /// Takes note of how an attempt went.
    fn note(
        &self,
        endpoint: &EndpointClient,
        outcome: &Result<Response<BodyStream>, EndpointFailure>,
    ) -> Outcome {
        let (outcome, reason, is_outage) = match outcome {
            Ok(response) if response.status().is_server_error() => {
                (Outcome::ServerError, FailureReason::Status, true)
            }
            Ok(_) => return Outcome::Answered,
            Err(failure) => {
                tracing::debug!(upstream = %self.upstream, endpoint = endpoint.name(), %failure, "forward failed");
                let outcome = match failure {
                    EndpointFailure::Connect(_) | EndpointFailure::Tls(_) => Outcome::NotConnected,
                    _ => Outcome::Lost,
                };
                (outcome, failure.reason(), failure.is_outage())
            }
        };
        self.shared.metrics.count_error(reason);
        if is_outage {
            endpoint.seems_down();
        }
        outcome
    }

    fn relay(&self, endpoint: &EndpointClient, response: Response<Incoming>) -> Response<BodyStream> {
        let (mut parts, body) = response.into_parts();
        if self.purpose == Purpose::Probe && parts.status.is_success() {
            self.count_probe(&parts.headers);
            return Response::from_parts(parts, body::empty());
        }
        let has_blob = self.method == Method::GET && self.is_blob_read() && parts.status.is_success();
        let blob = has_blob.then(|| RelayedBlob {
            counter: self.shared.metrics.blob_bytes(Reader::Client),
            caps: endpoint.caps.clone(),
            paying: None,
        });
        let idle = if self.is_bounded() { READ_IDLE } else { PASS_IDLE };
        let body = Relayed::new(body, idle, blob).boxed_unsync();
        let codings = Codings::of(&parts.headers).filter(|_| self.is_plain_wanted() && !has_blob);
        let Some(codings) = codings.filter(|codings| !codings.is_identity()) else {
            return Response::from_parts(parts, body);
        };
        parts.headers.remove(header::CONTENT_ENCODING);
        parts.headers.remove(header::CONTENT_LENGTH);
        let body = if self.method == Method::HEAD { body } else { codings.decode(body) };
        Response::from_parts(parts, body)
    }

    /// A dropped body cannot be counted; what was announced, and fits the receive buffer, may have come.
    fn count_probe(&self, headers: &HeaderMap) {
        if self.method != Method::GET {
            return;
        }
        let at_most = super::connect::RECEIVE_BUFFER as u64;
        let announced = wire::content_length(headers).unwrap_or(at_most);
        self.shared.metrics.count_probe_bytes(announced.min(at_most));
    }
}

/// A short answer as it was before it was encoded.
async fn plain(response: Response<Incoming>, limit: usize) -> Response<BodyStream> {
    let (mut head, answer) = plain_prefix(response, limit).await;
    head.headers.insert(header::CONTENT_LENGTH, HeaderValue::from(answer.len()));
    Response::from_parts(head, crate::body::full(answer))
}

/// How an attempt went, as far as the next one cares.
#[derive(Debug, Clone, Copy)]
enum Outcome {
    Answered,
    ServerError,
    NotConnected,
    Lost,
}

impl Outcome {
    fn is_retriable(self, is_safe: bool) -> bool {
        match self {
            Self::Answered => false,
            Self::NotConnected => true,
            Self::ServerError | Self::Lost => is_safe,
        }
    }
}

/// A push, or a slow listing, may stand still this long: what registries' own front ends allow.
const PASS_IDLE: Duration = Duration::from_secs(900);

/// A manifest's or blob's body that stands still this long is broken off.
const READ_IDLE: Duration = Duration::from_secs(60);

/// Why a request got no answer from its registry.
#[derive(Debug, thiserror::Error)]
pub enum ForwardError {
    /// There is no way to the registry.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// No endpoint answered.
    #[error("{upstream} at {endpoint} {cause}")]
    Endpoint {
        /// The registry.
        upstream: RegistryHost,
        /// The URL of the endpoint that failed last.
        endpoint: String,
        /// How.
        cause: EndpointFailure,
    },
}

impl ForwardError {
    /// What a client is answered with.
    pub(crate) fn status(&self) -> u16 {
        match self {
            Self::Upstream(UpstreamError::Unknown { .. }) => 404,
            Self::Upstream(UpstreamError::Unusable { .. }) => 502,
            Self::Endpoint { cause, .. } => cause.status(),
        }
    }

    /// For how long the registry wants to be left alone.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        if let Self::Endpoint { cause, .. } = self { cause.retry_after() } else { None }
    }
}
