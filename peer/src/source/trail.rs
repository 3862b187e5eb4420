//! Following a read wherever the registry sends it: to its storage, or to another registry that it is a
//! name for.
//!
//! The client's credential stays with the registry it is for. A stranger is told what a read needs and
//! nothing else; one that wants a token of its own is asked for an anonymous one.

use std::collections::HashSet;

use flotilla_daemon::registry_auth::BearerChallenge;
use flotilla_proto::{Authorization, RepositoryName};
use http::header;
use http::uri::Authority;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body::{self, BodyStream};
use super::encoding::plain_prefix;
use super::endpoint::{EndpointClient, Place};
use super::failure::EndpointFailure;
use super::header as wire;
use super::metrics::{Metrics, RequestKind};
use super::token::{Token, TokenCache, TokenKey};
use crate::resource::Resource;

/// One read on its way.
pub(super) struct Trail<'a> {
    pub(super) endpoint: &'a EndpointClient,
    pub(super) tokens: &'a TokenCache,
    pub(super) metrics: &'a Metrics,
    /// As the registry knows it that was asked first.
    pub(super) repository: &'a RepositoryName,
    pub(super) kind: RequestKind,
}

/// Where a read ended.
pub(super) struct Arrived {
    pub(super) response: Response<Incoming>,
    /// Who answered.
    pub(super) place: Place,
    /// Whether every place on the way was the registry itself.
    pub(super) is_trusted: bool,
}

impl Trail<'_> {
    /// Sends what `request` makes to `place`, and on from there. The credential of what it makes goes no
    /// further than the registry. A redirect is not followed to a place that `is_clients` says is the
    /// client's to go to.
    pub(super) async fn follow(
        &self,
        mut place: Place,
        mut request: impl FnMut() -> Request<BodyStream>,
        is_clients: impl Fn(&Place) -> bool,
    ) -> Result<Arrived, EndpointFailure> {
        let mut is_trusted = true;
        let mut asked = HashSet::new();
        let mut redirects = 0;
        loop {
            let mut sent = request();
            if !is_trusted {
                wire::for_stranger(sent.headers_mut());
                if let Some(token) = self.token_of(&place) {
                    sent.headers_mut().insert(header::AUTHORIZATION, token);
                }
            }
            self.metrics.count_request(self.kind);
            let response = self.endpoint.send(place.clone(), sent).await?;
            if is_redirect(response.status()) {
                let next = self.endpoint.follow(&place.uri, response.headers())?;
                if is_clients(&next) {
                    return Ok(Arrived { response, place, is_trusted });
                }
                redirects += 1;
                if redirects > MAX_REDIRECTS {
                    return Err(EndpointFailure::TooManyRedirects { limit: MAX_REDIRECTS });
                }
                place = next;
                is_trusted &= place.is_home;
                continue;
            }
            let wants_token = !is_trusted && response.status() == StatusCode::UNAUTHORIZED;
            if wants_token
                && asked.insert(place.uri.authority().cloned())
                && self.trade(&place, &response).await?
            {
                continue;
            }
            return Ok(Arrived { response, place, is_trusted });
        }
    }

    fn token_of(&self, place: &Place) -> Option<HeaderValue> {
        self.tokens.find(&self.key(place.uri.authority()?))
    }

    fn key(&self, authority: &Authority) -> TokenKey {
        let credential = Authorization::ANONYMOUS.hash();
        TokenKey { endpoint: authority.to_string(), repository: self.repository.clone(), credential }
    }

    /// Gets a stranger's token for anybody, of the service that it names. Whether there is one.
    async fn trade(&self, place: &Place, refusal: &Response<Incoming>) -> Result<bool, EndpointFailure> {
        let Some(authority) = place.uri.authority() else { return Ok(false) };
        let Some(challenge) = BearerChallenge::find(refusal.headers()) else { return Ok(false) };
        let realm = match (&challenge.scope, Resource::of(place.uri.path())) {
            (Some(scope), _) => challenge.scope_uri(scope),
            (None, Resource::Manifest(repository, _) | Resource::Blob(repository, _)) => {
                challenge.pull_uri(&repository)
            }
            (None, Resource::Other) => challenge.pull_uri(self.repository),
        };
        let realm = self.endpoint.led(&place.uri, realm.ok_or(EndpointFailure::NoToken)?)?;
        let mut request = Request::new(body::empty());
        *request.headers_mut() = self.endpoint.own_headers();
        self.metrics.count_request(RequestKind::Token);
        let response = self.endpoint.send(realm, request).await?;
        if response.status() != StatusCode::OK {
            return Ok(false);
        }
        let (_, answer) = plain_prefix(response, MAX_TOKEN_ANSWER).await;
        let Some(token) = Token::parse(&answer, Instant::now()) else { return Ok(false) };
        self.tokens.forget(&self.key(authority));
        self.tokens.keep(self.key(authority), token);
        Ok(true)
    }
}

/// Whether a status with a `Location` sends a read elsewhere.
fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Redirects followed for one request.
const MAX_REDIRECTS: u32 = 5;
/// A token service's answer beyond this is cut, and then does not parse.
pub(super) const MAX_TOKEN_ANSWER: usize = 64 << 10;
