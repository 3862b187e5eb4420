//! Errors at the door, in the form that OCI clients show to people.

use flotilla_daemon::own_names::NotMeant;
use flotilla_proto::Failure;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use crate::body;
use crate::egress::EgressError;
use crate::source::{BodyStream, ForwardError, UpstreamError};
use crate::transport::CallError;

/// A refusal with the body of the distribution spec, "Error Codes".
pub(super) fn refusal(status: StatusCode, code: &str, message: &str) -> Response<BodyStream> {
    let error = json!({ "errors": [{ "code": code, "message": message, "detail": null }] });
    let mut response = Response::new(body::full(error.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(API_VERSION, HeaderValue::from_static("registry/2.0"));
    headers.insert(REFUSED_BY, HeaderValue::from_static("peer"));
    response
}

/// A request that was sent to somebody else, or by somebody else than it seems.
pub(super) fn not_meant(stranger: &NotMeant) -> Response<BodyStream> {
    refusal(StatusCode::FORBIDDEN, "DENIED", &stranger.to_string())
}

/// As [`refusal`], of a proxy that wants to know who asks (RFC 9110 §11.7.1).
pub(super) fn proxy_user_wanted() -> Response<BodyStream> {
    let message = "this node's proxy wants one of its own users; see door.proxy_users";
    let mut response = refusal(StatusCode::PROXY_AUTHENTICATION_REQUIRED, "DENIED", message);
    let challenge = HeaderValue::from_static("Basic realm=\"flotilla\"");
    response.headers_mut().insert(header::PROXY_AUTHENTICATE, challenge);
    response
}

/// Says of a refusal that is not this peer's own whose it is.
pub(super) fn refused_by_registry(response: &mut Response<BodyStream>) {
    let is_refusal = response.status().is_client_error() || response.status().is_server_error();
    if is_refusal && !response.headers().contains_key(REFUSED_BY) {
        response.headers_mut().insert(REFUSED_BY, HeaderValue::from_static("registry"));
    }
}

/// A download that failed.
pub(super) fn failed(failure: &Failure) -> Response<BodyStream> {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_GATEWAY);
    refusal(status, &failure.code, &failure.message)
}

/// A registry that could not be asked.
pub(super) fn not_forwarded(error: &EgressError) -> Response<BodyStream> {
    let (status, code) = match error {
        EgressError::NoSeed | EgressError::Silence(_) => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        EgressError::Seed { error: CallError::UpstreamUnknown(_), .. }
        | EgressError::Registry(ForwardError::Upstream(UpstreamError::Unknown { .. })) => {
            (StatusCode::NOT_FOUND, "NAME_UNKNOWN")
        }
        EgressError::Seed { error: CallError::UpstreamFailed(told), .. } => told_by_registry(told.status),
        EgressError::Registry(error) => told_by_registry(error.status()),
        EgressError::Seed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    };
    let mut response = refusal(status, code, &error.to_string());
    if let Some(after) = error.retry_after() {
        response.headers_mut().insert(header::RETRY_AFTER, after);
    }
    if error.is_of_registry() {
        response.headers_mut().insert(REFUSED_BY, HeaderValue::from_static("seed"));
    }
    response
}

/// 502, or what a registry says that wants to be left alone.
fn told_by_registry(status: u16) -> (StatusCode, &'static str) {
    match StatusCode::from_u16(status) {
        Ok(StatusCode::TOO_MANY_REQUESTS) => (StatusCode::TOO_MANY_REQUESTS, "TOOMANYREQUESTS"),
        Ok(status) if status.is_server_error() => (status, "UNAVAILABLE"),
        Ok(_) | Err(_) => (StatusCode::BAD_GATEWAY, "UNAVAILABLE"),
    }
}

/// Who refused: `registry`, `seed` (it got no answer of the registry's) or `peer` (this daemon).
pub(super) const REFUSED_BY: &str = "flotilla-refused-by";

/// Sent since the first registry; clients look for it on `/v2/`.
pub(super) const API_VERSION: &str = "docker-distribution-api-version";
