//! Reading ahead: where a registry has several endpoints, one gives a part of the blob while the part
//! before it comes from another.
//!
//! The reading itself stays in order and in charge of failures. A part ahead waits in memory, bounded by
//! its length and by how many there may be; whatever goes wrong with it only means that the reading asks
//! for the rest itself, and reads nothing more ahead from there.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{CredentialHash, Digest, Layout, RegistryMark};
use http::StatusCode;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::Shared;
use super::blob_request::{Answer, BlobRequest};
use super::content::Content;
use super::endpoint::EndpointClient;
use super::failure::EndpointFailure;
use super::metrics::Received;
use super::roster::Candidate;

/// What all readings share.
pub(super) struct AheadBook {
    /// For parts: with [`MAX_PART`] they bound what waits in memory.
    permits: Arc<Semaphore>,
    /// Endpoints that refused a credential another one takes, by name: two installations of one registry
    /// do not know each other's tokens. Held for one look-up or change.
    refused: Mutex<HashMap<(String, CredentialHash), Instant>>,
}

/// What a reading may still have ahead.
pub(super) struct Aheads {
    /// Endpoints that failed to read ahead, by name.
    spent: HashSet<String>,
    part: Option<Ahead>,
}

/// A part that is being read ahead, or was.
pub(super) struct Ahead {
    pub(super) endpoint: Arc<EndpointClient>,
    frames: mpsc::UnboundedReceiver<Result<Bytes, EndpointFailure>>,
    /// Of the next byte.
    pub(super) offset: u64,
    pub(super) end: u64,
    /// The registry that it is read from.
    pub(super) giver: RegistryMark,
    _reading: AbortOnDropHandle<()>,
    _permit: OwnedSemaphorePermit,
}

/// Which part of what to read, with whose credential.
pub(super) struct Part {
    pub(super) candidate: Arc<Candidate>,
    pub(super) digest: Digest,
    pub(super) layout: Layout,
    pub(super) range: Range<u64>,
}

impl Default for AheadBook {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_PARTS)), refused: Mutex::default() }
    }
}

impl AheadBook {
    fn note_refusal(&self, endpoint: &EndpointClient, credential: CredentialHash) {
        let (mut refused, now) =
            (self.refused.lock().unwrap_or_else(PoisonError::into_inner), Instant::now());
        if refused.len() >= MAX_REFUSED {
            refused.retain(|_, until| now < *until);
        }
        if refused.len() < MAX_REFUSED {
            refused.insert((endpoint.name().to_owned(), credential), now + REFUSED_FOR);
        }
    }

    fn is_refused(&self, endpoint: &EndpointClient, credential: CredentialHash) -> bool {
        let refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let until = refused.get(&(endpoint.name().to_owned(), credential));
        until.is_some_and(|until| Instant::now() < *until)
    }
}

impl Aheads {
    pub(super) fn new() -> Self {
        Self { spent: HashSet::new(), part: None }
    }

    /// How much of `needed` to ask the first endpoint for: half of it or less where another can give
    /// the rest, up to where a part ahead begins.
    pub(super) fn share(&self, needed: Range<u64>, other: Option<&Arc<EndpointClient>>) -> Range<u64> {
        let len = needed.end - needed.start;
        match &self.part {
            Some(part) => needed.start..needed.end.min(part.offset),
            None if other.is_some() && len >= 2 * MIN_PART => {
                needed.start..needed.start + (len / 2).min(MAX_PART)
            }
            None => needed,
        }
    }

    /// An endpoint besides `first` that may read ahead for this credential: in use and well. None while
    /// any of them is under suspicion of wrong bytes: only a blob from one alone shows who was wrong.
    pub(super) fn other(
        &self,
        book: &AheadBook,
        candidate: &Candidate,
        first: &EndpointClient,
    ) -> Option<Arc<EndpointClient>> {
        let endpoints = candidate.endpoints();
        if endpoints.iter().any(|endpoint| endpoint.is_suspect()) {
            return None;
        }
        let credential = candidate.authorization.hash();
        endpoints.into_iter().find(|endpoint| {
            let is_idle = endpoint.name() != first.name() && !self.spent.contains(endpoint.name());
            let is_ready = !endpoint.settings.standby && !endpoint.is_resting();
            is_idle && is_ready && !book.is_refused(endpoint, credential)
        })
    }

    /// Begins to read a part from `endpoint`, unless too many are being read already.
    pub(super) fn begin(
        &mut self,
        shared: &Arc<Shared>,
        endpoint: Arc<EndpointClient>,
        mut part: Part,
        received: &Received,
    ) {
        part.range.end = part.range.end.min(part.range.start + MAX_PART);
        let Ok(permit) = Arc::clone(&shared.ahead.permits).try_acquire_owned() else { return };
        let (sender, frames) = mpsc::unbounded_channel();
        let Range { start, end } = part.range;
        let giver = RegistryMark::of(&part.candidate.upstream);
        let reading = read(Arc::clone(shared), Arc::clone(&endpoint), part, received.clone(), sender);
        let reading = AbortOnDropHandle::new(tokio::spawn(reading));
        let (offset, _reading, _permit) = (start, reading, permit);
        self.part = Some(Ahead { endpoint, frames, offset, end, giver, _reading, _permit });
    }

    /// Where the part ahead begins.
    pub(super) fn start(&self) -> Option<u64> {
        self.part.as_ref().map(|part| part.offset)
    }

    /// The part ahead, if it begins at or before `offset`.
    pub(super) fn take(&mut self, offset: u64) -> Option<Ahead> {
        self.part.take_if(|part| part.offset <= offset)
    }

    /// This endpoint reads nothing more ahead.
    pub(super) fn failed(&mut self, endpoint: &EndpointClient) {
        self.spent.insert(endpoint.name().to_owned());
    }
}

impl Ahead {
    /// The next bytes, waiting for `patience`; `None` at the right end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, EndpointFailure> {
        let stalled = |_| EndpointFailure::Stalled { after: patience };
        match tokio::time::timeout(patience, self.frames.recv()).await.map_err(stalled)? {
            Some(Ok(bytes)) => {
                self.offset += bytes.len() as u64;
                Ok(Some(bytes))
            }
            Some(Err(failure)) => Err(failure),
            None => Ok(None),
        }
    }
}

async fn read(
    shared: Arc<Shared>,
    endpoint: Arc<EndpointClient>,
    part: Part,
    received: Received,
    frames: mpsc::UnboundedSender<Result<Bytes, EndpointFailure>>,
) {
    if let Err(failure) = feed(&shared, &endpoint, part, received, &frames).await {
        // Who no longer listens does not care how it failed.
        let _ = frames.send(Err(failure));
    }
}

async fn feed(
    shared: &Shared,
    endpoint: &EndpointClient,
    part: Part,
    received: Received,
    frames: &mpsc::UnboundedSender<Result<Bytes, EndpointFailure>>,
) -> Result<(), EndpointFailure> {
    let request = BlobRequest {
        endpoint,
        tokens: &shared.tokens,
        metrics: &shared.metrics,
        repository: &part.candidate.repository,
        digest: part.digest,
        authorization: &part.candidate.authorization,
        range: Some(part.range.clone()),
    };
    let after = shared.config.header_timeout;
    let answer = tokio::time::timeout(after, request.send()).await;
    let response = match answer.unwrap_or(Err(EndpointFailure::NoHeader { after }))? {
        Answer::Content(response) if response.status() == StatusCode::PARTIAL_CONTENT => response,
        Answer::Content(_) => return Err(EndpointFailure::WrongRange),
        // No verdict: tokens are good at the installation that issued them, which this need not be.
        Answer::Refused(answer) => {
            shared.ahead.note_refusal(endpoint, part.candidate.authorization.hash());
            return Err(EndpointFailure::Status(answer.status));
        }
    };
    let mut body = Content::open(response, part.range, &part.layout, endpoint)?;
    while let Some(bytes) = body.next(shared.config.stall_timeout).await? {
        let len = bytes.len();
        received.count(len as u64);
        if frames.send(Ok(bytes)).is_err() {
            return Ok(());
        }
        endpoint.caps.pass(len).await;
    }
    Ok(())
}

/// Less is not worth a request.
const MIN_PART: u64 = 4 << 20;
const MAX_PART: u64 = 16 << 20;
/// Parts that may be read ahead at once, of all blobs.
const MAX_PARTS: usize = 8;
/// Who was refused is not asked for the same credential for so long.
const REFUSED_FOR: Duration = Duration::from_secs(600);
const MAX_REFUSED: usize = 1024;
