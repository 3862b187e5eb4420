//! The `Range` header of a blob request (RFC 9110 §14).

use std::ops::Range;

/// What part of a blob is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// All of it: no range, or one that this server may ignore (several ranges, another
    /// unit, nonsense).
    Whole,
    /// These bytes; never empty.
    Part(Range<u64>),
    /// Bytes the blob does not have: 416.
    Unsatisfiable,
}

/// Reads a `Range` header's value for a blob of `size` bytes.
pub(super) fn parse(header: Option<&str>, size: u64) -> Asked {
    let Some(spec) = header.and_then(|value| value.trim().strip_prefix("bytes=")) else {
        return Asked::Whole;
    };
    let Some((first, last)) = spec.split_once('-').filter(|_| !spec.contains(',')) else {
        return Asked::Whole;
    };
    match (number(first), number(last)) {
        (Bound::Open, Bound::At(suffix_len)) => part(size.saturating_sub(suffix_len)..size, size),
        (Bound::At(first), Bound::Open) => part(first..size, size),
        (Bound::At(first), Bound::At(last)) if first <= last => {
            part(first..last.saturating_add(1).min(size), size)
        }
        (Bound::At(_), Bound::At(_)) | (Bound::Open, Bound::Open) => Asked::Whole,
        (Bound::Nonsense, _) | (_, Bound::Nonsense) => Asked::Whole,
    }
}

fn part(bytes: Range<u64>, size: u64) -> Asked {
    if bytes.start >= size || bytes.is_empty() { Asked::Unsatisfiable } else { Asked::Part(bytes) }
}

enum Bound {
    Open,
    At(u64),
    Nonsense,
}

/// A number too large for 64 bits lies behind the end of every blob.
fn number(text: &str) -> Bound {
    let text = text.trim();
    if text.is_empty() {
        Bound::Open
    } else if text.bytes().all(|b| b.is_ascii_digit()) {
        Bound::At(text.parse().unwrap_or(u64::MAX))
    } else {
        Bound::Nonsense
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(header: &str) -> Asked {
        parse(Some(header), 1000)
    }

    #[test]
    fn the_three_forms_of_a_range_are_honoured() {
        assert_eq!(asked("bytes=0-0"), Asked::Part(0..1));
        assert_eq!(asked("bytes=10-19"), Asked::Part(10..20));
        assert_eq!(asked("bytes=990-2000"), Asked::Part(990..1000));
        assert_eq!(asked("bytes=400-"), Asked::Part(400..1000));
        assert_eq!(asked("bytes=-100"), Asked::Part(900..1000));
        assert_eq!(asked("bytes=-2000"), Asked::Part(0..1000));
        assert_eq!(asked("bytes=0-99999999999999999999999"), Asked::Part(0..1000));
    }

    #[test]
    fn bytes_the_blob_does_not_have_cannot_be_satisfied() {
        for header in ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(asked(header), Asked::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn what_need_not_be_understood_gives_the_whole() {
        for header in ["bytes=0-1,5-6", "items=0-1", "bytes=5-1", "bytes=-", "bytes=x-1", "bytes", ""] {
            assert_eq!(asked(header), Asked::Whole, "{header}");
        }
        assert_eq!(parse(None, 1000), Asked::Whole);
    }

    proptest! {
        #[test]
        fn no_header_leads_outside_the_blob(header in "bytes=[-,0-9 x]{0,24}", size: u64) {
            if let Asked::Part(bytes) = parse(Some(&header), size) {
                prop_assert!(bytes.start < bytes.end && bytes.end <= size);
            }
        }
    }
}
