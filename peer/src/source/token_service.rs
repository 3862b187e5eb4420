//! Where an endpoint's tokens come from: what its `/v2/` says to somebody without a credential.
//!
//! Learned from the registry itself and kept a while; never from a client, which would make a
//! seed dial, and show a password to, whatever a client likes. A challenge belongs to what it was the
//! answer for: a repository may have a service of its own, behind a `/v2/` that is open to all. Where none
//! came by, `/v2/` is asked without a credential, and then the repository: after a bad one, Harbor answers
//! with a challenge that names no service.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use flotilla_daemon::registry_auth::BearerChallenge;
use flotilla_proto::RepositoryName;
use http::header::{self, HeaderMap};
use http::uri::PathAndQuery;
use http::{Request, StatusCode};
use tokio::time::Instant;

use super::body;
use super::credential::RegistryAnswer;
use super::endpoint::{EndpointClient, Place};
use super::failure::EndpointFailure;
use super::metrics::{Metrics, RequestKind};
use crate::bare::plain_parameters;

/// Who issues an endpoint's tokens.
pub(super) enum TokenService {
    /// This service.
    At(BearerChallenge),
    /// Nobody: it wants a Basic credential each time, or none at all.
    None,
}

/// What an endpoint said of its token services, and when.
#[derive(Default)]
pub(super) struct Learned {
    /// To somebody without a credential who asked for `/v2/`. Held for a load or a store.
    base: Mutex<Option<(Instant, RegistryAnswer)>>,
    /// To who asked for something of a repository. Bounded by [`MAX_LEARNED`]: at the limit the oldest goes.
    /// Held for one operation.
    by_repository: Mutex<HashMap<RepositoryName, (Instant, BearerChallenge)>>,
}

impl Learned {
    fn get(&self, not_older: Duration) -> Option<RegistryAnswer> {
        let learned = self.base.lock().unwrap_or_else(PoisonError::into_inner);
        learned.as_ref().filter(|(at, _)| at.elapsed() < not_older).map(|(_, answer)| answer.clone())
    }

    fn set(&self, answer: &RegistryAnswer) {
        let learned = Some((Instant::now(), answer.clone()));
        *self.base.lock().unwrap_or_else(PoisonError::into_inner) = learned;
    }

    /// A repository's answer asks for a token, or does not.
    pub(super) fn note(&self, repository: &RepositoryName, headers: &HeaderMap) {
        let Some(challenge) = BearerChallenge::find(headers) else { return };
        let mut learned = self.by_repository.lock().unwrap_or_else(PoisonError::into_inner);
        if learned.len() >= MAX_LEARNED && !learned.contains_key(repository) {
            let oldest = learned.iter().min_by_key(|(_, (at, _))| *at).map(|(name, _)| name.clone());
            learned.remove(&oldest.expect("not empty"));
        }
        learned.insert(repository.clone(), (Instant::now(), challenge));
    }

    fn of(&self, repository: &RepositoryName, not_older: Duration) -> Option<BearerChallenge> {
        let learned = self.by_repository.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, challenge) = learned.get(repository)?;
        (at.elapsed() < not_older).then(|| challenge.clone())
    }
}

/// Where a client's request for a token goes. `query` is its own, without `service`.
pub(super) async fn place(
    endpoint: &EndpointClient,
    query: &str,
    has_password: bool,
    metrics: &Metrics,
) -> Result<Place, EndpointFailure> {
    let TokenService::At(challenge) = service_of(endpoint, scoped(query), metrics).await? else {
        return Ok(Place { uri: endpoint.uri(base()), is_home: true });
    };
    let is_home = endpoint.place(challenge.realm.clone()).is_home;
    let query = if is_home { query.to_owned() } else { plain_parameters(query) };
    let place = endpoint.leads(challenge.uri(&query).ok_or(EndpointFailure::NoToken)?)?;
    if has_password && !endpoint.may_see_password(&place) {
        return Err(EndpointFailure::ClearTokenService);
    }
    Ok(place)
}

/// Whether a request went to `/v2/` for want of a token service.
pub(super) fn is_base(place: &Place) -> bool {
    place.uri.path() == BASE
}

/// The repository that a token's scope names, the first of several.
pub(super) fn scoped(query: &str) -> Option<RepositoryName> {
    let scopes = form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "scope");
    let mut repositories = scopes.flat_map(|(_, scopes)| {
        let each = scopes.split(' ').map(|scope| {
            let (name, _actions) = scope.strip_prefix("repository:")?.rsplit_once(':')?;
            name.parse().ok()
        });
        each.collect::<Vec<Option<RepositoryName>>>()
    });
    repositories.find_map(|repository| repository)
}

async fn service_of(
    endpoint: &EndpointClient,
    repository: Option<RepositoryName>,
    metrics: &Metrics,
) -> Result<TokenService, EndpointFailure> {
    let kept_for = if endpoint.is_down() { KEPT_IN_AN_OUTAGE } else { KEPT };
    if let Some(challenge) = repository.as_ref().and_then(|name| endpoint.learned.of(name, kept_for)) {
        return Ok(TokenService::At(challenge));
    }
    let answer = base_of(endpoint, metrics).await?;
    let challenge = BearerChallenge::find(&answer.headers);
    if let Some(challenge) = challenge.filter(|_| answer.status == StatusCode::UNAUTHORIZED) {
        return Ok(TokenService::At(challenge));
    }
    let (Some(repository), true) = (repository, answer.status.is_success()) else {
        return Ok(TokenService::None);
    };
    ask_repository(endpoint, &repository, metrics).await?;
    let learned = endpoint.learned.of(&repository, KEPT);
    Ok(learned.map_or(TokenService::None, TokenService::At))
}

/// A registry whose `/v2/` is open to all may ask for a token where something is to be had.
async fn ask_repository(
    endpoint: &EndpointClient,
    repository: &RepositoryName,
    metrics: &Metrics,
) -> Result<(), EndpointFailure> {
    let path = format!("/v2/{repository}/tags/list?n=1").parse().expect("a name is legal in a path");
    let mut request = Request::new(body::empty());
    *request.headers_mut() = endpoint.own_headers();
    metrics.count_request(RequestKind::Base);
    let answer = endpoint.send(Place { uri: endpoint.uri(path), is_home: true }, request).await?;
    if answer.status() == StatusCode::UNAUTHORIZED {
        endpoint.learned.note(repository, answer.headers());
    }
    Ok(())
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

/// Repositories whose challenge is kept, of each endpoint.
const MAX_LEARNED: usize = 1024;
