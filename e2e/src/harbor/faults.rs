//! What goes wrong with answers on purpose.
//!
//! A fault strikes answers that would have been good, so that the 401 which begins a caller's
//! way in does not use it up; at `/v2/` it strikes any. A fault of the body strikes only a body
//! that is long enough for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::Digest;
use hyper::header::CONTENT_RANGE;
use hyper::{Method, StatusCode};
use tokio::sync::watch;

use super::answer::Answer;
use super::call::{Call, Host, Resource, Route};

/// Which requests a fault is for.
#[derive(Debug, Clone)]
pub struct On {
    kind: Option<Kind>,
    method: Option<Method>,
    repository: Option<String>,
    digest: Option<Digest>,
    skip: u64,
    times: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Blob,
    Token,
    Base,
    Storage,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// The answer begins later.
    Delay(Duration),
    /// The answer does not begin until the fault is cleared.
    Hang,
    /// The connection ends after so many bytes of the body.
    CutAfter(usize),
    /// After so many bytes of the body nothing comes until the fault is cleared.
    StallAfter(usize),
    /// The body ends well after so many bytes, and nothing said how long it would be.
    Truncate(usize),
    /// One bit in the middle of the body is wrong.
    WrongBytes,
    /// The whole content comes with 200 where a part of it was asked for.
    IgnoreRange,
    /// A web page, with 200.
    Html200,
    /// Another status, with an error in JSON.
    Status(u16),
    /// 429, with `Retry-After` in seconds if there is a number.
    TooMany {
        /// The header's value.
        retry_after: Option<u64>,
    },
}

/// A fault that was ordered. It stays in force when this is dropped.
#[derive(Debug, Clone)]
pub struct FaultHandle(Arc<Order>);

#[derive(Debug)]
struct Order {
    on: On,
    what: What,
    seen: AtomicU64,
    hits: AtomicU64,
    cleared: watch::Sender<bool>,
}

/// All faults that were ordered.
#[derive(Debug, Default)]
pub(super) struct Faults(Vec<Arc<Order>>);

/// What an answer waits for before it begins.
#[derive(Debug)]
pub(super) enum Wait {
    For(Duration),
    Until(Cleared),
}

/// How a body ends.
#[derive(Debug, Default)]
pub(super) enum Ending {
    #[default]
    Clean,
    /// The connection is cut after so many bytes.
    Cut(usize),
    /// So many bytes, and the rest when the fault is cleared.
    Stall(usize, Cleared),
}

/// Waits for the end of a fault.
#[derive(Debug)]
pub(super) struct Cleared(watch::Receiver<bool>);

impl On {
    const fn new(kind: Option<Kind>) -> Self {
        Self { kind, method: None, repository: None, digest: None, skip: 0, times: u64::MAX }
    }

    /// Every request to either host.
    pub const fn anything() -> Self {
        Self::new(None)
    }

    /// Requests for manifests.
    pub const fn manifests() -> Self {
        Self::new(Some(Kind::Manifest))
    }

    /// Requests for blobs to the registry.
    pub const fn blobs() -> Self {
        Self::new(Some(Kind::Blob))
    }

    /// Requests to the token service.
    pub const fn tokens() -> Self {
        Self::new(Some(Kind::Token))
    }

    /// Requests for `/v2/`.
    pub const fn base() -> Self {
        Self::new(Some(Kind::Base))
    }

    /// Requests to the object store.
    pub const fn storage() -> Self {
        Self::new(Some(Kind::Storage))
    }

    /// Of these, those with GET.
    pub fn get(self) -> Self {
        Self { method: Some(Method::GET), ..self }
    }

    /// Of these, those with HEAD.
    pub fn head(self) -> Self {
        Self { method: Some(Method::HEAD), ..self }
    }

    /// Of these, those for one repository.
    pub fn repository(self, name: &str) -> Self {
        Self { repository: Some(name.to_owned()), ..self }
    }

    /// Of these, those whose answer is about this digest, by whatever name it was asked for.
    pub fn digest(self, digest: Digest) -> Self {
        Self { digest: Some(digest), ..self }
    }

    /// Of these, not the first `count`.
    pub fn skip(self, count: u64) -> Self {
        Self { skip: count, ..self }
    }

    /// Of these, `count` at most.
    pub fn times(self, count: u64) -> Self {
        Self { times: count, ..self }
    }

    fn matches(&self, call: &Call, answer: &Answer) -> bool {
        let kind = kind(call);
        let repository = match call.route() {
            Route::Repository(name, _) => Some(name),
            Route::Base | Route::Token | Route::Catalog | Route::Unknown => None,
        };
        self.kind.is_none_or(|wanted| kind == Some(wanted))
            && self.method.as_ref().is_none_or(|method| *method == call.method)
            && self.repository.as_deref().is_none_or(|name| repository == Some(name))
            && self.digest.is_none_or(|digest| answer.digest == Some(digest))
            && (answer.status.as_u16() < 400 || self.kind == Some(Kind::Base))
    }
}

impl What {
    /// Whether there is something to go wrong.
    fn can_strike(self, call: &Call, answer: &Answer) -> bool {
        let has_body = matches!(answer.status.as_u16(), 200 | 206) && !call.is_head();
        match self {
            Self::Delay(_) | Self::Hang | Self::Html200 | Self::Status(_) | Self::TooMany { .. } => true,
            Self::CutAfter(len) | Self::StallAfter(len) | Self::Truncate(len) => {
                has_body && answer.body.len() > len
            }
            Self::WrongBytes => has_body && !answer.body.is_empty(),
            Self::IgnoreRange => answer.whole.is_some(),
        }
    }

    fn strike(self, order: &Order, mut answer: Answer) -> Answer {
        match self {
            Self::Delay(time) => answer.waits.push(Wait::For(time)),
            Self::Hang => answer.waits.push(Wait::Until(order.cleared())),
            Self::CutAfter(len) => answer.ending = Ending::Cut(len),
            Self::StallAfter(len) => answer.ending = Ending::Stall(len, order.cleared()),
            Self::Truncate(len) => {
                answer.body.truncate(len);
                answer.chunked = true;
                answer.effect = None;
            }
            Self::WrongBytes => answer.body = flip_bit(&answer.body),
            Self::IgnoreRange => {
                answer.headers.remove(CONTENT_RANGE);
                answer.status = StatusCode::OK;
                answer.body = answer.whole.take().unwrap_or_default();
            }
            Self::Html200 => answer = answer.replaced_by(Answer::ok("text/html", PAGE)),
            Self::Status(status) => {
                let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
                let error = Answer::error(status, "UNKNOWN", "a fault was ordered");
                answer = answer.replaced_by(error);
            }
            Self::TooMany { retry_after } => {
                let status = StatusCode::TOO_MANY_REQUESTS;
                let error = Answer::error(status, "TOO_MANY_REQUEST", "too many requests");
                let error = match retry_after {
                    Some(seconds) => error.with("retry-after", &seconds.to_string()),
                    None => error,
                };
                answer = answer.replaced_by(error);
            }
        }
        answer
    }
}

impl Faults {
    pub(super) fn order(&mut self, on: On, what: What) -> FaultHandle {
        let (seen, hits) = (AtomicU64::new(0), AtomicU64::new(0));
        let order = Arc::new(Order { on, what, seen, hits, cleared: watch::Sender::new(false) });
        self.0.push(Arc::clone(&order));
        FaultHandle(order)
    }

    /// Lets all faults that are for it strike an answer, in the order they were ordered.
    pub(super) fn strike(&self, call: &Call, mut answer: Answer) -> Answer {
        for order in &self.0 {
            if order.is_for(call, &answer) {
                answer = order.what.strike(order, answer);
            }
        }
        answer
    }
}

impl Order {
    fn is_for(&self, call: &Call, answer: &Answer) -> bool {
        if *self.cleared.borrow() || !self.on.matches(call, answer) || !self.what.can_strike(call, answer) {
            return false;
        }
        let index = self.seen.fetch_add(1, Ordering::Relaxed);
        let strikes = index >= self.on.skip && index - self.on.skip < self.on.times;
        self.hits.fetch_add(u64::from(strikes), Ordering::Relaxed);
        strikes
    }

    fn cleared(&self) -> Cleared {
        Cleared(self.cleared.subscribe())
    }
}

impl FaultHandle {
    /// Ends the fault: it strikes no more, and what hangs or stalls goes on.
    pub fn clear(&self) {
        self.0.cleared.send_replace(true);
    }

    /// How many answers it has struck.
    pub fn hits(&self) -> u64 {
        self.0.hits.load(Ordering::Relaxed)
    }
}

impl Wait {
    pub(super) async fn over(self) {
        match self {
            Self::For(time) => tokio::time::sleep(time).await,
            Self::Until(cleared) => cleared.wait().await,
        }
    }
}

impl Cleared {
    pub(super) async fn wait(mut self) {
        // The sender goes when Harbor does: then nobody waits for this either.
        let _ = self.0.wait_for(|cleared| *cleared).await;
    }
}

/// The same bytes but for one bit in the middle.
pub(super) fn flip_bit(content: &Bytes) -> Bytes {
    let mut content = content.to_vec();
    let middle = content.len() / 2;
    if let Some(byte) = content.get_mut(middle) {
        *byte ^= 1;
    }
    content.into()
}

fn kind(call: &Call) -> Option<Kind> {
    if call.host == Host::Storage {
        return Some(Kind::Storage);
    }
    match call.route() {
        Route::Base => Some(Kind::Base),
        Route::Token => Some(Kind::Token),
        Route::Repository(_, Resource::Manifest(_)) => Some(Kind::Manifest),
        Route::Repository(_, Resource::Blob(_)) => Some(Kind::Blob),
        Route::Repository(..) | Route::Catalog | Route::Unknown => None,
    }
}

const PAGE: &str = "<!DOCTYPE html><html><body>Please log in to the network.</body></html>\n";
