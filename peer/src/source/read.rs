//! Reading a blob: every wanted piece once, in order, however often the registry fails on the way.
//!
//! The loop asks for what is still needed of the run at hand and feeds whatever comes to the cutter, which
//! knows how far it is. A failure changes who is asked next, never what was cut. A whole blob is one plain GET, as
//! proxy-cache projects want it; a resumption or a partial reading asks for a range and takes the whole body if it gets that.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{Digest, Layout, PieceHash, PieceSet, RegistryHost, RepositoryName};
use http::Response;
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};

use super::attempts::Attempts;
use super::blob_request::{Answer, BlobRequest};
use super::content::Content;
use super::credential::{Credentials, RegistryAnswer};
use super::cutter::{Cutter, Finished, Hasher};
use super::endpoint::{EndpointClient, REST_AFTER_WRONG_BYTES};
use super::failure::EndpointFailure;
use super::metrics::{FailureReason, Reader as ByteReader};
use super::roster::{Candidate, Roster};
use super::upstream::UpstreamError;
use super::{ReadBy, Shared};

/// What to read, and with whose credentials.
#[derive(Debug, Clone)]
pub struct ReadOrder {
    /// The blob.
    pub digest: Digest,
    /// How it is cut.
    pub layout: Layout,
    /// The pieces to read. All of them: the blob is read in one plain GET and its SHA-256 checked.
    pub wanted: PieceSet,
    /// No byte of a piece at or above it is taken from the registry for the present.
    pub until: watch::Receiver<u32>,
    /// Used in order; may grow meanwhile.
    pub credentials: Credentials,
}

/// A piece as the registry sent it.
#[derive(Debug, Clone)]
pub struct SourcePiece {
    /// Its index.
    pub piece: u32,
    /// Its BLAKE3.
    pub hash: PieceHash,
    /// Its bytes.
    pub bytes: Bytes,
}

/// What a reading came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadSummary {
    /// Bytes of blob bodies received, those read twice included.
    pub source_bytes: u64,
    /// Whether the whole blob was read and its SHA-256 is its digest.
    pub is_verified: bool,
    /// Who the registry served last; `None` if nothing had to be asked.
    pub read_by: Option<ReadBy>,
}

/// One reading under way.
pub(super) struct Reading<'a> {
    shared: &'a Shared,
    digest: Digest,
    layout: Layout,
    sink: mpsc::Sender<SourcePiece>,
    until: watch::Receiver<u32>,
    cutter: Cutter,
    hasher: Hasher,
    is_whole: bool,
    attempts: Attempts,
    roster: Roster<'a>,
    contributors: BTreeSet<String>,
    received: Received,
    read_by: Option<ReadBy>,
}

impl<'a> Reading<'a> {
    pub(super) fn new(shared: &'a Shared, order: ReadOrder, sink: mpsc::Sender<SourcePiece>) -> Self {
        let ReadOrder { digest, layout, wanted, until, credentials } = order;
        assert_eq!(wanted.len(), layout.piece_count(), "wanted pieces of another blob");
        Self {
            shared,
            digest,
            layout,
            sink,
            until,
            cutter: Cutter::new(layout, &wanted),
            hasher: Hasher::new(digest, &layout, &wanted),
            is_whole: wanted.is_full(),
            attempts: Attempts::new(layout.piece_len().bytes().into()),
            roster: Roster::new(shared, credentials),
            contributors: BTreeSet::new(),
            received: Received { bytes: 0, counter: shared.metrics.blob_bytes(ByteReader::Region) },
            read_by: None,
        }
    }

    pub(super) async fn run(mut self) -> Result<ReadSummary, ReadError> {
        while let Some(needed) = self.cutter.needed() {
            self.until_allowed().await?;
            let candidate = self.roster.current().await?;
            let endpoint = self.attempts.endpoint(&candidate);
            match self.ask(&candidate, &endpoint, &needed).await {
                Ok(Answer::Content(response)) => {
                    self.roster.accepted(&candidate);
                    self.read_by = Some(candidate.read_by());
                    self.contributors.insert(endpoint.name().to_owned());
                    match self.consume(response, needed, &endpoint).await {
                        Ok(()) => {}
                        Err(Interruption::Endpoint(failure)) => {
                            self.flush().await?;
                            self.failed(&candidate, &endpoint, failure).await?;
                        }
                        Err(Interruption::End(error)) => return Err(error),
                    }
                }
                Ok(Answer::Refused(answer)) => {
                    self.shared.metrics.count_error(FailureReason::Refused);
                    self.roster.refused(&candidate, answer);
                }
                Ok(Answer::RateLimited(after)) => self.rate_limited(&endpoint, after).await?,
                Err(failure) => self.failed(&candidate, &endpoint, failure).await?,
            }
        }
        self.finish().await
    }

    async fn ask(
        &self,
        candidate: &Candidate,
        endpoint: &EndpointClient,
        needed: &Range<u64>,
    ) -> Result<Answer, EndpointFailure> {
        let is_whole_blob = *needed == (0..self.layout.size());
        let request = BlobRequest {
            endpoint,
            tokens: &self.shared.tokens,
            metrics: &self.shared.metrics,
            repository: &candidate.repository,
            digest: self.digest,
            authorization: &candidate.authorization,
            range: (!is_whole_blob).then(|| needed.clone()),
        };
        let after = self.attempts.share(candidate, self.shared.config.header_timeout);
        let answer = tokio::time::timeout(after, request.send()).await;
        answer.unwrap_or(Err(EndpointFailure::NoHeader { after }))
    }

    async fn failed(
        &mut self,
        candidate: &Candidate,
        endpoint: &EndpointClient,
        failure: EndpointFailure,
    ) -> Result<(), ReadError> {
        self.shared.metrics.count_error(failure.reason());
        let (blob, name) = (self.digest.short(), endpoint.name());
        tracing::debug!(%blob, upstream = %candidate.upstream, endpoint = name, %failure, "source read interrupted");
        let outcome = match self.cutter.needed() {
            Some(_) => self.attempts.failed(candidate, endpoint, failure).await,
            // Everything came, and then something else: there is nothing to ask another endpoint for.
            None => Err(failure),
        };
        outcome.map_err(|cause| ReadError::Endpoint {
            upstream: candidate.upstream.clone(),
            endpoint: name.to_owned(),
            cause,
        })
    }

    async fn rate_limited(
        &mut self,
        endpoint: &EndpointClient,
        after: Option<Duration>,
    ) -> Result<(), ReadError> {
        self.shared.metrics.count_error(FailureReason::RateLimit);
        self.attempts.rate_limited(after).await.map_err(|retry_after| ReadError::RateLimited {
            endpoint: endpoint.name().to_owned(),
            retry_after,
        })
    }

    /// Feeds one body to the cutter, to its end or as far as it is of use.
    async fn consume(
        &mut self,
        response: Response<Incoming>,
        needed: Range<u64>,
        endpoint: &EndpointClient,
    ) -> Result<(), Interruption> {
        let mut body = Content::open(response, needed, &self.layout)?;
        loop {
            // What is left of a whole body after the last wanted piece is not worth reading.
            if self.cutter.needed().is_none_or(|needed| needed.start >= body.end) && body.offset < body.end {
                return Ok(());
            }
            self.until_allowed().await?;
            tokio::select! {
                biased;
                Some(finished) = self.hasher.finished(), if !self.is_last_held_back() => {
                    self.release(finished).await?;
                }
                frame = body.next(self.shared.config.stall_timeout.min(self.attempts.time_left())) => {
                    let Some(bytes) = frame? else { return Ok(()) };
                    let len = bytes.len();
                    self.received.count(len as u64);
                    self.cut(body.offset, bytes).await?;
                    endpoint.caps.pass(len).await;
                    self.attempts.resumed();
                }
            }
        }
    }

    /// Whether the next piece is not to be read for the present.
    fn is_paced(&self) -> bool {
        let next = self.cutter.needed().map(|needed| self.layout.piece_at(needed.start));
        next.is_some_and(|piece| piece >= *self.until.borrow())
    }

    /// Leaves the body alone until the next piece may be read. The registry waits in the same
    /// answer; what came before goes out.
    async fn until_allowed(&mut self) -> Result<(), ReadError> {
        while self.is_paced() {
            self.flush().await?;
            tokio::select! {
                // Whoever set the pace is gone: the read is cancelled, or soon will be.
                changed = self.until.changed() => changed.map_err(|_| ReadError::Cancelled)?,
                () = self.sink.closed() => return Err(ReadError::Cancelled),
            }
            self.attempts.resumed();
        }
        Ok(())
    }

    /// Cuts `bytes`, which end at `end` in the blob.
    async fn cut(&mut self, end: u64, mut bytes: Bytes) -> Result<(), ReadError> {
        let mut offset = end - bytes.len() as u64;
        let needed_from = self.cutter.needed().map_or(end, |needed| needed.start.max(offset));
        self.attempts.progressed(end.saturating_sub(needed_from));
        while !bytes.is_empty() {
            // One frame may hold several pieces.
            self.until_allowed().await?;
            let Some(piece) = self.cutter.take(&mut offset, &mut bytes) else { continue };
            if let Some(finished) = self.hasher.finished().await {
                self.release(finished).await?;
            }
            self.hasher.start(piece);
        }
        Ok(())
    }

    /// Lets out what came before an interruption: if it is the end, nobody need read it again.
    async fn flush(&mut self) -> Result<(), ReadError> {
        if self.is_last_held_back() {
            return Ok(());
        }
        match self.hasher.finished().await {
            Some(finished) => self.release(finished).await,
            None => Ok(()),
        }
    }

    /// In a reading of the whole blob the last piece waits until the body has ended where it should.
    fn is_last_held_back(&self) -> bool {
        self.is_whole && self.cutter.needed().is_none()
    }

    async fn release(&mut self, finished: Finished) -> Result<(), ReadError> {
        match finished {
            Finished::Piece(piece) => {
                self.sink.send(piece).await.map_err(|_| ReadError::Cancelled)?;
                // Waiting for the sink was no fault of the registry.
                self.attempts.resumed();
                Ok(())
            }
            Finished::WrongDigest => Err(self.digest_mismatch()),
            Finished::Abandoned => Err(ReadError::Cancelled),
        }
    }

    async fn finish(mut self) -> Result<ReadSummary, ReadError> {
        if let Some(finished) = self.hasher.finished().await {
            self.release(finished).await?;
        }
        let is_verified = self.hasher.is_verified();
        if self.is_whole && !is_verified {
            return Err(self.digest_mismatch());
        }
        Ok(ReadSummary { source_bytes: self.received.bytes, is_verified, read_by: self.read_by })
    }

    fn digest_mismatch(&self) -> ReadError {
        self.shared.metrics.count_error(FailureReason::Digest);
        self.roster.rest_endpoints(&self.contributors, REST_AFTER_WRONG_BYTES);
        ReadError::DigestMismatch { endpoints: self.contributors.iter().cloned().collect() }
    }
}

/// Bytes of blob bodies received.
struct Received {
    bytes: u64,
    counter: Counter,
}

impl Received {
    fn count(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.counter.inc_by(bytes);
    }
}

/// Why a body was not fed to its end.
enum Interruption {
    /// Resume, here or elsewhere.
    Endpoint(EndpointFailure),
    /// The reading is over.
    End(ReadError),
}

impl From<EndpointFailure> for Interruption {
    fn from(failure: EndpointFailure) -> Self {
        Self::Endpoint(failure)
    }
}

impl From<ReadError> for Interruption {
    fn from(error: ReadError) -> Self {
        Self::End(error)
    }
}

/// Why a reading ended without every wanted piece. The pieces sent before are as the registry gave them.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no way to the registry of the last credential.
    #[error(transparent)]
    Upstream(#[from] UpstreamError),
    /// The order named no credential, not even an anonymous one.
    #[error("no credential to read with")]
    NoCredential,
    /// Every credential was refused; this is what the last client's was told.
    #[error("{upstream} refuses to serve {repository}: {}", .answer.status)]
    Refused {
        /// The registry.
        upstream: RegistryHost,
        /// The repository asked.
        repository: RepositoryName,
        /// For the client.
        answer: Arc<RegistryAnswer>,
    },
    /// The registry wants more patience than a client has.
    #[error("{endpoint} limits requests: retry after {}s", .retry_after.as_secs())]
    RateLimited {
        /// Its URL.
        endpoint: String,
        /// What it asks for.
        retry_after: Duration,
    },
    /// No endpoint gave the bytes.
    #[error("{upstream} at {endpoint} {cause}")]
    Endpoint {
        /// The registry.
        upstream: RegistryHost,
        /// The URL of the endpoint that failed last.
        endpoint: String,
        /// How.
        cause: EndpointFailure,
    },
    /// The whole blob came, and its SHA-256 is not its digest. Its last piece was not sent.
    #[error("wrong bytes from {}", .endpoints.join(" or "))]
    DigestMismatch {
        /// The URLs of those that sent a part of it.
        endpoints: Vec<String>,
    },
    /// Cancelled, or nobody takes the pieces any more.
    #[error("cancelled")]
    Cancelled,
}
