//! Where a blob may be read: each credential that was offered, for its registry and repository, is a place of
//! its own, then the seed's own account.
//!
//! A reading stays with one place while that gives bytes. A place that fails is left alone for a while and
//! another has its turn; one that refuses, or has failed often enough, is spent. The reading goes on while any
//! place is left, and each client is told of its own place alone.

use std::sync::Arc;
use std::time::Duration;

use flotilla_proto::{Authorization, CredentialHash, RegistryHost, RepositoryName};
use tokio::time::{Instant, sleep_until};

use super::Shared;
use super::attempts::{Attempts, Enough, NO_BYTE_LIMIT, Waiting};
use super::credential::{Credentials, PlaceFailure, ReadCredential, RegistryAnswer, Verdict};
use super::endpoint::EndpointClient;
use super::failure::EndpointFailure;
use super::order::ReadError;
use super::upstream::{Route, UpstreamError};

/// The places of one reading and what became of them.
pub(super) struct Roster<'a> {
    shared: &'a Shared,
    credentials: Credentials,
    /// In the order in which they were offered; robots last.
    places: Vec<Place>,
    /// How many of the credentials were looked at.
    known: usize,
    /// Which of them is read from.
    current: Option<usize>,
    /// Bytes that forgive a place its failures.
    forgiving_bytes: u64,
    /// Whether any byte of the blob came.
    has_begun: bool,
    /// What the last place that is spent said, or failed by.
    last_word: Option<ReadError>,
}

struct Place {
    candidate: Arc<Candidate>,
    attempts: Attempts,
    is_spent: bool,
}

/// A credential with the way to its registry.
pub(super) struct Candidate {
    pub(super) upstream: RegistryHost,
    pub(super) repository: RepositoryName,
    pub(super) authorization: Authorization,
    route: Arc<Route>,
    is_robot: bool,
}

/// Who a registry served a blob to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadBy {
    /// The registry.
    pub upstream: RegistryHost,
    /// The repository that holds the blob.
    pub repository: RepositoryName,
    /// The client's credential; `None` for the seed's own account, which authorises no client.
    pub client: Option<CredentialHash>,
}

impl Candidate {
    /// Its registry's endpoints in the order to be asked.
    pub(super) fn endpoints(&self) -> Vec<Arc<EndpointClient>> {
        self.route.in_order(self.repository.as_str())
    }

    pub(super) fn read_by(&self) -> ReadBy {
        ReadBy {
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
            client: (!self.is_robot).then(|| self.authorization.hash()),
        }
    }

    fn credential(&self) -> ReadCredential {
        ReadCredential {
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
            authorization: self.authorization.clone(),
        }
    }

    fn is_in(&self, upstream: &RegistryHost, repository: &RepositoryName) -> bool {
        self.upstream == *upstream && self.repository == *repository
    }

    /// Whether every endpoint of it may have sent wrong bytes lately.
    fn is_suspect(&self) -> bool {
        self.endpoints().iter().all(|endpoint| endpoint.is_suspect())
    }
}

/// The order of places: the least is asked first.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    waits_until: Option<Instant>,
    is_suspect: bool,
    failures: u32,
    is_another: bool,
    index: usize,
}

impl<'a> Roster<'a> {
    pub(super) fn new(shared: &'a Shared, credentials: Credentials, forgiving_bytes: u64) -> Self {
        Self {
            shared,
            credentials,
            places: Vec::new(),
            known: 0,
            current: None,
            forgiving_bytes,
            has_begun: false,
            last_word: None,
        }
    }

    /// The place to read from, when it may be asked: the same one while it gives bytes.
    pub(super) async fn current(&mut self) -> Result<Arc<Candidate>, ReadError> {
        loop {
            self.take_in_offers();
            let best = match self.best() {
                Some(best) => best,
                None if self.take_in_robot().await => continue,
                None => return Err(self.why_none()),
            };
            let place = &mut self.places[best];
            let Some(until) = place.attempts.not_before() else {
                place.attempts.asked();
                self.current = Some(best);
                return Ok(Arc::clone(&place.candidate));
            };
            // Nobody else is left now; a credential that comes meanwhile need not wait.
            tokio::select! {
                () = sleep_until(until) => {}
                () = self.credentials.more_than(self.known) => {}
            }
        }
    }

    /// Every credential that came since, in its place.
    fn take_in_offers(&mut self) {
        let (offered, known) = self.credentials.live_from(self.known);
        self.known = known;
        for credential in offered {
            let Ok(route) = self.route(&credential.upstream) else { continue };
            let ReadCredential { upstream, repository, authorization } = credential;
            self.add(Candidate { upstream, repository, authorization, route, is_robot: false });
        }
    }

    fn add(&mut self, candidate: Candidate) {
        let attempts = Attempts::new(self.forgiving_bytes);
        self.places.push(Place { candidate: Arc::new(candidate), attempts, is_spent: false });
    }

    fn best(&self) -> Option<usize> {
        let left = self.places.iter().enumerate().filter(|(_, place)| !place.is_spent);
        left.min_by_key(|(index, place)| Rank {
            waits_until: place.attempts.not_before(),
            is_suspect: place.candidate.is_suspect(),
            failures: place.attempts.failures(),
            is_another: self.current != Some(*index),
            index: *index,
        })
        .map(|(index, _)| index)
    }

    /// Adds the seed's own account for a repository that has none yet. Whether it did.
    async fn take_in_robot(&mut self) -> bool {
        for (upstream, repository) in self.credentials.repositories() {
            let Some(robot) = self.shared.config.robots.get(&upstream) else { continue };
            let Ok(route) = self.route(&upstream) else { continue };
            let known =
                |place: &Place| place.candidate.is_robot && place.candidate.is_in(&upstream, &repository);
            if self.places.iter().any(known) {
                continue;
            }
            let (authorization, is_readable) = match robot.authorization().await {
                Ok(authorization) => (authorization, true),
                Err(error) => {
                    let file = robot.password_file.display();
                    tracing::warn!(%upstream, %file, %error, "read the robot account's password");
                    (Authorization::ANONYMOUS, false)
                }
            };
            self.add(Candidate { upstream, repository, authorization, route, is_robot: true });
            let added = self.places.last_mut().expect("one was just added");
            added.is_spent = !is_readable;
            if is_readable {
                return true;
            }
        }
        false
    }

    fn why_none(&mut self) -> ReadError {
        if let Some(word) = self.last_word.take() {
            return word;
        }
        let unusable = self.credentials.repositories().iter().find_map(|(host, _)| self.route(host).err());
        unusable.map_or(ReadError::NoCredential, ReadError::Upstream)
    }

    fn route(&self, upstream: &RegistryHost) -> Result<Arc<Route>, UpstreamError> {
        self.shared.routes.load().find(upstream)
    }

    fn reading(&mut self) -> &mut Place {
        let current = self.current.expect("a place was chosen");
        &mut self.places[current]
    }

    /// How long a place may give no byte.
    fn budget(&self) -> Duration {
        if self.has_begun { self.shared.config.give_up_after } else { NO_BYTE_LIMIT }
    }

    /// The endpoint of the current place to ask next.
    pub(super) fn endpoint(&mut self) -> Arc<EndpointClient> {
        let place = self.reading();
        place.attempts.endpoint(&place.candidate)
    }

    /// How long the current place's header may take in all, which was asked for `asked_for` ago.
    pub(super) fn share(&mut self, limit: Duration, asked_for: Duration) -> Duration {
        self.take_in_offers();
        let (budget, is_rivalled) = (self.budget(), self.is_rivalled());
        let place = self.reading();
        place.attempts.share(&place.candidate, Waiting { limit, asked_for, budget, is_rivalled })
    }

    /// Whether another repository, or registry, may give the blob and is not known to fail more often.
    fn is_rivalled(&self) -> bool {
        let Some(current) = self.current.map(|current| &self.places[current]) else { return false };
        let is_rival = |place: &Place| {
            let Candidate { upstream, repository, .. } = &*current.candidate;
            let is_elsewhere = !place.candidate.is_in(upstream, repository);
            let is_as_good = place.attempts.failures() <= current.attempts.failures();
            !place.is_spent && is_elsewhere && is_as_good && place.attempts.not_before().is_none()
        };
        self.places.iter().any(is_rival)
    }

    /// Returns when a credential was offered.
    pub(super) async fn offered(&self) {
        self.credentials.more_than(self.known).await;
    }

    /// How long there may be no byte from the current place.
    pub(super) fn time_left(&mut self) -> Duration {
        let budget = self.budget();
        self.reading().attempts.time_left(budget)
    }

    /// Bytes came from the current place, of which so many were needed.
    pub(super) fn progressed(&mut self, needed_bytes: u64) {
        self.has_begun = true;
        self.reading().attempts.progressed(needed_bytes);
        if self.places.len() > 1 {
            let current = self.current;
            let others = self.places.iter_mut().enumerate().filter(|(index, _)| Some(*index) != current);
            others.for_each(|(_, place)| place.attempts.not_waited_for());
        }
    }

    /// Time passed for which no registry is to blame.
    pub(super) fn resumed(&mut self) {
        if self.current.is_some() {
            self.reading().attempts.resumed();
        }
    }

    /// The registry served the current place's credential.
    pub(super) fn accepted(&mut self) {
        let candidate = Arc::clone(&self.reading().candidate);
        if !candidate.is_robot {
            self.credentials.judge(&candidate.credential(), &Verdict::Accepted);
        }
    }

    /// The registry refused the current place's credential: the next one's turn.
    pub(super) fn refused(&mut self, answer: RegistryAnswer) {
        let place = self.reading();
        place.is_spent = true;
        let candidate = Arc::clone(&place.candidate);
        let (upstream, repository, status) = (&candidate.upstream, &candidate.repository, answer.status);
        if candidate.is_robot {
            tracing::warn!(%upstream, %repository, %status, "the registry refuses the seed's own account");
            return;
        }
        tracing::debug!(%upstream, %repository, %status, "the registry refuses a client's credential");
        let answer = Arc::new(answer);
        self.credentials.judge(&candidate.credential(), &Verdict::Refused(Arc::clone(&answer)));
        let (upstream, repository) = (upstream.clone(), repository.clone());
        self.last_word = Some(ReadError::Refused { upstream, repository, answer });
    }

    /// The current place let the reading down: it is left alone for a while, or is spent and its clients told.
    pub(super) fn failed(&mut self, endpoint: &EndpointClient, failure: EndpointFailure) {
        let budget = self.budget();
        let place = self.reading();
        match place.attempts.failed(&place.candidate, endpoint, &failure, budget) {
            Err(Enough) => self.spend(endpoint.name(), failure),
            Ok(pause) => self.spare(pause),
        }
    }

    /// The current place is left alone for so long, and so are other clients' credentials for the same
    /// repository: their failures are their own, but many of them shall not hurry a registry in trouble.
    fn spare(&mut self, pause: Duration) {
        let Candidate { upstream, repository, .. } = &*Arc::clone(&self.reading().candidate);
        let siblings = self.places.iter_mut().filter(|place| place.candidate.is_in(upstream, repository));
        siblings.for_each(|place| place.attempts.wait(pause));
    }

    /// The current place gives no more of this blob, for that reason.
    pub(super) fn spend(&mut self, endpoint: &str, cause: EndpointFailure) {
        let place = self.reading();
        place.is_spent = true;
        let candidate = Arc::clone(&place.candidate);
        let (upstream, endpoint) = (candidate.upstream.clone(), endpoint.to_owned());
        if let EndpointFailure::WrongSize { announced, .. } = cause {
            // It holds the blob: a manifest was wrong about its size, if no other place knows better.
            self.last_word = Some(ReadError::OtherSize { upstream, endpoint, size: announced });
            return;
        }
        let failure = PlaceFailure { endpoint: endpoint.clone(), cause: cause.clone() };
        if !candidate.is_robot {
            self.credentials.judge(&candidate.credential(), &Verdict::Failed(Arc::new(failure)));
        }
        if !matches!(self.last_word, Some(ReadError::OtherSize { .. })) {
            self.last_word = Some(ReadError::Endpoint { upstream, endpoint, cause });
        }
    }

    /// All that was read came from the current place, through these endpoints, and is not the blob.
    pub(super) fn sent_wrong_bytes(&mut self, endpoints: &[String]) {
        self.spend(&endpoints.join(" or "), EndpointFailure::WrongBytes);
    }
}
