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
use super::blob_request::{MAX_REDIRECTS, is_redirect};
use super::body::{self, BodyStream, Outgoing, Relayed};
use super::endpoint::{EndpointClient, Place};
use super::failure::EndpointFailure;
use super::header as wire;
use super::metrics::{FailureReason, Reader, RequestKind};
use super::token_service;
use super::upstream::UpstreamError;
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
        let (upstream, body) = (upstream.clone(), Outgoing::new(body));
        Self { shared, upstream, purpose, method: parts.method, path, headers, body }
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
            return match outcome {
                Ok(response) => Ok(self.relay(response)),
                Err(cause) => {
                    let endpoint = endpoint.name().to_owned();
                    Err(ForwardError::Endpoint { upstream: self.upstream, endpoint, cause })
                }
            };
        }
    }

    /// What stays at one endpoint: all of a repository, its tokens too.
    fn key(&self) -> String {
        let named = match Resource::of(self.path.path()) {
            Resource::Manifest(repository) | Resource::Blob(repository, _) => Some(repository.to_string()),
            Resource::Other if self.purpose == Purpose::Token => self.path.query().and_then(scoped),
            Resource::Other => None,
        };
        named.unwrap_or_default()
    }

    /// What anybody is told who asks for `/v2/` without a credential.
    async fn base(&self, endpoints: &[Arc<EndpointClient>]) -> Option<Response<BodyStream>> {
        let is_anonymous = !self.headers.contains_key(header::AUTHORIZATION);
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
    ) -> Result<Response<Incoming>, EndpointFailure> {
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

    /// Asks one endpoint. Redirects of a blob are followed, for what they lead to is not every client's
    /// to reach; `Authorization` stays behind for good where one leads to a stranger. One to the blob
    /// in another repository, as of Harbor's `library/`, is the client's to follow: that is where
    /// its manifest has come from, and the grant.
    async fn send(&self, endpoint: &EndpointClient) -> Result<Response<Incoming>, EndpointFailure> {
        let mut place = self.place(endpoint).await?;
        let mut headers = self.headers.clone();
        let is_blob = self.is_blob_read();
        for _ in 0..=MAX_REDIRECTS {
            let lent = self.body.lend().expect("an endpoint is tried only while the body is unsent");
            let mut request = Request::new(lent);
            *request.method_mut() = self.method.clone();
            *request.headers_mut() = headers.clone();
            self.shared.metrics.count_request(self.kind());
            let response = endpoint.send(place.clone(), request).await?;
            if !is_blob || !is_redirect(response.status()) {
                return self.verdict(response, &place);
            }
            let next = endpoint.follow(&place.uri, response.headers())?;
            if self.leads_to_another_repository(&next) {
                return self.verdict(response, &place);
            }
            place = next;
            if !place.is_home {
                headers.remove(header::AUTHORIZATION);
                headers.remove(header::COOKIE);
            }
        }
        Err(EndpointFailure::TooManyRedirects { limit: MAX_REDIRECTS })
    }

    async fn place(&self, endpoint: &EndpointClient) -> Result<Place, EndpointFailure> {
        if self.purpose != Purpose::Token {
            return Ok(Place { uri: endpoint.uri(self.path.clone()), is_home: true });
        }
        let has_password = self.headers.contains_key(header::AUTHORIZATION);
        let query = self.path.query().unwrap_or_default();
        token_service::place(endpoint, query, has_password, &self.shared.metrics).await
    }

    /// A stranger's 4xx (an expired signature, say) is no verdict on the credential.
    fn verdict(
        &self,
        mut response: Response<Incoming>,
        place: &Place,
    ) -> Result<Response<Incoming>, EndpointFailure> {
        let status = response.status();
        let is_no_range = status == StatusCode::RANGE_NOT_SATISFIABLE;
        if !place.is_home && status.is_client_error() && !is_no_range && self.purpose != Purpose::Token {
            return Err(EndpointFailure::Status(status));
        }
        if self.purpose == Purpose::Token && status.is_success() && token_service::is_base(place) {
            response.headers_mut().insert(NO_TOKEN_SERVICE, HeaderValue::from_static("1"));
        }
        Ok(response)
    }

    fn leads_to_another_repository(&self, next: &Place) -> bool {
        match (Resource::of(self.path.path()), Resource::of(next.uri.path())) {
            (Resource::Blob(here, _), Resource::Blob(there, _)) => next.is_home && here != there,
            _ => false,
        }
    }

    fn is_blob_read(&self) -> bool {
        self.is_safe() && matches!(Resource::of(self.path.path()), Resource::Blob(..))
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
        outcome: &Result<Response<Incoming>, EndpointFailure>,
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

    fn relay(&self, response: Response<Incoming>) -> Response<BodyStream> {
        let (mut parts, body) = response.into_parts();
        wire::strip_hop_by_hop(&mut parts.headers);
        let body = match self.purpose {
            Purpose::Probe if parts.status.is_success() => {
                self.count_probe(&parts.headers);
                body::empty()
            }
            Purpose::Probe | Purpose::Pass | Purpose::Token => {
                let has_blob = self.method == Method::GET && self.is_blob_read();
                let counter = (has_blob && parts.status.is_success())
                    .then(|| self.shared.metrics.blob_bytes(Reader::Client));
                let idle = if self.is_bounded() { READ_IDLE } else { PASS_IDLE };
                Relayed::new(body, idle, counter).boxed_unsync()
            }
        };
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

/// The first repository that a token's scope names.
fn scoped(query: &str) -> Option<String> {
    let (_, scope) = form_urlencoded::parse(query.as_bytes()).find(|(name, _)| name == "scope")?;
    let (name, _actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
    Some(name.to_owned())
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
