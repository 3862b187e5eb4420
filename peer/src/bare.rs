//! Which requests say who asks by `Authorization` alone.
//!
//! Grants, kept tokens, and what is fetched ahead are keyed by that header. A session's cookie, an API key in a header
//! of its own or in the query may move a registry to answer as well: such a request goes to the registry as it came,
//! and nothing that comes of it is given to anybody else, nor to the same client later.

use http::{HeaderMap, HeaderName, header};

/// What in a request may be a credential besides its `Authorization`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Besides<'a> {
    Cookie,
    /// A header of this name.
    Header(&'a HeaderName),
    Query,
    Body,
}

/// Whether nothing in a request to read but its `Authorization` can be a credential.
pub(crate) fn is_bare(headers: &HeaderMap, query: Option<&str>) -> bool {
    besides(headers, query).is_none()
}

/// The first thing in a request to read that may be a credential besides its `Authorization`.
pub(crate) fn besides<'a>(headers: &'a HeaderMap, query: Option<&str>) -> Option<Besides<'a>> {
    if headers.contains_key(header::COOKIE) {
        return Some(Besides::Cookie);
    }
    if let Some(name) = headers.keys().find(|name| !is_known(name)) {
        return Some(Besides::Header(name));
    }
    if !pairs(query.unwrap_or_default()).all(is_plain) {
        return Some(Besides::Query);
    }
    has_body(headers).then_some(Besides::Body)
}

/// Of a query what a token is asked for with.
pub(crate) fn plain_parameters(query: &str) -> String {
    pairs(query).filter(|pair| is_plain(pair)).collect::<Vec<_>>().join("&")
}

/// Some servers split at a semicolon, too.
fn pairs(query: &str) -> impl Iterator<Item = &str> {
    query.split(['&', ';']).filter(|pair| !pair.is_empty())
}

fn is_plain(pair: &str) -> bool {
    PLAIN_PARAMETERS.contains(&pair.split('=').next().unwrap_or_default())
}

/// A request to read has none: what stands in it may be anything.
fn has_body(headers: &HeaderMap) -> bool {
    let length = headers.get(header::CONTENT_LENGTH);
    headers.contains_key(header::TRANSFER_ENCODING) || length.is_some_and(|length| length != "0")
}

/// Whether it is in doubt with which credential a request comes to the registry: it names several, of which each
/// hop may choose another, or none beyond the next hop.
pub(crate) fn is_ambiguous(headers: &HeaderMap) -> bool {
    let named = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    let ends_here =
        named.flat_map(|line| line.split(',')).any(|name| name.trim().eq_ignore_ascii_case("authorization"));
    ends_here || headers.get_all(header::AUTHORIZATION).iter().nth(1).is_some()
}

fn is_known(name: &HeaderName) -> bool {
    KNOWN.contains(&name.as_str()) || KNOWN_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// What clients of registries send, none of it secret: RFC 9110's of a request, its connection's, tracing, what a
/// browser tells of itself and a proxy of its client. Docker's and containerd's own are `X-Meta-…`.
const KNOWN: &[&str] = &[
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "authorization",
    "b3",
    "baggage",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "date",
    "dnt",
    "docker-distribution-api-version",
    "expect",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "max-forwards",
    "origin",
    "pragma",
    "priority",
    "proxy-authorization",
    "proxy-connection",
    "range",
    "referer",
    "te",
    "traceparent",
    "tracestate",
    "trailer",
    "transfer-encoding",
    "uber-trace-id",
    "upgrade",
    "upgrade-insecure-requests",
    "user-agent",
    "via",
    "x-amzn-trace-id",
    "x-cloud-trace-context",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-proto",
    "x-real-ip",
    "x-request-id",
];

const KNOWN_PREFIXES: &[&str] = &["sec-ch-", "sec-fetch-", "x-b3-", "x-datadog-", "x-meta-"];

/// Of the query: what names a registry to a mirror, and what a token is asked for with.
const PLAIN_PARAMETERS: &[&str] = &["account", "client_id", "ns", "offline_token", "scope", "service"];

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        lines.iter().map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap())).collect()
    }

    #[test]
    fn what_clients_of_registries_send_is_bare() {
        let docker = [
            ("accept", "application/vnd.oci.image.manifest.v1+json"),
            ("accept-encoding", "gzip"),
            ("authorization", "Bearer x"),
            ("docker-distribution-api-version", "registry/2.0"),
            ("host", "reg.test"),
            ("range", "bytes=0-"),
            ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
            ("user-agent", "docker/20"),
            ("x-meta-source-client", "azure/aks"),
        ];
        assert!(is_bare(&headers(&docker), None));
        assert!(is_bare(&HeaderMap::new(), Some("service=reg.test&scope=repository:app:pull&account=me")));
        assert!(is_bare(&HeaderMap::new(), Some("ns=reg.test&")));
    }

    #[test]
    fn whatever_else_may_be_a_credential() {
        for name in ["cookie", "x-jfrog-art-api", "private-token", "x-forwarded-user", "transfer-encoding"] {
            assert!(!is_bare(&headers(&[(name, "x")]), None), "{name}");
        }
        for query in ["access_token=x", "sig", "ns=a&token=x", "ns=a;token=x", "scope=a&X-Amz-Signature=x"] {
            assert!(!is_bare(&HeaderMap::new(), Some(query)), "{query}");
        }
    }

    #[test]
    fn what_it_is_is_known_by_its_name() {
        let both = headers(&[("accept", "x"), ("x-api-key", "x"), ("cookie", "x")]);
        assert_eq!(besides(&both, None), Some(Besides::Cookie));
        let key = headers(&[("accept", "x"), ("x-api-key", "x")]);
        assert_eq!(
            besides(&key, Some("token=x")),
            Some(Besides::Header(&HeaderName::from_static("x-api-key")))
        );
        assert_eq!(besides(&HeaderMap::new(), Some("token=x")), Some(Besides::Query));
        assert_eq!(besides(&headers(&[("content-length", "7")]), None), Some(Besides::Body));
    }

    #[test]
    fn a_body_may_be_one_too() {
        assert!(is_bare(&headers(&[("content-length", "0")]), None));
        assert!(!is_bare(&headers(&[("content-length", "7")]), None));
    }

    #[test]
    fn a_credential_that_does_not_go_on_is_none() {
        assert!(is_ambiguous(&headers(&[
            ("authorization", "Basic x"),
            ("connection", "close, Authorization")
        ])));
        assert!(!is_ambiguous(&headers(&[("authorization", "Basic x"), ("connection", "close")])));
    }

    #[test]
    fn two_credentials_are_one_too_many() {
        let mut lines = headers(&[("authorization", "Bearer a")]);
        assert!(!is_ambiguous(&lines));
        lines.append(header::AUTHORIZATION, "Bearer a".parse().unwrap());
        assert!(is_ambiguous(&lines));
    }
}
