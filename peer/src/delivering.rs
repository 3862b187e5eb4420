//! How a registry that says to hold a blob shows it, where others gave what this region holds of it: it delivers the
//! whole, once for the region (docs/design.md §7).
//!
//! Its bytes are hashed and dropped. A peer that asks while this runs adds its credential and waits for the same
//! reading. The reading ends early if nobody asks for ten minutes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::{DashMap, Entry};
use flotilla_daemon::settings::Receiver;
use flotilla_proto::{Digest, Layout, PieceSet, RegistryHost, RegistryMark};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::grant::Trust;
use crate::source::{
    Credentials, EndpointFailure, ForwardError, ReadCredential, ReadError, ReadOrder, ReadPurpose, Source,
    UpstreamError, Verdict,
};
use crate::store::Store;
use crate::transport::Delivered;

/// A question about a registry's delivery of a blob.
#[derive(Debug, Clone)]
pub(crate) struct DeliveryQuestion {
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    /// Names the registry, and what it may be asked with.
    pub(crate) credential: ReadCredential,
    /// Whether the registry is not to be asked.
    pub(crate) known_only: bool,
}

/// The deliveries under way at this seed.
pub(crate) struct Deliveries {
    source: Source,
    store: Store,
    settings: Receiver,
    /// At most [`MOST`]. What failed stays a little while.
    under_way: Arc<DashMap<Key, Arc<UnderWay>>>,
    /// Of each configured registry: one that is slow holds up no other.
    turns: DashMap<RegistryHost, Arc<Semaphore>>,
}

/// A registry, a blob, and the blob's size in bytes as the peer that asks gives it.
type Key = (RegistryHost, Digest, u64);

struct UnderWay {
    credentials: Credentials,
    /// Held for a read or a write.
    asked_at: Mutex<Instant>,
    ended: watch::Sender<Option<Ended>>,
}

/// How a delivery ended that was not abandoned.
#[derive(Debug, Clone)]
enum Ended {
    Made,
    /// To each of the credentials.
    Refused,
    NoWay(UpstreamError),
    Failed {
        endpoint: String,
        cause: EndpointFailure,
    },
}

impl Deliveries {
    pub(crate) fn new(source: Source, store: Store, settings: Receiver) -> Self {
        Self { source, store, settings, under_way: Arc::default(), turns: DashMap::new() }
    }

    /// Whether the registry has delivered the blob; if not, it is to do so. Waits for [`PATIENCE`] at most.
    ///
    /// # Errors
    ///
    /// If the registry does not deliver it, or something else.
    pub(crate) async fn deliver(&self, asked: DeliveryQuestion) -> Result<Delivered, ForwardError> {
        let DeliveryQuestion { digest, layout, credential, known_only } = asked;
        let upstream = credential.upstream.clone();
        let trust = Trust::of(&upstream, &self.settings.borrow());
        if let Some(by) = trust.deliverer(&self.store, digest) {
            return Ok(Delivered::Whole(by));
        }
        if known_only {
            return Ok(Delivered::Unknown);
        }
        if self.settings.borrow().upstream(&upstream).is_none() {
            return Err(UpstreamError::Unknown { upstream }.into());
        }
        let key = (upstream.clone(), digest, layout.size());
        let Some(under_way) = self.join(&key, layout, &credential) else {
            sleep(PATIENCE).await;
            return Ok(Delivered::Pending);
        };
        let mut ended = under_way.ended.subscribe();
        let refused = async {
            match under_way.credentials.verdict(&credential).await {
                Some(Verdict::Refused(answer)) => answer,
                // The reading's own end says more.
                Some(Verdict::Accepted | Verdict::Failed(_)) | None => std::future::pending().await,
            }
        };
        let ended = tokio::select! {
            biased;
            answer = refused => return Ok(Delivered::Refused(answer.to_response())),
            ended = ended.wait_for(Option::is_some) => ended.ok().and_then(|ended| ended.clone()),
            () = sleep(PATIENCE) => None,
        };
        match ended {
            None => Ok(Delivered::Pending),
            Some(Ended::Made) => Ok(Delivered::Whole(RegistryMark::of(&upstream))),
            // Others were; this one came as it ended.
            Some(Ended::Refused) => Ok(Delivered::Pending),
            Some(Ended::NoWay(error)) => Err(error.into()),
            Some(Ended::Failed { endpoint, cause })
                if matches!(cause, EndpointFailure::WrongBytes)
                    || matches!(under_way.credentials.said(&credential), Some(Verdict::Failed(_))) =>
            {
                Err(ForwardError::Endpoint { upstream, endpoint, cause })
            }
            // Other places failed. The next question starts a delivery that tries this one.
            Some(Ended::Failed { .. }) => {
                self.under_way.remove_if(&key, |_, other| Arc::ptr_eq(other, &under_way));
                Ok(Delivered::Pending)
            }
        }
    }

    /// The delivery under way, which has this credential from now on, or a new one. `None` where there are too many.
    fn join(&self, key: &Key, layout: Layout, credential: &ReadCredential) -> Option<Arc<UnderWay>> {
        let is_full = self.under_way.len() >= MOST;
        let (under_way, is_new) = match self.under_way.entry(key.clone()) {
            Entry::Occupied(known) => (known.get().clone(), false),
            Entry::Vacant(_) if is_full => return None,
            Entry::Vacant(free) => (free.insert(Arc::new(UnderWay::new())).clone(), true),
        };
        *under_way.asked_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        // What is said of one that failed stays said.
        if under_way.ended.borrow().is_none() {
            under_way.credentials.offer(credential.clone());
        }
        if is_new {
            let turns = self.turns.entry(key.0.clone()).or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)));
            let (source, store, turns) = (self.source.clone(), self.store.clone(), Arc::clone(&turns));
            let (all, under_way, key) = (self.under_way.clone(), under_way.clone(), key.clone());
            tokio::spawn(async move {
                let ended = tokio::select! {
                    ended = under_way.run(&source, &key, layout, &turns) => ended,
                    () = under_way.until_abandoned() => None,
                };
                if let Some(Ended::Made) = ended {
                    store.delivered(key.1, RegistryMark::of(&key.0)).await;
                }
                under_way.ended.send_replace(ended.clone());
                if let Some(Ended::Failed { .. }) = ended {
                    // A peer that asks again soon gets the same answer, and the registry is spared.
                    sleep(FAILURE_LIFE).await;
                }
                all.remove_if(&key, |_, other| Arc::ptr_eq(other, &under_way));
            });
        }
        Some(under_way)
    }
}

impl UnderWay {
    fn new() -> Self {
        let (credentials, ended) = (Credentials::new(), watch::Sender::new(None));
        Self { credentials, asked_at: Mutex::new(Instant::now()), ended }
    }

    /// How it ends, once it has its turn; `None` where that says nothing.
    async fn run(
        &self,
        source: &Source,
        (upstream, digest, _): &Key,
        layout: Layout,
        turns: &Semaphore,
    ) -> Option<Ended> {
        let _turn = turns.acquire().await.expect("never closed");
        let wanted = PieceSet::full(layout.piece_count());
        let unpaced = watch::Sender::new(u32::MAX);
        let (credentials, purpose) = (self.credentials.clone(), ReadPurpose::Confirm);
        let order =
            ReadOrder { digest: *digest, layout, wanted, until: unpaced.subscribe(), credentials, purpose };
        let (sink, mut pieces) = mpsc::channel(1);
        let drop_all = async { while pieces.recv().await.is_some() {} };
        let (read, ()) = tokio::join!(source.read_blob(order, sink, CancellationToken::new()), drop_all);
        let blob = digest.short();
        match &read {
            Ok(_) => {
                tracing::info!(blob, %upstream, "the registry has delivered a blob that others gave");
            }
            Err(error) => {
                tracing::warn!(blob, %upstream, %error, "the registry does not deliver a blob that others gave");
            }
        }
        Some(match read {
            Ok(_) => Ended::Made,
            Err(ReadError::Refused { .. }) => Ended::Refused,
            Err(ReadError::Upstream(error)) => Ended::NoWay(error),
            Err(ReadError::Endpoint { endpoint, cause, .. }) => Ended::Failed { endpoint, cause },
            Err(ReadError::DigestMismatch { endpoints }) => {
                Ended::Failed { endpoint: endpoints.join(" or "), cause: EndpointFailure::WrongBytes }
            }
            Err(ReadError::OtherSize { endpoint, size, .. }) => {
                let cause = EndpointFailure::WrongSize { announced: size, expected: layout.size() };
                Ended::Failed { endpoint, cause }
            }
            Err(ReadError::NoCredential | ReadError::Cancelled) => return None,
        })
    }

    async fn until_abandoned(&self) {
        loop {
            let asked_at = *self.asked_at.lock().unwrap_or_else(PoisonError::into_inner);
            if asked_at.elapsed() >= ABANDONED_AFTER {
                return;
            }
            sleep_until(asked_at + ABANDONED_AFTER).await;
        }
    }
}

/// How long one question waits: less than a peer waits for a seed.
const PATIENCE: Duration = Duration::from_secs(2);

/// A delivery that nobody asked for so long is not worth the registry's bandwidth. Clients that gave up a long pull come
/// again after five minutes.
const ABANDONED_AFTER: Duration = Duration::from_secs(600);

/// How long a registry that did not deliver is not asked for the same again.
const FAILURE_LIFE: Duration = Duration::from_secs(10);

/// Deliveries of one registry that run beside each other at one seed; more wait.
const AT_ONCE: usize = 4;

/// Deliveries under way, waiting or just failed; who asks for more is told to ask again.
const MOST: usize = 4096;
