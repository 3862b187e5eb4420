//! Content by ranges and conditions, as Go's `http.ServeContent` gives it (§2.2): both the
//! registry and its callers were built around how that behaves.

use bytes::Bytes;
use hyper::StatusCode;

use super::answer::Answer;
use super::call::Call;

/// Answers with `content`, whose entity tag is `etag`, or with the part of it that `range`, the
/// value of that header, asks for.
pub(super) fn serve(call: &Call, range: Option<&str>, content: &Bytes, etag: &str) -> Answer {
    if call.header("if-none-match").is_some_and(|tags| names(tags, etag)) {
        return Answer::new(StatusCode::NOT_MODIFIED);
    }
    let whole = Answer::ok(OCTETS, content.clone()).with("accept-ranges", "bytes");
    let range = range.filter(|_| call.header("if-range").is_none_or(|tag| tag == etag));
    let Some(range) = range else { return whole };
    let size = content.len();
    match parse(range, size) {
        Err(Unsatisfiable::Malformed) => refuse("invalid range"),
        // Nothing of nothing is the whole of it.
        Err(Unsatisfiable::NoOverlap) if size == 0 => whole,
        Err(Unsatisfiable::NoOverlap) => {
            refuse("invalid range: failed to overlap").with("content-range", &format!("bytes */{size}"))
        }
        // Who asks for more than there is gets it once.
        Ok(parts) if parts.iter().map(|part| part.len).sum::<usize>() > size => whole,
        Ok(parts) => match parts[..] {
            [] => whole,
            [part] => one_part(content, part),
            _ => several_parts(content, &parts),
        },
    }
}

/// A range of bytes that there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    offset: usize,
    len: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Unsatisfiable {
    Malformed,
    NoOverlap,
}

impl Part {
    fn content_range(self, size: usize) -> String {
        format!("bytes {}-{}/{size}", self.offset, (self.offset + self.len).saturating_sub(1))
    }

    fn of(self, content: &Bytes) -> Bytes {
        content.slice(self.offset..self.offset + self.len)
    }
}

fn one_part(content: &Bytes, part: Part) -> Answer {
    let answer = Answer::ok(OCTETS, part.of(content))
        .with("accept-ranges", "bytes")
        .with("content-range", &part.content_range(content.len()));
    Answer { status: StatusCode::PARTIAL_CONTENT, whole: Some(content.clone()), ..answer }
}

fn several_parts(content: &Bytes, parts: &[Part]) -> Answer {
    let boundary = hex::encode(fastrand::u128(..).to_be_bytes());
    let mut body = Vec::new();
    for part in parts {
        let range = part.content_range(content.len());
        let head = format!("--{boundary}\r\nContent-Range: {range}\r\nContent-Type: {OCTETS}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&part.of(content));
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
    let answer = Answer::ok(&format!("multipart/byteranges; boundary={boundary}"), body);
    let answer = answer.with("accept-ranges", "bytes");
    Answer { status: StatusCode::PARTIAL_CONTENT, whole: Some(content.clone()), ..answer }
}

fn refuse(message: &str) -> Answer {
    let status = StatusCode::RANGE_NOT_SATISFIABLE;
    Answer { status, ..Answer::ok("text/plain; charset=utf-8", format!("{message}\n")) }
}

/// The ranges that overlap `size` bytes; there is at least one if any was asked for.
fn parse(header: &str, size: usize) -> Result<Vec<Part>, Unsatisfiable> {
    let ranges = header.strip_prefix("bytes=").ok_or(Unsatisfiable::Malformed)?;
    let (mut parts, mut missed) = (Vec::new(), false);
    for range in ranges.split(',').map(str::trim).filter(|range| !range.is_empty()) {
        match part(range, size)? {
            Some(part) => parts.push(part),
            None => missed = true,
        }
    }
    if missed && parts.is_empty() { Err(Unsatisfiable::NoOverlap) } else { Ok(parts) }
}

/// One of `a-b`, `a-` and `-n`.
fn part(range: &str, size: usize) -> Result<Option<Part>, Unsatisfiable> {
    let number = |text: &str| text.trim().parse::<usize>().map_err(|_| Unsatisfiable::Malformed);
    let (first, last) = range.split_once('-').ok_or(Unsatisfiable::Malformed)?;
    if first.is_empty() {
        let len = number(last)?.min(size);
        return Ok(Some(Part { offset: size - len, len }));
    }
    let offset = number(first)?;
    let last = if last.is_empty() { usize::MAX } else { number(last)? };
    if last < offset {
        return Err(Unsatisfiable::Malformed);
    }
    Ok((offset < size).then(|| Part { offset, len: last.min(size - 1) - offset + 1 }))
}

/// Whether a list of entity tags, weak ones too, names this one.
fn names(tags: &str, etag: &str) -> bool {
    let tags = tags.split(',').map(str::trim);
    tags.map(|tag| tag.strip_prefix("W/").unwrap_or(tag)).any(|tag| tag == "*" || tag == etag)
}

pub(super) const OCTETS: &str = "application/octet-stream";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_cut_to_what_there_is() {
        let part = |offset, len| Ok(vec![Part { offset, len }]);
        assert_eq!(parse("bytes=0-0", 10), part(0, 1));
        assert_eq!(parse("bytes=4-", 10), part(4, 6));
        assert_eq!(parse("bytes=4-99", 10), part(4, 6));
        assert_eq!(parse("bytes=-3", 10), part(7, 3));
        assert_eq!(parse("bytes=-99", 10), part(0, 10));
        assert_eq!(parse("bytes=99-, 2-3", 10), part(2, 2));
    }

    #[test]
    fn what_is_no_range_is_told_from_what_is_out_of_range() {
        for malformed in ["0-1", "bytes=x-", "bytes=3-2", "bytes=-", "bytes=1", "bytes=--1", "items=0-1"] {
            assert_eq!(parse(malformed, 10), Err(Unsatisfiable::Malformed), "{malformed}");
        }
        assert_eq!(parse("bytes=10-", 10), Err(Unsatisfiable::NoOverlap));
        assert_eq!(parse("bytes=", 10), Ok(Vec::new()));
    }
}
