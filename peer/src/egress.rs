//! How a request reaches a registry: through a seed. A seed's own go straight out.

use std::sync::Arc;

use flotilla_daemon::settings::Receiver;
use flotilla_proto::wire::peer::Credential;
use flotilla_proto::{Digest, PeerId, RegistryHost, rendezvous_order};
use http::{Method, Request, Response};

use crate::body;
use crate::seed::Seed;
use crate::source::{BodyStream, ForwardError, Purpose, ReadCredential};
use crate::transport::{CallError, Offered, Transport};

/// The way out of the region.
pub(crate) struct Egress {
    me: PeerId,
    transport: Transport,
    settings: Receiver,
    seed: Option<Arc<Seed>>,
}

impl Egress {
    pub(crate) fn new(me: PeerId, transport: Transport, settings: Receiver, seed: Option<Arc<Seed>>) -> Self {
        Self { me, transport, settings, seed }
    }

    /// Sends a client's request to a registry. `key` picks the seed, so that what belongs
    /// together goes through one: its connections to the registry are warm.
    ///
    /// A read is tried through the next seed where one cannot be reached; anything else is
    /// sent once.
    ///
    /// # Errors
    ///
    /// If no seed could be reached, or the one that was could not reach the registry.
    pub(crate) async fn forward(
        &self,
        key: &str,
        upstream: &RegistryHost,
        request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Result<Response<BodyStream>, EgressError> {
        if let Some(seed) = &self.seed {
            return Ok(seed.forward(upstream, request, purpose).await?);
        }
        let (head, body) = request.into_parts();
        let repeatable = matches!(head.method, Method::GET | Method::HEAD);
        let mut body = Some(body);
        let mut failure = EgressError::NoSeed;
        for seed in self.seeds(key.as_bytes()) {
            let body = if repeatable { body::empty() } else { body.take().expect("sent once") };
            let request = Request::from_parts(head.clone(), body);
            match self.transport.forward(&seed, request, upstream.as_str(), purpose).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_seeds_own() && repeatable => {
                    failure = EgressError::Seed { seed, error }
                }
                Err(error) => return Err(EgressError::Seed { seed, error }),
            }
        }
        Err(failure)
    }

    /// Asks the digest's home seed, or the next one, whether the registry holds the blob in
    /// the credential's repository.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub(crate) async fn confirm(
        &self,
        digest: Digest,
        credential: &ReadCredential,
    ) -> Result<Offered, EgressError> {
        let mut failure = EgressError::NoSeed;
        for seed in self.seeds(digest.as_bytes()) {
            match self.offer(&seed, digest, credential).await {
                Err(EgressError::Seed { seed, error }) if error.is_seeds_own() => {
                    failure = EgressError::Seed { seed, error };
                }
                said => return said,
            }
        }
        Err(failure)
    }

    /// Hands one seed a client's credential for a blob, and waits for what the registry says.
    ///
    /// # Errors
    ///
    /// If the seed cannot be reached or could not reach the registry.
    pub(crate) async fn offer(
        &self,
        seed: &PeerId,
        digest: Digest,
        credential: &ReadCredential,
    ) -> Result<Offered, EgressError> {
        if let Some(local) = self.seed.as_ref().filter(|_| *seed == self.me) {
            return Ok(local.confirm(digest, credential.clone()).await?);
        }
        let message = Credential {
            digest: digest.into(),
            upstream: credential.upstream.to_string(),
            repository: credential.repository.to_string(),
            authorization: credential.authorization.expose().clone(),
        };
        let said = self.transport.offer(seed, message).await;
        said.map_err(|error| EgressError::Seed { seed: seed.clone(), error })
    }

    /// The region's seeds, the home seed of `key` first.
    fn seeds(&self, key: &[u8]) -> Vec<PeerId> {
        let settings = self.settings.borrow().clone();
        for seed in &settings.seeds {
            self.transport.learn(seed.id.clone(), seed.address, true);
        }
        let names = settings.seeds.iter().map(|seed| seed.id.as_str());
        let order = rendezvous_order(key, names);
        order.into_iter().map(|name| name.parse().expect("the name of a seed")).collect()
    }
}

/// Why no answer of a registry was had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EgressError {
    #[error("this region has no seed peer")]
    NoSeed,
    #[error("through {seed}: {error}")]
    Seed { seed: PeerId, error: CallError },
    #[error(transparent)]
    Registry(#[from] ForwardError),
}
