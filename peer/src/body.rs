//! HTTP bodies that stream from elsewhere in the daemon.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

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
pub(crate) async fn read_whole(body: BodyStream, max_len: usize) -> Option<Bytes> {
    read_into(BytesMut::new(), body, max_len).await
}

/// As [`read_whole`], where it is told how long the body is: so much memory is taken and no more.
pub(crate) async fn read_told(body: BodyStream, len: usize) -> Option<Bytes> {
    read_into(BytesMut::with_capacity(len), body, len).await
}

async fn read_into(mut whole: BytesMut, mut body: BodyStream, max_len: usize) -> Option<Bytes> {
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
///
/// What nobody reads stays in the connection's window, which is all other streams', too. So where `unread` is given,
/// only as many as it permits may stand still for long.
pub(crate) fn from_stream(stream: Incoming, unread: Option<Arc<Semaphore>>) -> BodyStream {
    let is_cut = Arc::new(AtomicBool::new(false));
    fed(is_cut.clone(), |sender| pump(stream, sender, Unread { permits: unread, is_cut }))
}

/// A body that `task` feeds; it ends with the task, and the task is dropped with the body.
pub(crate) fn from_task<F>(task: impl FnOnce(mpsc::Sender<Result<Bytes, BoxError>>) -> F) -> BodyStream
where
    F: Future<Output = ()> + Send + 'static,
{
    fed(Arc::default(), task)
}

fn fed<F>(
    is_cut: Arc<AtomicBool>,
    task: impl FnOnce(mpsc::Sender<Result<Bytes, BoxError>>) -> F,
) -> BodyStream
where
    F: Future<Output = ()> + Send + 'static,
{
    let (sender, receiver) = mpsc::channel(CHUNKS_AHEAD);
    let task = tokio::spawn(task(sender));
    Fed { receiver, is_cut, task: AbortOnDrop(task) }.boxed_unsync()
}

/// What happens to a stream that nobody reads.
struct Unread {
    permits: Option<Arc<Semaphore>>,
    /// There was no room for the reason.
    is_cut: Arc<AtomicBool>,
}

impl Unread {
    /// Whether it was sent: not if the receiver is gone, or took nothing for long, as others do already.
    async fn send<T>(&self, sender: &mpsc::Sender<T>, next: T) -> bool {
        let mut sending = std::pin::pin!(sender.send(next));
        let Some(permits) = &self.permits else { return sending.await.is_ok() };
        if let Ok(sent) = timeout(UNREAD_TIME, sending.as_mut()).await {
            return sent.is_ok();
        }
        let Ok(_permit) = permits.try_acquire() else {
            self.is_cut.store(true, Ordering::Relaxed);
            return false;
        };
        sending.await.is_ok()
    }
}

async fn pump(mut stream: Incoming, sender: mpsc::Sender<Result<Bytes, BoxError>>, unread: Unread) {
    loop {
        let next = match stream.chunk(CHUNK).await {
            Ok(Some(chunk)) => Ok(chunk),
            Ok(None) => return,
            Err(error) => Err(Box::new(error) as BoxError),
        };
        let ended = next.is_err();
        if !unread.send(&sender, next).await {
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

/// Streams of one node that may stand still for longer than [`UNREAD_TIME`]: half of what a connection's window has
/// room for, with 8 MiB each (`transport/quic.rs`).
pub(crate) const UNREAD: usize = 4;

/// A client that reads at all has read some by then.
const UNREAD_TIME: Duration = Duration::from_secs(4);

struct Fed {
    receiver: mpsc::Receiver<Result<Bytes, BoxError>>,
    /// It ends as a cut.
    is_cut: Arc<AtomicBool>,
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
        let next = std::task::ready!(self.receiver.poll_recv(context));
        if next.is_none() && self.is_cut.swap(false, Ordering::Relaxed) {
            return Poll::Ready(Some(Err("it was not read for too long, as others are not".into())));
        }
        Poll::Ready(next.map(|chunk| chunk.map(Frame::data)))
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

    #[tokio::test(start_paused = true)]
    async fn of_many_that_stand_still_the_last_are_cut() {
        let permits = Arc::new(Semaphore::new(2));
        let mut bodies: Vec<BodyStream> = Vec::new();
        for _ in 0..3 {
            let (unread, is_cut) = (Some(permits.clone()), Arc::new(AtomicBool::new(false)));
            let unread = Unread { permits: unread, is_cut: is_cut.clone() };
            bodies.push(fed(is_cut, |sender| async move {
                for _ in 0..3 {
                    if !unread.send(&sender, chunk("a")).await {
                        return;
                    }
                }
            }));
        }
        tokio::time::sleep(2 * UNREAD_TIME).await;
        let mut read = Vec::new();
        for body in bodies {
            read.push(read_whole(body, 10).await);
        }
        assert_eq!(read.iter().flatten().filter(|body| *body == "aaa").count(), 2, "{read:?}");
        assert_eq!(permits.available_permits(), 2);
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
