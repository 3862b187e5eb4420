//! A blob that passes: no piece of it is kept, for nobody knows where its pieces end.

use bytes::Bytes;
use flotilla_proto::Digest;
use http_body_util::BodyExt as _;
use sha2::{Digest as _, Sha256};

use crate::body;
use crate::source::{BodyStream, BoxError};

/// The same bytes, of which the last go only once all are found right; then `found` is told how many they were. What
/// is wrong ends as a cut.
pub(super) fn checked(
    mut body: BodyStream,
    digest: Digest,
    found: impl FnOnce(u64) + Send + 'static,
) -> BodyStream {
    body::from_task(move |sender| async move {
        let (mut hasher, mut size, mut held) = (Sha256::new(), 0, None::<Bytes>);
        let ended: Result<(), BoxError> = loop {
            let data = match body.frame().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(error),
                Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            };
            if data.is_empty() {
                continue;
            }
            hasher.update(&data);
            size += data.len() as u64;
            if let Some(before) = held.replace(data)
                && sender.send(Ok(before)).await.is_err()
            {
                return;
            }
        };
        let right = ended.and_then(|()| {
            if Digest::from_bytes(hasher.finalize().into()) != digest {
                return Err(format!("the registry sent other bytes than {digest}").into());
            }
            found(size);
            Ok(())
        });
        // A client that is gone needs no end.
        let _ = match (right, held) {
            (Ok(()), Some(last)) => sender.send(Ok(last)).await,
            (Ok(()), None) => Ok(()),
            (Err(reason), _) => sender.send(Err(reason)).await,
        };
    })
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn right_bytes_pass_and_their_number_is_known() {
        for content in [&b"right"[..], b""] {
            let (tell, told) = oneshot::channel();
            let passed = checked(body::full(content), Digest::of(content), |size| tell.send(size).unwrap());
            assert_eq!(body::read_whole(passed, 100).await.unwrap(), content);
            assert_eq!(told.await, Ok(content.len() as u64));
        }
    }

    #[tokio::test]
    async fn wrong_bytes_never_pass_whole() {
        let passed = checked(body::full("wrong"), Digest::of(b"right"), |_| unreachable!());
        assert_eq!(body::read_whole(passed, 100).await, None);
        let passed = checked(body::broken("gone"), Digest::of(b""), |_| unreachable!());
        assert_eq!(body::read_whole(passed, 100).await, None);
    }
}
