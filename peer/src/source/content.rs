//! A blob's body as one endpoint sends it: checked against what was asked for, timed, never longer than it should be.

use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use flotilla_proto::Layout;
use http::{Response, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;

use super::failure::{Causes, EndpointFailure};
use super::header as wire;

/// A body and where in the blob it is.
pub(super) struct Content {
    body: Incoming,
    start: u64,
    /// Of the next byte.
    pub(super) offset: u64,
    pub(super) end: u64,
}

impl Content {
    /// Checks that the answer can hold what is needed: that very range, or the whole blob.
    pub(super) fn open(
        response: Response<Incoming>,
        needed: Range<u64>,
        layout: &Layout,
    ) -> Result<Self, EndpointFailure> {
        let headers = response.headers();
        let range = match response.status() {
            StatusCode::PARTIAL_CONTENT if wire::is_content_range_of(headers, &needed, layout.size()) => {
                needed
            }
            StatusCode::PARTIAL_CONTENT => return Err(EndpointFailure::WrongRange),
            _ => 0..layout.size(),
        };
        let expected = range.end - range.start;
        match wire::content_length(headers) {
            Some(announced) if announced != expected => {
                Err(EndpointFailure::WrongSize { announced, expected })
            }
            _ => Ok(Self {
                body: response.into_body(),
                start: range.start,
                offset: range.start,
                end: range.end,
            }),
        }
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
