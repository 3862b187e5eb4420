//! HTTP heads as the wire between peers has them.

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

/// A peer sent an HTTP head that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a malformed HTTP head between peers")]
pub(crate) struct BadHead;
