//! The object store behind the registry: a second host, whose URLs carry their permission
//! (§2.2).

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use flotilla_proto::Digest;
use hyper::header::AUTHORIZATION;
use hyper::{Method, StatusCode};

use super::answer::{Answer, etag};
use super::behaviour::Behaviour;
use super::call::Call;
use super::content::Content;
use super::ranges;
use crate::access_log::STORED_BLOBS;

/// Makes URLs of blobs and judges them.
#[derive(Debug)]
pub(super) struct SignedUrls {
    key: [u8; 32],
    /// Name and, unless it is 443, port of the object store.
    authority: String,
}

impl SignedUrls {
    pub(super) fn new(authority: String) -> Self {
        let mut key = [0; 32];
        fastrand::fill(&mut key);
        Self { key, authority }
    }

    /// A URL that is good for one method and for `life`, in whole seconds.
    pub(super) fn sign(&self, method: &Method, digest: Digest, from: SystemTime, life: Duration) -> String {
        let hex = digest.hex();
        let path = format!("{STORED_BLOBS}{}/{hex}/data", &hex[..2]);
        let query = format!("AWSAccessKeyId=harbor&Expires={}", seconds(from) + life.as_secs());
        let signature = self.signature(method, &path, &query);
        format!("https://{}{path}?{query}{SIGNATURE}{signature}", self.authority)
    }

    fn signature(&self, method: &Method, path: &str, query: &str) -> String {
        let signed = format!("{method}\n{path}\n{query}");
        Digest::of(&[&self.key[..], signed.as_bytes()].concat()).hex()
    }

    fn allows(&self, call: &Call) -> bool {
        let Some((query, signature)) = call.query.split_once(SIGNATURE) else { return false };
        signature == self.signature(&call.method, &call.path, query)
    }
}

/// Answers a request to the object store.
pub(super) fn answer(call: &Call, content: &Content, urls: &SignedUrls, behaviour: &Behaviour) -> Answer {
    if call.headers.contains_key(AUTHORIZATION) {
        let message = "Only one auth mechanism allowed; only the Signature query string parameter or the \
                       Authorization header should be specified";
        return error(StatusCode::BAD_REQUEST, "InvalidArgument", message);
    }
    if !urls.allows(call) || call.is_head() && behaviour.storage_forbids_head {
        let message = "The request signature we calculated does not match the signature you provided.";
        return error(StatusCode::FORBIDDEN, "SignatureDoesNotMatch", message);
    }
    if expires_at(call).is_none_or(|end| end <= seconds(call.at)) {
        return error(StatusCode::FORBIDDEN, "AccessDenied", "Request has expired");
    }
    let digest = digest(call).and_then(|digest| Some((digest, content.stored_blob(digest)?)));
    let Some((digest, blob)) = digest else {
        return error(StatusCode::NOT_FOUND, "NoSuchKey", "The specified key does not exist.");
    };
    let answer = ranges::serve(call, call.header("range"), blob, &etag(digest));
    Answer { digest: Some(digest), ..answer.with("etag", &etag(digest)).with("server", "AmazonS3") }
}

fn expires_at(call: &Call) -> Option<u64> {
    call.query_value("Expires")?.parse().ok()
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn digest(call: &Call) -> Option<Digest> {
    let hex = call.path.strip_prefix(STORED_BLOBS)?.strip_suffix("/data")?.split('/').nth(1)?;
    format!("sha256:{hex}").parse().ok()
}

fn error(status: StatusCode, code: &str, message: &str) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Answer { status, ..Answer::ok("application/xml", body) }
}

const SIGNATURE: &str = "&Signature=";
