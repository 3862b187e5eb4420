//! A connection that ends when it must, and not when one of its ends chooses.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Resolves when a connection must end, with why.
pub(super) type MustEnd = Pin<Box<dyn Future<Output = &'static str> + Send>>;

/// A stream that fails from then on, in both directions: HTTP/2 closes it and ends its calls.
pub(super) struct Guarded<S, G> {
    pub(super) stream: S,
    must_end: Option<MustEnd>,
    /// Who is at the other end, and what is held for as long as it is there.
    pub(super) guest: G,
}

impl<S, G> Guarded<S, G> {
    pub(super) fn new(stream: S, must_end: MustEnd, guest: G) -> Self {
        Self { stream, must_end: Some(must_end), guest }
    }

    fn poll_allowed(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(must_end) = &mut self.must_end else { return Err(io::ErrorKind::ConnectionAborted.into()) };
        let Poll::Ready(reason) = must_end.as_mut().poll(context) else { return Ok(()) };
        self.must_end = None;
        Err(io::Error::other(reason))
    }
}

impl<S: AsyncRead + Unpin, G: Unpin> AsyncRead for Guarded<S, G> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_allowed(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

/// Writing is guarded too: nobody reads from an end that takes no bytes.
impl<S: AsyncWrite + Unpin, G: Unpin> AsyncWrite for Guarded<S, G> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_allowed(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_allowed(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_allowed(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }
}
