//! Reading a blob: every wanted piece once, in order, however often the registry fails on the way.
//!
//! The loop asks for what is still needed of the run at hand and feeds whatever comes to the cutter, which
//! knows how far it is. A failure changes who is asked next, never what was cut. A whole blob is one plain GET, as
//! proxy-cache projects want it; a resumption or a partial reading asks for a range. A resumption takes the whole
//! body if it gets that; a partial reading becomes one of the whole, or the next part would be the whole again.
//! Where several endpoints can give a large blob, each part comes from another than the one before.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::{Digest, Layout, Origins, PieceSet, RegistryMark};
use http::StatusCode;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

use super::ahead::{Ahead, Aheads, Part};
use super::blob_request::{Answer, BlobRequest};
use super::content::Content;
use super::cutter::{Cutter, Finished, Hasher};
use super::endpoint::EndpointClient;
use super::failure::EndpointFailure;
use super::metrics::{FailureReason, Received};
use super::order::{ReadError, ReadOrder, ReadSummary, SourcePiece};
use super::provenance::Provenance;
use super::roster::{Candidate, Roster};
use super::wholes::Whole;
use super::{ReadBy, Shared};

/// One reading under way.
pub(super) struct Reading<'a> {
    shared: &'a Arc<Shared>,
    digest: Digest,
    layout: Layout,
    sink: mpsc::Sender<SourcePiece>,
    until: watch::Receiver<u32>,
    cutter: Cutter,
    hasher: Hasher,
    is_whole: bool,
    /// Held while a part is read whole.
    widened: Option<Arc<Whole>>,
    roster: Roster<'a>,
    aheads: Aheads,
    provenance: Provenance,
    received: Received,
    readers: Readers,
}

impl<'a> Reading<'a> {
    pub(super) fn new(shared: &'a Arc<Shared>, order: ReadOrder, sink: mpsc::Sender<SourcePiece>) -> Self {
        let ReadOrder { digest, layout, wanted, until, credentials, purpose } = order;
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
            widened: None,
            roster: Roster::new(shared, credentials, layout.piece_len().bytes().into()),
            aheads: Aheads::new(),
            provenance: Provenance::default(),
            received: shared.metrics.received(purpose),
            readers: Readers::default(),
        }
    }

    pub(super) async fn run(mut self) -> Result<ReadSummary, ReadError> {
        while let Some(needed) = self.cutter.needed() {
            if self.is_superseded() {
                return Ok(self.summary(false));
            }
            self.until_allowed().await?;
            let candidate = self.roster.current().await?;
            if let Some(part) = self.aheads.take(needed.start) {
                self.go_on_with(part, &candidate).await?;
                continue;
            }
            let endpoint = self.roster.endpoint();
            let other = self.aheads.other(&self.shared.ahead, &candidate, &endpoint);
            let asked = self.aheads.share(needed.clone(), other.as_ref());
            match self.ask(&candidate, &endpoint, &asked).await {
                Ok(Answer::Content(response)) => {
                    self.roster.accepted();
                    self.readers.note(candidate.read_by());
                    if response.status() == StatusCode::OK && !self.widen() {
                        continue;
                    }
                    if response.status() == StatusCode::PARTIAL_CONTENT && asked.end < needed.end {
                        self.read_ahead(other, &candidate, asked.end);
                    }
                    let giver = RegistryMark::of(&candidate.upstream);
                    let body = Content::open(response, asked, &self.layout, &endpoint)
                        .map(|content| Feed::Asked(content, giver));
                    let Some(failure) = self.consume(body, &endpoint).await? else { continue };
                    self.failed(&candidate, &endpoint, failure)?;
                }
                Ok(Answer::Refused(answer)) => {
                    self.shared.metrics.count_error(FailureReason::Refused);
                    self.roster.refused(answer);
                }
                Err(failure) => self.failed(&candidate, &endpoint, failure)?,
            }
        }
        self.finish().await
    }

    /// Whether somebody else reads the whole blob, and with it these parts.
    fn is_superseded(&self) -> bool {
        !self.is_whole && self.provenance.is_empty() && self.shared.wholes.contains(self.digest)
    }

    /// The registry gives the whole blob only: a reading of parts that has nothing yet keeps all of it. `false` if
    /// somebody else does already.
    fn widen(&mut self) -> bool {
        if self.is_whole || !self.provenance.is_empty() {
            return true;
        }
        self.widened = self.shared.wholes.begin(self.digest).map(Arc::new);
        if self.widened.is_some() {
            let all = PieceSet::full(self.layout.piece_count());
            self.cutter = Cutter::new(self.layout, &all);
            self.hasher = Hasher::new(self.digest, &self.layout, &all);
            self.is_whole = true;
        }
        self.is_whole
    }

    /// Takes in a part that was read ahead, while another endpoint begins on the next. How it fails is of
    /// no consequence: what it did not give is asked for as ever.
    async fn go_on_with(&mut self, part: Ahead, candidate: &Arc<Candidate>) -> Result<(), ReadError> {
        let endpoint = Arc::clone(&part.endpoint);
        let other = self.aheads.other(&self.shared.ahead, candidate, &endpoint);
        self.read_ahead(other, candidate, part.end);
        if let Some(failure) = self.consume(Ok(Feed::Ahead(part)), &endpoint).await? {
            self.note_failure(candidate, &endpoint, &failure);
            if failure.is_outage() {
                endpoint.seems_down();
            }
            self.aheads.failed(&endpoint);
        }
        Ok(())
    }

    /// Has `endpoint` read from `start` on, as far as may be read of this run for the present.
    fn read_ahead(&mut self, endpoint: Option<Arc<EndpointClient>>, candidate: &Arc<Candidate>, start: u64) {
        let (Some(endpoint), Some(needed)) = (endpoint, self.cutter.needed()) else { return };
        let until = *self.until.borrow();
        let is_paced = until < self.layout.piece_count();
        let allowed = if is_paced { self.layout.piece_range(until).start } else { needed.end };
        let range = start..needed.end.min(allowed);
        if self.aheads.start().is_some() || range.is_empty() {
            return;
        }
        let (candidate, digest, layout) = (Arc::clone(candidate), self.digest, self.layout);
        let part = Part { candidate, digest, layout, range };
        self.aheads.begin(self.shared, endpoint, part, &self.received);
    }

    /// Asks for the bytes. What is waited for may get less time meanwhile: another place comes.
    async fn ask(
        &mut self,
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
            range: (!is_whole_blob && endpoint.gives_parts()).then(|| needed.clone()),
        };
        let (began_at, limit) = (Instant::now(), self.shared.config.header_timeout);
        let mut answer = pin!(request.send());
        loop {
            let after = self.roster.share(limit, began_at.elapsed());
            tokio::select! {
                answer = &mut answer => return answer,
                () = sleep_until(began_at + after) => return Err(EndpointFailure::NoHeader { after }),
                () = self.roster.offered() => {}
            }
        }
    }

    fn failed(
        &mut self,
        candidate: &Candidate,
        endpoint: &EndpointClient,
        failure: EndpointFailure,
    ) -> Result<(), ReadError> {
        self.note_failure(candidate, endpoint, &failure);
        if self.cutter.needed().is_some() {
            self.roster.failed(endpoint, failure);
            return Ok(());
        }
        // Everything came, and then something else: there is nothing to ask another place for.
        Err(ReadError::Endpoint {
            upstream: candidate.upstream.clone(),
            endpoint: endpoint.name().to_owned(),
            cause: failure,
        })
    }

    fn note_failure(&self, candidate: &Candidate, endpoint: &EndpointClient, failure: &EndpointFailure) {
        self.shared.metrics.count_error(failure.reason());
        let (blob, name) = (self.digest.short(), endpoint.name());
        tracing::debug!(%blob, upstream = %candidate.upstream, endpoint = name, %failure, "source read interrupted");
    }

    /// Feeds one body to the cutter, to its end or as far as it is of use; how its endpoint failed, if it did.
    async fn consume(
        &mut self,
        body: Result<Feed, EndpointFailure>,
        endpoint: &Arc<EndpointClient>,
    ) -> Result<Option<EndpointFailure>, ReadError> {
        let fed = match body {
            Ok(body) => self.feed(body, endpoint).await,
            Err(failure) => Err(failure.into()),
        };
        match fed {
            Ok(()) => Ok(None),
            Err(Interruption::Endpoint(failure)) => {
                self.flush().await?;
                Ok(Some(failure))
            }
            Err(Interruption::End(error)) => Err(error),
        }
    }

    async fn feed(&mut self, mut body: Feed, endpoint: &Arc<EndpointClient>) -> Result<(), Interruption> {
        loop {
            let (offset, end) = body.position();
            // What is left of a whole body after the last wanted piece is not worth reading, nor is what
            // another endpoint is reading.
            let stop = self.aheads.start().map_or(end, |start| start.min(end));
            if self.cutter.needed().is_none_or(|needed| needed.start >= stop) && offset < end {
                return Ok(());
            }
            self.until_allowed().await?;
            let patience = self.shared.config.stall_timeout.min(self.roster.time_left());
            tokio::select! {
                biased;
                Some(finished) = self.hasher.finished(), if !self.is_last_held_back() => {
                    self.release(finished).await?;
                }
                frame = body.next(patience) => {
                    let Some(bytes) = frame? else { return Ok(()) };
                    let end = body.position().0;
                    self.take(end, bytes, body.giver(), endpoint).await?;
                    self.roster.resumed();
                }
            }
        }
    }

    /// Takes in bytes that end at `end` in the blob.
    async fn take(
        &mut self,
        end: u64,
        bytes: Bytes,
        (is_ahead, giver): (bool, RegistryMark),
        endpoint: &Arc<EndpointClient>,
    ) -> Result<(), ReadError> {
        let len = bytes.len();
        self.provenance.note(end - len as u64..end, endpoint);
        self.readers.origins.insert(giver);
        // What was read ahead was counted and paid for when it came.
        if is_ahead {
            return self.cut(end, bytes).await;
        }
        self.received.count(len as u64);
        self.cut(end, bytes).await?;
        endpoint.caps.pass(len).await;
        Ok(())
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
            self.roster.resumed();
        }
        Ok(())
    }

    /// Cuts `bytes`, which end at `end` in the blob.
    async fn cut(&mut self, end: u64, mut bytes: Bytes) -> Result<(), ReadError> {
        let mut offset = end - bytes.len() as u64;
        let needed_from = self.cutter.needed().map_or(end, |needed| needed.start.max(offset));
        self.roster.progressed(end.saturating_sub(needed_from));
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
            Finished::Piece(mut piece) => {
                piece.whole.clone_from(&self.widened);
                piece.origins.clone_from(&self.readers.origins);
                self.sink.send(piece).await.map_err(|_| ReadError::Cancelled)?;
                // Waiting for the sink was no fault of the registry.
                self.roster.resumed();
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
        if let Some(endpoint) = self.provenance.only().filter(|_| is_verified) {
            endpoint.sent_right_bytes(self.digest);
        }
        Ok(self.summary(is_verified))
    }

    fn summary(self, is_verified: bool) -> ReadSummary {
        ReadSummary { source_bytes: self.received.bytes(), is_verified, read_by: self.readers.last() }
    }

    /// Blames the endpoints that gave a part, and the place, if it was one alone.
    fn digest_mismatch(&mut self) -> ReadError {
        self.shared.metrics.count_error(FailureReason::Digest);
        if self.readers.is_one() {
            self.roster.sent_wrong_bytes(&self.provenance.names());
        }
        self.provenance.blame(self.digest, &self.layout);
        ReadError::DigestMismatch { endpoints: self.provenance.names() }
    }
}

/// Who was served a part of the blob.
#[derive(Default)]
struct Readers {
    last: Option<ReadBy>,
    is_mixed: bool,
    /// The registries that gave any byte.
    origins: Origins,
}

impl Readers {
    fn note(&mut self, reader: ReadBy) {
        self.is_mixed |= self.last.as_ref().is_some_and(|last| *last != reader);
        self.last = Some(reader);
    }

    fn last(self) -> Option<ReadBy> {
        self.last
    }

    fn is_one(&self) -> bool {
        self.last.is_some() && !self.is_mixed
    }
}

/// Where bytes come from.
enum Feed {
    /// The answer to what was asked last, and which registry's it is.
    Asked(Content, RegistryMark),
    /// A part that was read ahead.
    Ahead(Ahead),
}

impl Feed {
    /// Where in the blob it is, and where it ends.
    fn position(&self) -> (u64, u64) {
        match self {
            Self::Asked(body, _) => (body.offset, body.end),
            Self::Ahead(part) => (part.offset, part.end),
        }
    }

    /// Whether it was read ahead, and which registry gives it.
    fn giver(&self) -> (bool, RegistryMark) {
        match self {
            Self::Asked(_, giver) => (false, *giver),
            Self::Ahead(part) => (true, part.giver),
        }
    }

    /// The next bytes, waiting for `patience`; `None` at the right end. Dropping the future loses nothing.
    async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, EndpointFailure> {
        match self {
            Self::Asked(body, _) => body.next(patience).await,
            Self::Ahead(part) => part.next(patience).await,
        }
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
