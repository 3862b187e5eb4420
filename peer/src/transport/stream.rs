//! Headers and bodies on one QUIC stream.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use flotilla_proto::frame::{self, FrameError};
use prost::Message;
use quinn::{ReadError, RecvStream, SendStream, VarInt};
use tokio::time::timeout;

/// The receiving half of a request or answer: a header first, then raw bytes.
pub(crate) struct Incoming {
    stream: RecvStream,
    /// What came behind the header in the same read.
    ahead: BytesMut,
}

impl Incoming {
    pub(crate) fn new(stream: RecvStream) -> Self {
        Self { stream, ahead: BytesMut::new() }
    }

    /// The header. `patience` bounds each wait for more of it.
    pub(crate) async fn header<M: Message + Default>(
        &mut self,
        patience: Duration,
    ) -> Result<M, HeaderError> {
        loop {
            if let Some(message) = frame::decode(&mut self.ahead)? {
                return Ok(message);
            }
            let read = self.stream.read_chunk(HEADER_READ, true);
            match timeout(patience, read).await.map_err(|_| HeaderError::Stalled)?? {
                Some(chunk) => self.ahead.extend_from_slice(&chunk.bytes),
                None => return Err(HeaderError::Cut),
            }
        }
    }

    /// The next of several messages, however long it takes; `None` at the end.
    pub(crate) async fn message<M: Message + Default>(&mut self) -> Result<Option<M>, HeaderError> {
        loop {
            if let Some(message) = frame::decode(&mut self.ahead)? {
                return Ok(Some(message));
            }
            match self.stream.read_chunk(HEADER_READ, true).await? {
                Some(chunk) => self.ahead.extend_from_slice(&chunk.bytes),
                None if self.ahead.is_empty() => return Ok(None),
                None => return Err(HeaderError::Cut),
            }
        }
    }

    /// The next bytes, at most `max` of them; `None` at the end.
    pub(crate) async fn chunk(&mut self, max: usize) -> Result<Option<Bytes>, ReadError> {
        if !self.ahead.is_empty() {
            let len = self.ahead.len().min(max);
            return Ok(Some(self.ahead.split_to(len).freeze()));
        }
        Ok(self.stream.read_chunk(max, true).await?.map(|chunk| chunk.bytes))
    }

    /// What has come, in as many chunks as there is room for. How many; `None` at the end.
    pub(crate) async fn chunks(&mut self, chunks: &mut [Bytes]) -> Result<Option<usize>, ReadError> {
        if !self.ahead.is_empty() {
            chunks[0] = self.ahead.split().freeze();
            return Ok(Some(1));
        }
        self.stream.read_chunks(chunks).await
    }

    /// Says that the rest is not wanted.
    pub(crate) fn stop(&mut self) {
        // A stream that has ended has nothing to stop.
        let _ = self.stream.stop(NOT_WANTED);
    }
}

/// Ends a stream so that the other side sees a cut, never a clean end.
pub(crate) fn cut(stream: &mut SendStream) {
    // A stream that is gone cannot be cut any more.
    let _ = stream.reset(NOT_WANTED);
}

/// A header's first read: most headers are shorter.
const HEADER_READ: usize = 4096;

const NOT_WANTED: VarInt = VarInt::from_u32(1);

/// Why no header came.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    #[error("no answer in time")]
    Stalled,
    #[error("the stream ended before its header")]
    Cut,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<HeaderError> for io::Error {
    fn from(error: HeaderError) -> Self {
        Self::other(error)
    }
}
