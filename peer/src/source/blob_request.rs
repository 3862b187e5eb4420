//! One GET of a blob at one endpoint with one credential: redirects followed, a token fetched if the
//! registry wants one, the answer sorted into content, refusal or failure.

use std::ops::Range;

use flotilla_daemon::registry_auth::BearerChallenge;
use flotilla_proto::{Authorization, Digest, RepositoryName};
use http::header;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::body;
use super::credential::RegistryAnswer;
use super::encoding::plain_prefix;
use super::endpoint::{EndpointClient, Place};
use super::failure::EndpointFailure;
use super::metrics::{Metrics, RequestKind};
use super::token::{Token, TokenCache, TokenKey};
use super::trail::{MAX_TOKEN_ANSWER, Trail};

/// What is asked of which endpoint.
pub(super) struct BlobRequest<'a> {
    pub(super) endpoint: &'a EndpointClient,
    pub(super) tokens: &'a TokenCache,
    pub(super) metrics: &'a Metrics,
    pub(super) repository: &'a RepositoryName,
    pub(super) digest: Digest,
    pub(super) authorization: &'a Authorization,
    /// The whole blob where there is none.
    pub(super) range: Option<Range<u64>>,
}

/// What an endpoint that works says.
pub(super) enum Answer {
    /// 200 or 206 with an unread body.
    Content(Response<Incoming>),
    /// The credential may not read this.
    Refused(RegistryAnswer),
}

impl BlobRequest<'_> {
    /// Asks, with a token where the registry wants one. The caller bounds the time.
    ///
    /// A client's own Bearer token is used as it is. An anonymous or Basic credential is first used
    /// directly, as Harbor's robots and many registries like it, and traded for a token when the 401
    /// names a token service. A kept token that is refused is thrown away and the trade done once more
    /// from the start: what a registry answers to a stale token need not name the token service.
    pub(super) async fn send(&self) -> Result<Answer, EndpointFailure> {
        let key = self.token_key();
        if let Some(token) = self.tokens.find(&key) {
            match self.get(Some(&token)).await? {
                Answer::Refused(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                    self.tokens.forget(&key);
                }
                answer => return Ok(answer),
            }
        }
        let direct = match self.get(self.credential_header().as_ref()).await? {
            Answer::Refused(answer) if answer.status == StatusCode::UNAUTHORIZED => answer,
            answer => return Ok(answer),
        };
        let challenge = match self.authorization.scheme() {
            "anonymous" | "basic" => BearerChallenge::find(&direct.headers),
            _ => None,
        };
        let Some(challenge) = challenge else { return Ok(Answer::Refused(direct)) };
        let token = match self.trade(&challenge).await? {
            Trade::Token(token) => token,
            Trade::Refused => return Ok(Answer::Refused(direct)),
        };
        match self.get(Some(token.header())).await? {
            // The first 401 is what the client would have got for its own header, with the
            // challenge it needs to log in.
            Answer::Refused(answer) if answer.status == StatusCode::UNAUTHORIZED => {
                Ok(Answer::Refused(direct))
            }
            answer => {
                self.tokens.keep(key, token);
                Ok(answer)
            }
        }
    }

    fn token_key(&self) -> TokenKey {
        TokenKey {
            endpoint: self.endpoint.name().to_owned(),
            repository: self.repository.clone(),
            credential: self.authorization.hash(),
        }
    }

    fn credential_header(&self) -> Option<HeaderValue> {
        if self.authorization.is_anonymous() {
            return None;
        }
        // A value that is no legal header is no credential; the registry says so better than we can.
        let mut header = HeaderValue::from_maybe_shared(self.authorization.expose().clone()).ok()?;
        header.set_sensitive(true);
        Some(header)
    }

    /// GETs the blob, wherever the registry sends the read.
    async fn get(&self, authorization: Option<&HeaderValue>) -> Result<Answer, EndpointFailure> {
        let path = format!("/v2/{}/blobs/{}", self.repository.as_str(), self.digest);
        let path = path.parse().expect("names and digests are legal in a path");
        let place = Place { uri: self.endpoint.uri(path), is_home: true };
        let trail = Trail {
            endpoint: self.endpoint,
            tokens: self.tokens,
            metrics: self.metrics,
            repository: self.repository,
            kind: RequestKind::Blob,
        };
        let arrived = trail.follow(place, || self.request(authorization), |_| false).await?;
        judge(arrived.response, arrived.is_trusted).await
    }

    fn request(&self, authorization: Option<&HeaderValue>) -> Request<body::BodyStream> {
        let mut request = Request::new(body::empty());
        let headers = request.headers_mut();
        *headers = self.endpoint.own_headers();
        if let Some(range) = &self.range {
            headers.insert(header::RANGE, super::header::range(range));
        }
        if let Some(authorization) = authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// Asks the challenge's token service. Its redirects are not followed: they would carry a password.
    async fn trade(&self, challenge: &BearerChallenge) -> Result<Trade, EndpointFailure> {
        let realm = challenge.pull_uri(self.repository).ok_or(EndpointFailure::NoToken)?;
        let place = self.endpoint.leads(realm)?;
        let mut request =
            Request::builder().method(Method::GET).body(body::empty()).expect("it has no parts");
        *request.headers_mut() = self.endpoint.own_headers();
        if let Some(password) = self.credential_header().filter(|_| self.endpoint.may_see_password(&place)) {
            request.headers_mut().insert(header::AUTHORIZATION, password);
        }
        self.metrics.count_request(RequestKind::Token);
        let response = self.endpoint.send(place, request).await?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => return Ok(Trade::Refused),
            _ => return Err(EndpointFailure::of_answer(&response)),
        }
        let (_, answer) = plain_prefix(response, MAX_TOKEN_ANSWER).await;
        Token::parse(&answer, Instant::now()).map(Trade::Token).ok_or(EndpointFailure::NoToken)
    }
}

enum Trade {
    Token(Token),
    Refused,
}

/// Sorts an answer. A stranger's 4xx (an expired signature, say) is no verdict on the credential.
async fn judge(response: Response<Incoming>, is_registry: bool) -> Result<Answer, EndpointFailure> {
    match response.status() {
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => Ok(Answer::Content(response)),
        StatusCode::TOO_MANY_REQUESTS => Err(EndpointFailure::of_answer(&response)),
        // Its body is never read: some registries announce a length that they do not send.
        StatusCode::RANGE_NOT_SATISFIABLE => Err(EndpointFailure::WrongRange),
        status if status.is_client_error() && is_registry => {
            Ok(Answer::Refused(RegistryAnswer::read(response).await))
        }
        _ => Err(EndpointFailure::of_answer(&response)),
    }
}
