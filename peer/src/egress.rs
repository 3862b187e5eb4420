//! How a request reaches a registry: through a seed. A seed's own go straight out.

use std::sync::Arc;
use std::time::{Duration, Instant};

use dashmap::DashMap;
use flotilla_daemon::settings::Receiver;
use flotilla_proto::wire::peer::Credential;
use flotilla_proto::{Digest, Layout, PeerId, RegistryHost, rendezvous_order};
use futures_util::FutureExt as _;
use futures_util::future::select_ok;
use http::{HeaderValue, Method, Request, Response};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::body;
use crate::delivering::DeliveryQuestion;
use crate::seed::{Moment, Seed};
use crate::seed_watch::Silence;
use crate::source::{BodyStream, ForwardError, Purpose, ReadCredential};
use crate::transport::{CallError, Delivered, Given, Offered, Transport, credential_to_wire};

/// The way out of the region.
pub(crate) struct Egress {
    me: PeerId,
    transport: Transport,
    settings: Receiver,
    seed: Option<Arc<Seed>>,
    /// Seeds that lately gave no answer come last, until then.
    resting_until: DashMap<PeerId, Instant>,
    /// Why no seed answers, once that is known.
    silence: watch::Receiver<Silence>,
}

impl Egress {
    pub(crate) fn new(
        me: PeerId,
        transport: Transport,
        settings: Receiver,
        seed: Option<Arc<Seed>>,
        silence: watch::Receiver<Silence>,
    ) -> Self {
        Self { me, transport, settings, seed, resting_until: DashMap::new(), silence }
    }

    /// Sends a client's request to a registry. `key` picks the seed, so that what belongs
    /// together goes through one: its connections to the registry are warm.
    ///
    /// A read is tried through the next seed where one cannot be reached, and they share
    /// `patience`; anything else is sent once.
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
        patience: Duration,
    ) -> Result<Response<BodyStream>, EgressError> {
        if let Some(seed) = &self.seed {
            return Ok(seed.forward(upstream, request, purpose).await?);
        }
        let (head, body) = request.into_parts();
        let repeatable = matches!(head.method, Method::GET | Method::HEAD);
        let mut body = Some(body);
        let mut failure = EgressError::NoSeed;
        let began = Instant::now();
        let seeds = self.seeds(key.as_bytes()).await?;
        let patience = patience.saturating_sub(began.elapsed());
        let patience = if repeatable { share(patience, seeds.len()) } else { patience };
        for seed in seeds {
            let body = if repeatable { body::empty() } else { body.take().expect("sent once") };
            let request = Request::from_parts(head.clone(), body);
            match self.transport.forward(&seed, request, upstream.as_str(), purpose, patience).await {
                Ok(answer) => return Ok(answer),
                Err(error) if error.is_seeds_own() && repeatable => {
                    self.rest(&seed);
                    failure = EgressError::Seed { seed, error };
                }
                Err(error) => return Err(EgressError::Seed { seed, error }),
            }
        }
        Err(failure)
    }

    /// Asks the digest's home seed, or the next one, whether the registry holds the blob in
    /// the credential's repository; after a read that failed, first how that place let it down.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub(crate) async fn confirm(
        &self,
        digest: Digest,
        credential: &ReadCredential,
        moment: Moment,
    ) -> Result<Offered, EgressError> {
        let mut failure = EgressError::NoSeed;
        let began = Instant::now();
        let seeds = self.seeds(digest.as_bytes()).await?;
        let patience = share(PATIENCE.saturating_sub(began.elapsed()), seeds.len());
        for seed in seeds {
            let offer = Offer { digest, credential, moment };
            match self.offer_within(&seed, offer, patience).await {
                Err(EgressError::Seed { seed, error }) if error.is_seeds_own() => {
                    self.rest(&seed);
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
        self.offer_within(seed, Offer { digest, credential, moment: Moment::First }, PATIENCE).await
    }

    /// Asks the digest's home seed, or the next if that rests, for a small blob. `None` on a node
    /// that is a seed itself.
    ///
    /// # Errors
    ///
    /// If the seed does not give it; the blob may come by a plan all the same.
    pub(crate) async fn small(
        &self,
        digest: Digest,
        size: u32,
        credential: &ReadCredential,
    ) -> Result<Option<Given>, EgressError> {
        if self.seed.is_some() {
            return Ok(None);
        }
        let seed = self.seeds(digest.as_bytes()).await?.into_iter().next().ok_or(EgressError::NoSeed)?;
        let offer = Offer { digest, credential, moment: Moment::First };
        let given = self.transport.small(&seed, offer.message(), size, SMALL_PATIENCE).await;
        given.map(Some).map_err(|error| {
            // A slow answer may be the registry's fault.
            if matches!(error, CallError::Dial(_) | CallError::Lost { .. }) {
                self.rest(&seed);
            }
            EgressError::Seed { seed, error }
        })
    }

    /// Whether the credential's registry has delivered a blob that others gave. If no seed knows of it, it is to do so
    /// through the digest's home seed, or the next one.
    ///
    /// # Errors
    ///
    /// As [`Self::forward`].
    pub(crate) async fn deliver(
        &self,
        digest: Digest,
        layout: Layout,
        credential: &ReadCredential,
    ) -> Result<Delivered, EgressError> {
        let seeds = self.seeds(digest.as_bytes()).await?;
        let order = DeliveryQuestion { digest, layout, credential: credential.clone(), known_only: false };
        let question = DeliveryQuestion { known_only: true, ..order.clone() };
        let known = seeds.iter().map(|seed| {
            let said = self.deliver_by(seed, &question, KNOWN_PATIENCE);
            Box::pin(said.map(|said| if let Ok(Delivered::Whole(by)) = said { Ok(by) } else { Err(()) }))
        });
        // The first that knows will do.
        if !seeds.is_empty()
            && let Ok((by, _)) = select_ok(known).await
        {
            return Ok(Delivered::Whole(by));
        }
        let mut failure = EgressError::NoSeed;
        let patience = share(PATIENCE, seeds.len());
        for seed in seeds {
            match self.deliver_by(&seed, &order, patience).await {
                Err(EgressError::Seed { seed, error }) if error.is_seeds_own() => {
                    self.rest(&seed);
                    failure = EgressError::Seed { seed, error };
                }
                said => return said,
            }
        }
        Err(failure)
    }

    async fn deliver_by(
        &self,
        seed: &PeerId,
        asked: &DeliveryQuestion,
        patience: Duration,
    ) -> Result<Delivered, EgressError> {
        if let Some(local) = self.seed.as_ref().filter(|_| *seed == self.me) {
            return Ok(local.deliver(asked.clone()).await?);
        }
        let said = self.transport.deliver(seed, asked, patience).await;
        said.map_err(|error| EgressError::Seed { seed: seed.clone(), error })
    }

    async fn offer_within(
        &self,
        seed: &PeerId,
        offer: Offer<'_>,
        patience: Duration,
    ) -> Result<Offered, EgressError> {
        if let Some(local) = self.seed.as_ref().filter(|_| *seed == self.me) {
            let Offer { digest, credential, moment } = offer;
            return Ok(local.confirm(digest, credential.clone(), moment).await?);
        }
        let said = self.transport.offer(seed, offer.message(), patience).await;
        said.map_err(|error| EgressError::Seed { seed: seed.clone(), error })
    }

    fn rest(&self, seed: &PeerId) {
        self.resting_until.insert(seed.clone(), Instant::now() + REST);
    }

    /// The region's seeds, the home seed of `key` first, but for those that rest. Where none is
    /// known, a little while is given to the manager to name one: this node may just have joined. Where it is
    /// known that none answers, a little while is given to one that starts again.
    async fn seeds(&self, key: &[u8]) -> Result<Vec<PeerId>, EgressError> {
        let mut silence = self.silence.clone();
        let answered = timeout(SILENCE_WAIT, silence.wait_for(Option::is_none)).await.is_ok();
        if let Some(reason) = self.silence.borrow().clone().filter(|_| !answered) {
            return Err(EgressError::Silence(reason));
        }
        let mut settings = self.settings.clone();
        let named = settings.wait_for(|settings| !settings.seeds.is_empty());
        // None still, or no more settings will come: the caller sees it from what is there.
        let _ = timeout(SEED_WAIT, named).await;
        let settings = self.settings.borrow().clone();
        for seed in &settings.seeds {
            self.transport.learn(seed.id.clone(), seed.address, true);
        }
        let names = settings.seeds.iter().map(|seed| seed.id.as_str());
        let order = rendezvous_order(key, names);
        let mut seeds: Vec<PeerId> =
            order.into_iter().map(|name| name.parse().expect("the name of a seed")).collect();
        let now = Instant::now();
        seeds.sort_by_key(|seed| self.resting_until.get(seed).is_some_and(|until| now < *until));
        Ok(seeds)
    }
}

/// A client's credential for a blob.
#[derive(Clone, Copy)]
struct Offer<'a> {
    digest: Digest,
    credential: &'a ReadCredential,
    moment: Moment,
}

impl Offer<'_> {
    fn message(self) -> Credential {
        let after_failure = self.moment == Moment::AfterFailure;
        Credential { after_failure, ..credential_to_wire(self.digest, self.credential) }
    }
}

/// How long one of several seeds may take to begin its answer: together they stay within
/// the time a client waits.
fn share(patience: Duration, seeds: usize) -> Duration {
    (patience / u32::try_from(seeds).unwrap_or(u32::MAX).max(1)).max(MIN_PATIENCE)
}

/// How long a client that pulls waits for a first header (docs/design.md §6: 10 s). A seed has
/// limits of its own, and says before what a registry did not; this one notices a seed
/// that hangs.
pub(crate) const PATIENCE: Duration = Duration::from_millis(9_300);

/// How long a small blob is waited for as a whole, once the seed is reached: after that a plan lets its bytes through as they
/// come.
const SMALL_PATIENCE: Duration = Duration::from_secs(2);

/// For what a seed knows without asking.
const KNOWN_PATIENCE: Duration = Duration::from_secs(1);

/// A slow registry's answer is worth that much, even where there are many seeds.
const MIN_PATIENCE: Duration = Duration::from_secs(3);

/// How long a request waits for the manager to name a first seed.
const SEED_WAIT: Duration = Duration::from_secs(2);

/// How long a question waits for a seed to answer again. A client's request asks two at most, and is answered
/// within 2 s.
const SILENCE_WAIT: Duration = Duration::from_millis(700);

/// How long a seed that gave no answer comes last.
const REST: Duration = Duration::from_secs(15);

/// Why no answer of a registry was had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EgressError {
    #[error("this region has no seed peer")]
    NoSeed,
    #[error("{0}")]
    Silence(String),
    #[error("through {seed}: {error}")]
    Seed { seed: PeerId, error: CallError },
    #[error(transparent)]
    Registry(#[from] ForwardError),
}

impl EgressError {
    /// When the registry wants to be asked again.
    pub(crate) fn retry_after(&self) -> Option<HeaderValue> {
        match self {
            Self::Seed { error: CallError::UpstreamFailed(told), .. } => told.retry_after.clone(),
            Self::Registry(error) => error.retry_after().map(|after| after.as_secs().into()),
            Self::NoSeed | Self::Silence(_) | Self::Seed { .. } => None,
        }
    }

    /// Whether a seed was reached, and got no answer from the registry.
    pub(crate) fn is_of_registry(&self) -> bool {
        let by_another = matches!(
            self,
            Self::Seed { error: CallError::UpstreamUnknown(_) | CallError::UpstreamFailed(_), .. }
        );
        by_another || matches!(self, Self::Registry(_))
    }
}
