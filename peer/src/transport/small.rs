//! Small blobs, which a seed sends whole to whoever asks first: a plan would take longer than they do
//! (docs/design.md §3). The seed wants the blob as a client would, so that it is read once whoever
//! else wants it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use flotilla_proto::wire::peer::response::Status;
use flotilla_proto::wire::peer::{HttpHead, Response, Small};
use flotilla_proto::{Digest, Failure, FailureCause, Layout, frame};
use quinn::SendStream;

use super::Offered;
use super::serve::{AnswerError, Services, read_credential, say, say_forward_error, say_refusal};
use crate::body;
use crate::grant::{self, MAX_MANIFEST};
use crate::seed::Moment;
use crate::source::{BodyStream, ReadCredential};
use crate::swarm::Wish;

/// Blobs of at most so many bytes are sent whole.
pub(crate) const SMALL: u32 = 1 << 20;

impl Services {
    /// Answers who asks for a small blob: the credential is confirmed while the blob is had.
    pub(super) async fn small(&self, send: &mut SendStream, asked: Small) -> Result<(), AnswerError> {
        let Some(seed) = &self.seed else {
            return say(send, Status::Refused, "only a seed sends blobs whole").await;
        };
        let layout = Layout::of(asked.size).filter(|layout| (1..=SMALL.into()).contains(&layout.size()));
        let (Some((digest, credential)), Some(layout)) = (asked.credential.and_then(read_credential), layout)
        else {
            return say(send, Status::Refused, "a malformed request for a small blob").await;
        };
        if !self.given.admit(digest) {
            return say(send, Status::Busy, "it was sent to many already").await;
        }
        let wanted = self.swarm.want(digest, layout, &Wish::Whole, credential.clone());
        let (offered, live) = tokio::join!(seed.confirm(digest, credential, Moment::First), wanted);
        match offered {
            Ok(Offered::Confirmed) => {}
            Ok(Offered::Refused(refusal)) => return say_refusal(send, refusal).await,
            Err(error) => return say_forward_error(send, &error).await,
        }
        let ended = async {
            let live = live?;
            let known = live.layout().size();
            if known == layout.size() { live.ended().await } else { Err(other_size(digest, known)) }
        };
        let ended = tokio::select! {
            ended = ended => ended,
            // Whoever asked goes by a plan instead.
            _ = send.stopped() => return Ok(()),
        };
        match ended {
            Ok(()) => self.send_whole(send, digest, layout).await,
            Err(failure) => {
                let Some(size) = failure.other_size() else {
                    // This seed's own trouble, or that of other clients' places: it may be had by a plan.
                    return say(send, Status::Busy, &failure.message).await;
                };
                let head = HttpHead { status: failure.status.into(), ..Default::default() };
                let (status, head, other_size) = (Status::UpstreamFailed.into(), Some(head), Some(size));
                let header =
                    Response { status, head, other_size, detail: failure.message, ..Default::default() };
                Ok(send.write_chunk(frame::encode(&header)).await?)
            }
        }
    }

    async fn send_whole(
        &self,
        send: &mut SendStream,
        digest: Digest,
        layout: Layout,
    ) -> Result<(), AnswerError> {
        let small = |error: &dyn std::fmt::Display| AnswerError::Small(error.to_string());
        let opened = self.store.open_blob(digest).await.map_err(|error| small(&error))?;
        let file = opened.ok_or_else(|| small(&"it was evicted"))?;
        let mut whole = Vec::new();
        for piece in 0..layout.piece_count() {
            whole.push(self.store.read(&file, piece).await.map_err(|error| small(&error))?);
        }
        // Once all is read: what gave it is among them.
        let (status, origins) = (Status::Ok.into(), file.origins().bits());
        send.write_chunk(frame::encode(&Response { status, origins, ..Default::default() })).await?;
        for bytes in whole {
            self.uploaded_bytes.inc_by(bytes.len() as u64);
            self.write(send, bytes).await?;
        }
        self.small_blobs.inc();
        Ok(())
    }
}

impl Services {
    /// Begins to read the small blobs of a manifest on its way to a client: they will be asked for.
    /// A manifest that is too long, or broken, passes on as it came.
    pub(super) async fn begin_small(
        &self,
        answer: http::Response<BodyStream>,
        credential: &ReadCredential,
    ) -> http::Response<BodyStream> {
        let (head, body) = answer.into_parts();
        let Some(manifest) = body::read_whole(body, MAX_MANIFEST).await else {
            return http::Response::from_parts(head, body::broken("the manifest is broken, or too long"));
        };
        let ahead = small_of(&manifest);
        let (swarm, credential) = (self.swarm.clone(), credential.clone());
        // The manifest does not wait for the store.
        tokio::spawn(async move {
            for (digest, layout) in ahead {
                if swarm.live(digest).is_none() {
                    // Whoever asks for it is told of a failure.
                    let _ = swarm.want(digest, layout, &Wish::Whole, credential.clone()).await;
                }
            }
        });
        http::Response::from_parts(head, body::full(manifest))
    }
}

fn other_size(digest: Digest, size: u64) -> Failure {
    Failure::new(502, "SIZE_INVALID", format!("{digest} has {size} bytes"), FailureCause::OtherSize(size))
}

/// What of a manifest is small, up to [`MOST_AHEAD`].
fn small_of(manifest: &[u8]) -> Vec<(Digest, Layout)> {
    let mut together = 0;
    let small = grant::blobs(manifest).into_iter().filter(|(_, size)| (1..=SMALL.into()).contains(size));
    let ahead = small.take_while(|(_, size)| {
        together += size;
        together <= MOST_AHEAD
    });
    ahead.filter_map(|(digest, size)| Some((digest, Layout::of(size)?))).collect()
}

/// How often each blob was asked for.
#[derive(Debug, Default)]
pub(super) struct GivenCounts(Mutex<HashMap<Digest, u32>>);

impl GivenCounts {
    /// Whether the blob was asked for seldom enough to be sent once more.
    fn admit(&self, digest: Digest) -> bool {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.len() >= COUNTED && !counts.contains_key(&digest) {
            counts.clear();
        }
        let count = counts.entry(digest).or_default();
        let admitted = *count < GIVEN;
        *count += u32::from(admitted);
        admitted
    }
}

/// Bytes of blobs that one manifest makes a seed read ahead.
const MOST_AHEAD: u64 = 16 << 20;

/// So many are sent a blob whole; all others swap it among themselves.
const GIVEN: u32 = 32;

/// Blobs that are counted. Beyond, counting begins anew: 32 more may be sent.
const COUNTED: usize = 16_384;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_ahead_is_small_and_not_too_much() {
        let layers: Vec<String> = (0..40_u64)
            .map(|layer| {
                let (digest, size) =
                    (Digest::of(&layer.to_le_bytes()), if layer == 1 { 2 << 20 } else { 1 << 20 });
                format!(r#"{{"digest":"{digest}","size":{size}}}"#)
            })
            .collect();
        let manifest = format!(r#"{{"layers":[{}]}}"#, layers.join(","));
        let ahead = small_of(manifest.as_bytes());
        assert_eq!(ahead.len(), 16);
        assert!(
            ahead
                .iter()
                .all(|(digest, layout)| *digest != Digest::of(&1_u64.to_le_bytes())
                    && layout.size() == 1 << 20)
        );
    }

    #[test]
    fn a_blob_is_sent_whole_to_the_first_and_the_count_is_bounded() {
        let counts = GivenCounts::default();
        let admitted = (0..40).filter(|_| counts.admit(Digest::of(b"config"))).count();
        assert_eq!(admitted, 32);
        for blob in 0..2 * COUNTED {
            assert!(counts.admit(Digest::of(&blob.to_le_bytes())));
        }
        assert!(counts.0.lock().unwrap().len() <= COUNTED);
    }
}
