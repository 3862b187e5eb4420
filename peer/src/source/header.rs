//! The headers that reading and forwarding look into.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use http::header::{self, HeaderMap, HeaderName};
use http::{HeaderValue, Uri};

/// Takes out what concerns one connection only (RFC 9110 §7.6.1), and `Expect`, which the
/// server that read the request has already answered.
pub(super) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

const HOP_BY_HOP: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::EXPECT,
];

/// Leaves of a client's headers what a read needs, for a host that is not the registry's.
pub(super) fn for_stranger(headers: &mut HeaderMap) {
    keep(headers, |name| READ_NEEDS.contains(name));
}

/// Leaves of a client's headers what a token is asked for with, for a host that is not the registry's.
pub(super) fn for_token_service(headers: &mut HeaderMap) {
    keep(headers, |name| READ_NEEDS.contains(name) || name == header::AUTHORIZATION);
}

fn keep(headers: &mut HeaderMap, is_needed: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| !is_needed(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

const READ_NEEDS: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::IF_NONE_MATCH,
    header::RANGE,
    header::USER_AGENT,
    header::VIA,
];

/// `Range: bytes=a-b` for a half-open byte range that is not empty.
pub(super) fn range(bytes: &Range<u64>) -> HeaderValue {
    HeaderValue::try_from(format!("bytes={}-{}", bytes.start, bytes.end - 1)).expect("digits are legal")
}

/// Whether `Content-Range` names exactly these bytes of a blob of `size` (RFC 9110 §14.4).
pub(super) fn is_content_range_of(headers: &HeaderMap, bytes: &Range<u64>, size: u64) -> bool {
    let parse = || {
        let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
        let (unit, rest) = text.trim().split_once(' ')?;
        let (range, total) = rest.trim().split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let total_is_right = total == "*" || total.parse() == Ok(size);
        let bounds = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?.checked_add(1)?);
        Some(unit.eq_ignore_ascii_case("bytes") && total_is_right && bounds == (bytes.start, bytes.end))
    };
    parse().unwrap_or(false)
}

/// `Content-Length`, if it is there and a number.
pub(super) fn content_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// How long the blob is of which `Content-Range` names a part, if it says so.
pub(super) fn whole_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_RANGE)?.to_str().ok()?.rsplit_once('/')?.1.trim().parse().ok()
}

/// `Retry-After`: seconds, or a date, which is counted from the answer's own `Date` where it has one:
/// clocks differ (RFC 9110 §10.2.3). A day at most.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds).min(LONGEST_RETRY));
    }
    let until = httpdate::parse_http_date(text).ok()?;
    let dated =
        headers.get(header::DATE).and_then(|date| httpdate::parse_http_date(date.to_str().ok()?).ok());
    let wait = until.duration_since(dated.unwrap_or_else(SystemTime::now)).unwrap_or_default();
    Some(wait.min(LONGEST_RETRY))
}

const LONGEST_RETRY: Duration = Duration::from_secs(24 * 3600);

/// Where `Location` leads from `base` (RFC 3986 §5.2, without removing dot segments: a
/// registry that sends them resolves them itself). `None` if it leads nowhere.
pub(super) fn location(headers: &HeaderMap, base: &Uri) -> Option<Uri> {
    let text = headers.get(header::LOCATION)?.to_str().ok()?.trim();
    let text = text.split('#').next().filter(|text| !text.is_empty())?;
    let scheme = base.scheme_str()?;
    let authority = base.authority()?;
    let target = if is_absolute(text) {
        text.to_owned()
    } else if text.starts_with("//") {
        format!("{scheme}:{text}")
    } else if text.starts_with('/') {
        format!("{scheme}://{authority}{text}")
    } else if text.starts_with('?') {
        format!("{scheme}://{authority}{}{text}", base.path())
    } else {
        let folder = base.path().rsplit_once('/').map_or("", |(folder, _)| folder);
        format!("{scheme}://{authority}{folder}/{text}")
    };
    let target: Uri = target.parse().ok()?;
    let is_http = matches!(target.scheme_str(), Some("http" | "https"));
    (is_http && target.host().is_some_and(|host| !host.is_empty())).then_some(target)
}

/// Whether it begins with a scheme; a colon further on is part of a path, as in `sha256:`.
fn is_absolute(text: &str) -> bool {
    text.split_once("://").is_some_and(|(scheme, _)| scheme.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(name: HeaderName, value: &str) -> HeaderMap {
        [(name, value.parse().unwrap())].into_iter().collect()
    }

    #[test]
    fn what_concerns_one_connection_is_taken_out() {
        let mut headers: HeaderMap = [
            (header::CONNECTION, "close, X-Trace".parse().unwrap()),
            (HeaderName::from_static("x-trace"), "1".parse().unwrap()),
            (header::TRANSFER_ENCODING, "chunked".parse().unwrap()),
            (header::AUTHORIZATION, "Bearer t".parse().unwrap()),
        ]
        .into_iter()
        .collect();
        strip_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), [header::AUTHORIZATION]);
    }

    #[test]
    fn a_content_range_must_be_the_one_asked_for() {
        for (value, right) in [
            ("bytes 10-19/100", true),
            ("bytes 10-19/*", true),
            ("bytes 10-18/100", false),
            ("bytes 0-19/100", false),
            ("bytes 10-19/101", false),
            ("bytes */100", false),
            ("items 10-19/100", false),
            ("", false),
        ] {
            let headers = with(header::CONTENT_RANGE, value);
            assert_eq!(is_content_range_of(&headers, &(10..20), 100), right, "{value}");
        }
    }

    #[test]
    fn a_location_may_be_absolute_or_relative() {
        let base: Uri = "https://reg.test/v2/app/blobs/sha256:00?x=1".parse().unwrap();
        for (value, target) in [
            ("https://s3.test/b?sig=1", Some("https://s3.test/b?sig=1")),
            ("//s3.test/b", Some("https://s3.test/b")),
            ("/v2/library/app/blobs/sha256:00#f", Some("https://reg.test/v2/library/app/blobs/sha256:00")),
            ("sha256:11", Some("https://reg.test/v2/app/blobs/sha256:11")),
            ("?y=2", Some("https://reg.test/v2/app/blobs/sha256:00?y=2")),
            ("ftp://reg.test/b", None),
            ("", None),
        ] {
            let resolved = location(&with(header::LOCATION, value), &base).map(|uri| uri.to_string());
            assert_eq!(resolved.as_deref(), target, "{value}");
        }
    }

    proptest! {
        #[test]
        fn no_header_value_breaks_a_parser(value in "[ -~]{0,60}") {
            let base: Uri = "https://reg.test/v2/".parse().unwrap();
            location(&with(header::LOCATION, &value), &base);
            is_content_range_of(&with(header::CONTENT_RANGE, &value), &(0..1), 1);
            retry_after(&with(header::RETRY_AFTER, &value));
        }

        #[test]
        fn an_answer_that_echoes_our_range_matches_it(start in 0_u64..1 << 40, len in 1_u64..1 << 30) {
            let bytes = start..start + len;
            let asked = range(&bytes);
            let echoed = asked.to_str().unwrap().replace('=', " ") + "/*";
            prop_assert!(is_content_range_of(&with(header::CONTENT_RANGE, &echoed), &bytes, u64::MAX));
        }
    }
}
