//! A client's stream that is watched: how much has moved, and how long a write has waited for the client.
//!
//! A client that reads nothing holds what was made for it. Nothing above the socket sees that: HTTP, TLS and tunnels
//! all wait for a write. So the limit lies at the socket, and holds for all of them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream whose writes fail once the other side has taken nothing for the limit.
#[derive(Debug)]
pub struct Watched<S> {
    stream: S,
    movement: Arc<Movement>,
    limit: Duration,
    /// Runs while a write waits.
    limit_timer: Option<Pin<Box<Sleep>>>,
    is_waiting: bool,
}

/// What a stream's owner sees of it from outside.
#[derive(Debug)]
pub struct Movement {
    born_at: Instant,
    bytes: AtomicU64,
    /// Milliseconds from birth to the beginning of the wait; [`NOT_WAITING`] while no write waits.
    waits_from: AtomicU64,
    is_overdue: AtomicBool,
}

impl Movement {
    fn new() -> Self {
        Self {
            born_at: Instant::now(),
            bytes: AtomicU64::new(0),
            waits_from: AtomicU64::new(NOT_WAITING),
            is_overdue: AtomicBool::new(false),
        }
    }

    /// Bytes that were read or written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// For how long a write has waited without any progress; zero if none waits.
    pub fn stalled_for(&self, now: Instant) -> Duration {
        match self.waits_from.load(Ordering::Relaxed) {
            NOT_WAITING => Duration::ZERO,
            millis => now.saturating_duration_since(self.born_at + Duration::from_millis(millis)),
        }
    }

    /// Whether a write failed because it waited for the limit.
    pub fn is_overdue(&self) -> bool {
        self.is_overdue.load(Ordering::Relaxed)
    }

    fn moved(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

impl<S> Watched<S> {
    /// Watches a stream; a write may wait for `limit`.
    pub fn new(stream: S, limit: Duration) -> Self {
        let movement = Arc::new(Movement::new());
        Self { stream, movement, limit, limit_timer: None, is_waiting: false }
    }

    /// What is seen of it.
    pub fn movement(&self) -> Arc<Movement> {
        self.movement.clone()
    }

    /// The stream itself.
    pub fn get_ref(&self) -> &S {
        &self.stream
    }

    fn judge(
        &mut self,
        context: &mut Context<'_>,
        polled: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let Poll::Ready(written) = polled {
            if std::mem::take(&mut self.is_waiting) {
                self.movement.waits_from.store(NOT_WAITING, Ordering::Relaxed);
            }
            self.movement.moved(*written.as_ref().unwrap_or(&0));
            return Poll::Ready(written);
        }
        if !std::mem::replace(&mut self.is_waiting, true) {
            let now = Instant::now();
            let waits_from = now.saturating_duration_since(self.movement.born_at).as_millis();
            let waits_from = u64::try_from(waits_from).unwrap_or(NOT_WAITING);
            self.movement.waits_from.store(waits_from, Ordering::Relaxed);
            match &mut self.limit_timer {
                Some(timer) => timer.as_mut().reset(now + self.limit),
                None => self.limit_timer = Some(Box::pin(tokio::time::sleep_until(now + self.limit))),
            }
        }
        let timer = self.limit_timer.as_mut().expect("set when the wait began");
        if timer.as_mut().poll(context).is_pending() {
            return Poll::Pending;
        }
        self.movement.is_overdue.store(true, Ordering::Relaxed);
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.movement.moved(buffer.filled().len() - before);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.judge(context, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.judge(context, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

const NOT_WAITING: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_nothing_for_the_limit_is_given_up() {
        let (stream, mut client) = duplex(4);
        let mut watched = Watched::new(stream, LIMIT);
        let movement = watched.movement();
        let began_at = Instant::now();
        let writer = tokio::spawn(async move { watched.write_all(&[0; 12]).await });
        tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
        assert_eq!(movement.stalled_for(Instant::now()), LIMIT - Duration::from_secs(1));
        // Some progress, and the time starts again.
        client.read_exact(&mut [0; 4]).await.unwrap();
        let error = writer.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began_at.elapsed(), 2 * LIMIT - Duration::from_secs(1));
        assert!(movement.is_overdue() && movement.bytes() == 8);
    }

    #[tokio::test(start_paused = true)]
    async fn who_reads_slowly_and_who_is_sent_nothing_stay() {
        let (stream, mut client) = duplex(4);
        let mut watched = Watched::new(stream, LIMIT);
        let movement = watched.movement();
        let writer = tokio::spawn(async move {
            watched.write_all(&[0; 40]).await?;
            tokio::time::sleep(10 * LIMIT).await;
            watched.write_all(&[0; 4]).await
        });
        for _ in 0..10 {
            tokio::time::sleep(LIMIT / 2).await;
            client.read_exact(&mut [0; 4]).await.unwrap();
        }
        client.read_exact(&mut [0; 4]).await.unwrap();
        writer.await.unwrap().unwrap();
        assert!(!movement.is_overdue() && movement.stalled_for(Instant::now()) == Duration::ZERO);
    }
}
