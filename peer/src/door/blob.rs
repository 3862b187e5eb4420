//! A blob request: is the client granted it, is the blob here, which bytes go out.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use flotilla_daemon::settings::{GrantLife, Upstream};
use flotilla_proto::{Digest, Layout, Origins, ParseDigestError, RepositoryName};
use headers::{ContentLength, ETag, HeaderMapExt as _};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::time::timeout_at;

use super::answer::{Answerer, holder};
use super::blob_body::BlobBody;
use super::client::{self, Client};
use super::conditions::{Judgement, judge};
use super::error::{API_VERSION, failed, not_forwarded, refusal};
use super::flight::{Content, Held};
use super::parts::Selected;
use super::passing;
use super::probing::{self, Part};
use super::pursuit::{Lost, Pursuit};
use super::range;
use super::route::Target;
use super::weighing::{Weighed, no_room};
use crate::bare::besides;
use crate::body;
use crate::egress::PATIENCE;
use crate::grant::{Holder, Trust, life};
use crate::http_wire::authorization;
use crate::metrics::PieceSource;
use crate::seed::Moment;
use crate::source::{BodyStream, Purpose, ReadCredential};
use crate::store::BlobFile;
use crate::swarm::{Live, Wish};
use crate::transport::{Given, Offered, SMALL};

/// Answers a GET or HEAD of a blob.
pub(super) async fn answer(
    door: &Answerer,
    target: &Target,
    repository: RepositoryName,
    digest: &str,
    request: Request<BodyStream>,
) -> Response<BodyStream> {
    let (head, body) = request.into_parts();
    let digest: Digest = match digest.parse() {
        Ok(digest) => digest,
        // Legal, and not cached: the registry answers.
        Err(ParseDigestError::UnsupportedAlgorithm) => {
            return door.pass(target, Request::from_parts(head, body)).await;
        }
        Err(error) => {
            return refusal(StatusCode::BAD_REQUEST, "DIGEST_INVALID", &format!("{digest:?}: {error}"));
        }
    };
    if let Some(besides) = besides(&head.headers, target.path.query()) {
        door.bypasses.note(&target.upstream, besides);
        return door.pass(target, Request::from_parts(head, body)).await;
    }
    let authorization = authorization(&head.headers);
    let credential = ReadCredential { upstream: target.upstream.clone(), repository, authorization };
    let asked = BlobRequest::new(door, digest, credential);
    if head.method == Method::HEAD && target.door.plays_registry() {
        return asked.head(target, Request::from_parts(head, body)).await;
    }
    match asked.answer(&head).await {
        Ok(answer) | Err(Ended::Answer(answer)) => answer,
        Err(Ended::OtherSize(_)) => {
            let message = format!("nobody agrees on how long {digest} is");
            refusal(StatusCode::BAD_GATEWAY, "SIZE_INVALID", &message)
        }
        Err(Ended::NoSize) => asked.pass(target, Request::from_parts(head, body)).await,
    }
}

/// One client's request for one blob.
pub(super) struct BlobRequest<'a> {
    door: &'a Answerer,
    digest: Digest,
    holder: Holder,
    credential: ReadCredential,
    /// Headers, or an error, are sent by then.
    deadline: Instant,
}

impl<'a> BlobRequest<'a> {
    pub(super) fn new(door: &'a Answerer, digest: Digest, credential: ReadCredential) -> Self {
        let holder = holder(&credential);
        Self { door, digest, holder, credential, deadline: Instant::now() + HEADER_TIME }
    }
}

impl BlobRequest<'_> {
    /// The size of a blob is a manifest's claim until the registry was seen to send it: then it is corrected,
    /// and the client is told the right one.
    async fn answer(&self, request: &Parts) -> Result<Response<BodyStream>, Ended> {
        let mut size = self.granted_size(&request.method).await?;
        for _ in 0..MAX_SIZES {
            match self.answer_sized(request, size).await {
                Err(Ended::OtherSize(right)) => size = right,
                answer => return answer,
            }
            self.door.grants.correct_size(&self.holder, self.digest, size);
        }
        Err(Ended::OtherSize(size))
    }

    /// The registry's own answer to a client that believes to speak to it: a HEAD may be more than a question.
    /// Harbor's keeps a blob from being collected until the manifest that a pusher is about to send names it. Where
    /// the registry says nothing, what is known here answers.
    async fn head(&self, target: &Target, request: Request<BodyStream>) -> Response<BodyStream> {
        let (head, body) = request.into_parts();
        let answer = self.door.pass(target, Request::from_parts(head.clone(), body)).await;
        match answer.status() {
            StatusCode::OK => {
                if let Some(ContentLength(size)) = answer.headers().typed_get() {
                    self.accepted(size);
                }
            }
            status if status.is_server_error() => return self.answer(&head).await.unwrap_or(answer),
            status => self.refused(status),
        }
        answer
    }

    /// The registry's own answer where nobody knows how long the blob is: its bytes pass, and are found right
    /// before the last of them goes. From then on the length is known.
    async fn pass(&self, target: &Target, mut request: Request<BodyStream>) -> Response<BodyStream> {
        let is_head = *request.method() == Method::HEAD;
        // Who sends no length sends no parts, either.
        request.headers_mut().remove(header::RANGE);
        // What is found right is what the digest is of.
        request.headers_mut().insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        let answer = self.door.pass(target, request).await;
        if is_head || answer.status() != StatusCode::OK {
            return answer;
        }
        let (grants, holder, digest) = (Arc::clone(&self.door.grants), self.holder.clone(), self.digest);
        let life = life(&self.credential.authorization, SystemTime::now());
        let checked = move |body| {
            passing::checked(body, digest, move |size| {
                grants.record(holder, [(digest, size)], life, Instant::now());
            })
        };
        answer.map(checked)
    }

    /// The registry has just said that the credential may have the blob.
    fn accepted(&self, size: u64) {
        let life = life(&self.credential.authorization, SystemTime::now());
        self.door.grants.record(self.holder.clone(), [(self.digest, size)], life, Instant::now());
        self.confirmed();
    }

    /// The registry has just said that the credential may not have the blob, or that there is none: some say the
    /// second for the first, so that it is said to this one alone.
    fn refused(&self, status: StatusCode) {
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.door.revoke(&self.holder),
            StatusCode::NOT_FOUND => self.door.grants.forget(&self.holder, self.digest),
            _ => {}
        }
    }

    async fn answer_sized(&self, request: &Parts, size: u64) -> Result<Response<BodyStream>, Ended> {
        let etag: ETag = format!("\"{}\"", self.digest).parse().expect("a digest makes an entity tag");
        let mut response = Response::new(body::empty());
        let headers = response.headers_mut();
        headers.typed_insert(etag.clone());
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let digest = HeaderValue::try_from(self.digest.to_string());
        headers.insert("docker-content-digest", digest.expect("a digest is visible characters"));
        headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
        let in_parts = match judge(&request.headers, &etag) {
            Judgement::Answered { in_parts } => in_parts,
            judged => {
                self.confirm(&Wish::Whole).await?;
                let is_held = judged == Judgement::NotModified;
                *response.status_mut() =
                    if is_held { StatusCode::NOT_MODIFIED } else { StatusCode::PRECONDITION_FAILED };
                return Ok(response);
            }
        };
        let range = request.headers.get(header::RANGE).and_then(|value| value.to_str().ok());
        // Only a GET has parts (RFC 9110 §14.2).
        let range = range.filter(|_| in_parts && request.method == Method::GET);
        let selected = Selected::of(range::parse(range, size), size, response.headers_mut());
        let Some((status, selected)) = selected else {
            self.confirm(&Wish::Whole).await?;
            return Err(unsatisfiable(self.digest, size).into());
        };
        *response.status_mut() = status;
        if request.method == Method::GET && size > 0 {
            *response.body_mut() = self.body(client::of(&request.extensions), size, selected).await?;
            response.extensions_mut().insert(Weighed);
        } else {
            self.confirm(&Wish::Whole).await?;
        }
        Ok(response)
    }

    /// The blob's size, if the registry has accepted this credential for it. What is here whole has told its
    /// own; who asks for no more than the size is told the registry's.
    async fn granted_size(&self, method: &Method) -> Result<u64, Ended> {
        let granted = self.door.grants.find(&self.holder, self.digest, Instant::now(), Duration::ZERO);
        if let Some(claimed) = granted.filter(|_| !self.is_asked_each_time()) {
            let live = self.door.swarm.live(self.digest);
            if let Some(complete) = live.filter(|live| live.is_complete()) {
                return Ok(complete.layout().size());
            }
            if claimed > 0 && *method == Method::GET {
                return Ok(claimed);
            }
        }
        match self.probe_once().await {
            Err(Ended::Answer(answer)) if answer.status().is_server_error() => {
                Ok(self.door.offline_size(&self.credential, self.digest).ok_or(answer)?)
            }
            judged => judged,
        }
    }

    /// As [`Self::probe`], or what somebody else with this credential is told who asks already.
    async fn probe_once(&self) -> Result<u64, Ended> {
        match self.door.probes.part(self.holder.clone(), self.digest) {
            Part::Asks(asking) => {
                let size = self.probe().await?;
                asking.accepted(size);
                Ok(size)
            }
            Part::Hears(from) => match self.in_time(probing::heard(from)).await? {
                Some(size) => Ok(size),
                None => self.probe().await,
            },
        }
    }

    /// Asks the registry whether this very credential may read the blob, and how long it is.
    async fn probe(&self) -> Result<u64, Ended> {
        let mut request = Request::new(body::empty());
        let path = format!("/v2/{}/blobs/{}", self.credential.repository, self.digest);
        *request.uri_mut() = path.parse().expect("names make a path");
        if !self.credential.authorization.is_anonymous() {
            let value = HeaderValue::from_maybe_shared(self.credential.authorization.expose().clone());
            let value = value
                .map_err(|_| refusal(StatusCode::BAD_REQUEST, "UNAUTHORIZED", "a malformed credential"))?;
            request.headers_mut().insert(header::AUTHORIZATION, value);
        }
        let key = self.digest.to_string();
        let asked =
            self.door.egress.forward(&key, &self.credential.upstream, request, Purpose::Probe, PATIENCE);
        let answer = self.in_time(asked).await?.map_err(|error| not_forwarded(&error))?;
        if !answer.status().is_success() && answer.status() != StatusCode::RANGE_NOT_SATISFIABLE {
            self.refused(answer.status());
            return Err(answer.into());
        }
        // A proxy-cache project sends what it fetches itself without a length, range or not.
        let size = size_of(&answer).or_else(|| {
            let ReadCredential { upstream, repository, .. } = &self.credential;
            self.door.grants.size(upstream, repository, self.digest)
        });
        let size = size.ok_or(Ended::NoSize)?;
        self.accepted(size);
        Ok(size)
    }

    /// Makes sure that the registry holds the blob in this repository: a manifest may list
    /// any digest. Of what is here, what was confirmed before need not be asked.
    async fn confirm(&self, wish: &Wish) -> Result<(), Response<BodyStream>> {
        let (upstream, repository) = (&self.credential.upstream, &self.credential.repository);
        let is_known = |live: &Arc<Live>| match wish {
            Wish::Whole => live.is_complete(),
            Wish::Part(pieces) => live.holds(pieces),
        };
        if self.door.swarm.live(self.digest).as_ref().is_some_and(is_known)
            && self.door.confirmed.contains(upstream, repository, self.digest)
        {
            return Ok(());
        }
        let asked = self.door.egress.confirm(self.digest, &self.credential, Moment::First);
        match self.in_time(asked).await?.map_err(|error| not_forwarded(&error))? {
            Offered::Confirmed => {
                self.confirmed();
                Ok(())
            }
            Offered::Refused(refused) => {
                self.door.revoke(&self.holder);
                Err(refused.map(body::full))
            }
        }
    }

    fn confirmed(&self) {
        let (upstream, repository) = (self.credential.upstream.clone(), self.credential.repository.clone());
        self.door.confirmed.insert(upstream, repository, self.digest);
    }

    /// The bytes, as they come. Returns once the first of them may go out, or at the
    /// deadline.
    async fn body(&self, client: Arc<Client>, size: u64, selected: Selected) -> Result<BodyStream, Ended> {
        let layout = Layout::of(size).ok_or_else(|| {
            let message = format!("{} with {size} bytes is larger than any blob may be", self.digest);
            refusal(StatusCode::BAD_GATEWAY, "SIZE_INVALID", &message)
        })?;
        let (waits_for_all, is_small) = (self.waits_for_all(), size <= SMALL.into());
        let wish = if waits_for_all || is_small { Wish::Whole } else { selected.wish(layout) };
        let live = if is_small {
            let live = self.small(layout).await?;
            self.confirm(&wish).await?;
            live
        } else {
            let (live, confirmed) = tokio::join!(self.want(layout, &wish), self.confirm(&wish));
            confirmed?;
            live?
        };
        if live.layout() != layout {
            return Err(Ended::OtherSize(live.layout().size()));
        }
        let start = layout.piece_at(selected.parts.first().expect("a part at least").bytes.start);
        self.door.piece_bytes.add(PieceSource::Store, live.claim_found());
        let reading = self.door.swarm.read_from(live, start).await;
        let first = if waits_for_all { layout.last_piece() } else { Some(start) };
        let first = first.expect("an empty blob has no body");
        let (swarm, egress) = (self.door.swarm.clone(), Arc::clone(&self.door.egress));
        let trust = Trust::of(&self.credential.upstream, &self.door.settings.borrow());
        let mut pursuit = Pursuit::new(swarm, egress, self.credential.clone(), wish, reading, trust);
        let shown = self.until_shown(&mut pursuit, layout, first).await;
        let is_late = match shown {
            Ok(()) => false,
            // Its bytes may come later.
            Err(Lost::Late) => true,
            Err(lost) => return Err(Ended::of(lost)),
        };
        let file = self.begin(layout).await?;
        let swarm = self.door.swarm.clone();
        let late = is_late.then_some(first);
        let held = match late {
            Some(_) => None,
            None => self.room(&client, &file, start).await?,
        };
        let body = BlobBody {
            store: self.door.store.clone(),
            swarm,
            file,
            account: client.account.clone(),
            held,
            pursuit,
            selected,
            late,
            last: None,
            sent: Vec::new(),
            end: None,
        };
        Ok(body::from_task(|sender| body.send(sender)))
    }

    /// Waits until the client may see the first piece.
    async fn until_shown(&self, pursuit: &mut Pursuit, layout: Layout, first: u32) -> Result<(), Lost> {
        pursuit.released(first, self.deadline, false).await?;
        let file = self.begin(layout).await.map_err(|answer| Lost::Answer(Box::new(answer)))?;
        if pursuit.may_show(&file) {
            return Ok(());
        }
        drop(file);
        pursuit.until_whole(self.deadline, false).await?;
        pursuit.until_delivered(&self.door.store, self.deadline).await
    }

    /// The blob as it is on the disk: what was begun before may have been purged meanwhile.
    async fn begin(&self, layout: Layout) -> Result<Arc<BlobFile>, Response<BodyStream>> {
        let file = self.door.store.begin(self.digest, layout).await;
        file.map_err(|error| refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", &error.to_string()))
    }

    /// Room for the first piece among the answers under way; none where it goes to somebody else already.
    async fn room(
        &self,
        client: &Client,
        file: &BlobFile,
        piece: u32,
    ) -> Result<Option<Held>, Response<BodyStream>> {
        let (account, bytes) = (&client.account, file.layout().piece_size(piece) as usize);
        let content = file.hash_of(piece).map(Content::Piece);
        if content.is_some_and(|content| account.flight().has(content)) {
            return Ok(None);
        }
        let held = timeout_at(self.deadline.into(), account.take(bytes)).await;
        held.map(Some).map_err(|_| no_room(client))
    }

    /// Whether the registry is asked whatever it granted a moment ago.
    fn is_asked_each_time(&self) -> bool {
        let settings = self.door.settings.borrow();
        let upstream = settings.upstream(&self.credential.upstream);
        upstream.is_some_and(|upstream| upstream.grants == GrantLife::Strict)
    }

    /// Whether no byte goes out before all are right: the last piece is released only then.
    fn waits_for_all(&self) -> bool {
        let settings = self.door.settings.borrow();
        settings.upstream(&self.credential.upstream).is_some_and(Upstream::releases_verified)
    }

    async fn want(&self, layout: Layout, wish: &Wish) -> Result<Arc<Live>, Ended> {
        let want = self.door.swarm.want(self.digest, layout, wish, self.credential.clone());
        self.in_time(want).await?.map_err(|failure| match failure.other_size() {
            Some(size) => Ended::OtherSize(size),
            None => Ended::Answer(failed(&failure)),
        })
    }

    /// A small blob in one request to its home seed; by a plan, where that does not give it.
    pub(super) async fn small(&self, layout: Layout) -> Result<Arc<Live>, Ended> {
        // Of several clients one asks, and the others find what it got.
        let _turn = self.door.asking.turn(self.digest).await;
        if self.door.swarm.live(self.digest).is_none() {
            let size = u32::try_from(layout.size()).expect("a small blob");
            let asked = self.door.egress.small(self.digest, size, &self.credential);
            match self.in_time(asked).await? {
                Ok(None) => {}
                Ok(Some(Given::Blob(bytes, origins))) => self.keep(layout, bytes, &origins).await,
                Ok(Some(Given::Refused(refused))) => {
                    self.door.revoke(&self.holder);
                    return Err(refused.map(body::full).into());
                }
                Ok(Some(Given::Failed(told))) => match told.other_size {
                    Some(size) => return Err(Ended::OtherSize(size)),
                    None => {
                        tracing::debug!(task = %self.digest.short(), told.detail, "a small blob goes by a plan");
                    }
                },
                Err(error) => {
                    tracing::debug!(task = %self.digest.short(), %error, "a small blob goes by a plan");
                }
            }
        }
        self.want(layout, &Wish::Whole).await
    }

    async fn keep(&self, layout: Layout, bytes: Bytes, origins: &Origins) {
        match self.door.swarm.keep(self.digest, layout, bytes, origins).await {
            Ok(()) => {
                self.door.piece_bytes.add(PieceSource::Seed, layout.size());
                self.confirmed();
            }
            Err(reason) => {
                let task = self.digest.short();
                tracing::warn!(%task, reason, "a small blob is not kept, and goes by a plan");
            }
        }
    }

    async fn in_time<T>(&self, asked: impl Future<Output = T>) -> Result<T, Response<BodyStream>> {
        timeout_at(self.deadline.into(), asked).await.map_err(|_| {
            let message = format!("{} did not answer in time", self.credential.upstream);
            refusal(StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE", &message)
        })
    }
}

/// Why a request for a blob of some size has no body.
pub(super) enum Ended {
    /// This is what the client is told.
    Answer(Response<BodyStream>),
    /// The blob has another size.
    OtherSize(u64),
    /// Nobody knows its size: neither the registry nor a manifest of the repository.
    NoSize,
}

impl std::fmt::Debug for Ended {
    /// Without headers and body: they may hold a session.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Answer(answer) => write!(f, "Answer({})", answer.status()),
            Self::OtherSize(size) => write!(f, "OtherSize({size})"),
            Self::NoSize => f.write_str("NoSize"),
        }
    }
}

impl Ended {
    fn of(lost: Lost) -> Self {
        match lost {
            Lost::Answer(answer) => Self::Answer(*answer),
            Lost::Failure(failure) => Self::Answer(failed(&failure)),
            Lost::OtherSize(size) => Self::OtherSize(size),
            Lost::Late => {
                Self::Answer(refusal(StatusCode::GATEWAY_TIMEOUT, "UNAVAILABLE", "no byte came in time"))
            }
        }
    }
}

impl From<Response<BodyStream>> for Ended {
    fn from(answer: Response<BodyStream>) -> Self {
        Self::Answer(answer)
    }
}

/// The whole length, from a probe's answer: behind the range, or of the whole body. A blob
/// without a first byte is empty.
fn size_of(answer: &Response<BodyStream>) -> Option<u64> {
    let header = |name| answer.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    match answer.status() {
        StatusCode::RANGE_NOT_SATISFIABLE => Some(0),
        StatusCode::PARTIAL_CONTENT => header(header::CONTENT_RANGE)?.rsplit_once('/')?.1.parse().ok(),
        _ => header(header::CONTENT_LENGTH)?.parse().ok(),
    }
}

fn unsatisfiable(digest: Digest, size: u64) -> Response<BodyStream> {
    let message = format!("{digest} has {size} bytes");
    let mut response = refusal(StatusCode::RANGE_NOT_SATISFIABLE, "SIZE_INVALID", &message);
    response.headers_mut().insert(header::CONTENT_RANGE, text(&format!("bytes */{size}")));
    response
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("digests and numbers are visible characters")
}

/// Clients wait for ever, or give up after 15 s: an answer comes well before (docs/design.md §6).
pub(super) const HEADER_TIME: Duration = Duration::from_millis(9_700);

/// A size is corrected so often: by what the region knows, by the registry, by another registry.
const MAX_SIZES: usize = 4;
