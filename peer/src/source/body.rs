//! Bodies on their way through: lent to an attempt, timed while idle, counted, or read whole up to a limit.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;
use prometheus_client::metrics::counter::Counter;
use tokio::time::{Instant, Sleep};

use super::caps::Caps;

/// A body that streams in either direction.
pub type BodyStream = UnsyncBoxBody<Bytes, BoxError>;

/// What a streaming body fails with.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A body without a byte.
pub(super) fn empty() -> BodyStream {
    http_body_util::Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// The first `limit` bytes of a body; fewer if it breaks before.
pub(super) async fn read_prefix(mut body: Incoming, limit: usize) -> Bytes {
    let mut read = BytesMut::new();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let room = limit - read.len();
        read.extend_from_slice(&data[..data.len().min(room)]);
        if read.len() == limit {
            break;
        }
    }
    read.freeze()
}

/// A request's body, lent to one attempt after another until one begins to send it.
///
/// The HTTP client keeps the request when it cannot connect; what was never polled is still
/// here for the next endpoint.
pub(super) struct Outgoing(Arc<Mutex<Unsent>>);

/// The lock is held for a take or a store, never over an await.
struct Unsent {
    body: Option<BodyStream>,
    last_progress: Instant,
}

impl Outgoing {
    pub(super) fn new(body: BodyStream) -> Self {
        Self(Arc::new(Mutex::new(Unsent { body: Some(body), last_progress: Instant::now() })))
    }

    /// A body to send; `None` once an earlier one began to be sent.
    pub(super) fn lend(&self) -> Option<BodyStream> {
        let unsent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let body = unsent.body.as_ref()?;
        let lent = Lent {
            unsent: Arc::clone(&self.0),
            taken: None,
            ended: body.is_end_stream(),
            hint: body.size_hint(),
        };
        Some(lent.boxed_unsync())
    }

    /// Whether it can be lent.
    pub(super) fn is_unsent(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).body.is_some()
    }

    /// Whether there is nothing to send, or nothing left.
    pub(super) fn is_empty(&self) -> bool {
        let unsent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        unsent.body.as_ref().is_none_or(Body::is_end_stream)
    }

    /// When the last piece of the body was handed to the connection.
    pub(super) fn last_progress(&self) -> Instant {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).last_progress
    }
}

struct Lent {
    unsent: Arc<Mutex<Unsent>>,
    taken: Option<BodyStream>,
    ended: bool,
    hint: SizeHint,
}

impl Body for Lent {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if this.taken.is_none() {
            this.taken = this.unsent.lock().unwrap_or_else(PoisonError::into_inner).body.take();
        }
        let Some(body) = &mut this.taken else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(cx));
        this.unsent.lock().unwrap_or_else(PoisonError::into_inner).last_progress = Instant::now();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.taken.as_ref().map_or(self.ended, Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.taken.as_ref().map_or(self.hint, Body::size_hint)
    }
}

/// A registry's answer passed on: fails when nothing comes for `idle`. A blob's is counted, and held to the
/// endpoint's cap.
pub(super) struct Relayed {
    body: Incoming,
    idle: Duration,
    waiting: Option<Pin<Box<Sleep>>>,
    blob: Option<RelayedBlob>,
}

/// What passing a blob on costs.
pub(super) struct RelayedBlob {
    pub(super) counter: Counter,
    pub(super) caps: Arc<Caps>,
    /// Until when what came before has not had its time.
    pub(super) paying: Option<Pin<Box<Sleep>>>,
}

impl RelayedBlob {
    fn came(&mut self, bytes: usize) {
        self.counter.inc_by(bytes as u64);
        self.paying = self.caps.paid_at(bytes).map(|paid| Box::pin(tokio::time::sleep_until(paid)));
    }

    fn poll_paid(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(paying) = &mut self.paying {
            ready!(paying.as_mut().poll(cx));
            self.paying = None;
        }
        Poll::Ready(())
    }
}

impl Relayed {
    pub(super) fn new(body: Incoming, idle: Duration, blob: Option<RelayedBlob>) -> Self {
        Self { body, idle, waiting: None, blob }
    }
}

impl Body for Relayed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = &mut *self;
        if let Some(blob) = &mut this.blob {
            ready!(blob.poll_paid(cx));
        }
        if let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) {
            // The clock runs only while the registry is waited for: a client that reads slowly is no fault of it.
            this.waiting = None;
            if let (Some(blob), Some(Ok(frame))) = (&mut this.blob, &frame) {
                blob.came(frame.data_ref().map_or(0, Bytes::len));
            }
            return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
        }
        let idle = this.idle;
        let sleep = this.waiting.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle)));
        ready!(sleep.as_mut().poll(cx));
        Poll::Ready(Some(Err(Box::new(RegistryIdle { idle }))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A relayed body gave nothing for too long.
#[derive(Debug, thiserror::Error)]
#[error("the registry gave no byte for {idle:?}")]
struct RegistryIdle {
    idle: Duration,
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::Full;

    fn body(text: &'static str) -> BodyStream {
        Full::new(Bytes::from_static(text.as_bytes())).map_err(|never| match never {}).boxed_unsync()
    }

    #[tokio::test]
    async fn a_body_nobody_began_to_send_is_lent_again() {
        let outgoing = Outgoing::new(body("push"));
        drop(outgoing.lend().unwrap());
        let second = outgoing.lend().unwrap();
        assert_eq!(second.size_hint().exact(), Some(4));
        assert_eq!(second.collect().await.unwrap().to_bytes(), "push");
    }

    #[tokio::test]
    async fn a_body_half_sent_is_not_lent_again() {
        let outgoing = Outgoing::new(body("push"));
        let mut first = outgoing.lend().unwrap();
        first.frame().await.unwrap().unwrap();
        drop(first);
        assert!(outgoing.lend().is_none());
    }
}
