//! A body on its way: counted as it goes, and ended as a fault wants it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, stream};
use http_body_util::StreamBody;
use hyper::body::Frame;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;

use super::Shared;
use super::answer::{Answer, Effect};
use super::faults::{Cleared, Ending};
use super::log::Entry;

/// The body of an answer.
pub(super) type Body = StreamBody<Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Cut>> + Send>>>;

/// The connection is to end here.
#[derive(Debug, thiserror::Error)]
#[error("a fault cuts the connection here")]
pub(super) struct Cut;

/// Says when a connection has handed all it had to the kernel.
#[derive(Debug, Clone, Default)]
pub(super) struct Flushes(Arc<Notify>);

/// A connection that says so.
#[derive(Debug)]
pub(super) struct Flushing<S> {
    stream: S,
    flushes: Flushes,
}

/// The body of `answer`; the request of `entry` ends with it.
pub(super) fn body(answer: Answer, entry: Entry, flushes: Flushes, shared: Arc<Shared>) -> Body {
    let mut now = answer.body;
    let then = match answer.ending {
        Ending::Clean => Then::End,
        Ending::Cut(len) => {
            now.truncate(len);
            Then::Cut
        }
        Ending::Stall(len, cleared) => {
            let rest = now.split_off(len);
            Then::GoOn(cleared, rest)
        }
    };
    let mut sending = Sending { now, then, effect: answer.effect, entry, flushes, shared };
    sending.settle();
    StreamBody::new(Box::pin(stream::unfold(sending, Sending::next)))
}

struct Sending {
    now: Bytes,
    then: Then,
    effect: Option<Effect>,
    entry: Entry,
    flushes: Flushes,
    shared: Arc<Shared>,
}

enum Then {
    End,
    Cut,
    GoOn(Cleared, Bytes),
}

impl Sending {
    async fn next(mut self) -> Option<(Result<Frame<Bytes>, Cut>, Self)> {
        while self.now.is_empty() {
            match std::mem::replace(&mut self.then, Then::End) {
                Then::End => return None,
                Then::Cut => {
                    self.flushes.next().await;
                    return Some((Err(Cut), self));
                }
                Then::GoOn(cleared, rest) => {
                    cleared.wait().await;
                    self.now = rest;
                }
            }
        }
        let chunk = self.now.split_to(self.now.len().min(CHUNK_LEN));
        self.entry.sent(chunk.len());
        self.settle();
        Some((Ok(Frame::data(chunk)), self))
    }

    /// Nobody asks what comes behind the last byte of a body whose length was stated.
    fn settle(&mut self) {
        if self.now.is_empty() && matches!(self.then, Then::End) {
            self.effect.take().into_iter().for_each(|effect| self.shared.registry().apply(effect));
        }
    }
}

impl Flushes {
    /// Waits for the first flush from here on. The body and its connection are one task, so none
    /// is missed.
    async fn next(&self) {
        self.0.notified().await;
    }
}

impl<S> Flushing<S> {
    pub(super) fn new(stream: S) -> (Self, Flushes) {
        let flushes = Flushes::default();
        (Self { stream, flushes: flushes.clone() }, flushes)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Flushing<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Flushing<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        if flushed.is_ready() {
            self.flushes.0.notify_waiters();
        }
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Small beside a blob: what was sent but not read counts as sent.
const CHUNK_LEN: usize = 16 << 10;
