//! A blob's body as one endpoint sends it: checked against what was asked for, timed, never longer than it should be.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::Layout;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::body::BodyStream;
use super::encoding::Codings;
use super::endpoint::EndpointClient;
use super::failure::{Causes, EndpointFailure};
use super::header as wire;

/// A body and where in the blob it is.
pub(super) struct Content {
    body: BodyStream,
    start: u64,
    /// Of the next byte.
    pub(super) offset: u64,
    pub(super) end: u64,
}

impl Content {
    /// Checks that the answer can hold what is needed: that very range, or the whole blob.
    ///
    /// A label says that a body is encoded; the blob's own length says that it is not. Storage labels layers
    /// by what they are, and front ends compress them on the way.
    pub(super) fn open(
        response: Response<Incoming>,
        needed: Range<u64>,
        layout: &Layout,
        endpoint: &EndpointClient,
    ) -> Result<Self, EndpointFailure> {
        let headers = response.headers();
        let codings = Codings::of(headers);
        let length = wire::content_length(headers);
        let range = match response.status() {
            StatusCode::PARTIAL_CONTENT if wire::is_content_range_of(headers, &needed, layout.size()) => {
                needed
            }
            StatusCode::PARTIAL_CONTENT => {
                let (other, expected) = (wire::whole_length(headers), layout.size());
                let other = other.filter(|announced| *announced != expected);
                return Err(other.map_or(EndpointFailure::WrongRange, |announced| {
                    EndpointFailure::WrongSize { announced, expected }
                }));
            }
            _ => 0..layout.size(),
        };
        let expected = range.end - range.start;
        let is_partial = response.status() == StatusCode::PARTIAL_CONTENT;
        let body = response.into_body().map_err(Into::into).boxed_unsync();
        let is_plain = length == Some(expected) || codings.as_ref().is_some_and(Codings::is_identity);
        let body = match (codings, length) {
            (_, None) if is_plain => body,
            (_, Some(announced)) if is_plain && announced != expected => {
                return Err(EndpointFailure::WrongSize { announced, expected });
            }
            (_, Some(_)) if is_plain => body,
            (Some(_), _) if is_partial => return Err(EndpointFailure::WrongRange),
            (Some(codings), _) => {
                endpoint.is_seen_to_encode();
                codings.decode(body)
            }
            (None, _) => return Err(EndpointFailure::Encoded),
        };
        Ok(Self { body, start: range.start, offset: range.start, end: range.end })
    }

    /// The next bytes, waiting for `patience`; `None` at the right end. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, patience: Duration) -> Result<Option<Bytes>, EndpointFailure> {
        loop {
            let frame = match tokio::time::timeout(patience, self.body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                // Everything came: how the connection ends does not matter.
                _ if self.offset == self.end => return Ok(None),
                Ok(None) => return Err(self.truncated()),
                Ok(Some(Err(error))) => return Err(EndpointFailure::Cut(Causes::of(error))),
                Err(_) => return Err(EndpointFailure::Stalled { after: patience }),
            };
            let Ok(bytes) = frame.into_data() else { continue };
            self.offset += bytes.len() as u64;
            if self.offset > self.end {
                return Err(EndpointFailure::TooLong { expected: self.end - self.start });
            }
            return Ok(Some(bytes));
        }
    }

    fn truncated(&self) -> EndpointFailure {
        EndpointFailure::Truncated { received: self.offset - self.start, expected: self.end - self.start }
    }
}
