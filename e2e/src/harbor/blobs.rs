//! Blobs by digest (§2.2).

use bytes::Bytes;
use flotilla_proto::Digest;
use hyper::StatusCode;
use hyper::header::ETAG;

use super::answer::{Answer, etag};
use super::behaviour::Behaviour;
use super::call::Call;
use super::ranges;
use super::storage::SignedUrls;

/// A read of a blob.
pub(super) struct Read<'a> {
    pub(super) call: &'a Call,
    pub(super) digest: Digest,
    pub(super) behaviour: &'a Behaviour,
    pub(super) urls: &'a SignedUrls,
}

impl Read<'_> {
    /// Answers GET and HEAD, given the blob if the repository holds it.
    pub(super) fn answer(self, content: Option<&Bytes>) -> Answer {
        let Self { call, digest, behaviour, .. } = self;
        let Some(content) = content.filter(|_| !(call.is_head() && behaviour.head_blob_404)) else {
            return not_found(digest);
        };
        if behaviour.redirect_blobs {
            return self.redirect();
        }
        let range = call.header("range").filter(|_| !behaviour.ignore_range);
        let answer = ranges::serve(call, range, content, &etag(digest))
            .about(digest)
            .with("cache-control", "max-age=31536000");
        if behaviour.chunked_blobs && answer.status == StatusCode::OK {
            without_length(answer)
        } else {
            answer
        }
    }

    fn redirect(&self) -> Answer {
        let life = self.behaviour.signed_url_life;
        let url = self.urls.sign(&self.call.method, self.digest, self.call.at, life);
        let body = format!("<a href=\"{}\">Temporary Redirect</a>.\n\n", url.replace('&', "&amp;"));
        let answer = Answer::ok("text/html; charset=utf-8", body).with("location", &url);
        Answer { status: StatusCode::TEMPORARY_REDIRECT, digest: Some(self.digest), ..answer }
    }
}

/// Answers about a blob whose digest is not SHA-256.
pub(super) fn of_other_digest(call: &Call, digest: &str, content: Option<&Bytes>) -> Answer {
    let Some(content) = content else {
        return Answer::not_found("BLOB_UNKNOWN", &format!("blob unknown to registry: {digest}"));
    };
    let etag = format!("\"{digest}\"");
    let answer = ranges::serve(call, call.header("range"), content, &etag);
    answer.with("docker-content-digest", digest).with("etag", &etag)
}

/// As Harbor up to 2.15 passes on what it reads from upstream (§2.3).
pub(super) fn without_length(mut answer: Answer) -> Answer {
    answer.headers.remove(ETAG);
    answer.headers.remove("docker-content-digest");
    Answer { chunked: true, ..answer }
}

pub(super) fn not_found(digest: Digest) -> Answer {
    Answer::not_found("BLOB_UNKNOWN", &format!("blob unknown to registry: {digest}"))
}
