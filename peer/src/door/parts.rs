//! The part or parts of a blob that go to a client, and how they are framed (RFC 9110 §14.6 and §15.3.7).

use std::ops::Range;

use bytes::Bytes;
use flotilla_proto::{Layout, PieceSet};
use http::header::{self, HeaderMap};
use http::{HeaderValue, StatusCode};

use super::range::{Asked, Parts};
use crate::swarm::Wish;

/// What is sent of a blob, in order.
#[derive(Debug, Default)]
pub(super) struct Selected {
    pub(super) parts: Vec<Part>,
    /// What ends the last part.
    pub(super) tail: Bytes,
    /// Whether the client takes the end of this for the end of the blob.
    to_the_end: bool,
}

/// One run of bytes.
#[derive(Debug)]
pub(super) struct Part {
    /// What stands before the bytes.
    pub(super) head: Bytes,
    /// Not empty, within the blob.
    pub(super) bytes: Range<u64>,
}

impl Selected {
    /// What is sent of a blob of `size` bytes, with the status and headers that say so; `None` if it has none
    /// of the bytes asked for.
    pub(super) fn of(asked: Asked, size: u64, headers: &mut HeaderMap) -> Option<(StatusCode, Self)> {
        let (status, selected, media_type) = match asked {
            Asked::Whole => (StatusCode::OK, Self::one(0..size, true), text(CONTENT_TYPE)),
            Asked::Unsatisfiable => return None,
            Asked::Parts(Parts { runs, to_the_end }) if runs.len() == 1 => {
                let bytes = runs.into_iter().next().expect("there is one");
                headers.insert(header::CONTENT_RANGE, text(&content_range(&bytes, size)));
                (StatusCode::PARTIAL_CONTENT, Self::one(bytes, to_the_end), text(CONTENT_TYPE))
            }
            Asked::Parts(parts) => {
                // A blob that holds as much would have to know it beforehand.
                let boundary = format!("{:032x}", fastrand::u128(..));
                let media_type = text(&format!("multipart/byteranges; boundary={boundary}"));
                (StatusCode::PARTIAL_CONTENT, Self::several(parts, size, &boundary), media_type)
            }
        };
        headers.insert(header::CONTENT_TYPE, media_type);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(selected.len()));
        Some((status, selected))
    }

    fn one(bytes: Range<u64>, to_the_end: bool) -> Self {
        Self { parts: vec![Part { head: Bytes::new(), bytes }], tail: Bytes::new(), to_the_end }
    }

    fn several(asked: Parts, size: u64, boundary: &str) -> Self {
        let Parts { runs, to_the_end } = asked;
        let part = |(index, bytes): (usize, Range<u64>)| {
            let line_end = if index == 0 { "" } else { "\r\n" };
            let range = content_range(&bytes, size);
            let head = format!(
                "{line_end}--{boundary}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Range: {range}\r\n\r\n"
            );
            Part { head: head.into(), bytes }
        };
        let parts = runs.into_iter().enumerate().map(part).collect();
        Self { parts, tail: format!("\r\n--{boundary}--\r\n").into(), to_the_end }
    }

    /// What of the blob is to be had for it.
    pub(super) fn wish(&self, layout: Layout) -> Wish {
        if self.to_the_end {
            return Wish::Whole;
        }
        let mut pieces = PieceSet::new(layout.piece_count());
        for piece in self.parts.iter().flat_map(|part| layout.pieces_of(&part.bytes)) {
            pieces.insert(piece);
        }
        if pieces.is_full() { Wish::Whole } else { Wish::Part(pieces) }
    }

    /// Bytes of the whole answer.
    fn len(&self) -> u64 {
        let parts =
            self.parts.iter().map(|part| part.head.len() as u64 + (part.bytes.end - part.bytes.start));
        parts.sum::<u64>() + self.tail.len() as u64
    }
}

fn content_range(bytes: &Range<u64>, size: u64) -> String {
    format!("bytes {}-{}/{size}", bytes.start, bytes.end - 1)
}

fn text(value: &str) -> HeaderValue {
    HeaderValue::from_str(value).expect("media types and numbers are visible characters")
}

const CONTENT_TYPE: &str = "application/octet-stream";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn several_parts_are_as_long_as_their_answer_says() {
        let mut headers = HeaderMap::new();
        let asked = Asked::Parts(Parts { runs: vec![0..2, 5..9], to_the_end: false });
        let (status, selected) = Selected::of(asked, 10, &mut headers).unwrap();
        let blob = b"0123456789";
        let mut sent = Vec::new();
        for part in &selected.parts {
            sent.extend_from_slice(&part.head);
            sent.extend_from_slice(&blob[part.bytes.start as usize..part.bytes.end as usize]);
        }
        sent.extend_from_slice(&selected.tail);
        assert_eq!(status, StatusCode::PARTIAL_CONTENT);
        assert_eq!(headers[header::CONTENT_LENGTH], sent.len().to_string());
        assert!(!headers.contains_key(header::CONTENT_RANGE), "each part has its own");
        let boundary = headers[header::CONTENT_TYPE].to_str().unwrap().split_once("boundary=").unwrap().1;
        let expected = format!(
            "--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 0-1/10\r\n\r\n01\
             \r\n--{boundary}\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 5-8/10\r\n\r\n5678\
             \r\n--{boundary}--\r\n"
        );
        assert_eq!(String::from_utf8(sent).unwrap(), expected);
    }
}
