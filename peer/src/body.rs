//! HTTP bodies that stream from elsewhere in the daemon.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::mpsc;

use crate::source::{BodyStream, BoxError};
use crate::transport::Incoming;

/// A body that is there already.
pub(crate) fn full(bytes: impl Into<Bytes>) -> BodyStream {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// A body without a byte.
pub(crate) fn empty() -> BodyStream {
    full(Bytes::new())
}

/// A body that breaks at once.
pub(crate) fn broken(reason: &'static str) -> BodyStream {
    from_task(move |sender| async move {
        // Whoever reads it may be gone.
        let _ = sender.send(Err(reason.into())).await;
    })
}

/// Reads a body whole; `None` if it breaks, or is longer than `max_len` bytes.
pub(crate) async fn read_whole(mut body: BodyStream, max_len: usize) -> Option<Bytes> {
    let mut whole = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.ok()?.into_data() else { continue };
        if whole.len() + data.len() > max_len {
            return None;
        }
        whole.extend_from_slice(&data);
    }
    Some(whole.freeze())
}

/// The rest of a stream between peers. A cut stream is an error, never a clean end.
pub(crate) fn from_stream(stream: Incoming) -> BodyStream {
    from_task(|sender| pump(stream, sender))
}

/// A body that `task` feeds; it ends with the task, and the task is dropped with the body.
pub(crate) fn from_task<F>(task: impl FnOnce(mpsc::Sender<Result<Bytes, BoxError>>) -> F) -> BodyStream
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let task = tokio::spawn(task(sender));
    Fed { receiver, task: AbortOnDrop(task) }.boxed_unsync()
}

async fn pump(mut stream: Incoming, sender: mpsc::Sender<Result<Bytes, BoxError>>) {
    loop {
        let next = match stream.chunk(CHUNK).await {
            Ok(Some(chunk)) => Ok(chunk),
            Ok(None) => return,
            Err(error) => Err(Box::new(error) as BoxError),
        };
        let ended = next.is_err();
        if sender.send(next).await.is_err() {
            return stream.stop();
        }
        if ended {
            return;
        }
    }
}

/// Bytes of a chunk at most.
const CHUNK: usize = 64 << 10;

/// Chunks or pieces that may wait for a slow client.
const CHUNKS_AHEAD: usize = 1;

struct Fed {
    receiver: mpsc::Receiver<Result<Bytes, BoxError>>,
    #[expect(dead_code, reason = "dropping it ends the task")]
    task: AbortOnDrop,
}

impl http_body::Body for Fed {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.receiver.poll_recv(context).map(|next| next.map(|chunk| chunk.map(Frame::data)))
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    fn chunks(chunks: Vec<Result<Bytes, BoxError>>) -> BodyStream {
        from_task(|sender| async move {
            for chunk in chunks {
                if sender.send(chunk).await.is_err() {
                    return;
                }
            }
        })
    }

    fn chunk(text: &'static str) -> Result<Bytes, BoxError> {
        Ok(Bytes::from_static(text.as_bytes()))
    }

    #[tokio::test]
    async fn a_body_is_read_whole_up_to_its_limit() {
        let body = || chunks(vec![chunk("ab"), chunk("cde")]);
        assert_eq!(read_whole(body(), 5).await.unwrap(), "abcde");
        assert_eq!(read_whole(body(), 4).await, None);
        assert_eq!(read_whole(empty(), 0).await.unwrap(), "");
    }

    #[tokio::test]
    async fn a_cut_body_is_no_whole_one() {
        assert_eq!(read_whole(chunks(vec![chunk("ab"), Err("cut".into())]), 5).await, None);
    }

    #[tokio::test]
    async fn a_body_that_nobody_reads_on_ends_its_task() {
        let (ends_with_the_task, ended) = oneshot::channel::<()>();
        let mut body = from_task(|sender| async move {
            let _held = ends_with_the_task;
            let _ = sender.send(chunk("ab")).await;
            std::future::pending::<()>().await;
        });
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "ab");
        drop(body);
        ended.await.unwrap_err();
    }
}
