//! What a client asks for only under conditions (RFC 9110 §13). A blob never changes, and has no date: its digest
//! is its entity tag, and conditions of time are none.

use headers::{ETag, HeaderMapExt as _, IfMatch, IfNoneMatch, IfRange};
use http::header::HeaderMap;

/// What follows from a request's conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judgement {
    /// The request is to be answered; its range, if it has one, counts.
    Answered { in_parts: bool },
    /// The client has it already: 304.
    NotModified,
    /// The client wants another: 412.
    Failed,
}

/// Judges a GET's or HEAD's conditions in the order of RFC 9110 §13.2.2. A condition that cannot be read is none.
pub(super) fn judge(headers: &HeaderMap, etag: &ETag) -> Judgement {
    if headers.typed_get::<IfMatch>().is_some_and(|wanted| !wanted.precondition_passes(etag)) {
        return Judgement::Failed;
    }
    if headers.typed_get::<IfNoneMatch>().is_some_and(|held| !held.precondition_passes(etag)) {
        return Judgement::NotModified;
    }
    let in_parts = match headers.typed_try_get::<IfRange>() {
        Ok(None) => true,
        Ok(Some(held)) => !held.is_modified(Some(etag), None),
        Err(_) => false,
    };
    Judgement::Answered { in_parts }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_judged_by_the_blobs_digest() {
        let etag: ETag = "\"sha256:aa\"".parse().unwrap();
        let judged = |name: &'static str, value: &str| {
            judge(
                &[(http::HeaderName::from_static(name), value.parse().unwrap())].into_iter().collect(),
                &etag,
            )
        };
        let (whole, in_parts) =
            (Judgement::Answered { in_parts: false }, Judgement::Answered { in_parts: true });
        for (name, value, right) in [
            ("if-none-match", "\"sha256:aa\"", Judgement::NotModified),
            ("if-none-match", "W/\"sha256:aa\"", Judgement::NotModified),
            ("if-none-match", "\"x\", \"sha256:aa\"", Judgement::NotModified),
            ("if-none-match", "*", Judgement::NotModified),
            ("if-none-match", "\"x\"", in_parts),
            ("if-match", "\"sha256:aa\"", in_parts),
            ("if-match", "*", in_parts),
            ("if-match", "\"x\"", Judgement::Failed),
            ("if-match", "W/\"sha256:aa\"", Judgement::Failed),
            ("if-range", "\"sha256:aa\"", in_parts),
            ("if-range", "W/\"sha256:aa\"", whole),
            ("if-range", "\"x\"", whole),
            ("if-range", "Sun, 29 Nov 2026 09:00:00 GMT", whole),
            ("if-range", "nonsense", whole),
            ("if-modified-since", "Sun, 29 Nov 2026 09:00:00 GMT", in_parts),
            ("if-unmodified-since", "Sun, 29 Nov 2020 09:00:00 GMT", in_parts),
        ] {
            assert_eq!(judged(name, value), right, "{name}: {value}");
        }
        assert_eq!(judge(&HeaderMap::new(), &etag), in_parts);
    }
}
