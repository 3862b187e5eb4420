//! HTTP heads as the wire between peers has them.

use flotilla_proto::Authorization;
use flotilla_proto::wire::peer::{Forward, Header, HttpHead};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};

/// The headers in order, repeated ones too.
pub(crate) fn headers_to_wire(headers: &HeaderMap) -> Vec<Header> {
    let wire = |(name, value): (&HeaderName, &HeaderValue)| Header {
        name: name.to_string(),
        value: bytes::Bytes::copy_from_slice(value.as_bytes()),
    };
    headers.iter().map(wire).collect()
}

/// An answer's head.
pub(crate) fn head_to_wire(status: StatusCode, headers: &HeaderMap) -> HttpHead {
    HttpHead { status: status.as_u16().into(), headers: headers_to_wire(headers) }
}

/// The answer that a head begins.
pub(crate) fn head_from_wire(head: Option<&HttpHead>) -> Result<Response<()>, BadHead> {
    let head = head.ok_or(BadHead)?;
    let status = u16::try_from(head.status).ok().and_then(|status| StatusCode::from_u16(status).ok());
    let mut response = Response::new(());
    *response.status_mut() = status.ok_or(BadHead)?;
    *response.headers_mut() = headers_from_wire(&head.headers)?;
    Ok(response)
}

/// The request that a forwarded head begins.
pub(crate) fn request_from_wire(forward: &Forward) -> Result<Request<()>, BadHead> {
    let mut request = Request::new(());
    *request.method_mut() = Method::from_bytes(forward.method.as_bytes()).map_err(|_| BadHead)?;
    *request.uri_mut() = forward.target.parse::<Uri>().map_err(|_| BadHead)?;
    *request.headers_mut() = headers_from_wire(&forward.headers)?;
    Ok(request)
}

fn headers_from_wire(headers: &[Header]) -> Result<HeaderMap, BadHead> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for header in headers {
        let name = HeaderName::from_bytes(header.name.as_bytes()).map_err(|_| BadHead)?;
        let mut value = HeaderValue::from_bytes(&header.value).map_err(|_| BadHead)?;
        value.set_sensitive(name == http::header::AUTHORIZATION);
        map.append(name, value);
    }
    Ok(map)
}

/// The client's credential.
pub(crate) fn authorization(headers: &HeaderMap) -> Authorization {
    headers.get(http::header::AUTHORIZATION).map_or(Authorization::ANONYMOUS, |value| {
        Authorization::new(bytes::Bytes::copy_from_slice(value.as_bytes()))
    })
}

/// A peer sent an HTTP head that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed HTTP head between peers")]
pub(crate) struct BadHead;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(name: &str, value: &'static [u8]) -> Header {
        Header { name: name.into(), value: bytes::Bytes::from_static(value) }
    }

    #[test]
    fn a_head_comes_out_as_it_went_in() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("link", "<a>"), ("x-odd", "caf\u{e9}"), ("link", "<b>")] {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static(name), value);
        }
        let wire = head_to_wire(StatusCode::IM_A_TEAPOT, &headers);
        let head = head_from_wire(Some(&wire)).unwrap();
        assert_eq!(head.status(), StatusCode::IM_A_TEAPOT);
        assert_eq!(*head.headers(), headers);
        assert_eq!(head.headers().get_all("link").iter().collect::<Vec<_>>(), ["<a>", "<b>"]);
    }

    #[test]
    fn a_credential_stays_out_of_debug_output() {
        let forward = Forward {
            method: "GET".into(),
            target: "/v2/app/tags/list?n=1".into(),
            headers: vec![header("Authorization", b"Basic s3cret")],
            ..Default::default()
        };
        let request = request_from_wire(&forward).unwrap();
        assert_eq!(request.uri(), "/v2/app/tags/list?n=1");
        assert_eq!(request.headers()["authorization"], "Basic s3cret");
        assert!(!format!("{request:?} {forward:?}").contains("s3cret"));
    }

    #[test]
    fn a_head_that_is_none_is_refused() {
        let head = |status, headers| HttpHead { status, headers };
        for malformed in [
            None,
            Some(head(99, vec![])),
            Some(head(1000, vec![])),
            Some(head(u32::MAX, vec![])),
            Some(head(200, vec![header("no name", b"x")])),
            Some(head(200, vec![header("x", b"two\r\nlines")])),
        ] {
            assert!(head_from_wire(malformed.as_ref()).is_err(), "{malformed:?}");
        }
        let forward = |method: &str, target: &str| Forward {
            method: method.into(),
            target: target.into(),
            ..Default::default()
        };
        for malformed in [forward("GET IT", "/"), forward("", "/"), forward("GET", "no path")] {
            assert!(request_from_wire(&malformed).is_err(), "{malformed:?}");
        }
    }

    proptest! {
        #[test]
        fn no_head_makes_the_reading_of_one_fail(
            status: u32,
            method in "\\PC{0,10}",
            target in "\\PC{0,40}",
            name in "\\PC{0,12}",
            value in proptest::collection::vec(any::<u8>(), 0..20),
        ) {
            let headers = vec![Header { name, value: value.into() }];
            if let Ok(head) = head_from_wire(Some(&HttpHead { status, headers: headers.clone() })) {
                prop_assert_eq!(u32::from(head.status().as_u16()), status);
            }
            let forward = Forward { method, target, headers, ..Default::default() };
            if let Ok(request) = request_from_wire(&forward) {
                prop_assert_eq!(request.method().as_str(), forward.method);
            }
        }
    }
}
