//! Where an endpoint's tokens come from: what its `/v2/` says to somebody without a credential.
//!
//! Learned from the registry itself and kept a while; never from a client, which would make a
//! seed dial, and show a password to, whatever a client likes. Only `/v2/` without a credential
//! tells it: after a bad one, Harbor answers with a challenge that names no service.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_daemon::registry_auth::BearerChallenge;
use http::uri::PathAndQuery;
use http::{Request, StatusCode, header};
use tokio::time::Instant;

use super::body;
use super::credential::RegistryAnswer;
use super::endpoint::{EndpointClient, Place};
use super::failure::EndpointFailure;
use super::metrics::{Metrics, RequestKind};

/// Who issues an endpoint's tokens.
pub(super) enum TokenService {
    /// This service.
    At(BearerChallenge),
    /// Nobody: it wants a Basic credential each time, or none at all.
    None,
}

/// What an endpoint says to somebody without a credential who asks for `/v2/`, and when it was asked.
/// The lock is held for a load or a store.
#[derive(Default)]
pub(super) struct Learned(Mutex<Option<(Instant, RegistryAnswer)>>);

impl Learned {
    fn get(&self, not_older: Duration) -> Option<RegistryAnswer> {
        let learned = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        learned.as_ref().filter(|(at, _)| at.elapsed() < not_older).map(|(_, answer)| answer.clone())
    }

    fn set(&self, answer: &RegistryAnswer) {
        let learned = Some((Instant::now(), answer.clone()));
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }
}

/// Where a client's request for a token goes. `query` is its own, without `service`.
pub(super) async fn place(
    endpoint: &EndpointClient,
    query: &str,
    has_password: bool,
    metrics: &Metrics,
) -> Result<Place, EndpointFailure> {
    let TokenService::At(challenge) = service_of(endpoint, metrics).await? else {
        return Ok(Place { uri: endpoint.uri(base()), is_home: true });
    };
    let realm = challenge.uri(query).ok_or(EndpointFailure::NoToken)?;
    let place = endpoint.place(realm);
    if has_password && !endpoint.may_see_password(&place) {
        return Err(EndpointFailure::ClearTokenService);
    }
    Ok(place)
}

/// Whether a request went to `/v2/` for want of a token service.
pub(super) fn is_base(place: &Place) -> bool {
    place.uri.path() == BASE
}

async fn service_of(endpoint: &EndpointClient, metrics: &Metrics) -> Result<TokenService, EndpointFailure> {
    let answer = base_of(endpoint, metrics).await?;
    let challenge =
        BearerChallenge::find(&answer.headers).filter(|_| answer.status == StatusCode::UNAUTHORIZED);
    Ok(challenge.map_or(TokenService::None, TokenService::At))
}

/// What `/v2/` says without a credential. Every pull begins with that question, and the answer
/// is the same for all: it is kept for [`KEPT`], through an outage longer, without what belongs to one session.
pub(super) async fn base_of(
    endpoint: &EndpointClient,
    metrics: &Metrics,
) -> Result<RegistryAnswer, EndpointFailure> {
    // A registry that hangs would be waited for each time, and longer than a client has.
    let kept_for = if endpoint.is_down() { KEPT_IN_AN_OUTAGE } else { KEPT };
    if let Some(known) = endpoint.learned.get(kept_for) {
        return Ok(known);
    }
    match learn(endpoint, metrics).await {
        // What it said before leads to whom can say what is the matter, or to what it granted.
        Err(failure) => endpoint.learned.get(KEPT_IN_AN_OUTAGE).ok_or(failure),
        learned => learned,
    }
}

/// Asks it of the endpoint, and keeps the answer.
pub(super) async fn learn(
    endpoint: &EndpointClient,
    metrics: &Metrics,
) -> Result<RegistryAnswer, EndpointFailure> {
    let mut request = Request::new(body::empty());
    *request.headers_mut() = endpoint.own_headers();
    metrics.count_request(RequestKind::Base);
    let place = Place { uri: endpoint.uri(base()), is_home: true };
    let answer = endpoint.send(place, request).await?;
    if answer.status() != StatusCode::UNAUTHORIZED && !answer.status().is_success() {
        return Err(EndpointFailure::Status(answer.status()));
    }
    let mut answer = RegistryAnswer::read(answer).await;
    answer.headers.remove(header::SET_COOKIE);
    answer.headers.remove(header::DATE);
    endpoint.learned.set(&answer);
    Ok(answer)
}

fn base() -> PathAndQuery {
    PathAndQuery::from_static(BASE)
}

pub(super) const BASE: &str = "/v2/";

/// A registry that moves its token service says so within this time.
const KEPT: Duration = Duration::from_secs(300);

/// As long as grants may be prolonged.
const KEPT_IN_AN_OUTAGE: Duration = Duration::from_secs(24 * 3600);
