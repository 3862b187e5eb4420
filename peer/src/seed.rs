//! What only a seed does: it speaks to registries, for itself and for its region's peers.
//!
//! Its second duty is to *confirm*: a digest may be served under a repository only once
//! the registry has served or confirmed it there (docs/design.md §7), since a forged manifest
//! in one's own project must not open another's layer. A read confirms by itself; only
//! where none runs does a confirmation cost the registry a probe. `delivering` is for a registry that says to hold what
//! only others gave.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use flotilla_daemon::settings::Receiver;
use flotilla_proto::{Digest, Layout, PieceSet, RegistryHost, RepositoryName};
use http::{Method, Request, Response, StatusCode, header};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::body;
use crate::delivering::{Deliveries, DeliveryQuestion};
use crate::grant::Confirmed;
use crate::resource::Resource;
use crate::source::{
    BodyStream, Credentials, ForwardError, Purpose, ReadCredential, ReadError, ReadOrder, ReadPurpose,
    ReadSummary, Source, SourcePiece, Verdict,
};
use crate::store::Store;
use crate::transport::{Delivered, Offered};

/// When a client's peer asks for a confirmation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Before anything.
    First,
    /// After a read that failed: how this credential's very place let it down comes first, if it did.
    AfterFailure,
}

/// The seed's part of a peer daemon.
pub(crate) struct Seed {
    source: Source,
    confirmed: Confirmed,
    deliveries: Deliveries,
    reading_by_digest: Arc<DashMap<Digest, Arc<Reading>>>,
}

/// The credentials gathered for one blob, and whether it is being read with them.
struct Reading {
    credentials: Credentials,
    /// Where the first credential asks for the blob; a read asks there first.
    first_place: watch::Sender<Option<(RegistryHost, RepositoryName)>>,
    active: watch::Sender<bool>,
    /// When a credential was last offered. Held for a read or a write.
    offered_at: Mutex<Instant>,
}

impl Seed {
    pub(crate) fn new(source: Source, store: Store, settings: Receiver) -> Self {
        source.warn_without_roots();
        let (confirmed, deliveries) = (Confirmed::new(), Deliveries::new(source.clone(), store, settings));
        Self { source, confirmed, deliveries, reading_by_digest: Arc::default() }
    }

    /// Sends a request to a registry as the client made it.
    pub(crate) async fn forward(
        &self,
        upstream: &RegistryHost,
        request: Request<BodyStream>,
        purpose: Purpose,
    ) -> Result<Response<BodyStream>, ForwardError> {
        let is_deletion = *request.method() == Method::DELETE;
        let deleted = is_deletion.then(|| Resource::of(request.uri().path()));
        let answer = self.source.forward(upstream, request, purpose).await;
        let is_refused = answer.as_ref().is_ok_and(|answer| answer.status().is_client_error());
        if let Some(resource) = deleted.filter(|_| !is_refused) {
            self.deleted(upstream, &resource);
        }
        answer
    }

    /// What a repository held before a deletion is to be asked anew.
    fn deleted(&self, upstream: &RegistryHost, resource: &Resource) {
        match resource {
            Resource::Blob(repository, digest) => {
                if let Ok(digest) = digest.parse() {
                    self.confirmed.remove(upstream, repository, Some(digest));
                }
            }
            Resource::Manifest(repository, _) => self.confirmed.remove(upstream, repository, None),
            Resource::Other => {}
        }
    }

    /// Whether the registry holds the blob in the credential's repository. The credential
    /// serves a read of the blob meanwhile.
    pub(crate) async fn confirm(
        self: &Arc<Self>,
        digest: Digest,
        credential: ReadCredential,
        moment: Moment,
    ) -> Result<Offered, ForwardError> {
        let (upstream, repository) = (&credential.upstream, &credential.repository);
        let reading = self.reading(digest);
        if moment == Moment::AfterFailure
            && let Some(Verdict::Failed(failure)) = reading.credentials.said(&credential)
        {
            return Err(failure.of(upstream));
        }
        reading.offer(&credential);
        self.forget_later(digest);
        if self.confirmed.contains(upstream, repository, digest) {
            return Ok(Offered::Confirmed);
        }
        let said = tokio::select! {
            biased;
            verdict = reading.credentials.verdict(&credential) => verdict,
            () = self.confirmed.until(upstream, repository, digest) => return Ok(Offered::Confirmed),
            () = reading.until_hopeless(&credential) => None,
        };
        match said {
            Some(Verdict::Accepted) => {
                self.confirmed.insert(upstream.clone(), repository.clone(), digest);
                Ok(Offered::Confirmed)
            }
            Some(Verdict::Refused(answer)) => Ok(Offered::Refused(answer.to_response())),
            // The client has waited for the read already: a probe would find no other registry.
            Some(Verdict::Failed(failure)) => Err(failure.of(upstream)),
            // A read that ended may have confirmed the place in the same moment.
            None if self.confirmed.contains(upstream, repository, digest) => Ok(Offered::Confirmed),
            None => self.probe(digest, &credential).await,
        }
    }

    /// Reads pieces of a blob from the registry, those below `until`, with the credentials that
    /// are and will be offered for it.
    pub(crate) async fn read(
        &self,
        digest: Digest,
        layout: Layout,
        wanted: PieceSet,
        until: watch::Receiver<u32>,
        sink: mpsc::Sender<SourcePiece>,
        cancel: CancellationToken,
    ) -> Result<ReadSummary, ReadError> {
        let reading = self.reading(digest);
        reading.active.send_replace(true);
        let mut place = reading.first_place.subscribe();
        // Without a credential in time the source says so itself.
        let _ = tokio::time::timeout(CREDENTIAL_WAIT, place.wait_for(Option::is_some)).await;
        let credentials = reading.credentials.clone();
        let order = ReadOrder { digest, layout, wanted, until, credentials, purpose: ReadPurpose::Spread };
        let result = self.source.read_blob(order, sink, cancel).await;
        if let Ok(ReadSummary { read_by: Some(by), .. }) = &result {
            self.confirmed.insert(by.upstream.clone(), by.repository.clone(), digest);
        }
        reading.active.send_replace(false);
        self.forget_later(digest);
        result
    }

    /// Whether a registry has delivered a blob that others gave; if not, it is to do so.
    ///
    /// # Errors
    ///
    /// If the registry does not deliver it, or something else.
    pub(crate) async fn deliver(&self, asked: DeliveryQuestion) -> Result<Delivered, ForwardError> {
        self.deliveries.deliver(asked).await
    }

    async fn probe(&self, digest: Digest, credential: &ReadCredential) -> Result<Offered, ForwardError> {
        let ReadCredential { upstream, repository, .. } = credential;
        let mut request = Request::new(body::empty());
        *request.method_mut() = Method::GET;
        *request.uri_mut() = format!("/v2/{repository}/blobs/{digest}").parse().expect("names make a path");
        if !credential.authorization.is_anonymous() {
            let value = http::HeaderValue::from_maybe_shared(credential.authorization.expose().clone());
            if let Ok(value) = value {
                request.headers_mut().insert(header::AUTHORIZATION, value);
            }
        }
        let answer = self.source.forward(upstream, request, Purpose::Probe).await?;
        // An empty blob has no first byte to give.
        let is_empty = answer.status() == StatusCode::RANGE_NOT_SATISFIABLE;
        if answer.status().is_success() || is_empty {
            self.confirmed.insert(upstream.clone(), repository.clone(), digest);
            return Ok(Offered::Confirmed);
        }
        let (head, body) = answer.into_parts();
        let body = body::read_whole(body, MAX_REFUSAL).await;
        Ok(Offered::Refused(Response::from_parts(head, body.unwrap_or_default())))
    }

    fn reading(&self, digest: Digest) -> Arc<Reading> {
        self.reading_by_digest.entry(digest).or_insert_with(|| Arc::new(Reading::new())).clone()
    }

    /// Credentials live a little longer than somebody waits for a word on them or a read uses
    /// them: the order to read, and the credential to read with, come by different ways.
    fn forget_later(&self, digest: Digest) {
        let readings = self.reading_by_digest.clone();
        tokio::spawn(async move {
            tokio::time::sleep(CREDENTIAL_WAIT).await;
            let unused = |reading: &Arc<Reading>| Arc::strong_count(reading) == 1 && reading.is_stale();
            readings.remove_if(&digest, |_, reading| unused(reading));
        });
    }
}

impl Reading {
    fn new() -> Self {
        Self {
            credentials: Credentials::new(),
            first_place: watch::Sender::new(None),
            active: watch::Sender::new(false),
            offered_at: Mutex::new(Instant::now()),
        }
    }

    /// Whether nobody offered a credential for so long that no read will ask for it.
    fn is_stale(&self) -> bool {
        self.offered_at.lock().unwrap_or_else(PoisonError::into_inner).elapsed() >= CREDENTIAL_WAIT
    }

    fn offer(&self, credential: &ReadCredential) {
        self.credentials.offer(credential.clone());
        *self.offered_at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.first_place.send_if_modified(|place| {
            let first = place.is_none();
            if first {
                *place = Some((credential.upstream.clone(), credential.repository.clone()));
            }
            first
        });
    }

    /// Returns when no read can be expected to confirm this credential's repository: none
    /// began within [`READ_WAIT`], or it asks in another repository, or it ended.
    async fn until_hopeless(&self, credential: &ReadCredential) {
        let mut active = self.active.subscribe();
        let until = Instant::now() + READ_WAIT;
        if timeout_at(until, active.wait_for(|active| *active)).await.is_err() {
            return;
        }
        let here = (&credential.upstream, &credential.repository);
        let elsewhere = self.first_place.borrow().as_ref().is_some_and(|(host, name)| (host, name) != here);
        if !elsewhere {
            let _ended = active.wait_for(|active| !active).await;
        }
    }
}

/// How long a read waits for the first client's credential: the order to read and the
/// credential come by different ways.
const CREDENTIAL_WAIT: Duration = Duration::from_secs(5);

/// How long a confirmation waits for a read to begin before it costs a probe. An order
/// arrives within a few round trips where the region lacks the blob.
const READ_WAIT: Duration = Duration::from_millis(300);

/// Bytes of a refusal's body.
const MAX_REFUSAL: usize = 64 << 10;
