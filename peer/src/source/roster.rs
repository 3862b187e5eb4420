//! Who reads next: each client's credential in the order they came, then the seed's own account.

use std::collections::HashSet;
use std::sync::Arc;

use flotilla_proto::{Authorization, CredentialHash, RegistryHost, RepositoryName};

use super::Shared;
use super::credential::{Credentials, ReadCredential, RegistryAnswer, Verdict};
use super::endpoint::EndpointClient;
use super::order::ReadError;
use super::upstream::{Route, UpstreamError};

/// The credentials of one reading and what became of them.
pub(super) struct Roster<'a> {
    shared: &'a Shared,
    credentials: Credentials,
    current: Option<Arc<Candidate>>,
    /// Robots that were refused or have no password.
    spent_robots: HashSet<(RegistryHost, RepositoryName)>,
    last_refusal: Option<ReadError>,
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
}

impl<'a> Roster<'a> {
    pub(super) fn new(shared: &'a Shared, credentials: Credentials) -> Self {
        Self { shared, credentials, current: None, spent_robots: HashSet::new(), last_refusal: None }
    }

    /// The credential to read with: the same one until it is refused.
    pub(super) async fn current(&mut self) -> Result<Arc<Candidate>, ReadError> {
        if let Some(current) = &self.current {
            return Ok(Arc::clone(current));
        }
        let next = match self.next_client() {
            Some(client) => client,
            None => self.next_robot().await.ok_or_else(|| self.why_none())?,
        };
        Ok(Arc::clone(self.current.insert(Arc::new(next))))
    }

    fn next_client(&self) -> Option<Candidate> {
        let credential =
            self.credentials.first_live(|credential| self.route(&credential.upstream).is_ok())?;
        let ReadCredential { upstream, repository, authorization } = credential;
        let route = self.route(&upstream).ok()?;
        Some(Candidate { upstream, repository, authorization, route, is_robot: false })
    }

    async fn next_robot(&mut self) -> Option<Candidate> {
        for (upstream, repository) in self.credentials.repositories() {
            let Some(robot) = self.shared.config.robots.get(&upstream) else { continue };
            let Ok(route) = self.route(&upstream) else { continue };
            if !self.spent_robots.insert((upstream.clone(), repository.clone())) {
                continue;
            }
            match robot.authorization().await {
                Ok(authorization) => {
                    return Some(Candidate { upstream, repository, authorization, route, is_robot: true });
                }
                Err(error) => {
                    let file = robot.password_file.display();
                    tracing::warn!(%upstream, %file, %error, "read the robot account's password");
                }
            }
        }
        None
    }

    fn why_none(&mut self) -> ReadError {
        if let Some(refusal) = self.last_refusal.take() {
            return refusal;
        }
        let unusable = self.credentials.repositories().iter().find_map(|(host, _)| self.route(host).err());
        unusable.map_or(ReadError::NoCredential, ReadError::Upstream)
    }

    fn route(&self, upstream: &RegistryHost) -> Result<Arc<Route>, UpstreamError> {
        self.shared.routes.load().find(upstream)
    }

    /// The registry served this credential.
    pub(super) fn accepted(&self, candidate: &Candidate) {
        if !candidate.is_robot {
            self.credentials.judge(&candidate.credential(), &Verdict::Accepted);
        }
    }

    /// The registry refused this credential: the next one's turn.
    pub(super) fn refused(&mut self, candidate: &Candidate, answer: RegistryAnswer) {
        self.current = None;
        let (upstream, repository, status) = (&candidate.upstream, &candidate.repository, answer.status);
        if candidate.is_robot {
            tracing::warn!(%upstream, %repository, %status, "the registry refuses the seed's own account");
            return;
        }
        tracing::debug!(%upstream, %repository, %status, "the registry refuses a client's credential");
        let answer = Arc::new(answer);
        self.credentials.judge(&candidate.credential(), &Verdict::Refused(Arc::clone(&answer)));
        let (upstream, repository) = (upstream.clone(), repository.clone());
        self.last_refusal = Some(ReadError::Refused { upstream, repository, answer });
    }
}
