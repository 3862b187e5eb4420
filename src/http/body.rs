//! Bodies: empty, from memory, from a file, and read back as bounded text.

use std::io::{self, SeekFrom};
use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::Frame;
use tokio::fs::File;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};
use tokio_util::io::ReaderStream;

/// What every request and response here carries.
pub(crate) type Body = UnsyncBoxBody<Bytes, BoxError>;

/// What ends a body early.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// No bytes.
pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// Bytes in memory.
pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// The bytes `range` of the file at `path`, read as they are sent.
pub(crate) async fn file(path: &Path, range: Range<u64>) -> io::Result<Body> {
    let mut file = File::open(path).await?;
    file.seek(SeekFrom::Start(range.start)).await?;
    let reader = file.take(range.end - range.start);
    let frames = ReaderStream::with_capacity(reader, READ_LEN).map_ok(Frame::data).map_err(BoxError::from);
    Ok(StreamBody::new(frames).boxed_unsync())
}

/// The body as text, cut after `limit` bytes; what is no UTF-8 is replaced. An error of the
/// connection ends the text where it struck: this is for messages, not for content.
pub(crate) async fn text<B>(mut body: B, limit: usize) -> String
where
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    let mut bytes = Vec::new();
    while bytes.len() < limit {
        let Some(Ok(frame)) = body.frame().await else { break };
        if let Some(data) = frame.data_ref() {
            bytes.extend_from_slice(&data[..data.len().min(limit - bytes.len())]);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Bytes read from a file at once: large enough that the blocking pool is no bottleneck.
const READ_LEN: usize = 256 * 1024;
