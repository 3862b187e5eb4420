//! Why a pull failed: which manifest or blob, and what the door said.

use std::fmt;

use flotilla_proto::{Digest, ParseDigestError};
use hyper::StatusCode;
use serde::Deserialize;

use super::Reference;
use crate::http::RequestError;

/// A pull that failed.
#[derive(Debug, thiserror::Error)]
#[error("{subject}: {cause}")]
pub(crate) struct PullError {
    subject: Subject,
    cause: Cause,
}

/// What was fetched.
#[derive(Debug)]
pub(super) enum Subject {
    Manifest(Reference),
    Blob(Digest),
}

impl Subject {
    pub(super) fn because(self, cause: Cause) -> PullError {
        PullError { subject: self, cause }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Manifest(reference) => write!(f, "manifest {reference}"),
            Self::Blob(digest) => write!(f, "blob {digest}"),
        }
    }
}

/// Why it was not fetched.
#[derive(Debug, thiserror::Error)]
pub(super) enum Cause {
    #[error("no URI: {0}")]
    Uri(hyper::http::uri::InvalidUri),
    #[error(transparent)]
    Request(#[from] RequestError),
    #[error("the door answers {status}: {message}")]
    Refused { status: StatusCode, message: String },
    #[error("the token service answers {status}: {message}")]
    TokenRefused { status: StatusCode, message: String },
    #[error("the registry names no token service that can be asked")]
    NoRealm,
    #[error("the token service's answer holds no token")]
    NoToken,
    #[error("the registry asks for an account, and none was given")]
    NoCredentials,
    #[error("the body ends after {received} of {len} bytes: {source}")]
    Cut { received: u64, len: u64, source: hyper::Error },
    #[error("the body has {received} bytes, the manifest says {len}")]
    WrongLength { received: u64, len: u64 },
    #[error("what came has the digest {actual}")]
    WrongDigest { actual: Digest },
    #[error("Docker-Content-Digest: {0}")]
    StatedDigest(ParseDigestError),
    #[error("a manifest has at most 4 MiB")]
    LongManifest,
    #[error("no manifest: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the index has no image for {}/{}", std::env::consts::OS, std::env::consts::ARCH)]
    NoPlatform,
    #[error("the index names another index")]
    NestedIndex,
}

impl Cause {
    /// The door's refusal, in the words of its OCI error if the body is one.
    pub(super) fn refused(status: StatusCode, body: &str) -> Self {
        Self::Refused { status, message: message(body) }
    }
}

/// `CODE: message` of an OCI error body; the text itself where it is none.
pub(super) fn message(body: &str) -> String {
    #[derive(Deserialize)]
    struct Body {
        errors: Vec<OciError>,
    }
    #[derive(Deserialize)]
    struct OciError {
        code: String,
        #[serde(default)]
        message: String,
    }
    match serde_json::from_str::<Body>(body) {
        Ok(Body { errors }) => {
            let lines = errors.iter().map(|OciError { code, message }| format!("{code}: {message}"));
            lines.collect::<Vec<_>>().join("; ")
        }
        Err(_) if body.trim().is_empty() => "(no body)".to_owned(),
        Err(_) => body.trim().chars().take(MAX_MESSAGE_CHARS).collect(),
    }
}

/// Of a body that is no OCI error.
const MAX_MESSAGE_CHARS: usize = 300;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_the_doors_own_words() {
        let body = r#"{"errors":[{"code":"UNAVAILABLE","message":"no seed answers"}]}"#;
        let error =
            Subject::Blob(Digest::of(b"")).because(Cause::refused(StatusCode::SERVICE_UNAVAILABLE, body));
        let text = error.to_string();
        assert!(text.starts_with("blob sha256:e3b0c4"), "{text}");
        assert!(
            text.ends_with("the door answers 503 Service Unavailable: UNAVAILABLE: no seed answers"),
            "{text}"
        );
        assert_eq!(message(" <html> "), "<html>");
        assert_eq!(message(""), "(no body)");
    }
}
