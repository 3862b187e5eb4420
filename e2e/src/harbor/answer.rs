//! An answer before it is sent.

use bytes::Bytes;
use flotilla_proto::Digest;
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, StatusCode};
use serde_json::json;

use super::faults::{Ending, Wait};

/// What the core has decided to say.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// Whether the body goes without a `Content-Length`.
    pub(super) chunked: bool,
    /// Of the content that the answer is about.
    pub(super) digest: Option<Digest>,
    /// What the body is a part of, when a range was asked for.
    pub(super) whole: Option<Bytes>,
    /// What comes of it, if nothing keeps the answer from being given.
    pub(super) effect: Option<Effect>,
    /// What it waits for before it begins.
    pub(super) waits: Vec<Wait>,
    pub(super) ending: Ending,
}

/// What an answer changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Effect {
    /// A pull of the repository, counted when the answer begins.
    Pull(String),
    /// The proxy-cache repository holds the blob when the answer was sent whole.
    Cache(String, Digest),
}

impl Answer {
    pub(super) fn new(status: StatusCode) -> Self {
        Self {
            status,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            chunked: false,
            digest: None,
            whole: None,
            effect: None,
            waits: Vec::new(),
            ending: Ending::Clean,
        }
    }

    /// 200 with a body.
    pub(super) fn ok(content_type: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(StatusCode::OK) }.with("content-type", content_type)
    }

    /// Harbor's form of an error (§2.4).
    pub(super) fn error(status: StatusCode, code: &str, message: &str) -> Self {
        let body = json!({ "errors": [{ "code": code, "message": message }] });
        Self { status, ..Self::ok(JSON, body.to_string()) }
    }

    /// 404, with the code that fits what was not found.
    pub(super) fn not_found(code: &str, message: &str) -> Self {
        Self::error(StatusCode::NOT_FOUND, code, message)
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::error(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", "method not allowed")
    }

    /// Sets a header.
    pub(super) fn with(mut self, name: &'static str, value: &str) -> Self {
        // A value that came in a request's path may be no header's; a visible blank will do.
        let value = HeaderValue::from_str(value).unwrap_or(HeaderValue::from_static("?"));
        self.headers.insert(HeaderName::from_static(name), value);
        self
    }

    /// States what content the answer is about, as the registry does.
    pub(super) fn about(mut self, digest: Digest) -> Self {
        self.digest = Some(digest);
        let text = digest.to_string();
        self.with("docker-content-digest", &text).with("etag", &etag(digest))
    }

    /// What nginx and core add to each answer (§2.7).
    pub(super) fn with_session(self) -> Self {
        let session = hex::encode(fastrand::u128(..).to_be_bytes());
        self.with("set-cookie", &format!("sid={session}; Path=/; HttpOnly"))
            .with("strict-transport-security", "max-age=31536000; includeSubDomains; preload")
            .with("x-request-id", &session)
    }

    /// Another answer in its place, which begins no earlier.
    pub(super) fn replaced_by(self, other: Self) -> Self {
        Self { waits: self.waits, digest: self.digest, ..other }
    }
}

/// The entity tag of content.
pub(super) fn etag(digest: Digest) -> String {
    format!("\"{digest}\"")
}

pub(super) const JSON: &str = "application/json; charset=utf-8";
