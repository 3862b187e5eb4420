//! Errors at the door, in the form that OCI clients show to people.

use http::{HeaderValue, Response, StatusCode, header};
use serde_json::json;

use flotilla_peer_core::Failure;

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
    response
}

/// A download that failed.
pub(super) fn failed(failure: &Failure) -> Response<BodyStream> {
    let status = StatusCode::from_u16(failure.status).unwrap_or(StatusCode::BAD_GATEWAY);
    refusal(status, &failure.code, &failure.message)
}

/// A registry that could not be asked.
pub(super) fn not_forwarded(error: &EgressError) -> Response<BodyStream> {
    let (status, code) = match error {
        EgressError::NoSeed => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
        EgressError::Seed { error: CallError::UpstreamUnknown(_), .. }
        | EgressError::Registry(ForwardError::Upstream(UpstreamError::Unknown { .. })) => {
            (StatusCode::NOT_FOUND, "NAME_UNKNOWN")
        }
        EgressError::Seed { error: CallError::UpstreamFailed(_), .. } | EgressError::Registry(_) => {
            (StatusCode::BAD_GATEWAY, "UNAVAILABLE")
        }
        EgressError::Seed { .. } => (StatusCode::SERVICE_UNAVAILABLE, "UNAVAILABLE"),
    };
    refusal(status, code, &error.to_string())
}

/// Sent since the first registry; clients look for it on `/v2/`.
pub(super) const API_VERSION: &str = "docker-distribution-api-version";
