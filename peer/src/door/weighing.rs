//! What an answer takes of the budget before its headers go out. Manifests are counted where they are read, pieces
//! in `blob_body`; all else when it leaves the door.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use headers::{ContentLength, HeaderMapExt as _};
use http::{Extensions, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use tokio::time::Instant;

use super::blob::HEADER_TIME;
use super::client::{self, Bound, Client, RETRY_AFTER};
use super::error::refusal;
use super::flight::{BUDGET, Content, Held};
use crate::body;
use crate::grant::{MAX_MANIFEST, Manifest};
use crate::source::{BodyStream, BoxError};

/// Marks an answer of which each chunk holds its part of the budget already.
#[derive(Debug, Clone, Copy)]
pub(super) struct Weighed;

/// What has an answer's bytes counted, until its headers are due.
pub(super) struct Scales {
    client: Arc<Client>,
    deadline: Instant,
}

impl Scales {
    /// For the answer to the request that has just come with these extensions.
    pub(super) fn new(extensions: &Extensions) -> Self {
        Self { client: client::of(extensions), deadline: Instant::now() + HEADER_TIME }
    }

    /// The same answer, whose bytes count in the budget until they are written; a 503 where there is no room in
    /// time.
    pub(super) async fn weighed(&self, answer: Response<BodyStream>) -> Response<BodyStream> {
        if answer.extensions().get::<Weighed>().is_some() {
            return answer;
        }
        let weight = match answer.body().size_hint().exact() {
            // It may be in memory as a whole.
            Some(len) if len <= MAX_MANIFEST as u64 => len,
            Some(_) | None => {
                let told = answer.headers().typed_get().map(|ContentLength(len)| len);
                told.unwrap_or(STREAM_BYTES).min(STREAM_BYTES)
            }
        };
        let weight = usize::try_from(weight).expect("no longer than a manifest");
        match self.hold(weight).await {
            Ok(None) => answer,
            Ok(Some(held)) => {
                let held = Arc::new(held);
                answer.map(|body| Weighing { body, held }.boxed_unsync())
            }
            Err(refused) => refused,
        }
    }

    /// An answer with this manifest's bytes, which count once for all who are sent the same one. `held` was for
    /// reading them.
    pub(super) async fn with_manifest(
        &self,
        mut answer: Response<BodyStream>,
        manifest: &Manifest,
        held: Option<Held>,
    ) -> Response<BodyStream> {
        let content = Content::Manifest(manifest.digest);
        let mut bytes = manifest.bytes.clone();
        if let Some(same) = self.client.account.share(content) {
            bytes = same;
        } else {
            let held = match held {
                Some(held) => Ok(Some(held)),
                None => self.hold(bytes.len()).await,
            };
            match held {
                Ok(None) => {}
                Ok(Some(mut held)) => {
                    held.shrink(bytes.len());
                    bytes = held.carry(content, bytes);
                }
                Err(refused) => return refused,
            }
        }
        *answer.body_mut() = body::full(bytes);
        answer.extensions_mut().insert(Weighed);
        answer
    }

    /// Bytes of the budget for an answer that waits to be read: `None` where it is light, a 503 where there is no
    /// room in time.
    pub(super) async fn hold(&self, bytes: usize) -> Result<Option<Held>, Response<BodyStream>> {
        // What every connection may have beside the budget: hyper's own buffer takes as much.
        if bytes <= LIGHT_BYTES {
            return Ok(None);
        }
        let now = Instant::now();
        let until = self.deadline.min(now + ROOM_WAIT).max(now + LEAST_WAIT);
        let held = self.client.account.take_for_sent(bytes, until).await;
        held.map(Some).ok_or_else(|| no_room(&self.client))
    }
}

/// The answer to a client when its answer has no room in the budget.
pub(super) fn no_room(client: &Client) -> Response<BodyStream> {
    client.bounds.met(Bound::AnswerBytes);
    let message = format!("no room in the {} MiB of answers under way at this node; ask again", BUDGET >> 20);
    let mut refused = refusal(StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE", &message);
    refused.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(RETRY_AFTER));
    refused
}

/// A body whose every chunk shares what is held for it.
struct Weighing {
    body: BodyStream,
    held: Arc<Held>,
}

impl Body for Weighing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        let polled = Pin::new(&mut this.body).poll_frame(context);
        let carried = |bytes| Bytes::from_owner(Part { bytes, _held: this.held.clone() });
        polled.map(|next| next.map(|frame| frame.map(|frame| frame.map_data(carried))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

struct Part {
    bytes: Bytes,
    _held: Arc<Held>,
}

impl AsRef<[u8]> for Part {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A chunk in hyper's hands, and one that waits for it (`body.rs`).
const STREAM_BYTES: u64 = 128 << 10;

const LIGHT_BYTES: usize = 64 << 10;

/// An answer that waits fills what its seed may send ahead, which is all other answers', too.
const ROOM_WAIT: Duration = Duration::from_secs(2);

/// An answer that took its time may wait a moment all the same.
const LEAST_WAIT: Duration = Duration::from_millis(250);
