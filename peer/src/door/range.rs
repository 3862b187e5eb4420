//! Parts of a blob that a client asks for (RFC 9110 §14).

use std::ops::Range;

/// The bytes a `Range` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Asked {
    /// No range, or one in units that are not understood: the answer is 200 with everything.
    Whole,
    /// Runs of bytes.
    Parts(Parts),
    /// Bytes that the blob does not have, or what is no range at all: 416, as registries say.
    Unsatisfiable,
}

/// The runs of bytes that are asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// None of them empty, in the order they were asked for; in ascending order where some touched and became
    /// one, or where they are many. There is at least one, and [`MOST_PARTS`] at most.
    pub(super) runs: Vec<Range<u64>>,
    /// Whether one is asked for to the end, wherever that is: so asks who resumes, and takes it for the blob's.
    pub(super) to_the_end: bool,
}

/// Reads a `Range` header's value for a blob of `size` bytes.
pub(super) fn parse(header: Option<&str>, size: u64) -> Asked {
    let Some((unit, ranges)) = header.and_then(|value| value.trim().split_once('=')) else {
        return Asked::Whole;
    };
    if !unit.trim_end().eq_ignore_ascii_case("bytes") {
        return Asked::Whole;
    }
    let (mut runs, mut to_the_end) = (Vec::new(), false);
    // Recipients take empty elements of a list (RFC 9110 §5.6.1.2).
    for spec in ranges.split(',').map(str::trim).filter(|spec| !spec.is_empty()) {
        let Some(run) = part(spec, size) else { return Asked::Unsatisfiable };
        if run.start < run.end {
            to_the_end |= spec.ends_with('-');
            runs.push(run);
        }
    }
    let runs = apart(runs);
    if runs.len() > MOST_PARTS {
        return Asked::Whole;
    }
    if runs.is_empty() { Asked::Unsatisfiable } else { Asked::Parts(Parts { runs, to_the_end }) }
}

/// One range within the blob, empty if the blob has none of it; `None` if it is malformed.
fn part(spec: &str, size: u64) -> Option<Range<u64>> {
    let (first, last) = spec.split_once('-')?;
    match (number(first)?, number(last)?) {
        (Bound::Open, Bound::At(suffix_len)) => Some(size.saturating_sub(suffix_len)..size),
        (Bound::At(first), Bound::Open) => Some(first..size),
        (Bound::At(first), Bound::At(last)) if first <= last => Some(first..last.saturating_add(1).min(size)),
        (Bound::At(_), Bound::At(_)) | (Bound::Open, Bound::Open) => None,
    }
}

/// Makes one of those that touch or overlap: no byte is sent twice.
fn apart(parts: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut sorted = parts.clone();
    sorted.sort_by_key(|part| part.start);
    let mut joined: Vec<Range<u64>> = Vec::with_capacity(parts.len());
    for part in sorted {
        match joined.last_mut() {
            Some(last) if part.start <= last.end => last.end = last.end.max(part.end),
            _ => joined.push(part),
        }
    }
    let is_as_asked = joined.len() == parts.len() && parts.len() <= MOST_IN_ANY_ORDER;
    if is_as_asked { parts } else { joined }
}

/// Of one answer; who asks for more gets the whole blob, as RFC 9110 §14.2 has it for ranges that cost too much.
const MOST_PARTS: usize = 1024;

/// More go in ascending order, so that each piece is read once.
const MOST_IN_ANY_ORDER: usize = 16;

enum Bound {
    Open,
    At(u64),
}

/// A number too large for 64 bits lies behind the end of every blob.
fn number(text: &str) -> Option<Bound> {
    let text = text.trim();
    if text.is_empty() {
        return Some(Bound::Open);
    }
    text.bytes().all(|b| b.is_ascii_digit()).then(|| Bound::At(text.parse().unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn asked(header: &str) -> Asked {
        parse(Some(header), 1000)
    }

    fn parts(runs: impl IntoIterator<Item = Range<u64>>) -> Asked {
        Asked::Parts(Parts { runs: runs.into_iter().collect(), to_the_end: false })
    }

    fn one(bytes: Range<u64>) -> Asked {
        parts(std::iter::once(bytes))
    }

    /// One of them to the end.
    fn rest(runs: Vec<Range<u64>>) -> Asked {
        Asked::Parts(Parts { runs, to_the_end: true })
    }

    fn rest_from(first: u64) -> Asked {
        rest(std::iter::once(first..1000).collect())
    }

    #[test]
    fn the_three_forms_of_a_range_are_honoured() {
        assert_eq!(asked("bytes=0-0"), one(0..1));
        assert_eq!(asked("bytes=10-19"), one(10..20));
        assert_eq!(asked("Bytes=990-2000"), one(990..1000));
        assert_eq!(asked("bytes= 400 -"), rest_from(400));
        assert_eq!(asked("bytes=-100"), one(900..1000));
        assert_eq!(asked("bytes=-2000"), one(0..1000));
        assert_eq!(asked("bytes=0-99999999999999999999999"), one(0..1000));
    }

    #[test]
    fn several_ranges_keep_their_order_and_send_no_byte_twice() {
        assert_eq!(asked("bytes=500-509, 0-1"), parts([500..510, 0..2]));
        assert_eq!(asked("bytes=0-1,,5-6,"), parts([0..2, 5..7]));
        assert_eq!(asked("bytes=0-1,2000-,-1"), parts([0..2, 999..1000]));
        assert_eq!(asked("bytes=5-6,0-1,1-4"), one(0..7));
        assert_eq!(asked("bytes=900-,0-1,0-9"), rest(vec![0..10, 900..1000]));
    }

    #[test]
    fn who_asks_for_a_rest_in_any_way_asks_for_the_end() {
        for header in ["bytes=900-,", "bytes=,900-", "bytes=900-950,951-", "bytes=950-999,900-"] {
            assert_eq!(asked(header), rest_from(900), "{header}");
        }
        for header in ["bytes=900-999", "bytes=-100", "bytes=900-999,1000-"] {
            assert_eq!(asked(header), one(900..1000), "{header}");
        }
    }

    #[test]
    fn many_ranges_cost_no_more_than_the_blob() {
        let every_other =
            |count: u64| (0..count).rev().map(|at| format!("{0}-{0}", 2 * at)).collect::<Vec<_>>();
        let asked = |count| parse(Some(&format!("bytes={}", every_other(count).join(","))), 1 << 20);
        let Asked::Parts(Parts { runs, .. }) = asked(17) else { panic!("parts") };
        assert!(runs.is_sorted_by_key(|part| part.start));
        assert!(matches!(asked(1024), Asked::Parts(parts) if parts.runs.len() == 1024));
        assert_eq!(asked(1025), Asked::Whole);
    }

    #[test]
    fn bytes_the_blob_does_not_have_cannot_be_satisfied() {
        for header in ["bytes=1000-", "bytes=1000-1001", "bytes=-0", "bytes=99999999999999999999999-"] {
            assert_eq!(asked(header), Asked::Unsatisfiable, "{header}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused_and_what_is_no_range_of_bytes_is_ignored() {
        for header in ["bytes=5-1", "bytes=-", "bytes=x-1", "bytes=0-1,x", "bytes=", "bytes=,", "bytes=1"] {
            assert_eq!(asked(header), Asked::Unsatisfiable, "{header}");
        }
        for header in ["items=0-1", "bytes", ""] {
            assert_eq!(asked(header), Asked::Whole, "{header}");
        }
        assert_eq!(parse(None, 1000), Asked::Whole);
    }

    proptest! {
        #[test]
        fn no_header_leads_outside_the_blob_or_sends_a_byte_twice(header in "bytes=[-,0-9 x]{0,24}", size: u64) {
            if let Asked::Parts(parts) = parse(Some(&header), size) {
                prop_assert!(!parts.runs.is_empty());
                let mut sorted = parts.runs;
                sorted.sort_by_key(|part| part.start);
                prop_assert!(sorted.iter().all(|part| part.start < part.end && part.end <= size));
                prop_assert!(sorted.windows(2).all(|two| two[0].end < two[1].start));
            }
        }
    }
}
